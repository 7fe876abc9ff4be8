"""Named recipes: a model, its sizes, and how to train it."""

from dataclasses import dataclass, replace
from typing import Any

from minigpt.training import TrainConfig

# Chapter 10: Muon for the blocks, a straight line down to 0, and no symbol twice before all were read once.
MODERN = TrainConfig(
    batch_size=16,
    sampling="in turn",
    learning_rate=3e-3,
    decay="linear",
    final_rate=0.0,
    warmup_steps=50,
    optimizer="muon",
    beta2=0.95,
)


@dataclass(frozen=True)
class Preset:
    """A recipe that `python -m minigpt train --preset NAME` runs. `precision` is 'auto' where it is worth measuring."""

    description: str
    model: str  # a name in `checkpoint.BUILD`
    sizes: dict[str, Any]
    config: TrainConfig
    precision: str = "float32"


PRESETS = {
    "bigram": Preset(
        "the table of pairs, chapter 2: seconds",
        "BigramLanguageModel",
        {"block_size": 8},
        TrainConfig(steps=3000, batch_size=32, learning_rate=1e-2, weight_decay=0.0, eval_every=500),
    ),
    "gpt-laptop": Preset(
        "a small GPT, chapter 7: under two minutes on two CPU cores",
        "GPT",
        {"block_size": 64, "n_embd": 128, "n_head": 4, "n_layer": 4, "dropout": 0.0},
        TrainConfig(steps=2000, batch_size=12, learning_rate=3e-3),
    ),
    "gpt": Preset(
        "the full GPT, 10.8 million parameters: minutes on a GPU, hours on a CPU",
        "GPT",
        {"block_size": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "dropout": 0.2},
        TrainConfig(steps=5000, batch_size=64, learning_rate=3e-4, micro_batch_size=16, eval_batches=5),
        precision="auto",
    ),
    "modern-tiny": Preset(
        "an eighth of gpt-laptop's size, and nearly its loss: less than half a minute on two CPU cores",
        "ModernGPT",
        {"block_size": 128, "n_embd": 64, "n_head": 2, "n_layer": 2, "dropout": 0.0},
        replace(MODERN, steps=500, weight_decay=0.1, eval_every=50),
    ),
    "modern-small": Preset(
        "the size that chapter 10's scaling study asks for: one to three minutes on two CPU cores",
        "ModernGPT",
        {"block_size": 128, "n_embd": 96, "n_head": 3, "n_layer": 3, "dropout": 0.0},
        replace(MODERN, steps=1400, weight_decay=0.1, eval_every=100),
        precision="auto",
    ),
    "modern-laptop": Preset(
        "gpt-laptop's size, everything of chapter 10: a minute and a half on two CPU cores that multiply in 16 bits",
        "ModernGPT",
        {"block_size": 128, "n_embd": 128, "n_head": 4, "n_layer": 4, "dropout": 0.0},
        replace(MODERN, steps=900, weight_decay=0.01, eval_every=50),
        precision="auto",
    ),
    "modern-coffee": Preset(
        "a sixth of the full model's size: under ten minutes on two CPU cores that multiply in 16 bits",
        "ModernGPT",
        {"block_size": 256, "n_embd": 192, "n_head": 6, "n_layer": 4, "dropout": 0.1},
        replace(MODERN, steps=1500, weight_decay=0.1, eval_every=150),
        precision="auto",
    ),
    "modern-full": Preset(
        "the lowest loss of the book, a third of the full model's size: about half an hour on two CPU cores",
        "ModernGPT",
        {"block_size": 256, "n_embd": 256, "n_head": 8, "n_layer": 4, "dropout": 0.1},
        replace(MODERN, steps=1500, weight_decay=0.2, eval_every=150),
        precision="auto",
    ),
}
