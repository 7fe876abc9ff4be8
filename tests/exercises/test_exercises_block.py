"""Chapter 6: each wrong answer is told its own mistake."""

import pytest
import torch
from torch import nn

from minigpt import Block
from minigpt.exercises.block import check_dropout, check_layer_norm, check_post_norm


def normalize(axis, eps=1e-5, unbiased=False):
    def layer_norm(x):
        variance = x.var(axis, keepdim=True, unbiased=unbiased)
        return (x - x.mean(axis, keepdim=True)) / (variance + eps).sqrt()

    return layer_norm


def batch_norm(x):
    return nn.BatchNorm1d(x.size(-1))(x.flatten(0, 1)).view_as(x).detach()


def center(x):
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("the mean is over the positions", normalize(1)),
        ("that is BatchNorm", batch_norm),
        ("one mean for a whole row", normalize((1, 2))),
        ("one mean for the whole batch", normalize((0, 1, 2))),
        ("divides by n - 1", normalize(-1, unbiased=True)),
        ("divides by n - 1", lambda x: center(x) / x.std(-1, keepdim=True)),
        ("the sizes are not", center),
        ("the mean is not subtracted", lambda x: x / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()),
        ("the root of the variance", lambda x: center(x) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5)),
        ("eps", normalize(-1, eps=0.0)),
        ("changes a tensor it was given", lambda x: x.sub_(x.mean(-1, keepdim=True))),
        ("return one tensor, not a tuple", lambda x: (x, x)),
        ("it must be", lambda x: x.mean(-1)),
        (r"at \(0, 0, 0\) stands", lambda x: x),
    ],
)
def test_wrong_layer_norm(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_layer_norm(answer)


def test_double_precision_is_right(capsys):
    check_layer_norm(lambda x: normalize(-1)(x.double()))
    assert "Right" in capsys.readouterr().out


def drop(scale, share=lambda p: p, shape=lambda x: x.shape, always=False):
    """Dropout with one thing changed: the scale, the share, what is drawn together, or when."""

    def answer(x, p, training):
        if not training and not always:
            return x
        return x * (torch.rand(shape(x)) >= share(p)) * scale(p)

    return answer


def sound(p):
    return 1 / (1 - p)


def same_every_time(x, p, training):
    generator = torch.Generator().manual_seed(0)
    return x * (torch.rand(x.shape, generator=generator) >= p) * sound(p) if training else x


def in_place(x, p, training):
    return x.mul_(torch.rand_like(x) >= p).mul_(sound(p)) if training else x


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("not scaled", drop(lambda p: 1.0)),
        (r"scaled by 1 / p", drop(lambda p: 1 / p)),
        (r"by 1 - p in training", drop(lambda p: 1 - p)),
        ("the part that goes", drop(sound, share=lambda p: 1 - p)),
        ("nothing is 0 in training", lambda x, p, training: x),
        ("of the numbers are 0", drop(sound, share=lambda p: p / 2)),
        ("not 1 /", drop(lambda p: 1 / (1 - p) ** 2)),
        ("outside training nothing may change", drop(sound, always=True)),
        ("whole rows or columns", drop(sound, shape=lambda x: (x.size(0), 1))),
        ("whole rows or columns", drop(sound, shape=lambda x: (1, x.size(1)))),
        ("draw anew", same_every_time),
        ("changes a tensor it was given", in_place),
        ("return one tensor", lambda x, p, training: [x]),
    ],
)
def test_wrong_dropout(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_dropout(answer)


@pytest.mark.parametrize("seed", range(20))
def test_dropout_is_not_told_wrong_by_chance(seed, capsys):
    torch.manual_seed(seed)
    check_dropout.__wrapped__(nn.functional.dropout)  # without what always draws the same numbers
    assert "Right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("that is pre-norm", lambda x, a, f, n1, n2: (y := x + a(n1(x))) + f(n2(y))),
        ("residual connections are missing", lambda x, a, f, n1, n2: n2(f(n1(a(x))))),
        ("the MLP reads the old x", lambda x, a, f, n1, n2: n2(n1(x + a(x)) + f(x))),
        ("starts from the old x", lambda x, a, f, n1, n2: n2(x + f(n1(x + a(x))))),
        ("only what the part writes", lambda x, a, f, n1, n2: (y := x + n1(a(x))) + n2(f(y))),
        ("norm2 is missing", lambda x, a, f, n1, n2: (y := n1(x + a(x))) + f(y)),
        ("norm1 is missing", lambda x, a, f, n1, n2: n2((y := x + a(x)) + f(y))),
        ("have changed places", lambda x, a, f, n1, n2: n1((y := n2(x + a(x))) + f(y))),
        ("attention comes first", lambda x, a, f, n1, n2: n2((y := n1(x + f(x))) + a(y))),
        ("return one tensor", lambda x, *_: (x,)),
        ("it must be", lambda x, *_: x[0]),
        (r"at \(0, 0, 0\) stands", lambda x, *_: x),
    ],
)
def test_wrong_post_norm(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_post_norm(answer)


def test_the_block_of_the_package_is_called_pre_norm():
    def package(x, attention, feed_forward, norm1, norm2):
        block = Block(x.size(-1), 1)
        block.norm1, block.norm2, block.feed_forward = norm1, norm2, feed_forward
        block.attention.forward = lambda x, cache=None: attention(x)
        return block(x)

    with pytest.raises(AssertionError, match="that is pre-norm"):
        check_post_norm(package)
