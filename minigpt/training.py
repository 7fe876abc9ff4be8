"""Training and measuring (chapters 2, 7 and 10).

One loop trains every model of the book: draw a batch, measure the loss, follow the gradient. `evaluate` says how good
a model is, on a whole text; `estimate_loss` is the quick guess that is shown on the way.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm.auto import tqdm

from minigpt.bigram import LanguageModel, cross_entropy
from minigpt.gpt import evaluating
from minigpt.muon import Muon
from minigpt.text import get_batch, get_batch_in_turn

MOST_SEEDS = 2**32
SYMBOLS_AT_ONCE = 16384  # while a whole split is measured
BAR_SECONDS = 0.5  # between two pictures of a bar: in a notebook each costs messages, and a queue of them can overflow


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Losses are in nats per symbol; a step sees batch_size * block_size symbols.

    Raises:
        ValueError: names the field, its value and the rule it breaks.
    """

    steps: int = 2000
    batch_size: int = 32
    sampling: str = "random"  # or "in turn": every row once before any twice, see get_batch_in_turn
    learning_rate: float = 1e-3
    decay: str = "cosine"  # or "linear": the way the rate comes down
    final_rate: float = 0.1  # the part of learning_rate at which it ends
    warmup_steps: int = 100  # but never more than a tenth of the steps
    weight_decay: float = 0.1  # on matrices only
    optimizer: str = "adamw"  # or "muon": Muon for the matrices of the blocks, AdamW for the rest
    muon_rate: float = 0.02  # Muon's highest rate, which rises and decays as learning_rate does
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0  # the largest norm of the gradient
    micro_batch_size: int | None = None  # rows computed at once: less memory, same gradient but for dropout
    precision: str = "float32"  # or "bfloat16": products in 16 bits, in steps and estimates; weights in 32
    eval_every: int = 250
    eval_batches: int = 20
    seed: int = 1337

    def __post_init__(self) -> None:
        whole = {"steps": 0, "batch_size": 1, "warmup_steps": 0, "eval_every": 1, "eval_batches": 1, "seed": 0}
        if self.micro_batch_size is not None:
            whole["micro_batch_size"] = 1
        for name, low in whole.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {low}")
        most = dict.fromkeys(("learning_rate", "muon_rate", "weight_decay", "grad_clip"), math.inf)
        for name, high in {**most, "final_rate": 1, "beta1": 1, "beta2": 1}.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= high:
                raise ValueError(f"{name} is {value!r}: it must be a number from 0 to {high}")
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name} is 1: it must be below 1, or no gradient would count")
        for name in ("learning_rate", "muon_rate", "weight_decay"):
            if getattr(self, name) == math.inf:
                raise ValueError(f"{name} is inf: it must be finite")
        if self.grad_clip == 0:
            raise ValueError("grad_clip is 0, which makes every gradient 0: for no clipping use math.inf")
        if self.seed >= MOST_SEEDS:
            raise ValueError(f"seed is {self.seed}: it must be below {MOST_SEEDS:,}")
        names = {
            "sampling": ("random", "in turn"),
            "decay": ("cosine", "linear"),
            "optimizer": ("adamw", "muon"),
            "precision": ("float32", "bfloat16"),
        }
        for name, allowed in names.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be {allowed[0]!r} or {allowed[1]!r}")


@dataclass
class History:
    """What was measured on the way: at `steps[i]` the two losses, estimated, after `seconds[i]` of training."""

    steps: list[int] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # evaluations not counted

    def __repr__(self) -> str:
        if not self.steps:
            return "History(nothing measured yet)"
        return (
            f"History({len(self.steps)} points to step {self.steps[-1]}: train {self.train_losses[-1]:.4f}, "
            f"val {self.val_losses[-1]:.4f}, {self.seconds[-1]:.1f} s)"
        )


@dataclass
class TrainState:
    """What the next step depends on, besides the weights and torch's own generator (which draws dropout)."""

    optimizers: list[Optimizer]
    generator: torch.Generator  # draws the batches
    step: int = 0
    seconds: float = 0.0
    history: History = field(default_factory=History)


