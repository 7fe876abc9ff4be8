"""Devices, and training with several processes at once (under `torchrun`)."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from minigpt import training
from minigpt.bigram import LanguageModel, cross_entropy


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: LanguageModel) -> LanguageModel:
        """The model itself, or one whose gradients are averaged over all processes."""
        return cast(LanguageModel, _Parallel(model)) if self.count > 1 else model

    def agree(self, value: str) -> str:
        """The first process's value, in every process."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes at least."""
        if self.count == 1:
            return flag
        found = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def next_batch(
        self, ids: Tensor, block_size: int, config: training.TrainConfig, state: training.TrainState
    ) -> tuple[Tensor, Tensor]:
        """Of the batch of the next step each process keeps its share of the rows: together they train on all of it."""
        idx, targets = training.next_batch(ids, block_size, config, state)
        share = slice(self.rank, None, self.count)
        return idx[share], targets[share]


class _Parallel(DistributedDataParallel):
    """Keeps the promise every model of the book keeps: `config` tells its sizes."""

    @property
    def config(self) -> Any:
        return self.module.config


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone, there is one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(0, 1)
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(minutes=10))
    try:
        yield Processes(rank, count)
    finally:
        dist.destroy_process_group()


def pick_device(name: str | None) -> str:
    """The device to use: the one named, else a GPU that speaks CUDA, else the CPU.

    Raises:
        ValueError: the device is not here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no CUDA GPU here: leave --device out to use the CPU")
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no Apple GPU here: leave --device out to use the CPU")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}, which torch does not know: use cpu, cuda, cuda:0 or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device is {name!r}, on which minigpt was never tried: use cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # under torchrun each process has its own
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(device)!r}, but there are {torch.cuda.device_count()} GPUs here, counted from 0: "
            "choose another --device, or start fewer processes"
        )
    return str(device)


def machine(device: torch.device) -> str:
    """What trains here, in words: the GPU's name, or the processor's and how many of its cores torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU, {platform.machine()}"
    processor = torch.backends.cpu.get_cpu_capability()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (names := re.findall(r"^model name\s*:\s*(.+)$", info.read_text("utf8"), re.MULTILINE)):
        processor = f"{names[0]}, {processor}"
    return f"{processor}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def faster_precision(model: LanguageModel, rows: int) -> str:
    """Whether 'bfloat16' makes the gradient at least a tenth faster here than 'float32': measured, not guessed.

    Runs forward and backward passes, of `rows` rows or of as many as hold 2048 symbols if that is fewer (with much
    less the time goes into starting operations), and leaves weights and generators as they were.
    """
    device = next(model.parameters()).device
    rows = min(rows, max(1, 2048 // model.config.block_size))
    idx = torch.zeros((rows, model.config.block_size), dtype=torch.long, device=device)

    def step(precision: str) -> None:
        with training.autocast(precision, device):
            logits = model(idx)
        loss = cross_entropy(logits.float(), idx)
        loss.backward()
        loss.item()  # waits until a GPU is done

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        plain, short = (_seconds(step, precision) for precision in ("float32", "bfloat16"))
    model.zero_grad(set_to_none=True)
    return "bfloat16" if short < 0.9 * plain else "float32"


def _seconds(work: Callable[[str], None], precision: str) -> float:
    """The best of three timings, after one run to warm up."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        work(precision)
        times.append(time.perf_counter() - began)
    return min(times[1:])
