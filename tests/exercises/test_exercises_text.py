"""Chapter 1: each wrong answer is told its own mistake."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minigpt.exercises.text import check_all_rows, check_bits_per_character, check_encode_known


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (
            "raised KeyError",
            lambda text, symbols, spare: [dict(zip(symbols, range(99), strict=False))[s] for s in text],
        ),
        ("raised ValueError", lambda text, symbols, spare: [symbols.index(s) for s in text]),
        ("not the symbol of an id", lambda text, symbols, spare: [dict(enumerate(symbols))[s] for s in text]),
        ("when the loop has ended", lambda text, symbols, spare: [symbols.index(text[0])]),
        ("left out", lambda text, symbols, spare: [symbols.index(s) for s in text if s in symbols]),
        ("-1 is not an id", lambda text, symbols, spare: [symbols.find(s) for s in text]),
        (
            "5 is not an id",
            lambda text, symbols, spare: [symbols.index(s) if s in symbols else len(symbols) for s in text],
        ),
        ("places in the text", lambda text, symbols, spare: list(range(len(text)))),
        ("begin at 1", lambda text, symbols, spare: [symbols.index(s if s in symbols else spare) + 1 for s in text]),
        ("gives", lambda text, symbols, spare: [symbols.index(s) if s in symbols else 0 for s in text][::-1]),
        ("must be a list", lambda text, symbols, spare: text),
    ],
)
def test_a_wrong_encoding_is_named(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_encode_known(wrong)


def rows(ids: Tensor, T: int, count: int) -> Tensor:
    return torch.stack([ids[o : o + T + 1] for o in range(count)])


def same(ids: Tensor, T: int) -> Any:
    idx = rows(ids, T, len(ids) - T)[:, :-1]
    return idx, idx


def backwards(ids: Tensor, T: int) -> Any:
    cut = rows(ids, T, len(ids) - T)
    return cut[:, 1:], cut[:, :-1]


def one_row_missing(ids: Tensor, T: int) -> Any:
    cut = rows(ids, T, max(1, len(ids) - T - 1))
    return cut[:, :-1], cut[:, 1:]


def one_row_too_many(ids: Tensor, T: int) -> Any:
    cut = rows(ids, T, len(ids) - T + 1)
    return cut[:, :-1], cut[:, 1:]


def last_target_only(ids: Tensor, T: int) -> Any:
    cut = rows(ids, T, len(ids) - T)
    return cut[:, :-1], cut[:, -1]


def transposed(ids: Tensor, T: int) -> Any:
    cut = rows(ids, T, len(ids) - T).T
    return cut[:-1], cut[1:]


def consecutive_blocks(ids: Tensor, T: int) -> Any:
    n = (len(ids) - 1) // T * T
    return ids[:n].view(-1, T), ids[1 : n + 1].view(-1, T)


def next_block(ids: Tensor, T: int) -> Any:
    idx = rows(ids, T, len(ids) - T)[:, :-1]
    return idx, idx + T


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_ids_may_be_numbers_of_another_library(kind: Callable[[int], Any], capsys: pytest.CaptureFixture[str]) -> None:
    check_encode_known(lambda text, symbols, spare: [kind(symbols.index(s if s in symbols else spare)) for s in text])
    assert "Right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("repeat what it sees", same),
        ("the wrong way", backwards),
        ("the off-by-one that isn't", one_row_missing),
        ("past the end", one_row_too_many),
        ("T examples", last_target_only),
        ("transposed", transposed),
        ("rows may overlap|one row is missing", consecutive_blocks),
        ("row 0 of targets", next_block),
        ("two things", lambda ids, T: rows(ids, T, len(ids) - T)),
        ("use torch.stack", lambda ids, T: ([1], [2])),
        ("ids are whole numbers", lambda ids, T: [part.float() for part in backwards(ids, T)][::-1]),
        ("rows, 8", lambda ids, T: (rows(ids, T, len(ids) - T), rows(ids, T, len(ids) - T))),
    ],
)
def test_wrong_rows_are_named(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_all_rows(wrong)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("still to be turned into bits", lambda loss, tokens, characters: loss * tokens / characters),
        ("so divide", lambda loss, tokens, characters: loss * tokens / characters * math.log(2)),
        ("bits per token", lambda loss, tokens, characters: loss / math.log(2)),
        ("wrong way around", lambda loss, tokens, characters: loss * characters / tokens / math.log(2)),
        ("whole text", lambda loss, tokens, characters: loss * tokens / math.log(2)),
        ("you say", lambda loss, tokens, characters: math.log2(loss)),
        ("must be a number", lambda loss, tokens, characters: "2.1"),
    ],
)
def test_wrong_bits_are_named(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_bits_per_character(wrong)
