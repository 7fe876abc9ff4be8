"""Checks of chapter 3: the scale, fading weights, and a test that catches every leak."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.attention import attention_weights, causal_mask
from minigpt.exercises import attempt, check, compare, describe, right, written

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@check
def check_scaled_scores(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `function(x, w_query, w_key)`: the scaled scores (B, T, T), before mask and softmax."""
    draw = torch.Generator().manual_seed(3)
    for B, T, n_embd, head_size in ((1, 3, 8, 2), (2, 4, 6, 3), (2, 5, 12, 4)):
        x = torch.randn(B, T, n_embd, generator=draw)
        w_query, w_key = torch.randn(2, n_embd, head_size, generator=draw)
        result = written(function, (B, T, T), x, w_query, w_key)
        if result is None:
            return
        q, k = x @ w_query, x @ w_key
        raw = q @ k.transpose(-2, -1)
        wrong = {
            "the scale is missing: these scores grow with the size of the head": raw,
            f"the scores are divided by the root of n_embd, {n_embd}, but each is a sum over head_size, {head_size}": (
                raw * n_embd**-0.5
            ),
            "the scores are divided by head_size itself: its square root is enough": raw / head_size,
            "the scores are multiplied by the root of head_size: divide": raw * head_size**0.5,
            "the scores are divided by the root of T: the number of positions has no part in a score": raw * T**-0.5,
            "rows and columns are swapped: row t belongs to the query of position t": (
                raw.transpose(-2, -1) * head_size**-0.5
            ),
            "these are weights: the softmax comes later": (raw * head_size**-0.5).softmax(-1),
        }
        compare(result, raw * head_size**-0.5, wrong)
    right("a score is a sum of head_size products, divided by the root of head_size.")


@check
def check_fading_weights(function: Callable[[int], Tensor]) -> None:
    """Check `function(T)`: weights (T, T) that halve with every step into the past."""
    for T in (1, 2, 4, 7):
        result = written(function, (T, T), T)
        if result is None:
            return
        steps = torch.arange(T)
        back = (steps[:, None] - steps).float()  # (T, T): how far column s lies behind row t
        past = back >= 0
        wanted = shares(0.5**back, past)
        wrong = {
            "the rows do not add up to 1: divide by their sum, or take a softmax": (0.5**back).where(past, 0.0),
            "every visible position gets the same: the scores must fall with the distance": shares(back * 0 + 1, past),
            "the oldest position gets most: the sign of the scores is wrong": shares(2.0**back, past),
            "each step back divides by e, not by 2: one half is exp(-ln 2)": shares(torch.exp(-back), past),
            "each step back divides by 4: one half is exp(-ln 2), not exp(-2 ln 2)": shares(0.25**back, past),
        }
        if len(result) > 1:
            future = result.triu(1).abs()
            if future.max() > 1e-6:
                row, column = divmod(int(future.argmax()), T)
                blind = not result.tril(-1).any()
                why = "the wrong triangle is masked" if blind else "the mask is missing, or not -inf"
                raise AssertionError(f"row {row} sees column {column}, which is its future: {why}")
            sums = result.sum(0)
            assert not (sums - 1).abs().max() < 1e-5 or torch.allclose(result.sum(-1), torch.ones(T)), (
                "the columns add up to 1, not the rows: the softmax runs over the wrong axis"
            )
        compare(result, wanted, wrong)
    right("scores that fall by ln 2 with every step give weights that halve.")


@check
def check_leak_detector(function: Callable[[Attention], bool]) -> None:
    """Check `function(attention)`: does an output of `attention(q, k, v)` depend on a later position?"""
    for name, (attention, leaks) in ATTENTIONS.items():
        answer = attempt(function, attention)
        if answer is None:
            return
        if isinstance(answer, Tensor):
            assert answer.numel() == 1, f"return True or False, not a tensor of shape {tuple(answer.shape)}"
        else:
            assert isinstance(answer, bool | np.bool_), f"return True or False, not {describe(answer)}"
        if leaks:
            assert bool(answer), f"a leak escaped your test: {name}"
        else:
            assert not bool(answer), f"a false alarm: {name}"
    right(f"all {len(ATTENTIONS)} attentions are judged correctly, the mask of -10000 among them.")


# ---- what the detector must judge ----------------------------------------------------------------------------------


def shares(amounts: Tensor, past: Tensor) -> Tensor:
    """What each visible position holds of its row's sum."""
    amounts = amounts.where(past, 0.0)
    return amounts / amounts.sum(-1, keepdim=True)


def _filled(value: float, diagonal: int = 0) -> Attention:
    """Attention whose scores above the diagonal are replaced by `value`."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5
        seen = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).tril(diagonal)
        return scores.masked_fill(~seen, value).softmax(-1) @ v

    return attention


def _masked_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(-1).tril() @ v


def _upper(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5
    seen = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).triu()
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


def _late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5
    seen = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).tril(1)
    seen[0, 1:] = False
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


def _mean_of_past(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return shares(torch.ones(v.size(-2), v.size(-2), dtype=v.dtype), causal_mask(v.size(-2), v.size(-2))) @ v


# What the detector must judge: name -> (attention, whether it leaks). What is easy to catch comes first.
ATTENTIONS: dict[str, tuple[Attention, bool]] = {
    "attention without any mask": (_filled(float("-inf"), 10**6), True),
    "the book's own attention does not leak": (lambda q, k, v: attention_weights(q, k) @ v, False),
    "torch's causal attention does not leak": (
        lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0],
        False,
    ),
    "the upper triangle instead of the lower: each row sees itself and its future": (_upper, True),
    "a mask that is one column too generous in every row but the first": (_late, True),
    "masked scores set to 0: each future position keeps a share of e^0 = 1": (_filled(0.0), True),
    "weights masked after the softmax: each row was divided by a sum that holds the future": (_masked_after, True),
    "the plain average of the past does not leak": (_mean_of_past, False),
    "each position that takes its own value does not leak": (lambda q, k, v: v.clone(), False),
    "masked scores set to -10: with ordinary scores the future keeps less than a thousandth, but more than nothing": (
        _filled(-10.0),
        True,
    ),
    "masked scores set to -10000: exact for ordinary scores, so try scores that are lower": (_filled(-1e4), True),
}
