"""The figures of the book, in one style.

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
from matplotlib.patches import Rectangle
from torch import Tensor

from minigpt.training import History

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    """A symbol as it can be read on an axis: a space, a newline and a tab get a sign of their own."""
    return {"\n": "⏎", " ": "␣", "\t": "⇥", "$": r"\$"}.get(symbol, symbol)


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


def weight_bars(weights: Tensor, title: str = "", ax: Axes | None = None) -> Axes:
    """One row of weights (T,) as bars: how one query shares out its attention."""
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 2.6))[1]
        ax.bar(range(len(weights)), weights.tolist(), color=PALETTE[0])
        ax.set(ylim=(0, 1.05), xticks=range(len(weights)), yticks=(0, 0.5, 1), xlabel="key", ylabel="weight")
        ax.set_title(title)
    return ax


def lines(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    title: str = "",
    *,
    x_label: str = "",
    y_label: str = "",
    doubling: bool = False,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Named curves over x; `doubling` marks an axis whose values 1, 2, 4, … stand at equal distances."""
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 3.2))[1]
        for name, values in curves.items():
            ax.plot(x, values, label=name)
        if doubling:
            ax.set_xscale("log", base=2)
            ax.set_xticks(x[::2], [f"{value:g}" for value in x[::2]])
        ax.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
        ax.set_title(title)
        if legend:
            ax.legend(fontsize=9)
    return ax


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
    floors: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Validation loss of several runs, step by step; `floors` are drawn as level lines."""
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 3.4))[1]
        for name, history in histories.items():
            ax.plot(history.steps, history.val_losses, label=f"{name}: {history.val_losses[-1]:.2f}")
        for name, level in (floors or {}).items():
            ax.axhline(level, color="0.4", linewidth=1, linestyle=":")
            ax.annotate(f"{name}: {level:.2f}", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        ax.set(xlabel="steps", ylabel="validation loss (nats per symbol)")
        ax.set_title(title)
        ax.legend()
    return ax


def groups(
    which: Tensor,
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A table whose cells are colored, and hatched for print, by the group each belongs to.

    Args:
        which: (R, C), the number of each cell's group, from 0.
        texts: what stands in each cell, R rows of C.
        names: one for each group, at most four, for the legend.

    Raises:
        ValueError: a cell belongs to a group that has no name, or there are more than four.
    """
    table = torch.as_tensor(which).cpu().numpy()
    if table.min() < 0 or table.max() >= len(names) or len(names) > 4:
        raise ValueError(
            f"the groups go from {table.min()} to {table.max()}, the names are {list(names)}: at most four"
        )
    tints, hatches = ("#56B4E9", "#F5C26B", "#7FD1B9", "#E3B5D0"), ("", "///", "...", "xxx")
    with style():
        if ax is None:
            ax = plt.subplots(figsize=(1.2 + 0.55 * table.shape[1], 1.2 + 0.45 * table.shape[0]))[1]
        for (i, j), group in np.ndenumerate(table):
            tint = tints[group]
            ax.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5), 1, 1, facecolor=tint, hatch=hatches[group], edgecolor="white", linewidth=2
                )
            )
            back = {"boxstyle": "round,pad=0.15", "facecolor": tint, "edgecolor": "none"}
            ax.text(j, i, texts[i][j], ha="center", va="center", fontsize=9, color="black", bbox=back)
        ax.set(xlim=(-0.5, table.shape[1] - 0.5), ylim=(table.shape[0] - 0.5, -0.5), aspect="equal")
        ax.set_xticks(range(table.shape[1]), columns if columns is not None else [""] * table.shape[1])
        ax.set_yticks(range(table.shape[0]), rows if rows is not None else [""] * table.shape[0])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title)
        keys = [
            Rectangle((0, 0), 1, 1, facecolor=tints[g], hatch=hatches[g], edgecolor="white") for g in range(len(names))
        ]
        ax.legend(keys, names, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=9)
    return ax


def ladder(
    losses: Mapping[str, float],
    title: str = "",
    *,
    aside: Sequence[str] = (),
    path: bool = True,
    label: str = "loss on the whole validation split (nats per symbol)",
    ax: Axes | None = None,
) -> Axes:
    """Losses from the top down: a dot and its number for each name, joined by a thin line if there is a `path`.

    Those in `aside` are hollow and off the path.
    """
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 0.8 + 0.36 * len(losses)))[1]
        if path:
            steps = [i for i, name in enumerate(losses) if name not in aside]
            ax.plot([list(losses.values())[i] for i in steps], steps, color="0.7", linewidth=1, linestyle="-", zorder=1)
        for i, (name, loss) in enumerate(losses.items()):
            off = name in aside
            ax.scatter(
                [loss], [i], s=55, marker="D" if off else "o", zorder=2, linewidth=1.5,
                facecolor="white" if off else PALETTE[0], edgecolor=PALETTE[1] if off else PALETTE[0],
            )  # fmt: skip
            ax.annotate(f"{loss:.2f}", (loss, i), (8, 0), textcoords="offset points", va="center", fontsize=9)
        low, high = min(losses.values()), max(losses.values())
        ax.set(xlabel=label, xlim=(low - 0.08 * (high - low), high + 0.12 * (high - low)))
        ax.set_yticks(range(len(losses)), list(losses))
        ax.set_ylim(len(losses) - 0.5, -0.5)
        ax.grid(axis="y", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.set_title(title)
    return ax


def unrolled_block(symbols: str, title: str = "", ax: Axes | None = None) -> Axes:
    """The T examples inside T + 1 symbols: one row each, its context filled and its target framed."""
    T = len(symbols) - 1
    with style():
        ax = ax if ax is not None else plt.subplots(figsize=(WIDTH, 0.9 + 0.36 * T))[1]
        for t in range(T):
            for column in range(t + 2):
                target = column == t + 1
                ax.add_patch(plt.Rectangle(
                    (column - 0.44, t - 0.4), 0.88, 0.8, linewidth=2 if target else 0,
                    facecolor="white" if target else "#CFE1F2", edgecolor=PALETTE[1] if target else "none",
                ))  # fmt: skip
                weight = "bold" if target else "normal"
                ax.text(column, t, show_symbol(symbols[column]), ha="center", va="center", fontweight=weight)
        ax.set(xlim=(-0.6, T + 0.6), ylim=(T - 0.5, -0.5), ylabel="example t")
        ax.set_xticks(range(T + 1), map(str, range(T + 1)))
        ax.set_yticks(range(T), map(str, range(T)))
        ax.set_xlabel("position in the text: filled = what may be seen, framed = what must be guessed")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title)
    return ax
