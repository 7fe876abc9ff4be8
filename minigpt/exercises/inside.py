"""The checks of chapter 8: how far a head looks, when a guess is settled, heads switched off together, near symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from minigpt.exercises import attempt, check, compare, must_be, right
from minigpt.gpt import GPT, GPTConfig


@check
def check_distance(distance: Callable[[Tensor], Tensor]) -> None:
    """Does `distance(weights)` tell how many steps each head looks back, on average?"""
    generator = torch.Generator().manual_seed(1)
    for shape in ((2, 3, 6, 6), (5, 5)):
        scores = torch.randn(shape, generator=generator)
        weights = scores.masked_fill(torch.ones(shape[-2:]).triu(1) == 1, float("-inf")).softmax(-1)
        given = attempt(distance, weights)
        if given is None:
            return
        must_be(given, shape[:-2], "one number for each head")
        T = shape[-1]
        steps = (torch.arange(T)[:, None] - torch.arange(T)).float()
        each = (weights * steps).sum(-1)  # (..., T)
        expected = each.mean(-1)
        known = {
            "negative: it is query minus key, not key minus query": -expected,
            "a sum over the queries: take their mean": each.sum(-1),
            "a mean over the keys too: each row already adds up to 1, so sum over them": (weights * steps).mean(
                (-2, -1)
            ),
            "the position of the key that is looked at, not the steps back to it": (weights * torch.arange(T))
            .sum(-1)
            .mean(-1),
            "the distance to the key with the most weight only: all keys count, each by its weight": (
                (torch.arange(T) - weights.argmax(-1)).float().mean(-1)
            ),
            "without row 0: it looks at itself and counts as 0": each[..., 1:].mean(-1),
        }
        compare(given, expected, known)
    right("each row an expected number of steps, then the mean over the rows.")


@check
def check_settled(settled: Callable[[Tensor], Tensor]) -> None:
    """Does `settled(logits)` give the first depth from which on the best guess stays the same?"""
    # Guesses by depth: settled at once; at the end; lost and found again; from the middle on.
    guesses = torch.tensor([[3, 1, 2, 0], [3, 2, 4, 1], [3, 3, 2, 1], [3, 0, 2, 1]])  # (depths, T)
    generator = torch.Generator().manual_seed(2)
    many = torch.randint(3, (6, 4, 50), generator=generator)
    for table in (guesses[:, None], many):
        logits = torch.rand(*table.shape, 5, generator=generator).scatter(-1, table[..., None], 2.0)
        given = attempt(settled, logits)
        if given is None:
            return
        must_be(given, table.shape[1:], "one depth for each position, (B, T)")
        agrees = (table == table[-1]).long()
        run = agrees.flip(0).cumprod(0).sum(0)
        expected = len(table) - run
        known = {
            "the first depth that agrees, even if the guess changes again later": agrees.argmax(0),
            "one too many: depths count from 0": expected + 1,
            "how long the guess has been settled, not from when on": run,
            "how many depths disagree, wherever they are": (1 - agrees).sum(0),
            "always the last depth: compare every depth with it": torch.full_like(expected, len(table) - 1),
        }
        compare(given, expected, known)
    right("settled means: from here to the end, and not for a moment.")


@check
def check_without(without: Callable[[GPT, Sequence[tuple[int, int]], Tensor], Tensor]) -> None:
    """Does `without(model, heads, idx)` give the logits with those heads silenced, and leave the model whole?"""
    model = GPT(GPTConfig(vocab_size=9, block_size=8, n_embd=24, n_head=2, n_layer=3, dropout=0.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.eval()
    idx = torch.randint(9, (2, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        whole = model(idx)
    for heads in ([(1, 0)], [(0, 1), (2, 0)], [(1, 0), (1, 1)], []):
        given = attempt(without, model, heads, idx)
        if given is None:
            return
        must_be(given, whole.shape, "logits (B, T, vocab_size)")
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"the model is not whole again: {changed[0]} has changed; keep a copy and put it back"
        with torch.no_grad():
            again = model(idx)
        assert torch.equal(again, whole), "the model is not whole again: a hook is still there; hook.remove()"
        known = {
            f"nothing is silenced for {heads}: these are the logits of the whole model": whole if heads else None,
            "every hook silences the last head of the list: a function made in a loop must keep its own (head=head)": (
                _silenced(model, [(layer, heads[-1][1]) for layer, _ in heads], idx) if len(heads) > 1 else None
            ),
            "only the last pair is silenced: do them all at once": (
                _silenced(model, heads[-1:], idx) if len(heads) > 1 else None
            ),
            "only the first pair is silenced: return after the loop": (
                _silenced(model, heads[:1], idx) if len(heads) > 1 else None
            ),
            "these are rows of proj.weight: what comes from a head meets its columns": _silenced(
                model, heads, idx, "rows"
            ),
            "layer and head are exchanged: a pair is (layer, head)": (
                _silenced(model, [pair[::-1] for pair in heads], idx) if all(layer < 2 for layer, _ in heads) else None
            ),
            "the slice begins at `head`: it begins at head * head_size": _silenced(model, heads, idx, "start"),
            "the projection's bias is gone too: silence its input, not its output": _silenced(
                model, heads, idx, "output"
            ),
        }
        compare(given, _silenced(model, heads, idx), known)
    right("any set of heads, all at once, and the model whole again.")


def _silenced(model: GPT, heads: Sequence[tuple[int, int]], idx: Tensor, how: str = "columns") -> Tensor:
    """The logits with `heads` silenced, in the right way or in one of the wrong ones."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for layer, head in heads:
            projection: Any = model.blocks[layer].attention.proj  # type: ignore[union-attr]
            size = model.config.n_embd // model.config.n_head
            begin = head if how == "start" else head * size
            part = slice(begin, begin + size)
            if how == "rows":
                projection.weight[part] = 0
            elif how == "output":
                projection.weight[:] = 0
                projection.bias[:] = 0
            else:
                projection.weight[:, part] = 0
        logits = model(idx)
        model.load_state_dict(kept)
    return logits


