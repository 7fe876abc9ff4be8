"""The checks of chapter 10: a schedule for the rate, a rotation of queries and keys, the heart of Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minigpt.exercises import attempt, check, must_be, right
from minigpt.modern import BASE, rotate
from minigpt.muon import orthogonalize

# ---- the schedule --------------------------------------------------------------------------------------------------


@check
def check_schedule(schedule: Callable[[int, int, int], float]) -> None:
    """Does `schedule(step, steps, warmup)` rise to 1 at step `warmup`, then fall on a line that meets 0 at `steps`?"""
    for steps, warmup in ((10, 3), (200, 20), (50, 1), (8, 0)):
        parts = []
        for step in range(steps):
            given = attempt(schedule, step, steps, warmup)
            if given is None:
                return
            assert isinstance(given, int | float | Tensor), f"return one number, not {type(given).__name__}"
            assert not isinstance(given, Tensor) or given.numel() == 1, "return one number for one step"
            parts.append(float(given))
        _check_parts(parts, steps, warmup)
    right("up to the peak in equal steps, and down on a line that ends as the training ends.")


def _check_parts(parts: list[float], steps: int, warmup: int) -> None:
    """Compare the parts of all steps with what they should be, and with what people write."""
    falling = range(warmup, steps)
    rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
    fall = [(steps - step) / (steps - warmup) for step in falling]
    cosine = [0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup)) for step in falling]
    sentences: Mapping[str, tuple[list[float], list[float]]] = {  # wrong: the rise, the fall
        "there is no rise: it falls from step 0": ([1 - step / steps for step in range(warmup)], fall),
        "the rise starts at 0, so that the first step changes nothing: count it as 1 of warmup + 1": (
            [step / max(1, warmup) for step in range(warmup)],
            fall,
        ),
        "the rise starts at 0 and stops short: step 0 is 1 of warmup + 1": (
            [step / (warmup + 1) for step in range(warmup)],
            fall,
        ),
        "off by one: the rise is at the peak a step early; divide by warmup + 1": (
            [(step + 1) / max(1, warmup) for step in range(warmup)],
            fall,
        ),
        "the peak is never reached: the fall is counted from step 0; it begins at step warmup": (
            rise,
            [1 - step / steps for step in falling],
        ),
        "the line ends too late: from the peak to the end there are steps - warmup steps": (
            rise,
            [1 - (step - warmup) / steps for step in falling],
        ),
        "the last step has the rate 0 and is wasted: the line meets 0 at step `steps`, one later": (
            rise,
            [1 - (step - warmup) / (steps - 1 - warmup) for step in falling],
        ),
        "the fall is half a cosine; here it is a straight line": (rise, cosine),
        "the rate never comes down": (rise, [1.0 for _ in falling]),
        "the rise is missing": ([1.0] * warmup, fall),
    }
    if _same(parts, rise + fall):
        return
    for sentence, (wrong_rise, wrong_fall) in sentences.items():
        told = [
            not _same(wrong, sound) and _same(written, wrong)
            for written, wrong, sound in [(parts[:warmup], wrong_rise, rise), (parts[warmup:], wrong_fall, fall)]
        ]
        assert not any(told), sentence
    step = next(i for i in range(steps) if not math.isclose(parts[i], (rise + fall)[i], abs_tol=1e-6))
    raise AssertionError(
        f"steps {steps}, warmup {warmup}: step {step} has {parts[step]:.4g}, it should have {(rise + fall)[step]:.4g}"
    )


def _same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(a, b, strict=True))


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
