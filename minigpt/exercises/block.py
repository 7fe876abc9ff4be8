"""The checks of chapter 6: LayerNorm, dropout, a post-norm layer and the whole block, each by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.attention import MultiHeadAttention
from minigpt.block import Block
from minigpt.exercises import Mistake, attempt, check, compare, describe, ended, must_be, right


@check
def check_layer_norm(layer_norm: Callable[[Tensor], Any]) -> None:
    """Normalize each position of (B, T, n_embd) over its channels, without scale and shift, eps 1e-5."""
    for B, T, C in [(2, 3, 4), (1, 5, 8), (3, 2, 6)]:
        x = torch.randn(B, T, C) * (torch.rand(B, T, 1) * 3 + 0.5) + torch.arange(float(T))[:, None] + 1
        got = attempt(layer_norm, x)
        if got is None:
            return
        must_be(got, x.shape)
        mean = x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=False) + 1e-5
        wrong = {
            "the mean is gone, but the sizes are not: divide by the standard deviation": x - mean,
            "the mean is not subtracted": x / variance.sqrt(),
            "var divides by n - 1 here: pass unbiased=False": (x - mean) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
            "divide by the root of the variance": (x - mean) / variance,
            "the mean is over the positions, so the future leaks in: use the last axis": _over(x, (1,)),
            "each channel is normalized over all rows and positions: that is BatchNorm; use the last axis": (
                _over(x, (0, 1))
            ),
            "one mean for a whole row: each position needs its own, over the last axis only": _over(x, (1, 2)),
            "one mean for the whole batch: each position needs its own, over the last axis only": _over(x, (0, 1, 2)),
        }
        compare(got, F.layer_norm(x, (C,)), wrong)
    small = torch.tensor([[[0.0, 1e-3]]])
    assert torch.allclose(layer_norm(small).float(), F.layer_norm(small, (2,)), atol=1e-3), (
        "for nearly equal numbers eps matters: add it to the variance, under the root"
    )
    assert torch.isfinite(layer_norm(torch.ones(1, 1, 4))).all(), "equal numbers give 0 / 0: eps is missing"
    right("each position has mean 0 and size 1 over its channels.")


def _over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Normalize over other axes than one should."""
    variance = x.var(axes, keepdim=True, unbiased=False)
    return (x - x.mean(axes, keepdim=True)) / (variance + 1e-5).sqrt()


@check
def check_dropout(drop: Callable[[Tensor, float, bool], Any]) -> None:
    """Dropout: zero with probability p and scale the rest by 1 / (1 - p) in training; nothing outside it."""
    x = torch.rand(200, 100) + 0.5  # no zeros of its own
    for p in (0.2, 0.5, 0.75):
        got = attempt(drop, x, p, True)
        if got is None:
            return
        must_be(got, x.shape)
        gone = (got == 0).float()
        share = gone.mean().item()
        assert share > 0, f"p = {p}: nothing is 0 in training"
        alike = (gone == gone[:1]).all() or (gone == gone[:, :1]).all()
        assert not alike, "whole rows or columns are dropped together: draw one random number for each element"
        if abs(p - 0.5) > 0.01:
            assert abs(share - (1 - p)) > 0.03, f"p = {p}: {share:.0%} are 0; p is the part that goes, not that stays"
        assert abs(share - p) < 0.03, f"p = {p}: {share:.0%} of the numbers are 0, it should be {p:.0%}"
        kept = (got / x)[got != 0]
        assert kept.std() < 1e-3, "the survivors are not all scaled alike"
        factor = kept.mean().item()
        assert abs(factor - 1) > 1e-3, f"the survivors are not scaled: the mean falls to {1 - p:g} of what it was"
        if abs(p - 0.5) > 0.01:
            assert abs(factor - 1 / p) > 1e-3, "the survivors are scaled by 1 / p; it is 1 / (1 - p)"
        assert abs(factor - (1 - p)) > 1e-3, "the survivors are scaled by 1 - p in training; divide instead"
        assert abs(factor - 1 / (1 - p)) < 1e-3, f"p = {p}: the survivors are scaled by {factor:.3f}, not 1 / (1 - p)"
        assert not drop(x, p, True).equal(got), "two calls drop the same numbers: draw anew each time"
        outside = drop(x, p, False)
        must_be(outside, x.shape)
        assert outside.equal(x), "outside training nothing may change: no zeros, no scaling"
    right("the mean is kept in training, and nothing happens outside it.")


