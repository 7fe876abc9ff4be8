"""The command line: `python -m minigpt train | sample | info | export | presets`."""

import argparse
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt.bigram import LanguageModel
from minigpt.generation import stream
from minigpt.run.checkpoint import (
    BUILD,
    MODEL_FILE,
    RUN_FILE,
    CheckpointError,
    load_facts,
    load_model,
    load_tokenizer,
    save_model,
    write_bytes,
)
from minigpt.run.presets import PRESETS
from minigpt.run.processes import Processes, faster_precision, machine, pick_device, processes
from minigpt.run.resume import Keeper, Run, load_run, save_run, text_sha256
from minigpt.standin import generate_play
from minigpt.text import CharTokenizer, check_sizes, load_text, split
from minigpt.training import MOST_SEEDS, TrainConfig, evaluate, start, train

RECORD_FILE = "history.json"  # what a run reached, and how, beside its model

SIZES = {
    "block_size": (int, "the longest context, in symbols"),
    "n_embd": (int, "size of the vector at each position"),
    "n_head": (int, "heads in each layer; divides n_embd"),
    "n_layer": (int, "how many blocks"),
    "dropout": (float, "share of numbers set to 0 in training"),
}
RECIPE = {
    "steps": (int, "how many updates of the weights"),
    "batch_size": (int, "rows in a step"),
    "sampling": (str, "random, or 'in turn' (with the quotes): every row once, in random order, before any twice"),
    "micro_batch_size": (int, "rows computed at once: fewer need less memory, same gradient but for dropout"),
    "learning_rate": (float, "AdamW's highest rate, after the warm-up"),
    "muon_rate": (float, "Muon's highest rate, for the matrices of the blocks"),
    "weight_decay": (float, "how strongly matrices are pulled to 0"),
    "optimizer": (str, "adamw, or muon: Muon for the matrices of the blocks"),
    "precision": (str, "float32, bfloat16, or auto: what is faster here"),
    "eval_every": (int, "steps between two estimates of the loss"),
    "seed": (int, "for weights, batches and dropout"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a run that failed, 2 for bad input, 130 after Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if "command" not in args:
        parser.print_help()
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a symbol that this terminal or file can't hold becomes a ?
    try:
        return args.command(args)
    except BrokenPipeError:  # the reader of our output has left, as in `sample … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except RuntimeError as error:
        signs = ("DefaultCPUAllocator", "MPS backend out of memory", "Storage size calculation overflowed")
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        new = getattr(args, "preset", None)
        hint = "try a smaller --micro-batch-size, or a smaller model" if new else "end other programs that need it"
        print(f"minigpt: not enough memory: {hint}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"minigpt: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minigpt", description="Train a small language model and sample it."
    )
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example: {example}",
        )
        sub.set_defaults(command=run)
        return sub

    sub = command("train", _train, "train a model", "python -m minigpt train --preset gpt-laptop --out runs/first")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--preset", choices=sorted(PRESETS), help="the recipe; see `python -m minigpt presets`")
    what.add_argument("--resume", metavar="DIR", type=Path, help="go on with the run in this folder")
    sub.add_argument("--out", metavar="DIR", type=Path, help="folder for the run (default: runs/PRESET)")
    sub.add_argument("--data", metavar="FILE", help="train on this text (default: Tiny Shakespeare)")
    sub.add_argument("--device", help="cpu, cuda, cuda:0 or mps (default: a CUDA GPU if there is one, else cpu)")
    sub.add_argument(
        "--save-every",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="how often the run is saved (default: %(default)s)",
    )
    for title, options in (
        ("the model, instead of the preset's", SIZES),
        ("the training, instead of the preset's", RECIPE),
    ):
        group = sub.add_argument_group(title)
        for name, (kind, summary) in options.items():
            group.add_argument(_flag(name), type=kind, help=summary, metavar={int: "N", float: "X", str: "NAME"}[kind])

    sub = command(
        "sample", _sample, "write text with a trained model", "python -m minigpt sample runs/first --prompt 'KING:'"
    )
    sub.add_argument("checkpoint", type=Path, help="a run's folder or a .safetensors file")
    sub.add_argument("--prompt", default="\n", help="the text to continue (default: a newline)")
    sub.add_argument("-n", "--symbols", type=int, default=500, help="how many to write (default: %(default)s)")
    sub.add_argument("--temperature", type=float, default=0.8, help="0: always the best symbol (default: %(default)s)")
    sub.add_argument("--top-k", type=int, help="draw from the k most probable symbols")
    sub.add_argument("--top-p", type=float, help="draw from the fewest symbols that reach this probability")
    sub.add_argument("--seed", type=int, help="the same seed writes the same text on the same machine")
    sub.add_argument("--device", help="default: a CUDA GPU if there is one, else cpu")

    sub = command("info", _info, "describe a model: sizes, parameters by piece", "python -m minigpt info runs/first")
    sub.add_argument("checkpoint", type=Path, help="a run's folder or a .safetensors file")

    sub = command(
        "export",
        _export,
        "copy a model in 16-bit floats, half as large",
        "python -m minigpt export runs/first first.safetensors",
    )
    sub.add_argument("checkpoint", type=Path, help="a run's folder or a .safetensors file")
    sub.add_argument("file", type=Path, help="the .safetensors file to write")

    command("presets", _presets, "list the recipes", "python -m minigpt presets")
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _train(args: argparse.Namespace) -> int:
    if not (math.isfinite(args.save_every) and args.save_every >= 0):
        raise ValueError(f"--save-every is {args.save_every}: it must be a number of seconds, 0 or more")
    device = pick_device(args.device)
    if device.startswith("mps"):
        warning = "minigpt: warning: Apple's MPS has given silently wrong results with torch; compare with --device cpu"
        print(warning, file=sys.stderr)
    if args.out and not args.resume and any((args.out / name).exists() for name in (RUN_FILE, MODEL_FILE)):
        raise ValueError(f"{args.out} already holds a run: go on with --resume {args.out}, or choose another --out")
    text = load_text(args.data)
    with processes(device) as team:
        run, text = _continued(args, text, device) if args.resume else (_new(args, text, device, team), text)
        if run.config.batch_size % team.count:
            raise ValueError(f"batch_size {run.config.batch_size} cannot be shared by {team.count} processes evenly")
        if args.resume and _is_finished(run, args.resume):
            print(f"This run is finished ({run.config.steps} steps). To go on, add --steps with a larger number.")
            return 0
        if team.rank:  # each process draws its own dropout, also when it goes on
            torch.manual_seed(run.config.seed + team.rank + team.count * run.state.step)
        return _run(run, team, args, text)


def _new(args: argparse.Namespace, text: str, device: str, team: Processes) -> Run:
    preset, tokenizer = PRESETS[args.preset], CharTokenizer(text)
    sizes, recipe = _given(args, SIZES), _given(args, RECIPE)
    if unknown := sorted(set(sizes) - set(preset.sizes)):
        raise ValueError(f"the preset {args.preset} has no {unknown[0]}: leave {_flag(unknown[0])} out")
    precision = recipe.pop("precision", preset.precision)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"--precision is {precision!r}: it must be auto, float32 or bfloat16")
    config = _changed(preset.config, recipe)
    torch.manual_seed(config.seed)
    model = BUILD[preset.model]({"vocab_size": tokenizer.vocab_size, **preset.sizes, **sizes}).to(device)
    _parts(tokenizer, text, config, model.config.block_size)  # a text too short is refused before the measuring
    if precision == "auto":
        rows = config.micro_batch_size or max(1, config.batch_size // team.count)
        precision = team.agree(faster_precision(model, rows) if team.is_first else "")
    config = replace(config, precision=precision)
    return Run(args.preset, model, tokenizer, config, text_sha256(text), start(model, config))


def _continued(args: argparse.Namespace, text: str, device: str) -> tuple[Run, str]:
    """The run in the folder, and the text that it goes on with."""
    changes = _given(args, SIZES | RECIPE)
    allowed = {"steps", "learning_rate", "muon_rate", "eval_every"}
    if args.out or set(changes) - allowed:
        names = [_flag(name) for name in sorted(set(changes) - allowed)] + (["--out"] if args.out else [])
        raise ValueError(f"a resumed run keeps what it began with: leave {', '.join(names)} out")
    run = load_run(args.resume, device)
    if run.preset not in PRESETS:
        raise ValueError(f"the run in {args.resume} is of the preset {run.preset!r}, which this minigpt does not know")
    if run.text_sha256 != text_sha256(text) and args.data is None:
        text = generate_play()  # what a run begins with where the real text can't be had
    if run.text_sha256 != text_sha256(text):
        raise ValueError(f"the run in {args.resume} was trained on another text: pass that one with --data")
    run.config = _changed(run.config, changes)
    if run.config.steps < run.state.step:
        raise ValueError(
            f"--steps is {run.config.steps}, but the run is at step {run.state.step}: give a larger number"
        )
    return run, text


def _changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    config = replace(config, **changes)
    if "muon_rate" in changes and config.optimizer != "muon":
        raise ValueError("--muon-rate is for Muon, but this run has AdamW alone: leave it out")
    return config


def _is_finished(run: Run, folder: Path) -> bool:
    """Whether the last step was made and its loss over the whole split measured and written down."""
    if run.state.step < run.config.steps or not all((folder / name).exists() for name in (MODEL_FILE, RECORD_FILE)):
        return False
    try:
        facts = load_facts(folder)
    except CheckpointError:  # it is written again, from the run
        return False
    return facts.get("step") == run.state.step and facts.get("val_loss") is not None


def _given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _free_folder(args: argparse.Namespace) -> Path:
    """The folder asked for, or a new one: the first of runs/PRESET, runs/PRESET-2, … that is not there yet."""
    if args.out:
        return args.out
    folder, number = Path("runs", args.preset), 1
    folder.parent.mkdir(exist_ok=True)  # an error here is about runs/ itself, not about a name that is taken
    while True:
        try:
            folder.mkdir()  # of several runs that begin together only one can make it
            return folder
        except FileExistsError:
            number += 1
            folder = Path("runs", f"{args.preset}-{number}")


def _parts(tokenizer: CharTokenizer, text: str, config: TrainConfig, block_size: int) -> tuple[Tensor, Tensor]:
    """The ids to train on and those to measure on, if both are long enough."""
    parts = split(tokenizer.encode(text))
    for name, ids in zip(("training", "validation"), parts, strict=True):
        check_sizes(ids, config.batch_size, block_size, f"{name} part of the text")
    return parts


def _run(run: Run, team: Processes, args: argparse.Namespace, text: str) -> int:
    train_ids, val_ids = _parts(run.tokenizer, text, run.config, run.model.config.block_size)
    folder = args.resume or (_free_folder(args) if team.is_first else Path())
    keeper = Keeper(run, folder, args.save_every, writes=team.is_first, agree=team.any)
    again = {"resume": folder.as_posix(), "data": args.data, "device": args.device}
    given = [f"--{name} {shlex.quote(str(value))}" for name, value in again.items() if value is not None]
    resume = " ".join(["python -m minigpt train", *given])
    if team.is_first:
        print(_summary(run, folder), flush=True)  # also into a file it is there before the training
        for leftover in folder.glob(f".{RUN_FILE}.*"):  # of a save that was killed
            leftover.unlink()
        save_run(run, folder)
    try:
        with keeper.listening():
            train(
                team.wrap(run.model), train_ids, val_ids, run.config,
                state=run.state, after_step=keeper, next_batch=team.next_batch, progress=team.is_first,
            )  # fmt: skip
        if not (keeper.is_finite() and math.isfinite(run.state.history.val_losses[-1])):
            raise FloatingPointError(
                f"training diverged in its last step; try a learning_rate below {run.config.learning_rate:g}"
                + (f" and a muon_rate below {run.config.muon_rate:g}" if run.config.optimizer == "muon" else "")
            )
    except KeyboardInterrupt:
        if team.is_first:
            if keeper.at_rest:
                _save_results(run, folder, None)
            how = "Stopped and saved" if keeper.at_rest else "Stopped at once; last saved"
            print(f"\n{how} at step {keeper.saved_step}. Go on with: {resume}", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        if team.is_first:
            rates = "--learning-rate …" + (" --muon-rate …" if run.config.optimizer == "muon" else "")
            print(
                f"\nminigpt: {error}. Step {keeper.saved_step} is saved. If the loss was still falling there, go on "
                f"with a lower rate, else begin again with one: {resume} {rates}",
                file=sys.stderr,
            )
        return 1
    except BrokenPipeError:  # who read our output has left, as `tee` does at Ctrl-C; nothing is printed within a step
        if team.is_first and keeper.is_finite():
            save_run(run, folder)
        return 1
    return _finish(run, folder, val_ids, resume) if team.is_first else 0


def _finish(run: Run, folder: Path, val_ids: Tensor, resume: str) -> int:
    """After the last step: measure the model over the whole validation split, and write it down."""
    save_run(run, folder)
    print("measuring the loss over the whole validation split …", file=sys.stderr)
    try:
        loss = evaluate(run.model, val_ids)
    except KeyboardInterrupt:
        said = f"All {run.state.step} steps are saved, the loss is not measured. Go on with: {resume}"
        print(f"\n{said}", file=sys.stderr)
        return 130
    _save_results(run, folder, loss)
    print(
        f"validation loss {loss:.4f} nats per symbol ({loss / math.log(2):.3f} bits), over the whole split of "
        f"{len(val_ids):,} symbols, after {run.state.seconds:.0f} s of training\n"
        f"saved in {folder}; write text with: python -m minigpt sample {shlex.quote(folder.as_posix())}"
    )
    return 0


def _summary(run: Run, folder: Path) -> str:
    n = sum(p.numel() for p in run.model.parameters())
    device = next(run.model.parameters()).device
    return (
        f"{run.preset}: {n:,} parameters on {device} in {run.config.precision}, steps {run.state.step} to "
        f"{run.config.steps} of {run.config.batch_size} x {run.model.config.block_size} symbols, saved in {folder}"
    )


def _save_results(run: Run, folder: Path, val_loss: float | None) -> None:
    """The model, and the same facts as readable JSON with the history. `val_loss`: over the whole split."""
    facts = {
        "preset": run.preset,
        "command": _command(run),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "step": run.state.step,
        "val_loss": val_loss,
        "seconds": round(run.state.seconds, 1),
        "date": date.today().isoformat(),
        "machine": machine(next(run.model.parameters()).device),
        "torch": str(torch.__version__),
        "text_sha256": run.text_sha256,
        "train_config": asdict(run.config),
    }
    record = {**facts, "model_config": asdict(run.model.config), "history": asdict(run.state.history)}
    write_bytes(folder / RECORD_FILE, (json.dumps(record, indent=1) + "\n").encode())
    save_model(run.model, folder, run.tokenizer, facts)  # last: with it the run counts as finished


def _command(run: Run) -> str:
    """The command that trains this run again on the book's text: the preset, and what differs from it."""
    preset = PRESETS[run.preset]
    sizes, recipe = asdict(run.model.config), asdict(run.config)
    if preset.precision == "auto":  # the machine's choice
        recipe["precision"] = preset.config.precision
    flags = {key: sizes[key] for key, value in preset.sizes.items() if sizes[key] != value}
    flags |= {key: recipe[key] for key in RECIPE if recipe[key] != getattr(preset.config, key)}
    given = (f"{_flag(key)} {shlex.quote(str(value))}" for key, value in flags.items())
    return " ".join([f"python -m minigpt train --preset {run.preset}", *given])


# ── sample, info, export, presets ────────────────────────────────────────────────────────────────────────────────────


def _sample(args: argparse.Namespace) -> int:
    device = pick_device(args.device)
    model, tokenizer = load_model(args.checkpoint, device), load_tokenizer(args.checkpoint)
    generator = torch.Generator()
    if args.seed is None:
        generator.seed()
    else:
        if not 0 <= args.seed < MOST_SEEDS:
            raise ValueError(f"--seed is {args.seed}: it must be from 0 to {MOST_SEEDS - 1:,}")
        generator.manual_seed(args.seed)
    idx = tokenizer.encode(args.prompt)[None].to(device)  # (1, T)
    symbols = stream(model, idx, args.symbols, args.temperature, args.top_k, args.top_p, generator)
    print(args.prompt, end="", flush=True)
    for symbol in symbols:
        print(tokenizer.decode(symbol), end="", flush=True)
    print()
    return 0


def _info(args: argparse.Namespace) -> int:
    model = load_model(args.checkpoint)
    facts = load_facts(args.checkpoint)
    print(f"{type(model).__name__} {model.config}")
    for name in ("preset", "step", "val_loss", "seconds", "date"):
        if facts.get(name) is not None:
            print(f"{name:>10}  {facts[name]}")
    rows = [*parameters_by_piece(model), ("all", sum(p.numel() for p in model.parameters()))]
    width = max(len(name) for name, _ in rows)
    for name, count in rows:
        print(f"  {name:<{width}}  {count:>12,}")
    return 0


def _export(args: argparse.Namespace) -> int:
    if args.file.suffix != ".safetensors":
        raise ValueError(f"{args.file} does not end in .safetensors: name the file to write, not a folder")
    if args.file.exists():
        raise ValueError(f"{args.file} is already there: choose another name")
    model, tokenizer = load_model(args.checkpoint), load_tokenizer(args.checkpoint)
    save_model(model, args.file, tokenizer, load_facts(args.checkpoint), dtype=torch.float16)
    print(f"wrote {args.file} ({args.file.stat().st_size:,} bytes)")
    return 0


def parameters_by_piece(model: LanguageModel) -> list[tuple[str, int]]:
    """How many parameters each piece holds, in the order of the model; equal pieces of all blocks are added up."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        piece = f"blocks x {len(model.blocks)}: {parts[2]}" if parts[0] == "blocks" else parts[0]  # type: ignore[arg-type]
        counts[piece] = counts.get(piece, 0) + parameter.numel()
    return list(counts.items())


def _presets(args: argparse.Namespace) -> int:
    width = max(map(len, PRESETS)) + 2
    for name, preset in PRESETS.items():
        config: TrainConfig = preset.config
        sizes = ", ".join(f"{key} {value}" for key, value in preset.sizes.items())
        print(f"{name:<{width}}{preset.description}")
        print(f"{'':<{width}}{sizes}; {config.steps} steps of batch {config.batch_size}, rate {config.learning_rate:g}")
    return 0
