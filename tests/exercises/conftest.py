"""The exercises of the notebooks, run as a reader would: first the empty stub, then the solution."""

import ast
import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from minigpt import GPT, CharTokenizer, GPTConfig
from notebooks import plain

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
matplotlib.use("Agg")


def code_between(cells: list[dict[str, Any]], start: str, end: str) -> list[str]:
    """The code cells from the markdown cell that matches `start` to the next one that matches `end`."""
    inside, found = False, []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and inside:
            found.append(plain(source))
        elif cell["cell_type"] == "markdown":
            if re.search(start, source, re.MULTILINE):
                inside = True
            if inside and re.search(end, source, re.MULTILINE):
                return found
    raise AssertionError(f"no cell with {start}, or nothing that ends it")


def imports(cells: list[dict[str, Any]]) -> str:
    """Every import statement of the notebook, wherever it stands."""
    trees = [ast.parse(plain("".join(cell["source"]))) for cell in cells if cell["cell_type"] == "code"]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, nodes))


def run(sources: list[str], names: dict[str, Any]) -> str:
    """Run the cells one after the other in `names`; what they print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source in sources:
            exec(compile(source, "<cell>", "exec"), names)
    return printed.getvalue()


@pytest.fixture
def chapter_8() -> dict[str, Any]:
    """What the cells of chapter 8 hold when the exercises begin, small."""
    tokenizer = CharTokenizer("aetTAE,. \n")
    windows = torch.randint(10, (3, 8))
    return {
        "model": GPT(GPTConfig(10, 8, 16, 4, 4, 0.0)).eval(),
        "tokenizer": tokenizer,
        "windows": windows,
        "idx": windows[:, :-1],
        "targets": windows[:, 1:],
        "is_letter": torch.tensor([symbol.isalpha() for symbol in tokenizer.symbols]),
        "logits": torch.randn(5, 3, 7, 10),
        "cost": torch.rand(4, 4),
        "whole": 1.0,
    }


@pytest.fixture
def right_by_chance(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """`right_by_chance(check, answer)`: is it told right on twenty other draws than the check's own?"""

    def confirm(check: Any, answer: Callable[..., Any]) -> None:
        for seed in range(20):
            torch.manual_seed(seed)
            check.__wrapped__(answer)  # without what always draws the same numbers
            assert "Right" in capsys.readouterr().out

    return confirm


@pytest.fixture
def solve() -> Callable[..., dict[str, Any]]:
    """`solve('ex-01-1', train_ids=...)`: run an exercise's stub and check, then its solution; return all names.

    The notebook is the one whose two digits the label holds; its imports are run first, and what else the cells
    need of it is handed in by name. The stub must not raise, and must not pass; the solution must pass its check.
    """

    def solve(label: str, **given: Any) -> dict[str, Any]:
        (path,) = NOTEBOOKS.glob(f"{label.split('-')[1]}_*.ipynb")
        cells = json.loads(path.read_text("utf8"))["cells"]
        names = {"__name__": "notebook"}
        run([imports(cells)], names)
        names |= given
        stub = code_between(
            cells, rf"^[`:]{{3,}}\{{exercise-start\}}.*\n:label: *{label}$", r"^[`:]{3,}\{exercise-end\}"
        )
        printed = run(stub, names)
        assert stub, f"{label} has no stub"
        assert "Right:" not in printed, f"the stub of {label} passes its check: {printed}"
        assert printed.strip(), f"the stub of {label} says nothing: is its check called?"
        solution = code_between(cells, rf"^[`:]{{3,}}\{{solution-start\}} *{label}$", r"^[`:]{3,}\{solution-end\}")
        printed = run(solution, names)
        assert "Right:" in printed, f"the solution of {label} is not confirmed by its check: {printed}"
        return names

    return solve
