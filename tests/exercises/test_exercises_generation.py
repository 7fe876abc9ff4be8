"""Chapter 9: each wrong answer is told its own mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt import KVCache
from minigpt.exercises.generation import check_beam, check_jump, check_top_p, check_write

# ---- top-p ---------------------------------------------------------------------------------------------------------


def nucleus(x: Tensor, p: float, keep: str = "right", descending: bool = True, back: bool = True) -> Tensor:
    """Top-p with a switch for each mistake."""
    ordered, order = x.sort(-1, descending=descending)
    upto = ordered.cumsum(-1)
    before = upto - ordered
    ordered = ordered * {"right": before < p, "short": upto < p, "long": before <= p}[keep]
    return torch.zeros_like(x).scatter(-1, order, ordered) if back else ordered


def share(x: Tensor) -> Tensor:
    return x / x.sum(-1, keepdim=True)


def in_place(x: Tensor, p: float) -> Tensor:
    x.copy_(share(nucleus(x, p)))
    return x


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("the symbol with which the sum reaches p is missing", lambda x, p: share(nucleus(x, p, "short"))),
        ("one symbol too many", lambda x, p: share(nucleus(x, p, "long"))),
        ("does not add up to 1", nucleus),
        ("put each back", lambda x, p: share(nucleus(x, p, back=False))),
        ("no symbol is left", lambda x, p: share(nucleus(x, p, "right" if p > 0.5 else "short"))),
        ("compared with p by itself", lambda x, p: share(x * (x > p))),
        ("compared with p by itself", lambda x, p: share(x * (x > p)) if (x > p).any() else share(nucleus(x, p))),
        ("least probable", lambda x, p: share(nucleus(x, p, descending=False))),
        ("each row by itself", lambda x, p: share(nucleus(x.flatten(), p).view_as(x))),
        ("nothing is left out", lambda x, p: x),
        ("changes a tensor it was given", in_place),
        ("must be a tensor", lambda x, p: 1.0),
        ("it must stay", lambda x, p: x[..., :2]),
        ("it must be", lambda x, p: torch.full_like(x, 1 / x.size(-1))),
    ],
)
def test_wrong_top_p(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_top_p(wrong)


# ---- writing with a cache ------------------------------------------------------------------------------------------


def write(
    model: Any,
    idx: Tensor,
    n: int,
    *,
    twice: bool = False,
    everything: bool = False,
    anew: bool = False,
    cached: bool = True,
    one_more: bool = False,
    first_row: bool = False,
    prompt: bool = True,
) -> Tensor:
    """Greedy writing with a cache, with a switch for each mistake."""
    T, kv, new, text = idx.size(1), KVCache(model.config, len(idx), model.head.weight), idx, idx
    if twice:
        model(idx, cache=kv)
        new = idx[:, -1:]
    for _ in range(n):
        if anew:
            kv = KVCache(model.config, len(idx), model.head.weight)
        logits = model(new, cache=kv) if cached else model(text)
        row = 0 if first_row else -1
        text = torch.cat([text, logits[:, row].argmax(-1, keepdim=True)], dim=1)
        new = text if everything else text[:, -1:]
    if one_more:
        model(new, cache=kv)
    return text if prompt else text[:, T:]


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("is read twice", lambda *given: write(*given, twice=True)),
        ("the whole text is fed again", lambda *given: write(*given, everything=True)),
        ("forgets the past", lambda *given: write(*given, anew=True)),
        ("without the cache", lambda *given: write(*given, cached=False)),
        ("it is never read", lambda *given: write(*given, one_more=True)),
        ("follows the last one", lambda *given: write(*given, first_row=True)),
        ("only the new symbols", lambda *given: write(*given, prompt=False)),
        ("never asked", lambda model, idx, n: idx),
        ("the shape is", lambda model, idx, n: write(model, idx, n)[:, :-1]),
        ("must be ids", lambda *given: write(*given).tolist()),
        ("another symbol than the best", lambda *given: (write(*given) + 1) % 11),
        ("ends with an error", lambda model, idx, n: write(model, idx, n)[0, 99]),
        ("ends with an error in line .*: .*like", lambda model, idx, n: KVCache(model.config, len(idx))),
    ],
)
def test_wrong_write(message: str, wrong: Callable[..., Any]) -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match=message):
        check_write(wrong)


def test_prompt_without_its_last_symbol() -> None:
    """Another way that is right: read all but the last symbol, then go on one by one."""

    def other(model: Any, idx: Tensor, n: int) -> Tensor:
        kv, text = KVCache(model.config, len(idx), model.head.weight), idx
        if idx.size(1) > 1:
            model(idx[:, :-1], cache=kv)
        for _ in range(n):
            text = torch.cat([text, model(text[:, -1:], cache=kv)[:, -1].argmax(-1, keepdim=True)], dim=1)
        return text

    with torch.no_grad():
        check_write(other)


# ---- past the end of the context -----------------------------------------------------------------------------------


def jump(model, idx, n, *, read=lambda idx, size: idx[:, -(size // 2) :], full=lambda length, size: length > size):
    """Write with a cache that jumps; `read` is what goes into a new one, `full` when it is begun."""
    size = model.config.block_size
    kv, new = KVCache(model.config, len(idx), model.head.weight), idx[:, -size:]
    for _ in range(n):
        if kv is not None and kv.length and full(kv.length + new.size(1), size):
            kv, new = KVCache(model.config, len(idx), model.head.weight), read(idx, size)
        new = model(new, cache=kv)[:, -1].argmax(-1, keepdim=True)
        idx = torch.cat([idx, new], dim=1)
    return idx


def crops_the_end(model, idx, n):
    """Of a prompt that is too long it reads the beginning."""
    if idx.size(1) <= 8:
        return jump(model, idx, n)
    return torch.cat([idx, jump(model, idx[:, :8], n)[:, 8:]], dim=1)


def reads_half(model, idx, n):
    """Of the prompt only its second half, and that as if the text began there."""
    return jump(model, idx[:, idx.size(1) // 2 :], n)


def without_a_crop(model, idx, n):
    if idx.size(1) <= 8:
        return jump(model, idx, n)
    return model(idx, cache=KVCache(model.config, len(idx), model.head.weight))


def in_two_goes(model, idx, n):
    """Into a new cache all but the newest symbol, then that one: as right."""
    kv, new = KVCache(model.config, len(idx), model.head.weight), idx[:, -8:]
    for _ in range(n):
        if kv.length + new.size(1) > 8:
            kv, new = KVCache(model.config, len(idx), model.head.weight), idx[:, -4:]
        if new.size(1) > 1:
            model(new[:, :-1], cache=kv)
        idx = torch.cat([idx, model(new[:, -1:], cache=kv)[:, -1].argmax(-1, keepdim=True)], dim=1)
        new = idx[:, -1:]
    return idx


@torch.no_grad()
def test_a_new_cache_may_be_filled_in_two_goes(capsys: pytest.CaptureFixture[str]) -> None:
    check_jump(in_two_goes)
    assert "Right" in capsys.readouterr().out


def without_a_cache(model, idx, n):
    return torch.cat([idx, model(idx[:, -8:])[:, -1:].argmax(-1)], dim=1)


def every_time(model, idx, n):
    for _ in range(n):
        kv = KVCache(model.config, len(idx), model.head.weight)
        idx = torch.cat([idx, model(idx[:, -8:], cache=kv)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return idx


@torch.no_grad()
@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("room for block_size positions", lambda *given: jump(*given, full=lambda length, size: False)),
        ("asked without the cache", without_a_cache),
        ("as `generate` does", every_time),
        ("newest symbol alone", lambda *given: jump(*given, read=lambda idx, size: idx[:, -1:])),
        ("2 symbols are read into the new cache", lambda *given: jump(*given, read=lambda idx, size: idx[:, -2:])),
        ("the last symbols, the newest among them", lambda *given: jump(*given, read=lambda idx, size: idx[:, -8:-4])),
        ("its end must be kept", crops_the_end),
        ("does not fit into 8 positions", without_a_crop),
        ("symbols of the prompt are read, not", lambda *given: reads_half(*given)),
        ("has room for one more", lambda *given: jump(*given, full=lambda length, size: length >= size)),
        ("only the new symbols", lambda model, idx, n: jump(model, idx, n)[:, idx.size(1) :]),
        ("ends with an error", lambda model, idx, n: 1 / 0),
        ("never asked", lambda model, idx, n: idx),
    ],
)
def test_wrong_jump(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_jump(wrong)


# ---- beam search ---------------------------------------------------------------------------------------------------


def beam(
    ask: Any, idx: Tensor, n: int, width: int, *, copies: bool = False, rank: str = "total", apart: bool = False,
    cap: bool = True, all_texts: bool = False, worst: bool = False,
) -> Tensor:  # fmt: skip
    """Beam search with a switch for each mistake."""
    texts = idx.repeat(width, 1) if copies else idx
    scores = torch.zeros(len(texts))
    for step in range(n):
        new = ask(texts)
        total = (0 if rank == "last" else scores[:, None]) + (new.exp() if rank == "plain" else new)
        V = new.size(1)
        if apart and step:
            best = torch.arange(len(texts)) * V + total.argmax(-1)
        else:
            best = total.flatten().topk(min(width, total.numel()) if cap else width).indices
        texts, scores = torch.cat([texts[best // V], (best % V)[:, None]], dim=1), total.flatten()[best]
    if all_texts:
        return texts
    return texts[scores.argmin() if worst else scores.argmax()][None]


def other_end(ids: Tensor) -> Tensor:
    return torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 4], dim=1)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("this is the greedy text", lambda ask, idx, n, width: beam(ask, idx, n, 1)),
        ("begin with one", lambda *given: beam(*given, copies=True)),
        ("last step only", lambda *given: beam(*given, rank="last")),
        ("probabilities are added", lambda *given: beam(*given, rank="plain")),
        ("its own best continuation", lambda *given: beam(*given, apart=True)),
        ("go on side by side", lambda ask, idx, n, width: beam(ask, idx, n, width**n)),
        ("the worst text", lambda *given: beam(*given, worst=True)),
        ("keep min", lambda *given: beam(*given, cap=False)),
        ("return only the most probable", lambda *given: beam(*given, all_texts=True)),
        ("only the new symbols", lambda ask, idx, n, width: beam(ask, idx, n, width)[:, idx.size(1) :]),
        ("the shape is", lambda ask, idx, n, width: beam(ask, idx, n, width)[0]),
        ("must be ids", lambda *given: beam(*given).tolist()),
        ("your text has log-probability", lambda *given: other_end(beam(*given))),
        ("ends with an error", lambda *given: beam(*given)[0, 99]),
    ],
)
def test_wrong_beam(message: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=message):
        check_beam(wrong)
