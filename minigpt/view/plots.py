"""The figures of the book (chapter 8), in one style.

Heat maps run from white (nothing) to dark blue (all); lines take the palette of Okabe and Ito, which survives colour
blindness, and differ in their dashes as well, which survives print.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minigpt.training import History

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
HEAT = "Blues"
WIDTH = 7.0  # inches: the width of the page's text


def style() -> AbstractContextManager[None]:
    """The book's settings for matplotlib, inside a `with`; every function below uses them by itself."""
    colors = plt.cycler(color=PALETTE[:6]) + plt.cycler(linestyle=("-", "--", "-.", ":", "-", "--"))
    return plt.rc_context({
        "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": colors, "legend.frameon": False,
        "image.cmap": HEAT,
    })  # fmt: skip


def show_symbol(symbol: str) -> str:
    """A symbol as it can be read on an axis: a space and a newline get a sign of their own."""
    return {"\n": "⏎", " ": "␣", "$": r"\$"}.get(symbol, symbol)


def figure(columns: int = 1, rows: int = 1, width: float = WIDTH, height: float = 3.2) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style, and its axes as an array of shape (rows, columns)."""
    with style():
        return plt.subplots(rows, columns, figsize=(width, height), squeeze=False)


def heatmap(
    values: Tensor,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    *,
    numbers: bool | None = None,
    vmin: float | None = 0.0,
    vmax: float | None = None,
    row_label: str = "",
    column_label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a matrix (R, C) with its rows and columns named.

    Args:
        numbers: write each value into its cell; by default where there are at most 10 columns.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: the matrix is not two-dimensional, or the names do not fit it.
    """
    matrix = torch.as_tensor(values).detach().float().cpu().numpy()
    if matrix.ndim != 2:
        raise ValueError(f"a heat map needs a matrix, not shape {matrix.shape}: choose one head and one row")
    for axis, names in enumerate((rows, columns)):
        if names is not None and len(names) != matrix.shape[axis]:
            raise ValueError(f"{len(names)} names for {matrix.shape[axis]} {'rows' if axis == 0 else 'columns'}")
    with style():
        if ax is None:
            side = min(WIDTH, 1.2 + 0.42 * matrix.shape[1])
            ax = plt.subplots(figsize=(side, max(1.6, 0.9 * side * matrix.shape[0] / matrix.shape[1])))[1]
        ax.imshow(matrix, vmin=vmin, vmax=vmax, cmap=HEAT, interpolation="nearest")
        size = max(4.5, min(10.0, 320 / max(matrix.shape)))
        if columns is not None:
            ax.set_xticks(range(len(columns)), [show_symbol(s) for s in columns], fontsize=size)
        if rows is not None:
            ax.set_yticks(range(len(rows)), [show_symbol(s) for s in rows], fontsize=size)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel=column_label, ylabel=row_label)
        ax.set_title(title)
        if numbers or (numbers is None and matrix.shape[1] <= 10):
            low, high = ax.images[0].get_clim()
            for (i, j), value in np.ndenumerate(matrix):
                dark = value > low + 0.715 * (high - low)  # where white is easier to read than black
                text = "" if np.isneginf(value) else f"{value:.2f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return ax


def attention_map(weights: Tensor, symbols: str | Sequence[str], title: str = "", ax: Axes | None = None) -> Axes:
    """One head's weights (T, T) with the text on both axes: each row is a query, and adds up to 1."""
    return heatmap(
        weights, list(symbols), list(symbols), title,
        vmax=1.0, row_label="query: this symbol …", column_label="… looks at this key", ax=ax,
    )  # fmt: skip


def attention_grid(weights: Tensor, symbols: str | Sequence[str], title: str = "") -> Figure:
    """Every head of every layer: weights (n_layer, n_head, T, T), or (n_head, T, T) for one layer."""
    weights = weights if weights.dim() == 4 else weights[None]
    n_layer, n_head = weights.shape[:2]
    side = WIDTH / max(n_head, 2)
    fig, axes = figure(n_head, n_layer, height=n_layer * (side + 0.25) + 0.4)
    names = [show_symbol(s) for s in symbols] if len(symbols) <= 24 else []
    size = max(4.0, 60 * side / max(len(names), 12) * 0.8)
    for layer in range(n_layer):
        for head in range(n_head):
            ax = axes[layer, head]
            heatmap(weights[layer, head], vmax=1.0, numbers=False, ax=ax)
            name = f"layer {layer}, head {head}" if n_layer > 1 else f"head {head}"
            ax.set_title(name, loc="left", fontsize=8, fontweight="normal")
            ax.set_xticks(range(len(names)), names if layer == n_layer - 1 else [], fontsize=size)
            ax.set_yticks(range(len(names)), names if head == 0 else [], fontsize=size)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fig


def loss_curves(
    histories: Mapping[str, History],
    title: str = "",
    *,
    against: str = "steps",
    floors: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Validation loss of several runs against 'steps' or 'seconds'; `floors` are drawn as level lines."""
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 3.4))[1]
        for name, history in histories.items():
            ax.plot(getattr(history, against), history.val_losses, label=f"{name}: {history.val_losses[-1]:.2f}")
        for name, level in (floors or {}).items():
            ax.axhline(level, color="0.4", linewidth=1, linestyle=":")
            ax.annotate(f"{name}: {level:.2f}", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        ax.set(xlabel=against, ylabel="validation loss (nats per symbol)")
        ax.set_title(title)
        ax.legend()
    return ax
