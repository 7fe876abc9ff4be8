"""Ask every outside link of the book whether it still answers: `python book/tools/linkcheck.py` (or `make linkcheck`).

Not a test: it depends on other people's servers. Lists every address with the pages that hold it, and ends with 1
where one is gone. `--list` only lists them.
"""

from __future__ import annotations

import http.client
import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
OWN = re.compile(r"https://github\.com/[^/]+/[^/]+/(edit|issues)|https://colab\.research\.google\.com/github/")


def outside_links() -> dict[str, list[str]]:
    """Every http(s) address that a page of the built site links to, with those pages."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SITE.glob("**/*.html")):
        if "_static" not in path.parts:
            for link in set(re.findall(r'<a[^>]*\shref="(https?://[^"#]+)', path.read_text("utf8"))):
                if not OWN.match(link):
                    found[unescape(link)].append(path.relative_to(SITE).as_posix())
    return found


def answer(url: str) -> str:
    """'' where the address answers, else what is wrong."""
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check of a book)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in (403, 429) else f"{error.code} {error.reason}"  # it is there, and wants no robots
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def main() -> int:
    links = outside_links()
    if not links:
        raise SystemExit("no site in _build/html: make book")
    if "--list" in sys.argv:
        print("\n".join(f"{url}  ({', '.join(pages)})" for url, pages in sorted(links.items())))
        return 0
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(links, pool.map(answer, links), strict=True))
    for url, pages in sorted(links.items()):
        print(
            f"{'gone' if answers[url] else 'ok  '}  {url}" + (f"  {answers[url]}; on {pages}" if answers[url] else "")
        )
    gone = sum(map(bool, answers.values()))
    print(f"{len(links)} outside links, {gone} without an answer")
    return int(gone > 0)


if __name__ == "__main__":
    sys.exit(main())
