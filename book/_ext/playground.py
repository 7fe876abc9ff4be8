"""The page `book/playground`: the models of `data/weights/` run on it, in `book/playground/minigpt.js`,
from files that `checkpoint.js` beside it reads.

- `{playground}`: the place that `page.js` fills, and what stands there without scripts;
- `{pair}`: pieces of Python beside the pieces of JavaScript that do the same, each from its own file;
- scripts, style and weights are written to `_static/playground/` and loaded by this page alone. The weights are classic
  scripts, because over file:// a page may load nothing else.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
PAGE = "book/playground"
FOLDER = ROOT / "book" / "playground"
WEIGHTS = ROOT / "data" / "weights"
SCRIPTS = ["minigpt.js", "checkpoint.js", "page.js"]
DEFAULT = "gpt-laptop"


def models() -> list[Path]:
    """The stored models, the one that the page opens with first."""
    return sorted(WEIGHTS.glob("*.safetensors"), key=lambda file: (file.stem != DEFAULT, file.stem))


def python_source(file: str, name: str, in_class: bool = False) -> str:
    """The source of a class, function or method (`Class.method`) of minigpt, without its docstring.

    With `in_class` a method stands below the first line of its class.
    """
    text = (ROOT / "minigpt" / file).read_text("utf8")
    found: Any = ast.parse(text)
    lines, opening = text.splitlines(), []
    for part in name.split("."):
        found = next(node for node in found.body if getattr(node, "name", None) == part)
        opening.append(lines[found.lineno - 1])
    first, last = found.lineno - 1, found.end_lineno
    drop: set[int] = set()
    for node in ast.walk(found):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            drop |= set(range(node.body[0].lineno - 1, node.body[0].end_lineno or 0))
    kept = [line for i, line in enumerate(lines[first:last], first) if i not in drop]
    return without_indent([*opening[:-1], *kept] if in_class else kept)


def javascript_source(name: str) -> str:
    """The source of a top-level class or function, or of a method (`Class.method`), of minigpt.js."""
    lines = (FOLDER / "minigpt.js").read_text("utf8").splitlines()
    for depth, part in enumerate(name.split(".")):
        opening = re.compile(rf"{'  ' * depth}(?:async |class |function\*? )*\*?{re.escape(part)}\b.*\{{")
        start = next(i for i, line in enumerate(lines) if opening.match(line))
        end = next(i for i in range(start, len(lines)) if lines[i] == "  " * depth + "}")
        lines = lines[start : end + 1]
    return without_indent(lines)


def without_indent(lines: list[str]) -> str:
    indent = len(lines[0]) - len(lines[0].lstrip())
    text = "\n".join(line[indent:] for line in lines)
    return re.sub(r"\n{2,}(?=\n)", "\n", re.sub(r":\n\n", ":\n", text))


class Pair(SphinxDirective):
    """`FILE NAME ...` of minigpt beside minigpt.js: the same names, unless `:javascript:` says others."""

    required_arguments = 2
    optional_arguments = 20
    option_spec = {"javascript": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        file, *names = self.arguments
        others = self.options["javascript"].split() if "javascript" in self.options else names
        self.env.note_dependency(str(ROOT / "minigpt" / file))
        self.env.note_dependency(str(FOLDER / "minigpt.js"))
        python = [python_source(file, name, in_class=len(names) > 1) for name in names]
        javascript = [javascript_source(name) for name in others]
        halves = [
            (f"minigpt/{file}", "python", "\n\n".join(python)),
            ("book/playground/minigpt.js", "javascript", "\n\n".join(javascript)),
        ]
        pair = nodes.container(classes=["pg-pair"])
        for title, language, source in halves:
            half = nodes.container(classes=["pg-half"])
            half += nodes.paragraph("", "", nodes.literal("", title), classes=["pg-file"])
            half += nodes.literal_block(source, source, language=language)
            pair += half
        return [pair]


class Playground(SphinxDirective):
    """Where the models run."""

    def run(self) -> list[nodes.Node]:
        names = " ".join(f"{file.stem}?v={hashlib.sha256(file.read_bytes()).hexdigest()[:8]}" for file in models())
        text = (
            f'<div class="pg" data-models="{names}" role="region" aria-label="Playground">'
            "<p class='pg-wait'>The models run in your browser, in JavaScript. This text gives way to them when "
            "scripts are on.</p></div>"
        )
        return [nodes.raw("", text, format="html")]


def load_scripts(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    if pagename == PAGE:
        app.add_css_file("playground/page.css")
        app.add_js_file("symbols.js", loading_method="defer")
        for name in SCRIPTS:
            app.add_js_file(f"playground/{name}", loading_method="defer")
        app.add_js_file(f"playground/weights/{models()[0].stem}.js", loading_method="async")  # page.js brings the rest


def write_files(app: Any) -> None:
    """Before the pages, so that their links to these files carry a checksum."""
    if app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "playground"
    (target / "weights").mkdir(parents=True, exist_ok=True)
    for name in [*SCRIPTS, "page.css"]:
        (target / name).write_bytes((FOLDER / name).read_bytes())
    for file in models():
        text = base64.b64encode(file.read_bytes()).decode()
        script = f'(self.minigpt_weights ||= []).push(["{file.stem}", "{text}"]);\n'
        (target / "weights" / f"{file.stem}.js").write_text(script, "utf8")


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("playground", Playground)
    app.add_directive("pair", Pair)
    app.connect("builder-inited", write_files)
    app.connect("html-page-context", load_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
