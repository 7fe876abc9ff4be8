"""The full GPT (chapter 7).

Symbols and positions become vectors, a stack of blocks refines them, and a last layer turns each vector into scores
for the next symbol.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minigpt.bigram import LanguageModel
from minigpt.block import Block
from minigpt.dropout import Dropout

if TYPE_CHECKING:
    from minigpt.generation import KVCache


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT. The defaults are the full model of the book, with 10,788,929 parameters.

    Raises:
        ValueError: names the field, its value and the rule it breaks.
    """

    vocab_size: int = 65
    block_size: int = 256  # the longest context, in symbols
    n_embd: int = 384
    n_head: int = 6
    n_layer: int = 6
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_embd", "n_head", "n_layer"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}: it must be divisible by n_head, which is {self.n_head}")
        if type(self.dropout) not in (int, float) or not (math.isfinite(self.dropout) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout is {self.dropout!r}: it must be a number from 0 up to, but not including, 1")


class GPT(LanguageModel):
    """A decoder-only transformer (Radford et al. 2019) with learned positions, pre-norm blocks and ReLU.

    Shapes:
        idx: (B, T) int64, 1 <= T <= block_size
        returns: logits (B, T, vocab_size)
    """

    supports_cache = True

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            [Block(config.n_embd, config.n_head, config.dropout) for _ in range(config.n_layer)]
        )
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)
        self.apply(_initialize)

    def embed(self, idx: Tensor, start: int = 0) -> Tensor:
        """ids (B, T), the first at position `start`, -> vectors (B, T, n_embd): what it is plus where it stands.

        Raises:
            ValueError: idx is not (B, T), or reaches past block_size.
        """
        positions = self.positions(idx, start)
        return self.dropout(self.token_embedding(idx) + self.position_embedding(positions))

    def positions(self, idx: Tensor, start: int) -> Tensor:
        """Where ids (B, T) stand, the first at position `start`: (T,); errors as in `embed`."""
        if idx.dim() != 2:
            raise ValueError(f"idx has shape {tuple(idx.shape)}: it must be (B, T); add a batch axis with idx[None]")
        end = start + idx.size(1)
        if end > self.config.block_size:
            raise ValueError(
                f"the sequence has {end} symbols, but block_size is {self.config.block_size}: "
                f"keep the last ones, idx[:, -{self.config.block_size}:]"
            )
        return torch.arange(start, end, device=idx.device)

    def forward(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        x = self.embed(idx, start=cache.length if cache else 0)  # (B, T, n_embd)
        for i, block in enumerate(self.blocks):
            x = block(x, cache.layers[i] if cache else None)
        return self.head(self.norm(x))  # (B, T, vocab_size)

    def attention(self, idx: Tensor) -> Tensor:
        """Where every head of every layer looks: ids (B, T) -> weights (n_layer, B, n_head, T, T), without dropout."""
        with evaluating(self):
            x, weights = self.embed(idx), []
            for block in self.blocks:
                weights.append(block.attention_weights(x))  # type: ignore[operator]
                x = block(x)
            return torch.stack(weights)

    def extra_repr(self) -> str:
        return f"{self.config}, {sum(p.numel() for p in self.parameters()):,} parameters"


def _initialize(module: nn.Module) -> None:
    """Normal with std 0.02 for every matrix and zeros for every bias (Radford et al. 2018, section 4.1)."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and gradients off inside the `with`; afterwards every module is in the mode it was found in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
