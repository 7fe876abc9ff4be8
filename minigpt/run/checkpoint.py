"""Models on disk.

A model is one safetensors file: its weights, and in the metadata its class, its config, the alphabet of its text and a
checksum of the whole file. Reading it runs no code from the file.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from minigpt.bigram import BigramLanguageModel, LanguageModel
from minigpt.gpt import GPT, GPTConfig
from minigpt.modern import ModernGPT
from minigpt.text import CharTokenizer

MODEL_FILE = "model.safetensors"
RUN_FILE = "run.safetensors"  # what a run needs to go on, beside the model (resume.py)
FORMAT, VERSION = "minigpt", "1"
NO_SUM = "0" * 64

BUILD: dict[str, Callable[[dict[str, Any]], LanguageModel]] = {
    "BigramLanguageModel": lambda config: BigramLanguageModel(**config),
    "GPT": lambda config: GPT(GPTConfig(**config)),
    "ModernGPT": lambda config: ModernGPT(GPTConfig(**config)),
}


class CheckpointError(ValueError):
    """A file that cannot be read as a model of this book; the message says which file and why."""


def save_model(
    model: LanguageModel,
    path: str | os.PathLike[str],
    tokenizer: CharTokenizer | None = None,
    facts: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model atomically, with its config and, if given, its alphabet.

    Args:
        path: a file that ends in .safetensors, or a folder, which gets `model.safetensors`.
        facts: anything JSON can hold about how the model was made; no nan and no infinity, which JSON has no word for.
        dtype: torch.float16 halves the file.

    Returns:
        The file written.

    Raises:
        TypeError: the model is of no class this book can load again, or JSON cannot hold the facts.
        ValueError: the alphabet has another size than the model's vocabulary, two layers share their numbers, or a fact
            is nan or infinite.
    """
    name = type(model).__name__
    if name not in BUILD:
        raise TypeError(f"a {name} cannot be loaded again: only {', '.join(BUILD)} can be saved")
    if tokenizer is not None and tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} symbols, but the model's vocab_size is "
            f"{model.config.vocab_size}: save the tokenizer the model was trained with"
        )
    tensors = model.state_dict()
    if len({t.data_ptr() for t in tensors.values()}) < len(tensors):
        raise ValueError("two layers of the model share their numbers, and a file cannot say so: untie them first")
    try:
        written = json.dumps(facts or {}, allow_nan=False)
    except ValueError:
        raise ValueError(f"facts is {facts!r}: JSON has no nan and no infinity; leave them out") from None
    metadata = {"model": name, "config": json.dumps(asdict(model.config)), "facts": written}
    if tokenizer is not None:
        metadata["alphabet"] = tokenizer.symbols
    file = Path(path)
    file = file / MODEL_FILE if file.is_dir() or file.suffix != ".safetensors" else file
    write_tensors(file, {k: v.to("cpu", dtype) for k, v in tensors.items()}, metadata)
    return file


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> LanguageModel:
    """Read a model that `save_model` wrote, in float32 and eval mode.

    Args:
        path: the file, or the folder that holds `model.safetensors`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, truncated, damaged or not a model of this book.
    """
    file = find_model(path)
    tensors, metadata = read_tensors(file)
    if "run" in metadata:
        raise CheckpointError(f"{file} holds a run to go on with, not a model: use the {MODEL_FILE} beside it")
    with fitting(file, "model"):
        config = json.loads(metadata["config"])
        if config.get("n_layer", 1) > len(tensors):
            raise ValueError(f"n_layer is {config['n_layer']}, more than it has weights for")
        with torch.device("meta"):  # shapes only; the weights come from the file
            model = BUILD[metadata["model"]](config)
        model.load_state_dict({k: v.float() for k, v in tensors.items()}, assign=True)
    return model.to(device).eval()


@contextmanager
def fitting(file: Path, what: str) -> Iterator[None]:
    """Inside the `with` a file's parts are put together; where they do not fit, one sentence says so.

    Raises:
        CheckpointError: something is missing or has another shape.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{file} holds no {what} this version knows ({error}): update minigpt") from None
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{file} does not fit its own config ({reason}): train the model again") from None


def load_tokenizer(path: str | os.PathLike[str]) -> CharTokenizer:
    """The tokenizer that was saved with a model; errors as in `load_model`."""
    file = find_model(path)
    alphabet = read_tensors(file)[1].get("alphabet")
    if not alphabet:
        raise CheckpointError(f"{file} was saved without an alphabet: give save_model the tokenizer")
    return CharTokenizer(alphabet)


def load_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the model was made: preset, steps, losses, seconds, as far as it was saved."""
    file = find_model(path)
    metadata = read_tensors(file)[1]
    with fitting(file, "model"):
        return dict(json.loads(metadata.get("facts", "{}")))


def find_model(path: str | os.PathLike[str]) -> Path:
    """The model file that `path`, a file or a run's folder, means."""
    file = Path(path)
    if file.is_dir():
        file = file / MODEL_FILE
    if file.is_file():
        return file
    if file.name == MODEL_FILE and file.with_name(RUN_FILE).is_file():
        raise FileNotFoundError(
            f"the run in {file.parent} was not ended: go on with `python -m minigpt train --resume {file.parent}`"
        )
    raise FileNotFoundError(f"there is no model at {file}: train one with `python -m minigpt train`")


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with a checksum of all its bytes, or leave what was there untouched."""
    metadata = {"format": FORMAT, "version": VERSION, **metadata, "sha256": NO_SUM}
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata)
    digest = hashlib.sha256(data).hexdigest()  # of the file with zeros where the digest goes
    write_bytes(file, data.replace(f'"sha256":"{NO_SUM}"'.encode(), f'"sha256":"{digest}"'.encode(), 1))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that `write_tensors` wrote, its checksum verified."""
    data = file.read_bytes()
    metadata = _header(file, data).get("__metadata__", {})
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{file} is a safetensors file, but not one of minigpt's: choose one that it wrote")
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{file} has format version {metadata.get('version')!r}: this minigpt reads {VERSION!r}")
    digest = str(metadata.get("sha256"))
    if hashlib.sha256(data.replace(digest.encode(), NO_SUM.encode(), 1)).hexdigest() != digest:
        raise CheckpointError(f"{file} is damaged (its checksum does not match): copy or train it again")
    try:
        return safetensors.torch.load(data), metadata
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}): copy or train it again") from None


def _header(file: Path, data: bytes) -> dict[str, Any]:
    """The JSON at the start of a safetensors file, if the file is whole."""
    if not data:
        raise CheckpointError(f"{file} is empty: it was not written to its end; train or copy it again")
    size = int.from_bytes(data[:8], "little")
    foreign = CheckpointError(f"{file} is not a safetensors file, or its start is damaged: choose a file minigpt wrote")
    if len(data) < 10 or data[8:9] != b"{" or size > 100_000_000:
        raise foreign
    truncated = f"{file} is truncated: {{}} bytes are missing; copy it again, or train again"
    if size + 8 > len(data):
        raise CheckpointError(truncated.format("some"))
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        end = 8 + size + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise foreign from None
    if end > len(data):
        raise CheckpointError(truncated.format(f"{end - len(data):,}"))
    return header


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and never half of either."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
