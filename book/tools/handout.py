"""Copies of the notebooks for students: `python book/tools/handout.py FOLDER`. No solutions, no outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def without_solutions(nb: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what stands from `{solution-start}` to `{solution-end}`, and without outputs."""
    kept, inside = [], False
    for cell in nb["cells"]:
        rest, text = "".join(cell["source"]), ""
        while rest:  # a solution may end in the cell where the next exercise begins, or where it began
            part, mark, rest = rest.partition(":::{solution-end}\n:::" if inside else ":::{solution-start}")
            text += "" if inside else part
            inside ^= bool(mark)
        if text.strip():
            empty: dict[str, Any] = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
            kept.append({**cell, "source": text.strip("\n"), **empty})
    return {**nb, "cells": kept}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if folder.exists() and folder.samefile(ROOT / "notebooks"):
        raise SystemExit("that folder holds the notebooks themselves: name another one")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        nb = without_solutions(json.loads(path.read_text("utf8")))
        (folder / path.name).write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", "utf8")
        print(folder / path.name)


if __name__ == "__main__":
    main()
