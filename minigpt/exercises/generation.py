"""The checks of chapter 9: top-p, writing with a cache, jumping at the end of the context, beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minigpt.exercises import Mistake, attempt, check, compare, ended, right
from minigpt.generation import KVCache, generate
from minigpt.gpt import GPT, GPTConfig

NextLogProbs = Callable[[Tensor], Tensor]  # ids (B, T) -> log-probabilities (B, vocab_size)

# ---- top-p ---------------------------------------------------------------------------------------------------------


BY_ITSELF = "each symbol is compared with p by itself: it is their sum that must reach p"


@check
def check_top_p(top_p: Callable[[Tensor, float], Tensor]) -> None:
    """Does `top_p(probabilities, p)` keep the fewest symbols that reach p, in their places, adding up to 1?"""
    toy = torch.tensor([4, 1, 6, 2, 3]) / 16  # their sums are exact
    batch = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(2)).softmax(-1)
    for x, p in ((toy, 0.6), (toy, 0.625), (toy, 0.2), (batch, 0.7), (toy, 1.0)):
        given = attempt(top_p, x, p)
        if given is None:
            return
        assert isinstance(given, Tensor), f"the answer is a {type(given).__name__}: it must be a tensor (…, vocab_size)"
        assert given.shape == x.shape, f"the shape is {tuple(given.shape)}: it must stay {tuple(x.shape)}"
        left = given.nan_to_num().sum(-1) > 0  # a row without any symbol is all 0, or divided by 0
        if not left.all():
            raise AssertionError(f"with p = {p} {_empty(x, p, left)}")
        kept = _nucleus(x, p)
        known = {
            "nothing is left out": x,
            "what is left does not add up to 1: divide by its sum": x * kept,
            "in order of probability: put each back into its own place": _share(x * kept).sort(-1, True).values,
            "the symbol with which the sum reaches p is missing": _share(x * _nucleus(x, p, "short")),
            "one symbol too many: those before it reach p already": _share(x * _nucleus(x, p, "long")),
            BY_ITSELF: _share(x * (x > p)),
            "you began with the least probable symbols": _share(x * _nucleus(x, p, "rare")),
        }
        compare(given, _share(x * kept), known, f"with p = {p}: ")
    right("the fewest symbols that reach p, in their places, and they add up to 1.")


def _empty(probabilities: Tensor, p: float, left: Tensor) -> str:
    """Why nothing is left in a row."""
    if left.any():
        return "some rows are empty: sort and add up along the last axis, each row by itself"
    if p < probabilities.max():
        return "no symbol is left: the one with which the sum reaches p must stay"
    return BY_ITSELF


def _share(probabilities: Tensor) -> Tensor:
    return probabilities / probabilities.sum(-1, keepdim=True)


def _nucleus(probabilities: Tensor, p: float, how: str = "right") -> Tensor:
    """Which symbols top-p keeps, (..., vocab_size) bool, in the right way or in one of the wrong ones."""
    ordered, order = probabilities.sort(dim=-1, descending=how != "rare", stable=True)
    upto = ordered.cumsum(-1)
    before = upto - ordered
    keep = {"short": upto < p, "long": before <= p}.get(how, before < p)
    return torch.zeros_like(keep).scatter(-1, order, keep)


# ---- writing with a cache ------------------------------------------------------------------------------------------


class _Watched(GPT):
    """A GPT that notes what it is asked: where in the cache, and which ids."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.asked: list[tuple[int | None, Tensor]] = []

    def forward(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        self.asked.append((cache.length if cache else None, idx.clone()))
        return super().forward(idx, cache)


@check
def check_write(write: Callable[[GPT, Tensor, int], Tensor]) -> None:
    """Does `write(model, idx, n)` continue greedily, with a cache that reads every symbol once?"""
    torch.manual_seed(4)  # with these weights the first position's guess is not the right one
    model = _Watched(GPTConfig(vocab_size=11, block_size=12, n_embd=16, n_head=2, n_layer=2, dropout=0.0)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    prompts = torch.randint(11, (2, 5))
    for T, n in ((4, 5), (1, 3), (5, 8)):  # the last fills block_size: 5 + 8 - 1 positions are read
        idx = prompts[:, :T]
        expected = generate(model, idx, n, temperature=0)
        model.asked = []
        try:
            given = attempt(write, model, idx, n)
        except Mistake:
            raise
        except Exception as error:
            if model.asked:
                _check_asked(model, idx, expected)
            last = model.asked[-1] if model.asked else (None, idx)
            over = last[0] == model.config.block_size and last[1].size(1) == 1
            assert not over, (
                f"{T} symbols and {n} new ones need {T + n - 1} positions, and you ask for one more: "
                "nobody asks what follows the last symbol, so it is never read"
            )
            raise AssertionError(ended(write, error)) from error
        if given is None:
            return
        _check_asked(model, idx, expected)
        _check_written(given, idx, expected, model)
    right("every symbol read once, the last one never, and the text of the slow loop.")


def _check_asked(model: _Watched, idx: Tensor, expected: Tensor) -> None:
    """Was the cache fed as it should be?"""
    T = idx.size(1)
    assert model.asked, "the model is never asked: model(idx, cache=kv)"
    starts, lengths = [start for start, _ in model.asked], [ids.size(1) for _, ids in model.asked]
    assert None not in starts, "the model is asked without the cache: model(…, cache=kv)"
    anew = len(starts) > 1 and all(start == 0 for start in starts)
    assert not anew, "a new cache at every step forgets the past: make one, before the loop"
    again = any(start and length > 1 and length > start for start, length in zip(starts, lengths, strict=True))
    assert not again, "the whole text is fed again, behind itself: the cache has read it, feed the newest symbol only"
    for start, ids in model.asked[1:]:
        twice = start == T and torch.equal(ids, idx[:, -1:]) and not torch.equal(ids, expected[:, T : T + 1])
        assert not twice, (
            "the last symbol of the prompt is read twice: once with the prompt and once in the first step. "
            "The logits for the first new symbol were there already"
        )


def _check_written(given: Any, idx: Tensor, expected: Tensor, model: GPT) -> None:
    T, total = idx.size(1), expected.size(1)
    assert isinstance(given, Tensor), f"the answer is a {type(given).__name__}: it must be ids (B, T + n)"
    new = given.dim() == 2 and given.size(1) == total - T and torch.equal(given, expected[:, T:])
    assert not new, "only the new symbols: put the prompt in front of them"
    assert given.shape == expected.shape, f"the shape is {tuple(given.shape)}: it must be {tuple(expected.shape)}"
    if torch.equal(given, expected):
        return
    with torch.no_grad():
        first = model(idx[:, -model.config.block_size :])[:, 0].argmax(-1)
    at_first = T > 1 and torch.equal(given[:, T], first) and not torch.equal(first, expected[:, T])
    assert not at_first, "the prompt gives T rows of logits: the next symbol follows the last one, logits[:, -1]"
    wrong = int((given != expected).any(0).nonzero()[0])
    raise AssertionError(f"at position {wrong} stands another symbol than the best: argmax of the last logits")


# ---- past the end of the context -----------------------------------------------------------------------------------


@check
def check_jump(jump: Callable[[GPT, Tensor, int], Tensor]) -> None:
    """Does `jump(model, idx, n)` continue greedily, and begin a new cache with half a window whenever one is full?"""
    model = _Watched(GPTConfig(vocab_size=11, block_size=8, n_embd=16, n_head=2, n_layer=2, dropout=0.0)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    for B, T, n in ((2, 3, 14), (1, 8, 6), (2, 11, 3)):
        idx = torch.randint(11, (B, T))
        model.asked = []
        expected = _jump(model, idx, n)
        wanted, model.asked = model.asked, []
        try:
            given = attempt(jump, model, idx, n)
        except Mistake:
            raise
        except Exception as error:
            start, last = model.asked[-1] if model.asked else (None, idx)
            whole = len(model.asked) == 1 and last.size(1) > 8
            assert not whole, f"a prompt of {T} symbols does not fit into 8 positions: crop it to its last block_size"
            full = start is not None and start + last.size(1) > 8
            assert not full, "the cache has room for block_size positions: if the next do not fit, begin a new one"
            raise AssertionError(ended(jump, error)) from error
        if given is None:
            return
        _check_jumps(model.asked, wanted)
        _check_written(given, idx, expected, model)
    right("one position for most symbols, half a window at each jump, and the text goes on forever.")


def _jump(model: GPT, idx: Tensor, n: int) -> Tensor:
    size = model.config.block_size
    kv, new = KVCache(model.config, len(idx), model.head.weight), idx[:, -size:]
    for _ in range(n):
        if kv.length + new.size(1) > size:
            kv, new = KVCache(model.config, len(idx), model.head.weight), idx[:, -(size // 2) :]
        with torch.no_grad():
            new = model(new, cache=kv)[:, -1].argmax(-1, keepdim=True)
        idx = torch.cat([idx, new], dim=1)
    return idx


def _joined(
    asked: Sequence[tuple[int | None, Tensor]], wanted: Sequence[tuple[int | None, Tensor]]
) -> list[tuple[int | None, Tensor]]:
    """The calls; what was read in two goes, all but the newest symbol and then that, is put together."""
    calls: list[tuple[int | None, Tensor]] = []
    for start, ids in asked:
        if calls and len(calls) <= len(wanted):
            (place, before), (at, whole) = calls[-1], wanted[len(calls) - 1]
            if place is not None and place == at and start == place + before.size(1):
                both = torch.cat([before, ids], dim=1)
                if torch.equal(both, whole[:, : both.size(1)]):
                    calls[-1] = place, both
                    continue
        calls.append((start, ids))
    return calls


def _check_jumps(asked: Sequence[tuple[int | None, Tensor]], wanted: Sequence[tuple[int | None, Tensor]]) -> None:
    """Was the cache filled, and begun anew, when it should be?"""
    assert asked, "the model is never asked: model(idx, cache=kv)"
    asked = _joined(asked, wanted)
    for step, ((start, ids), (place, right_ids)) in enumerate(zip(asked, wanted, strict=False)):
        assert start is not None, "the model is asked without the cache: model(…, cache=kv)"
        size, half = ids.size(1), right_ids.size(1)
        if (start, size) == (place, half):
            if size > 1 and not torch.equal(ids, right_ids):
                what = "half a window, but another" if step else "the prompt does not fit, but its end must be kept"
                raise AssertionError(f"{what}: the last symbols, the newest among them")
            continue
        assert step or start != 0, (
            f"{size} symbols of the prompt are read, not {half}: all of it, or its last block_size if it is longer"
        )
        if step and place == 0:
            assert size > 1, "the new cache gets the newest symbol alone: read the last half of the window into it"
            raise AssertionError(f"{size} symbols are read into the new cache: half the window is {half}")
        whole = step and start == 0 and size > half
        assert not whole, (
            "many symbols are read again at every step, as `generate` does: after a jump go on one symbol at a time"
            if asked[step - 1][0] == 0
            else f"a new cache is begun although the old one, with {place} positions, has room for one more"
        )
        raise AssertionError(f"call {step} reads {size} symbols at place {start}, not {half} at place {place}")
    assert len(asked) == len(wanted), f"the model is asked {len(asked)} times for {len(wanted)} symbols"


# ---- beam search ---------------------------------------------------------------------------------------------------


@check
def check_beam(beam: Callable[[NextLogProbs, Tensor, int, int], Tensor]) -> None:
    """Does `beam(next_log_probs, idx, n, width)` find the text that a beam of that width finds?"""
    trap = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.3, 0.25, 0.25, 0.2], [0.9, 0.04, 0.03, 0.03], [0.25] * 4]).log()
    chain = (2 * torch.randn(5, 5, generator=torch.Generator().manual_seed(52))).log_softmax(-1)
    start, two = torch.tensor([[0]]), torch.tensor([[3, 1]])
    cases = [(chain, two, 5, 3), (trap, start, 2, 2), (trap, start, 2, 1), (chain, two, 3, 8)]
    for table, idx, n, width in cases:
        followed: dict[int, set[tuple[int, ...]]] = {}  # length -> the texts whose continuations were asked for

        def ask(ids: Tensor, table: Tensor = table, followed: dict[int, set[tuple[int, ...]]] = followed) -> Tensor:
            followed.setdefault(ids.size(1), set()).update(map(tuple, ids.tolist()))
            return table[ids[:, -1]]

        try:
            given = attempt(beam, ask, idx, n, width)
        except Mistake:
            raise
        except Exception as error:
            few = f"the width is {width}, but one text has only {len(table)} continuations: keep min(width, …) of them"
            assert width <= len(table), few
            raise AssertionError(ended(beam, error)) from error
        if given is None:
            return
        most = max(map(len, followed.values()), default=0)
        assert most <= width, f"width {width}, and {most} texts go on side by side: keep only the `width` best of all"
        _check_beam(given, ask, idx, n, width)
    right("several texts side by side, the most probable ones kept, the best one returned.")


def _check_beam(given: Any, ask: NextLogProbs, idx: Tensor, n: int, width: int) -> None:
    assert isinstance(given, Tensor), f"the answer is a {type(given).__name__}: it must be ids (1, T + n)"
    shape = (1, idx.size(1) + n)
    if given.dim() == 2 and given.size(0) > 1:
        raise AssertionError("all the texts of the beam: return only the most probable one")
    if tuple(given.shape) == (1, n):
        raise AssertionError("only the new symbols: put the prompt in front of them")
    assert tuple(given.shape) == shape, f"the shape is {tuple(given.shape)}: it must be {shape}"
    expected = _beam(ask, idx, n, width)
    if torch.equal(given, expected):
        return
    greedy = torch.equal(given, _beam(ask, idx, n, 1))
    assert not greedy, (
        "this is the greedy text: the width is ignored, or the beam began with equal copies of the prompt, "
        "which stay equal: begin with one"
    )
    known = {
        "texts are ranked by their last step only: add up all steps": "last",
        "probabilities are added: they multiply, so it is their logarithms that add up": "plain",
        "each text keeps only its own best continuation: all continuations of all texts compete": "apart",
        "this is the worst text of the beam: the log-probability must be largest": "worst",
    }
    for mistake, how in known.items():
        assert not torch.equal(given, _beam(ask, idx, n, width, how)), mistake
    found, best = _total(ask, given, idx.size(1)), _total(ask, expected, idx.size(1))
    raise AssertionError(f"width {width}: your text has log-probability {found:.3f}, a beam finds one with {best:.3f}")


def _total(ask: NextLogProbs, ids: Tensor, T: int) -> float:
    """The log-probability of what follows the first T symbols."""
    return sum(ask(ids[:, :t])[0, ids[0, t]].item() for t in range(T, ids.size(1)))


def _beam(ask: NextLogProbs, idx: Tensor, n: int, width: int, how: str = "right") -> Tensor:
    """Beam search, in the right way or in one of the wrong ones."""
    texts, scores = idx, torch.zeros(1)
    for step in range(n):
        new = ask(texts)  # (texts, vocab_size)
        total = (0 if how == "last" else scores[:, None]) + (new.exp() if how == "plain" else new)
        V = total.size(1)
        if how == "apart" and step > 0:
            best = torch.arange(len(texts)) * V + total.argmax(-1)
        else:
            best = total.flatten().topk(min(width, total.numel())).indices
        texts = torch.cat([texts[best // V], (best % V)[:, None]], dim=1)
        scores = total.flatten()[best]
    pick = scores.argmin() if how == "worst" else scores.argmax()
    return texts[pick][None]
