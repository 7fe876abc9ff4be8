"""Short recorded trials for chapter 10: one idea at a time on the modern model, and models of several sizes.

    python book/tools/trials.py ideas      # about three quarters of an hour on one core
    python book/tools/trials.py scaling    # about half an hour on one core

Every model is trained on the first 95 % of the training text and measured on the other 5 %, once, at its last step: the
validation text chooses nothing. Results go to `data/runs/trials/`; a trial that is there already is not made again.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt import CharTokenizer, GPTConfig, ModernGPT, TrainConfig, evaluate, get_batch, load_text, split, train
from minigpt.run.checkpoint import write_bytes
from minigpt.run.presets import PRESETS
from minigpt.run.resume import text_sha256
from minigpt.text import SHA256
from minigpt.training import TrainState

FOLDER = Path(__file__).parents[2] / "data" / "runs" / "trials"
LAPTOP = PRESETS["modern-laptop"]
SHAPE = GPTConfig(**{"vocab_size": 65, **LAPTOP.sizes})
# As the recipe was before it took up one of these ideas.
BUDGET = replace(LAPTOP.config, steps=400, eval_every=10**6, eval_batches=1, sampling="random", muon_rate=0.02)
SEEDS = (1, 2, 3)  # for the model as it is, and for ideas that looked better with the first


@cache
def texts() -> tuple[Tensor, Tensor]:
    """The part of the training text to learn from, and the part to measure on."""
    text = load_text()
    fit_ids, held_ids = split(split(CharTokenizer(text).encode(text))[0], 0.95)
    return fit_ids, held_ids


# ── ideas: what each does to a fresh model ───────────────────────────────────────────────────────────────────────────


def around(module: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a method of one module by change(old, *args)."""
    old = getattr(module, name)
    setattr(module, name, lambda *args, **kwargs: change(old, *args, **kwargs))


def no_smear(model: Any) -> None:
    model.smear.requires_grad_(False)  # it stays 0


def pair_table(model: Any) -> None:
    V = model.config.vocab_size
    model.pairs = nn.Embedding(V * V, model.config.n_embd)
    nn.init.zeros_(model.pairs.weight)

    def embed(old: Any, idx: Tensor, *rest: Any) -> Tensor:
        x = old(idx, *rest)
        return torch.cat([x[:, :1], x[:, 1:] + model.pairs(idx[:, :-1] * V + idx[:, 1:])], dim=1)

    around(model, "embed", embed)


def first_values(model: Any) -> None:
    """Each layer mixes the first layer's values into its own (Zhou et al. 2024)."""
    first: list[Tensor] = []
    for block in model.blocks:
        block.attention.share = nn.Parameter(torch.zeros(()))

        def project(old: Any, x: Tensor, start: int = 0, block: Any = block) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = old(x, start)
            if block is model.blocks[0]:
                first[:] = [v]
            return q, k, v + block.attention.share * first[0]

        around(block.attention, "project", project)


def value_embeddings(model: Any) -> None:
    """Each layer adds a vector of the symbol itself to its values."""
    read: list[Tensor] = []

    def embed(old: Any, idx: Tensor, *rest: Any) -> Tensor:
        read[:] = [idx]
        return old(idx, *rest)

    around(model, "embed", embed)
    for block in model.blocks:
        block.attention.symbols = nn.Embedding(model.config.vocab_size, model.config.n_embd)
        nn.init.zeros_(block.attention.symbols.weight)

        def project(old: Any, x: Tensor, start: int = 0, block: Any = block) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = old(x, start)
            return q, k, v + block.attention.symbols(read[0]).view(*x.shape[:2], *v.shape[1::2]).transpose(1, 2)

        around(block.attention, "project", project)


def embedding_again(model: Any) -> None:
    """Each block gets a learned share of what the first one got."""
    first: list[Tensor] = []

    def embed(old: Any, *args: Any) -> Tensor:
        first[:] = [old(*args)]
        return first[0]

    around(model, "embed", embed)
    for block in model.blocks:
        block.share = nn.Parameter(torch.zeros(model.config.n_embd))
        block.register_forward_pre_hook(lambda m, args: (args[0] + m.share * first[0], *args[1:]))


def tied(model: Any) -> None:
    nn.init.normal_(model.token_embedding.weight, std=0.05)
    model.head.weight = model.token_embedding.weight


def soft_cap(model: Any) -> None:
    model.register_forward_hook(lambda m, args, logits: 15 * torch.tanh(logits / 15))


class SwiGLU(nn.Module):
    """The gated MLP of Shazeer 2020, as many parameters as ours."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        inner = round(n_embd * 8 / 3)
        self.up = nn.Linear(n_embd, inner, bias=False)
        self.gate = nn.Linear(n_embd, inner, bias=False)
        self.down = nn.Linear(inner, n_embd, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * nn.functional.silu(self.gate(x)))


def gated(model: Any) -> None:
    for block in model.blocks:
        block.feed_forward = SwiGLU(model.config.n_embd)


def gelu(model: Any) -> None:
    for block in model.blocks:
        mlp = block.feed_forward
        mlp.forward = lambda x, mlp=mlp: mlp.down(nn.functional.gelu(mlp.up(x)))


def nothing(model: Any) -> None:
    pass


# ── ideas: what each does to the batches or the weights ──────────────────────────────────────────────────────────────


def growing(first: tuple[int, int], second: tuple[int, int]) -> Callable[..., tuple[Tensor, Tensor]]:
    """(rows, length) for the first half of the steps, and for the second."""

    def next_batch(ids: Tensor, T: int, config: TrainConfig, state: TrainState) -> tuple[Tensor, Tensor]:
        rows, length = first if state.step < config.steps / 2 else second
        return get_batch(ids, rows, length, state.generator)

    return next_batch


class Average:
    """The mean of the weights over the last fifth of the steps, put in their place after the last."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, 0

    def __call__(self, state: TrainState) -> None:
        if state.step <= BUDGET.steps * 4 // 5:
            return
        self.seen += 1
        weights = [p.detach() for p in self.model.parameters()]
        if self.seen == 1:
            self.mean = [p.clone() for p in weights]
        for mean, p in zip(self.mean, weights, strict=True):
            mean.lerp_(p, 1 / self.seen)
        if state.step == BUDGET.steps:
            for mean, p in zip(self.mean, weights, strict=True):
                p.copy_(mean)


