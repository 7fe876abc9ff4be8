"""Text as numbers (chapter 1).

A language model sees whole numbers, not letters. This file turns a text into ids and back, finds the text the book
trains on, splits it, and cuts batches of examples out of it.
"""

import hashlib
import operator
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pooch
import torch
from torch import Tensor

from minigpt import standin

FILE_NAME = "tinyshakespeare.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


class CharTokenizer:
    """One id for each symbol of a text, in sorted order.

    Args:
        text: any text that contains every symbol at least once; `CharTokenizer(tokenizer.symbols)` makes a copy.

    Raises:
        ValueError: the text is empty.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("the text is empty, so there is no vocabulary: pass a text with at least one symbol")
        self.symbols = "".join(sorted(set(text)))
        self._id_of = {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Turn a text of N symbols into ids.

        Returns:
            (N,) int64, each in [0, vocab_size).

        Raises:
            ValueError: a symbol is not in the vocabulary; the message names it, its position and its line.
        """
        try:
            return torch.tensor([self._id_of[symbol] for symbol in text], dtype=torch.long)
        except KeyError as error:
            at = text.index(error.args[0])
            line = text.count("\n", 0, at) + 1
            raise ValueError(
                f"the symbol {error.args[0]!r} at position {at} (line {line}) is not in the vocabulary of "
                f"{self.vocab_size} symbols: remove it, or build the tokenizer from a text that contains it"
            ) from None

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Turn ids (N,) back into a text of N symbols.

        Raises:
            ValueError: the ids are not one row of whole numbers, or one is outside [0, vocab_size).
        """
        if isinstance(ids, Tensor):
            if ids.dim() != 1 or ids.is_floating_point():
                raise ValueError(
                    f"decode takes one row of whole numbers, not {ids.dtype} of shape {tuple(ids.shape)}: "
                    "pass one row, for example ids[0]"
                )
            ids = ids.tolist()
        try:
            ids = [operator.index(i) for i in ids]
        except TypeError as error:
            raise ValueError(f"decode takes one row of whole numbers: {error}") from None
        for position, i in enumerate(ids):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} at position {position} is outside the vocabulary: 0 to {self.vocab_size - 1}")
        return "".join([self.symbols[i] for i in ids])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        return f"CharTokenizer({self.vocab_size} symbols: {self.symbols!r})"


def load_text(path: str | os.PathLike[str] | None = None) -> str:
    """Find the text the book trains on: Tiny Shakespeare, 1,115,394 symbols.

    Looks, in this order, at `path` (a file of your own, or a folder with `tinyshakespeare.txt`), the folder named by
    the environment variable `MINIGPT_DATA`, `data/` of a checkout and the user's cache, and then downloads it once.
    With no copy and no network it prints one line and returns the built-in stand-in of the same length and alphabet.

    Raises:
        FileNotFoundError: nothing at `path`, or no `tinyshakespeare.txt` in the folder `MINIGPT_DATA` names.
        ValueError: a file is not UTF-8 text, or a copy of Tiny Shakespeare fails its checksum.
    """
    if path is not None:
        file = Path(path)
        return _read(file / FILE_NAME) if file.is_dir() else _read(file, checked=False)
    if folder := os.environ.get("MINIGPT_DATA"):
        return _read(Path(folder) / FILE_NAME)
    checkout = Path(__file__).parents[1] / "data" / FILE_NAME
    if checkout.exists():
        return _read(checkout)
    try:
        # pooch downloads to a temporary name, checks the sum, and only then moves the file into place.
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
        return _read(Path(pooch.retrieve(URL, SHA256, FILE_NAME, pooch.os_cache("minigpt"), downloader=downloader)))
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        print(
            f"minigpt: Tiny Shakespeare is not here and could not be downloaded ({reason}); using the built-in "
            f"stand-in text. To use the real one, put {FILE_NAME} into a folder and set MINIGPT_DATA to it.",
            file=sys.stderr,
        )
        return standin.generate_play()


def _read(file: Path, checked: bool = True) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"there is no text at {file}: check the path, or MINIGPT_DATA if you set it")
    data = file.read_bytes()
    if checked and hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(
            f"{file} is not Tiny Shakespeare (its sha256 differs): delete it, or pass your own text as path"
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def split(ids: Tensor, fraction: float = 0.9) -> tuple[Tensor, Tensor]:
    """Cut ids (N,) in two: the first part to train on, the rest to validate on.

    Returns:
        train_ids (int(N * fraction),) and val_ids (the rest). Both share memory with `ids`.

    Raises:
        ValueError: the fraction is not between 0 and 1, or one of the parts would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: it must lie between 0 and 1, for example 0.9")
    n = int(fraction * len(ids))
    if n == 0 or n == len(ids):
        raise ValueError(f"{len(ids)} ids split at {fraction} leave one part empty: use a longer text")
    return ids[:n], ids[n:]


def get_batch(
    ids: Tensor, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Cut `batch_size` random rows out of ids (N,), and the same rows one symbol later.

    A row needs block_size + 1 ids, so the last offset is N - block_size - 1: what `randint(N - block_size)` gives.

    Args:
        generator: a CPU generator that draws the offsets; torch's own if None.

    Returns:
        idx and targets, each (batch_size, block_size), with targets[b, t] the symbol after idx[b, t].

    Raises:
        ValueError: a size is below 1, or the text is not longer than one block.
    """
    check_sizes(ids, batch_size, block_size)
    offsets = torch.randint(len(ids) - block_size, (batch_size, 1), generator=generator)  # (B, 1)
    window = torch.arange(block_size + 1)  # (T + 1,)
    rows = ids[(offsets + window).to(ids.device)]  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def get_batch_in_turn(ids: Tensor, batch_size: int, block_size: int, step: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The batch of one step of reading ids (N,) in turn: within a turn no symbol is a target twice.

    The text is cut into rows from a random offset, and the rows are shuffled; when all were read it is cut and shuffled
    anew. Up to two blocks at the ends of the text are left out of a turn. A batch depends on its step and the seed
    alone, so a run that is resumed need not remember where it was.

    Returns and raises what `get_batch` does.
    """
    check_sizes(ids, batch_size, block_size)
    a_turn = max(1, len(ids) // block_size - 1)  # as many rows fit, whatever the offset
    first = step * batch_size
    offsets = []
    for turn in range(first // a_turn, (first + batch_size - 1) // a_turn + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
        start = torch.randint(min(block_size, len(ids) - block_size), (1,), generator=generator)
        offsets.append(start + block_size * torch.randperm(a_turn, generator=generator))
    here = torch.cat(offsets)[first % a_turn :][:batch_size, None]  # (B, 1)
    rows = ids[(here + torch.arange(block_size + 1)).to(ids.device)]  # (B, T + 1)
    return rows[:, :-1], rows[:, 1:]


def check_sizes(ids: Tensor, batch_size: int, block_size: int, what: str = "text") -> None:
    """Can rows of this size be cut out of ids (N,)? If not, a ValueError says so; `what` names the ids in it."""
    if batch_size < 1 or block_size < 1:
        raise ValueError(f"batch_size is {batch_size} and block_size {block_size}: both must be at least 1")
    if len(ids) <= block_size:
        raise ValueError(
            f"the {what} has {len(ids)} symbols, but a block of {block_size} needs at least {block_size + 1}: "
            "use a longer text or a smaller block_size"
        )
