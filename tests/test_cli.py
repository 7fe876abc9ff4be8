"""The command line, by hand: what people type, right and wrong."""

import io
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from contextlib import nullcontext

import pytest
import torch

from minigpt import GPT, CharTokenizer, GPTConfig, evaluate, load_model, load_text, load_tokenizer, split, training
from minigpt.generation import stream
from minigpt.run import cli, processes
from minigpt.run.checkpoint import load_facts, save_model
from minigpt.run.cli import main, parameters_by_piece
from minigpt.run.presets import PRESETS
from minigpt.run.processes import Processes
from minigpt.training import TrainConfig, TrainState


@pytest.fixture(scope="module")
def text_file(tmp_path_factory, play):
    file = tmp_path_factory.mktemp("text") / "play.txt"
    file.write_text(play)
    return str(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = ["train", "--preset", "gpt-laptop", "--data", text_file, "--out", str(folder), "--steps", "5"]
    assert main([*words, "--n-embd", "16", "--n-layer", "1", "--block-size", "16", "--eval-every", "2"]) == 0
    return folder


def complaint(capsys, *words: object) -> str:
    """What is said on stderr when the words are refused with exit status 2: one line, no traceback."""
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("minigpt: ")
    assert "\n" not in error
    return error


def test_a_run_leaves_a_model_and_a_record(trained, capsys):
    model = load_model(trained)
    assert model.config.n_embd == 16
    record = json.loads((trained / "history.json").read_text())
    assert record["history"]["steps"] == [0, 2, 4, 5]
    assert record["preset"] == "gpt-laptop"
    assert record["val_loss"] < record["history"]["val_losses"][0]
    assert record["train_config"]["steps"] == 5


def test_the_loss_printed_is_that_of_the_whole_split(text_file, tmp_path, capsys):
    assert main(["train", "--preset", "bigram", "--data", text_file, "--steps", "3", "--out", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"bigram: [\d,]+ parameters on", out)
    printed = float(re.search(r"validation loss ([\d.]+) nats", out)[1])
    text = load_text(text_file)
    val_ids = split(CharTokenizer(text).encode(text))[1]
    assert printed == pytest.approx(evaluate(load_model(tmp_path / "b"), val_ids), abs=1e-4)


def test_sampling_streams_the_prompt_and_what_follows(trained, capsys):
    def sample(*words):
        assert main(["sample", str(trained), "--prompt", "BEN:\n", "-n", "40", *words]) == 0
        return capsys.readouterr().out

    text = sample("--seed", "3")
    assert text.startswith("BEN:\n")
    assert len(text) == 5 + 40 + 1
    assert text == sample("--seed", "3")
    assert text != sample("--seed", "4")
    assert sample("--temperature", "0") == sample("--temperature", "0")
    assert sample("--top-k", "1", "--seed", "1") == sample("--top-k", "1", "--seed", "2")
    assert sample("--top-p", "0.01", "--seed", "1") == sample("--top-p", "0.01", "--seed", "2")


def test_info_adds_up(trained, capsys):
    assert main(["info", str(trained)]) == 0
    out = capsys.readouterr().out
    assert "GPTConfig(vocab_size=" in out
    counts = [int(n.replace(",", "")) for n in re.findall(r"^  \S.*\s([\d,]+)$", out, re.M)]
    assert sum(counts[:-1]) == counts[-1] == sum(p.numel() for p in load_model(trained).parameters())
    assert re.search(r"preset  gpt-laptop\n.*step  5\n.*val_loss  \d", out)
    assert "blocks x 1: attention" in out
    assert dict(parameters_by_piece(load_model(trained)))["blocks x 1: attention"] == 16 * 48 + 16 * 16 + 16


def test_export_halves_the_file_and_keeps_what_it_says(trained, tmp_path, capsys):
    file = tmp_path / "half.safetensors"
    assert main(["export", str(trained), str(file)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert file.stat().st_size < 0.6 * (trained / "model.safetensors").stat().st_size
    assert load_facts(file) == load_facts(trained)
    assert load_tokenizer(file) == load_tokenizer(trained)
    for half, whole in zip(load_model(file).parameters(), load_model(trained).parameters(), strict=True):
        torch.testing.assert_close(half, whole, atol=1e-3, rtol=1e-3)
    assert "is already there" in complaint(capsys, "export", trained, file)
    assert "does not end in .safetensors" in complaint(capsys, "export", trained, tmp_path / "folder")


def test_presets_have_the_numbers_of_the_book(capsys):
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS)
    bigram, full, laptop = PRESETS["bigram"], PRESETS["gpt"], PRESETS["gpt-laptop"]
    assert (bigram.config.batch_size, bigram.sizes["block_size"]) == (32, 8)
    assert (bigram.config.learning_rate, bigram.config.steps) == (1e-2, 3000)
    assert full.sizes == {"block_size": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "dropout": 0.2}
    assert (full.config.batch_size, full.config.learning_rate, full.config.steps) == (64, 3e-4, 5000)
    assert [laptop.sizes[name] for name in ("n_layer", "n_head", "n_embd")] == [4, 4, 128]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["sample", "--help"], ["info", "--help"]])
def test_help_has_an_example(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "python -m minigpt" in out
    assert words == ["--help"] or "example: python -m minigpt" in out


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "BEN: 7"], "the symbol '7' at position 5 (line 1) is not in the vocabulary"),
        (["--prompt", ""], "the prompt is empty"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-k", "0"], "top_k is 0"),
        (["--top-p", "2"], "top_p is 2.0"),
        (["-n", "-3"], "n is -3"),
        (["--device", "warp"], "device is 'warp'"),
        (["--seed", "-1"], "--seed is -1: it must be from 0 to 4,294,967,295"),
    ],
)
def test_a_bad_sample_is_refused(words, message, trained, capsys):
    assert message in complaint(capsys, "sample", trained, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "bigram", "--n-layer", "2"], "the preset bigram has no n_layer: leave --n-layer out"),
        (["--preset", "gpt", "--n-head", "5"], "n_embd is 384: it must be divisible by n_head, which is 5"),
        (["--preset", "gpt", "--learning-rate", "nan"], "learning_rate is nan"),
        (["--preset", "gpt", "--precision", "float8"], "--precision is 'float8'"),
        (["--preset", "bigram", "--block-size", "100000"], "the training part of the text has"),
        (["--preset", "bigram", "--block-size", "300"], "the validation part of the text has"),
        (["--preset", "bigram", "--seed", str(2**64)], "seed is 18446744073709551616: it must be below 4,294,967,296"),
        (["--preset", "bigram", "--device", "meta"], "device is 'meta', on which minigpt was never tried"),
        (["--preset", "bigram", "--save-every", "-1"], "--save-every is -1.0"),
        (["--preset", "modern-laptop", "--block-size", "300"], "the validation part of the text has"),
        (["--preset", "gpt", "--muon-rate", "0.1"], "--muon-rate is for Muon, but this run has AdamW alone"),
        (["--preset", "bigram", "--optimizer", "muon"], "the model has no matrices in `blocks`: use 'adamw'"),
        (["--resume", "nowhere"], "there is no run to resume in nowhere"),
    ],
)
def test_bad_training_is_refused(words, message, text_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "faster_precision", None)  # nothing is measured before the refusal
    assert message in complaint(capsys, "train", "--data", text_file, *words)
    assert list(tmp_path.iterdir()) == []  # no run half begun


