"""Chapter 6: dropout sets to zero as often as it says, keeps the mean, and its cheap masks are as random as torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import minigpt.dropout
from minigpt import GPT, GPTConfig, ModernGPT
from minigpt.dropout import Dropout, dropout

N = 400_000


def assert_drops(p):
    """A share p is zero, up to five standard deviations; the others are scaled so that the mean stays."""
    out = dropout(torch.ones(N), p)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / N) ** 0.5)
    assert out[out > 0].unique().item() == pytest.approx(1 / (1 - p), rel=1e-3)


def assert_independent():
    """Neighbors, the four that share one draw, and numbers far apart do not know of each other."""
    dropped = (dropout(torch.ones(N), 0.5) == 0).float() - 0.5  # +0.5 or -0.5
    for far in (1, 2, 3, 4, 8, 64, 256, 624, 1248, N // 2 + 4):
        correlation = 4 * (dropped[far:] * dropped[:-far]).mean()
        assert abs(correlation) < 5 / N**0.5, far
    by_place = dropped.view(-1, 4).mean(dim=0)  # each quarter of a draw drops as often as the others
    assert by_place.abs().max() < 5 * 0.5 / (N / 4) ** 0.5


def assert_masks_are_right():
    assert_independent()
    assert_drops(0.2)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.2, 0.5, 0.9])
def test_a_share_is_dropped_and_the_mean_stays(p):
    assert_drops(p)


def test_no_mask_knows_of_another():
    assert_independent()


@given(st.lists(st.integers(0, 5), max_size=3), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_any_shape_and_type_stay(shape, dtype):
    x = torch.randn(shape).to(dtype)
    out = dropout(x, 0.25)
    assert out.shape == x.shape
    assert out.dtype == dtype
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] * (1 / 0.75))


def test_the_gradient_goes_where_the_number_went():
    x = torch.randn(50, 41, requires_grad=True)
    out = dropout(x, 0.3)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), out.detach())


@pytest.mark.parametrize(("kind", "places"), [(GPT, 1 + 2 * 3), (ModernGPT, 2 * 2)], ids=["GPT", "ModernGPT"])
def test_dropout_falls_in_every_place(kind, places, monkeypatch):
    """GPT: on the embedding, and in each block on the weights and on both branches. ModernGPT: on both branches."""
    rates = []
    for name in ("minigpt.dropout.dropout", "minigpt.attention.dropout"):
        monkeypatch.setattr(name, lambda x, p: rates.append(p) or x)
    model = kind(GPTConfig(vocab_size=11, block_size=16, n_embd=32, n_head=4, n_layer=2, dropout=0.3))
    model(torch.zeros(1, 5, dtype=torch.long))
    assert rates == [0.3] * places
    model.eval()(torch.zeros(1, 5, dtype=torch.long))
    assert [rate for rate in rates[places:] if rate] == []


def test_the_seed_decides():
    torch.manual_seed(3)
    first, second = dropout(torch.ones(99), 0.5), dropout(torch.ones(99), 0.5)
    torch.manual_seed(3)
    assert dropout(torch.ones(99), 0.5).equal(first)
    assert not first.equal(second)


def test_nothing_happens_outside_training():
    x = torch.randn(4, 5)
    assert Dropout(0.5).eval()(x).equal(x)
    assert Dropout(0.0)(x).equal(x)
    assert Dropout(1.0)(x).equal(torch.zeros(4, 5))
    assert isinstance(Dropout(0.5), nn.Dropout)


@pytest.mark.parametrize("p", [-0.5, 1.5])
def test_a_probability_outside_0_to_1_is_refused(p):
    for make in (Dropout, lambda p: dropout(torch.ones(3), p)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            make(p)


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Draws:
    """torch, but what `empty(...).random_(...)` gives is spoiled by `change`."""

    def __init__(self, change):
        self.change = change

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, size, dtype, device):
        spoiled = self

        class Numbers:
            def random_(self, low, high):
                return spoiled.change(torch.empty(size, dtype=dtype), low)

        return Numbers()


BUGS = {
    "the highest bit is always 0": lambda x, low: x.random_(),
    "one draw for four": lambda x, low: x.random_(-(2**15), 2**15) * (1 + 2**16 + 2**32 + 2**48),
    "the second half repeats the first": lambda x, low: x.random_(low, None)[: len(x) // 2 + 1].repeat(2)[: len(x)],
    "always the same": lambda x, low: x.zero_(),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_in_the_draws(bug, monkeypatch):
    monkeypatch.setattr(minigpt.dropout, "torch", Draws(BUGS[bug]))
    with pytest.raises(AssertionError):
        assert_masks_are_right()


def test_the_test_of_planted_bugs_passes_what_is_right(monkeypatch):
    monkeypatch.setattr(minigpt.dropout, "torch", Draws(lambda x, low: x.random_(low, None)))
    assert_masks_are_right()
