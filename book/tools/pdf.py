"""Print the whole book to `_build/minigpt.pdf`: `python book/tools/pdf.py` (or `make pdf`).

Sphinx joins all pages into one (`singlehtml`), and a headless Chromium prints it, with an outline. Chromium is found as
`chromium` or `google-chrome`, or where MINIGPT_CHROMIUM points (Debian: apt-get install chromium).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--no-pdf-header-footer", "--generate-pdf-document-outline", "--virtual-time-budget=120000",
    "--force-prefers-reduced-motion", "--run-all-compositor-stages-before-draw",
]  # fmt: skip
PRINT = """
<style>
  @page { size: A4; margin: 18mm 16mm 20mm; @bottom-center { content: counter(page); font: 9pt sans-serif; } }
  .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article, .bd-footer, .bd-footer-content,
  .prev-next-footer, .skip-link, #pst-back-to-top, #jb-print-docs-body, dialog, .onlyprint { display: none !important; }
  .bd-main, .bd-content, .bd-article-container, .bd-container, .bd-container__inner { display: block !important;
    max-width: none !important; width: auto !important; padding: 0 !important; margin: 0 !important;
    overflow: visible !important; }
  .bd-article > section:first-of-type > h1 { display: block !important; }
  .compound > span + section, .toctree-wrapper > section { break-before: page; }
</style>
"""


def chromium() -> str:
    names = [os.environ.get("MINIGPT_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome"]
    for name in names:
        if name and (path := shutil.which(name)):
            return path
    raise SystemExit(
        "make pdf needs Chromium. On Debian: apt-get install chromium; on Ubuntu: snap install chromium; "
        "or name the program: MINIGPT_CHROMIUM=/path/to/chrome make pdf"
    )


def join_pages(folder: Path) -> Path:
    """Build the book as one HTML page; returns its path."""
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", ".", "--builder", "custom"]
    command += ["--custom-builder", "singlehtml", "--path-output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    site = folder / "_build" / "singlehtml"
    page = site / "book" / "index.html"
    if not page.is_file():
        raise SystemExit(f"the pages could not be joined:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return page.rename(site / "print.html")  # its links to styles and pictures begin at the root of the site


def for_paper(page: Path) -> None:
    """Open what is folded, drop scripts that only serve a screen, stay light."""
    text = page.read_text("utf8")
    text = text.replace("</head>", PRINT + "</head>")
    text = re.sub(r"<details(?! open)", "<details open", text)
    text = re.sub(r'(class="[^"]*\badmonition\b[^"]*)\bdropdown\b', r"\1", text)
    text = text.replace('kept("mode") || "auto"', '"light"')  # as `layout.html` says it
    page.write_text(text, "utf8")


def main() -> None:
    program = chromium()
    target = ROOT / "_build" / "minigpt.pdf"
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)  # of an earlier print, which must not pass for this one
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # a Chromium from a snap has a /tmp of its own
        print("joining the pages", flush=True)
        page = join_pages(Path(folder))
        for_paper(page)
        print("printing", flush=True)
        command = [program, *FLAGS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if not target.is_file() or target.read_bytes()[:5] != b"%PDF-":
        raise SystemExit(f"Chromium printed nothing:\n{done.stderr[-2000:]}")
    print(f"the book is in {target.relative_to(ROOT)}, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
