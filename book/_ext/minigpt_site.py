"""What the site needs and Sphinx has no setting for: local MathJax, addresses derived from `repository.url`."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # autodoc imports minigpt from the checkout, with torch mocked
sys.path.insert(0, str(ROOT / "book" / "tools"))

from repository import pages_url  # noqa: E402

MATHJAX_PARTS = ["tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions"]


def derive_addresses(app: Any, config: Any) -> None:
    """Fill in what follows from the one line `repository.url`, unless `_config.yml` says otherwise."""
    url = config.html_theme_options["repository_url"]
    config.html_baseurl = config.html_baseurl or pages_url(url)
    config.ogp_site_url = config.ogp_site_url or config.html_baseurl


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
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("config-inited", derive_addresses, priority=100)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