@check
def check_neighbors(neighbors: Callable[[Tensor, int, int], Tensor]) -> None:
    """Does `neighbors(table, row, n)` give the n rows with the largest cosine to one row, the nearest first?"""
    for rows, width, row, n in ((12, 4, 3, 3), (9, 6, 0, 2), (7, 3, 6, 6)):
        table = (torch.randn(rows, width) + 1.5) * torch.linspace(0.2, 3.0, rows)[torch.randperm(rows), None]
        given = attempt(neighbors, table, row, n)
        if given is None:
            return
        must_be(given, (n,), "the ids of the neighbors")
        whole = not given.is_floating_point()
        assert whole, f"the result holds {given.dtype}: return the ids, whole numbers; topk gives both"
        centered, across = table - table.mean(0), table - table.mean(1, keepdim=True)
        expected = _nearest(normalize(centered), row, n)
        same = set(given.tolist()) == set(expected.tolist())
        known = {
            "the row is its own first neighbor: leave it out": torch.cat([torch.tensor([row]), expected[:-1]]),
            "the farthest come first: take the largest cosines": _nearest(normalize(centered), row, n, sign=-1),
            "the mean of all rows is not taken away": _nearest(normalize(table), row, n),
            "the mean over each row is taken away, not over each column": _nearest(normalize(across), row, n),
            "the lengths still count: make every row as long as 1": _nearest(centered, row, n),
            "sorted by the distance between the points: here the direction alone counts": (
                torch.cdist(table, table).fill_diagonal_(float("inf"))[row].topk(n, largest=False).indices
            ),
            "these are the neighbors, but not in order: the nearest first": given if same else None,
        }
        compare(given, expected, known)
    right("the same direction, whatever the length, and nobody is a neighbor of itself.")


def _nearest(points: Tensor, row: int, n: int, sign: int = 1) -> Tensor:
    """The ids of the n other rows with the largest product with this one, or with `sign` -1 the smallest."""
    products = sign * points @ points[row]
    products[row] = float("-inf")
    return products.topk(n).indices
