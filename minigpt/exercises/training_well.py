"""The checks of chapter 10: a loss to quote, rotated queries and keys, the heart of Muon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minigpt.exercises import attempt, check, must_be, right
from minigpt.modern import BASE, rotate
from minigpt.muon import orthogonalize

# ---- a loss to quote -----------------------------------------------------------------------------------------------


@check
def check_report(report: Callable[[Tensor, Tensor], Any]) -> None:
    """Does `report(held_out, validation)` choose on the one text and quote the other: every seed, the last look?"""
    for seeds, looks in ((3, 6), (5, 4)):
        held_out, validation, likings = _recipes(seeds, looks)
        given = attempt(report, held_out, validation)
        if given is None:
            return
        three = isinstance(given, tuple | list) and len(given) == 3
        assert three, "return three numbers: the recipe, its loss, and how far its seeds lie apart"
        numbers = all(
            isinstance(part, int | float) or (isinstance(part, Tensor) and part.numel() == 1) for part in given
        )
        assert numbers, "one of the three is no single number"
        chosen, loss, gap = map(float, given)
        best = likings.pop("")
        for sentence, recipe in likings.items():
            assert chosen != recipe, sentence
        assert chosen == best, f"recipe {chosen:g} is chosen: at the last look, over all seeds, {best} is the lowest"
        _check_quoted(loss, gap, held_out[best], validation[best])
    right("chosen on one text, measured on another, at the last step, with every seed.")


def _recipes(seeds: int, looks: int) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Losses (recipes, seeds, looks) on two texts, and which recipe each way of choosing likes, the right one under ''.

    Every way likes another one, so that the choice tells the way.
    """
    held_out = 2.6 - torch.linspace(0, 1, looks) + 0.01 * torch.rand(5, seeds, looks)
    held_out[0, :, -1] -= 0.1
    held_out[2, :, -2] = 1.3
    held_out[3, 0, -1] = 1.45
    held_out[4] = 1.62 + 0.01 * torch.rand(seeds, looks)
    validation = held_out + 0.1 + 0.01 * torch.rand(5, seeds, looks)
    validation[0, :, -1] += torch.linspace(0.05, 0, seeds)
    validation[0, :, -2] = 1.52 + 0.03 * torch.rand(seeds)
    validation[1, :, -1] = 1.45
    order = torch.randperm(5)
    ways = [
        "",
        "chosen on the validation text: then the loss quoted from it flatters; choose on the held-out slice",
        "chosen by the lowest look: that rewards luck; take the last look of every run",
        "chosen by the luckiest seed: take the mean over the seeds",
        "chosen by the mean over all looks: the early ones say how a run began; take the last",
    ]
    return held_out[order], validation[order], dict(zip(ways, order.argsort().tolist(), strict=True))


def _check_quoted(loss: float, gap: float, held_out: Tensor, validation: Tensor) -> None:
    """Compare what is quoted with the chosen recipe's losses, (seeds, looks) on two texts."""
    last, low, before = validation[:, -1], validation.amin(-1), held_out[:, -1]
    losses = {
        "the loss is that of the slice that chose: quote the validation text": before.mean(),
        "the loss is the mean of each run's lowest look, which flatters: take the last": low.mean(),
        "the loss is the lowest of all looks, which flatters twice: take the last, and the mean over seeds": low.min(),
        "the loss is the luckiest seed's: take the mean over the seeds": last.min(),
        "the loss is one seed's: take the mean over the seeds": last[0],
        "the loss is the mean over all looks: take the last": validation.mean(),
    }
    gaps = {
        "the gap is that of the held-out slice: take it where the loss is taken": before.max() - before.min(),
        "the gap is the standard deviation: it is the largest minus the smallest": last.std(),
        "the gap has the wrong sign: it is the largest minus the smallest": last.min() - last.max(),
        "the gap is that of all looks: take the last of each seed": validation.max() - validation.min(),
    }
    for name, given, right_one, wrong in (
        ("loss", loss, last.mean(), losses),
        ("gap", gap, last.max() - last.min(), gaps),
    ):
        if abs(given - right_one) < 1e-4:
            continue
        for sentence, value in wrong.items():
            assert abs(given - value) > 1e-4, sentence
        raise AssertionError(f"the {name} is {given:.4f}: it must be {right_one:.4f}")


# ---- the rotation --------------------------------------------------------------------------------------------------


@check
def check_rotate(turn: Callable[[Tensor, int], Tensor]) -> None:
    """Does `turn(x, start)` turn pair (i, i + half) of position t by (start + t) * speed i?"""
    generator = torch.Generator().manual_seed(1)
    for shape, start in (((5, 4), 0), ((2, 3, 7, 6), 0), ((1, 2, 4, 8), 3)):
        x = torch.randn(shape, generator=generator)
        given = attempt(turn, x, start)
        if given is None:
            return
        must_be(given, x.shape)
        given = given.float()
        if torch.allclose(given, rotate(x, start), atol=1e-4):
            continue
        for sentence, wrong in _wrong_rotations(x, start).items():
            assert not torch.allclose(given, wrong, atol=1e-4), sentence
        kept = torch.allclose(given.norm(dim=-1), x.norm(dim=-1), atol=1e-4)
        assert kept, "the lengths have changed: a rotation keeps them; look at the signs and at cos² + sin² = 1"
        raise AssertionError("this is a rotation, but by other angles than (start + t) * speeds[i]")
    right("each pair at its own speed, and the lengths stay.")


