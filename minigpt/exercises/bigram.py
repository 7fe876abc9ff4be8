"""Checks of chapter 2: probabilities, surprise, and drawing."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from minigpt.exercises import attempt, check, close, describe, recognize, right


@check
def check_to_probabilities(function: Callable[[Tensor, float], Tensor]) -> None:
    """Turn counts of pairs into probabilities of what follows."""
    for counts, extra in (
        (torch.tensor([[3.0, 1.0], [0.0, 4.0]]), 0.0),
        (torch.tensor([[0.0, 2.0, 6.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), 1.0),
        (torch.tensor([[9.0, 0.0], [0.0, 0.0]]), 0.5),
    ):
        table = attempt(function, counts, extra)
        if table is None:
            return
        assert isinstance(table, Tensor), f"return a tensor, not {type(table).__name__}"
        assert table.shape == counts.shape, f"the shape is {tuple(table.shape)}, it must stay {tuple(counts.shape)}"
        raised = counts + extra
        answer = raised / raised.sum(dim=1, keepdim=True)
        case = f"counts {counts.int().tolist()}, extra {extra:g}"
        wrong = {
            "the row sums were laid along the columns: keepdim=True is missing": raised / raised.sum(dim=1),
            "the columns add up to 1: divide each row by its sum (dim=1)": raised / raised.sum(dim=0, keepdim=True),
            "the whole table adds up to 1: each row must, since the first symbol is known": raised / raised.sum(),
            "divided by the sums of the counts without extra: above 1 in all": (
                raised / counts.sum(dim=1, keepdim=True)
            ),
            "extra was not added, so some probabilities are 0": counts / counts.sum(dim=1, keepdim=True),
            "a softmax of the counts: these are counts, not scores; divide by their sum": raised.softmax(dim=1),
        }
        recognize(table, answer, wrong, f"{case}: ")
        sums = table.sum(dim=1)
        assert close(sums, torch.ones_like(sums)), f"{case}: the rows add up to {_short(sums)}, not to 1"
        assert close(table, answer), f"{case}: you say {_short(table)}, it is {_short(answer)}"
    right("each row adds up to 1, and nothing is impossible.")


@check
def check_mean_surprise(function: Callable[[Tensor, Tensor], Tensor | float]) -> None:
    """The mean of -ln p over all positions, from logits (B, T, C)."""
    generator = torch.Generator().manual_seed(0)
    for B, T, C, size in ((2, 3, 4, 2.0), (1, 1, 3, 1.0), (3, 4, 4, 2.0), (2, 5, 65, 1.0)):
        logits = size * torch.randn(B, T, C, generator=generator)
        targets = torch.randint(C, (B, T), generator=generator)
        value = _number(attempt(function, logits, targets), f"logits ({B}, {T}, {C})")
        if value is None:
            return
        picked = targets[..., None]

        def mean(table: Tensor, picked: Tensor = picked) -> Tensor:
            return -table.gather(-1, picked).mean()

        log_p = logits.log_softmax(dim=-1)
        wrong = {
            "the sign: -ln p is positive": -mean(log_p),
            "the sum over all positions: take the mean": mean(log_p) * B * T,
            "the sum over the positions of a row: take the mean over those, too": mean(log_p) * T,
            "bits: use the natural logarithm": mean(log_p) / math.log(2),
            "the softmax runs over the positions (dim=1): take the symbols, dim=-1": mean(logits.log_softmax(dim=1)),
            "the softmax runs over the rows (dim=0): take the symbols, dim=-1": mean(logits.log_softmax(dim=0)),
            "a softmax on top of a softmax: once is enough": mean(log_p.exp().log_softmax(dim=-1)),
            "this is the mean probability: the mean of -ln p is wanted": -mean(log_p.exp()),
            "-ln of the mean probability: take the logarithm first, then the mean": -mean(log_p.exp()).neg().log(),
            "the mean over all symbols: pick the one that came (gather)": -log_p.mean(),
        }
        recognize(torch.tensor(value), mean(log_p), wrong, f"logits ({B}, {T}, {C}): ")
        wanted = mean(log_p).item()
        assert math.isclose(value, wanted, abs_tol=1e-4), (
            f"logits ({B}, {T}, {C}): you say {value:.4f}, not {wanted:.4f}"
        )
    huge = torch.tensor([[[1000.0, 0.0]]])
    value = _number(attempt(function, huge, torch.tensor([[1]])), "scores of 1000 and 0")
    assert value is not None
    assert math.isfinite(value), (
        f"scores of 1000 and 0 give {value}: exp(1000) is too large for a number, and exp(-1000) is 0, which has no "
        "logarithm; use log_softmax"
    )
    assert math.isclose(value, 1000.0, rel_tol=1e-4), f"scores of 1000 and 0: the surprise is 1000, not {value:.1f}"
    right("the mean of -ln p, over the right axis, and safe for large scores.")


@check
def check_write(function: Callable[[Tensor, int, int], Sequence[int]]) -> None:
    """Draw a text from a table of logits."""
    circle = torch.full((3, 3), -50.0)
    circle[0, 1] = circle[1, 2] = circle[2, 0] = 50.0  # 0, 1, 2, 0, 1, 2 …
    for start, n in ((0, 5), (2, 3), (1, 0)):
        case = f"a table that goes round 0, 1, 2, from {start}, n = {n}"
        try:
            ids = attempt(function, circle, start, n)
        except RuntimeError as error:
            if "probabilit" not in str(error):  # torch.multinomial names what it was given
                raise
            raise AssertionError(
                f"{case}: torch refused ({error}): negative weights? The softmax is missing"
            ) from error
        if ids is None:
            return
        ids = _ids(ids, case)
        wanted = [(start + i) % 3 for i in range(n + 1)]
        assert not (n and ids == wanted[1:]), f"{case}: {start} itself is missing: return all n + 1 ids"
        assert len(ids) == n + 1, f"{case}: {len(ids)} ids, there must be {n + 1}: the start and {n} more"
        stuck = n > 1 and set(ids[1:]) == {(start + 1) % 3}
        assert not stuck, f"{case}: always drawn from row {start}: the next row is that of the id drawn last"
        backwards = n > 1 and ids == [(start - i) % 3 for i in range(n + 1)]
        assert not backwards, f"{case}: went round backwards: use the row of an id, table[id], not the column"
        assert ids == wanted, f"{case}: {ids}, it must be {wanted}"
    _check_shares(function)
    right("each id is drawn from the row of the one before, with the right probabilities.")


def _check_shares(function: Callable[[Tensor, int, int], Sequence[int]]) -> None:
    table = torch.tensor([18.0, 2.0]).log().expand(2, 2)  # 0 with probability 0.9, whatever came before
    case = "a table that says 0 with probability 0.9"
    share, shifted = (_ids(function(scores, 0, 2000), case)[1:].count(0) / 2000 for scores in (table, table + 3))
    assert min(share, shifted) < 1, f"{case}: 0 came always: draw, do not take the best"
    assert abs(share - shifted) < 0.08, (
        f"{case}: 0 came in {share:.0%} of 2000 draws, and with all scores 3 higher in {shifted:.0%}: "
        "the same probabilities, so is the softmax missing?"
    )
    assert abs(share - 0.9) < 0.05, f"{case}: 0 came in {share:.0%} of 2000 draws"


def _number(value: Any, case: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        assert value.numel() == 1, f"{case}: a tensor of shape {tuple(value.shape)}; the mean is one number"
    assert isinstance(value, Real | Tensor), f"{case}: return a number, not {type(value).__name__}"
    return float(value)


def _ids(ids: Any, case: str) -> list[int]:
    assert isinstance(ids, list | tuple | Tensor), f"{case}: return a list of ids, not {type(ids).__name__}"
    if isinstance(ids, Tensor):
        assert ids.dim() == 1, f"{case}: ids of shape {tuple(ids.shape)}; return one row of n + 1 ids"
    odd = [i for i in ids if not (isinstance(i, Real) or (isinstance(i, Tensor) and i.numel() == 1))]
    assert not odd, f"{case}: the list holds {describe(odd[0])}; return one flat list of n + 1 ids"
    return [int(i) for i in ids]


def _short(values: Tensor) -> list[Any]:
    return [[round(x, 2) for x in row] if isinstance(row, list) else round(row, 2) for row in values.tolist()]
