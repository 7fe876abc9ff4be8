"""Chapter 6: each wrong answer is told its own mistake."""

import pytest
import torch
from torch import nn

from minigpt import Block, FeedForward, MultiHeadAttention
from minigpt.exercises.block import check_block, check_dropout, check_layer_norm, check_post_norm


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


def test_dropout_is_not_told_wrong_by_chance(right_by_chance):
    right_by_chance(check_dropout, nn.functional.dropout)


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


def mlp(C, p, *, inside=None, bias=True, last=(), bend=nn.ReLU, width=4):
    end = [nn.Dropout(p), *last]
    return nn.Sequential(nn.Linear(C, width * C), *(inside or [bend()]), nn.Linear(width * C, C, bias=bias), *end)


def built(wiring=None, **changed):
    """A block of the reader's own with one thing changed: how it is put together, or one of its parts."""

    class MyBlock(nn.Module):
        def __init__(self, C, n_head, p):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.attention = MultiHeadAttention(C, n_head, p)
            self.feed_forward = mlp(C, p)
            for name, part in changed.items():
                setattr(self, name, part(C, n_head, p, self))

        def forward(self, x):
            return (wiring or right_wiring)(x, self.attention, self.feed_forward, self.norm1, self.norm2)

    return MyBlock


def right_wiring(x, a, f, n1, n2):
    x = x + a(n1(x))
    return x + f(n2(x))


class NoSuper(nn.Module):
    def __init__(self, C, n_head, p):
        self.norm1 = nn.LayerNorm(C)


class NoForward(nn.Module):
    def __init__(self, C, n_head, p):
        super().__init__()


class FirstReLU(nn.Sequential):
    def forward(self, x):
        return super().forward(x.relu())


class Residual(FeedForward):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("inherits nn.Module", lambda C, n_head, p: 1.0),
        (r"ends with an error in line \d+, `self.norm1 = nn.LayerNorm\(C\)`: cannot assign module before", NoSuper),
        ("the class has no forward", NoForward),
        ("takes 0 positional arguments", lambda: 1),
        (r"ends with an error in line \d+, .*has no attribute", built(lambda x, a, *_: a.heads(x))),
        ("the block has no norm2", built(lambda x, *_: x, norm2=lambda *_: None)),
        ("norm1 is a Identity: it must be a LayerNorm", built(norm1=lambda *_: nn.Identity())),
        ("one and the same", built(norm2=lambda C, n, p, block: block.norm1)),
        ("attention has 1 heads", built(attention=lambda C, n, p, _: MultiHeadAttention(C, 1, p))),
        ("attention is not told its dropout", built(attention=lambda C, n, p, _: MultiHeadAttention(C, n))),
        ("the MLP has no dropout", built(feed_forward=lambda C, n, p, _: mlp(C, p)[:-1])),
        (r"dropout is 0.1, but the parts have \[0.0, 0.1\]", built(feed_forward=lambda C, *_: FeedForward(C))),
        ("dropout is made 3 times", built(feed_forward=lambda C, n, p, _: mlp(C, p, last=[nn.Dropout(p)]))),
        (r"must be \[\(8, 32\), \(32, 8\)\]", built(feed_forward=lambda C, n, p, _: mlp(C, p, width=2))),
        ("is a bias missing", built(feed_forward=lambda C, n, p, _: mlp(C, p, bias=False))),
        ("the MLP does not bend", built(feed_forward=lambda C, n, p, _: mlp(C, p, bend=nn.Identity))),
        ("ReLU comes last", built(feed_forward=lambda C, n, p, _: mlp(C, p, bend=nn.Identity, last=[nn.ReLU()]))),
        ("ReLU comes first", built(feed_forward=lambda C, n, p, _: FirstReLU(*mlp(C, p, bend=nn.Identity)))),
        ("the MLP bends twice", built(feed_forward=lambda C, n, p, _: mlp(C, p, last=[nn.ReLU()]))),
        ("the MLP bends with GELU", built(feed_forward=lambda C, n, p, _: mlp(C, p, bend=nn.GELU))),
        ("the MLP adds its input", built(feed_forward=lambda C, n, p, _: Residual(C, p))),
        ("in what the MLP gives, at", built(feed_forward=lambda C, n, p, _: mlp(C, p, bend=nn.Tanh))),
        ("that is post-norm", built(lambda x, a, f, n1, n2: n2((y := n1(x + a(x))) + f(y)))),
        ("nothing is added", built(lambda x, a, f, n1, n2: f(n2(a(n1(x)))))),
        ("what attention gives replaces x", built(lambda x, a, f, n1, n2: (y := a(n1(x))) + f(n2(y)))),
        ("what the MLP gives replaces x", built(lambda x, a, f, n1, n2: f(n2(x + a(n1(x)))))),
        ("the MLP reads the old x", built(lambda x, a, f, n1, n2: x + a(n1(x)) + f(n2(x)))),
        ("starts from the old x", built(lambda x, a, f, n1, n2: x + f(n2(x + a(n1(x)))))),
        ("no norm is used", built(lambda x, a, f, n1, n2: (y := x + a(x)) + f(y))),
        ("norm1 is not used", built(lambda x, a, f, n1, n2: (y := x + a(x)) + f(n2(y)))),
        ("norm2 is not used", built(lambda x, a, f, n1, n2: (y := x + a(n1(x))) + f(y))),
        ("norm1 stands before both", built(lambda x, a, f, n1, n2: (y := x + a(n1(x))) + f(n1(y)))),
        ("have changed places", built(lambda x, a, f, n1, n2: (y := x + a(n2(x))) + f(n1(y)))),
        ("added to the normalized copy", built(lambda x, a, f, n1, n2: (y := (z := n1(x)) + a(z)) + f(n2(y)))),
        ("normalized after it", built(lambda x, a, f, n1, n2: (y := x + n1(a(x))) + n2(f(y)))),
        ("attention comes first", built(lambda x, a, f, n1, n2: (y := x + f(n2(x))) + a(n1(y)))),
        ("the attention is missing", built(lambda x, a, f, n1, n2: x + f(n2(x)))),
        ("the MLP is missing", built(lambda x, a, f, n1, n2: x + a(n1(x)))),
        ("changes a tensor it was given", built(lambda x, a, f, n1, n2: x.add_(a(n1(x))))),
        ("it must be", built(lambda x, *_: x[0])),
        (r"at \(0, 0, 0\) stands", built(lambda x, *_: x)),
    ],
)
def test_wrong_block(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_block(answer)


@pytest.mark.parametrize("block", [Block, built(), built(feed_forward=lambda C, n, p, _: FeedForward(C, p))])
def test_right_block(block, capsys):
    check_block(block)
    assert "Right" in capsys.readouterr().out


def test_a_block_whose_forward_is_not_written_yet(capsys):
    check_block(built(lambda *_: None))
    assert capsys.readouterr().out == "Your turn: forward returns nothing yet.\n"