def test_a_missing_text_or_model_is_named(tmp_path, capsys):
    assert "there is no text at" in complaint(capsys, "train", "--preset", "bigram", "--data", tmp_path / "no.txt")
    assert "there is no model at" in complaint(capsys, "sample", tmp_path)
    (tmp_path / "run.safetensors").touch()
    assert f"go on with `python -m minigpt train --resume {tmp_path}`" in complaint(capsys, "sample", tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"\x89PNG" + bytes(50))
    assert "is not a safetensors file" in complaint(capsys, "info", tmp_path / "x.safetensors")


def test_a_run_is_never_written_over(trained, text_file, tmp_path, capsys, monkeypatch):
    words = ["train", "--preset", "bigram", "--data", text_file]
    with monkeypatch.context() as patch:
        patch.setattr(cli, "load_text", None)  # told before anything is read or measured
        assert f"{trained} already holds a run: go on with --resume" in complaint(capsys, *words, "--out", trained)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([*words, "--steps", "1"]) == 0
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["bigram", "bigram-2"]


def test_runs_that_begin_together_get_a_folder_each(tmp_path, monkeypatch):
    """Nothing is written yet when the second one looks for a free name."""
    monkeypatch.chdir(tmp_path)
    args = Namespace(preset="bigram", out=None)
    assert [cli._free_folder(args).name for _ in range(3)] == ["bigram", "bigram-2", "bigram-3"]


