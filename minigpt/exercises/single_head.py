"""Checks of chapter 4: a whole head, positions, and the loss at each position."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.attention import attention_weights, causal_mask
from minigpt.exercises import check, compare, right, written


@check
def check_head(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `function(x, w_query, w_key, w_value)`: the output (B, T, head_size) of one head."""
    draw = torch.Generator().manual_seed(5)
    for B, T, n_embd, head_size in ((1, 4, 6, 3), (3, 5, 8, 2), (2, 1, 4, 2)):
        x = torch.randn(B, T, n_embd, generator=draw)
        w_query, w_key, w_value = torch.randn(3, n_embd, head_size, generator=draw)
        result = written(function, (B, T, head_size), x, w_query, w_key, w_value)
        if result is None:
            return
        q, k, v = x @ w_query, x @ w_key, x @ w_value
        scores = q @ k.transpose(-2, -1) * head_size**-0.5

        def mix(scores: Tensor, T: int = T, v: Tensor = v) -> Tensor:
            return scores.masked_fill(~causal_mask(T, T), -math.inf).softmax(-1) @ v

        upper = torch.ones(T, T, dtype=torch.bool).triu()
        hidden = scores.masked_fill(~causal_mask(T, T), -math.inf)
        wrong = {
            "the scale is missing": mix(scores * head_size**0.5),
            f"the scale comes from n_embd, {n_embd}: it must come from head_size, {head_size}": (
                mix(scores * (head_size / n_embd) ** 0.5)
            ),
            "the mask is missing: row 0 sees its future": scores.softmax(-1) @ v,
            "the mask is the upper triangle: row 0 sees everything": (
                scores.masked_fill(~upper, -math.inf).softmax(-1) @ v
            ),
            "the mask comes after the softmax, so the rows do not add up to 1": scores.softmax(-1).tril() @ v,
            "the softmax runs over the queries, dim=-2: it must run over the keys, dim=-1": (
                hidden.softmax(-2).nan_to_num() @ v
            ),
            "masked scores are set to 0, so the future keeps a share: use minus infinity": (
                scores.masked_fill(~causal_mask(T, T), 0.0).softmax(-1) @ v
            ),
            "query and key are exchanged: row t belongs to the query of position t": mix(scores.transpose(-2, -1)),
            "the query is used as the key too: the key has a projection of its own": attention_weights(q, q) @ v,
            "the key is used as the query too: the query has a projection of its own": attention_weights(k, k) @ v,
            "the keys are mixed, not the values": attention_weights(q, k) @ k,
            "the values are returned unmixed: multiply the weights with them": v,
        }
        compare(result, mix(scores), wrong if T > 1 else {})
    right("this is a head: scores, mask, softmax, values.")


@check
def check_embed(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `function(idx, token_table, position_table)`: what each symbol is plus where it stands, (B, T, n_embd)."""
    draw = torch.Generator().manual_seed(6)
    for B, T, block_size, vocab_size, n_embd in ((2, 5, 5, 5, 3), (3, 4, 7, 6, 2), (1, 2, 9, 4, 5)):
        idx = torch.randint(vocab_size, (B, T), generator=draw)
        tokens = torch.randn(vocab_size, n_embd, generator=draw)
        positions = torch.randn(block_size, n_embd, generator=draw)
        both = (2 * n_embd,)
        try:
            result = written(function, (B, T, n_embd), idx, tokens, positions)
        except AssertionError as error:
            if f"{(B, T, *both)}" in str(error):
                raise AssertionError("the two vectors stand side by side: add them, n_embd stays as it is") from None
            sizes_differ = "stops with an error" in str(error) and "must match the size" in str(error)
            if sizes_differ and f"({B})" in str(error):
                raise AssertionError(
                    f"{B} rows of the table of positions meet {T} symbols: len(idx) is B; T is idx.size(1)"
                ) from None
            if sizes_differ and block_size > T and f"({block_size})" in str(error):
                raise AssertionError(
                    f"a text of {T} symbols needs the first {T} rows of the table of positions, not all {block_size}"
                ) from None
            raise
        if result is None:
            return
        wanted = tokens[idx] + positions[:T]
        wrong = {
            "the positions are missing: every order of the same symbols looks alike": tokens[idx],
            "the symbols are missing": positions[:T].expand(B, T, n_embd),
            "positions are looked up by symbol: the second table is indexed by 0, 1, 2, …": (
                tokens[idx] + positions[idx.clamp(max=block_size - 1)]
            ),
            "every position gets row 0 of the table": tokens[idx] + positions[0],
            "positions are counted from the end of the table: the first symbol stands at position 0": (
                tokens[idx] + positions[-T:]
            ),
            "positions start at 1: the first symbol stands at position 0": tokens[idx] + positions.roll(-1, 0)[:T],
            "positions run backwards: the first symbol stands at position 0": tokens[idx] + positions[:T].flip(0),
        }
        compare(result, wanted, wrong)
    right("what each symbol is, plus where it stands.")


@check
def check_loss_by_position(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `function(logits, targets)`: the mean loss at each position, (T,)."""
    draw = torch.Generator().manual_seed(7)
    for B, T, vocab_size in ((3, 5, 4), (6, 2, 7), (4, 4, 3)):
        logits = 3 * torch.randn(B, T, vocab_size, generator=draw)
        targets = torch.randint(vocab_size, (B, T), generator=draw)
        try:
            result = written(function, (T,), logits, targets)
        except AssertionError as error:
            told = {
                "the shape is ()": "one number for everything: keep the positions apart, reduction='none'",
                f"the shape is {(B,)}": "one number for each row of the batch: take the mean over the rows, dim=0",
                f"the shape is {(B, T)}": "each row of the batch on its own: take the mean over the rows, dim=0",
            }
            for sign, message in told.items():
                if str(error).startswith(sign + ":"):
                    raise AssertionError(message) from None
            raise
        if result is None:
            return
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(B, T)
        twice = F.cross_entropy(logits.softmax(-1).flatten(0, 1), targets.flatten(), reduction="none").view(B, T)
        wrong = {
            "the losses are summed over the rows of the batch: take the mean": each.sum(0),
            "a softmax before the cross-entropy: it takes the logits as they are": twice.mean(0),
            "these are bits, not nats: use the natural logarithm": each.mean(0) / math.log(2),
            "the sign is wrong: a loss is minus the logarithm": -each.mean(0),
            "one number, repeated: keep the positions apart": each.mean().expand(T),
            "this is the mean over the positions: take it over the rows, dim=0": each.mean(1)[:T],
            "view(T, B) cuts the row of numbers at the wrong places: the losses come as (B, T)": (
                each.flatten().view(T, B).mean(1)
            ),
        }
        compare(result, each.mean(0), wrong)
    right("one loss for each position.")
