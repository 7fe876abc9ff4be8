"""The book as files: one address everywhere, every name documented, no dead link, nothing from outside.

The first half reads the sources; the second half reads the built site (`make book`) and is skipped, with a reason,
where there is none. In CI it must be there. `tests/browser` opens the same pages in a browser.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import handout
import landing
import pdf
import pytest
import repository
import yaml

from minigpt import load_model, load_tokenizer
from minigpt.run.checkpoint import load_facts

ROOT = Path(__file__).resolve().parents[1]
SITE = Path(os.environ.get("MINIGPT_SITE", ROOT / "_build" / "html"))

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.md"))
TO_GPT = 7


def chapters() -> list[str]:
    return [file["file"] for part in CONTENTS["parts"] for file in part["chapters"]]


def test_the_front_page_shows_the_models_that_are_stored() -> None:
    """`landing.py` has to run again when new weights are put in `data/weights`."""
    data, weights = json.loads((ROOT / "book" / "landing.json").read_text("utf8")), ROOT / "data" / "weights"
    model, tokenizer = (load(weights / "gpt-laptop.safetensors") for load in (load_model, load_tokenizer))
    now, _ = landing.reading(model, tokenizer.encode(data["line"])[None], tokenizer)
    shown, found = (list(base64.b64decode(reading["weights"])) for reading in (data["reading"], now))
    assert len(shown) == len(found)
    assert max(abs(a - b) for a, b in zip(shown, found, strict=True)) <= 1
    assert len(data["samples"]) == 3
    for sample, name in zip(data["samples"], ("bigram", "gpt-laptop", "modern-coffee"), strict=True):
        facts = load_facts(weights / f"{name}.safetensors")
        assert f"{facts['parameters']:,} parameters" in sample["note"]
        assert float(sample["note"].split()[-1]) == pytest.approx(facts["val_loss"], abs=0.01)


# ---- one address ---------------------------------------------------------------------------------------------------


def foreign_addresses(root: Path) -> list[str]:
    """Places that lead to a book in another repository than `repository.url` says."""
    here = repository.slug(repository.current(root))
    forms = [
        r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/",
        r"git\+https://github\.com/([\w.-]+/[\w.-]+)",
        r"github\.com/([\w.-]+/[\w.-]+)/(?:issues|edit|blob|actions)",
    ]
    found = []
    for path in repository.files(root):
        if path.exists() and path.name != Path(__file__).name:
            for form in forms:
                for match in re.finditer(form, path.read_text("utf8")):
                    if match[1].removesuffix(".git") != here and match[1] != "YOUR-NAME/YOUR-FORK":
                        found.append(f"{path.relative_to(root)}: {match[0]}")
    return found


def test_every_badge_and_install_cell_names_this_repository() -> None:
    assert foreign_addresses(ROOT) == []


def test_one_command_moves_the_book(tmp_path: Path) -> None:
    """After `repository.py URL` nothing names the old address, and moving back restores every byte."""
    copy = tmp_path / "book"
    for path in repository.files(ROOT):
        if path.exists():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    old, new = repository.current(copy), "https://github.com/" + "a-teacher/gpt-course"
    before = {path: path.read_bytes() for path in repository.files(copy)}
    changed = repository.move(new, copy)
    assert copy / "_config.yml" in changed
    assert copy / "README.md" in changed
    assert repository.current(copy) == new
    assert foreign_addresses(copy) == []
    assert [path for path in repository.files(copy) if f"{repository.slug(old)}" in path.read_text("utf8")] == []
    repository.move(old, copy)
    assert {path: path.read_bytes() for path in repository.files(copy)} == before


def test_a_planted_address_is_seen(tmp_path: Path) -> None:
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "page.md").write_text("[x](https://colab.research.google.com/github/someone/else/blob/main/n.ipynb)")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert len(foreign_addresses(tmp_path)) == 1


@pytest.mark.parametrize("url", ["minigpt", "https://gitlab.com/a/b", "https://github.com/only"])
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        repository.move(url)


def test_pages_address() -> None:
    assert repository.pages_url("https://github.com/Some-One/Book") == "https://some-one.github.io/Book/"
    assert repository.pages_url("https://github.com/some/some.github.io") == "https://some.github.io/"


# ---- what the pages promise ----------------------------------------------------------------------------------------


def test_every_page_is_in_the_contents() -> None:
    listed = {Path(file).name for file in [CONTENTS["root"], *chapters()]}
    assert [page for page in PAGES if page not in listed] == []


def test_every_public_name_is_in_the_reference() -> None:
    import minigpt

    page = (ROOT / "book" / "api.md").read_text("utf8")
    assert [name for name in minigpt.__all__ if not re.search(rf"^\.\. auto\w+:: {name}$", page, re.MULTILINE)] == []


def test_the_twenty_five_questions() -> None:
    """Each is answered once on the page; where all seven chapters are there, each leads to a cell."""
    page = (ROOT / "book" / "questions.md").read_text("utf8")
    asked = re.findall(r"\{shown\}`(q\d\d)`", page)
    assert sorted(asked) == [f"q{n:02d}" for n in range(1, 26)]
    notebooks = [json.loads((ROOT / f"{name}.ipynb").read_text("utf8")) for name in chapters() if "notebooks/" in name]
    text = "\n\n".join("".join(cell["source"]) for nb in notebooks for cell in nb["cells"])
    answered = re.findall(r"^\((q\d\d)\)=$", text, re.MULTILINE)
    assert len(answered) == len(set(answered)), f"answered twice: {sorted(answered)}"
    if len(notebooks) >= TO_GPT:
        assert sorted(set(asked) - set(answered)) == []


def test_glossary_has_the_rival_names() -> None:
    page = (ROOT / "book" / "glossary.md").read_text("utf8")
    for name in ["d_model", "emb_dim", "n_ctx", "context_length", "d_head", "head_dim"]:
        assert name in page


def test_every_reference_is_a_named_paper() -> None:
    """Every entry has an author, a title and a year, and every key is used once."""
    entries = re.findall(r"^@\w+\{(\w+),(.*?)^\}", (ROOT / "book" / "references.bib").read_text("utf8"), re.M | re.S)
    assert len({key for key, _ in entries}) == len(entries) >= 20
    for key, body in entries:
        assert all(re.search(rf"^\s*{field}\s*=", body, re.M) for field in ("author", "title", "year")), key
        assert re.search(r"year\s*=\s*\{" + re.search(r"\d{4}", key)[0], body), key  # type: ignore[index]


def test_the_build_is_strict_and_runs_no_notebook() -> None:
    assert CONFIG["execute"]["execute_notebooks"] == "off"
    assert re.search(r"jupyter-book build -n -W --keep-going", (ROOT / "Makefile").read_text("utf8"))


def test_requirements_are_pinned() -> None:
    for file in ("requirements.txt", "requirements-book.txt", "constraints.txt"):
        for line in (ROOT / file).read_text("utf8").splitlines():
            if line and not line.startswith(("#", "-r ", "-c ")):
                assert re.fullmatch(r"[\w.\[\]-]+==[\w.!+-]+", line), f"{file}: {line}"
    assert "torch" not in (ROOT / "requirements-book.txt").read_text("utf8").replace("no torch", "")


def test_links_between_markdown_files() -> None:
    """README and the other files that GitHub shows: their relative links and pictures exist."""
    for file in (ROOT / "README.md", ROOT / "data" / "README.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text("utf8")):
            if "://" not in target:
                assert (file.parent / target.split("#")[0]).exists(), f"{file.name}: {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_handouts_hold_no_solution(path: Path) -> None:
    """A handout keeps every exercise, its stub and the recap, and drops the solutions and every output."""
    whole = json.loads(path.read_text("utf8"))
    cells = handout.without_solutions(whole)["cells"]

    def text(cells: list[dict[str, object]], kind: str) -> str:
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)

    solutions = re.compile(r":::\{solution-start\}.*?:::\{solution-end\}\n:::", re.DOTALL)
    kept = solutions.sub("", text(whole["cells"], "markdown"))
    assert text(cells, "markdown").split() == kept.split()
    assert "{solution" not in kept
    assert kept.count("{exercise-start}") == kept.count("{exercise-end}") >= 3
    assert "## Recap" in kept
    code = {"".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    folded = [cell for cell in whole["cells"] if cell["metadata"].get("jupyter", {}).get("source_hidden")]
    solved = {"".join(cell["source"]) for cell in folded}
    assert len(solved) >= 3
    assert code == {"".join(cell["source"]) for cell in whole["cells"] if cell["cell_type"] == "code"} - solved
    assert not any(cell.get("outputs") for cell in cells)


def test_a_solution_within_one_cell_takes_nothing_else_with_it() -> None:
    texts = ["before\n:::{solution-start} x\n:::\nanswer\n:::{solution-end}\n:::\nafter", "and further"]
    cells = [{"cell_type": "markdown", "source": [text]} for text in texts]
    left = ["".join(cell["source"]) for cell in handout.without_solutions({"cells": cells})["cells"]]
    assert " ".join(left).split() == ["before", "after", "and", "further"]


def test_a_handout_never_replaces_the_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(handout, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["handout.py", str(tmp_path / "notebooks")])
    with pytest.raises(SystemExit, match="holds the notebooks themselves"):
        handout.main()
    monkeypatch.setattr("sys.argv", ["handout.py", str(tmp_path / "class")])
    handout.main()
    whole, handed = (
        {file.name: file.stat().st_size for file in (tmp_path / name).iterdir()} for name in ("notebooks", "class")
    )
    assert whole.keys() == handed.keys()
    assert all(0 < handed[name] < whole[name] for name in whole)


def test_the_printed_page_stays_light(tmp_path: Path) -> None:
    """Also on a desktop in the dark."""
    page = tmp_path / "page.html"
    page.write_text((ROOT / "book" / "_templates" / "layout.html").read_text("utf8"), "utf8")
    pdf.for_paper(page)
    assert 'const mode = "light";' in page.read_text("utf8")


# ---- the built site ------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The ids, links and pictures of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.without_alt: list[str] = []
        self.meta: dict[str, str] = {}
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.ids |= {attributes[name] for name in ("id", "name") if name in attributes}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag in {"img", "script", "iframe", "source", "video", "audio", "embed"} and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel", "") not in {
            "canonical",
            "search",
            "index",
            "next",
            "prev",
            "author",
        }:
            self.loads.append(attributes.get("href", ""))
        if tag == "img" and "alt" not in attributes:
            self.without_alt.append(attributes.get("src", ""))
        if tag == "meta":
            self.meta[attributes.get("property") or attributes.get("name", "")] = attributes.get("content", "")


@pytest.fixture(scope="module")
def built() -> dict[str, Page]:
    """Every page of the built site, by its path."""
    if not (SITE / "book" / "index.html").is_file():
        if os.environ.get("CI"):
            pytest.fail("in CI the site must be built before the tests: make book")
        pytest.skip("the site is not built: make book")
    paths = [path for path in SITE.glob("**/*.html") if "_static" not in path.parts]
    return {path.relative_to(SITE).as_posix(): Page(path) for path in paths}


def dead_links(name: str, page: Page, site: dict[str, Page], root: Path) -> Iterator[str]:
    prefix = urlsplit(repository.pages_url(repository.current())).path
    for link in [*page.links, *page.loads]:
        address, fragment = urldefrag(link)
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        if path.startswith(prefix):  # the 404 page counts from the root of the site
            target = (root / path[len(prefix) :]).resolve()
        else:
            target = (root / Path(name).parent / path).resolve() if path else (root / name).resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{name}: {link}"
        elif fragment and target.suffix == ".html":
            there = site.get(target.relative_to(root.resolve()).as_posix())
            if there is not None and unquote(fragment) not in there.ids:
                yield f"{name}: {link} (no such place on that page)"


def test_no_dead_link(built: dict[str, Page]) -> None:
    dead = [link for name, page in built.items() for link in dead_links(name, page, built, SITE)]
    assert not dead, "\n".join(dead)


def test_nothing_is_loaded_from_outside(built: dict[str, Page]) -> None:
    """No script, style, picture or frame from another server, on any page or in a style sheet or script of ours."""
    outside = [f"{name}: {url}" for name, page in built.items() for url in page.loads if re.match(r"(https?:)?//", url)]
    ours = [
        path for folder in ("book/_static", "book/playground", "minigpt/view") for path in (ROOT / folder).glob("*.*s")
    ]
    assert {".css", ".js"} == {path.suffix for path in ours}
    names = (
        r"[\"'(`]((?:https?:)?//(?!www\.w3\.org/)[^\s\"'`)]+)"  # the namespace of SVG is a name, nothing is asked for
    )
    for path in ours:
        outside += [f"{path.name}: {url}" for url in re.findall(names, path.read_text("utf8"))]
    assert not outside, "\n".join(outside)


def test_what_the_build_generates_is_there(built: dict[str, Page]) -> None:
    """The tables of runs and chapters and the links to answers: each directive gives nothing if it finds nothing."""
    figures, questions, teachers = (
        (SITE / "book" / f"{name}.html").read_text("utf8") for name in ("figures", "questions", "teachers")
    )
    for file in (ROOT / "data" / "runs").glob("*.json"):
        assert f"{json.loads(file.read_text('utf8'))['val_loss']:.4f}" in figures, file.name
    assert questions.count('class="shown"') == 25
    notebooks = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    rows = re.findall(r"<tr.*?</tr>", teachers, re.DOTALL)
    sums = [re.findall(r"<p>(\d+)</p>", row)[-1] for row in rows if "notebooks/" in row]
    assert all(30 <= int(minutes) <= 120 for minutes in sums), sums  # of the exercises of each chapter
    assert len(notebooks) >= 10
    assert [name for name in notebooks if not any(f"notebooks/{name}.html" in row for row in rows)] == []


def test_every_picture_has_alternative_text(built: dict[str, Page]) -> None:
    without = [f"{name}: {picture}" for name, page in built.items() for picture in page.without_alt]
    assert not without, "\n".join(without)


def test_sitemap_lists_every_page(built: dict[str, Page]) -> None:
    listed = set(re.findall(r"<loc>([^<]+)</loc>", (SITE / "sitemap.xml").read_text("utf8")))
    base = repository.pages_url(repository.current())
    assert listed == {f"{base}{file}.html" for file in [CONTENTS["root"], *chapters()]}


def test_social_preview_and_icon(built: dict[str, Page]) -> None:
    base = repository.pages_url(repository.current())
    for file in [CONTENTS["root"], *chapters()]:
        page = built[f"{file}.html"]
        assert page.meta["og:title"], file
        assert page.meta["og:description"], file
        assert page.meta["og:image"].startswith(base), file
        assert any(load.endswith("favicon.svg") for load in page.loads), file
    image = SITE / built["book/index.html"].meta["og:image"].removeprefix(base)
    assert image.is_file()


def test_the_address_of_the_site_leads_to_the_front_page_and_has_a_preview(built: dict[str, Page]) -> None:
    base, first = repository.pages_url(repository.current()), (SITE / "index.html").read_text("utf8")
    assert "<title>minigpt: from raw text to a full GPT</title>" in first
    assert 'content="0; url=book/index.html"' in first
    assert f'href="{base}book/index.html"' in first
    assert f'property="og:image" content="{base}_static/social.png"' in first


def test_what_is_folded_is_called_what_it_says(built: dict[str, Page]) -> None:
    page = (SITE / "notebooks" / "02_bigram.html").read_text("utf8")
    assert "<summary>" in page
    assert "Show the answer" in page
    assert "Toggle hidden content" not in page


def test_no_tracker_and_no_foreign_script(built: dict[str, Page]) -> None:
    words = [
        "google-analytics",
        "googletagmanager",
        "plausible.io",
        "cdn.jsdelivr",
        "unpkg.com",
        "cdnjs",
        "fonts.google",
    ]
    for name in built:
        text = (SITE / name).read_text("utf8")
        assert not [word for word in words if word in text], name


def test_planted_faults_are_seen(tmp_path: Path) -> None:
    """A dead link, a dead place, a picture without alternative text, an outside script: each is found."""
    (tmp_path / "a.html").write_text(
        '<a href="b.html">x</a><a href="gone.html">x</a><a href="b.html#gone">x</a><a href="#here">x</a>'
        '<p id="here"></p><img src="b.html"><script src="https://cdn.example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text("<p>b</p>")
    site = {name: Page(tmp_path / name) for name in ("a.html", "b.html")}
    dead = list(dead_links("a.html", site["a.html"], site, tmp_path))
    assert [link.split(": ")[1].split(" ")[0] for link in dead] == ["gone.html", "b.html#gone"]
    assert site["a.html"].without_alt == ["b.html"]
    assert "https://cdn.example.org/x.js" in site["a.html"].loads
