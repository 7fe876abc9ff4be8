"""The figures: not their pixels, but what they say. Numbers, names, titles, scales and colors are read back."""

from collections.abc import Iterator
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from minigpt.training import History
from minigpt.view import plots
from minigpt.view.plots import (
    attention_grid,
    attention_map,
    figure,
    groups,
    heatmap,
    ladder,
    lines,
    loss_curves,
    show_symbol,
    style,
    weight_bars,
)

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def labels(ax: Axes, axis: str) -> list[str]:
    """The tick labels that are drawn, in order, each at the position of its number."""
    which = ax.xaxis if axis == "x" else ax.yaxis
    assert list(which.get_ticklocs()) == list(range(len(which.get_ticklocs()))), "one tick for each row or column"
    names = [label.get_text() for label in which.get_ticklabels()]
    return names if any(names) else []


def image(ax: Axes) -> np.ndarray:
    (only,) = ax.images
    return np.asarray(only.get_array())


def luminance(color: object) -> float:
    """Relative luminance (WCAG 2): what is left of a color in print."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot((0.2126, 0.7152, 0.0722), channels))


# ---- symbols and style ---------------------------------------------------------------------------------------------


def test_symbols_that_cannot_be_seen_get_a_sign() -> None:
    assert [show_symbol(s) for s in "\n\t aZ'"] == ["⏎", "⇥", "␣", "a", "Z", "'"]


def test_a_dollar_is_a_dollar_and_not_mathematics() -> None:
    ax = heatmap(torch.eye(2), ["$", "$"], ["$", "$"])
    ax.get_figure().canvas.draw()
    assert show_symbol("$") == r"\$"


def test_the_style_ends_with_the_figure() -> None:
    before = dict(plt.rcParams)
    heatmap(torch.eye(3), title="x")
    attention_grid(torch.ones(1, 2, 3, 3) / 3, "abc")
    loss_curves({"a": History([0], [1.0], [1.0], [0.0])})
    figure(2)
    assert dict(plt.rcParams) == before
    with style():
        assert plt.rcParams["image.cmap"] == plots.HEAT
        assert not plt.rcParams["axes.spines.top"]
        assert plt.rcParams["figure.facecolor"] == "white", "readable on a dark page, too"
    assert dict(plt.rcParams) == before


def test_figure_gives_axes_by_row_and_column() -> None:
    drawn, axes = figure(3, 2, width=6, height=2)
    assert axes.shape == (2, 3)
    assert tuple(drawn.get_size_inches()) == (6, 2)
    assert axes[1, 2] in drawn.axes
    assert figure()[1].shape == (1, 1)
    assert figure()[0].get_size_inches()[0] == plots.WIDTH


def test_lines_differ_in_color_and_dash_and_are_seen_on_white() -> None:
    with style():
        cycle = list(plt.rcParams["axes.prop_cycle"])
    pairs = {(entry["color"], entry["linestyle"]) for entry in cycle}
    assert len(pairs) == len(cycle) == 6
    assert len({entry["color"] for entry in cycle}) == 6
    for first, second in pairwise(cycle):
        assert first["linestyle"] != second["linestyle"], "neighbours differ in print as well"
    assert all(luminance(color) < 0.62 for color in plots.PALETTE)


def test_the_heat_map_falls_in_luminance_from_white_to_dark() -> None:
    """So that more stays darker without color: for a color-blind reader, and on paper."""
    steps = [luminance(plt.get_cmap(plots.HEAT)(value)[:3]) for value in np.linspace(0, 1, 50)]
    assert steps[0] > 0.9
    assert steps[-1] < 0.05
    assert all(a > b for a, b in pairwise(steps))


# ---- heatmap -------------------------------------------------------------------------------------------------------


def test_heatmap_draws_the_matrix_with_its_names() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    ax = heatmap(values, ["a", "\n"], ["x", " ", "z"], "The title", row_label="rows", column_label="columns")
    assert image(ax).tolist() == values.tolist()
    assert labels(ax, "y") == ["a", "⏎"]
    assert labels(ax, "x") == ["x", "␣", "z"]
    assert ax.get_title(loc="left") == "The title"
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("rows", "columns")
    assert ax.images[0].get_interpolation() == "nearest", "a cell is one value, never a blend"
    assert ax.images[0].get_cmap().name == plots.HEAT
    bottom, top = ax.get_ylim()
    assert bottom > top, "row 0 is at the top"


def test_heatmap_scale() -> None:
    values = torch.tensor([[0.25, 0.5]])
    assert heatmap(values).images[0].get_clim() == (0.0, 0.5), "white is nothing, not the smallest value"
    assert heatmap(values, vmin=-1, vmax=2).images[0].get_clim() == (-1, 2)
    assert heatmap(-values, vmin=None).images[0].get_clim() == (-0.5, -0.25)


def test_each_number_stands_in_its_cell() -> None:
    values = torch.tensor([[0.0, 0.126], [2.0, 1.9], [0.5, -1.0]])
    ax = heatmap(values, vmin=None)
    written = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "0.00", (1, 0): "0.13", (0, 1): "2.00", (1, 1): "1.90", (0, 2): "0.50", (1, 2): "-1.00"}


def test_numbers_by_default_up_to_ten_columns() -> None:
    assert len(heatmap(torch.ones(3, 10)).texts) == 30
    assert not heatmap(torch.ones(3, 11)).texts
    assert not heatmap(torch.ones(3, 3), numbers=False).texts
    assert len(heatmap(torch.ones(1, 12), numbers=True).texts) == 12


def test_numbers_can_be_read_on_their_cell() -> None:
    """Contrast of at least 4.5 with the color below (WCAG AA), on every shade."""
    ax = heatmap(torch.linspace(0, 1, 60).view(6, 10), vmax=1.0)
    (picture,) = ax.images
    for text in ax.texts:
        j, i = (int(x) for x in text.get_position())
        below = luminance(picture.cmap(picture.norm(image(ax)[i, j]))[:3])
        light, dark = sorted((below, luminance(text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text.get_text()} in {text.get_color()}"


def test_minus_infinity_is_left_blank() -> None:
    """Scores behind the mask: no number, and the others keep their scale."""
    ax = heatmap(torch.tensor([[1.0, float("-inf")], [0.5, 1.0]]), vmax=1.0)
    assert [text.get_text() for text in ax.texts] == ["1.00", "", "0.50", "1.00"]
    ax.get_figure().canvas.draw()


def test_heatmap_takes_what_a_model_gives() -> None:
    weights = torch.full((2, 2), 0.5, requires_grad=True) * 1.0
    assert image(heatmap(weights)).tolist() == [[0.5, 0.5]] * 2
    assert image(heatmap(weights.to(torch.bfloat16))).tolist() == [[0.5, 0.5]] * 2
    assert image(heatmap(torch.tensor([[1, 0]]))).tolist() == [[1, 0]]


def test_heatmap_draws_where_it_is_told() -> None:
    drawn, axes = figure(2)
    assert heatmap(torch.eye(2), ax=axes[0, 1]) is axes[0, 1]
    assert not axes[0, 0].images
    assert plt.get_fignums() == [drawn.number]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (torch.ones(2, 3, 4), {}, r"needs a matrix, not shape \(2, 3, 4\): choose one head"),
        (torch.ones(3), {}, r"needs a matrix, not shape \(3,\)"),
        (torch.ones(2, 3), {"rows": ["a", "b", "c"]}, "3 names for 2 rows"),
        (torch.ones(2, 3), {"columns": ["a", "b"]}, "2 names for 3 columns"),
    ],
)
def test_heatmap_refuses_what_does_not_fit(values: torch.Tensor, names: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap(values, **names)


# ---- attention -----------------------------------------------------------------------------------------------------


def head(T: int, seed: int = 0) -> torch.Tensor:
    scores = torch.randn(T, T, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)


def test_attention_map_has_the_text_on_both_axes() -> None:
    weights = head(4)
    ax = attention_map(weights, "ab \n", "Where it looks")
    assert np.allclose(image(ax), weights)
    assert labels(ax, "x") == labels(ax, "y") == ["a", "b", "␣", "⏎"]
    assert "query" in ax.get_ylabel()
    assert "key" in ax.get_xlabel()
    assert ax.get_title(loc="left") == "Where it looks"
    for part in (weights, weights / 2):
        assert attention_map(part, "ab \n").images[0].get_clim() == (0, 1), "maps of two heads can be compared"


def test_attention_map_takes_one_head_and_its_own_text() -> None:
    with pytest.raises(ValueError, match="choose one head"):
        attention_map(torch.stack([head(3), head(3)]), "abc")
    with pytest.raises(ValueError, match="2 names for 3"):
        attention_map(head(3), "ab")


def test_attention_grid_puts_each_head_in_its_place() -> None:
    weights = torch.stack([torch.stack([head(4, 10 * layer + h) for h in range(3)]) for layer in range(2)])
    weights[1, 2, 0, 0] = 0.9  # no weight of 1 in this one, and the same scale
    drawn = attention_grid(weights, "a b\n", "The title")
    assert len(drawn.axes) == 6
    for number, ax in enumerate(drawn.axes):
        layer, h = divmod(number, 3)
        assert np.allclose(image(ax), weights[layer, h])
        assert ax.get_title(loc="left") == f"layer {layer}, head {h}"
        assert ax.images[0].get_clim() == (0, 1)
        assert not ax.texts
        assert labels(ax, "x") == (["a", "␣", "b", "⏎"] if layer == 1 else []), "the text below the last layer"
        assert labels(ax, "y") == (["a", "␣", "b", "⏎"] if h == 0 else []), "and left of the first head"
    assert drawn.get_suptitle() == "The title"


def test_attention_grid_of_one_layer() -> None:
    drawn = attention_grid(torch.stack([head(3), head(3, 1)]), "abc")
    assert [ax.get_title(loc="left") for ax in drawn.axes] == ["head 0", "head 1"]
    assert np.allclose(image(drawn.axes[1]), head(3, 1))


def test_attention_grid_of_a_long_text_has_no_names_to_overlap() -> None:
    assert labels(attention_grid(torch.stack([head(24)] * 2), "a" * 24).axes[0], "x") == ["a"] * 24
    drawn = attention_grid(torch.stack([head(25)] * 2), "a" * 25)
    assert labels(drawn.axes[0], "x") == labels(drawn.axes[0], "y") == []


# ---- losses --------------------------------------------------------------------------------------------------------

RUNS = {
    "one": History([0, 10, 20], [4.0, 3.0, 2.0], [4.1, 3.25, 2.5], [0.0, 1.0, 2.0]),
    "two": History([0, 20], [4.0, 1.5], [4.2, 1.75], [0.0, 9.0]),
}


def test_loss_curves_are_of_the_validation_loss() -> None:
    ax = loss_curves(RUNS, "Falling")
    one, two = ax.lines
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([0, 10, 20], [4.1, 3.25, 2.5])
    assert (list(two.get_xdata()), list(two.get_ydata())) == ([0, 20], [4.2, 1.75])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one: 2.50", "two: 1.75"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps", "validation loss (nats per symbol)")
    assert ax.get_title(loc="left") == "Falling"
    assert one.get_linestyle() != two.get_linestyle()
    assert one.get_color() != two.get_color()


def test_floors_are_level_lines_with_their_name_and_value() -> None:
    ax = loss_curves(RUNS, floors={"counted": 2.4537})
    level = ax.lines[-1]
    assert list(level.get_ydata()) == [2.4537, 2.4537]
    (text,) = ax.texts
    assert text.get_text() == "counted: 2.45"
    assert text.xy[1] == 2.4537
    assert len(ax.get_legend().get_texts()) == 2, "a floor is named at its line, not in the legend"


def test_loss_curves_draw_where_they_are_told() -> None:
    drawn, axes = figure(2)
    assert loss_curves(RUNS, ax=axes[0, 1]) is axes[0, 1]
    assert plt.get_fignums() == [drawn.number]


# ---- groups and ladder ---------------------------------------------------------------------------------------------


def test_each_cell_has_the_color_of_its_group_and_its_text() -> None:
    which = torch.tensor([[0, 0, 1], [0, 1, 2]])
    ax = groups(which, [["a", "b", "c"], ["d", "e", "f"]], ["x", "y", "z"], ["top", "low"], ["0", "1", "2"], "Who?")
    cells = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): p for p in ax.patches}
    look = {(column, row): (cell.get_facecolor(), cell.get_hatch()) for (column, row), cell in cells.items()}
    assert look[0, 0] == look[1, 0] == look[0, 1]
    assert look[2, 0] == look[1, 1]
    assert len({color for color, _ in look.values()}) == len({hatch for _, hatch in look.values()}) == 3
    assert {tuple(text.get_position()): text.get_text() for text in ax.texts}[2, 1] == "f"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y", "z"]
    assert (labels(ax, "y"), labels(ax, "x")) == (["top", "low"], ["0", "1", "2"])
    assert ax.get_title(loc="left") == "Who?"


@pytest.mark.parametrize("names", [["x"], ["a", "b", "c", "d", "e"]])
def test_groups_need_a_name_each_and_at_most_four(names: list[str]) -> None:
    with pytest.raises(ValueError, match="the groups go from 0 to 1"):
        groups(torch.tensor([[0, 1]]), [["a", "b"]], names)


def test_a_ladder_goes_from_the_top_down_with_its_numbers() -> None:
    ax = ladder({"one": 3.0, "off": 3.5, "two": 2.25}, "Falling", aside=["off"])
    dots = [tuple(dots.get_offsets()[0]) for dots in ax.collections]
    assert dots == [(3.0, 0), (3.5, 1), (2.25, 2)]
    (path,) = ax.lines
    assert list(path.get_xdata()) == [3.0, 2.25], "what is aside is not on the path"
    assert [text.get_text() for text in ax.texts] == ["3.00", "3.50", "2.25"]
    assert labels(ax, "y") == ["one", "off", "two"]
    assert ax.yaxis_inverted()
    filled = [tuple(dots.get_facecolor()[0]) for dots in ax.collections]
    assert filled[0] == filled[2] != filled[1], "and hollow"


def test_a_ladder_without_a_path() -> None:
    assert not ladder({"one": 3.0, "two": 2.0}, path=False).lines


def test_bars_are_the_weights() -> None:
    ax = weight_bars(torch.tensor([0.25, 0.75]), "Shared")
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75]
    assert ax.get_ylim()[1] > 1  # one scale for all, so that rows can be compared
    assert ax.get_title(loc="left") == "Shared"


def test_lines_carry_their_names_and_a_doubling_axis() -> None:
    ax = lines([1, 2, 4], {"a": [3.0, 2.0, 1.0], "b": [0.0, 1.0, 2.0]}, "Down", x_label="size", doubling=True)
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert list(ax.lines[0].get_ydata()) == [3.0, 2.0, 1.0]
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4"]
    assert ax.get_ylim()[0] == 0
    assert ax.get_legend() is not None
    assert lines([1, 2], {"a": [1.0, 2.0]}, legend=False).get_legend() is None


def test_unrolled_block_fills_the_context_and_frames_the_target() -> None:
    ax = plots.unrolled_block("sea shell", "eight examples")
    boxes = [(box.get_y() + 0.4, box.get_x() + 0.44, box.get_linewidth() > 0) for box in ax.patches]
    framed = sorted((round(t), round(column)) for t, column, frame in boxes if frame)
    filled = sorted((round(t), round(column)) for t, column, frame in boxes if not frame)
    assert framed == [(t, t + 1) for t in range(8)]
    assert filled == [(t, column) for t in range(8) for column in range(t + 1)]
    assert [text.get_text() for text in ax.texts][:5] == ["s", "e", "s", "e", "a"]
    assert ax.get_title(loc="left") == "eight examples"
