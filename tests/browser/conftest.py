"""A browser and a server for the built site.

Without a browser, or without a built site, these tests are skipped and say why; in CI (CI=true) they fail instead.
The browser is `chromium` (Debian: apt-get install chromium), Google Chrome, or what MINIGPT_CHROMIUM names.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("MINIGPT_SITE", ROOT / "_build" / "html"))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]  # fmt: skip


def pages() -> list[str]:
    """Every page of the site, as a path below its root, the chapters first."""
    found = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("**/*.html") if "_static" not in path.parts)
    return sorted((page for page in found if page != "index.html"), key=lambda page: not page.startswith("notebooks/"))


def give_up(reason: str) -> None:
    """Skip with a reason; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI the browser tests must run, but {reason}")
    pytest.skip(reason)


def browser_path() -> str | None:
    names = [os.environ.get("MINIGPT_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of the built site on this machine."""
    if not (SITE / "book" / "index.html").is_file():
        give_up("the site is not built: make book")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = browser_path()
    if path is None:
        give_up("there is no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("there is no playwright: pip install -r requirements.txt")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page, 1280 pixels wide, light."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    yield context.new_page()
    context.close()
