"""Chapter 10: each wrong answer is told its own mistake."""

import math

import pytest
import torch

from minigpt.exercises.training_well import _recipes, check_orthogonalize, check_report, check_rotate
from minigpt.modern import BASE, rotate
from minigpt.muon import orthogonalize

# ---- a loss to quote -----------------------------------------------------------------------------------------------


def report(
    choose=lambda held_out, validation: held_out[:, :, -1].mean(1),
    quote=lambda held_out, validation: validation[:, -1].mean(),
    gap=lambda held_out, validation: validation[:, -1].max() - validation[:, -1].min(),
):
    """A report with one thing changed: how it chooses, what it quotes, or what it calls the gap."""

    def answer(held_out, validation):
        chosen = choose(held_out, validation).argmin()
        runs = held_out[chosen], validation[chosen]
        return chosen, quote(*runs), gap(*runs)

    return answer


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("chosen on the validation text", report(choose=lambda h, v: v[:, :, -1].mean(1))),
        ("chosen by the lowest look", report(choose=lambda h, v: h.amin(-1).mean(1))),
        ("chosen by the lowest look", report(choose=lambda h, v: h.amin((1, 2)))),
        ("chosen by the luckiest seed", report(choose=lambda h, v: h[:, :, -1].amin(1))),
        ("chosen by the mean over all looks", report(choose=lambda h, v: h.mean((1, 2)))),
        ("recipe 9 is chosen", lambda h, v: (9, 0.0, 0.0)),
        ("the slice that chose", report(quote=lambda h, v: h[:, -1].mean())),
        ("which flatters: take the last", report(quote=lambda h, v: v.amin(-1).mean())),
        ("which flatters twice", report(quote=lambda h, v: v.min())),
        ("the luckiest seed's", report(quote=lambda h, v: v[:, -1].min())),
        ("one seed's", report(quote=lambda h, v: v[0, -1])),
        ("the loss is the mean over all looks", report(quote=lambda h, v: v.mean())),
        (r"the loss is 7.0000: it must be 1\.6", report(quote=lambda h, v: 7.0)),
        ("that of the held-out slice", report(gap=lambda h, v: h[:, -1].max() - h[:, -1].min())),
        ("the standard deviation", report(gap=lambda h, v: v[:, -1].std())),
        ("the wrong sign", report(gap=lambda h, v: v[:, -1].min() - v[:, -1].max())),
        ("that of all looks", report(gap=lambda h, v: v.max() - v.min())),
        (r"the gap is 7.0000: it must be 0\.0", report(gap=lambda h, v: 7.0)),
        ("return three numbers", lambda h, v: 1.0),
        ("return three numbers", lambda h, v: (1, 2.0)),
        ("no single number", lambda h, v: (0, v[0, :, -1], 0.0)),
        ("no single number", lambda h, v: (0, "low", 0.0)),
        ("no single number", lambda h, v: (0, math.nan, None)),
    ],
)
def test_wrong_report(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_report(answer)


@pytest.mark.parametrize("seed", range(20))
def test_every_way_to_choose_likes_a_recipe_of_its_own(seed):
    """Whatever is drawn, so that the sentence told is the right one."""
    torch.manual_seed(seed)
    for seeds, looks in ((3, 6), (5, 4)):
        h, v, likings = _recipes(seeds, looks)
        scores = [h[:, :, -1].mean(1), v[:, :, -1].mean(1), h.amin(-1).mean(1), h[:, :, -1].amin(1), h.mean((1, 2))]
        assert [score.argmin().item() for score in scores] == list(likings.values())


# ---- the rotation --------------------------------------------------------------------------------------------------


def turn(change=lambda angles: angles, places=lambda start, T: torch.arange(start, start + T), speeds=lambda s: s):
    """The rotation with one thing changed: the angles, the places or the speeds."""

    def answer(x, start):
        T, half = x.size(-2), x.size(-1) // 2
        angles = change(places(start, T)[:, None] * speeds(BASE ** -torch.linspace(0, 1, half)))
        first, second = x.split(half, dim=-1)
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1
        )

    return answer


def neighbors(sign):
    def answer(x, start):
        T, half = x.size(-2), x.size(-1) // 2
        angles = torch.arange(start, start + T)[:, None] * BASE ** -torch.linspace(0, 1, half) * sign
        a, b = x[..., 0::2], x[..., 1::2]
        pairs = [a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()]
        return torch.stack(pairs, dim=-1).flatten(-2)

    return answer