@check
def check_post_norm(post_norm: Callable[..., Any]) -> None:
    """A post-norm layer from x, attention, feed_forward, norm1 and norm2 (Vaswani et al. 2017, section 3.1)."""
    for B, T, C in [(2, 3, 8), (1, 5, 4)]:
        x = torch.randn(B, T, C) * 2 + 1
        a, f = nn.Linear(C, C), nn.Sequential(nn.Linear(C, 2 * C), nn.ReLU(), nn.Linear(2 * C, C))
        n1, n2 = nn.LayerNorm(C), nn.LayerNorm(C)
        with torch.no_grad():
            for norm in (n1, n2):  # of their own scale, so that the two can be told apart
                norm.weight.copy_(torch.rand(C) + 0.5)
                norm.bias.copy_(torch.randn(C))
            got = attempt(post_norm, x, a, f, n1, n2)
            if got is None:
                return
            must_be(got, x.shape)
            pre, summed, branch = x + a(n1(x)), n1(x + a(x)), x + n1(a(x))
            wrong = {
                "that is pre-norm: the part reads norm(x); here the sum is normalized": pre + f(n2(pre)),
                "nothing is added: the residual connections are missing": n2(f(n1(a(x)))),
                "the MLP reads the old x; it should read what norm1 gave": n2(summed + f(x)),
                "the second sum starts from the old x; attention's part is lost": n2(x + f(summed)),
                "only what the part writes is normalized: norm(part(x)); it should be the sum": branch + n2(f(branch)),
                "norm2 is missing: the second sum is normalized as well": summed + f(summed),
                "norm1 is missing: the first sum is normalized as well": n2(x + a(x) + f(x + a(x))),
                "norm1 and norm2 have changed places": n1(n2(x + a(x)) + f(n2(x + a(x)))),
                "attention comes first, then the MLP": n2(n1(x + f(x)) + a(n1(x + f(x)))),
            }
            compare(got, n2(summed + f(summed)), wrong)
    right("add, then normalize, twice.")


@check
def check_block(block: Callable[[int, int, float], Any]) -> None:
    """A pre-norm block as a module of the reader's own: `block(n_embd, n_head, dropout)`."""
    for n_embd, n_head, dropout in [(8, 2, 0.1), (12, 3, 0.3)]:
        x = torch.randn(2, 5, n_embd) * 2 + 1
        made = _run(block, n_embd, n_head, dropout)
        if made is None:
            return
        inherits = isinstance(made, nn.Module)
        assert inherits, f"{describe(made)} comes out: write a class that inherits nn.Module"
        has_forward = type(made).forward is not nn.Module.forward
        assert has_forward, "the class has no forward: write one, def forward(self, x)"
        if _run(made.eval().forward, x) is None:
            return
        _check_parts(made, n_embd, n_head, dropout)
        with torch.no_grad():
            for norm in (made.norm1, made.norm2):  # of their own scale, so that the two can be told apart
                norm.weight.copy_(torch.rand(n_embd) + 0.5)
                norm.bias.copy_(torch.randn(n_embd))
            _check_mlp(made.feed_forward, x)
            got = made(x)
            must_be(got, x.shape)
            compare(got, *_wirings(made, x))
    right("everything a block has, each in its place.")


def _run(function: Callable[..., Any], *inputs: Any) -> Any:
    """What the reader's class or its `forward` gives; an error in it becomes one sentence with the line."""
    try:
        return attempt(function, *inputs)
    except Mistake:
        raise
    except Exception as error:
        begin = vars(function).get("__init__", function) if isinstance(function, type) else function
        raise AssertionError(ended(begin, error)) from error


