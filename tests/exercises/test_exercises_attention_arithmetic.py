"""Chapter 3: each wrong answer is told its own mistake."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minigpt.exercises import attention_arithmetic as checks
from minigpt.exercises import compare


def raw(x: Tensor, w_query: Tensor, w_key: Tensor) -> Tensor:
    return (x @ w_query) @ (x @ w_key).transpose(-2, -1)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("scale is missing", raw),
        ("root of n_embd, 8, but each is a sum over head_size, 2", lambda x, q, k: raw(x, q, k) * x.size(-1) ** -0.5),
        ("divided by head_size itself", lambda x, q, k: raw(x, q, k) / q.size(-1)),
        ("multiplied", lambda x, q, k: raw(x, q, k) * q.size(-1) ** 0.5),
        ("root of T", lambda x, q, k: raw(x, q, k) * x.size(1) ** -0.5),
        ("swapped", lambda x, q, k: raw(x, k, q) * q.size(-1) ** -0.5),
        ("softmax comes later", lambda x, q, k: (raw(x, q, k) * q.size(-1) ** -0.5).softmax(-1)),
        (r"at \(0, 0, 0\) stands", lambda x, q, k: raw(x, q, k) + 7),
        (r"shape is \(1, 3, 2\): it must be \(1, 3, 3\)", lambda x, q, k: x @ q),
        ("stops with an error on inputs of shape", lambda x, q, k: (x @ q) @ (x @ k)),
        ("return one tensor, not a float", lambda x, q, k: 1.0),
        ("torch.int64", lambda x, q, k: raw(x, q, k).long()),
        ("nan", lambda x, q, k: raw(x, q, k) * math.nan),
    ],
)
def test_wrong_scores(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_scaled_scores(wrong)


def fading(T: int, base: float = 2.0, dim: int = -1, future: float = -math.inf) -> Tensor:
    t = torch.arange(T)
    scores = -(t[:, None] - t) * math.log(base)
    return scores.masked_fill(t > t[:, None], future).softmax(dim)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("row 0 sees column 1, which is its future", lambda T: fading(T, future=0.0)),
        ("the wrong triangle is masked", lambda T: fading(T).flip(0, 1)),
        ("wrong axis", lambda T: fading(T, dim=0).double()),
        ("do not add up to 1", lambda T: (2.0 ** -(torch.arange(T)[:, None] - torch.arange(T))).tril()),
        ("every visible position gets the same", lambda T: fading(T, base=1.0)),
        ("oldest position gets most", lambda T: fading(T, base=0.5)),
        ("by e, not by 2", lambda T: fading(T, base=math.e)),
        ("divides by 4", lambda T: fading(T, base=4.0)),
        ("wrong axis", lambda T: fading(T, dim=0)),
        ("return one tensor, not a list", lambda T: [1.0]),
        (r"shape is \(3,\)", lambda T: torch.ones(3)),
    ],
)
def test_wrong_fading(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_fading_weights(wrong)


def detector(
    size: float = 300.0, tolerance: float = 0.0, last: bool = True, keys: bool = True, rows: int = 3
) -> Callable[..., bool]:
    """A leak test with a weakness."""

    def leaks(attention: checks.Attention) -> bool:
        torch.manual_seed(0)
        v = torch.randn(4, 2)
        for scale in (1.0, size):
            q, k = scale * torch.ones(4, 2), -scale * torch.ones(4, 2)
            k2, v2 = k.clone(), v.clone()
            at = -1 if last else 0
            v2[at] = 5.0
            if keys:
                k2[at] = 5.0
            change = (attention(q, k, v) - attention(q, k2, v2))[:rows].abs().max()
            if change > tolerance:
                return True
        return False

    return leaks


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("leak escaped your test: attention without any mask", lambda attention: False),
        ("false alarm: the book's own attention", lambda attention: True),
        ("false alarm: the book's own attention", detector(last=False)),
        ("after the softmax", detector(keys=False)),
        ("every row but the first", detector(rows=1)),
        ("masked scores set to -10: ", detector(size=1.0, tolerance=1e-1)),
        ("masked scores set to -10000", detector(size=1.0)),
        ("return True or False, not a str", lambda attention: "yes"),
        (r"not a tensor of shape \(4, 2\)", lambda attention: torch.ones(4, 2)),
    ],
)
def test_wrong_detectors(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_leak_detector(wrong)


@pytest.mark.parametrize("kind", [torch.tensor, np.bool_])
def test_a_detector_may_answer_with_a_tensor(kind: Callable[[bool], Any], capsys: pytest.CaptureFixture[str]) -> None:
    checks.check_leak_detector(lambda attention: kind(detector()(attention)))
    assert capsys.readouterr().out.startswith("Right:")


def test_a_detector_may_draw_in_double_precision(capsys: pytest.CaptureFixture[str]) -> None:
    found = detector()
    checks.check_leak_detector(lambda attention: found(lambda *qkv: attention(*(x.double() for x in qkv))))
    assert "Right" in capsys.readouterr().out


def test_the_first_number_that_is_not_near_is_named() -> None:
    """Also where it is off by less than four places show."""
    wanted = torch.tensor([0.5, 0.25])
    with pytest.raises(AssertionError, match=r"^at \(1,\) stands 0\.25006: it must be 0\.25$"):
        compare(wanted + torch.tensor([0.0, 6e-5]), wanted, {})
    compare(wanted + torch.tensor([0.0, 2e-5]), wanted, {})
