"""What the site needs and Sphinx has no setting for.

- MathJax from this machine, and addresses derived from `repository.url`;
- `{shown}` and `{chapter}`: links to chapters;
- `{chapters}`: the table of minutes; `{landing}`: the trained model of the front page, from `book/landing.json`;
- `{runs}`: the table of recorded runs, from `data/runs/`;
- small repairs of the HTML that axe finds fault with.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.ext.autodoc.mock import _MockObject
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # autodoc imports minigpt from the checkout, with torch mocked
sys.path.insert(0, str(ROOT / "book" / "tools"))

from repository import pages_url  # noqa: E402

MATHJAX_PARTS = ["tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions"]
LANDING = ROOT / "book" / "landing.json"
RUNS = ROOT / "data" / "runs"


# ---- chapters ------------------------------------------------------------------------------------------------------


@cache
def chapters() -> dict[str, str]:
    """The text of each notebook that is in the contents, by its name."""
    names = re.findall(r"file: notebooks/(\w+)", (ROOT / "_toc.yml").read_text("utf8"))
    texts = {}
    for name in names:
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf8"))["cells"]
        texts[name] = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return texts


def title(name: str) -> str:
    """The first heading of a chapter."""
    found = re.search(r"^# +(.+)$", chapters()[name], re.MULTILINE)
    return found[1].replace("`", "") if found else name


def number(name: str) -> int:
    return int(name.split("_")[0])


class Chapter(SphinxRole):
    """`{chapter}`06_block``, `{chapter}`its own words <06_block>``: a link to a chapter."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        given = re.fullmatch(r"(?:(.+) <)?(\w+)>?", self.text)
        if given is None:
            raise ValueError(f"{{chapter}} takes the name of a notebook, not {self.text!r}")
        name, words = given[2], given[1]
        if name not in chapters():
            raise ValueError(f"{{chapter}}: there is no chapter {name!r} in _toc.yml")
        target = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "refwarn": True}
        link = addnodes.pending_xref(
            "",
            nodes.inline("", words or title(name)),
            reftarget=f"/notebooks/{name}",
            refdoc=self.env.docname,
            **target,
        )
        return [link], []


class Shown(SphinxRole):
    """`{shown}`q07``: 'Shown in: chapter, section', a link to the cell that answers question 7."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        for name, text in chapters().items():
            found = re.search(rf"^\({self.text}\)=\s*\n+(?:#+ +(.+))?", text, re.MULTILINE)
            if found:
                words = f"Chapter {number(name)}: {(found[1] or title(name)).replace('`', '').replace('$', '')}"
                link = addnodes.pending_xref(
                    "", nodes.inline("", words), refdomain="std", reftype="ref", refexplicit=True, refwarn=True,
                    reftarget=self.text, refdoc=self.env.docname,
                )  # fmt: skip
                return [nodes.inline("", "", link, classes=["shown"])], []
        return [], []


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """What lines of Markdown become, in the place of a directive."""
    node = nodes.container()
    directive.state.nested_parse(StringList(lines, directive.env.docname), directive.content_offset, node)
    return node.children


class Chapters(SphinxDirective):
    """The chapters of the contents with their minutes, as the notebooks state them."""

    def run(self) -> list[nodes.Node]:
        rows = ["| chapter | minutes | exercises | minutes of the exercises |", "|---|---|---|---|"]
        for name, text in chapters().items():
            reading = re.search(r"(\d+)\s+minutes", text)
            parts = re.findall(r"\{exercise-start\}(.*?)\{exercise-end\}", text, re.DOTALL)
            minutes = [int(found[1]) for part in parts if (found := re.search(r"(\d+)\s+minutes?", part))]
            sums = f"{len(parts)} | {sum(minutes)}"
            rows.append(f"| {number(name)}. {{chapter}}`{name}` | {reading[1] if reading else ''} | {sums} |")
        return parsed(self, rows)


class Runs(SphinxDirective):
    """What each recorded run reached, how it is run again, and where it was made."""

    def run(self) -> list[nodes.Node]:
        rows = ["| command | parameters | steps | seconds | validation loss | made on |", "|---|---|---|---|---|---|"]
        for file in sorted(RUNS.glob("*.json")):
            self.env.note_dependency(str(file))
            run = json.loads(file.read_text("utf8"))
            made = f"{run['machine']}; {run['train_config']['precision']}; torch {run['torch']}; {run['date']}"
            rows.append(
                f"| `{run['command']}` | {run['parameters']:,} | {run['step']:,} | {run['seconds']:.0f} "
                f"| {run['val_loss']:.4f} | {made} |"
            )
        return parsed(self, rows) if len(rows) > 2 else []


class Race(SphinxDirective):
    """Loss against time, as `make benchmark` measured it: the presets of minutes beside Hugging Face's GPT-2."""

    def run(self) -> list[nodes.Node]:
        file = RUNS / "trials" / "race.json"
        self.env.note_dependency(str(file))
        heads = ("model", "parameters", "precision", "seconds", "validation loss", "1.8857 passed after", "part")
        rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        race = json.loads(file.read_text("utf8"))
        [classic] = (run["seconds"] for run in race if run["name"] == "gpt-laptop")
        for run in race:
            passed = run["seconds_to_1.8857"]
            passed = f"{passed:.0f} s | {passed / classic:.2f}" if passed else "never | –"
            name = run["name"] if "'" in run["name"] else f"`{run['name']}`"
            rows.append(
                f"| {name} | {run['parameters']:,} | {run['precision']} | {run['seconds']:.0f} | {run['loss']:.4f} "
                f"| {passed} |"
            )
        machines = sorted({run["machine"] for run in race})
        return parsed(self, [*rows, "", f"Made on: {'; '.join(machines)}."])