def swapped(x, start):
    return torch.cat(rotate(x, start).chunk(2, dim=-1)[::-1], dim=-1)


def stretched(x, start):
    first, second = x.chunk(2, dim=-1)
    angles = torch.arange(start, start + x.size(-2))[:, None] * BASE ** -torch.linspace(0, 1, first.size(-1))
    return torch.cat([first * angles.cos() + second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("at the same speed", turn(speeds=torch.ones_like)),
        ("turns the other way", turn(change=torch.neg)),
        ("neighbors are paired, 0 with 1", neighbors(1)),
        ("neighbors are paired, and turn the other way", neighbors(-1)),
        ("start is forgotten", turn(places=lambda start, T: torch.arange(T))),
        ("count from 0, not from 1", turn(places=lambda start, T: torch.arange(start, start + T) + 1)),
        ("in the wrong order", turn(speeds=lambda s: s.flip(0))),
        ("changed places", swapped),
        ("nothing is turned", lambda x, start: x.clone()),
        ("lengths have changed", stretched),
        ("by other angles", turn(change=lambda angles: angles * 2)),
        ("changes a tensor it was given", lambda x, start: x.mul_(2)),
        ("return one tensor", lambda x, start: (x, x)),
        ("the shape is", lambda x, start: x[..., :1]),
    ],
)
def test_wrong_rotation(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_rotate(answer)


def test_the_rotation_of_the_package_is_right(capsys):
    check_rotate(rotate)
    check_rotate(lambda x, start: rotate(x.double(), start))
    assert "Right" in capsys.readouterr().out


# ---- the heart of Muon ---------------------------------------------------------------------------------------------


def newton(scale=lambda m: m / m.norm(), steps=5, square=lambda x: x @ x.mT, fourth=lambda s: s @ s):
    """Newton-Schulz with one thing changed."""

    def answer(matrix):
        x = scale(matrix)
        for _ in range(steps):
            s = square(x)
            x = 3.4445 * x + (-4.775 * s + 2.0315 * fourth(s)) @ x
        return x

    return answer


def elementwise(matrix):
    x = matrix / matrix.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.775 * x**3 + 2.0315 * x**5
    return x


def again(matrix):
    x = matrix
    for _ in range(5):
        x = x / x.norm()
        s = x @ x.mT
        x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
    return x


def exact(matrix):
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def left_transposed(matrix):
    return orthogonalize(matrix).mT if matrix.size(0) > matrix.size(1) else orthogonalize(matrix)


def from_the_wrong_side(matrix):
    x = matrix / matrix.norm()
    for _ in range(5):
        s = x.mT @ x if x.size(0) > x.size(1) else x @ x.mT
        x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
    return x


def in_place(matrix):
    return orthogonalize(matrix.div_(matrix.norm()))


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("first divide by the norm|not divided by its norm", newton(scale=lambda m: m)),
        ("not of each row", newton(scale=lambda m: m / m.norm(dim=-1, keepdim=True))),
        ("each row is divided", lambda m: m / m.norm(dim=-1, keepdim=True)),
        ("only divided by its norm", lambda m: m / m.norm()),
        ("exact directions", exact),
        ("the square of each number", elementwise),
        ("a product of matrices", newton(fourth=lambda s: s * s)),
        ("in each step", again),
        ("these are 3 steps", newton(steps=3)),
        ("these are 6 steps", newton(steps=6)),
        ("from the wrong side", from_the_wrong_side),
        ("transpose it back", left_transposed),
        ("changes a tensor it was given", in_place),
        ("singular values come out as", lambda m: m.sign()),
        ("return one tensor", lambda m: [m]),
        ("the shape is", lambda m: m[0]),
        ("divided by the largest singular value", newton(scale=lambda m: m / torch.linalg.norm(m, 2))),
        ("look at the norm, a, b and c", newton(scale=lambda m: 1.1 * m / m.norm())),
        ("stay in the 32 bits", lambda m: orthogonalize(m).bfloat16()),
    ],
)
def test_wrong_orthogonalization(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_orthogonalize(answer)


def test_tall_matrices_may_stay_tall(capsys):
    check_orthogonalize(newton())
    assert "Right" in capsys.readouterr().out


def test_the_orthogonalization_of_the_package_is_right(capsys):
    check_orthogonalize(orthogonalize)
    assert "Right" in capsys.readouterr().out
