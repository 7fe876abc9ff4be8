"""Runs that survive: a folder that holds everything needed to go on after a crash, a power cut or Ctrl-C.

`run.safetensors` holds one moment of a run, whole: weights, optimizer, generators, step and history. It is replaced
atomically, so a run killed at any moment goes on from the last one: one process on a CPU with the same bits as if it
had never stopped.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt.bigram import LanguageModel
from minigpt.run.checkpoint import BUILD, RUN_FILE, CheckpointError, fitting, read_tensors, write_tensors
from minigpt.text import CharTokenizer
from minigpt.training import History, TrainConfig, TrainState, start


@dataclass
class Run:
    """A run as it stands: what is trained, on what, how, and how far it got."""

    preset: str
    model: LanguageModel
    tokenizer: CharTokenizer
    config: TrainConfig
    text_sha256: str  # of the text; going on with another text would be another run
    state: TrainState


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save_run(run: Run, folder: Path) -> None:
    """Write the run to `folder`/run.safetensors, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for n, optimizer in enumerate(run.state.optimizers):
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{n}.{i}.{name}": value for name, value in values.items()}
    tensors |= {"generator.batches": run.state.generator.get_state(), "generator.torch": torch.get_rng_state()}
    device = next(run.model.parameters()).device
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    facts = {
        "preset": run.preset,
        "model": type(run.model).__name__,
        "model_config": asdict(run.model.config),
        "train_config": asdict(run.config),
        "alphabet": run.tokenizer.symbols,
        "text_sha256": run.text_sha256,
        "step": run.state.step,
        "seconds": run.state.seconds,
        "history": asdict(run.state.history),
    }
    write_tensors(folder / RUN_FILE, {k: v.detach().cpu() for k, v in tensors.items()}, {"run": json.dumps(facts)})


def load_run(folder: Path, device: str = "cpu") -> Run:
    """Read a run back, exactly as it was saved, torch's own generators included.

    Raises:
        FileNotFoundError: the folder holds no run.
        CheckpointError: its file is damaged, truncated or no run of this book.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        raise FileNotFoundError(f"there is no run to resume in {folder}: it has no {RUN_FILE}; check the folder")
    tensors, metadata = read_tensors(file)
    if "run" not in metadata:
        raise CheckpointError(f"{file} holds a model but no run: use the {RUN_FILE} of a run's folder")
    with fitting(file, "run"):
        facts: dict[str, Any] = json.loads(metadata["run"])
        config = TrainConfig(**facts["train_config"])
        model = BUILD[facts["model"]](facts["model_config"])
        model.load_state_dict(_below(tensors, "model."))
        tokenizer = CharTokenizer(facts["alphabet"])
    model.to(device)  # a device that is full is no fault of the file
    state = start(model, config)
    with fitting(file, "run"):
        for n, optimizer in enumerate(state.optimizers):
            _restore_optimizer(optimizer, _below(tensors, f"optimizer.{n}."))
        state.generator.set_state(tensors["generator.batches"])
        torch.set_rng_state(tensors["generator.torch"])
        if "generator.cuda" in tensors and device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["generator.cuda"], device)
        state.step, state.seconds, state.history = facts["step"], facts["seconds"], History(**facts["history"])
        return Run(facts["preset"], model, tokenizer, config, facts["text_sha256"], state)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        i, key = name.split(".", 1)
        values.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": values})


class Keeper:
    """Called after every step: saves the run now and then, and at once when Ctrl-C was pressed.

    Args:
        every: seconds between two saves; 0 saves after every step.
        writes: whether this process saves; of several that train together only one does.
        agree: whether one of them was interrupted, so that all stop after the same step.
    """

    def __init__(
        self, run: Run, folder: Path, every: float, writes: bool = True, agree: Callable[[bool], bool] = bool
    ) -> None:
        self.run, self.folder, self.every, self.writes, self.agree = run, folder, every, writes, agree
        self.interrupted = False
        self.saved_step = run.state.step  # the step that the file holds
        self.at_rest = False  # whether it stopped between two steps and saved
        self._saved_at = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        stop = self.agree(self.interrupted)
        if self.writes and (stop or time.monotonic() - self._saved_at >= self.every):
            if self.is_finite():  # never replace a good one by a bad
                try:
                    save_run(self.run, self.folder)
                    self.saved_step = state.step
                except OSError as error:  # a full disk, a file that another program holds: later it may work
                    print(f"\nminigpt: warning: step {state.step} is not saved: {error}", file=sys.stderr)
            self._saved_at = time.monotonic()
        if stop:
            self.at_rest = self.saved_step == state.step
            raise KeyboardInterrupt

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(p.isfinite().all()) for p in self.run.model.parameters())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the `with`, the first Ctrl-C waits for the end of the step; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(signum: int, frame: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            if self.writes:
                with suppress(OSError):  # print may be at work just now, and the reader of our output may have left
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
