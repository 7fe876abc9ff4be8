"""Self-attention (chapters 3, 4 and 5).

Every position asks a question (query), every position offers a label (key) and a content (value). The better a key
answers a query, the more of its value is mixed in; a mask keeps the future out. First the weights, then one head, then
many heads in one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.dropout import Dropout, dropout

if TYPE_CHECKING:
    from minigpt.generation import LayerCache


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """How much each query takes from each key: softmax(q k^T / sqrt(head_size)), the future masked out.

    The queries are the last T_q of the T_k positions, so query i may see the keys up to T_k - T_q + i.
    (Vaswani et al. 2017, section 3.2.1 and 3.2.3.)

    Shapes:
        q: (..., T_q, head_size)
        k: (..., T_k, head_size), T_k >= T_q
        returns: (..., T_q, T_k); every row adds up to 1

    Raises:
        ValueError: the head sizes differ, or there are more queries than keys.
    """
    if q.size(-1) != k.size(-1):
        raise ValueError(f"q has head_size {q.size(-1)} and k has {k.size(-1)}: they must be equal")
    mask = causal_mask(q.size(-2), k.size(-2), q.device)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)  # (..., T_q, T_k); in a long text q is the smaller to scale
    return scores.masked_fill_(~mask, float("-inf")).softmax(dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
    """attention_weights(q, k) @ v, with dropout p on the weights, in the faster of two ways.

    That is torch's fused function; but on a CPU, with dropout or in bfloat16, the plain products train faster. They
    need more memory: they keep all the weights.

    Shapes:
        q: (..., T_q, head_size)
        k, v: (..., T_k, head_size), T_k >= T_q
        returns: (..., T_q, head_size)

    Raises:
        ValueError: there are more queries than keys.
    """
    if v.device.type == "cpu" and (p > 0 or v.dtype == torch.bfloat16):
        return dropout(attention_weights(q, k), p) @ v
    T_q, T_k = q.size(-2), k.size(-2)
    mask = None if T_q in (1, T_k) else causal_mask(T_q, T_k, q.device)  # one query may see every key
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, is_causal=T_q == T_k)


def causal_mask(T_q: int, T_k: int, device: torch.device | None = None) -> Tensor:
    """Which keys each query may see: (T_q, T_k) bool, True at and below the diagonal that ends in the last corner.

    Raises:
        ValueError: T_q > T_k.
    """
    if T_q > T_k:
        raise ValueError(f"there are {T_q} queries but only {T_k} keys: the queries must be the last of the positions")
    return torch.ones(T_q, T_k, dtype=torch.bool, device=device).tril(T_k - T_q)


class Head(nn.Module):
    """One head of causal self-attention (Vaswani et al. 2017, section 3.2.1).

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, head_size)
    """

    def __init__(self, n_embd: int, head_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.dropout = Dropout(dropout)

    def weights(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> weights (B, T, T), before dropout: row t says where position t looks."""
        return attention_weights(self.query(x), self.key(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.weights(x)) @ self.value(x)  # (B, T, T) @ (B, T, head_size)


class MultiHeadAttention(nn.Module):
    """Several heads side by side, computed as one batch (Vaswani et al. 2017, section 3.2.2).

    Each head has its own slice of one large projection, and reads the whole of x. The heads' outputs are laid next to
    each other and mixed by a last projection.

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)

    Raises:
        ValueError: n_embd is not divisible by n_head.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        if n_head < 1 or n_embd % n_head:
            raise ValueError(f"n_embd is {n_embd} and n_head {n_head}: n_embd must be divisible by n_head")
        self.n_head, self.head_size = n_head, n_embd // n_head
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.proj = nn.Linear(n_embd, n_embd)
        self.dropout = Dropout(dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, n_embd) -> q, k, v, each (B, n_head, T, head_size)."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).split(self.n_head * self.head_size, dim=-1)  # each (B, T, n_embd)
        split_heads = (B, T, self.n_head, self.head_size)
        q, k, v = (part.view(split_heads).transpose(1, 2) for part in (q, k, v))
        return q, k, v

    def weights(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> weights (B, n_head, T, T), before dropout."""
        q, k, _ = self.project(x)
        return attention_weights(q, k)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        q, k, v = self.project(x)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, n_head, T_k, head_size): all positions so far
        out = attend(q, k, v, self.dropout.p if self.training else 0.0)
        return self.dropout(self.proj(out.transpose(1, 2).flatten(2)))  # (B, T, n_embd): the heads side by side