def test_a_folder_runs_that_leads_nowhere_is_an_error(text_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "a disk that is not there")
    assert "File exists: 'runs'" in complaint(capsys, "train", "--preset", "bigram", "--data", text_file)


def test_a_symbol_that_the_terminal_cannot_show_becomes_a_question_mark(tmp_path):
    save_model(GPT(GPTConfig(2, 8, 8, 1, 1, 0.0)), tmp_path, CharTokenizer("ał"))
    words = [sys.executable, "-m", "minigpt", "sample", str(tmp_path), "--prompt", "ał", "-n", "20"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"a\?[a?]{20}\n", done.stdout)


def test_an_unknown_preset_lists_those_there_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--preset", "gpt9"])
    assert stopped.value.code == 2
    assert "gpt-laptop" in capsys.readouterr().err


def test_a_reader_who_leaves_early_is_no_error(trained):
    command = f"{sys.executable} -m minigpt sample {trained} -n 3000 | head -c 20"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert len(done.stdout) == 20
    assert done.returncode == 0


def test_each_symbol_is_out_before_the_next_is_drawn(trained, monkeypatch):
    raw, seen = io.BytesIO(), []

    def watched(*settings):
        for symbol in stream(*settings):
            seen.append(len(raw.getvalue()))
            yield symbol

    monkeypatch.setattr(cli, "stream", watched)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "utf8"))
    assert main(["sample", str(trained), "--prompt", "BEN", "-n", "4"]) == 0
    assert seen == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (torch.OutOfMemoryError(), 1, "minigpt: not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "minigpt: not enough memory"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends_that_cannot_go_on(error, status, said, trained, monkeypatch, capsys):
    def fail(*settings):
        raise error

    monkeypatch.setattr(cli, "stream", fail)
    assert main(["sample", str(trained)]) == status
    assert capsys.readouterr().err.strip().startswith(said)


def test_an_error_of_the_program_is_not_told_as_bad_input(trained, monkeypatch):
    monkeypatch.setattr(cli, "stream", lambda: None)
    with pytest.raises(TypeError):
        main(["sample", str(trained)])


def test_ctrl_c_while_the_loss_is_measured_says_what_is_saved(text_file, tmp_path, monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "evaluate", interrupted)
    words = ["train", "--preset", "bigram", "--data", text_file, "--steps", "3", "--out", str(tmp_path / "b")]
    assert main(words) == 130
    said = f"All 3 steps are saved, the loss is not measured. Go on with: python -m minigpt train --resume {tmp_path}"
    assert said in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "b"), "--data", text_file]) == 0
    assert load_facts(tmp_path / "b")["val_loss"] > 0


# ── several processes ────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_processes_get_the_losses_of_one(text_file, tmp_path):
    sizes = ["--n-embd=16", "--n-layer=1", "--block-size=16", "--steps=12", "--eval-every=4", "--micro-batch-size=3"]
    words = ["-m", "minigpt", "train", "--preset=gpt-laptop", "--data", text_file, "--device=cpu", *sizes]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    records = {}
    for name, start in {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    }.items():
        done = subprocess.run(
            [*start, *words, "--out", tmp_path / name], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("validation loss") == 1  # one process speaks
        records[name] = json.loads((tmp_path / name / "history.json").read_text())
    one, two = records["one"], records["two"]
    assert one["history"]["steps"] == two["history"]["steps"] == [0, 4, 8, 12]
    assert two["history"]["val_losses"] == pytest.approx(one["history"]["val_losses"], abs=1e-4)
    assert two["history"]["train_losses"] == pytest.approx(one["history"]["train_losses"], abs=1e-4)
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)
    assert one["history"]["val_losses"][-1] < one["history"]["val_losses"][0] - 0.1


