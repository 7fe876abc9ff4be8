"""Colab, imitated: an environment that already has torch, an empty folder, no checkout, and 'Run all'.

The environment has everything that `.venv` has except minigpt. The notebook's own first cell installs it from
`repository.url`, which git is told to find on this disk; pip is told that no index exists. So the install works only
if nothing but minigpt itself is missing, and torch cannot be replaced.

`make test` runs the first chapter this way, and MINIGPT_COLAB=all runs every one (a CI job of its own does).
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import repository

ROOT = Path(__file__).resolve().parents[1]
EVERY = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = EVERY if os.environ.get("MINIGPT_COLAB") == "all" else EVERY[:1]

RUN_ALL = """
import sys, nbformat, nbclient
nb = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(nb, timeout=None, kernel_name="python3").execute()
"""
ASK = "import torch, minigpt; print(torch.__version__); print(minigpt.__file__)"


def commit_of_this_tree(folder: Path) -> Path:
    """A repository with one commit: what is in the working tree now."""
    copy = folder / "repository"
    parts = ("minigpt", "data", "pyproject.toml", "README.md", "LICENSE")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *parts]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "the tree as it is"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The Python of an environment with torch and without minigpt, and the variables it runs with."""
    folder = tmp_path_factory.mktemp("colab")
    shared = folder / "preinstalled"
    shared.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "minigpt" not in entry.name and entry.suffix != ".pth":
            (shared / entry.name).symlink_to(entry)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    Path(site.stdout.strip(), "preinstalled.pth").write_text(f"{shared}\n")
    keep = ("PATH", "HOME", "MINIGPT_DATA", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{commit_of_this_tree(folder)}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository.current(),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: build with what is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    return python, environment


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_in_an_empty_folder(notebook: Path, colab: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    python, environment = colab
    (tmp_path / notebook.name).write_bytes(notebook.read_bytes())
    done = subprocess.run(
        [python, "-c", RUN_ALL, notebook.name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    import torch

    asked = subprocess.run(
        [python, "-c", ASK], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    version, file = asked.stdout.split()
    assert version == torch.__version__, "the install replaced torch"
    assert Path(file).is_relative_to(python.parents[1]), "minigpt did not come from the install cell"
