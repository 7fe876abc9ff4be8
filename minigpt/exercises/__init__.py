"""The checks behind the exercises, one file a chapter.

A check takes the reader's own function and runs it on several inputs. It prints one line if all is right, says what is
still to do if nothing was written yet, and otherwise raises an `AssertionError` that names the mistake it recognizes.
"""

from collections.abc import Callable
from typing import Any


def attempt(function: Callable[..., Any], *inputs: Any) -> Any:
    """The result of the reader's function, or None with a friendly line while the stub is still empty."""
    try:
        result = function(*inputs)
    except NotImplementedError:
        result = None
    if result is None or result is ...:
        print(f"Your turn: {function.__name__} returns nothing yet.")
    return result


def right(sentence: str) -> None:
    """Say that the answer is right, in one line."""
    print(f"Right: {sentence}")
