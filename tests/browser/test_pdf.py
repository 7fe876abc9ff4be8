"""`make pdf`: the whole book on paper."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from built_site import ROOT, browser_path, give_up

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_book_is_printed() -> None:
    """A PDF with an outline: an entry for every chapter and page, and no page of raw source."""
    if browser_path() is None:
        give_up("there is no Chromium: apt-get install chromium")
    done = subprocess.run([sys.executable, ROOT / "book" / "tools" / "pdf.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = (ROOT / "_build" / "minigpt.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b(?!s)", printed)) >= 20
    titles = b"\n".join(re.findall(rb"/Title \(([^)]*)\)", printed))
    for title in (b"From raw text to a full GPT", b"Questions", b"Glossary", b"API reference", b"For teachers"):
        assert title in titles, f"{title!r} is not in the outline"
