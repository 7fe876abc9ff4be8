"""Move the book to another repository: `python book/tools/repository.py https://github.com/OWNER/NAME`.

Writes the one line `repository.url` in `_config.yml`, then replaces the old address wherever else it is
written: badges and install cells of the notebooks, the README, pyproject.toml, the site's address on GitHub
Pages. Without an argument it prints the address. `tests/test_site.py` fails where a file names another one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^(repository:\n(?:[ #].*\n)*?\s+url:\s*)(\S+)", re.MULTILINE)
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
SUFFIXES = {".ipynb", ".md", ".toml", ".yml", ".yaml", ".py", ".html", ".cff", ".txt"}


def current(root: Path = ROOT) -> str:
    """The address in `_config.yml`."""
    found = LINE.search((root / "_config.yml").read_text("utf8"))
    if found is None:
        raise SystemExit("_config.yml has no line `url:` under `repository:`")
    return found[2]


def pages_url(repository: str) -> str:
    """The address at which GitHub Pages serves the book of that repository."""
    owner, name = slug(repository).split("/")
    host = f"https://{owner.lower()}.github.io/"
    return host if name.lower() == f"{owner.lower()}.github.io" else f"{host}{name}/"


def slug(repository: str) -> str:
    """OWNER/NAME."""
    return urlsplit(repository).path.strip("/").removesuffix(".git")


def files(root: Path = ROOT) -> list[Path]:
    """The text files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [root / name for name in listed.stdout.split("\0") if Path(name).suffix in SUFFIXES]


def move(new: str, root: Path = ROOT) -> list[Path]:
    """Replace the repository's address by `new` in every file; returns the files that changed."""
    new = new.rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(new):
        raise SystemExit(f"{new!r} is not of the form https://github.com/OWNER/NAME")
    old, changed = current(root), []
    edge = r"(?![\w-]|\.(?!git\b)\w)"  # the old address must not go on: .../minigpt is not .../minigpt-notes
    swaps = [
        (re.escape(f"github.com/{slug(old)}") + edge, f"github.com/{slug(new)}"),
        (re.escape(f"/github/{slug(old)}/"), f"/github/{slug(new)}/"),
        (re.escape(pages_url(old)), pages_url(new)),
    ]
    for path in files(root):
        before = after = path.read_text("utf8") if path.exists() else ""
        for pattern, replacement in swaps:
            after = re.sub(pattern, replacement, after)
        if after != before:
            path.write_text(after, "utf8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(current())
    elif sys.argv[1].startswith("-"):
        print(__doc__)
    else:
        for changed_file in move(sys.argv[1]):
            print("changed", changed_file.relative_to(ROOT))
