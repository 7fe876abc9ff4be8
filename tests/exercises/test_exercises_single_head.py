"""Chapter 4: each wrong answer is told its own mistake."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.exercises import single_head as checks


def test_the_loss_by_position_is_drawn_for_two_models(solve: Callable[..., dict[str, Any]]) -> None:
    idx, targets = torch.randint(8, (2, 5, 8))
    names = solve("ex-04-3", leaky=nn.Embedding(8, 8), sound=nn.Embedding(8, 8), idx_noise=idx, targets_noise=targets)
    assert {name: len(curve) for name, curve in names["curves"].items()} == {"leaky": 8, "sound": 8}


def head(
    x: Tensor,
    w_query: Tensor,
    w_key: Tensor,
    w_value: Tensor,
    *,
    scale: float | None = None,
    hidden: float = -math.inf,
    upper: bool = False,
    dim: int = -1,
    after: bool = False,
    swap: bool = False,
) -> Tensor:
    """A head that can be made wrong."""
    q, k, v = x @ w_query, x @ w_key, x @ w_value
    scores = q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
    scores = scores.transpose(-2, -1) if swap else scores
    T = x.size(1)
    future = torch.ones(T, T).tril(-1) == 1 if upper else torch.ones(T, T).triu(1) == 1
    if after:
        return scores.softmax(dim).masked_fill(future, 0) @ v
    return scores.masked_fill(future, hidden).softmax(dim).nan_to_num() @ v


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("scale is missing", lambda x, q, k, v: head(x, q, k, v, scale=1.0)),
        ("n_embd, 6: it must come from head_size, 3", lambda x, q, k, v: head(x, q, k, v, scale=x.size(-1) ** -0.5)),
        (
            "mask is missing",
            lambda x, q, k, v: ((x @ q) @ (x @ k).mT * q.size(-1) ** -0.5).softmax(-1) @ (x @ v),
        ),
        ("upper triangle", lambda x, q, k, v: head(x, q, k, v, upper=True)),
        ("mask comes after the softmax", lambda x, q, k, v: head(x, q, k, v, after=True)),
        ("over the queries, dim=-2", lambda x, q, k, v: head(x, q, k, v, dim=-2)),
        ("set to 0", lambda x, q, k, v: head(x, q, k, v, hidden=0.0)),
        ("exchanged", lambda x, q, k, v: head(x, q, k, v, swap=True)),
        ("query is used as the key", lambda x, q, k, v: head(x, q, q, v)),
        ("key is used as the query", lambda x, q, k, v: head(x, k, k, v)),
        ("keys are mixed", lambda x, q, k, v: head(x, q, k, k)),
        ("unmixed", lambda x, q, k, v: x @ v),
        (r"shape is \(1, 4, 4\)", lambda x, q, k, v: torch.ones(x.size(0), x.size(1), x.size(1))),
        (r"shape is \(1, 4, 6\): it must be \(1, 4, 3\)", lambda x, q, k, v: x),
        ("stops with an error", lambda x, q, k, v: (x @ q) @ (x @ k)),
        (r"at \(0, 0, 0\) stands", lambda x, q, k, v: head(x, q, k, v) + 1),
    ],
)
def test_wrong_heads(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_head(wrong)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("positions are missing", lambda idx, tokens, positions: tokens[idx]),
        (
            "symbols are missing",
            lambda idx, tokens, positions: positions[: idx.size(1)].expand(*idx.shape, tokens.size(1)),
        ),
        ("looked up by symbol", lambda idx, tokens, positions: tokens[idx] + positions[idx]),
        ("row 0 of the table", lambda idx, tokens, positions: tokens[idx] + positions[0]),
        ("from the end of the table", lambda idx, tokens, positions: tokens[idx] + positions[-idx.size(1) :]),
        ("start at 1", lambda idx, tokens, positions: tokens[idx] + positions.roll(-1, 0)[: idx.size(1)]),
        ("run backwards", lambda idx, tokens, positions: tokens[idx] + positions[: idx.size(1)].flip(0)),
        ("needs the first 4 rows", lambda idx, tokens, positions: tokens[idx] + positions),
        ("len.idx. is B", lambda idx, tokens, positions: tokens[idx] + positions[: len(idx)]),
        (
            "side by side",
            lambda idx, tokens, positions: torch.cat(
                [tokens[idx], positions[: idx.size(1)].expand(*idx.shape, tokens.size(1))], -1
            ),
        ),
        (r"shape is \(2, 5\)", lambda idx, tokens, positions: idx.float()),
    ],
)
def test_wrong_embeddings(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_embed(wrong)


def each(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("one number for everything", lambda logits, targets: each(logits, targets).mean()),
        ("one number for each row of the batch", lambda logits, targets: each(logits, targets).mean(1)),
        ("on its own", each),
        ("summed", lambda logits, targets: each(logits, targets).sum(0)),
        ("softmax before", lambda logits, targets: each(logits.softmax(-1), targets).mean(0)),
        ("bits, not nats", lambda logits, targets: each(logits, targets).mean(0) / math.log(2)),
        ("sign is wrong", lambda logits, targets: -each(logits, targets).mean(0)),
        ("repeated", lambda logits, targets: each(logits, targets).mean().expand(targets.size(1))),
        ("cuts the row", lambda logits, targets: each(logits, targets).flatten().view(targets.mT.shape).mean(1)),
        ("stops with an error", lambda logits, targets: F.cross_entropy(logits, targets, reduction="none")),
    ],
)
def test_wrong_losses(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_loss_by_position(wrong)
