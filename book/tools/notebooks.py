"""Run the notebooks and store them, always the same way: `python book/tools/notebooks.py [NAME ...]`.

Every cell is executed, in order, in the notebook's own folder. What is written holds nothing that changes
from one run to the next: ids by position, no times, no widget state, no progress bars, sorted keys. A
fingerprint of the code cells and of every minigpt file they lead to is kept in the metadata. While it is
unchanged, outputs that differ from run to run (cells tagged `nbval-ignore-output`: samples, timings, trained
figures) stay as they were stored, so running an unchanged notebook writes the same bytes.

    --check      execute nothing; list the notebooks whose code or sources changed since they were stored
    --normalise  execute nothing; only rewrite the file in its normal form
    --fresh      take the new output of every cell, tagged or not
    --keep       keep those of tagged cells though minigpt changed: for a change that no output shows
                 (a cell whose outputs were cleared takes its new ones, a stored explorer today's style and script)
    --any-text   store what a run on the built-in stand-in text shows, where the real text is missing
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

from minigpt.run.checkpoint import write_bytes

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PACKAGE = ROOT / "minigpt"
IGNORE = "nbval-ignore-output"
EXPLORER = re.compile(r'(<style>)(.*?)(</style>.*<script>)(.*)(\("[0-9a-f]{12}", \{)', re.DOTALL)
WIDGET = "application/vnd.jupyter.widget-view+json"
KEEP_METADATA = {"tags", "mystnb", "jupyter"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python",
                      "pygments_lexer": "ipython3"},
}  # fmt: skip


# ---- fingerprint -----------------------------------------------------------------------------------------


def plain(source: str) -> str:
    """The cell without lines that only IPython understands."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


