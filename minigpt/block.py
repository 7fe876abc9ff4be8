"""The block (chapter 6).

First the positions talk to each other (attention), then each thinks by itself (an MLP). Both only add to what is
already there, so a deep stack stays trainable; both read a normalized copy (pre-norm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from minigpt.attention import MultiHeadAttention
from minigpt.dropout import Dropout

if TYPE_CHECKING:
    from minigpt.generation import LayerCache


class FeedForward(nn.Module):
    """A two-layer MLP, four times as wide inside, applied to each position alone (Vaswani et al. 2017, section 3.3).

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)
    """

    def __init__(self, n_embd: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.ReLU(),
            nn.Linear(4 * n_embd, n_embd),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Attention and MLP, each on a normalized copy of x and added back to it.

    Pre-norm (Xiong et al. 2020); the original transformer normalized after adding (Vaswani et al. 2017, section 3.1).

    Shapes:
        x: (B, T, n_embd)
        returns: (B, T, n_embd)
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(n_embd)
        self.attention = MultiHeadAttention(n_embd, n_head, dropout)
        self.norm2 = nn.LayerNorm(n_embd)
        self.feed_forward = FeedForward(n_embd, dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cache)
        return x + self.feed_forward(self.norm2(x))

    def attention_weights(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> where each head looks, (B, n_head, T, T), before dropout."""
        return self.attention.weights(self.norm1(x))
