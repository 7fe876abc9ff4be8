"""Every page of the built site, opened in a real browser."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import repository
from built_site import ROOT, SIGNS, SITE, pages

pytestmark = pytest.mark.browser

MAX_WEIGHT = 1_500_000
BROKEN_PICTURES = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
# Measuring the colors of thousands of code tokens takes nearly all of axe's time. So of the texts that look alike (the
# same elements, classes and styles around them up to the body; in a table, a row of the same stripe) it sees four: it
# cannot judge each, since some lie below others. It judges no single letter.
MARK_LOOKS = """() => {
    const seen = {};
    for (const e of document.body.querySelectorAll('*')) {
        if (![...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim().length > 1)) continue;
        let look = e.id;
        for (let p = e; p !== document.body; p = p.parentElement)
            look += `<${p.tagName} ${p.getAttribute('class')} ${p.getAttribute('style')} ${p.rowIndex % 2}>`;
        seen[look] = (seen[look] || 0) + 1;
        e.toggleAttribute('data-look', seen[look] <= 4);
    }
}"""
COLORS = ["color-contrast", "link-in-text-block"]
each_page = pytest.mark.parametrize("name", pages())
each_notebook = pytest.mark.parametrize("name", [page for page in pages() if page.startswith("notebooks/")])


class Watch:
    """What a page asks for and complains about."""

    def __init__(self, page: Any, origin: str) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.failed: list[str] = []
        self.weight: dict[str, int] = {}
        self.origin = origin
        page.on("request", self.asked)
        page.on("response", self.answered)
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.failed.append(request.url))

    def asked(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.outside.append(request.url)

    def answered(self, response: Any) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")
        elif response.url.startswith(self.origin + "/"):
            self.weight[response.url] = (SITE / response.url[len(self.origin) + 1 :].split("?")[0]).stat().st_size


def settle(page: Any) -> None:
    """Wait until mathematics is typeset, and the playground has drawn its model."""
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    page.wait_for_function(
        "() => { const pg = document.querySelector('.pg[data-models]'); return !pg || pg.dataset.first; }"
    )


@each_page
def test_opens_without_a_complaint(page: Any, site: str, name: str) -> None:
    """No error on the console, nothing asked for outside, every picture there, mathematics typeset, not too heavy."""
    watch = Watch(page, site)
    page.goto(f"{site}/{name}")
    settle(page)
    page.wait_for_load_state("networkidle")
    weight = sum(size for url, size in watch.weight.items() if "/mathjax/" not in url and "/weights/" not in url)
    heaviest = sorted(watch.weight.items(), key=lambda item: -item[1])[:4]
    formulas, typeset = page.locator(".math.notranslate").count(), page.locator("mjx-container").count()
    faults = {
        "errors on the console": watch.errors,
        "asked for outside": watch.outside,
        "did not arrive": watch.failed,
        "broken pictures": page.evaluate(BROKEN_PICTURES),
        "formulas that are not typeset": formulas - typeset if typeset < formulas else 0,
        "formulas with an error": page.locator("mjx-merror").count(),
        "too heavy": (weight, heaviest) if weight > MAX_WEIGHT else 0,
    }
    assert not {what: fault for what, fault in faults.items() if fault}


@each_page
def test_opens_from_a_folder(page: Any, site: str, name: str) -> None:
    """Over file:// too: no server, no network, no error."""
    watch = Watch(page, "file:///")
    page.goto((SITE / name).as_uri())
    settle(page)
    assert (watch.errors, watch.outside, watch.failed) == ([], [], [])


@each_page
def test_is_accessible(page: Any, site: str, name: str) -> None:
    """axe-core finds nothing, light and dark, on a desktop and on a telephone."""
    from axe_playwright_python.sync_playwright import Axe

    page.goto(f"{site}/{name}")
    settle(page)
    page.evaluate(MARK_LOOKS)
    structure = None, {"rules": {rule: {"enabled": False} for rule in COLORS}}  # what to look at, and for what
    colors = {"include": [["[data-look]"]]}, {"runOnly": COLORS}
    found = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(400)  # the theme lets the keyboard into wide code a moment after the size changes
        for theme, (context, rules) in (("light", structure), ("light", colors), ("dark", colors)):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            for violation in Axe().run(page, context, {**rules, "resultTypes": ["violations"]}).response["violations"]:
                nodes = [node["html"][:160] for node in violation["nodes"][:3]]
                found.append(f"{theme}, {width} px: {violation['id']} ({len(violation['nodes'])}): {nodes}")
    assert not found, "\n".join(found)


