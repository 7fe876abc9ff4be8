"""The checks of chapter 5: cutting into heads, many heads from their parts, and silencing a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.attention import MultiHeadAttention, attention_weights
from minigpt.exercises import attempt, check, close, compare, must_be, right


@check
def check_split_heads(split_heads: Callable[[Tensor, int], Any]) -> None:
    """Cut (B, T, n_embd) into (B, n_head, T, head_size), each head with a few channels of every position."""
    for B, T, n_head, head_size in [(1, 4, 2, 3), (2, 5, 3, 4), (3, 5, 4, 2)]:
        x = torch.arange(B * T * n_head * head_size, dtype=torch.float).view(B, T, -1)
        got = attempt(split_heads, x, n_head)
        if got is None:
            return
        wanted = x.view(B, T, n_head, head_size).transpose(1, 2)
        assert not isinstance(got, Tensor) or got.shape != (B, T, n_head, head_size), (
            f"the shape is {tuple(got.shape)}: the head axis stands behind the positions; transpose(1, 2) is missing"
        )
        must_be(got, wanted.shape)
        assert not got.equal(x.view(B, n_head, T, head_size)), (
            "the shape is right, but head 0 holds whole positions: view fills the new shape in the order of memory; "
            "cut the last axis first, then transpose"
        )
        assert not got.equal(x.view(B, T, head_size, n_head).permute(0, 3, 1, 2)), (
            f"head 0 holds every {n_head}th channel: its channels should be neighbors, view(B, T, n_head, head_size)"
        )
        assert got.equal(wanted), "the shape is right, but some numbers are in the wrong head or at the wrong position"
    right("each head has its own channels, at every position.")


@check
def check_many_heads(many_heads: Callable[[Tensor, nn.Linear, nn.Linear, int], Any]) -> None:
    """Many heads of causal self-attention from their parts: x, the layers qkv and proj, and n_head."""
    for B, T, n_embd, n_head in [(2, 5, 12, 3), (1, 7, 8, 4), (3, 4, 8, 1)]:
        layer, x = _layer(n_embd, n_head), torch.randn(B, T, n_embd)
        with torch.no_grad():
            got = attempt(many_heads, x, layer.qkv, layer.proj, n_head)
            if got is None:
                return
            wanted = layer(x)
            must_be(got, wanted.shape)
            compare(got, wanted, _wrong_many_heads(layer, x))
    right("equal to MultiHeadAttention on the same weights.")


def _wrong_many_heads(layer: MultiHeadAttention, x: Tensor) -> dict[str, Tensor]:
    """What the usual mistakes would give, each under its sentence."""
    B, T, C = x.shape
    n_head = layer.n_head
    q, k, v = layer.project(x)
    weights = attention_weights(q, k)

    def join(out: Tensor) -> Tensor:
        return layer.proj(out.transpose(1, 2).flatten(2))

    def alone(part: Tensor) -> Tensor:
        return part.reshape(B, n_head, T, -1)

    unmasked = (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(-1)
    by_width = attention_weights(q * (q.size(-1) / C) ** 0.5, k)
    no_scale = attention_weights(q * q.size(-1) ** 0.5, k)
    q_alone, k_alone, v_alone = (alone(part) for part in layer.qkv(x).split(C, dim=-1))
    mixed = attention_weights(q_alone, k_alone) @ v_alone
    return {
        "the heads are joined but not mixed: the projection is missing": (weights @ v).transpose(1, 2).flatten(2),
        "early positions read the future: the mask is missing": join(unmasked @ v),
        "the scores are divided by sqrt(n_embd): a head compares only head_size numbers": join(by_width @ v),
        "the scores are not scaled: divide them by sqrt(head_size)": join(no_scale @ v),
        "the heads are joined without transpose(1, 2): a row then mixes positions of one head": (
            layer.proj((weights @ v).reshape(B, T, C))
        ),
        "the cut into heads has no transpose: view alone gives head 0 whole positions": join(mixed),
        "the cut into heads has no transpose, nor the join: view alone gives head 0 whole positions": (
            layer.proj(mixed.reshape(B, T, C))
        ),
    }


@check
def check_silence(silence: Callable[[MultiHeadAttention, int], Any]) -> None:
    """A copy of the layer in which one head writes nothing, and all else is as it was."""
    for n_embd, n_head, head in [(12, 3, 0), (12, 3, 2), (8, 4, 1)]:
        layer, x = _layer(n_embd, n_head), torch.randn(2, 5, n_embd)
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        with torch.no_grad():
            full = layer(x)
        quiet = attempt(silence, layer, head)
        if quiet is None:
            return
        assert isinstance(quiet, nn.Module), f"return the layer, not {type(quiet).__name__}"
        with torch.no_grad():
            for name, value in layer.state_dict().items():
                assert value.equal(before[name]), f"the layer you were given has changed ({name}): work on a deepcopy"
            assert close(layer(x), full), "the layer you were given writes something else now: work on a deepcopy"
            got, wanted = quiet(x), _without(layer, head)(x)
            mine = slice(head * layer.head_size, (head + 1) * layer.head_size)
            assert not close(got, full), f"head {head} still writes as before"
            rows = _changed(layer, "proj.weight", (mine, slice(None)))(x)
            assert not close(got, rows), (
                "the rows of proj.weight are 0: those are output channels, which all heads share; a head owns columns"
            )
            flat = _changed(layer, "qkv.weight", (mine, slice(None)))(x)
            assert not close(got, flat), (
                f"queries or keys of head {head} are 0, so all its scores are equal: it still writes, a plain average"
            )
            for other in set(range(n_head)) - {head}:
                is_other = close(got, _without(layer, other)(x))
                assert not is_other, f"head {other} is silent, not head {head}: heads count from 0"
            single = _changed(layer, "proj.weight", (slice(None), slice(head, head + 1)))(x)
            assert not close(got, single), f"only column {head} of proj.weight is 0: a head owns head_size columns"
            shifted = _changed(layer, "proj.weight", (slice(None), slice(head, head + layer.head_size)))(x)
            assert not head or not close(got, shifted), "the columns begin at `head`: they begin at head * head_size"
            no_bias = wanted - layer.proj.bias
            assert not close(got, no_bias), "the bias of the projection is gone; it belongs to no head"
            assert close(got, wanted), f"head {head} is not the only thing that changed"
    right("that head writes nothing, and the others write what they wrote.")


def _layer(n_embd: int, n_head: int) -> MultiHeadAttention:
    """A layer with weights large enough that every mistake shows."""
    layer = MultiHeadAttention(n_embd, n_head).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return layer


def _changed(layer: MultiHeadAttention, name: str, where: tuple[slice, slice]) -> MultiHeadAttention:
    """A copy with one part of one matrix set to 0."""
    other = MultiHeadAttention(layer.n_head * layer.head_size, layer.n_head).eval()
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.get_parameter(name)[where] = 0.0
    return other


def _without(layer: MultiHeadAttention, head: int) -> MultiHeadAttention:
    size = layer.head_size
    return _changed(layer, "proj.weight", (slice(None), slice(head * size, (head + 1) * size)))
