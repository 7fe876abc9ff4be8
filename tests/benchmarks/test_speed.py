"""How fast it is, beside Hugging Face's GPT-2 of the same size: `make benchmark`.

Machines differ and are noisy, so what counts are the ratios of the last test, measured turn by turn in one run. The
models have random weights; nothing is downloaded.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from minigpt import GPT, CharTokenizer, GPTConfig, cross_entropy, generate, get_batch
from minigpt.generation import KVCache, OnePosition
from minigpt.run.checkpoint import BUILD
from minigpt.run.presets import PRESETS
from minigpt.run.processes import faster_precision
from minigpt.training import start, train

torch.set_num_threads(os.cpu_count() or 1)  # the other tests use one

SMALL = {"n_embd": 128, "n_head": 4, "n_layer": 4}
FULL = {"n_embd": 384, "n_head": 6, "n_layer": 6}
CONTEXTS = (1, 64, 240)  # 16 symbols are written after them: the last ends at 256, the end of the context


def ours(sizes: dict[str, int]) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(block_size=256, dropout=0.0, **sizes)).eval()


def theirs(sizes: dict[str, int]) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=65, n_positions=256, bos_token_id=None, eos_token_id=None, pad_token_id=0, **sizes)
    return GPT2LMHeadModel(config).eval()


def prompt(T: int) -> torch.Tensor:
    return torch.randint(65, (1, T), generator=torch.Generator().manual_seed(T))


def write_ours(model: GPT, T: int, n: int = 16, cache: bool = True) -> Callable[[], object]:
    idx = prompt(T)
    return lambda: generate(model, idx, n, cache=cache)


def write_theirs(model: GPT2LMHeadModel, T: int, n: int = 16) -> Callable[[], object]:
    idx = prompt(T)
    mask = torch.ones_like(idx)
    return lambda: model.generate(idx, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=True, top_k=0)


# ── generation: 16 symbols after a context of T ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("T", CONTEXTS)
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_generation(benchmark, T, cache):
    benchmark(write_ours(ours(SMALL), T, cache=cache))


@pytest.mark.parametrize("T", CONTEXTS)
def test_generation_of_hugging_face(benchmark, T):
    benchmark(write_theirs(theirs(SMALL), T))


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PRESETS)
def test_training_step(benchmark, name):
    preset = PRESETS[name]
    model, ids = BUILD[preset.model]({"vocab_size": 65, **preset.sizes}), torch.randint(65, (10_000,))
    precision = faster_precision(model, 4) if preset.precision == "auto" else preset.precision
    config = replace(preset.config, precision=precision, steps=10**9, eval_every=10**9)
    state = start(model, config)
    state.history.steps.append(0)  # nothing is measured on the way
    state.history.val_losses.append(0.0)

    def step() -> None:
        train(model, ids, ids, replace(config, steps=state.step + 1), state=state, progress=False)

    state.history.train_losses.append(0.0)
    benchmark.extra_info["precision"] = precision
    rounds = {"gpt": 2, "modern-coffee": 5}.get(name, 20)
    benchmark.pedantic(step, rounds=rounds, warmup_rounds=1)


def test_training_step_of_hugging_face(benchmark):
    config = PRESETS["gpt-laptop"].config
    model, ids = theirs(SMALL).train(), torch.randint(65, (10_000,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        idx, targets = get_batch(ids, config.batch_size, 64)
        loss = cross_entropy(model(idx).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    benchmark.pedantic(step, rounds=20, warmup_rounds=1)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_encode_the_whole_text(benchmark, book_text):
    tokenizer = CharTokenizer(book_text)
    benchmark(lambda: tokenizer.encode(book_text))


def test_get_batch(benchmark):
    ids = torch.randint(65, (1_003_854,))
    benchmark(lambda: get_batch(ids, 64, 256))


# ── the ratios ───────────────────────────────────────────────────────────────────────────────────────────────────────


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = 15) -> float:
    """How many times faster `fast` is: the median over turns in which both ran one after the other."""
    ratios = []
    for turn in range(rounds + 1):
        seconds = []
        for work in (slow, fast):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        if turn:  # the first turn warms up
            ratios.append(seconds[0] / seconds[1])
    return median(ratios)


def test_the_ratios(capsys):
    lines, against_hugging_face, against_no_cache = [], [], []
    for name, sizes in (("0.8 M", SMALL), ("10.8 M", FULL)):
        mine, hugging = ours(sizes), theirs(sizes)
        for T in CONTEXTS:
            against_hugging_face.append(ratio(write_theirs(hugging, T), write_ours(mine, T)))
            lines.append(f"{name}, 16 symbols after {T:3}: {against_hugging_face[-1]:5.1f} times Hugging Face's speed")
        # One symbol at the end of the context, its past in the cache, against the whole window again.
        end = prompt(255)
        whole = torch.no_grad()(lambda m=mine, e=end: m(e))
        no_cache = ratio(whole, one_step_at_the_end(mine, end))
        against_no_cache.append(no_cache)
        lines.append(f"{name}, the symbol at 256:      {no_cache:5.1f} times the speed without the cache")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert min(against_hugging_face[:3]) >= 3  # at 0.8 M; at 10.8 M both mostly wait for the same matrix products
    assert max(against_no_cache) >= 15


def one_step_at_the_end(model: GPT, idx: torch.Tensor) -> Callable[[], object]:
    cache = KVCache(model.config, 1, next(model.parameters()))
    with torch.no_grad():
        model(idx, cache=cache)
    one_position = OnePosition(model, cache)

    @torch.no_grad()
    def step() -> None:
        for layer in cache.layers:
            layer.length = 255
        one_position(idx[:, -1])

    return step
