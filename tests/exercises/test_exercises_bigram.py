"""Chapter 2: each wrong answer is told its own mistake."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.exercises.bigram import check_mean_surprise, check_to_probabilities, check_write


def in_place(counts: Tensor, extra: float) -> Tensor:
    counts += extra or 1
    return counts / counts.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("keepdim=True is missing", lambda counts, extra: (counts + extra) / (counts + extra).sum(dim=1)),
        ("columns add up to 1", lambda counts, extra: (counts + extra) / (counts + extra).sum(dim=0, keepdim=True)),
        ("whole table", lambda counts, extra: (counts + extra) / (counts + extra).sum()),
        ("without extra", lambda counts, extra: (counts + extra) / counts.sum(dim=1, keepdim=True)),
        ("extra was not added", lambda counts, extra: counts / counts.sum(dim=1, keepdim=True)),
        ("not scores", lambda counts, extra: (counts + extra).softmax(dim=1)),
        ("changes a tensor it was given", in_place),
        ("return a tensor", lambda counts, extra: counts.tolist()),
        ("shape is", lambda counts, extra: (counts + extra)[0]),
        ("add up to", lambda counts, extra: counts * 0 + 0.7),
        ("you say", lambda counts, extra: counts * 0 + 1 / counts.size(1)),
    ],
)
def test_wrong_probabilities_are_named(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_to_probabilities(wrong)


def picked(table: Tensor, targets: Tensor) -> Tensor:
    return table.gather(-1, targets[..., None]).mean()


def naive(logits: Tensor, targets: Tensor) -> Tensor:
    return -picked((logits.exp() / logits.exp().sum(dim=-1, keepdim=True)).log(), targets)


def unflattened(logits: Tensor, targets: Tensor) -> Any:
    if logits.size(1) == logits.size(2):
        return F.cross_entropy(logits, targets)  # takes the positions for the classes
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("the sign", lambda logits, targets: picked(logits.log_softmax(-1), targets)),
        (
            "the sum over all",
            lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"),
        ),
        ("of a row", lambda logits, targets: -picked(logits.log_softmax(-1), targets) * targets.size(1)),
        ("bits", lambda logits, targets: -picked(logits.log_softmax(-1), targets) / math.log(2)),
        ("over the positions", lambda logits, targets: -picked(logits.log_softmax(1), targets)),
        ("over the rows", lambda logits, targets: -picked(logits.log_softmax(0), targets)),
        (
            "once is enough",
            lambda logits, targets: F.cross_entropy(logits.softmax(-1).flatten(0, 1), targets.flatten()),
        ),
        ("mean probability: the mean", lambda logits, targets: picked(logits.softmax(-1), targets)),
        ("logarithm first", lambda logits, targets: -picked(logits.softmax(-1), targets).log()),
        ("pick the one", lambda logits, targets: -logits.log_softmax(-1).mean()),
        ("log_softmax", naive),
        ("you say", unflattened),
        ("one number", lambda logits, targets: -logits.log_softmax(-1)),
        ("return a number", lambda logits, targets: "1.1"),
    ],
)
def test_a_wrong_surprise_is_named(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_mean_surprise(wrong)


def writing(draw: Callable[..., Any], *, begin: bool = True, move: bool = True, more: int = 0) -> Callable[..., Any]:
    """A loop that writes with `draw`, with the start left out, stuck at it, or of the wrong length."""

    def write(table: Tensor, start: int, n: int) -> list[int]:
        ids = [start]
        for _ in range(n + more):
            ids.append(int(draw(table, ids[-1] if move else start)))
        return ids if begin else ids[1:]

    return write


def sampled(table: Tensor, i: int) -> Tensor:
    return torch.multinomial(table[i].softmax(0), 1)


def test_an_error_that_is_not_the_softmax_is_not_called_so() -> None:
    with pytest.raises(RuntimeError, match="Tensors must have same number of dimensions"):
        check_write(
            lambda table, start, n: torch.cat([torch.tensor([start]), table[start].softmax(0).multinomial(1)[None]])
        )


def test_a_number_of_numpy_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    check_mean_surprise(lambda logits, targets: F.cross_entropy(logits.flatten(0, 1), targets.flatten()).numpy()[()])
    assert "Right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("itself is missing", writing(sampled, begin=False)),
        ("always drawn from row", writing(sampled, move=False)),
        ("the start and", writing(sampled, more=1)),
        ("not the column", writing(lambda table, i: torch.multinomial(table[:, i].softmax(0), 1))),
        ("do not take the best", writing(lambda table, i: table[i].argmax())),
        ("softmax is missing", writing(lambda table, i: torch.multinomial(table[i], 1))),
        ("is the softmax missing", writing(lambda table, i: torch.multinomial(table[i].clamp_min(0) + 1e-9, 1))),
        ("0 came in", writing(lambda table, i: torch.multinomial((2 * table[i]).softmax(0), 1))),
        ("must be", writing(lambda table, i: 2 if i == 0 else 0)),
        ("return a list", lambda table, start, n: "abc"),
        ("one flat list", lambda *given: [writing(sampled)(*given)]),
    ],
)
def test_wrong_writing_is_named(message: str, wrong: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=message):
        check_write(wrong)
