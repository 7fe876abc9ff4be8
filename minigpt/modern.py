"""The modern GPT (chapter 10).

The plan of `gpt.py`, with every piece replaced by what people found to train better since: norms without parameters,
positions as rotations, normalized queries and keys, a squared ReLU, branches that start at zero, and some of the symbol
before in every symbol. Read the two files side by side: what is not here (`attention`) is the same in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.attention import attend, attention_weights
from minigpt.dropout import Dropout
from minigpt.gpt import GPT, GPTConfig

if TYPE_CHECKING:
    from minigpt.generation import KVCache, LayerCache

BASE = 1024.0  # the slowest pair of a head turns this many times more slowly than the fastest


def rms_norm(x: Tensor) -> Tensor:
    """Scale each vector to a root mean square of 1: LayerNorm without mean, scale and shift (Zhang and Sennrich 2019).

    Shapes:
        x: (..., C)
        returns: (..., C)
    """
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, start: int = 0) -> Tensor:
    """Turn each pair of numbers of a query or key by an angle that grows with its position (Su et al. 2021).

    The product of two rotated vectors depends on how far apart they stand, not on where. Pair i holds the numbers i and
    i + head_size / 2; the first pair turns by one radian a position, each later one more slowly.

    Shapes:
        x: (..., T, head_size), the first at position `start`; head_size is even
        returns: (..., T, head_size)
    """
    T, half = x.size(-2), x.size(-1) // 2
    speeds = BASE ** -torch.linspace(0, 1, half, device=x.device)  # (half,) radians a position
    angles = torch.arange(start, start + T, device=x.device)[:, None] * speeds  # (T, half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.split(half, dim=-1)  # each (..., T, half)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class ModernAttention(nn.Module):
    """Many heads whose queries and keys are normalized (Henry et al. 2020), then rotated; no biases.

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)
    """

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head, self.head_size = n_head, n_embd // n_head
        self.query = nn.Linear(n_embd, n_embd, bias=False)
        self.key = nn.Linear(n_embd, n_embd, bias=False)
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.proj = nn.Linear(n_embd, n_embd, bias=False)

    def project(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, n_embd), the first at position `start`, -> q, k, v, each (B, n_head, T, head_size)."""
        split_heads = (*x.shape[:2], self.n_head, self.head_size)
        q, k, v = (part(x).view(split_heads).transpose(1, 2) for part in (self.query, self.key, self.value))
        return rotate(rms_norm(q), start), rotate(rms_norm(k), start), v

    def weights(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> weights (B, n_head, T, T)."""
        q, k, _ = self.project(x)
        return attention_weights(q, k)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        q, k, v = self.project(x, start=cache.length if cache is not None else 0)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, n_head, T_k, head_size): keys are kept as they were rotated
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class ModernFeedForward(nn.Module):
    """The MLP with a squared ReLU (So et al. 2021) and no biases.

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.up = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.down = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class ModernBlock(nn.Module):
    """Attention and MLP, each on a normalized copy of x and added back to it; dropout on what is added, nowhere else.

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = ModernAttention(n_embd, n_head)
        self.feed_forward = ModernFeedForward(n_embd)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cache))
        return x + self.dropout(self.feed_forward(rms_norm(x)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> where each head looks, (B, n_head, T, T)."""
        return self.attention.weights(rms_norm(x))


class ModernGPT(GPT):
    """A decoder-only transformer with rotary positions, normalized queries and keys, RMSNorm and squared ReLU.

    It keeps every promise of `GPT` and has the same config; only the pieces differ. Positions are not added to the
    symbols but turn the queries and keys. Every branch and the output layer start at zero: a fresh model guesses all
    symbols alike, and each block begins by passing its input on (Zhang et al. 2019). Each symbol gets a learned share
    of the one before, so that pairs are known before any head has looked (Peng et al. 2023).

    Shapes:
        idx: (B, T) int64, 1 <= T <= block_size
        returns: logits (B, T, vocab_size)

    Raises:
        ValueError: n_embd / n_head, the size of a head, is odd: its numbers are turned in pairs.
    """

    def __init__(self, config: GPTConfig) -> None:
        super(GPT, self).__init__()  # the promise of a GPT, with pieces of its own
        if config.n_embd // config.n_head % 2:
            raise ValueError(f"n_embd / n_head is {config.n_embd // config.n_head}: rotary positions need an even size")
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.smear = nn.Parameter(torch.zeros(config.n_embd))  # the share of the symbol before, number by number
        self.blocks = nn.ModuleList(
            [ModernBlock(config.n_embd, config.n_head, config.dropout) for _ in range(config.n_layer)]
        )
        self.norm = nn.RMSNorm(config.n_embd, elementwise_affine=False)  # type: ignore[assignment]
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialize()

    def embed(self, idx: Tensor, start: int = 0, before: Tensor | None = None) -> Tensor:
        """ids (B, T), the first at `start` after `before` (B, 1) -> vectors (B, T, n_embd): each symbol and a share
        of the one before it; where it stands is for the attention to know.

        Raises:
            ValueError: as `GPT.embed`.
        """
        self.positions(idx, start)
        x = self.token_embedding(idx)
        first = torch.zeros_like(x[:, :1]) if before is None else self.token_embedding(before)  # (B, 1, n_embd)
        return x + self.smear * torch.cat([first, x[:, :-1]], dim=1)

    def forward(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        x = self.embed(idx, cache.length if cache else 0, cache.last if cache else None)  # (B, T, n_embd)
        if cache:
            cache.last = idx[:, -1:]
        for i, block in enumerate(self.blocks):
            x = block(x, cache.layers[i] if cache else None)
        return self.head(self.norm(x))  # (B, T, vocab_size)

    def _initialize(self) -> None:
        """Zeros for the head and the last matrix of each branch; std 1 / sqrt(n_embd) for the rest of a block."""
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        for name, weight in self.named_parameters():
            if name.endswith(("proj.weight", "down.weight", "head.weight")):
                nn.init.zeros_(weight)
            elif name.startswith("blocks."):
                bound = (3 / self.config.n_embd) ** 0.5
                nn.init.uniform_(weight, -bound, bound)
