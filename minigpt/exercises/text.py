"""Checks of chapter 1: ids, rows and bits."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from minigpt.exercises import attempt, check, right


@check
def check_encode_known(function: Callable[[str, str, str], Sequence[int]]) -> None:
    """Encode a text, giving unknown symbols the id of a spare one."""
    for text, symbols, spare in (("sea shells", " aehls", " "), ("c?b", "?abc", "?"), ("a café", " ?acf", "?")):
        try:
            ids = attempt(function, text, symbols, spare)
        except (KeyError, ValueError, IndexError) as error:
            all_known = "all of them are known: look up the id of a symbol, not the symbol of an id"
            a_new_one = f"a symbol that is not among them must get the id of {spare!r}"
            raise AssertionError(
                f"{text!r} with the symbols {symbols!r} raised {type(error).__name__}: "
                f"{all_known if set(text) <= set(symbols) else a_new_one}"
            ) from error
        if ids is None:
            return
        if isinstance(ids, Tensor):
            ids = ids.tolist()
        assert isinstance(ids, list | tuple), f"the ids must be a list, not {type(ids).__name__}"
        ids = [i.item() if isinstance(i, Tensor) and i.numel() == 1 else i for i in ids]
        wanted = [symbols.index(s if s in symbols else spare) for s in text]
        assert ids != list(range(len(text))), "these are places in the text: an id is the place in the vocabulary"
        assert ids != [i + 1 for i in wanted], "the ids begin at 1: the first symbol of the vocabulary has id 0"
        counted = f"{text!r} has {len(text)} symbols and you return {len(ids)} ids"
        left_out = len(ids) == sum(s in symbols for s in text) < len(text)
        assert not left_out, f"{counted}: an unknown symbol was left out, so every later symbol moved to a wrong place"
        assert len(ids) == len(text), f"{counted}: one for each symbol, returned when the loop has ended"
        outside = [i for i in ids if not (isinstance(i, Integral) and int(i) in range(len(symbols)))]
        assert not outside, (
            f"{outside[0]!r} is not an id: the vocabulary has only 0 to {len(symbols) - 1}, "
            "and a model has no row for anything else"
        )
        assert ids == wanted, f"{text!r} with the symbols {symbols!r} and spare {spare!r} gives {wanted}, not {ids}"
    right("every symbol gets exactly one id, and every id is in the vocabulary.")


@check
def check_all_rows(function: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Cut every possible row out of ids, and its targets."""
    for n, T in ((10, 8), (20, 4), (9, 8), (7, 1)):
        ids = torch.arange(100, 100 + n)
        case = f"{n} ids with a block of {T}"
        try:
            answer = attempt(function, ids, T)
        except (RuntimeError, IndexError) as error:
            raise AssertionError(
                f"{case} raised {type(error).__name__} ({error}): does the last row run past the end of the text?"
            ) from error
        if answer is None:
            return
        _check_rows(answer, ids, T, case)
    right("every target is the symbol after its input, and the last symbol of the text is used.")


def _check_rows(answer: Any, ids: Tensor, T: int, case: str) -> None:
    two = isinstance(answer, tuple | list) and len(answer) == 2
    assert two, "return two things: idx and targets"
    idx, targets = answer
    tensors = isinstance(idx, Tensor) and isinstance(targets, Tensor)
    assert tensors, "idx and targets must be tensors: use torch.stack"
    for part in (idx, targets):
        floating = part.is_floating_point()
        assert not floating, f"{case}: you return {part.dtype}, ids are whole numbers: torch.zeros(…, dtype=torch.long)"
    rows, shape = len(ids) - T, tuple(idx.shape)
    wanted = ids.unfold(0, T + 1, 1)  # (rows, T + 1)
    first = wanted[0].tolist()
    assert shape != (T, rows) or rows == T, f"{case}: idx is (T, rows), transposed"
    assert targets.shape != (rows,), f"{case}: one target for a whole row; a row of T symbols holds T examples"
    assert targets.shape == shape, f"{case}: idx is {shape}, but targets {tuple(targets.shape)}"
    assert shape[1:] == (T,), f"{case}: idx is {shape}, it must be (rows, {T})"
    assert len(idx) != rows - 1, (
        f"{case}: one row is missing, and symbol {ids[-1]} is never a target. "
        "len(ids) - block_size offsets is right: the off-by-one that isn't"
    )
    assert len(idx) == rows, f"{case}: {len(idx)} rows, there are {rows} (rows may overlap)"
    assert not torch.equal(targets, idx), f"{case}: targets equal idx: the model would learn to repeat what it sees"
    backwards = torch.equal(idx, wanted[:, 1:]) and torch.equal(targets, wanted[:, :-1])
    assert not backwards, f"{case}: shifted the wrong way: a target is the symbol after its input, not before"
    assert torch.equal(idx, wanted[:, :-1]), f"{case}: row 0 of idx must be {first[:-1]}, row 1 begins one further"
    given = targets[0].tolist()
    assert torch.equal(targets, wanted[:, 1:]), f"{case}: row 0 of targets is {given}, it must be {first[1:]}"


@check
def check_bits_per_character(function: Callable[[float, int, int], float]) -> None:
    """Turn nats per token into bits per character."""
    for loss, n_tokens, n_characters in ((math.log(2), 8, 8), (3.2, 250, 1000), (1.5, 90, 100), (2.0, 300, 200)):
        value = attempt(function, loss, n_tokens, n_characters)
        if value is None:
            return
        assert isinstance(value, int | float | Tensor), f"the answer must be a number, not {type(value).__name__}"
        value, ratio = float(value), n_tokens / n_characters
        case = f"{loss:.3g} nats per token, {n_tokens} tokens, {n_characters} characters"

        def close(other: float, value: float = value) -> bool:
            return math.isclose(value, other, rel_tol=1e-4)

        if not close(loss * ratio / math.log(2)):
            mistakes = (
                (loss * ratio, "these are nats per character: still to be turned into bits"),
                (
                    loss * ratio * math.log(2),
                    "multiplied by ln 2: one bit is only ln 2 nats, so divide",
                ),
                (loss / math.log(2), "these are bits per token: a token may be several characters"),
                (
                    loss / ratio / math.log(2),
                    "tokens and characters are the wrong way around",
                ),
                (loss * n_tokens / math.log(2), "this is the whole text's surprise: share it among the characters"),
            )
            for mistake, name in mistakes:
                assert not close(mistake), f"{case}: {name}"
            raise AssertionError(f"{case}: you say {value:.4f}, it is {loss * ratio / math.log(2):.4f} bits")
    right("total surprise, in bits, shared among the characters.")