# ---- the front page --------------------------------------------------------------------------------------------------


def shown_symbol(symbol: str) -> str:
    return "⏎" if symbol == "\n" else symbol


class Landing(SphinxDirective):
    """`model`: a trained model reading a line; `samples`: what each rung writes; `record`: how they were made."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        if not LANDING.is_file():
            return []
        self.env.note_dependency(str(LANDING))
        data = json.loads(LANDING.read_text("utf8"))
        make = {"model": self.model, "samples": self.samples, "record": self.record}[self.arguments[0]]
        return [nodes.raw("", make(data), format="html")]

    def model(self, data: dict[str, Any]) -> str:
        ends = {"\n": " data-end"}
        symbols = "".join(f"<span{ends.get(s, '')}>{html.escape(shown_symbol(s))}</span>" for s in data["line"])
        payload = json.dumps(data["reading"], separators=(",", ":")).replace("<", "\\u003c")
        return (
            '<figure class="reader" data-reader>'
            f'<div class="reader-line" role="img" aria-label="{html.escape(data["alt"])}">{symbols}</div>'
            '<div class="reader-controls"></div>'
            '<ol class="reader-next" aria-label="What the model expects next"></ol>'  # filled by reader.js
            f"<figcaption>{html.escape(data['caption'])} "
            f'<span class="pst-js-only">{html.escape(data["shading"])}</span></figcaption>'
            f'<script type="application/json">{payload}</script></figure>'
        )

    def samples(self, data: dict[str, Any]) -> str:
        cards = "".join(
            f'<div class="sample"><h3>{html.escape(s["name"])}</h3><p>{html.escape(s["note"])}</p>'
            f'<pre tabindex="0" role="group" aria-label="Sample of {html.escape(s["name"])}">'
            f"{html.escape(s['text'])}</pre></div>"
            for s in data["samples"]
        )
        return f'<div class="samples">{cards}</div>'

    def record(self, data: dict[str, Any]) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
            for key, value in data["record"].items()
        )
        head = "<thead><tr><th>the front page's model</th><th>as recorded</th></tr></thead>"
        return f'<table class="table">{head}<tbody>{rows}</tbody></table>'


# ---- the API page without torch --------------------------------------------------------------------------------------


def either(mocked: Any, other: Any) -> str:
    """What `torch.Generator | None` means where torch is mocked: Sphinx's mock objects know no `|`."""
    names = [
        one if isinstance(one, str) else getattr(one, "__qualname__", "") or type(one).__qualname__
        for one in (mocked, other)
    ]
    return " | ".join("None" if name == "NoneType" else name for name in names)


def signature(app: Any, what: str, name: str, obj: Any, options: Any, args: str | None, result: str | None) -> Any:
    """A module's own arguments, where the mocked `nn.Module` would show `(*args, **kwargs)`."""
    if what == "class" and args == "(*args, **kwargs)":
        own = inspect.signature(obj.__init__)
        return stringify_signature(own.replace(parameters=list(own.parameters.values())[1:]), False, False), result
    return None


# ---- addresses, MathJax ----------------------------------------------------------------------------------------------


def derive_addresses(app: Any, config: Any) -> None:
    """Fill in what follows from the one line `repository.url`, unless `_config.yml` says otherwise."""
    url = config.html_theme_options["repository_url"]
    config.html_baseurl = config.html_baseurl or pages_url(url)
    config.ogp_site_url = config.ogp_site_url or config.html_baseurl
    config.html_context["site_path"] = urlsplit(config.html_baseurl).path
    config.html_context["site_url"] = config.html_baseurl


def finish_page(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """The front page's scripts on the front page only; list items where docutils writes a role that ARIA dropped.

    And what is folded is called what it says: myst-nb names all of it 'Toggle hidden content'.
    """
    if "body" in context:
        body = context["body"].replace(' role="doc-biblioentry"', ' role="listitem"')
        context["body"] = body.replace(' aria-label="Toggle hidden content"', "")
    if pagename == app.config.root_doc:
        for name in ("symbols.js", "reader.js"):
            app.add_js_file(name, loading_method="defer")


def same_handlers(app: Any) -> None:
    """Let the printed book draw every node as the site does: one extension's handlers would hide the others'."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers["html"], **handlers["singlehtml"]}


def copy_mathjax(app: Any, exception: Exception | None) -> None:
    """Copy the part of MathJax that the pages use, so that mathematics needs no network."""
    if exception is not None or app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("pip install sphinx-mathjax-offline")
    source = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX_PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / part, target / part)


def setup(app: Any) -> dict[str, Any]:
    _MockObject.__or__ = either  # type: ignore[attr-defined]
    _MockObject.__ror__ = lambda mocked, other: either(other, mocked)  # type: ignore[attr-defined]
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.add_role("chapter", Chapter())
    app.add_role("shown", Shown())
    app.add_directive("chapters", Chapters)
    app.add_directive("landing", Landing)
    app.add_directive("runs", Runs)
    app.add_directive("race", Race)
    app.connect("autodoc-process-signature", signature)
    app.connect("config-inited", derive_addresses, priority=100)
    app.connect("builder-inited", same_handlers)
    app.connect("html-page-context", finish_page)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