def _wrong_rotations(x: Tensor, start: int) -> dict[str, Tensor]:
    """What the rotation becomes with each known mistake."""
    T, half = x.size(-2), x.size(-1) // 2
    speeds = BASE ** -torch.linspace(0, 1, half)
    places = torch.arange(start, start + T)[:, None]
    angles = places * speeds

    def turned(angles: Tensor) -> Tensor:
        first, second = x.split(half, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    neighbors = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    backwards = torch.stack([first * cos + second * sin, second * cos - first * sin], dim=-1).flatten(-2)
    a, b = x.split(half, dim=-1)
    wrong = {
        "all pairs turn at the same speed: pair i turns by (start + t) * speeds[i]": turned(places.expand(T, half)),
        "it turns the other way: the first half gets first * cos - second * sin": turned(-angles),
        "neighbors are paired, 0 with 1: here i goes with i + half": neighbors,
        "neighbors are paired, and turn the other way: i goes with i + half, first * cos - second * sin": backwards,
        "positions count from 0, not from 1": turned((places + 1) * speeds),
        "the speeds are in the wrong order: the first pair is the fastest": turned(places * speeds.flip(0)),
        "the two halves of the result have changed places": torch.cat([a * sin + b * cos, a * cos - b * sin], dim=-1),
        "nothing is turned": x,
    }
    if start:
        wrong["start is forgotten: the first row stands at position start"] = turned(torch.arange(T)[:, None] * speeds)
    return wrong


# ---- the heart of Muon ---------------------------------------------------------------------------------------------


@check
def check_orthogonalize(even_out: Callable[[Tensor], Tensor]) -> None:
    """Does `even_out(matrix)` bring all singular values near 1 by five Newton-Schulz steps?"""
    generator = torch.Generator().manual_seed(1)
    for rows, columns, size in ((4, 4, 1.0), (3, 6, 0.01), (6, 3, 30.0), (5, 5, 1000.0)):
        matrix = torch.randn(rows, columns, generator=generator) + 2 * torch.eye(rows, columns)
        matrix = matrix * size
        try:
            given = attempt(even_out, matrix)
        except RuntimeError as error:
            told = rows > columns and "shape" in str(error)
            assert not told, f"a {rows} x {columns} matrix fails: the square is multiplied from the wrong side"
            raise
        if given is None:
            return
        assert isinstance(given, Tensor), f"return one tensor, not {type(given).__name__}"
        enough = given.dtype in (torch.float32, torch.float64)
        assert enough, f"the result holds {given.dtype}: stay in the 32 bits of the matrix"
        given = given.float()
        flipped = rows != columns and given.shape == matrix.mT.shape
        assert not flipped, f"a {rows} x {columns} matrix comes back as {columns} x {rows}: transpose it back"
        assert given.shape == matrix.shape, f"the shape is {tuple(given.shape)}, the matrix has {tuple(matrix.shape)}"
        _check_even(given, matrix)
    right("every direction kept, every length near 1, and only products of matrices used.")


def _check_even(given: Tensor, matrix: Tensor) -> None:
    """Compare a result with the five steps, and with what people write."""
    if torch.allclose(given, orthogonalize(matrix), atol=2e-3):
        return
    assert torch.isfinite(given).all(), (
        "the numbers ran away: first divide by the norm of the whole matrix, not of each row, so that none is above 1"
    )
    norm = matrix.norm()
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    known = {
        "it is only divided by its norm: the five steps are missing": matrix / norm,
        "these are the exact directions, from a singular value decomposition: use the five steps": u @ vt,
        "the matrix is not divided by its norm before the steps": _steps(matrix),
        "divided by the largest singular value, the norm of ord=2: take the root of the sum of all squares": _steps(
            matrix / torch.linalg.matrix_norm(matrix, 2)
        ),
        "square holds the square of each number; it is the product x @ x.mT": _steps(matrix / norm, matmul=False),
        "the last term is square times square, a product of matrices: c * square @ square": _steps(
            matrix / norm, fourth=False
        ),
        "x is divided by its norm in each step: only once, before the first": _steps(matrix / norm, again=True),
        **{f"these are {n} steps; take five": orthogonalize(matrix, steps=n) for n in (1, 2, 3, 4, 6, 10)},
    }
    for sentence, wrong in known.items():
        same = torch.isfinite(wrong).all() and torch.allclose(given, wrong, atol=1e-3 * float(wrong.abs().max()))
        assert not same, sentence
    rows = matrix / matrix.norm(dim=-1, keepdim=True)
    wide = matrix.mT if matrix.size(0) > matrix.size(1) else matrix
    by_row = _steps(wide / wide.norm(dim=-1, keepdim=True))
    for wrong in (rows, _steps(rows), by_row.mT if wide is not matrix else by_row):
        assert not torch.allclose(given, wrong, atol=1e-3), "each row is divided by its own norm: take the whole matrix"
    lengths = [round(value, 2) for value in torch.linalg.svdvals(given).tolist()]
    near = all(0.65 < length < 1.25 for length in lengths)
    why = "near 1, but these steps give others: look at the norm, a, b and c" if near else "not about 0.7 to 1.2"
    raise AssertionError(f"the singular values come out as {lengths}, {why}")


def _steps(x: Tensor, matmul: bool = True, fourth: bool = True, again: bool = False) -> Tensor:
    """The five steps, with one thing changed."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.size(0) > x.size(1)
    x = x.mT if tall else x
    for _ in range(5):
        x = x / x.norm() if again else x
        square: Any = x @ x.mT if matmul else x * x
        if matmul:
            x = a * x + (b * square + c * (square @ square if fourth else square * square)) @ x
        else:
            x = a * x + (b * square + c * square * square) * x
    return x.mT if tall else x
