"""Loss against time, on the real text: the presets of minutes, and Hugging Face's GPT-2 trained by the same loop.

Part of `make benchmark`; takes six to fifteen minutes. With `RECORD=1 make benchmark` the table is kept in
`data/runs/trials/race.json`, and the page 'About the figures' shows it.
"""

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_speed import SMALL, config_of, theirs
from torch import Tensor

from minigpt import CharTokenizer, evaluate, split, train
from minigpt.bigram import LanguageModel
from minigpt.run.checkpoint import BUILD, write_bytes
from minigpt.run.presets import PRESETS
from minigpt.run.processes import machine
from minigpt.text import SHA256
from minigpt.training import History

FILE = Path(__file__).parents[2] / "data" / "runs" / "trials" / "race.json"
NANOGPT = 1.8857  # the loss of nanoGPT's recipe for a CPU, whose step takes a little longer than one of `gpt-laptop`
QUICK = ("bigram", "gpt-laptop", "modern-tiny", "modern-small", "modern-laptop")


class HuggingFace(LanguageModel):
    """GPT-2 of Hugging Face, of `gpt-laptop`'s sizes, with the promise of the book's models."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=65, block_size=64)  # type: ignore[assignment]
        self.model = theirs(SMALL, block_size=64)

    def forward(self, idx: Tensor) -> Tensor:
        return self.model(idx).logits


def seconds_to(loss: float, history: History) -> float | None:
    """When the curve of the validation loss crosses `loss`, on a straight line between two measurements."""
    points = list(zip(history.seconds, history.val_losses, strict=True))
    for (t0, before), (t1, after) in pairwise(points):
        if after <= loss < before:
            return t0 + (before - loss) / (before - after) * (t1 - t0)
    return None


def test_loss_against_time(book_text, capsys):
    if hashlib.sha256(book_text.encode()).hexdigest() != SHA256:
        pytest.skip("the real text is not here: the losses would be those of another")
    torch.set_num_threads(os.cpu_count() or 1)  # the other tests use one
    train_ids, val_ids = split(CharTokenizer(book_text).encode(book_text))
    table = []
    for name in [*QUICK, "Hugging Face's GPT-2"]:
        preset = PRESETS[name if name in QUICK else "gpt-laptop"]
        torch.manual_seed(preset.config.seed)
        model = BUILD[preset.model]({"vocab_size": 65, **preset.sizes}) if name in QUICK else HuggingFace()
        config = config_of(preset, model)
        history = train(model, train_ids, val_ids, config, progress=False)
        table.append({
            "name": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": preset.config.steps,
            "seconds": round(history.seconds[-1], 1),
            "loss": round(evaluate(model, val_ids), 4),
            "seconds_to_1.8857": seconds_to(NANOGPT, history),
            "precision": config.precision,
            "machine": f"{machine(torch.device('cpu'))}, torch {torch.__version__}",
        })  # fmt: skip
    by_name = {row["name"]: row for row in table}
    classic = by_name["gpt-laptop"]["seconds"]
    with capsys.disabled():
        print(f"\n{'':22}{'parameters':>11}{'seconds':>9}{'loss':>8}   1.8857 reached after")
        for row in table:
            reached = row["seconds_to_1.8857"]
            part = f"{reached:6.1f} s, {reached / classic:.2f} of gpt-laptop's" if reached else "     never"
            print(f"{row['name']:22}{row['parameters']:11,}{row['seconds']:9.1f}{row['loss']:8.4f}   {part}")
    reached = by_name["modern-tiny"]["seconds_to_1.8857"]
    assert reached is not None
    assert reached <= classic / 6
    assert by_name["modern-small"]["loss"] < by_name["modern-laptop"]["loss"] < by_name["gpt-laptop"]["loss"]
    assert classic < by_name["Hugging Face's GPT-2"]["seconds"]
    if os.environ.get("RECORD"):  # what chapter 10 says of the race holds for it
        write_bytes(FILE, (json.dumps(table, indent=1) + "\n").encode())
