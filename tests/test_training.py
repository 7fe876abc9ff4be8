"""Chapter 10: the loop, what it measures, and what it does when things go wrong."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import tqdm.std

from minigpt import (
    GPT,
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    ModernGPT,
    TrainConfig,
    cross_entropy,
    evaluate,
    train,
    training,
)
from minigpt.text import get_batch, get_batch_in_turn
from minigpt.training import History, TrainState, estimate_loss, schedule, start

QUICK = TrainConfig(steps=30, batch_size=8, learning_rate=3e-3, eval_every=10, eval_batches=4)


@pytest.fixture
def ids(play):
    return CharTokenizer(play).encode(play)


@pytest.fixture
def model(ids):
    return GPT(GPTConfig(int(ids.max()) + 1, block_size=16, n_embd=16, n_head=2, n_layer=1, dropout=0.0))


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_training_lowers_the_loss_and_keeps_a_history(model, ids):
    before = evaluate(model, ids)
    history = train(model, ids, ids, QUICK, progress=False)
    assert history.steps == [0, 10, 20, 30]
    assert len(history.train_losses) == len(history.val_losses) == len(history.seconds) == 4
    assert history.train_losses == history.val_losses  # the same text, the same batches
    assert history.seconds[0] == 0
    assert history.seconds == sorted(history.seconds)
    assert history.val_losses[0] == pytest.approx(before, abs=0.1)
    assert evaluate(model, ids) < before - 0.3
    assert "4 points to step 30" in repr(history)
    assert repr(History()) == "History(nothing measured yet)"


def test_a_bar_is_drawn_twice_a_second(model, ids, monkeypatch, capsys):
    """In a notebook every picture of it is a handful of messages, and a runner that reads them late may lose some."""
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])  # what its bars read the clock with

    def after_step(state):
        now[0] += 0.1

    train(model, ids, ids, replace(QUICK, steps=40), after_step=after_step)
    pictures = capsys.readouterr().err.split("\r")
    assert "40/40" in pictures[-1]
    assert 6 <= len(pictures) <= 12, pictures  # four seconds


def test_evaluations_are_not_counted_in_the_seconds(model, ids, monkeypatch):
    now = [0.0]

    def slow(*inputs):
        now[0] += 100
        return 1.0

    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(training, "estimate_loss", slow)

    def step(*given):  # each takes a second
        now[0] += 1
        return training.next_batch(*given)

    assert train(model, ids, ids, QUICK, next_batch=step, progress=False).seconds == [0, 10, 20, 30]
    assert now == [830]


def test_the_optimizers_get_what_the_recipe_says(ids):
    model = ModernGPT(GPTConfig(int(ids.max()) + 1, block_size=16, n_embd=16, n_head=2, n_layer=1))
    adamw, muon = start(model, replace(QUICK, optimizer="muon", beta1=0.8, beta2=0.95, weight_decay=0.3)).optimizers
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.95)}
    assert [group["weight_decay"] for group in muon.param_groups] == [0.3]


def test_a_recipe_that_reads_in_turn_does(ids):
    config, state = replace(QUICK, sampling="in turn", seed=3), TrainState([], torch.Generator(), step=5)
    drawn, expected = training.next_batch(ids, 16, config, state), get_batch_in_turn(ids, 8, 16, step=5, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_the_same_seed_gives_the_same_weights(ids):
    def trained(seed):
        torch.manual_seed(0)
        model = BigramLanguageModel(int(ids.max()) + 1)
        train(model, ids, ids, replace(QUICK, seed=seed), progress=False)
        return model.table.weight

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_rows_computed_a_few_at_a_time_give_the_same_gradient(model, ids, rows):
    whole = GPT(model.config)
    whole.load_state_dict(model.state_dict())
    train(whole, ids, ids, replace(QUICK, steps=3), progress=False)
    train(model, ids, ids, replace(QUICK, steps=3, micro_batch_size=rows), progress=False)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_decay_falls_on_matrices_only(model):
    decayed, spared = start(model, replace(QUICK, weight_decay=0.3)).optimizers[0].param_groups
    assert decayed["weight_decay"] == 0.3
    assert spared["weight_decay"] == 0
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_rate_rises_then_falls():
    config = TrainConfig(steps=1000, warmup_steps=100, final_rate=0.1)
    rates = [schedule(step, config) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 101)
    assert max(rates) == rates[100] == 1.0
    assert rates[1000] == pytest.approx(0.1)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    short = replace(config, steps=20)
    assert schedule(2, short) == 1.0  # a tenth of a short run, not a hundred steps


def test_a_line_down_ends_at_zero_and_lies_under_the_cosine_at_first():
    line = TrainConfig(steps=1000, warmup_steps=100, decay="linear", final_rate=0.0)
    cosine = replace(line, decay="cosine")
    parts = [schedule(step, line) for step in range(1001)]
    assert parts[100] == 1
    assert parts[550] == pytest.approx(0.5)
    assert parts[1000] == 0
    assert parts[325] < schedule(325, cosine)
    assert parts[775] > schedule(775, cosine)


def test_muon_trains_the_matrices_of_the_blocks_and_adamw_the_rest(ids):
    model = ModernGPT(GPTConfig(int(ids.max()) + 1, block_size=16, n_embd=16, n_head=2, n_layer=2, dropout=0.0))
    config = replace(QUICK, optimizer="muon", muon_rate=0.02, learning_rate=1e-2)
    state = start(model, config)
    adamw, muon = state.optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    trained = [
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]} for optimizer in (adamw, muon)
    ]
    assert trained[0] == {"token_embedding.weight", "smear", "head.weight"}
    assert trained[1] == {name for name in names.values() if name.startswith("blocks.")}
    before = evaluate(model, ids)
    train(model, ids, ids, config, state=state, progress=False)
    last = schedule(config.steps - 1, config)
    assert adamw.param_groups[0]["lr"] == pytest.approx(1e-2 * last)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.02 * last)
    assert evaluate(model, ids) < before - 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muons_products_have_the_precision_of_the_config(dtype, model, ids, monkeypatch):
    seen = set()
    monkeypatch.setattr("minigpt.muon.orthogonalize", lambda matrices: seen.add(matrices.dtype) or matrices)
    precision = str(dtype).removeprefix("torch.")
    train(model, ids, ids, replace(QUICK, steps=1, optimizer="muon", precision=precision), progress=False)
    assert seen == {dtype}


def test_the_gradient_is_clipped(ids):
    def step_of(grad_clip):
        torch.manual_seed(0)
        model = BigramLanguageModel(int(ids.max()) + 1)
        norms = []
        train(
            model, ids, ids, replace(QUICK, steps=1, grad_clip=grad_clip), progress=False,
            after_step=lambda state: norms.append(model.table.weight.grad.norm().item()),
        )  # fmt: skip
        return norms[0]

    assert step_of(math.inf) > 0.1
    assert step_of(0.01) == pytest.approx(0.01, rel=1e-3)


def test_a_run_that_ends_where_it_stopped_has_a_last_point(model, ids):
    config = replace(QUICK, steps=5, eval_every=4)
    state = start(model, config)

    def stop(state):
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, ids, ids, config, state=state, after_step=stop, progress=False)
    assert state.history.steps == [0]
    for _ in range(2):  # once more adds nothing
        assert train(model, ids, ids, replace(config, steps=3), state=state, progress=False).steps == [0, 3]


def test_bfloat16_computes_in_16_bits_and_keeps_weights_in_32(model, ids):
    seen = []
    model.head.register_forward_hook(lambda module, args, out: seen.append((model.training, out.dtype)))
    train(model, ids, ids, replace(QUICK, steps=2, precision="bfloat16"), progress=False)
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for training, dtype in seen if not training} == {torch.bfloat16}  # the estimates on the way
    seen.clear()
    evaluate(model, ids)
    assert {dtype for _, dtype in seen} == {torch.float32}  # what is quoted
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_run_stopped_in_memory_goes_on_where_it_was(ids):
    def fresh():
        torch.manual_seed(5)
        return GPT(GPTConfig(int(ids.max()) + 1, block_size=16, n_embd=16, n_head=2, n_layer=1, dropout=0.2))

    whole = fresh()
    history = train(whole, ids, ids, QUICK, progress=False)
    model, calls = fresh(), []
    state = start(model, QUICK)

    def stop_at_12(state):
        calls.append(state.step)
        if state.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, ids, ids, QUICK, state=state, after_step=stop_at_12, progress=False)
    again = train(model, ids, ids, QUICK, state=state, after_step=stop_at_12, progress=False)
    assert calls == list(range(1, 31))
    assert again.steps == history.steps
    assert again.val_losses == history.val_losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("call", range(1, 5))
def test_a_run_stopped_while_it_is_measured_has_four_columns_of_one_length(call, model, ids, monkeypatch):
    calls, measure = [], training.estimate_loss

    def stopped(*given):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(training, "estimate_loss", stopped)
    state = start(model, QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(model, ids, ids, QUICK, state=state, progress=False)
    lengths = {len(column) for column in vars(state.history).values()}
    assert lengths == {(call - 1) // 2}
    again = train(model, ids, ids, QUICK, state=state, progress=False)
    assert {len(column) for column in vars(again).values()} == {len(again.steps)}


@pytest.mark.parametrize(("optimizer", "more"), [("adamw", "$"), ("muon", r" and a muon_rate below 0\.02$")])
def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_are_touched(optimizer, more, model, ids):
    kept = []

    def plant(state):
        if state.step == 4:
            with torch.no_grad():
                model.head.bias.fill_(float("nan"))
            kept.append([p.clone() for p in model.parameters()])

    said = r"diverged at step 4: the loss is nan.*learning_rate below 0\.003" + more
    with pytest.raises(FloatingPointError, match=said):
        train(model, ids, ids, replace(QUICK, optimizer=optimizer), after_step=plant, progress=False)
    for now, then in zip(model.parameters(), kept[0], strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_no_number_stops_the_run_before_the_weights_are_touched(model, ids):
    before = [p.clone() for p in model.parameters()]
    model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=r"at step 0: the loss is \d.*the gradient's norm (inf|nan)"):
        train(model, ids, ids, QUICK, progress=False)
    assert all(map(torch.equal, model.parameters(), before))


def test_ids_that_the_model_has_no_row_for_are_refused(model, ids):
    size = model.config.vocab_size
    wrong = torch.cat([ids, torch.tensor([size])])
    said = f"the ids go from 0 to {size}, but the model's vocab_size is {size}: make the model with vocab_size="
    for refused in (
        lambda: train(model, wrong, ids, QUICK, progress=False),
        lambda: train(model, ids, wrong, QUICK, progress=False),
        lambda: evaluate(model, wrong),
    ):
        with pytest.raises(ValueError, match=said):
            refused()


def test_muon_needs_something_to_train(ids):
    with pytest.raises(ValueError, match="the model has no matrices in `blocks`: use 'adamw'"):
        start(BigramLanguageModel(int(ids.max()) + 1), replace(QUICK, optimizer="muon"))


def test_the_mode_is_training_after_measuring(model, ids):
    modes = []
    train(
        model, ids, ids, replace(QUICK, eval_every=1), after_step=lambda s: modes.append(model.training), progress=False
    )
    assert modes == [True] * 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps is -1: it must be a whole number of at least 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001: it must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"beta1": 1.0}, "beta1 is 1: it must be below 1"),
        ({"grad_clip": 0}, "grad_clip is 0, which makes every gradient 0"),
        ({"weight_decay": math.inf}, "weight_decay is inf: it must be finite"),
        ({"final_rate": 2}, "final_rate is 2: it must be a number from 0 to 1"),
        ({"optimizer": "Muon"}, "optimizer is 'Muon': it must be 'adamw' or 'muon'"),
        ({"sampling": "x"}, "sampling is 'x': it must be 'random' or 'in turn'"),
        ({"decay": "x"}, "decay is 'x': it must be 'cosine' or 'linear'"),
        ({"precision": "float16"}, "precision is 'float16': it must be 'float32' or 'bfloat16'"),
    ],
)
def test_nonsense_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10, 17, 50])
@pytest.mark.parametrize("symbols_at_once", [1, 16, 10_000])
def test_evaluate_predicts_every_symbol_once(n, symbols_at_once, monkeypatch):
    monkeypatch.setattr(training, "SYMBOLS_AT_ONCE", symbols_at_once)
    model, ids = BigramLanguageModel(7, block_size=8), torch.randint(7, (n,))
    log_probabilities = model.table.weight.log_softmax(-1)[ids[:-1], ids[1:]]
    assert evaluate(model, ids) == pytest.approx(-log_probabilities.mean().item(), rel=1e-5)


def test_evaluate_starts_each_window_afresh(model, ids):
    ids = ids[:41]
    model.eval()
    windows = [(0, 16), (16, 32), (32, 40)]
    losses = [cross_entropy(model(ids[a:b][None]), ids[a + 1 : b + 1][None]) * (b - a) for a, b in windows]
    expected = sum(losses) / 40
    assert evaluate(model, ids) == pytest.approx(expected.item(), rel=1e-5)


def test_evaluating_leaves_the_mode_and_the_generators_alone(model, ids):
    model.train()
    before = torch.get_rng_state()
    evaluate(model, ids)
    assert estimate_loss(model, ids, 4, 3) == estimate_loss(model, ids, 4, 3)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_is_off_while_a_loss_is_measured(ids):
    model = GPT(GPTConfig(int(ids.max()) + 1, block_size=16, n_embd=16, n_head=2, n_layer=1, dropout=0.5))
    for measure in (evaluate, estimate_loss):
        assert measure(model.train(), ids) == measure(model.eval(), ids)


def test_the_points_of_a_curve_are_measured_on_the_same_batches(model, ids):
    losses = train(model, ids, ids, replace(QUICK, learning_rate=0.0), progress=False).val_losses
    draw = torch.Generator().manual_seed(QUICK.seed + 1)
    each = [cross_entropy(model(x), y).item() for x, y in (get_batch(ids, 8, 16, draw) for _ in range(4))]
    assert len(set(losses)) == 1
    assert losses[0] == pytest.approx(sum(each) / 4)


def test_a_model_without_parameters_can_be_measured(ids):
    class Counted(torch.nn.Module):
        config = SimpleNamespace(vocab_size=int(ids.max()) + 1, block_size=16)

        def forward(self, idx):
            return torch.zeros(*idx.shape, self.config.vocab_size)

    for measure in (evaluate, estimate_loss):
        assert measure(Counted(), ids) == pytest.approx(math.log(Counted.config.vocab_size))


def test_there_must_be_something_to_predict(model):
    with pytest.raises(ValueError, match="1 ids: evaluating needs at least 2"):
        evaluate(model, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="needs at least 17"):
        train(model, torch.zeros(10, dtype=torch.long), torch.zeros(50, dtype=torch.long), QUICK, progress=False)
