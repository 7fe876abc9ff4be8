"""Controls for a running kernel: write with a model, look into its heads (chapters 3, 7 and 9).

Each function returns a widget that Jupyter and Colab show. Whatever a reader types, the widget answers in one line:
it never prints a traceback. Pictures are placed as HTML, which lets them carry an alt text.
"""

import base64
import contextvars
import copy
import html
import io
import threading
import time
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from minigpt.bigram import LanguageModel
from minigpt.generation import stream
from minigpt.gpt import GPT
from minigpt.text import CharTokenizer
from minigpt.view.explorer import has_attention
from minigpt.view.plots import attention_map, figure, style, weight_bars

REFRESH = 0.05  # seconds between two updates of the text: more of them would only flood the browser


def sampler(
    model: LanguageModel, tokenizer: CharTokenizer, prompt: str = "\n", symbols: int = 300, temperature: float = 0.8
) -> widgets.VBox:
    """Write with a model: a prompt, the settings of `generate`, and a button that starts and stops.

    The text appears as it is drawn. The same seed and settings write the same text. It works on a copy of the model, so
    other cells may train the original meanwhile.

    Raises:
        ValueError: the tokenizer has another number of symbols than the model.
    """
    _check_vocabulary(model, tokenizer)
    all_symbols = tokenizer.vocab_size
    text = widgets.Textarea(prompt, description="Prompt", rows=2, **_wide())
    heat = widgets.FloatSlider(temperature, min=0, max=2, step=0.1, description="Temperature", **_wide())
    top_k = widgets.IntSlider(all_symbols, min=1, max=all_symbols, description=f"Top-k ({all_symbols}: off)", **_wide())
    top_p = widgets.FloatSlider(1, min=0.05, max=1, step=0.05, description="Top-p (1: off)", **_wide())
    seed = widgets.BoundedIntText(1337, min=0, max=2**31 - 1, description="Seed", **_wide())
    count = widgets.BoundedIntText(symbols, min=1, max=10_000, description="Symbols", **_wide())
    button = widgets.Button(description="Generate", button_style="primary", tooltip="Start or stop writing")
    line, page = widgets.HTML(), widgets.HTML()
    stop = threading.Event()

    def write(writer: LanguageModel) -> None:
        asked, written, shown = text.value, "", 0.0  # the box may be edited while the model writes
        try:
            idx = tokenizer.encode(asked)[None].to(next(writer.parameters()).device)  # (1, T)
            if (cut := idx.size(1) - writer.config.block_size) > 0:
                _say(line, f"The prompt is {cut} symbols longer than the model can see: it reads the last part only.")
            k = top_k.value if top_k.value < all_symbols else None
            draw = torch.Generator().manual_seed(seed.value)
            for symbol in stream(writer, idx, count.value, heat.value, k, top_p.value, draw):
                written += tokenizer.decode(symbol)
                if time.perf_counter() - shown > REFRESH:
                    page.value, shown = _page(asked, written), time.perf_counter()
                if stop.is_set() or not threading.main_thread().is_alive():  # or the kernel is shutting down
                    break
            page.value = _page(asked, written)
        except Exception as error:  # in a thread nobody else would say it
            _say(line, error)
        finally:
            button.description, button.button_style = "Generate", "primary"

    def click(_: widgets.Button) -> None:
        if button.description == "Stop":
            stop.set()
            return
        stop.clear()
        _say(line, "")
        page.value = ""
        try:
            writer = copy.deepcopy(model)
        except Exception as error:
            _say(line, error)
            return
        button.description, button.button_style = "Stop", "warning"
        # A thread, because a kernel that is busy here could not hear the button. It needs the context of this message.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(write, writer)).start()

    button.on_click(click)
    return widgets.VBox([text, heat, top_k, top_p, widgets.HBox([seed, count]), button, line, page])