def test_each_process_draws_its_own_dropout_also_when_it_goes_on(text_file, tmp_path, monkeypatch):
    sizes = ["--n-embd=16", "--n-layer=1", "--block-size=16", "--steps=2", "--dropout=0.2"]
    words = ["train", "--preset=gpt-laptop", "--data", str(text_file), "--device=cpu", *sizes]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    draws = []
    monkeypatch.setattr(cli, "_run", lambda *args: draws.append(torch.rand(9)) or 0)
    for rank in (0, 1, 2):
        monkeypatch.setattr(cli, "processes", lambda device, rank=rank: nullcontext(Processes(rank, 3)))
        assert main([*words, "--out", str(tmp_path / f"new-{rank}")]) == 0
        for steps in ("3", "4"):
            again = ["train", "--resume", str(tmp_path / "run"), "--data", str(text_file), "--steps", steps]
            assert main(again) == 0
    same = [(a, b) for a in range(9) for b in range(a) if draws[a].equal(draws[b])]
    assert same == [(2, 1), (5, 4), (8, 7)]  # only where rank and step are the same


def test_a_batch_that_cannot_be_shared_is_refused(text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "processes", lambda device: nullcontext(Processes(0, 2)))
    words = ["train", "--preset", "bigram", "--data", text_file, "--batch-size", "7", "--out", tmp_path / "x"]
    assert "batch_size 7 cannot be shared by 2 processes evenly" in complaint(capsys, *words)


def test_each_process_on_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.pick_device(None) == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.pick_device(None) == processes.pick_device("cuda") == "cuda:1"
    assert processes.pick_device("cuda:0") == "cuda:0"
    with pytest.raises(ValueError, match="device is 'cuda:2', but there are 2 GPUs here"):
        processes.pick_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"device is 'cuda:2', but there are 2 GPUs here.*or start fewer processes"):
        processes.pick_device(None)


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in ("train", "sample", "info", "export", "presets"))


@pytest.mark.parametrize("sampling", ["random", "in turn"])
def test_each_process_takes_its_own_rows(sampling):
    ids, config = torch.arange(100), TrainConfig(batch_size=6, sampling=sampling)

    def state():
        return TrainState([], torch.Generator().manual_seed(1), step=3)

    whole = training.next_batch(ids, 4, config, state())[0]
    shares = [Processes(r, 2).next_batch(ids, 4, config, state())[0] for r in (0, 1)]
    assert sorted(torch.cat(shares).tolist()) == sorted(whole.tolist())


def test_the_precision_is_measured_and_nothing_changes():
    model = GPT(GPTConfig(block_size=8, n_embd=16, n_head=2, n_layer=1))
    before, rng = [p.clone() for p in model.parameters()], torch.get_rng_state()
    assert processes.faster_precision(model, 2) in ("float32", "bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize(
    ("preset", "count", "rows"), [("gpt", 1, 16), ("modern-laptop", 1, 16), ("modern-coffee", 2, 8)]
)
def test_auto_takes_the_precision_measured_on_the_rows_of_one_pass(
    preset, count, rows, text_file, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(Processes, "agree", lambda self, value: value)
    monkeypatch.setattr(cli, "processes", lambda device: nullcontext(Processes(0, count)))
    monkeypatch.setattr(cli, "faster_precision", lambda model, rows: asked.append(rows) or "bfloat16")
    monkeypatch.setattr(cli, "_run", lambda run, *rest: asked.append(run.config.precision) or 0)
    words = ["train", "--preset", preset, "--data", str(text_file), "--device=cpu", "--out", str(tmp_path)]
    assert main(words) == 0
    assert asked == [rows, "bfloat16"]


@pytest.mark.parametrize(("rows", "block_size", "measured"), [(16, 256, 8), (4, 256, 4), (64, 128, 16), (3, 4096, 1)])
def test_the_precision_is_measured_on_2048_symbols_at_most(rows, block_size, measured, monkeypatch):
    model, seen = GPT(GPTConfig(block_size=block_size, n_embd=8, n_head=1, n_layer=1)), set()
    model.register_forward_pre_hook(lambda module, args: seen.add(tuple(args[0].shape)))
    processes.faster_precision(model, rows)
    assert seen == {(measured, block_size)}


@pytest.mark.parametrize(("times", "choice"), [((1.0, 0.5), "bfloat16"), ((1.0, 0.95), "float32"), ((1, 2), "float32")])
def test_sixteen_bits_are_taken_where_they_gain_a_tenth(times, choice, monkeypatch):
    seconds = dict(zip(("float32", "bfloat16"), times, strict=True))
    monkeypatch.setattr(processes, "_seconds", lambda work, precision: seconds[precision])
    model = GPT(GPTConfig(block_size=8, n_embd=16, n_head=2, n_layer=1))
    assert processes.faster_precision(model, 2) == choice
