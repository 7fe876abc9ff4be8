"""Chapter 9: sampling, with and without the cache, up to the end of the context and past it."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt import (
    GPT,
    BigramLanguageModel,
    MultiHeadAttention,
    attention,
    block,
    generate,
    generation,
    next_probabilities,
    stream,
)
from minigpt.generation import KVCache, LayerCache, OnePosition

DRAW = generation._draw

# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["without modules", "through the modules"])
def route(request, monkeypatch):
    """The two ways to compute one position: `OnePosition`, and the model itself (as for a model with hooks)."""
    if request.param == "through the modules":
        monkeypatch.setattr(OnePosition, "fits", lambda model: False)
    return request.param


def assert_cache_changes_nothing(model):
    """Symbols and logits, from prompts shorter and longer than the context, to well past its end."""
    for T, n, B in [(1, 40, 1), (5, 11, 2), (5, 12, 1), (16, 3, 1), (23, 20, 2), (5, 11, 1), (23, 20, 1), (1, 40, 2)]:
        idx = torch.randint(11, (B, T))
        seen = {}
        for cache in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                seen[cache] = []
                patch.setattr(generation, "_draw", lambda p, *a, to=seen[cache]: (to.append(p), DRAW(p, *a))[1])
                generator = torch.Generator().manual_seed(T)
                text = generate(model, idx, n, generator=generator, cache=cache)
                seen[cache] = torch.stack(seen[cache]), text
        assert torch.equal(seen[True][1], seen[False][1])
        torch.testing.assert_close(seen[True][0], seen[False][0], atol=1e-4, rtol=1e-4)


def test_the_cache_changes_nothing(small_gpt, route):
    assert_cache_changes_nothing(small_gpt)


def test_greedy_text_is_the_same_past_the_end_of_the_context(small_gpt):
    idx = torch.randint(11, (3, 4))
    assert torch.equal(generate(small_gpt, idx, 60, temperature=0), generate(small_gpt, idx, 60, 0, cache=False))


@pytest.mark.parametrize(("made", "drawn"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_symbols_are_drawn_in_32_bits_at_least(made, drawn, small_gpt, monkeypatch):
    """Top-p adds probabilities up: with 8 bits of precision it would keep a symbol too many, or too few."""
    seen = []

    def watched(logits, *settings):
        seen.append(logits.dtype)
        return next_probabilities(logits, *settings)

    monkeypatch.setattr(generation, "next_probabilities", watched)
    generate(small_gpt.to(getattr(torch, made)), torch.zeros(1, 1, dtype=torch.long), 3, top_p=0.9)
    assert seen == [getattr(torch, drawn)] * 3


@torch.no_grad()
@pytest.mark.parametrize("small", [True, False])
def test_only_a_small_model_keeps_to_one_core(small, small_gpt, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    kv = KVCache(small_gpt.config, 1, small_gpt.head.weight)
    step = OnePosition(small_gpt.eval(), kv)
    assert step.is_small
    step.is_small = small
    step(torch.tensor([3]))
    assert asked == ([1, 2] if small else [2])


def position_off_by_one(monkeypatch):
    monkeypatch.setattr(KVCache, "length", property(lambda self: max(0, self.layers[0].length - 1)))


def forgets_the_first_symbol(monkeypatch):
    append = LayerCache.append
    monkeypatch.setattr(LayerCache, "append", lambda self, k, v: tuple(x[:, :, 1:] for x in append(self, k, v)))


def overwrites_the_last_symbol(monkeypatch):
    def append(self, k, v):
        start = max(0, self.length - 1)
        self.length = start + k.size(2)
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]

    monkeypatch.setattr(LayerCache, "append", append)


def keeps_keys_for_values(monkeypatch):
    append = LayerCache.append
    monkeypatch.setattr(LayerCache, "append", lambda self, k, v: append(self, k, k))


def test_planted_in_the_memory_of_one_position(small_gpt, monkeypatch):
    """What it takes over from the cache, and where it goes on."""
    init = OnePosition.__init__

    def late(self, model, kv):
        init(self, model, kv)
        self.length += 1

    def empty(self, model, kv):
        init(self, model, kv)
        for rows in self.rows:
            rows.zero_()

    def values_for_keys(self, model, kv):
        init(self, model, kv)
        self.past = [(q, v, k) for q, k, v in self.past]

    for plant in (late, empty, values_for_keys):
        monkeypatch.setattr(OnePosition, "__init__", plant)
        with pytest.raises((AssertionError, IndexError, RuntimeError, ValueError)):
            assert_cache_changes_nothing(small_gpt)


@pytest.mark.parametrize(
    "plant",
    [position_off_by_one, forgets_the_first_symbol, overwrites_the_last_symbol, keeps_keys_for_values],
    ids=lambda plant: plant.__name__,
)
def test_planted_in_the_cache(plant, small_gpt, route, monkeypatch):
    plant(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        assert_cache_changes_nothing(small_gpt)


def test_with_the_cache_a_step_computes_one_position(small_gpt):
    lengths = []
    small_gpt.register_forward_hook(lambda module, args, logits: lengths.append(args[0].size(1)))
    generate(small_gpt, torch.zeros(1, 6, dtype=torch.long), 14)
    assert lengths == [6] + [1] * 10 + [16] * 3  # the context is full: the whole window again, as documented


def test_a_model_that_was_changed_is_run_through_its_modules(small_gpt):
    assert OnePosition.fits(small_gpt)
    seen = []
    hook = small_gpt.blocks[1].attention.proj.register_forward_pre_hook(lambda module, args: seen.append(1))
    generate(small_gpt, torch.zeros(1, 1, dtype=torch.long), 5)
    assert len(seen) == 5  # a hook is called at every step
    hook.remove()
    assert OnePosition.fits(small_gpt)
    small_gpt.blocks[1].feed_forward.forward = torch.zeros_like
    assert not OnePosition.fits(small_gpt)
    assert_cache_changes_nothing(small_gpt)
    del small_gpt.blocks[1].feed_forward.forward
    assert OnePosition.fits(small_gpt)
    project = small_gpt.blocks[0].attention.project
    small_gpt.blocks[0].attention.project = lambda x: tuple(2 * part for part in project(x))
    assert not OnePosition.fits(small_gpt)
    assert_cache_changes_nothing(small_gpt)


def other_eps(model):
    model.norm.eps = 1.0


def no_head_bias(model):
    model.head = torch.nn.Linear(model.config.n_embd, model.config.vocab_size, bias=False)


def longer_mlp(model):
    model.blocks[0].feed_forward.net.append(torch.nn.ReLU())


def other_activation(model):
    model.blocks[0].feed_forward.net[1] = torch.nn.GELU()


@pytest.mark.parametrize("change", [other_eps, no_head_bias, longer_mlp, other_activation])
def test_a_model_with_another_piece_is_run_through_its_modules(small_gpt, change):
    change(small_gpt)
    assert not OnePosition.fits(small_gpt)
    assert_cache_changes_nothing(small_gpt)


def test_asking_whether_a_model_fits_draws_no_random_number(small_gpt):
    generation._plan.cache_clear()
    before = torch.get_rng_state()
    assert OnePosition.fits(small_gpt)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_number_of_threads_is_left_alone(small_gpt):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        generate(small_gpt, torch.zeros(1, 1, dtype=torch.long), 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ── the model is left as it was found ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(small_gpt, training):
    small_gpt.train(training)
    idx = torch.zeros(1, 3, dtype=torch.long)
    first = generate(small_gpt, idx, 10, temperature=0)
    assert torch.equal(first, generate(small_gpt, idx, 10, temperature=0))
    assert small_gpt.training is training


def test_two_streams_on_one_model_and_a_training_step_between(small_gpt):
    """Whichever ends first, the other goes on without dropout; between two symbols the mode is the caller's."""
    two = torch.zeros(2, 3, dtype=torch.long)
    wanted = generate(small_gpt, two, 8, temperature=0)[:, 3:]
    first, second = stream(small_gpt, two, 5), stream(small_gpt, two, 8, temperature=0)
    next(first)
    written = [next(second)]
    first.close()
    small_gpt.train()
    written += second
    assert torch.equal(torch.stack(written, dim=1), wanted)
    assert small_gpt.training


