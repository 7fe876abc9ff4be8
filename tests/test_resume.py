"""Runs that are killed, interrupted or diverge, and go on: in a process of their own, as they happen to people."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minigpt import CharTokenizer, TrainConfig, split, train
from minigpt.run import cli, resume
from minigpt.run.checkpoint import (
    RUN_FILE,
    CheckpointError,
    load_facts,
    load_model,
    read_tensors,
    save_model,
    write_tensors,
)
from minigpt.run.resume import Keeper, Run, load_run, save_run
from minigpt.training import start

SIZES = {"n-embd": 32, "n-head": 2, "n-layer": 2, "block-size": 32, "dropout": 0.2, "batch-size": 8}
SMALL = ["--preset", "gpt-laptop", *(f"--{name}={value}" for name, value in SIZES.items())]
MODERN = ["--preset", "modern-laptop", "--precision=float32", *SMALL[2:]]  # two optimizers


@pytest.fixture
def text_file(tmp_path, play):
    file = tmp_path / "play.txt"
    file.write_text(play)
    return str(file)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "minigpt", "train", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=environment(), capture_output=True, text=True, timeout=300)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the run in the folder has been saved at this step or later."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / RUN_FILE).exists() and load_run(folder).state.step >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} within two minutes, or the run ended: {process.poll()}")


def everything(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of a run (weights, optimizer, generators) and its history without the times."""
    tensors, metadata = read_tensors(folder / RUN_FILE)
    return tensors, re.sub(r'"seconds": (\[.*?\]|[0-9.e-]+)', "", metadata["run"])


