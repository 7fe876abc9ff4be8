"""Writing text with a model (chapter 9).

A language model gives probabilities for the next symbol. To write, draw one, append it, and ask again. Temperature,
top-k and top-p reshape the probabilities before the draw; a cache keeps the keys and values of the past, so that each
step computes one position instead of all of them.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt import attention, block, gpt
from minigpt.bigram import LanguageModel
from minigpt.gpt import GPT, GPTConfig, evaluating


class LayerCache:
    """Keys and values of one layer for the positions seen so far, in memory set aside once."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.k = torch.empty(shape, dtype=like.dtype, device=like.device)  # (B, n_head, block_size, head_size)
        self.v = torch.empty_like(self.k)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add k and v (B, n_head, T, head_size); return all so far, (B, n_head, length, head_size) each."""
        start, self.length = self.length, self.length + k.size(2)
        self.k[:, :, start : self.length] = k
        self.v[:, :, start : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class KVCache:
    """The cache of a whole model: one `LayerCache` a layer. Room for block_size positions and no more.

    Learned positions cannot slide: when the window moves on, every symbol in it changes its position, and with that
    every key and value. Past block_size a cache is of no use. (Rotated keys could slide, but what they saw could not.)
    """

    def __init__(self, config: GPTConfig, batch_size: int, like: Tensor) -> None:
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.layers = [LayerCache(shape, like) for _ in range(config.n_layer)]
        self.last: Tensor | None = None  # (B, 1), the symbol before the next, for a model that mixes it in

    @property
    def length(self) -> int:
        return self.layers[0].length


class OnePosition:
    """A GPT for one position of one text: `gpt.py` written out, without modules.

    For a single symbol of a small model, calling sixty modules takes longer than what they compute, and sharing the
    work between cores does too; so this does neither (a large model does share). It takes the past over from a cache,
    and keeps what each layer's `qkv` makes of a position in one row, so that the product can be written where it stays.

    Shapes:
        symbol: (1,)
        returns: logits (1, vocab_size)
    """

    def __init__(self, model: GPT, kv: KVCache) -> None:
        size = model.config
        self.length = kv.length
        self.rows = [layer.k.new_empty(size.block_size, 3 * size.n_embd) for layer in kv.layers]
        self.past = []  # for each layer q, k and v: what its rows hold, as (1, n_head, block_size, head_size)
        for rows, layer in zip(self.rows, kv.layers, strict=True):
            q, k, v = rows.view(len(rows), 3, size.n_head, -1).permute(1, 2, 0, 3)[:, None]
            k[:, :, : self.length] = layer.k[:, :, : self.length]
            v[:, :, : self.length] = layer.v[:, :, : self.length]
            self.past.append((q, k, v))
        self.embeddings = model.token_embedding.weight, model.position_embedding.weight
        self.layers: list[list[tuple[Tensor, Any]]] = []  # (weight, bias or None) of each piece of each block
        b: Any
        for b in model.blocks:
            first, _, second, _ = b.feed_forward.net
            parts = b.norm1, b.attention.qkv, b.attention.proj, b.norm2, first, second
            self.layers.append([(part.weight, part.bias) for part in parts])
        self.last: list[tuple[Tensor, Any]] = [(part.weight, part.bias) for part in (model.norm, model.head)]
        self.is_small = sum(p.numel() for p in model.parameters()) < 4_000_000

    @staticmethod
    def fits(model: LanguageModel) -> TypeGuard[GPT]:
        """Whether the model is exactly a `GPT` on the CPU, in its own precision, with nothing replaced and no hook."""
        on_cpu = next(model.parameters()).device.type == "cpu"
        if type(model) is not GPT or not on_cpu or torch.is_autocast_enabled("cpu") or _written_out() != AS_IMPORTED:
            return False
        return _pieces(model) == _plan(model.config) and not any(
            m._forward_hooks or m._forward_pre_hooks or any(callable(getattr(type(m), name, None)) for name in vars(m))
            for m in model.modules()
        )

    def __call__(self, symbol: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        try:
            if self.is_small:
                torch.set_num_threads(1)
            return self._logits(symbol)
        finally:
            torch.set_num_threads(threads)

    def _logits(self, symbol: Tensor) -> Tensor:
        n, self.length = self.length, self.length + 1  # n: the symbol's position
        tokens, positions = self.embeddings
        x = tokens[symbol[0]] + positions[n]  # (n_embd,)
        C = x.shape
        for rows, (q, k, v), parts in zip(self.rows, self.past, self.layers, strict=True):
            norm1, (qkv, _), (proj, proj_bias), norm2, (up, up_bias), (down, down_bias) = parts
            torch.mv(qkv, F.layer_norm(x, C, *norm1), out=rows[n])  # query, key and value, where they are kept
            q, k, v = q.narrow(2, n, 1), k.narrow(2, 0, n + 1), v.narrow(2, 0, n + 1)
            mixed = F.scaled_dot_product_attention(q, k, v)  # nothing to mask: all of it is past
            x = torch.addmv(proj_bias, proj, mixed.view(C)).add_(x)
            inner = torch.addmv(up_bias, up, F.layer_norm(x, C, *norm2)).relu_()  # (4 * n_embd,)
            x = torch.addmv(down_bias, down, inner).add_(x)
        norm, (head, head_bias) = self.last
        return torch.addmv(head_bias, head, F.layer_norm(x, C, *norm))[None]


def _written_out() -> list[object]:
    """What `OnePosition` writes out, as it stands now: a reader may have put something else into a class."""
    classes = GPT, gpt.Block, block.MultiHeadAttention, block.FeedForward
    return [attention.attend, *(method for c in classes for method in vars(c).values() if callable(method))]


AS_IMPORTED = _written_out()


def _pieces(model: nn.Module) -> list[tuple[str, type, str]]:
    """Name, class and sizes of every module inside a model."""
    return [(name, type(m), m.extra_repr()) for name, m in model.named_modules() if name]


@functools.cache
def _plan(config: GPTConfig) -> list[tuple[str, type, str]]:
    """The pieces that `gpt.py` makes of these sizes."""
    with torch.device("meta"):  # shapes without numbers
        return _pieces(GPT(config))


def next_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Probabilities of the next symbol, after temperature, then top-k, then top-p.

    Args:
        logits: (..., vocab_size).
        temperature: divides the logits; below 1 sharper, above 1 flatter, 0 puts everything on the best symbol.
        top_k: keep the k most probable symbols (Fan et al. 2018); one above vocab_size keeps all.
        top_p: keep the fewest symbols that reach this probability together (Holtzman et al. 2020).

    Returns:
        (..., vocab_size), each row adding up to 1.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, best, 1.0)
    if temperature != 1:
        largest = logits.amax(dim=-1, keepdim=True)  # moved to 0: a tiny temperature gives -inf, never inf - inf
        logits = (logits - largest) / max(temperature, 1e-30)  # below that, 32 bits would divide by 0
    if top_k is not None and top_k < logits.size(-1):
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # of equal ones the first, as argmax
        logits = torch.full_like(logits, -math.inf).scatter_(-1, order[..., :top_k], ordered[..., :top_k])
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered  # what the more probable symbols already hold
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(ordered).scatter_(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is {temperature}: it must be 0 (always the best symbol) or a positive number")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(f"top_k is {top_k!r}: it must be a whole number of at least 1, or None to keep all symbols")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: it must be above 0 and at most 1, or None to keep all symbols")


def stream(
    model: LanguageModel,
    idx: Tensor,
    n: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Iterator[Tensor]:
    """Continue idx (B, T) one symbol at a time: an iterator over n tensors (B,), each drawn as it is asked for.

    The model is in eval mode while a symbol is computed, and in the mode it was in between two. The arguments, and the
    errors, are those of `generate`.
    """
    config = model.config
    if idx.dim() != 2 or idx.is_floating_point():
        raise ValueError(
            f"idx is {idx.dtype} of shape {tuple(idx.shape)}: it must be whole numbers of shape (B, T), "
            "for example tokenizer.encode(text)[None]"
        )
    if idx.numel() == 0:
        raise ValueError("the prompt is empty: give the model at least one symbol to continue, for example a newline")
    if idx.min() < 0 or idx.max() >= config.vocab_size:
        raise ValueError(f"the prompt holds an id outside 0 to {config.vocab_size - 1}: was it encoded for this model?")
    if type(n) is not int or n < 0:
        raise ValueError(f"n is {n!r}: it must be a whole number of at least 0")
    _check_sampling(temperature, top_k, top_p)
    return _write(
        model, idx, n, temperature, top_k, top_p, generator, cache and getattr(model, "supports_cache", False)
    )


@torch.no_grad()  # on a generator it holds while a symbol is computed, and not between two
def _write(
    model: LanguageModel,
    idx: Tensor,
    n: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
    use_cache: bool,
) -> Iterator[Tensor]:
    block_size = model.config.block_size
    new = idx[:, -block_size:]  # (B, T): what the cache has not seen yet
    text = [new]  # the window in pieces, put together only where the whole of it is read
    kv = KVCache(model.config, len(idx), next(model.parameters())) if use_cache else None
    step: OnePosition | None = None
    for _ in range(n):
        seen = step or kv
        if seen is None or seen.length + new.size(1) > block_size:
            text = [torch.cat(text, dim=1)[:, -block_size:]]
            with evaluating(model):
                logits = model(text[0])[:, -1]  # (B, vocab_size)
        elif step is not None:
            logits = step(new[:, 0])
        else:
            with evaluating(model):
                logits = model(new, cache=kv)[:, -1]
            if kv is not None and len(idx) == 1 and OnePosition.fits(model):
                step = OnePosition(model, kv)
        if not math.isfinite(logits.sum(dtype=torch.float32)):  # one inf or nan is enough to make it so
            raise ValueError("the model's logits are not finite: its weights are damaged or its training diverged")
        symbol = _draw(logits, temperature, top_k, top_p, generator)  # (B,)
        yield symbol
        new = symbol[:, None]  # (B, 1)
        text.append(new)


def _draw(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # in 16 bits the sum that top-p needs would be rounded away
    probabilities = next_probabilities(logits, temperature, top_k, top_p)
    if generator is not None:
        probabilities = probabilities.to(generator.device)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)


def generate(
    model: LanguageModel,
    idx: Tensor,
    n: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Tensor:
    """Continue idx by n symbols, in eval mode and without gradients; the model's mode is restored.

    Only the last block_size symbols are ever seen. With the cache a step costs one position while everything fits into
    block_size; past it each step computes the whole window again, exactly as without the cache.

    Args:
        model: any model with `model(idx) -> logits` and `model.config`; the cache is used where it has one.
        idx: (B, T) int64 with T >= 1, the prompt; it may be longer than block_size.
        n: how many symbols to add; 0 returns a copy of idx.
        temperature, top_k, top_p: see `next_probabilities`.
        generator: draws the symbols; torch's own if None.

    Returns:
        (B, T + n) int64, beginning with idx.

    Raises:
        ValueError: an empty prompt, an id outside the vocabulary, a setting out of range, logits not finite.
    """
    symbols = stream(model, idx, n, temperature, top_k, top_p, generator, cache)
    return torch.cat([idx, *(symbol[:, None] for symbol in symbols)], dim=1)
