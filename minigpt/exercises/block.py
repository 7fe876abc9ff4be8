"""The checks of chapter 6: LayerNorm, dropout and a post-norm layer, each by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.exercises import attempt, check, compare, must_be, right


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