def start(model: nn.Module, config: TrainConfig) -> TrainState:
    """The state before the first step: the optimizers, with decay on matrices only, and a seeded generator.

    Raises:
        ValueError: the optimizer is 'muon', and the model has nothing for it.
    """
    parameters = list(model.named_parameters())
    inside = [p for name, p in parameters if p.dim() == 2 and "blocks." in name and config.optimizer == "muon"]
    if config.optimizer == "muon" and not inside:
        raise ValueError("optimizer is 'muon', but the model has no matrices in `blocks`: use 'adamw'")
    for_muon = {id(p) for p in inside}
    matrices = [p for _, p in parameters if p.dim() >= 2 and id(p) not in for_muon]
    others = [p for _, p in parameters if p.dim() < 2]  # biases and the scales of LayerNorm
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    ]
    if inside:
        dtype = getattr(torch, config.precision)
        optimizers.append(Muon(inside, config.muon_rate, weight_decay=config.weight_decay, dtype=dtype))
    return TrainState(optimizers, torch.Generator().manual_seed(config.seed))


def schedule(step: int, config: TrainConfig) -> float:
    """The part of its highest value that a rate has at a step: a straight rise, then half a cosine or a line down.

    (Loshchilov and Hutter 2017; for the line, Defazio et al. 2023.)
    """
    warmup = min(config.warmup_steps, config.steps // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, config.steps - warmup)  # 0 to 1
    left = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_rate + (1 - config.final_rate) * left


def next_batch(ids: Tensor, block_size: int, config: TrainConfig, state: TrainState) -> tuple[Tensor, Tensor]:
    """The batch of the next step, from ids (N,): idx and targets, (batch_size, block_size) each."""
    if config.sampling == "in turn":
        return get_batch_in_turn(ids, config.batch_size, block_size, state.step, config.seed)
    return get_batch(ids, config.batch_size, block_size, state.generator)


def train(
    model: LanguageModel,
    train_ids: Tensor,
    val_ids: Tensor,
    config: TrainConfig = TrainConfig(),
    *,
    state: TrainState | None = None,
    after_step: Callable[[TrainState], None] | None = None,
    next_batch: Callable[[Tensor, int, TrainConfig, TrainState], tuple[Tensor, Tensor]] = next_batch,
    progress: bool = True,
) -> History:
    """Train a model in place, on the device it is on, with rows of `model.config.block_size` symbols.

    Args:
        train_ids, val_ids: (N,) int64.
        state: where to go on; a fresh start if None.
        after_step: called with the state after every step, for instance to save it.
        next_batch: draws the batch of the next step.
        progress: show a bar.

    Returns:
        The history: steps, losses (nats per symbol) and seconds, at step 0, every `eval_every` steps and the last.

    Raises:
        FloatingPointError: the loss or its gradient is no longer a finite number; the weights are those before it.
        ValueError: a text is not longer than a block, or holds an id that the model has no row for.
    """
    _check_ids(train_ids, model)
    _check_ids(val_ids, model)
    device, block_size = next(model.parameters()).device, model.config.block_size
    train_ids, val_ids = train_ids.to(device), val_ids.to(device)
    state = state or start(model, config)
    if not state.history.steps or state.step == config.steps > state.history.steps[-1]:  # or ended where it stopped
        _measure(model, train_ids, val_ids, config, state)
    model.train()
    with tqdm(
        total=config.steps, initial=state.step, desc="training", unit="step", mininterval=BAR_SECONDS,
        disable=not progress,
    ) as bar:  # fmt: skip
        while state.step < config.steps:
            began = time.perf_counter()
            part = schedule(state.step, config)
            for optimizer in state.optimizers:
                highest = config.muon_rate if isinstance(optimizer, Muon) else config.learning_rate
                for group in optimizer.param_groups:
                    group["lr"] = highest * part
            idx, targets = next_batch(train_ids, block_size, config, state)  # (B, T) each
            loss = _gradient(model, idx, targets, config)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise FloatingPointError(
                    f"training diverged at step {state.step}: the loss is {loss}, the gradient's norm {norm:.3g}; "
                    f"try a learning_rate below {config.learning_rate:g}"
                    + (f" and a muon_rate below {config.muon_rate:g}" if config.optimizer == "muon" else "")
                )
            for optimizer in state.optimizers:
                optimizer.step()
            state.step += 1
            state.seconds += time.perf_counter() - began
            if state.step % config.eval_every == 0 or state.step == config.steps:
                _measure(model, train_ids, val_ids, config, state)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", val=f"{state.history.val_losses[-1]:.3f}", refresh=False)
            if after_step is not None:
                after_step(state)
    return state.history


def _check_ids(ids: Tensor, model: LanguageModel) -> None:
    size = model.config.vocab_size
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise ValueError(
            f"the ids go from {ids.min()} to {ids.max()}, but the model's vocab_size is {size}: "
            "make the model with vocab_size=tokenizer.vocab_size"
        )


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A `with` inside which matrix products have this precision, 'float32' or 'bfloat16'."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _gradient(model: LanguageModel, idx: Tensor, targets: Tensor, config: TrainConfig) -> float:
    """Fill in the gradient of the mean loss over the batch, some rows at a time, and return that loss."""
    model.zero_grad(set_to_none=True)
    rows, total = config.micro_batch_size or len(idx), torch.zeros((), device=idx.device)
    for part, part_targets in zip(idx.split(rows), targets.split(rows), strict=True):
        with autocast(config.precision, idx.device):
            logits = model(part)
        loss = cross_entropy(logits.float(), part_targets) * len(part) / len(idx)
        loss.backward()
        total += loss.detach()
    return total.item()


def _measure(model: LanguageModel, train_ids: Tensor, val_ids: Tensor, config: TrainConfig, state: TrainState) -> None:
    """Add a point to the history. The batches are the same every time, so that the curve is smooth."""
    losses = []
    for ids in (train_ids, val_ids):
        with autocast(config.precision, ids.device):
            losses.append(estimate_loss(model, ids, config.batch_size, config.eval_batches, config.seed + 1))
    history = state.history  # all four at once, or an interrupt would leave one longer than the others
    history.train_losses.append(losses[0])
    history.val_losses.append(losses[1])
    history.steps.append(state.step)
    history.seconds.append(round(state.seconds, 3))


def estimate_loss(model: LanguageModel, ids: Tensor, batch_size: int = 32, batches: int = 20, seed: int = 0) -> float:
    """A quick estimate of the loss, in nats per symbol: the mean over a few random batches of ids (N,)."""
    generator = torch.Generator().manual_seed(seed)
    ids = ids.to(_device(model))
    with evaluating(model):
        losses = [
            cross_entropy(model(idx).float(), targets).item()
            for idx, targets in (get_batch(ids, batch_size, model.config.block_size, generator) for _ in range(batches))
        ]
    return sum(losses) / len(losses)


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device  # a table of counts may have no parameters


def evaluate(model: LanguageModel, ids: Tensor) -> float:
    """The loss over a whole split, in nats per symbol: the same figure for everyone who asks.

    ids (N,) are cut into consecutive windows of `model.config.block_size`; every symbol but the first is predicted
    once, from what stands before it in its window. The last window may be shorter.

    Raises:
        ValueError: fewer than two ids: there is nothing to predict; or an id that the model has no row for.
    """
    if len(ids) < 2:
        raise ValueError(f"there are {len(ids)} ids: evaluating needs at least 2, one to see and one to predict")
    _check_ids(ids, model)
    T = model.config.block_size
    ids = ids.to(_device(model))
    whole = (len(ids) - 1) // T * T  # how many predictions fill their windows
    rows = max(1, SYMBOLS_AT_ONCE // T)
    idx, targets = ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)  # (windows, T)
    parts = list(zip(idx.split(rows), targets.split(rows), strict=True))
    if whole < len(ids) - 1:
        parts.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    with evaluating(model):
        total = sum(cross_entropy(model(x).float(), y).item() * y.numel() for x, y in parts if y.numel())
    return total / (len(ids) - 1)
