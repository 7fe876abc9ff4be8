"""Attention that answers (chapter 8).

A picture of every head of every layer that a reader can question: point at a symbol and see where it looks. It is one
piece of HTML that carries its own weights, style and script, so it works in Jupyter, in Colab, on a static page and
from a folder, with no kernel and no network. Where scripts are not allowed, a colored table of one head is left.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from minigpt.bigram import LanguageModel
from minigpt.gpt import evaluating
from minigpt.run.checkpoint import write_bytes
from minigpt.text import CharTokenizer

BYTE, TWO_BYTES = 255, 65535  # a weight is stored as a whole number of 255ths, or of 65535ths where there are few
FEW = 8192
TABLE = 64  # symbols in the table for readers without scripts
TINTS = ("#fff", "#eef4fb", "#dbe9f6", "#c6dcf0", "#aacdea", "#8bbbe2", "#6ba7d8", "#4f94cd")  # black text reads on all
BEST = 5  # how many guesses of the next symbol are kept

Prediction = Sequence[tuple[str, float]]  # symbols with their probabilities


class AttentionExplorer:
    """Weights of attention that a notebook or a page shows as an interactive view.

    A weight is kept as a whole number of 255ths (of 65535ths if there are at most 8192 weights). Those of a row still
    add up to exactly 1, and none is off by a unit or more.

    Args:
        weights: (n_layer, n_head, T, T), (n_head, T, T) or (T, T): row t says where position t looks.
        labels: the T symbols; any text is safe.
        predictions: for each position its best guesses of the next symbol, best first; no such list if None.
        layer, head: what is enlarged at first; `head=None` is the mean over the heads of the layer.
        position: the query at first; the last one if None.
        title: one line above the view.

    Raises:
        ValueError: the shapes do not fit each other, a choice is out of range, or a row does not add up to 1.
    """

    def __init__(
        self,
        weights: Tensor,
        labels: Sequence[str],
        predictions: Sequence[Prediction] | None = None,
        *,
        layer: int = 0,
        head: int | None = 0,
        position: int | None = None,
        title: str = "",
    ) -> None:
        weights = torch.as_tensor(weights).detach().cpu().double()
        weights = weights[(None,) * (4 - weights.dim())] if 2 <= weights.dim() < 4 else weights
        _check_weights(weights, labels)
        n_layer, n_head, T, _ = weights.shape
        position = T - 1 if position is None else position
        _check_choice("layer", layer, n_layer)
        _check_choice("position", position, T)
        if head is not None:
            _check_choice("head", head, n_head)
        if predictions is not None and len(predictions) != T:
            raise ValueError(f"there are predictions for {len(predictions)} positions, but {T} symbols")
        self.labels = list(labels)
        self.unit = TWO_BYTES if weights.numel() <= FEW else BYTE
        self.units = to_units(weights, self.unit)  # (n_layer, n_head, T, T), whole numbers
        self.predictions = predictions
        self.layer, self.head, self.position, self.title = layer, head, position, "".join(map(_printable, title))

    def __repr__(self) -> str:
        n_layer, n_head, T, _ = self.units.shape
        return f"AttentionExplorer({_count(n_layer, 'layer')}, {_count(n_head, 'head')}, {_count(T, 'symbol')})"

    def _repr_html_(self) -> str:
        """The view: a table for readers without scripts, and the script that replaces it."""
        data = self._data()
        key = hashlib.sha256(data.encode()).hexdigest()[:12]  # ties the script to its table, not to its neighbor's
        style, script = _resource("explorer.css"), _resource("explorer.js")
        return (
            f'<div class="minigpt-explorer" data-explorer="{key}" role="group" '
            f'aria-label="{html.escape(self.title or "Attention explorer")}">'
            f"<style>{style}</style>{self._table()}</div>"
            f'<script>{script.rstrip().removesuffix(";")}("{key}", {data});</script>'
        )

    def save(self, path: str | Path) -> None:
        """Write the view as a page of its own, for any browser, with or without a network."""
        title = html.escape(self.title or "Attention explorer")
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        body = f"<main><h1>{title}</h1>{self._repr_html_()}</main>"
        page = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
        write_bytes(Path(path), page.encode())

    def _data(self) -> str:
        """What the script needs, as JSON that can stand inside a <script>."""
        n_layer, n_head, T, _ = self.units.shape
        causal = not self.units.triu(1).any()
        kept = self.units[..., *torch.tril_indices(T, T)] if causal else self.units
        mean = n_head if n_head > 1 else 0  # it has a column of its own behind the heads, if there are several
        data = {
            "title": self.title,
            "labels": [visible(label) for label in self.labels],
            "layers": n_layer,
            "heads": n_head,
            "causal": causal,
            "unit": self.unit,
            "start": [self.layer, mean if self.head is None else self.head, self.position],
            "next": [[[visible(s), round(p, 4)] for s, p in guesses] for guesses in self.predictions or []],
            "weights": base64.b64encode(kept.numpy().astype("u1" if self.unit == BYTE else "<u2").tobytes()).decode(),
        }
        text = json.dumps(data, separators=(",", ":"))  # ASCII only: no U+2028 can end a line of the script
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

    def _table(self) -> str:
        """One head as a table, with numbers where a weight is at least a tenth; the masked cells are left out."""
        layer, n_head = self.layer, self.units.size(1)
        units = self.units[layer].double().mean(0) if self.head is None else self.units[layer, self.head]
        shown = [html.escape(visible(label)) for label in self.labels[:TABLE]]
        which = "mean of the heads" if self.head is None else f"head {self.head}"
        cut = f" The first {TABLE} of {len(self.labels)} symbols." if len(self.labels) > TABLE else ""
        name = f"Layer {layer}, {which}" if self.units.size(0) * n_head > 1 else "One head"
        end = "" if self.title.endswith((".", "?", "!")) else "."
        title = f"{html.escape(self.title)}{end} " if self.title else ""
        rows = []
        for t, label in enumerate(shown):
            row = (units[t, : len(shown)] / self.unit).tolist()
            while row and not row[-1]:
                row.pop()
            rows.append(f"<tr><th scope=row>{label}" + "".join(map(_cell, row)))
        return (
            f"<p>{title}{name}: each row is a symbol that looks (query), each column one that is looked at (key). "
            f"The stronger the color, the more; the numbers are percent.{cut}</p>"
            f'<div class="scroll" role="region" tabindex="0" aria-label="Weights of one head"><table>'
            f"<thead><tr><td>{''.join(f'<th scope=col>{label}' for label in shown)}</thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )


def attention_explorer(
    model: LanguageModel,
    tokenizer: CharTokenizer,
    text: str,
    *,
    layer: int = 0,
    head: int | None = 0,
    position: int | None = None,
    title: str = "",
) -> AttentionExplorer:
    """Show where each head of a model looks in a text, and which symbol it expects next at each position.

    The model is asked in eval mode and without gradients; its mode is restored. For weights that do not come from a
    GPT, make an `AttentionExplorer` of them.

    Args:
        text: at least one symbol, at most `model.config.block_size`.
        layer, head, position, title: see `AttentionExplorer`.

    Raises:
        TypeError: the model has no `attention(idx)`.
        ValueError: the text is empty or too long, holds a symbol the tokenizer lacks, or the tokenizer is another
            model's.
    """
    if not has_attention(model):
        raise TypeError(
            f"a {type(model).__name__} has no attention(idx) that returns (n_layer, B, n_head, T, T): "
            "show its weights with AttentionExplorer(weights, labels)"
        )
    block_size, vocab_size = model.config.block_size, model.config.vocab_size
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} symbols, the model {vocab_size}: they must be a pair"
        )
    if not text:
        raise ValueError("the text is empty: give the model at least one symbol to look at")
    if len(text) > block_size:
        raise ValueError(
            f"the text has {len(text)} symbols, but block_size is {block_size}: cut it, text[:{block_size}]"
        )
    idx = tokenizer.encode(text)[None].to(next(model.parameters()).device)  # (1, T)
    with evaluating(model):
        weights = model.attention(idx)[:, 0]  # type: ignore[operator]  # (n_layer, n_head, T, T)
        best = model(idx)[0].float().softmax(dim=-1).topk(min(BEST, vocab_size))  # (T, BEST)
    predictions = [
        [(tokenizer.symbols[i], p) for i, p in zip(ids, chances, strict=True)]
        for ids, chances in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return AttentionExplorer(weights, list(text), predictions, layer=layer, head=head, position=position, title=title)


def has_attention(model: LanguageModel) -> bool:
    """Whether the model has a method `attention(idx)`; a layer of that name is something else."""
    return not isinstance(getattr(model, "attention", None), nn.Module | None)


def to_units(weights: Tensor, unit: int) -> Tensor:
    """Rows that add up to 1 -> rows of whole numbers that add up to `unit`, none a whole one away from unit * weight.

    Rounded down first; what is then missing goes to the largest remainders.
    """
    scaled = weights.double() / weights.double().sum(dim=-1, keepdim=True) * unit
    units = scaled.floor()
    missing = unit - units.sum(dim=-1, keepdim=True)
    rank = (scaled - units).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (units + (rank < missing)).long()


def visible(label: str) -> str:
    """A symbol as it can be seen: signs for the space, the newline and the tab, codes for what has no shape."""
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    return "".join(signs.get(c) or _printable(c) for c in label) or "∅"


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _cell(weight: float) -> str:
    level = round((len(TINTS) - 1) * weight**0.6)
    number = f"{100 * weight:.0f}" if weight >= 0.095 else ""
    return f"<td bgcolor={TINTS[level]}>{number}" if level else "<td>"


def _check_weights(weights: Tensor, labels: Sequence[str]) -> None:
    shape = tuple(weights.shape)
    if weights.dim() != 4 or shape[-1] != shape[-2] or 0 in shape:
        raise ValueError(
            f"the weights have shape {shape}: they must be (n_layer, n_head, T, T), (n_head, T, T) or (T, T)"
        )
    if len(labels) != shape[-1]:
        raise ValueError(f"there are {len(labels)} labels, but the weights are for {shape[-1]} symbols")
    sums = weights.sum(dim=-1)
    bad = ~((sums - 1).abs() < 0.01) | (weights < 0).any(dim=-1)  # written so that nan is bad too
    if bad.any():
        layer, head, row = bad.nonzero()[0].tolist()
        raise ValueError(
            f"row {row} of layer {layer}, head {head} adds up to {sums[layer, head, row]:.3g} or holds a negative "
            "number: weights are what a softmax returns, before dropout"
        )


def _check_choice(name: str, value: int, count: int) -> None:
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from 0 to {count - 1}")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _resource(name: str) -> str:
    return files("minigpt.view").joinpath(name).read_text("utf8")