def head_browser(model: GPT, tokenizer: CharTokenizer, text: str) -> widgets.VBox:
    """Look where each head looks: sliders for layer and head, a line of text, and the map of its attention weights.

    Raises:
        TypeError: the model has no attention to show.
        ValueError: the tokenizer has another number of symbols than the model.
    """
    _check_vocabulary(model, tokenizer)
    if not has_attention(model):
        raise TypeError(f"a {type(model).__name__} has no attention to look at: pass a GPT")
    config = model.config
    line_of_text = widgets.Text(text, description="Text", continuous_update=False, **_wide())
    layer = _slider("Layer", config.n_layer)
    head = _slider("Head", config.n_head)
    line, picture = widgets.HTML(), widgets.HTML()

    def draw(_: object = None) -> None:
        shown = line_of_text.value[: config.block_size]
        try:
            if not shown:
                raise ValueError("the text is empty: type at least one symbol")
            weights = model.attention(tokenizer.encode(shown)[None].to(next(model.parameters()).device))
        except ValueError as error:
            _say(line, error)
            picture.value = ""
            return
        left_out = len(line_of_text.value) - len(shown)
        _say(line, f"The model sees {len(shown)} symbols at once; {left_out} more are left out." if left_out else "")
        one = weights[layer.value, 0, head.value].cpu()  # (T, T)
        steps = torch.arange(len(shown))
        back = (one * (steps[:, None] - steps)).sum(-1).mean()
        title = f"Layer {layer.value}, head {head.value} looks {back:.1f} symbols back on average"
        side = max(5.0, min(6.5, 1.7 + 0.4 * len(shown)))  # inches: room for the title, and for the page
        canvas, axes = figure(width=side, height=side)
        attention_map(one, shown, title, ax=axes[0, 0])
        picture.value = _picture(canvas, f"Heat map of {len(shown)} by {len(shown)} attention weights. {title}.")

    _on_change(draw, line_of_text, layer, head)
    draw()
    return widgets.VBox([line_of_text, widgets.HBox([layer, head]), line, picture])


def softmax_saturation() -> widgets.VBox:
    """Make a head larger and watch its softmax: one query, eight keys, random numbers, with and without a scale."""
    draw_numbers = torch.Generator().manual_seed(1337)
    q, k = torch.randn(1024, generator=draw_numbers), torch.randn(8, 1024, generator=draw_numbers)
    sizes = [2**n for n in range(11)]
    scales: dict[str, Callable[[int], float]] = {
        "none": lambda size: 1.0,
        "1 / √head_size": lambda size: size**-0.5,
        "1 / √n_embd, n_embd = 384": lambda size: 384**-0.5,
    }
    head_size = widgets.SelectionSlider(options=sizes, value=64, description="head_size", **_wide())
    scale = widgets.Dropdown(options=list(scales), value="none", description="Scale", **_wide())
    line, picture = widgets.HTML(), widgets.HTML()

    def draw(_: object = None) -> None:
        size = head_size.value
        weights = (k[:, :size] @ q[:size] * scales[scale.value](size)).softmax(-1)  # (8,)
        entropy = torch.special.entr(weights).sum()
        title = f"The largest of 8 weights is {weights.max():.2f}"
        _say(line, f"Entropy {entropy:.2f} of at most 2.08 nats: {entropy.exp():.1f} keys share the attention.")
        canvas, axes = figure(width=5.5, height=2.6)
        weight_bars(weights, title, ax=axes[0, 0])
        picture.value = _picture(canvas, f"Bars of 8 attention weights. {title}.")

    _on_change(draw, head_size, scale)
    draw()
    return widgets.VBox([head_size, scale, line, picture])


# ---- what the widgets share ----------------------------------------------------------------------------------------


def _wide() -> dict[str, object]:
    """A control whose label is never cut off."""
    return {"style": {"description_width": "8em"}, "layout": {"width": "auto", "max_width": "36em"}}


def _slider(name: str, count: int) -> widgets.IntSlider:
    """Choose one of `count`, numbered from 0; dead where there is only one."""
    return widgets.IntSlider(0, 0, count - 1, description=name, continuous_update=False, disabled=count == 1)


def _on_change(draw: Callable[[object], None], *controls: widgets.Widget) -> None:
    for control in controls:
        control.observe(draw, names="value")


def _say(line: widgets.HTML, message: object) -> None:
    """One line, or nothing; an error gets a word in front and is read out at once."""
    words = html.escape(" ".join(str(message).split()))
    if isinstance(message, Exception):
        name = "" if isinstance(message, ValueError) else f"{type(message).__name__}: "
        words = f'<span role="alert"><b>Please check:</b> {name}{words}.</span>'
    line.value = words


def _page(prompt: str, written: str) -> str:
    """The prompt in bold and what was written after it, in the colors of the notebook."""
    return (
        '<pre role="log" aria-label="The text so far" tabindex="0" style="white-space: pre-wrap; color: inherit; '
        f'background: transparent; line-height: 1.4"><b>{html.escape(prompt)}</b>{html.escape(written)}</pre>'
    )


def _picture(drawn: Figure, alt: str) -> str:
    """A figure as HTML with an alt text; the figure is closed, so that the notebook does not show it twice."""
    data = io.BytesIO()
    with style():
        drawn.savefig(data, format="png")
    plt.close(drawn)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{encoded}">'


def _check_vocabulary(model: LanguageModel, tokenizer: CharTokenizer) -> None:
    size = model.config.vocab_size
    if size != tokenizer.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} symbols, but the model's vocab_size is {size}: "
            "pass the tokenizer the model was trained with"
        )