@pytest.mark.parametrize(
    ("module", "name"),
    [(block.FeedForward, "forward"), (MultiHeadAttention, "project"), (attention, "attend"), (GPT, "embed")],
)
def test_what_a_reader_put_into_a_class_is_used_for_every_symbol(small_gpt, module, name, monkeypatch):
    calls, original = [], getattr(module, name)
    idx = torch.zeros(1, 3, dtype=torch.long)
    generate(small_gpt, idx, 4)
    monkeypatch.setattr(module, name, lambda *given, **more: calls.append(1) or original(*given, **more))
    generate(small_gpt, idx, 1)
    once = len(calls)
    generate(small_gpt, idx, 4)
    assert len(calls) == 5 * once > 0


def test_writing_works_in_16_bits(small_gpt):
    """As the first symbol, so those after it, which are computed without modules where nothing is against it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert generate(small_gpt, torch.zeros(1, 3, dtype=torch.long), 6).shape == (1, 9)


def test_planted_dropout_at_generation_is_caught(small_gpt, monkeypatch):
    monkeypatch.setattr(generation, "evaluating", lambda model: nullcontext())
    idx = torch.zeros(1, 3, dtype=torch.long)
    samples = {tuple(generate(small_gpt, idx, 12, temperature=0)[0].tolist()) for _ in range(5)}
    assert len(samples) > 1  # what the test above would see


def test_gradients_are_off_inside_and_on_between_two_symbols(small_gpt):
    symbols = stream(small_gpt, torch.zeros(1, 3, dtype=torch.long), 5)
    assert not next(symbols).requires_grad
    assert torch.is_grad_enabled()
    small_gpt(generate(small_gpt, torch.zeros(1, 1, dtype=torch.long), 3)).sum().backward()  # usable in training
    symbols.close()
    assert small_gpt.training
    assert torch.is_grad_enabled()


def test_a_stream_yields_what_generate_returns(small_gpt):
    idx = torch.randint(11, (2, 4))
    whole = generate(small_gpt, idx, 30, 0.7, top_k=5, top_p=0.9, generator=torch.Generator().manual_seed(3))
    parts = stream(small_gpt, idx, 30, 0.7, top_k=5, top_p=0.9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.stack(list(parts), dim=1), whole[:, 4:])
    assert torch.equal(whole[:, :4], idx)


def test_a_stream_computes_only_what_is_asked_for(small_gpt):
    calls = []
    small_gpt.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(itertools.islice(stream(small_gpt, torch.zeros(1, 1, dtype=torch.long), 10**9), 4))) == 4
    assert len(calls) == 4


def test_a_model_without_a_cache_writes_too():
    idx = torch.zeros(2, 3, dtype=torch.long)
    assert generate(BigramLanguageModel(11), idx, 5).shape == (2, 8)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_to_add_gives_a_copy(small_gpt):
    idx = torch.randint(11, (2, 4))
    result = generate(small_gpt, idx, 0)
    assert torch.equal(result, idx)
    assert result is not idx


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"idx": torch.zeros(1, 0, dtype=torch.long)}, "the prompt is empty"),
        ({"idx": torch.zeros(0, 3, dtype=torch.long)}, "the prompt is empty"),
        ({"idx": torch.zeros(3, dtype=torch.long)}, r"shape \(3,\)"),
        ({"idx": torch.zeros(1, 3)}, "float32"),
        ({"idx": torch.full((1, 2), 11)}, "outside 0 to 10"),
        ({"idx": torch.full((1, 2), -1)}, "outside 0 to 10"),
        ({"n": -1}, "n is -1"),
        ({"n": 2.0}, "n is 2.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(small_gpt, settings, message):
    idx = settings.pop("idx", torch.zeros(1, 2, dtype=torch.long))
    n = settings.pop("n", 3)
    with pytest.raises(ValueError, match=message):
        generate(small_gpt, idx, n, **settings)
    with pytest.raises(ValueError, match=message):
        stream(small_gpt, idx, n, **settings)  # at the call, not at the first symbol
    assert small_gpt.training


def test_damaged_weights_are_named(small_gpt):
    torch.nn.init.constant_(small_gpt.head.bias, float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        generate(small_gpt, torch.zeros(1, 1, dtype=torch.long), 1)
    assert small_gpt.training


def test_many_rows_of_large_logits_in_half_precision_are_finite(small_gpt):
    """Their sum is not: it passes 65,504, the largest number of 16 bits."""
    torch.nn.init.constant_(small_gpt.head.bias, 1000.0)
    V = small_gpt.config.vocab_size
    idx = torch.zeros(70_000 // (1000 * V) + 2, 1, dtype=torch.long)
    assert generate(small_gpt.half(), idx, 1, temperature=0).shape == (len(idx), 2)


# ── the filters ──────────────────────────────────────────────────────────────────────────────────────────────────────

logit_rows = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40).map(torch.tensor)


@given(logit_rows, st.floats(0.05, 5), st.integers(1, 50), st.floats(0.01, 1))
def test_filters_keep_the_most_probable_and_add_up_to_one(logits, temperature, top_k, top_p):
    plain = next_probabilities(logits, temperature).double()
    for settings in ({"top_k": top_k}, {"top_p": top_p}, {"top_k": top_k, "top_p": top_p}):
        p = next_probabilities(logits, temperature, **settings).double()
        kept = p > 0
        assert p.sum().item() == pytest.approx(1, abs=1e-5)
        assert kept.any()
        if not kept.all():  # nothing that was dropped is more probable than anything kept
            assert plain[~kept].max() <= plain[kept].min() + 1e-6
        assert torch.allclose(p[kept], plain[kept] / plain[kept].sum(), atol=1e-5)  # the ratios stay
    assert int((next_probabilities(logits, temperature, top_k=top_k) > 0).sum()) <= top_k


@given(logit_rows, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_symbols_that_reach_p(logits, top_p):
    plain, kept = logits.double().softmax(-1), next_probabilities(logits.double(), top_p=top_p) > 0
    assert plain[kept].sum() >= min(top_p, 1.0) - 1e-9
    assert plain[kept].sum() - plain[kept].min() < top_p + 1e-9


def test_temperature_divides_the_logits():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    torch.testing.assert_close(next_probabilities(logits, 0.5), (logits / 0.5).softmax(-1))
    assert next_probabilities(logits, 0).tolist() == [[1.0, 0.0, 0.0]]
    assert next_probabilities(logits, 1e-30).tolist() == [[1.0, 0.0, 0.0]]  # no overflow
    assert next_probabilities(logits, top_k=1).tolist() == [[1.0, 0.0, 0.0]]


def test_of_equal_symbols_the_first_are_kept():
    """As with temperature 0, as top-p does, and as the playground does."""
    even = torch.zeros(65)
    assert next_probabilities(even, top_k=2).nonzero().flatten().tolist() == [0, 1]
    assert next_probabilities(even, temperature=0).nonzero().flatten().tolist() == [0]


def test_a_top_k_above_the_vocabulary_keeps_all():
    logits = torch.randn(2, 11)
    assert torch.equal(next_probabilities(logits, top_k=1000), next_probabilities(logits))


def test_the_draw_follows_the_probabilities():
    model = BigramLanguageModel(4)
    idx = torch.zeros(40_000, 1, dtype=torch.long)
    drawn = generate(model, idx, 1, generator=torch.Generator().manual_seed(0))[:, 1]
    expected = model.table.weight[0].softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 40_000, expected.detach(), atol=0.01, rtol=0)


def test_the_same_seed_writes_the_same(small_gpt):
    idx = torch.zeros(1, 1, dtype=torch.long)
    texts = [generate(small_gpt, idx, 30, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