T = SHAPE.block_size
IDEAS: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "as it is": (nothing, {}),
    "no share of the symbol before": (no_smear, {}),
    "a table of all pairs as well": (pair_table, {}),
    "the first layer's values in every layer": (first_values, {}),
    "the symbol's own vector in every value": (value_embeddings, {}),
    "the embedding again in every block": (embedding_again, {}),
    "embedding and head share their weights": (tied, {}),
    "logits capped softly at 15": (soft_cap, {}),
    "SwiGLU in place of the squared ReLU": (gated, {}),
    "GELU in place of the squared ReLU": (gelu, {}),
    "half a cosine in place of the line": (nothing, {"decay": "cosine"}),
    "AdamW for every matrix": (nothing, {"optimizer": "adamw"}),
    "Muon's rate 0.03": (nothing, {"muon_rate": 0.03}),
    "no clipping of the gradient": (nothing, {"grad_clip": 1e9}),
    "every symbol once before any twice": (nothing, {"sampling": "in turn"}),
    "8 rows, then 24": (nothing, {"next_batch": lambda: growing((8, T), (24, T))}),
    "short rows, then long ones": (nothing, {"next_batch": lambda: growing((32, T // 2), (16, T))}),
    "weights averaged over the last fifth": (nothing, {"after_step": Average}),
}


def idea(name: str, seed: int) -> dict[str, Any]:
    """One trial: the loss on the held-out slice."""
    fit_ids, held_ids = texts()
    torch.manual_seed(seed)
    model = ModernGPT(SHAPE)
    change, settings = IDEAS[name]
    change(model)
    hooks = {"next_batch": lambda make: make(), "after_step": lambda make: make(model)}
    hooked = {key: hooks[key](value) for key, value in settings.items() if key in hooks}
    config = replace(BUDGET, seed=seed, **{key: value for key, value in settings.items() if key not in hooks})
    train(model, fit_ids, held_ids, config, progress=False, **hooked)
    return {"name": name, "seed": seed, "steps": config.steps, "loss": round(evaluate(model, held_ids), 4)}


def ideas() -> list[tuple[str, int]]:
    again = ("Muon's rate 0.03", "every symbol once before any twice", "short rows, then long ones")
    first = [("as it is", seed) for seed in SEEDS] + [(name, SEEDS[0]) for name in [*IDEAS][1:]]
    return first + [(name, seed) for name in again for seed in SEEDS[1:]]


# ── scaling: sizes and budgets ───────────────────────────────────────────────────────────────────────────────────────

SIZES = ((32, 2), (64, 2), (96, 3), (128, 4), (192, 4))  # n_embd and n_layer; heads of 32
COSTS = {0.6e12: SIZES[:4], 1.8e12: SIZES[:4], 5.4e12: SIZES[1:]}  # operations: 6 for each parameter and symbol


def scale(size: tuple[int, int], cost: float) -> dict[str, Any]:
    """One trial: as many steps as the budget pays for."""
    fit_ids, held_ids = texts()
    n_embd, n_layer = size
    torch.manual_seed(SEEDS[0])
    model = ModernGPT(replace(SHAPE, n_embd=n_embd, n_head=n_embd // 32, n_layer=n_layer))
    parameters = sum(p.numel() for p in model.parameters())
    steps = round(cost / (6 * parameters * BUDGET.batch_size * T))
    config = replace(BUDGET, steps=steps, sampling=LAPTOP.config.sampling)
    history = train(model, fit_ids, held_ids, config, progress=False)
    return {
        "name": label(size),
        "parameters": parameters,
        "cost": cost,
        "steps": steps,
        "seconds": history.seconds[-1],
        "loss": round(evaluate(model, held_ids), 4),
    }


def scaling() -> list[tuple[tuple[int, int], float]]:
    return [(size, cost) for cost, sizes in COSTS.items() for size in sizes]


def label(of: str | tuple[int, int]) -> str:
    """The name of a trial."""
    return of if isinstance(of, str) else f"{of[0]} dims, {of[1]} layers"


def main() -> None:
    kinds: dict[str, Any] = {"ideas": (ideas, idea, "seed"), "scaling": (scaling, scale, "cost")}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        sys.exit(f"usage: python book/tools/trials.py {' | '.join(kinds)}")
    trials, run, which = kinds[sys.argv[1]]
    if text_sha256(load_text()) != SHA256:
        sys.exit("trials are made on the real text: set MINIGPT_DATA to the folder it is in (see data/README.md)")
    file = FOLDER / f"{sys.argv[1]}.json"
    stored = json.loads(file.read_text("utf8")) if file.exists() else []
    made = {(result["name"], result[which]): result for result in stored}
    wanted = {(label(of), at): (of, at) for of, at in trials()}
    for key, trial in wanted.items():
        if key not in made:
            made[key] = run(*trial)
            print(made[key], flush=True)
            results = [made[key] for key in wanted if key in made]  # in order, and what is no longer wanted goes
            write_bytes(file, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
