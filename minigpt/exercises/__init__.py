"""The checks behind the exercises, one file a chapter.

A check takes the reader's own function and runs it on several inputs. It prints one line if all is right, says what is
still to do if nothing was written yet, and otherwise raises a `Mistake`, an `AssertionError` that names what it
recognizes. A notebook shows the sentence alone: the way there leads through the check, which holds the answer.
"""

import functools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

answered: list[Callable[..., Any]] = []  # who has returned something to the check that runs


class Mistake(AssertionError):
    """What a check has found in the reader's function."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows instead of a traceback."""
        return [f"Not yet: {self}"]


def check(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a check, so that what it asserts becomes a `Mistake`; an error inside the reader's function stays.

    Every check draws the same numbers each time, and leaves torch's generator as the notebook had it.
    """

    @functools.wraps(function)
    def checked(*inputs: P.args, **options: P.kwargs) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                answered.clear()
                function(*inputs, **options)
        except AssertionError as error:
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            if Path(last).parent != Path(__file__).parent:
                raise
            raise Mistake(str(error)) from None

    return checked


def attempt(function: Callable[..., Any], *inputs: Any) -> Any:
    """The result of the reader's function, or None with a friendly line while the stub is still empty.

    Raises:
        Mistake: the function changed a tensor that it was given, or returned something before and nothing now.
    """
    tensors = [i for i in inputs if isinstance(i, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    try:
        result = function(*inputs)
    except NotImplementedError as error:
        if str(error):  # torch's own: an operation that does not take this type, as in torch.arange(3).softmax(0)
            raise
        result = None
    if result is None or result is ...:
        if function in answered:
            case = ", ".join(repr(i) for i in inputs if isinstance(i, int | float | str))
            case = f" on {case}" if case else ""
            raise Mistake(f"{function.__name__} returns nothing{case}, but did before: which branch has no return?")
        print(f"Your turn: {function.__name__} returns nothing yet.")
        return None
    if not all(map(torch.equal, tensors, before)):
        raise Mistake("your function changes a tensor it was given: make a new one (x + y, not x += y)")
    answered.append(function)
    return result


def written(function: Callable[..., Any], shape: tuple[int, ...], *inputs: Any) -> Tensor | None:
    """What the reader's function returns, a tensor of this shape; None while it is not written."""
    try:
        result = attempt(function, *inputs)
    except (RuntimeError, IndexError, ValueError) as error:
        sizes = ", ".join(str(tuple(i.shape)) for i in inputs if isinstance(i, Tensor)) or str(inputs)
        stops = f"{function.__name__} stops with an error{line_of(function, error)} on inputs of shape {sizes}"
        raise AssertionError(f"{stops}: {error}") from None
    if result is None:
        return None
    must_be(result, shape)
    assert result.is_floating_point(), f"the result holds {result.dtype}: it must hold floating-point numbers"
    assert not result.isnan().any(), "the result holds nan: a whole row was masked, or infinity met infinity"
    return result.detach().float()  # in double precision it is as right


def must_be(result: Any, shape: tuple[int, ...], what: str = "") -> None:
    """Is it one tensor, and of this shape? `what` says in words what the shape holds."""
    words = f", {what}" if what else ""
    assert isinstance(result, Tensor), f"return one tensor, not {describe(result)}{words}"
    assert result.shape == shape, f"the shape is {tuple(result.shape)}: it must be {tuple(shape)}{words}"


def compare(result: Tensor, wanted: Tensor, wrong: Mapping[str, Tensor | None], where: str = "") -> None:
    """Pass where `result` is as wanted; otherwise name the mistake it looks like, or the first number that differs."""
    recognize(result, wanted, wrong, where)
    if close(result, wanted):
        return
    at = tuple((~near(result, wanted)).nonzero()[0].tolist())
    place = f"at {at} stands" if at else "the answer is"
    raise AssertionError(f"{where}{place} {result[at].item():.6g}: it must be {wanted[at].item():.6g}")


def recognize(result: Tensor, wanted: Tensor, wrong: Mapping[str, Tensor | None], where: str = "") -> None:
    """Raise with the name of the mistake that gives just this result, if it is known and the right one is another."""
    if close(result, wanted):
        return
    for message, mistake in wrong.items():
        assert mistake is None or not close(result, mistake), f"{where}{message}"


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(near(a, b).all())


def near(a: Tensor, b: Tensor) -> Tensor:
    return torch.isclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)


def describe(thing: object) -> str:
    return f"a {type(thing).__name__}"


def line_of(function: Callable[..., Any], error: BaseException) -> str:
    """The line of the reader's function that raised an error, as ' in line 3, `x = y`,', or nothing if unknown."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {own[-1].lineno}, `{own[-1].line}`," if own else ""


def ended(function: Callable[..., Any], error: BaseException) -> str:
    """What ended the reader's function, and where."""
    return f"your function ends with an error{line_of(function, error).rstrip(',')}: {error}"


def right(sentence: str) -> None:
    """Say that the answer is right, in one line."""
    print(f"Right: {sentence}")
