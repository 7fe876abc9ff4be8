"""Chapter 10: Muon against a singular value decomposition and against torch's own; and the bugs this catches."""

import pytest
import torch
from torch import nn

from minigpt import Muon, muon
from minigpt.muon import orthogonalize

SHAPES = [(16, 16), (48, 16), (16, 48)]


def assert_directions_stay_and_lengths_even_out():
    for shape in SHAPES:
        matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
        ours = muon.orthogonalize(matrices)
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        lengths = torch.linalg.svdvals(ours)
        assert 0.3 < lengths.min() <= lengths.max() < 1.3
        assert lengths.median() > 0.6
        along = (
            u.mT @ ours @ vt.mT
        )  # the matrix seen along its own directions: the lengths on the diagonal, 0 elsewhere
        torch.testing.assert_close(along, torch.diag_embed(along.diagonal(dim1=-2, dim2=-1)), atol=1e-3, rtol=0)


def test_directions_stay_and_lengths_even_out():
    assert_directions_stay_and_lengths_even_out()


def without_scaling(matrices, steps=5):
    x = matrices
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize(
    "wrong",
    [
        without_scaling,
        lambda m: m / m.norm(dim=(-2, -1), keepdim=True),
        lambda m: orthogonalize(m, steps=2),
        torch.sign,
    ],
    ids=["not scaled first", "only scaled", "too few steps", "the sign of each number"],
)
def test_planted_in_the_orthogonalization(wrong, monkeypatch):
    monkeypatch.setattr(muon, "orthogonalize", wrong)
    with pytest.raises((AssertionError, RuntimeError)):
        assert_directions_stay_and_lengths_even_out()


def assert_steps_are_torchs(dtype=torch.float32):
    """Torch's own Muon computes the iteration in 16 bits: equal but for the rounding."""
    for shape in SHAPES:
        mine, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
        ours = Muon([mine], lr=0.02, momentum=0.9, weight_decay=0.5, dtype=dtype)
        other = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.5, nesterov=True)
        for _ in range(4):
            mine.grad = torch.randn(shape)
            theirs.grad = mine.grad.clone()
            ours.step()
            other.step()
        moved, rounding = (theirs - 1).abs().mean(), (mine - theirs).abs().mean()
        assert rounding < 0.02 * moved
        assert mine.dtype == ours.state[mine]["mean"].dtype == torch.float32  # only the products are in 16 bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_torchs(dtype):
    assert_steps_are_torchs(dtype)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("orthogonalize", lambda m: m),
        ("orthogonalize", lambda m: orthogonalize(m) * 1.1),
        ("Muon._mean", lambda self, p: torch.zeros_like(p)),
    ],
    ids=["not orthogonalized", "a tenth too far", "no momentum"],
)
def test_planted_in_the_step(name, wrong, monkeypatch):
    monkeypatch.setattr(f"minigpt.muon.{name}", wrong)
    with pytest.raises(AssertionError):
        assert_steps_are_torchs()


def test_matrices_of_one_shape_are_trained_as_each_alone():
    weights = [nn.Parameter(torch.randn(shape)) for shape in (*SHAPES, *SHAPES)]
    alone = [nn.Parameter(w.detach().clone()) for w in weights]
    for w, a in zip(weights, alone, strict=True):
        w.grad = a.grad = torch.randn(w.shape)
    Muon(list(weights)).step()
    for a in alone:
        Muon([a]).step()
    for w, a in zip(weights, alone, strict=True):
        torch.testing.assert_close(w, a)


def test_a_matrix_without_a_gradient_stays_as_it_is():
    frozen, trained = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    trained.grad = torch.randn(3, 4)
    Muon([frozen, trained]).step()
    assert torch.equal(frozen, torch.ones(3, 4))
    assert not torch.equal(trained, torch.ones(3, 4))


def test_only_matrices():
    with pytest.raises(ValueError, match=r"not a parameter of shape \(5,\): use AdamW"):
        Muon([nn.Parameter(torch.zeros(5))])