def _check_parts(made: Any, n_embd: int, n_head: int, dropout: float) -> None:
    """Are the parts there, under their names, and of the right sizes?"""
    kinds = {"norm1": nn.LayerNorm, "attention": MultiHeadAttention, "norm2": nn.LayerNorm, "feed_forward": nn.Module}
    for name, kind in kinds.items():
        part = getattr(made, name, None)
        assert part is not None, f"the block has no {name}: make it in __init__, as self.{name} = ..."
        assert isinstance(part, kind), f"{name} is {describe(part)}: it must be a {kind.__name__}"
    assert made.norm1 is not made.norm2, (
        "norm1 and norm2 are one and the same: each needs a scale and a shift of its own"
    )
    heads = made.attention.n_head
    assert heads == n_head, f"attention has {heads} heads: it must have n_head, here {n_head}"
    rates = [part.p for part in made.modules() if isinstance(part, nn.Dropout)]
    ends = [part.p for part in made.feed_forward.modules() if isinstance(part, nn.Dropout)]
    assert made.attention.dropout.p == dropout, "attention is not told its dropout: it is the third of its inputs"
    assert ends, "the MLP has no dropout: it stands at its end"
    assert set(rates) == {dropout}, f"dropout is {dropout}, but the parts have {sorted(set(rates))}"
    assert len(rates) == 2, f"dropout is made {len(rates)} times: attention has its own, and the MLP one at its end"
    sizes = [
        (part.in_features, part.out_features) for part in made.feed_forward.modules() if isinstance(part, nn.Linear)
    ]
    wanted = [(n_embd, 4 * n_embd), (4 * n_embd, n_embd)]
    assert sizes == wanted, f"the linear layers of the MLP are {sizes}: with n_embd = {n_embd} they must be {wanted}"
    count, right_count = (sum(p.numel() for p in part.parameters()) for part in (made, Block(n_embd, n_head)))
    assert count == right_count, f"the block has {count} parameters: 12 C² + 10 C is {right_count}; is a bias missing?"


def _check_mlp(mlp: nn.Module, x: Tensor) -> None:
    """Does the MLP ask, bend and answer, in this order?"""
    ask, answer = (part for part in mlp.modules() if isinstance(part, nn.Linear))
    asked = ask(x)
    wrong = {
        "the MLP does not bend: a ReLU stands between its two linear layers": answer(asked),
        "the MLP's ReLU comes last: it stands between the two linear layers": answer(asked).relu(),
        "the MLP's ReLU comes first: it stands between the two linear layers": answer(ask(x.relu())),
        "the MLP bends twice: the only ReLU stands between the two linear layers": answer(asked.relu()).relu(),
        "the MLP bends with GELU: this book's block has ReLU": answer(F.gelu(asked)),
        "the MLP adds its input: that is left to the block": x + answer(asked.relu()),
    }
    compare(mlp(x), answer(asked.relu()), wrong, "in what the MLP gives, ")


def _wirings(made: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """What a block should give, and what it gives when the same parts are put together in other ways."""
    a, f, n1, n2 = made.attention, made.feed_forward, made.norm1, made.norm2
    heard, bare, only, copy = x + a(n1(x)), x + a(x), a(n1(x)), n1(x) + a(n1(x))
    post = n1(bare)
    wrong: dict[str, Tensor | None] = {
        "that is post-norm: normalize what a part reads, not the sum": n2(post + f(post)),
        "nothing is added: the residual connections are missing": f(n2(only)),
        "what attention gives replaces x: add it": only + f(n2(only)),
        "what the MLP gives replaces x: add it": f(n2(heard)),
        "the MLP reads the old x: it should read what attention has added to": heard + f(n2(x)),
        "the second sum starts from the old x: attention's part is lost": x + f(n2(heard)),
        "no norm is used: each part reads a normalized copy": bare + f(bare),
        "norm1 is not used: attention reads x as it is": bare + f(n2(bare)),
        "norm2 is not used: the MLP reads the sum as it is": heard + f(heard),
        "norm1 stands before both parts: the MLP reads norm2's copy": heard + f(n1(heard)),
        "norm1 and norm2 have changed places": (swapped := x + a(n2(x))) + f(n1(swapped)),
        "attention's part is added to the normalized copy: add it to x itself": copy + f(n2(copy)),
        "each part is normalized after it, not before": (late := x + n1(a(x))) + n2(f(late)),
        "attention comes first, then the MLP": (thought := x + f(n2(x))) + a(n1(thought)),
        "the attention is missing": x + f(n2(x)),
        "the MLP is missing": heard,
    }
    return heard + f(n2(heard)), wrong