@pytest.mark.parametrize("preset", [SMALL, MODERN], ids=["gpt-laptop", "modern-laptop"])
def test_a_run_killed_several_times_ends_with_the_same_bits(preset, text_file, tmp_path):
    settings = [*preset, "--data", text_file, "--steps", 200, "--eval-every", 40]
    done = run(*settings, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    seed = os.environ.get("PYTEST_XDIST_TESTRUNUID", time.time_ns())
    print(f"killed at random moments, seed {seed}")
    choose = random.Random(seed)
    words = [*settings, "--out", tmp_path / "killed", "--save-every", 0]
    for low, high in ((3, 30), (35, 65), (70, 100)):
        process = subprocess.Popen(command(*words), env=environment(), stderr=subprocess.DEVNULL)
        wait_for_step(process, tmp_path / "killed", choose.randint(low, high))
        time.sleep(choose.random() * 0.02)  # anywhere in a step, or in a write
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        words = ["--resume", tmp_path / "killed", "--data", text_file, "--save-every", 0]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    whole, killed = everything(tmp_path / "whole"), everything(tmp_path / "killed")
    assert whole[1] == killed[1]
    assert whole[0].keys() == killed[0].keys()
    different = [name for name in whole[0] if not torch.equal(whole[0][name], killed[0][name])]
    assert different == []
    assert {p.name for p in (tmp_path / "killed").iterdir()} >= {RUN_FILE, "model.safetensors", "history.json"}


@pytest.mark.parametrize(
    "forgotten",
    ["generator.batches", "generator.torch", "optimizer.0.0.exp_avg", "optimizer.0.0.step", "optimizer.1.0.mean"],
)
def test_planted_each_forgotten_part_changes_the_bits(forgotten, text_file, tmp_path, monkeypatch):
    """What the test above would see if a run forgot a part of its state: the rest of the run is another one."""
    assert run(*MODERN, "--data", text_file, "--steps", 6, "--out", tmp_path / "run").returncode == 0
    longer = TrainConfig(steps=8, batch_size=8, learning_rate=1e-2, optimizer="muon")

    def went_on(read):
        monkeypatch.setattr(resume, "read_tensors", read)
        again = load_run(tmp_path / "run")
        ids = split(again.tokenizer.encode(Path(text_file).read_text()))
        train(again.model, *ids, longer, state=again.state, progress=False)
        return again.model.head.weight

    def forgetful(file):
        tensors, metadata = read_tensors(file)
        if forgotten.startswith("generator"):
            tensors[forgotten] = torch.Generator().manual_seed(99).get_state()
        else:
            tensors[forgotten] = torch.zeros_like(tensors[forgotten]) + (1 if "step" in forgotten else 0)
        return tensors, metadata

    right, again, wrong = went_on(read_tensors), went_on(read_tensors), went_on(forgetful)
    assert torch.equal(right, again)
    assert not torch.equal(right, wrong)


def test_ctrl_c_saves_and_says_how_to_go_on(text_file, tmp_path):
    folder = tmp_path / "run"
    words = [*SMALL, "--data", text_file, "--steps", 100_000, "--out", folder, "--save-every", 0.2]
    process = subprocess.Popen(command(*words), env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(process, folder, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped = re.search(r"Stopped and saved at step (\d+)\. Go on with: python -m minigpt train (.*)", errors)
    assert stopped, errors
    assert load_run(folder).state.step == int(stopped[1])
    assert load_facts(folder)["step"] == int(stopped[1])
    assert load_facts(folder)["val_loss"] is None  # an estimate is not passed off as the loss of the whole split
    assert stopped[2] == f"--resume {folder} --data {text_file}"
    assert errors.index("stopping after this step; Ctrl-C again stops at once") < stopped.start()
    assert errors.endswith(f"{stopped[0]}\n")  # what to copy is the last line, below the bar
    assert "Traceback" not in errors
    load_model(folder)


def test_a_run_whose_log_is_cut_off_keeps_its_steps(text_file, tmp_path):
    """Ctrl-C also ends the `tee` that writes the log, and the bar is drawn before the run is saved."""
    folder = tmp_path / "run"
    words = [*SMALL, "--data", text_file, "--steps", 100_000, "--out", folder, "--save-every", 1000]
    process = subprocess.Popen(command(*words), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while b"/100000" not in process.stderr.read1():
        pass
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert load_run(folder).state.step > 0


def test_a_second_ctrl_c_says_what_is_kept(text_file, tmp_path, monkeypatch, capsys):
    """It comes inside a step, whose weights are half moved: only what was saved before counts."""

    def impatient(*args, state, **more):
        state.step += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "train", impatient)
    folder = tmp_path / "run"
    assert cli.main(["train", *SMALL, "--data", text_file, "--device=cpu", "--out", str(folder)]) == 130
    assert "Stopped at once; last saved at step 0. Go on with" in capsys.readouterr().err
    assert load_run(folder).state.step == 0
    assert not (folder / "model.safetensors").exists()


def test_a_loss_ruined_in_the_last_step_does_not_replace_a_good_run(play, tmp_path, monkeypatch, capsys):
    """Weights may be finite and so large that the loss is none."""
    monkeypatch.setattr(cli, "load_text", lambda path: play)
    words = ["train", *SMALL, "--steps", "1", "--learning-rate", "1e25", "--device=cpu", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "training diverged in its last step; try a learning_rate below 1e+25. Step 0 is saved." in said
    assert load_run(tmp_path / "run").state.step == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_diverges_goes_on_from_what_was_saved_with_a_lower_rate(optimizer, text_file, tmp_path):
    folder = tmp_path / "run"
    recipe = ["--steps", 20, "--optimizer", optimizer, "--learning-rate", "1e30"]
    done = run(*SMALL, "--data", text_file, *recipe, "--out", folder)
    assert done.returncode == 1
    assert "training diverged at step" in done.stderr
    assert "Step 0 is saved." in done.stderr
    rates = "--learning-rate …" + (" --muon-rate …" if optimizer == "muon" else "")
    assert f"--resume {folder} --data {text_file} {rates}\n" in done.stderr
    assert "Traceback" not in done.stderr
    lower = ["--learning-rate", "1e-3"] + (["--muon-rate", "0.01"] if optimizer == "muon" else [])
    again = run("--resume", folder, "--data", text_file, *lower)
    assert again.returncode == 0, again.stderr
    assert (load_run(folder).config.learning_rate, load_run(folder).config.muon_rate) == (
        1e-3,
        0.01 if optimizer == "muon" else TrainConfig().muon_rate,
    )
    assert load_facts(folder)["step"] == 20


def test_the_keeper_saves_no_damaged_weights_and_lets_a_second_ctrl_c_through(small_gpt, tmp_path):
    config, before = TrainConfig(), signal.getsignal(signal.SIGINT)
    run = Run("gpt", small_gpt, CharTokenizer("ab"), config, "", start(small_gpt, config))
    keeper = Keeper(run, tmp_path, every=0)
    run.state.step = 1
    keeper(run.state)
    run.state.step = 2
    with torch.no_grad():
        small_gpt.head.bias[0] = float("nan")
    keeper(run.state)
    assert keeper.saved_step == load_run(tmp_path).state.step == 1
    with keeper.listening():
        signal.raise_signal(signal.SIGINT)
        assert keeper.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_save_that_fails_is_told_and_training_goes_on(small_gpt, tmp_path, monkeypatch, capsys):
    """A full disk for a minute must not end a run of hours."""
    config = TrainConfig()
    run = Run("gpt", small_gpt, CharTokenizer("ab"), config, "", start(small_gpt, config))
    keeper = Keeper(run, tmp_path, every=0)
    run.state.step = 1
    keeper(run.state)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save_run", full)
        run.state.step = 2
        keeper(run.state)
        keeper.interrupted = True
        with pytest.raises(KeyboardInterrupt):
            keeper(run.state)
    assert "warning: step 2 is not saved: [Errno 28] No space left on device" in capsys.readouterr().err
    assert (keeper.saved_step, keeper.at_rest) == (1, False)
    keeper.interrupted = False
    keeper(run.state)
    assert keeper.saved_step == load_run(tmp_path).state.step == 2


def test_all_processes_stop_after_the_same_step(small_gpt, tmp_path):
    """Ctrl-C reaches them one by one: the one that did not hear of it yet stops, and saves, with the others."""
    config = TrainConfig()
    run = Run("gpt", small_gpt, CharTokenizer("ab"), config, "", start(small_gpt, config))
    keeper = Keeper(run, tmp_path, every=1000, agree=lambda flag: True)
    run.state.step = 1
    with pytest.raises(KeyboardInterrupt):
        keeper(run.state)
    assert keeper.at_rest
    assert load_run(tmp_path).state.step == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for the processes that were started")
def test_ctrl_c_that_reaches_one_of_two_processes_stops_and_saves_both(text_file, tmp_path):
    folder = tmp_path / "run"
    _, *words = command(*SMALL, "--data", text_file, "--steps", 100_000, "--out", folder, "--save-every", 0.2)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**environment(), "PYTHONPATH": str(Path(resume.__file__).parents[2])}
    process = subprocess.Popen([*start, *words], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_step(process, folder, 2)
    _, second = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(second), signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    stopped = re.search(r"Stopped and saved at step (\d+)", errors)
    assert stopped, errors
    assert load_run(folder).state.step == int(stopped[1])
    assert {file.name for file in tmp_path.iterdir()} == {"play.txt", "run"}  # the second one saves nothing


def test_a_run_is_saved_every_so_many_seconds(small_gpt, tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(resume, "save_run", lambda run, folder: saved.append(run.state.step))
    going = Run("gpt", small_gpt, CharTokenizer("ab"), TrainConfig(), "", start(small_gpt, TrainConfig()))
    keeper = Keeper(going, tmp_path, every=30)
    for step in range(1, 101):
        now[0], going.state.step = float(step), step
        keeper(going.state)
    assert saved == [30, 60, 90]


def test_weights_ruined_in_the_last_step_do_not_replace_good_ones(play, tmp_path, monkeypatch, capsys):
    def ruined(model, *given, **settings):
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(cli, "load_text", lambda path: play)
    monkeypatch.setattr(cli, "train", ruined)
    assert cli.main(["train", *SMALL, "--steps", "1", "--out", str(tmp_path / "run")]) == 1
    assert "training diverged in its last step; try a learning_rate below" in capsys.readouterr().err
    assert all(bool(p.isfinite().all()) for p in load_run(tmp_path / "run").model.parameters())


def test_a_run_that_finds_no_memory_is_not_called_broken(small_gpt, tmp_path, monkeypatch):
    save_run(Run("gpt", small_gpt, CharTokenizer("ab"), TrainConfig(), "", start(small_gpt, TrainConfig())), tmp_path)

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resume, "start", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_run(tmp_path)


def test_a_finished_run_can_be_made_longer(text_file, tmp_path):
    folder = tmp_path / "run"
    assert run(*SMALL, "--data", text_file, "--steps", 3, "--out", folder).returncode == 0
    done = run("--resume", folder, "--data", text_file)
    assert "This run is finished (3 steps). To go on, add --steps" in done.stdout
    (folder / "model.safetensors").unlink()  # as if it had been killed while the loss was measured
    (folder / f".{RUN_FILE}.x").touch()
    done = run("--resume", folder, "--data", text_file)
    assert "validation loss" in done.stdout
    assert {file.name for file in folder.iterdir()} == {RUN_FILE, "model.safetensors", "history.json"}
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"?")  # damaged
    assert "validation loss" in run("--resume", folder, "--data", text_file).stdout
    load_model(folder)
    (folder / "history.json").unlink()
    assert "validation loss" in run("--resume", folder, "--data", text_file).stdout
    assert (folder / "history.json").exists()
    done = run("--resume", folder, "--data", text_file, "--steps", 5)
    assert done.returncode == 0, done.stderr
    assert load_run(folder).state.step == 5
    assert load_facts(folder)["step"] == 5
    done = run("--resume", folder, "--data", text_file, "--steps", 4)
    assert done.returncode == 2
    assert "--steps is 4, but the run is at step 5: give a larger number" in done.stderr
    assert load_run(folder).config.steps == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "OTHER"], "was trained on another text: pass that one with --data"),
        (["--data", "SAME", "--batch-size", "4"], "leave --batch-size out"),
        (["--data", "SAME", "--out", "elsewhere"], "leave --out out"),
        (["--data", "SAME", "--muon-rate", "0.1"], "--muon-rate is for Muon, but this run has AdamW alone"),
    ],
)
def test_going_on_with_something_else_is_refused(words, message, text_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Quite another text. " * 50)
    folder = tmp_path / "run"
    assert run(*SMALL, "--data", text_file, "--steps", 1, "--out", folder).returncode == 0
    done = run("--resume", folder, *({"OTHER": str(other), "SAME": text_file}.get(word, word) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_began_without_a_network_goes_on_with_one(play, tmp_path, monkeypatch, capsys):
    """The real text can be had now; this run goes on with the one it knows."""
    monkeypatch.setattr(cli, "generate_play", lambda: play)
    monkeypatch.setattr(cli, "load_text", lambda path: play)
    folder = str(tmp_path / "run")
    assert cli.main(["train", *SMALL, "--steps", "1", "--out", folder]) == 0
    monkeypatch.setattr(cli, "load_text", lambda path: play[::-1])
    assert cli.main(["train", "--resume", folder, "--steps", "2"]) == 0
    assert load_facts(Path(folder))["step"] == 2
    assert cli.main(["train", "--resume", folder, "--steps", "3", "--data", "another"]) == 2
    assert "was trained on another text: pass that one with --data" in capsys.readouterr().err


def test_what_is_no_run_is_named(tmp_path, small_gpt):
    with pytest.raises(FileNotFoundError, match="there is no run to resume"):
        load_run(tmp_path)
    save_model(small_gpt, tmp_path / RUN_FILE)
    with pytest.raises(CheckpointError, match="holds a model but no run"):
        load_run(tmp_path)
    state = start(small_gpt, TrainConfig())
    save_run(Run("gpt", small_gpt, CharTokenizer("ab"), TrainConfig(), "", state), tmp_path)
    tensors, metadata = read_tensors(tmp_path / RUN_FILE)
    write_tensors(tmp_path / RUN_FILE, tensors, {"run": metadata["run"].replace('"GPT"', '"GTP"')})
    with pytest.raises(CheckpointError, match=r"holds no run this version knows \('GTP'\): update minigpt"):
        load_run(tmp_path)
    tensors.pop("model.head.bias")
    write_tensors(tmp_path / RUN_FILE, tensors, {"run": metadata["run"]})
    with pytest.raises(CheckpointError, match="does not fit its own config"):
        load_run(tmp_path)


def test_saving_never_touches_the_run(text_file, tmp_path):
    assert run(*SMALL, "--data", text_file, "--steps", 2, "--out", tmp_path / "run").returncode == 0
    with pytest.raises(CheckpointError, match=r"holds a run to go on with, not a model: use the model\.safetensors"):
        load_model(tmp_path / "run" / RUN_FILE)
    loaded = load_run(tmp_path / "run")
    before = torch.get_rng_state(), loaded.state.generator.get_state()
    save_run(loaded, tmp_path / "copy")
    after = torch.get_rng_state(), loaded.state.generator.get_state()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    one, two = (read_tensors(tmp_path / name / RUN_FILE)[1]["run"] for name in ("copy", "run"))
    assert one == two  # the seconds too
