"""Chapter 7: each wrong answer is told its own mistake."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minigpt import GPT, GPTConfig
from minigpt.exercises.gpt import check_count, check_next, check_tied

# ---- counting ------------------------------------------------------------------------------------------------------


def count(c: GPTConfig) -> int:
    n = c.n_embd
    return c.vocab_size * n + c.block_size * n + c.n_layer * (12 * n * n + 10 * n) + 2 * n + c.vocab_size * (n + 1)


COUNTS: list[tuple[str, Callable[[GPTConfig], int]]] = [
    ("keys and values have no bias", lambda c: count(c) + 3 * c.n_embd * c.n_layer),
    ("one bias of n_embd more", lambda c: count(c) - c.n_embd * c.n_layer),
    ("2 n_embd are missing in each block", lambda c: count(c) - 2 * c.n_embd * c.n_layer),
    ("each LayerNorm has two vectors", lambda c: count(c) - (2 * c.n_layer + 1) * c.n_embd),
    ("the LayerNorms are missing", lambda c: count(c) - (4 * c.n_layer + 2) * c.n_embd),
    ("two LayerNorms of 2 n_embd", lambda c: count(c) - 4 * c.n_embd * c.n_layer),
    ("projection after the heads is missing", lambda c: count(c) - (c.n_embd + 1) * c.n_embd * c.n_layer),
    ("one square matrix is missing", lambda c: count(c) - c.n_embd**2 * c.n_layer),
    ("four times as wide", lambda c: count(c) - c.n_layer * (6 * c.n_embd**2 + 3 * c.n_embd)),
    ("the last LayerNorm", lambda c: count(c) - 2 * c.n_embd),
    ("the head has a bias", lambda c: count(c) - c.vocab_size),
    ("not tied", lambda c: count(c) - c.vocab_size * c.n_embd),
    ("the head is missing", lambda c: count(c) - c.vocab_size * (c.n_embd + 1)),
    ("table of positions is missing", lambda c: count(c) - c.block_size * c.n_embd),
    ("a row for each position", lambda c: count(replace(c, block_size=c.vocab_size))),
    ("you counted one block", lambda c: count(replace(c, n_layer=1))),
    ("heads are not more parameters", lambda c: count(c) + (c.n_head - 1) * 3 * c.n_embd**2 * c.n_layer),
    ("which is 1 too many", lambda c: count(c) + 1),
    ("which is 5 too few", lambda c: count(c) - 5),
    ("must be a whole number", lambda c: float(count(c))),
    ("you count 10,788,929, which is", lambda c: 10_788_929),
]


@pytest.mark.parametrize(("message", "wrong"), COUNTS, ids=[message for message, _ in COUNTS])
def test_count_names_the_mistake(message: str, wrong: Callable[[GPTConfig], int]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_count(wrong)


# ---- the next symbol -----------------------------------------------------------------------------------------------


def answer(model: nn.Module, idx: Tensor, position: int = -1, crop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(crop(idx) if crop else idx[:, -model.config.block_size :])[:, position]
    model.train(was_training)
    return logits


def right_next(model: nn.Module, idx: Tensor) -> Tensor:
    return answer(model, idx).softmax(-1)


def with_dropout(model: nn.Module, idx: Tensor) -> Tensor:
    with torch.no_grad():
        return model(idx[:, -model.config.block_size :])[:, -1].softmax(-1)


def stays_in_eval(model: nn.Module, idx: Tensor) -> Tensor:
    model.eval()
    return with_dropout(model, idx)


def always_trains(model: nn.Module, idx: Tensor) -> Tensor:
    probabilities = right_next(model, idx)
    model.train()
    return probabilities


def with_gradients(model: nn.Module, idx: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    logits = model(idx[:, -model.config.block_size :])
    model.train(was_training)
    return logits[:, -1].softmax(-1)


def all_positions(model: nn.Module, idx: Tensor) -> Tensor:
    was_training = model.training
    logits = model.eval()(idx[:, -model.config.block_size :])
    model.train(was_training)
    return logits.softmax(-1)


NEXTS: list[tuple[str, Callable[[nn.Module, Tensor], Any]]] = [
    ("dropout is still on", with_dropout),
    ("train mode and is not any more", stays_in_eval),
    ("eval mode and is not any more", always_trains),
    ("carries gradients", with_gradients),
    ("all positions answer", all_positions),
    ("these are logits", answer),
    ("the columns add up to 1", lambda model, idx: answer(model, idx).softmax(0)),
    ("what the first position guesses", lambda model, idx: answer(model, idx, 0).softmax(-1)),
    ("9 symbols do not fit", lambda model, idx: answer(model, idx, crop=lambda idx: idx).softmax(-1)),
    ("keep the first block_size", lambda model, idx: answer(model, idx, crop=lambda idx: idx[:, :6]).softmax(-1)),
    ("the rows do not add up to 1", lambda model, idx: answer(model, idx).sigmoid()),
    ("not the probabilities of the model", lambda model, idx: (2 * answer(model, idx)).softmax(-1)),
    (r"must be \(B, vocab_size\), here \(3, 10\)", lambda model, idx: right_next(model, idx)[:, 0]),
    ("the answer is a list", lambda model, idx: right_next(model, idx).tolist()),
    ("ends with an error in line .*: shape", lambda model, idx: right_next(model, idx).view(7)),
]


@pytest.mark.parametrize(("message", "wrong"), NEXTS, ids=[message for message, _ in NEXTS])
def test_next_names_the_mistake(message: str, wrong: Callable[[nn.Module, Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_next(wrong)


# ---- tying ---------------------------------------------------------------------------------------------------------


def tied(config: GPTConfig) -> GPT:
    model = GPT(config)
    model.head.weight = model.token_embedding.weight
    return model


def changed(change: Callable[[GPT], Any], start: Callable[[GPTConfig], GPT] = GPT) -> Callable[[GPTConfig], GPT]:
    def build(config: GPTConfig) -> GPT:
        model = start(config)
        change(model)
        return model

    return build


def alias(model: GPT) -> None:
    model.head.weight.data = model.token_embedding.weight.data


def copy(model: GPT) -> None:
    model.head.weight = nn.Parameter(model.token_embedding.weight.clone())


TIED: list[tuple[str, Callable[[GPTConfig], Any]]] = [
    ("a matrix of its own", GPT),
    ("holds a copy", changed(copy)),
    ("share memory, but are two", changed(alias)),
    ("tied to the table of positions", changed(lambda m: setattr(m.head, "weight", m.position_embedding.weight))),
    ("two tables are one", changed(lambda m: setattr(m, "position_embedding", m.token_embedding), tied)),
    ("lost its bias", changed(lambda m: setattr(m.head, "bias", None), tied)),
    ("the answer is a Parameter", lambda config: tied(config).head.weight),
    ("the model has the sizes", lambda config: tied(replace(config, n_layer=config.n_layer + 1))),
    ("parameters are saved: it should be", changed(lambda m: setattr(m, "norm", nn.Identity()), tied)),
]


@pytest.mark.parametrize(("message", "wrong"), TIED, ids=[message for message, _ in TIED])
def test_tied_names_the_mistake(message: str, wrong: Callable[[GPTConfig], Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_tied(wrong)


# ---- right answers and empty stubs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "function"),
    [
        (check_count, count),
        (check_next, right_next),
        (check_next, lambda model, idx: answer(model, idx).double().softmax(-1)),
        (check_tied, tied),
        (check_tied, changed(lambda m: setattr(m.token_embedding, "weight", m.head.weight))),
    ],
)
def test_a_right_answer_is_one_line(check: Any, function: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check(function)
    printed = capsys.readouterr().out
    assert printed.startswith("Right: ")
    assert printed.count("\n") == 1
