"""The checks behind the exercises, one file a chapter.

A check takes the reader's own function and runs it on several inputs. It prints one line if all is right, says what is
still to do if nothing was written yet, and otherwise raises a `Mistake`, an `AssertionError` that names what it
recognizes. A notebook shows the sentence alone: the way there leads through the check, which holds the answer.
"""

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

P = ParamSpec("P")


class Mistake(AssertionError):
    """What a check has found in the reader's function."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows instead of a traceback."""
        return [f"Not yet: {self}"]


def check(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a check, so that what it asserts becomes a `Mistake`; an error inside the reader's function stays."""

    @functools.wraps(function)
    def checked(*inputs: P.args, **options: P.kwargs) -> None:
        try:
            function(*inputs, **options)
        except AssertionError as error:
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            if Path(last).parent != Path(__file__).parent:
                raise
            raise Mistake(str(error)) from None

    return checked


def attempt(function: Callable[..., Any], *inputs: Any) -> Any:
    """The result of the reader's function, or None with a friendly line while the stub is still empty."""
    try:
        result = function(*inputs)
    except NotImplementedError:
        result = None
    if result is None or result is ...:
        print(f"Your turn: {function.__name__} returns nothing yet.")
    return result


def line_of(function: Callable[..., Any], error: BaseException) -> str:
    """The line of the reader's function that raised an error, as ' in line 3, `x = y`,', or nothing if unknown."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {own[-1].lineno}, `{own[-1].line}`," if own else ""


def right(sentence: str) -> None:
    """Say that the answer is right, in one line."""
    print(f"Right: {sentence}")