def module_file(name: str) -> Path | None:
    """The file of the module `name`, if minigpt has it."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if name.split(".")[0] == "minigpt" and file.is_file():
            return file
    return None


def facade() -> dict[str, str]:
    """Public name -> the module that `minigpt/__init__.py` takes it from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf8"))
    return {
        alias.asname or alias.name: ("minigpt." if node.level else "") + (node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def modules_used(source: str, exported: dict[str, str], package: str = "") -> set[str]:
    """The minigpt modules that a piece of code imports or names as `minigpt.NAME`."""
    used: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):  # what only a type checker imports is never run
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names if alias.name.startswith("minigpt.")}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            if base.split(".")[0] == "minigpt":
                used.add(base)
                used |= {exported.get(alias.name, f"{base}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "minigpt":
            used |= {exported.get(node.attr, ""), f"minigpt.{node.attr}"}
    return used - {"", "minigpt"}


def fingerprint(nb: Any) -> str:
    """One hash over the code cells and the text of every minigpt file they lead to, the same in every fork."""
    exported = facade() if (PACKAGE / "__init__.py").is_file() else {}
    code = [plain(cell.source) for cell in nb.cells if cell.cell_type == "code"]  # without the address to install from
    todo, seen = modules_used("\n".join(code), exported), set[Path]()
    while todo:
        name = todo.pop()
        file = module_file(name)
        if file is not None and file not in seen:
            seen.add(file)
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            todo |= modules_used(file.read_text("utf8"), exported, package)
    digest = hashlib.sha256("\0".join(code).encode())
    beside = {file.with_suffix(suffix) for file in seen for suffix in (".js", ".css")}  # what a view brings along
    if PACKAGE / "run" / "records.py" in seen:  # the notebook draws recorded runs
        beside |= set((ROOT / "data" / "runs").glob("**/*.json"))
    for file in sorted(seen | {file for file in beside if file.is_file()}):
        digest.update(f"\0{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


# ---- the normal form -------------------------------------------------------------------------------------


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def folded(cell: Any, in_solution: bool) -> dict[str, bool]:
    """What an editor folds, so that nobody reads an answer by accident: a solution, and what the page folds as well.

    JupyterLab opens an output again when its cell is run.
    """
    if in_solution:
        return {"outputs_hidden": True, "source_hidden": True}
    return {"outputs_hidden": True} if "hide-output" in tags(cell) else {}


def open_gates(source: str) -> str:
    """Exercises and solutions begin and end with :::, each in a paragraph of its own.

    The site reads ``` as well, but Colab and JupyterLab take that for code and hide the line with the title.
    """
    gate = re.compile(r"^```(\{(?:exercise|solution)-(?:start|end)\}.*\n(?::.*\n)*)```$", re.MULTILINE)
    return re.sub(
        r"^(:::\{[a-z]+-(?:start|end)\}.*\n(?::[a-z].*\n)*:::\n)(?=.)",
        r"\1\n",
        gate.sub(r":::\1:::", source),
        flags=re.MULTILINE,
    )


def clean_outputs(cell: Any, count: int) -> list[Any]:
    """Outputs without widgets (dead on a page) and with neighboring pieces of one stream joined."""
    kept: list[Any] = []
    for output in cell.outputs:
        if WIDGET in output.get("data", {}):
            continue
        if output.output_type == "execute_result":
            output.execution_count = count
        same = kept and output.output_type == "stream" == kept[-1].output_type and output.name == kept[-1].name
        if same:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def normalise(nb: Any) -> None:
    """Bring a notebook into the one form it is stored in."""
    count, in_solution = 0, False
    for position, cell in enumerate(nb.cells, start=1):
        cell.id = f"cell-{position:02d}"
        cell.source = cell.source.rstrip()
        if cell.cell_type == "markdown":
            cell.source = open_gates(cell.source)
            in_solution = cell.source.rfind("{solution-start}") > cell.source.rfind("{solution-end}") or (
                in_solution and "{solution-end}" not in cell.source
            )
        cell.metadata["jupyter"] = folded(cell, in_solution) if cell.cell_type == "code" else {}
        cell.metadata = nbformat.NotebookNode({k: v for k, v in cell.metadata.items() if k in KEEP_METADATA and v})
        if cell.cell_type == "code":
            if cell.execution_count is not None:
                count += 1
                cell.execution_count = count
            cell.outputs = clean_outputs(cell, count)
        else:
            cell.pop("attachments", None)
    stored = nb.metadata.get("minigpt", {})
    nb.metadata = nbformat.from_dict({**METADATA, **({"minigpt": stored} if stored else {})})
    nb.nbformat, nb.nbformat_minor = 4, 5


def write(nb: Any, path: Path) -> bool:
    """Write the notebook if its bytes changed."""
    normalise(nb)
    nbformat.validate(nb)
    split = nbformat.v4.rwbase.split_lines(nbformat.from_dict(json.loads(json.dumps(nb))))
    text = json.dumps(split, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text("utf8") == text:
        return False
    write_bytes(path, text.encode())
    return True


# ---- execution -------------------------------------------------------------------------------------------


def execute(nb: Any, path: Path) -> None:
    """Run every cell in a fresh kernel of this Python, in the notebook's folder."""
    from nbclient import NotebookClient

    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    started = time.perf_counter()

    def report(cell: Any, cell_index: int, **_: Any) -> None:
        done = sum(c.cell_type == "code" for c in nb.cells[: cell_index + 1])
        print(
            f"\r{path.stem}: cell {done}/{len(code)}, {time.perf_counter() - started:.0f} s ",
            end="",
            flush=True,
        )

    client = NotebookClient(
        nb, timeout=None, kernel_name="python3", store_widget_state=False, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}}, on_cell_executed=report,
    )  # fmt: skip
    client.execute()
    print()
    for cell in code:
        if any(WIDGET in output.get("data", {}) for output in cell.outputs) and IGNORE not in tags(cell):
            first = cell.source.splitlines()[0]
            raise SystemExit(f"{path.name}: a cell shows a widget or a progress bar; tag it {IGNORE}: {first}")


def keep_stored(nb: Any, old: Any) -> None:
    """Put the stored outputs of cells that may differ from run to run back in place."""
    before = [cell for cell in old.cells if cell.cell_type == "code"]
    after = [cell for cell in nb.cells if cell.cell_type == "code"]
    for ran, was in zip(after, before, strict=True):
        if IGNORE in tags(ran) and was.outputs:
            ran.outputs = was.outputs
            for output in ran.outputs:
                if 'class="minigpt-explorer"' in output.get("data", {}).get("text/html", ""):
                    output["data"]["text/html"] = with_todays_script(output["data"]["text/html"])
        # A figure's bytes depend on the fonts of the machine: the same code on the same numbers keeps its picture.
        for new, stored in zip(ran.outputs, was.outputs, strict=False):
            if "image/png" in new.get("data", {}) and "image/png" in stored.get("data", {}):
                new["data"]["image/png"] = stored["data"]["image/png"]


def with_todays_script(explorer: str) -> str:
    """A stored explorer: its own weights and table, the style and script that the package has now."""
    import torch

    from minigpt.view.explorer import AttentionExplorer

    _, style, _, script, _ = EXPLORER.findall(AttentionExplorer(torch.eye(2), "ab")._repr_html_())[0]
    return EXPLORER.sub(lambda found: found[1] + style + found[3] + script + found[5], explorer)


def run(path: Path, fresh: bool = False, keep: bool = False) -> None:
    before = path.read_text("utf8")
    nb, old = nbformat.reads(before, as_version=4), nbformat.reads(before, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    execute(nb, path)
    now = fingerprint(nb)
    if keep or (not fresh and old.metadata.get("minigpt", {}).get("fingerprint") == now):
        keep_stored(nb, old)
    nb.metadata["minigpt"] = {"fingerprint": now}
    if path.read_text("utf8") != before:
        raise SystemExit(f"{path.name} was saved while it ran, in an editor perhaps: nothing is written; run it again")
    print(f"{path.stem}: {'written' if write(nb, path) else 'unchanged'}, {path.stat().st_size / 1e3:.0f} kB")


def stale(path: Path) -> bool:
    nb = nbformat.read(path, as_version=4)
    return nb.metadata.get("minigpt", {}).get("fingerprint") != fingerprint(nb)


def has_real_text() -> bool:
    """Whether the notebooks will read Tiny Shakespeare, and not the stand-in that replaces it offline."""
    from minigpt import text

    return hashlib.sha256(text.load_text().encode()).hexdigest() == text.SHA256


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="01_text, notebooks/01_text.ipynb, ... (default: all)")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--normalise", action="store_true")
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument("--fresh", action="store_true")
    outputs.add_argument("--keep", action="store_true")
    parser.add_argument("--any-text", action="store_true")
    options = parser.parse_args(arguments)
    paths = [NOTEBOOKS / f"{Path(name).stem}.ipynb" for name in options.names] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"there is no notebook {path.relative_to(ROOT)}")
    if options.check:
        old = [path.stem for path in paths if stale(path)]
        print("\n".join(f"{name}: its code or minigpt changed since it was run" for name in old) or "all up to date")
        return int(bool(old))
    if paths and not (options.normalise or options.any_text or has_real_text()):
        raise SystemExit("stored outputs come from the real text: set MINIGPT_DATA to its folder (see data/README.md)")
    for path in paths:
        if options.normalise:
            nb = nbformat.read(path, as_version=4)
            print(f"{path.stem}: {'written' if write(nb, path) else 'unchanged'}")
        else:
            run(path, options.fresh, options.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
