"""How fast it is, beside Hugging Face's GPT-2 of the same size: `make benchmark`.

Machines differ and are noisy, so what counts are the ratios of the last test, measured turn by turn in one run. The
models have random weights; nothing is downloaded.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from minigpt import GPT, CharTokenizer, GPTConfig, cross_entropy, generate, get_batch, stream
from minigpt.attention import attend
from minigpt.bigram import LanguageModel
from minigpt.run.checkpoint import BUILD
from minigpt.run.presets import PRESETS, Preset
from minigpt.run.processes import faster_precision
from minigpt.training import History, TrainConfig, start, train

torch.set_num_threads(os.cpu_count() or 1)  # the other tests use one

SMALL = {"n_embd": 128, "n_head": 4, "n_layer": 4}
FULL = {"n_embd": 384, "n_head": 6, "n_layer": 6}
CONTEXTS = (1, 64, 240)  # 16 symbols are written after them: the last ends at 256, the end of the context


def ours(sizes: dict[str, int]) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(block_size=256, dropout=0.0, **sizes)).eval()


def theirs(sizes: dict[str, int], block_size: int = 256) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}  # no symbol of ours marks an end
    no_dropout = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)  # as in ours
    config = GPT2Config(vocab_size=65, n_positions=block_size, **ends, **no_dropout, **sizes)
    return GPT2LMHeadModel(config).eval()


def prompt(T: int) -> torch.Tensor:
    return torch.randint(65, (1, T), generator=torch.Generator().manual_seed(T))


def write_ours(model: GPT, T: int, n: int = 16, cache: bool = True) -> Callable[[], object]:
    idx = prompt(T)
    return lambda: generate(model, idx, n, cache=cache)


def write_theirs(model: GPT2LMHeadModel, T: int, n: int = 16, streamer: Any = None) -> Callable[[], object]:
    idx = prompt(T)
    how = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": True, "top_k": 0, "streamer": streamer}
    return lambda: model.generate(idx, attention_mask=torch.ones_like(idx), **how)


# ── generation: 16 symbols after a context of T ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("T", CONTEXTS)
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_generation(benchmark, T, cache):
    benchmark(write_ours(ours(SMALL), T, cache=cache))


@pytest.mark.parametrize("T", CONTEXTS)
def test_generation_of_hugging_face(benchmark, T):
    benchmark(write_theirs(theirs(SMALL), T))


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def config_of(preset: Preset, model: LanguageModel) -> TrainConfig:
    """The preset's recipe, in the precision that the command line would choose here."""
    rows = preset.config.micro_batch_size or preset.config.batch_size
    precision = faster_precision(model, rows) if preset.precision == "auto" else preset.precision
    return replace(preset.config, precision=precision)


class OneStep(Exception):
    """Ends a training after a step, before anything is evaluated."""


def stop(state: object) -> None:
    raise OneStep


@pytest.mark.parametrize("name", PRESETS)
def test_training_step(benchmark, name):
    preset = PRESETS[name]
    model, ids = BUILD[preset.model]({"vocab_size": 65, **preset.sizes}), torch.randint(65, (10_000,))
    config = replace(config_of(preset, model), steps=10**9, eval_every=10**9)
    state = start(model, config)
    state.history = History([0], [0.0], [0.0], [0.0])  # nothing is measured on the way

    def step() -> None:
        with suppress(OneStep):
            train(model, ids, ids, config, state=state, after_step=stop, progress=False)

    benchmark.extra_info["precision"] = config.precision
    rounds = {"gpt": 2, "modern-coffee": 5, "modern-full": 5}.get(name, 20)
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


class Clock:
    """What Hugging Face calls with the prompt, then with every symbol."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def ours_a_symbol(model: GPT, T: int, n: int = 16, cache: bool = True) -> float:
    """Seconds a symbol, once the prompt is read: the median of the times between n symbols."""
    times = [time.perf_counter() for _ in stream(model, prompt(T), n, cache=cache)]
    return median(later - earlier for earlier, later in pairwise(times))


def theirs_a_symbol(model: GPT2LMHeadModel, T: int, n: int = 16) -> float:
    """Seconds a symbol, once the prompt is read: the median of the times between n symbols."""
    clock = Clock()
    write_theirs(model, T, n, streamer=clock)()
    return median(later - earlier for earlier, later in pairwise(clock.times[1:]))  # the first is the prompt


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(slow: Callable[[], float], fast: Callable[[], float], turns: int = 15) -> float:
    """How many times faster `fast` is, both giving seconds: the median over turns, one after the other."""
    return median([slow() / fast() for _ in range(turns + 1)][1:])  # the first turn warms up


def test_the_ratios(capsys):
    lines, against_hugging_face, against_no_cache = [], [], []
    for name, sizes in (("0.8 M", SMALL), ("10.8 M", FULL)):
        mine, hugging = ours(sizes), theirs(sizes)
        for T in CONTEXTS:
            a_symbol = ratio(lambda h=hugging, T=T: theirs_a_symbol(h, T), lambda m=mine, T=T: ours_a_symbol(m, T))
            calls = write_theirs(hugging, T), write_ours(mine, T)
            whole = ratio(*(lambda call=call: seconds(call) for call in calls))
            against_hugging_face.append(a_symbol)
            lines.append(
                f"{name}, 16 symbols after {T:3}: {a_symbol:5.1f} times Hugging Face's speed, "
                f"{whole:5.1f} times with the reading of the prompt"
            )
        on, off = (lambda m=mine, on=on: ours_a_symbol(m, CONTEXTS[-1], cache=on) for on in (True, False))
        against_no_cache.append(ratio(off, on))
        lines.append(f"{name}, up to the end at 256: {against_no_cache[-1]:5.1f} times the speed without the cache")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert min(against_hugging_face[:3]) >= 3  # at 0.8 M; at 10.8 M both mostly wait for the same matrix products
    assert max(against_no_cache) >= 15  # the larger the model, the more the cache saves


@pytest.mark.parametrize(("dtype", "p"), [(torch.float32, 0.2), (torch.bfloat16, 0.2), (torch.bfloat16, 0.0)])
def test_attending_on_a_processor_is_faster_than_the_fused_function(dtype, p, capsys):
    """Forward and backward, of 16 rows of the full model: the reason for the two ways in `attend`."""
    shape = (16, PRESETS["gpt"].sizes["block_size"], FULL["n_head"], FULL["n_embd"] // FULL["n_head"])
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))

    def both(function: Callable[..., torch.Tensor]) -> Callable[[], float]:
        def call() -> None:
            out = function(*(part.transpose(1, 2) for part in (q, k, v)))
            out.backward(out)

        return lambda: seconds(call)

    fused = both(partial(F.scaled_dot_product_attention, dropout_p=p, is_causal=True))
    gain = ratio(fused, both(partial(attend, p=p)), turns=5)
    with capsys.disabled():
        print(f"\nattention in training, {dtype}, dropout {p}: {gain:.1f} times the speed of torch's fused function")
    assert gain > 1
