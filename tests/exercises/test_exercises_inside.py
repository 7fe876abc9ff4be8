"""Chapter 8: each wrong answer is told its own mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minigpt.exercises.inside import check_distance, check_neighbors, check_settled, check_without


def steps(T: int) -> torch.Tensor:
    return torch.arange(T)[:, None] - torch.arange(T)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("negative", lambda w: (w * -steps(w.size(-1))).sum(-1).mean(-1)),
        ("a sum over the queries", lambda w: (w * steps(w.size(-1))).sum((-2, -1))),
        ("a mean over the keys", lambda w: (w * steps(w.size(-1))).mean((-2, -1))),
        ("the position of the key", lambda w: (w * torch.arange(w.size(-1))).sum(-1).mean(-1)),
        ("most weight only", lambda w: (torch.arange(w.size(-1)) - w.argmax(-1)).float().mean(-1)),
        ("without row 0", lambda w: (w * steps(w.size(-1))).sum(-1)[..., 1:].mean(-1)),
        ("one number for each head", lambda w: (w * steps(w.size(-1))).sum(-1)),
        ("return one tensor, not a float", lambda w: 1.0),
        ("it must be", lambda w: w.sum((-2, -1))),
    ],
)
def test_wrong_distance(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_distance(wrong)


def agreement(logits: torch.Tensor) -> torch.Tensor:
    guesses = logits.argmax(-1)
    return (guesses == guesses[-1]).long()


def run(logits: torch.Tensor) -> torch.Tensor:
    return agreement(logits).flip(0).cumprod(0).sum(0)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("changes again later", lambda x: agreement(x).argmax(0)),
        ("depths count from 0", lambda x: len(x) - run(x) + 1),
        ("not from when on", lambda x: run(x)),
        ("wherever they are", lambda x: (1 - agreement(x)).sum(0)),
        ("compare every depth", lambda x: torch.full(x.shape[1:-1], len(x) - 1)),
        ("one depth for each position", lambda x: x.argmax(-1)),
        ("it must be", lambda x: -run(x)),
    ],
)
def test_wrong_settled(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_settled(wrong)


def silence(
    model: Any,
    heads: Any,
    idx: Any,
    *,
    rows: bool = False,
    restore: bool = True,
    start: bool = False,
    bias: bool = True,
) -> Any:
    """An answer by way of the weights, with a switch for each mistake."""
    size = model.config.n_embd // model.config.n_head
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for layer, head in heads:
            projection = model.blocks[layer].attention.proj
            begin = head if start else head * size
            if not bias:
                projection.weight.zero_()
                projection.bias.zero_()
            elif rows:
                projection.weight[begin : begin + size] = 0
            else:
                projection.weight[:, begin : begin + size] = 0
        logits = model(idx)
    if restore:
        model.load_state_dict(kept)
    return logits


def late_binding(model: Any, heads: Any, idx: Any) -> Any:
    """The hooks all see the last pair: Python looks `head` up when they run."""
    size, hooks = model.config.n_embd // model.config.n_head, []
    for layer, head in heads:

        def off(_: Any, inputs: Any) -> Any:
            x = inputs[0].clone()
            x[..., head * size : (head + 1) * size] = 0  # noqa: B023  (the mistake)
            return (x,)

        hooks.append(model.blocks[layer].attention.proj.register_forward_pre_hook(off))
    with torch.no_grad():
        logits = model(idx)
    for hook in hooks:
        hook.remove()
    return logits


def hook_left(model: Any, heads: Any, idx: Any) -> Any:
    logits = silence(model, heads, idx)
    model.blocks[0].register_forward_hook(lambda module, inputs, output: 0 * output)
    return logits


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("nothing is silenced", lambda model, heads, idx: silence(model, [], idx)),
        ("has changed; keep a copy", lambda *given: silence(*given, restore=False)),
        ("a hook is still there", hook_left),
        ("only the last pair", lambda model, heads, idx: silence(model, heads[-1:], idx)),
        ("only the first pair", lambda model, heads, idx: silence(model, heads[:1], idx)),
        ("rows of proj.weight", lambda *given: silence(*given, rows=True)),
        ("layer and head are exchanged", lambda model, heads, idx: silence(model, [h[::-1] for h in heads], idx)),
        ("begins at head \\* head_size", lambda *given: silence(*given, start=True)),
        ("bias is gone too", lambda *given: silence(*given, bias=False)),
        ("logits \\(B, T, vocab_size\\)", lambda model, heads, idx: model(idx)[:, -1]),
        ("it must be", lambda *given: 2 * silence(*given)),
        ("every hook silences the last head", late_binding),
    ],
)
def test_wrong_without(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_without(wrong)


def near(center=lambda t: t - t.mean(0), scale=lambda t: torch.nn.functional.normalize(t, dim=-1), own=-2.0, sign=1):
    """The nearest rows, with one thing changed."""

    def answer(table, row, n):
        points = scale(center(table))
        cosines = sign * points @ points[row]
        cosines[row] = own
        return cosines.topk(n).indices

    return answer


def by_distance(table, row, n):
    return (table - table[row]).norm(dim=-1).index_fill(0, torch.tensor(row), torch.inf).topk(n, largest=False).indices


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("its own first neighbor", near(own=2.0)),
        ("the farthest come first", near(sign=-1)),
        ("the mean of all rows is not taken away", near(center=lambda t: t)),
        ("the lengths still count", near(scale=lambda t: t, own=-torch.inf)),
        ("the lengths still count", near(center=lambda t: t, scale=lambda t: t, own=-torch.inf)),
        ("sorted by the distance", by_distance),
        ("not over each column", near(center=lambda t: t - t.mean(1, keepdim=True))),
        ("but not in order", lambda *given: near()(*given).flip(0)),
        (r"the shape is \(4,\): it must be \(3,\)", lambda table, row, n: near()(table, row, n + 1)),
        ("return the ids", lambda table, row, n: near()(table, row, n).float()),
        ("return one tensor", lambda *given: near()(*given).tolist()),
        (r"at \(0,\) stands", lambda table, row, n: torch.zeros(n).long()),
        ("changes a tensor it was given", lambda table, row, n: near()(table.sub_(1), row, n)),
    ],
)
def test_wrong_neighbors(message, answer):
    with pytest.raises(AssertionError, match=message):
        check_neighbors(answer)


def test_neighbors_are_not_told_wrong_by_chance(right_by_chance):
    right_by_chance(check_neighbors, near())
