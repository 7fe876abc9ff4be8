"""Recorded runs: what a preset reached, on which machine, in how many seconds, as small JSON files in `data/runs/`.

`python -m minigpt train` writes such a file into every run's folder (`history.json`); the ones that the book quotes are
kept, so that a chapter can draw a run of minutes or hours in a second.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.training import History

FOLDERS = (Path(__file__).parents[2] / "data" / "runs", Path(__file__).parent / "recorded")  # checkout, installed


@dataclass(frozen=True)
class Record:
    """One run. Losses are in nats per symbol; `val_loss` is measured over the whole split, at the last step."""

    name: str
    preset: str
    command: str
    parameters: int
    step: int
    val_loss: float
    seconds: float  # of training; evaluations not counted
    date: str
    machine: str
    torch: str
    text_sha256: str
    model_config: dict[str, Any]
    train_config: dict[str, Any]
    history: History

    def __repr__(self) -> str:
        return (
            f"Record({self.name}: {self.parameters:,} parameters, {self.step} steps in {self.seconds:.0f} s, "
            f"validation loss {self.val_loss:.4f}, {self.machine}, {self.date})"
        )


def load_records() -> dict[str, Record]:
    """Every recorded run, by name: `modern-coffee`, and `modern-coffee.seed-2` for another seed of the same recipe.

    Raises:
        ValueError: a file is no record, or that of a run that was stopped.
    """
    return {file.stem: read_record(file) for file in sorted(_folder().glob("*.json"))}


def _folder() -> Path:
    return next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])


def load_trials(name: str) -> list[dict[str, Any]]:
    """Short trials, as `book/tools/trials.py` and the benchmark made them: `ideas`, `scaling` or `race`.

    Raises:
        ValueError: there are no trials of that name.
    """
    file = _folder() / "trials" / f"{name}.json"
    if not file.exists():
        there = ", ".join(sorted(other.stem for other in file.parent.glob("*.json")))
        raise ValueError(f"there are no trials named {name!r}: there are {there}")
    return json.loads(file.read_text("utf8"))


def read_record(file: Path) -> Record:
    """Read one record; errors as in `load_records`."""
    try:
        facts = json.loads(file.read_text("utf8"))
        record = Record(name=file.stem, **{**facts, "history": History(**facts["history"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not the record of a run ({error}): write it with `minigpt train`") from None
    if record.val_loss is None:
        raise ValueError(
            f"{file} is of a run that was stopped at step {record.step}: go on with `train --resume` first"
        )
    return record
