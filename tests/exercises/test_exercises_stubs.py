"""Any chapter's exercises: the solution passes; an empty stub gets one kind line, and 'Run all' goes on; a mistake
gets one sentence."""

import contextlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import minigpt.exercises
from minigpt.exercises import Mistake, line_of

MODULES = [
    importlib.import_module(f"minigpt.exercises.{m.name}") for m in pkgutil.iter_modules(minigpt.exercises.__path__)
]
CHECKS = {
    f"{module.__name__.rsplit('.', 1)[1]}.{name}": check
    for module in MODULES
    for name, check in inspect.getmembers(module, inspect.isfunction)
    if name.startswith("check_") and check.__module__ == module.__name__
}


def unwritten(*inputs: Any) -> Any:
    raise NotImplementedError


STUBS = {"None": lambda *_: None, "...": lambda *_: ..., "NotImplementedError": unwritten}


LABELS = sorted(
    {
        label
        for file in (Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb")
        for label in re.findall(r":label: (ex-\d\d-\d)", file.read_text("utf8"))
    }
)


@pytest.mark.parametrize("label", [label for label in LABELS if label not in ("ex-04-3", "ex-05-3")])
def test_stub_then_solution(label, solve, chapter_8):
    """Of every exercise, but for two that need more of their chapter and have a test of their own."""
    solve(label, **(chapter_8 if label.startswith("ex-08") else {}))


def test_every_chapter_with_exercises_is_here():
    assert len(LABELS) >= 30
    assert len(MODULES) >= 8
    assert all(any(name.startswith(module.__name__.rsplit(".", 1)[1]) for name in CHECKS) for module in MODULES)


@pytest.mark.parametrize("stub", STUBS.values(), ids=STUBS)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_an_empty_stub_is_told_once(check, stub, capsys):
    check(stub)
    out = capsys.readouterr().out
    assert out.startswith("Your turn: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize("function", CHECKS.values(), ids=CHECKS)
def test_every_check_tells_a_mistake_without_a_traceback(function):
    """A traceback would lead through the check, and so show the answer."""
    assert hasattr(function, "__wrapped__"), "decorate it with @check from minigpt.exercises"


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_check_leaves_the_generator_as_it_was(check):
    """Else every random number after an exercise would differ from the book's."""
    before = torch.get_rng_state()
    with contextlib.suppress(Exception):
        check(lambda *inputs: torch.rand(2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_notebook_shows_the_sentence_alone():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shown = []
    shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
    shell.run_cell(
        "from minigpt.exercises.block import check_layer_norm\ncheck_layer_norm(lambda x: x - x.mean(-1, keepdim=True))"
    )
    (line,) = shown
    assert line.startswith("Not yet: the mean is gone, but the sizes are not")


def test_an_assertion_of_the_reader_keeps_its_traceback():
    def own(x):
        assert x.size(0) == 99, "mine"

    with pytest.raises(AssertionError, match="mine") as error:
        CHECKS["block.check_layer_norm"](own)
    assert not isinstance(error.value, Mistake)


def test_an_operation_that_torch_lacks_is_no_empty_stub():
    """torch says so with the error that a stub may raise."""
    with pytest.raises(Mistake, match=r"stops with an error in line .* not implemented"):
        CHECKS["attention_arithmetic.check_fading_weights"](lambda T: torch.arange(T).softmax(0))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_function_that_changes_what_it_is_given_is_told(check):
    """Else the check would compare with what the function left behind."""
    tensors = []

    def greedy(*inputs):
        tensors.extend(i for i in inputs if isinstance(i, torch.Tensor))
        for tensor in tensors:
            tensor.fill_(7)
        return 1.0

    told = ""
    try:
        check(greedy)
    except Exception as error:
        told = str(error)
    assert ("changes a tensor it was given" in told) == bool(tensors)


def test_the_line_that_failed_is_named():
    def own(x):
        return x + x.nothing

    with pytest.raises(AttributeError) as error:
        own(torch.zeros(1))
    assert line_of(own, error.value).endswith("`return x + x.nothing`,")
    assert line_of(torch.nn.Linear(1, 1), error.value) == ""
