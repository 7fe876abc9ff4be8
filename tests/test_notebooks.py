"""The shape of every notebook: executed, in order, readable, with alt text, and defining nothing that minigpt defines.

What the cells compute is compared by `pytest --nbval`; here only the stored file is read. `problems` returns the
faults of one notebook, so that the tests below can also hand it a notebook with each fault planted.

A picture's alt text, caption and label are cell metadata, read by myst-nb:

    "mystnb": {"image": {"alt": "what it shows"}, "figure": {"name": "fig-x", "caption": "what it means"}}
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import repository
import torch

import notebooks as tool
from minigpt.view.explorer import AttentionExplorer

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TO_GPT = ["01_text", "02_bigram", "03_attention_arithmetic", "04_single_head", "05_multi_head", "06_block", "07_gpt"]
MAX_LINES, MAX_WIDTH, MAX_BYTES = 20, 88, 1_500_000
DIRECTIVE_LABEL = re.compile(r"^:(?:label|name): *(\S+)$", re.MULTILINE)
TARGET = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
MARKDOWN_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)")
MARKDOWN_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
REFERENCE = re.compile(r"\{(?:ref|numref|eq)\}`(?:[^`<]*<)?([\w-]+)>?`")


def setup_lines() -> list[str]:
    """How the first code cell of every notebook begins."""
    return [
        "try:",
        "    import minigpt",
        "except ModuleNotFoundError:  # in Colab: install the package; torch stays as it is",
        f"    %pip install -q git+{repository.current()}",
        "    import minigpt",
    ]


def defined_in_minigpt() -> set[str]:
    """Every public class and function at the top level of a minigpt module."""
    names = set()
    for file in (ROOT / "minigpt").rglob("*.py"):
        for node in ast.parse(file.read_text("utf8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                names.add(node.name)
    return names - {"main"}


def source(cell: Any) -> str:
    return "".join(cell["source"])


def prose(cell: Any) -> str:
    """A markdown cell without its inline and fenced code; directives (```{name}) keep their text."""
    text = re.sub(r"^```(?!\{)\w*\n.*?^```", "", source(cell), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\})`[^`\n]+`", "", text)


def labels(cells: list[Any]) -> Iterator[str]:
    for cell in cells:
        if cell["cell_type"] == "markdown":
            yield from DIRECTIVE_LABEL.findall(source(cell))
            yield from TARGET.findall(source(cell))
        name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        if name:
            yield name


def code_problems(code: list[Any], taken: set[str]) -> Iterator[str]:
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"not executed once, in order: {counts}"
    if code and source(code[0]).splitlines()[:5] != setup_lines():
        yield "the first code cell is not the setup cell: it begins\n" + "\n".join(setup_lines())
    if not any(cell["outputs"] for cell in code):
        yield "no outputs are stored"
    for cell in code:
        first = source(cell).splitlines()[0] if source(cell).strip() else "(an empty cell)"
        lines = [line for line in source(cell).splitlines() if line.strip()]
        if len(lines) > MAX_LINES:
            yield f"{len(lines)} lines of code in one cell: {first}"
        own = [line for line in lines if not line.strip().startswith("%pip")]  # a fork's address may be long
        if any(len(line) > MAX_WIDTH for line in own):
            yield f"a line of more than {MAX_WIDTH} characters: {max(own, key=len)}"
        for node in ast.walk(ast.parse(tool.plain(source(cell)))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in taken:
                yield f"defines {node.name}, which minigpt defines"
        if set(cell["metadata"]) - tool.KEEP_METADATA:
            yield f"metadata of some other tool, {sorted(cell['metadata'])}: {first}"
        for output in cell["outputs"]:
            data = output.get("data", {})
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            if any(kind.startswith("image/") for kind in data) and not alt.strip():
                yield f"a picture without alt text: {first}"
            if tool.WIDGET in data:
                yield f"a stored widget: {first}"
            if output["output_type"] == "error" and "raises-exception" not in tool.tags(nb_cell(cell)):
                yield f"a stored error: {first}"


def nb_cell(cell: Any) -> Any:
    return tool.nbformat.from_dict(cell)


def link_problems(text: str, folder: Path, known: set[str]) -> Iterator[str]:
    for image in MARKDOWN_IMAGE.finditer(text):
        if not image["alt"].strip():
            yield f"a picture without alt text: {image[0]}"
        if "://" in image["target"]:
            yield f"a picture from another server: {image['target']}"
        elif not (folder / image["target"]).is_file():
            yield f"no such picture: {image['target']}"
    for link in MARKDOWN_LINK.finditer(text):
        target = link["target"].split("#")[0]
        if target and "://" not in target and not target.startswith("mailto:") and not (folder / target).is_file():
            yield f"a link to a file that is not there: {target}"
    for label in REFERENCE.findall(text):
        if label not in known:
            yield f"a reference to a label that is not there: {label}"


def table_problems(text: str) -> Iterator[str]:
    for header in re.findall(r"^(\|.*\|) *\n\|[ :|-]+\| *$", text, re.MULTILINE):
        if any(not cell.strip() for cell in header.strip().strip("|").split("|")):
            yield f"a table with an empty heading, which a screen reader cannot name: {header}"


def exercise_problems(text: str) -> Iterator[str]:
    exercises = re.findall(r"^[`:]{3,}\{exercise-start\}[^\n]*\n:label: *(\S+)", text, re.MULTILINE)
    solved = re.findall(r"^[`:]{3,}\{solution-start\} *(\S+)", text, re.MULTILINE)
    if not 3 <= len(exercises) <= 5:
        yield f"{len(exercises)} exercises (three to five)"
    if sorted(exercises) != sorted(solved):
        yield f"exercises {exercises} and solutions {solved} do not pair up"


def problems(nb: dict[str, Any], path: Path, known: set[str]) -> list[str]:
    """Everything that is wrong with a notebook; `known` are the labels of the whole book."""
    cells, found = nb["cells"], []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    markdown = [cell for cell in cells if cell["cell_type"] == "markdown"]
    if not 30 <= len(cells) <= 55:
        found.append(f"{len(cells)} cells (30 to 55)")
    if "widgets" in nb["metadata"]:
        found.append("widget state in the metadata")
    found += code_problems(code, defined_in_minigpt())
    for cell in markdown:
        found += link_problems(prose(cell), path.parent, known)
        found += table_problems(source(cell))
    found += exercise_problems("\n".join(map(source, markdown)))
    badge = f"/github/{repository.slug(repository.current())}/blob/main/notebooks/{path.name}"
    if not markdown or badge not in source(markdown[0]):
        found.append(f"no Colab badge in the first cell: https://colab.research.google.com{badge}")
    return found


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf8"))


@pytest.fixture(scope="module")
def known_labels() -> set[str]:
    """Every label of the book's notebooks and pages."""
    known = {label for path in NOTEBOOKS for label in labels(load(path)["cells"])}
    for page in (ROOT / "book").glob("**/*.md"):
        known |= {*TARGET.findall(page.read_text("utf8")), *DIRECTIVE_LABEL.findall(page.read_text("utf8"))}
    return known


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_shape(path: Path, known_labels: set[str]) -> None:
    found = problems(load(path), path, known_labels)
    assert not found, "\n".join(found)


@each_notebook
def test_size(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES


@each_notebook
def test_normal_form(path: Path, tmp_path: Path) -> None:
    """The file is what `make notebooks` writes, to the byte."""
    written = tmp_path / path.name
    tool.write(tool.nbformat.read(path, as_version=4), written)
    assert written.read_bytes() == path.read_bytes(), "run: make notebooks (or notebooks.py --normalise)"


def test_stored_explorers_are_those_of_the_package() -> None:
    """A page shows what a notebook stored: a mended script or style must have reached it."""
    today = AttentionExplorer(torch.eye(2), "ab")._repr_html_()
    assert len(tool.EXPLORER.findall(today)) == 1
    old = today.replace("minigpt-explorer {", "a {").replace('"use strict"', '"as it was"')
    assert old != today == tool.with_todays_script(old)
    seen = 0
    for path in NOTEBOOKS:
        for cell in load(path)["cells"]:
            for output in cell.get("outputs", []):
                html = "".join(output.get("data", {}).get("text/html", ""))
                if 'class="minigpt-explorer"' in html:
                    seen += 1
                    assert html == tool.with_todays_script(html), f"{path.name}, {cell['id']}: run it again, --keep"
    assert seen >= 5


def test_chapters_are_in_the_contents() -> None:
    """Every notebook is in the table of contents, and no chapter is missing between two that are there."""
    contents = (ROOT / "_toc.yml").read_text("utf8")
    missing = [path.stem for path in NOTEBOOKS if f"notebooks/{path.stem}\n" not in contents]
    assert not missing, f"not in _toc.yml: {missing}"
    there = [path.stem for path in NOTEBOOKS if path.stem in TO_GPT]
    assert there == TO_GPT[: len(there)]


def test_labels_are_unique() -> None:
    seen: dict[str, str] = {}
    twice = []
    for path in NOTEBOOKS:
        for label in labels(load(path)["cells"]):
            if label in seen:
                twice.append(f"{label}: {seen[label]} and {path.stem}")
            seen[label] = path.stem
    assert not twice, "\n".join(twice)


# ---- the checks themselves: a sound notebook passes, and each planted fault is seen --------------------------------


def sound_notebook() -> dict[str, Any]:
    """The smallest notebook without a fault."""

    def markdown(text: str) -> dict[str, Any]:
        return {"cell_type": "markdown", "metadata": {}, "source": text}

    def code(text: str, count: int) -> dict[str, Any]:
        return {"cell_type": "code", "metadata": {}, "source": text, "execution_count": count, "outputs": []}

    badge = f"https://colab.research.google.com/github/{repository.slug(repository.current())}"
    cells = [markdown(f"# Toy\n\n[Colab]({badge}/blob/main/notebooks/toy.ipynb)"), code("\n".join(setup_lines()), 1)]
    cells += [code(f"x = {n}", n) for n in range(2, 12)]
    cells[-1]["outputs"] = [{"output_type": "display_data", "data": {"image/png": "iVBOR"}, "metadata": {}}]
    cells[-1]["metadata"] = {"mystnb": {"image": {"alt": "A line."}, "figure": {"name": "fig-a"}}}
    for n in range(3):
        cells.append(markdown(f":::{{exercise-start}} Title\n:label: ex-{n}\n:::\n\nDo."))
        cells.append(markdown(":::{exercise-end}\n:::"))
        cells.append(markdown(f":::{{solution-start}} ex-{n}\n:label: sol-{n}\n:::\n\nSo."))
        cells.append(markdown(":::{solution-end}\n:::"))
    cells += [markdown("Text, {numref}`fig-a`.") for _ in range(8)]
    return {"cells": cells, "metadata": {}}


def plant(change: Callable[[list[Any]], Any]) -> dict[str, Any]:
    nb = copy.deepcopy(sound_notebook())
    change(nb["cells"])
    return nb


TOY = ROOT / "notebooks" / "toy.ipynb"


def test_a_sound_notebook_passes() -> None:
    assert problems(sound_notebook(), TOY, {"fig-a"}) == []


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("not executed", lambda cells: cells[3].update(execution_count=None)),
        ("not executed", lambda cells: cells[3].update(execution_count=9)),
        ("not the setup cell", lambda cells: cells[1].update(source="import minigpt")),
        ("no outputs", lambda cells: cells[11].update(outputs=[])),
        ("21 lines", lambda cells: cells[3].update(source="x = 1\n" * 21)),
        ("more than 88", lambda cells: cells[3].update(source="x = " + "1" * 90)),
        ("defines Head", lambda cells: cells[3].update(source="if True:\n    class Head: ...")),
        ("other tool", lambda cells: cells[3].update(metadata={"colab": {}})),
        ("without alt text", lambda cells: cells[11].update(metadata={})),
        ("without alt text", lambda cells: cells[30].update(source="![](../book/_static/logo.svg)")),
        ("another server", lambda cells: cells[30].update(source="![x](https://example.org/x.png)")),
        ("no such picture", lambda cells: cells[30].update(source="![x](nothing.png)")),
        ("not there: nothing.ipynb", lambda cells: cells[30].update(source="[x](nothing.ipynb)")),
        ("not there: fig-z", lambda cells: cells[30].update(source="{numref}`fig-z`")),
        ("empty heading", lambda cells: cells[30].update(source="| | b |\n|---|---|\n| 1 | 2 |")),
        ("stored widget", lambda cells: cells[11]["outputs"].append({"output_type": "x", "data": {tool.WIDGET: {}}})),
        ("stored error", lambda cells: cells[11]["outputs"].append({"output_type": "error"})),
        ("do not pair up", lambda cells: cells[14].update(source="no solution")),
        ("exercises (three", lambda cells: [cells[12].update(source="-"), cells[14].update(source="-")]),
        ("29 cells", lambda cells: cells.__delitem__(slice(29, None))),
        ("no Colab badge", lambda cells: cells[0].update(source="# Toy")),
    ],
)
def test_a_planted_fault_is_seen(message: str, change: Callable[[list[Any]], Any]) -> None:
    found = problems(plant(change), TOY, {"fig-a"})
    assert any(message in problem for problem in found), found


def test_storing_is_normal_and_repeatable(tmp_path: Path) -> None:
    """Ids, times, widgets and foreign metadata go; writing again changes nothing."""
    nb = tool.nbformat.from_dict({**sound_notebook(), "nbformat": 4, "nbformat_minor": 5})
    nb.metadata = tool.nbformat.from_dict({"widgets": {"x": 1}, "colab": {}})
    nb.cells[11].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00"}
    nb.cells[11].outputs.append({"output_type": "display_data", "data": {tool.WIDGET: {}, "text/plain": "0%"}})
    for n, cell in enumerate(nb.cells):
        cell.id = f"random{n}"
    path = tmp_path / "toy.ipynb"
    assert tool.write(nb, path)
    text = path.read_text("utf8")
    assert not re.search('random|2026|widget|colab"', text)
    assert text.endswith("}\n")
    assert not tool.write(tool.nbformat.read(path, as_version=4), path)


@pytest.mark.parametrize(
    ("source", "stored", "option", "shown"),
    [
        ("x = 1", "old", [], "old"),
        ("x = 2", "old", [], "new"),
        ("x = 1", "old", ["--fresh"], "new"),
        ("x = 2", "old", ["--keep"], "old"),
        ("x = 2", "", ["--keep"], "new"),  # cleared by hand
    ],
)
def test_what_may_differ_stays_stored_only_while_the_code_stays(source, stored, option, shown, tmp_path, monkeypatch):
    v4, path = tool.nbformat.v4, tmp_path / "toy.ipynb"

    def printed(text: str) -> list[Any]:
        return [v4.new_output("stream", text=text)]

    def execute(nb: Any, path: Path) -> None:
        nb.cells[0].update(outputs=printed("new"), execution_count=1)

    monkeypatch.setattr(tool, "execute", execute)
    outputs = printed(stored) if stored else []
    cell = v4.new_code_cell("x = 1", execution_count=1, metadata={"tags": [tool.IGNORE]}, outputs=outputs)
    nb = v4.new_notebook(cells=[cell])
    nb.metadata["minigpt"] = {"fingerprint": tool.fingerprint(nb)}
    nb.cells[0].source = source
    tool.write(nb, path)
    assert tool.stale(path) == (source != "x = 1")
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    tool.main(["toy", "--any-text", *option])
    assert load(path)["cells"][0]["outputs"][0]["text"] == [shown]
    assert not tool.stale(path)


def test_outputs_of_the_stand_in_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.write(tool.nbformat.v4.new_notebook(), tmp_path / "toy.ipynb")
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(tool, "has_real_text", lambda: False)
    monkeypatch.setattr(tool, "run", None)
    with pytest.raises(SystemExit, match="stored outputs come from the real text"):
        tool.main(["toy"])


def test_a_fork_finds_its_notebooks_up_to_date() -> None:
    """The first cell holds the repository's address; in a fork it is another one, and the outputs are the same."""
    nb = tool.nbformat.read(NOTEBOOKS[0], as_version=4)
    before = tool.fingerprint(nb)
    fork = "https://github.com/somebody/a-copy"
    for cell in nb.cells:
        cell.source = cell.source.replace(repository.current(), fork)
    assert fork in "".join(cell.source for cell in nb.cells)
    assert tool.fingerprint(nb) == before


def test_what_was_saved_while_a_notebook_ran_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v4, path = tool.nbformat.v4, tmp_path / "toy.ipynb"
    tool.write(v4.new_notebook(cells=[v4.new_code_cell("x = 1")]), path)

    def execute(nb: Any, path: Path) -> None:
        tool.write(v4.new_notebook(cells=[v4.new_code_cell("x = 2")]), path)

    monkeypatch.setattr(tool, "execute", execute)
    with pytest.raises(SystemExit, match=r"toy.ipynb was saved while it ran"):
        tool.run(path)
    assert load(path)["cells"][0]["source"] == ["x = 2"]


def test_answers_are_folded_in_an_editor(tmp_path: Path) -> None:
    """JupyterLab folds a solution, and an answer that the page folds; what a hand unfolded is folded again."""
    nb = tool.nbformat.from_dict({**sound_notebook(), "nbformat": 4, "nbformat_minor": 5})
    code = tool.nbformat.v4.new_code_cell("answer", execution_count=1, metadata={"jupyter": {"source_hidden": False}})
    nb.cells.insert(15, code)
    nb.cells[3].metadata = tool.nbformat.from_dict({"tags": ["hide-output"]})
    tool.write(nb, tmp_path / "toy.ipynb")
    cells = load(tmp_path / "toy.ipynb")["cells"]
    assert "{solution-start}" in source(cells[14])
    assert "{solution-end}" in source(cells[16])
    assert cells[15]["metadata"] == {"jupyter": {"outputs_hidden": True, "source_hidden": True}}
    assert cells[3]["metadata"] == {"jupyter": {"outputs_hidden": True}, "tags": ["hide-output"]}
    assert [n for n, cell in enumerate(cells) if "jupyter" in cell["metadata"]] == [3, 15]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("```{exercise-start} T\n:label: ex-1\n```\nDo.", ":::{exercise-start} T\n:label: ex-1\n:::\n\nDo."),
        (":::{solution-start} ex-1\n:label: s\n:::\nSo.", ":::{solution-start} ex-1\n:label: s\n:::\n\nSo."),
        ("```{solution-end}\n```\n\n```{exercise-start} T\n:label: e\n```\n\nDo.",
         ":::{solution-end}\n:::\n\n:::{exercise-start} T\n:label: e\n:::\n\nDo."),
        ("```{exercise-end}\n```", ":::{exercise-end}\n:::"),
        ("```python\nx = 1\n```\n:::{admonition} A\nB\n:::", "```python\nx = 1\n```\n:::{admonition} A\nB\n:::"),
    ],
)  # fmt: skip
def test_the_title_of_an_exercise_can_be_read_in_an_editor(written: str, stored: str) -> None:
    """As a fence of backticks it would be code, whose first line, with the title, an editor does not show."""
    assert tool.open_gates(written) == stored == tool.open_gates(stored)


def test_fingerprint_follows_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in a module that a notebook leads to makes it stale; a change elsewhere does not."""
    package = tmp_path / "minigpt"
    package.mkdir()
    (package / "__init__.py").write_text("from .block import Block\nfrom .other import Other\n")
    (package / "block.py").write_text(
        "from typing import TYPE_CHECKING\nfrom minigpt.attention import Head\n"
        "if TYPE_CHECKING:\n    from minigpt.other import Other\n"
    )
    (package / "attention.py").write_text("Head = 1\n")
    (package / "other.py").write_text("Other = 1\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PACKAGE", package)
    nb = tool.nbformat.from_dict(
        {"cells": [{"cell_type": "code", "source": "%matplotlib inline\nfrom minigpt import Block"}], "metadata": {}}
    )
    before = tool.fingerprint(nb)
    (package / "other.py").write_text("Other = 2\n")
    assert tool.fingerprint(nb) == before
    (package / "attention.py").write_text("Head = 2\n")
    changed = tool.fingerprint(nb)
    assert changed != before
    (package / "attention.js").write_text("let head;\n")  # a script that belongs to a module
    assert tool.fingerprint(nb) != changed
    nb.cells[0].source += "\nfrom minigpt.run import records"
    (package / "run").mkdir()
    (package / "run" / "records.py").write_text("load_records = 1\n")
    without_runs = tool.fingerprint(nb)
    (tmp_path / "data" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "bigram.json").write_text("{}")
    without_trials = tool.fingerprint(nb)
    assert without_trials != without_runs  # a new record is drawn
    (tmp_path / "data" / "runs" / "trials").mkdir()
    (tmp_path / "data" / "runs" / "trials" / "ideas.json").write_text("[]")
    assert tool.fingerprint(nb) != without_trials  # and so are new trials