@each_page
def test_fits_a_telephone(page: Any, site: str, name: str) -> None:
    """At 390 pixels nothing makes the page scroll sideways."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site}/{name}")
    settle(page)
    width = page.evaluate("() => document.scrollingElement.scrollWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll('article.bd-article *')]
            .filter(e => e.getBoundingClientRect().right > 391 && e.checkVisibility())
            .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
                             if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
                           return true; })
            .map(e => e.outerHTML.slice(0, 120)).slice(0, 5)"""
    )
    assert width <= 390, wide
    assert wide == []
    cut = """() => [...document.querySelectorAll('mjx-container:not([display])')]
        .filter(e => e.getBoundingClientRect().right > 390 && e.checkVisibility())
        .map(e => e.closest('p, li, td, dd')?.textContent.slice(0, 80))"""
    assert page.evaluate(cut) == [], "a formula in a line cannot break there: write it in pieces"


@each_notebook
def test_colab_link(page: Any, site: str, name: str) -> None:
    """The launch button and the badge lead to this very notebook in Colab."""
    page.goto(f"{site}/{name}")
    notebook = Path(name).with_suffix(".ipynb").name
    slug = repository.slug(repository.current())
    want = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{notebook}"
    links = page.evaluate("() => [...document.querySelectorAll('a[href*=\"colab.research\"]')].map(a => a.href)")
    assert len(links) >= 2
    assert set(links) == {want}
    assert page.locator(f"a[href$='_sources/notebooks/{notebook}']").count() == 1, "no download button"


def test_front_page_shows_a_model_reading(page: Any, site: str) -> None:
    """The shading follows mouse, keyboard and head, and is that head's weights; the expectations follow as well."""
    data = json.loads((ROOT / "book" / "landing.json").read_text("utf8"))["reading"]
    page.goto(f"{site}/book/index.html")

    def expected(at: int) -> list[str]:
        return [SIGNS.get(symbol, symbol) for symbol, _ in data["next"][at]]

    def listed() -> list[str]:
        return page.locator(".reader-next code").all_inner_texts()

    shades = "() => [...document.querySelectorAll('.reader-line span')].map(s => s.style.getPropertyValue('--shade'))"
    here = "() => [...document.querySelectorAll('.reader-line span')].findIndex(s => s.className.includes('here'))"
    place, before = page.evaluate(here), page.evaluate(shades)
    assert "Shaded:" in page.locator(".reader figcaption").inner_text()
    assert "each symbol is shaded" in page.locator(".reader-line").get_attribute("aria-label")
    assert place > 0
    assert listed() == expected(place)
    at, layer, head = (data["start"][name] for name in ("position", "layer", "head"))
    began = (layer * data["heads"] + head) * data["length"] * (data["length"] + 1) // 2 + at * (at + 1) // 2
    row = base64.b64decode(data["weights"])[began : began + at + 1]
    amounts = [(byte / 255) ** 0.6 for byte in row]
    shaded = [0.8 + 0.4 * (amount - 0.5) if amount > 0.5 else 0.8 * amount for amount in amounts]
    shaded = [0 if amount < 0.02 else shade for amount, shade in zip(amounts, shaded, strict=True)]
    assert [float(w) for w in before[: at + 1]] == pytest.approx(shaded, abs=2e-3)
    assert not any(float(weight) for weight in before[place + 1 :]), "it reads the future"
    assert max(float(weight) for weight in before) > 0.3
    page.locator(".reader input").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(here) == place - 1
    assert page.evaluate(shades) != before
    assert listed() == expected(place - 1)
    page.keyboard.press("ArrowRight")
    page.locator(".reader select").nth(1).select_option("0")
    assert page.evaluate(shades) != before
    chances = [float(text.rstrip(" %")) for text in page.locator(".reader-next .p").all_inner_texts()]
    assert len(chances) == 5
    assert chances == sorted(chances, reverse=True)
    page.locator(".reader-line span").nth(5).hover()
    assert page.evaluate(here) == 5
    assert listed() == expected(5)
    page.get_by_role("button", name="Read on").click()
    page.wait_for_function(f"() => ({here})() !== 5")
    page.get_by_role("button", name="Pause").click()


