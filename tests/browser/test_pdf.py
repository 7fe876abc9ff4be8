"""`make pdf`: the whole book on paper."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from built_site import ROOT, browser_path, give_up

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_book_is_printed() -> None:
    """A PDF with an outline: an entry for every chapter and page."""
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
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        heading = re.search(r"^# +(.+)$", "\n".join("".join(cell["source"]) for cell in cells), re.MULTILINE)
        assert heading, path.name
        assert heading[1].encode() in titles, f"{heading[1]!r} is not in the outline"
