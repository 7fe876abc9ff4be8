"""The smallest language model (chapter 2).

A bigram model guesses the next symbol from the current one alone: a table with one row of scores for each symbol.
The loss that scores its guesses, and those of every later model, is here too.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """The promise that every model of the book keeps, so that training and sampling are written once.

    `model(idx)` takes ids (B, T) and returns logits (B, T, vocab_size), always of that shape; `model.config` tells
    `vocab_size` and `block_size`. A module of your own that keeps it needs no other base class than `nn.Module`.
    """

    config: Any
    supports_cache = False  # whether model(idx, cache=...) works too


@dataclass(frozen=True)
class BigramConfig:
    """Sizes of a bigram model. It looks back one symbol; `block_size` only says how long its training rows are."""

    vocab_size: int
    block_size: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least 1")


class BigramLanguageModel(LanguageModel):
    """A table of logits: row i scores every symbol that may follow symbol i.

    The table starts as N(0, 1) noise, torch's default for an embedding.

    Raises:
        ValueError: a size is not a whole number of at least 1.
    """

    def __init__(self, vocab_size: int, block_size: int = 8) -> None:
        super().__init__()
        self.config = BigramConfig(vocab_size, block_size)
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        """ids (B, T) -> logits (B, T, vocab_size); T may be any length."""
        return self.table(idx)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean surprise, in nats per symbol, at the symbols that really came next.

    Shapes:
        logits: (B, T, vocab_size), before any softmax: cross-entropy takes the log-softmax itself
        targets: (B, T)
        returns: () scalar
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, vocab_size) against (B*T,)