def test_the_front_page_without_scripts_speaks_of_no_shades(browser: Any, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/book/index.html")
    assert "reads a line it has never seen." in page.locator(".reader figcaption").inner_text()
    assert "Shaded" not in page.locator(".reader figcaption").inner_text()
    assert page.locator(".reader-line").get_attribute("aria-label") == "A line of a play"
    context.close()


def test_the_arrow_of_a_fold_stays_in_its_title(page: Any, site: str) -> None:
    """On a telephone a title takes two lines: below it, the arrow would lie on the first line of an open solution."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site}/notebooks/08_inside.html")
    page.locator(".solution .toggle-button").first.wait_for()
    below = page.evaluate(
        """() => [...document.querySelectorAll('.solution > .admonition-title')].map(title => {
            const [arrow, whole] = [title.querySelector('.toggle-button'), title].map(e => e.getBoundingClientRect());
            return arrow.bottom - whole.bottom;
        })"""
    )
    assert len(below) >= 4
    assert max(below) <= 0, below


def test_search_finds_residual(page: Any, site: str) -> None:
    page.goto(f"{site}/search.html?q=residual")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").count() >= 1


def test_dark_mode(page: Any, site: str) -> None:
    """The switch turns the page dark, and the next page stays dark."""
    page.goto(f"{site}/book/index.html")
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for _ in range(3):
        page.locator("button.theme-switch-button").first.click()
        if page.evaluate("() => document.documentElement.dataset.theme") == "dark":
            break
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.goto(f"{site}/book/questions.html")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"


def test_paper_is_white_and_no_script_is_needed_for_colors(page: Any, site: str) -> None:
    """The dark theme prints as the light one, and a page without scripts has the colors of the light one."""
    ground = "() => getComputedStyle(document.documentElement).getPropertyValue('--ground').trim()"
    page.add_init_script("localStorage.setItem('theme', 'dark'); localStorage.setItem('mode', 'dark')")
    page.goto(f"{site}/book/questions.html")
    assert page.evaluate(ground) == "#12161c"
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "#fff"
    page.emulate_media(media="screen")
    written = re.search(r'<html[^>]* data-theme="(\w+)"', page.request.get(page.url).text())
    assert written
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", written[1])
    assert page.evaluate(ground) == "#fff"


def test_keyboard_reaches_everything(page: Any, site: str) -> None:
    """Tab visits every link, button and folded part of a page."""
    page.goto(f"{site}/book/how_to_read.html")
    settle(page)
    expected = page.evaluate(
        """() => [...document.querySelectorAll('a[href], button, summary, input, select, [tabindex="0"]')]
            .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0
                         && !e.closest('dialog:not([open])'))
            .map((e, i) => { e.dataset.key = i; return i; }).length"""
    )
    seen = set()
    for _ in range(expected + 20):
        page.keyboard.press("Tab")
        key = page.evaluate("() => document.activeElement && document.activeElement.dataset.key")
        if key is not None:
            seen.add(key)
    missing = set(map(str, range(expected))) - seen
    html = [page.locator(f"[data-key='{key}']").first.evaluate("e => e.outerHTML.slice(0, 100)") for key in missing]
    assert not missing, html


@each_notebook
def test_folded_answers_open_by_keyboard(page: Any, site: str, name: str) -> None:
    page.goto(f"{site}/{name}")
    summary = page.locator("main details > summary").first
    assert page.locator("main details[open]").count() == 0
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("main details[open]").count() == 1


@each_notebook
def test_code_can_be_copied(page: Any, site: str, name: str) -> None:
    page.goto(f"{site}/{name}")
    assert page.locator("button.copybtn").count() >= 5
    assert re.search(r"issues/new", page.content())
    assert re.search(rf"edit/main/notebooks/{Path(name).stem}\.ipynb", page.content())
