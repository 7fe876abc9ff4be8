"""An exercise that is still empty, in any chapter: one kind line, and 'Run all' goes on."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import minigpt.exercises

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


def test_every_chapter_with_exercises_is_here():
    assert len(MODULES) >= 8
    assert all(any(name.startswith(module.__name__.rsplit(".", 1)[1]) for name in CHECKS) for module in MODULES)


@pytest.mark.parametrize("stub", STUBS.values(), ids=STUBS)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_an_empty_stub_is_told_once(check, stub, capsys):
    check(stub)
    out = capsys.readouterr().out
    assert out.startswith("Your turn: ")
    assert out.count("\n") == 1
