"""Chapter 10: recorded runs, and what writes them."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trials
from test_gpt import assert_the_future_is_hidden

from minigpt import GPTConfig, ModernGPT, evaluate
from minigpt.run import cli, records
from minigpt.run.checkpoint import load_facts, load_model
from minigpt.run.presets import PRESETS
from minigpt.run.records import load_records, load_trials, read_record
from minigpt.run.resume import text_sha256
from minigpt.text import SHA256
from minigpt.training import TrainState

DATA = Path(__file__).parents[1] / "data"
RECORDS = load_records()


def test_the_records_of_the_book_are_here():
    modern = {f"modern-{name}" for name in ("tiny", "small", "laptop", "coffee", "full")}
    assert set(RECORDS) >= modern | {"bigram", "gpt-laptop"}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_how_it_was_made(name):
    record = RECORDS[name]
    assert record.text_sha256 == SHA256
    assert record.step == record.train_config["steps"] == record.history.steps[-1]  # at its last step, none picked
    assert 0 < record.val_loss < 4.2
    assert record.seconds == pytest.approx(record.history.seconds[-1], abs=0.1)
    assert not re.search("/|\\\\", record.machine)  # a processor, no path
    words = shlex.split(record.command)
    assert words[:4] == ["python", "-m", "minigpt", "train"]
    args = cli._parser().parse_args(words[3:])
    assert args.preset == record.preset
    given = cli._given(args, cli.SIZES | cli.RECIPE)
    expected = {**PRESETS[args.preset].sizes, **vars(PRESETS[args.preset].config), **given}
    found = {**record.model_config, **record.train_config}
    expected["precision"] = found["precision"]  # the machine's choice
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", [name for name in RECORDS if (DATA / "weights" / f"{name}.safetensors").exists()])
def test_weights_and_record_agree(name):
    """The same recipe, perhaps another run: on another processor rounding differs, and after many steps the loss."""
    facts = load_facts(DATA / "weights" / f"{name}.safetensors")
    assert facts["val_loss"] == pytest.approx(RECORDS[name].val_loss, abs=0.01)
    assert facts["step"] == RECORDS[name].step


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in sorted((DATA / "weights").glob("*.safetensors"))])
def test_the_weights_reach_what_they_say(name, book_text, book_ids):
    """On the whole validation text; rounding the weights to 16 bits changes the loss by less than a thousandth."""
    if text_sha256(book_text) != SHA256:
        pytest.skip("the real text is not here")
    file, (_, _, val_ids) = DATA / "weights" / f"{name}.safetensors", book_ids
    assert evaluate(load_model(file), val_ids) == pytest.approx(load_facts(file)["val_loss"], abs=2e-3)


def test_training_writes_a_record(tmp_path, play):
    (tmp_path / "play.txt").write_text(play)
    words = ["train", "--preset", "gpt-laptop", "--n-embd", "16", "--n-head=2", "--steps", "3", "--block-size=32"]
    words += ["--sampling", "in turn"]
    done = subprocess.run(
        [sys.executable, "-m", "minigpt", *words, "--data", tmp_path / "play.txt", "--out", tmp_path / "run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "run" / "history.json")
    flags = "--block-size 32 --n-embd 16 --n-head 2 --steps 3 --sampling 'in turn'"  # a command that can be run
    assert record.command == f"python -m minigpt train --preset gpt-laptop {flags}"
    assert f"{record.val_loss:.4f} nats per symbol" in done.stdout
    assert f"{record.parameters:,} parameters" in done.stdout
    assert "3 steps in" in repr(record)


def test_the_record_of_a_stopped_run_says_so(tmp_path):
    facts = json.loads((DATA / "runs" / "bigram.json").read_text("utf8"))
    (tmp_path / "history.json").write_text(json.dumps({**facts, "val_loss": None, "step": 7}))
    with pytest.raises(ValueError, match=r"stopped at step 7: go on with `train --resume` first"):
        read_record(tmp_path / "history.json")


def test_what_is_no_record_is_named(tmp_path, monkeypatch):
    for text in ("", "{}", "[]", json.dumps({"history": {"steps": 1, "other": 2}})):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json is not the record of a run"):
            read_record(tmp_path / "x.json")
    monkeypatch.setattr(records, "FOLDERS", (tmp_path / "nothing",))
    assert load_records() == {}


def test_the_trials_are_complete():
    """What chapter 10 draws is what `book/tools/trials.py` makes today: every idea and every size, once."""
    ideas, scaling = load_trials("ideas"), load_trials("scaling")
    assert [(trial["name"], trial["seed"]) for trial in ideas] == trials.ideas()
    assert [(trial["cost"], trial["name"]) for trial in scaling] == [
        (cost, trials.label(size)) for size, cost in trials.scaling()
    ]
    assert all(1.2 < trial["loss"] < 2.4 for trial in ideas + scaling)
    for trial in scaling:
        symbols = trial["steps"] * trials.BUDGET.batch_size * trials.T
        assert 6 * trial["parameters"] * symbols == pytest.approx(trial["cost"], rel=0.01)


def test_the_race_was_run_on_one_machine_and_agrees_with_the_records():
    """So its seconds can be compared, as chapter 10 does; rounding differs between processors, and so do the losses."""
    race = {run["name"]: run for run in load_trials("race")}
    assert len({run["machine"] for run in race.values()}) == 1
    for name in race.keys() - {"Hugging Face's GPT-2"}:
        assert race[name]["loss"] == pytest.approx(RECORDS[name].val_loss, abs=0.01)


def test_no_trial_is_made_on_the_stand_in(monkeypatch, play):
    monkeypatch.setattr("sys.argv", ["trials.py", "ideas"])
    monkeypatch.setattr(trials, "load_text", lambda: play)
    with pytest.raises(SystemExit, match="made on the real text: set MINIGPT_DATA"):
        trials.main()


@pytest.mark.parametrize("name", [name for name, idea in trials.IDEAS.items() if idea[0] is not trials.nothing])
def test_a_model_changed_by_an_idea_still_hides_the_future(name):
    torch.manual_seed(0)
    model = ModernGPT(GPTConfig(vocab_size=11, block_size=16, n_embd=32, n_head=4, n_layer=2, dropout=0.0))
    trials.IDEAS[name][0](model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert_the_future_is_hidden(model)


def test_weights_are_averaged_over_the_last_fifth():
    layer, steps = torch.nn.Linear(1, 1, bias=False), trials.BUDGET.steps
    average = trials.Average(layer)
    for step in range(1, steps + 1):
        layer.weight.data.fill_(step)
        average(TrainState([], torch.Generator(), step=step))
    last = range(steps * 4 // 5 + 1, steps + 1)
    assert layer.weight.item() == pytest.approx(sum(last) / len(last))


def test_rows_grow_half_way():
    next_batch, config = trials.growing((8, 4), (3, 6)), trials.BUDGET
    for step, shape in ((0, (8, 4)), (config.steps // 2 - 1, (8, 4)), (config.steps // 2, (3, 6))):
        idx, targets = next_batch(torch.arange(50), 99, config, TrainState([], torch.Generator(), step=step))
        assert idx.shape == targets.shape == shape


def test_trials_that_are_not_there_are_named():
    with pytest.raises(ValueError, match=r"no trials named 'x': there are ideas, race, scaling"):
        load_trials("x")
