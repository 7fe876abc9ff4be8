"""Where the built site and the browser are, and what to do without them."""

from __future__ import annotations

import os
import shutil
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("MINIGPT_SITE", ROOT / "_build" / "html"))
SIGNS = {"\n": "⏎", " ": "␣"}  # what the pages show for a symbol that cannot be seen


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
    """Serves files and says nothing."""

    def log_message(self, *_: Any) -> None:
        pass
