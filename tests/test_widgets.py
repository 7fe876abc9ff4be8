"""The widgets: what a reader sees after a click, a slider or a wrong input; one test clicks in a real kernel."""

import base64
import contextlib
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import ipywidgets as widgets
import matplotlib
import pytest
import torch

from minigpt import GPT, BigramLanguageModel, CharTokenizer, GPTConfig, MultiHeadAttention, generate
from minigpt.view import plots
from minigpt.view import widgets as ours
from minigpt.view.widgets import head_browser, sampler, softmax_saturation

matplotlib.use("Agg")
TOKENIZER = CharTokenizer("\n !<>&:abcdefgh")


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    sizes = GPTConfig(TOKENIZER.vocab_size, block_size=8, n_embd=8, n_head=2, n_layer=3, dropout=0.5)
    model = GPT(sizes)
    for parameter in model.parameters():  # larger weights, so that heads and symbols differ
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def everything(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


def control(widget: widgets.Widget, name: str) -> Any:
    """The control whose label begins with `name`, as a reader finds it."""
    found = [w for w in everything(widget) if getattr(w, "description", "").startswith(name)]
    assert len(found) == 1, f"{len(found)} controls are called {name}"
    return found[0]


def shown(widget: widgets.Widget) -> str:
    """All the HTML in the widget."""
    return "".join(w.value for w in everything(widget) if isinstance(w, widgets.HTML))


def text_of(widget: widgets.Widget) -> str:
    """The prompt and what was written after it, without the markup."""
    page = re.search(r"<pre[^>]*><b>(.*?)</b>(.*?)</pre>", shown(widget), re.DOTALL)
    assert page, "no text is shown"
    return "".join(page.groups()).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def wait(button: widgets.Button, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while button.description != "Generate":
        assert time.monotonic() < end, "it never ended"
        time.sleep(0.005)


def write(widget: widgets.Widget) -> str:
    button = control(widget, "Generate")
    button.click()
    wait(button)
    return text_of(widget)


# ---- sampler -------------------------------------------------------------------------------------------------------


def test_a_prompt_edited_meanwhile_is_not_shown(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = sampler(model, TOKENIZER, "ab", symbols=5)
    prompt = control(widget, "Prompt")

    def stream(*inputs: Any) -> Iterator[torch.Tensor]:
        prompt.value = "gh"
        yield TOKENIZER.encode("c")

    monkeypatch.setattr(ours, "stream", stream)
    assert write(widget) == "abc"
    assert prompt.value == "gh"


def test_a_model_that_cannot_be_copied_is_answered_in_one_line(model: GPT) -> None:
    widget = sampler(model, TOKENIZER, "a")
    model.kept = model.head.weight * 2  # a result that a hook kept, with its gradient
    button = control(widget, "Generate")
    button.click()
    assert button.description == "Generate"
    assert 'role="alert"' in shown(widget)
    del model.kept
    assert write(widget).startswith("a")


def test_nothing_runs_before_the_click(model: GPT) -> None:
    assert "<pre" not in shown(sampler(model, TOKENIZER))


def test_the_text_is_that_of_generate(model: GPT) -> None:
    widget = sampler(model, TOKENIZER, "ab", symbols=30, temperature=0.7)
    control(widget, "Top-k").value = 5
    control(widget, "Top-p").value = 0.9
    control(widget, "Seed").value = 3
    idx = TOKENIZER.encode("ab")[None]
    expected = generate(model, idx, 30, 0.7, 5, 0.9, torch.Generator().manual_seed(3))[0]
    assert write(widget) == TOKENIZER.decode(expected)
    assert write(widget) == TOKENIZER.decode(expected), "the same seed writes the same text again"


@pytest.mark.parametrize(("name", "value"), [("Temperature", 2.0), ("Top-k", 1), ("Top-p", 0.05), ("Seed", 9)])
def test_every_control_acts(model: GPT, name: str, value: float) -> None:
    widget = sampler(model, TOKENIZER, "a", symbols=40)
    before = write(widget)
    control(widget, name).value = value
    assert write(widget) != before


def test_length_and_temperature_zero(model: GPT) -> None:
    widget = sampler(model, TOKENIZER, "a", symbols=12)
    assert len(write(widget)) == 13
    control(widget, "Symbols").value = 5
    control(widget, "Temperature").value = 0
    greedy = generate(model, TOKENIZER.encode("a")[None], 5, temperature=0)[0]
    assert write(widget) == TOKENIZER.decode(greedy)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("aé", "Please check.*the symbol &#x27;é&#x27; at position 1 .* is not in the vocabulary"),
        ("", "Please check.*the prompt is empty"),
    ],
)
def test_a_wrong_prompt_is_answered_in_one_line(model: GPT, prompt: str, message: str) -> None:
    widget = sampler(model, TOKENIZER)
    control(widget, "Prompt").value = prompt
    button = control(widget, "Generate")
    button.click()
    wait(button)
    assert re.search(message, shown(widget))
    assert 'role="alert"' in shown(widget)
    assert "\n" not in shown(widget), "one line"
    assert "<pre" not in shown(widget)
    control(widget, "Prompt").value = "a"
    assert write(widget)
    assert "Please check" not in shown(widget), "the message goes when the fault is mended"


def test_a_prompt_longer_than_the_block_is_said_and_used(model: GPT) -> None:
    widget = sampler(model, TOKENIZER, "abcdefghab", symbols=5)
    assert write(widget).startswith("abcdefghab")
    assert "The prompt is 2 symbols longer than the model can see" in shown(widget)
    control(widget, "Prompt").value = "abcdefgh"
    write(widget)
    assert "longer" not in shown(widget)


def test_markup_in_the_text_is_shown_and_not_obeyed(model: GPT) -> None:
    widget = sampler(model, TOKENIZER, "a", symbols=1)
    control(widget, "Prompt").value = "<b>&"
    assert write(widget).startswith("<b>&")
    assert "&lt;b&gt;&amp;" in shown(widget)
    model.head.bias.data[TOKENIZER.symbols.index("<")] = 100.0
    assert write(widget) == "<b>&<"
    assert "&lt;b&gt;&amp;</b>&lt;</pre>" in shown(widget)


def test_any_model_of_the_book_can_write() -> None:
    assert len(write(sampler(BigramLanguageModel(TOKENIZER.vocab_size), TOKENIZER, "a", symbols=20))) == 21


def test_a_fault_of_the_model_is_said(model: GPT) -> None:
    torch.nn.init.constant_(model.head.weight, float("nan"))
    widget = sampler(model, TOKENIZER, "a")
    button = control(widget, "Generate")
    button.click()
    wait(button)
    assert "logits are not finite" in shown(widget)


class Slow(BigramLanguageModel):
    """A model that waits for a permit before each symbol."""

    permits = threading.Semaphore(0)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        self.permits.acquire(timeout=10)
        return super().forward(idx)


def test_the_text_streams_and_the_button_stops(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "REFRESH", 0.0)
    slow = Slow(TOKENIZER.vocab_size)
    widget = sampler(slow, TOKENIZER, "a", symbols=100)
    button = control(widget, "Generate")
    button.click()
    assert button.description == "Stop", "the click returns at once, while the text is still to come"
    for length in (2, 3, 4):
        Slow.permits.release()
        end = time.monotonic() + 10
        while "<pre" not in shown(widget) or len(text_of(widget)) < length:
            assert time.monotonic() < end, f"symbol {length - 1} did not appear while the next one was pending"
            time.sleep(0.002)
        assert len(text_of(widget)) == length
        assert slow.training, "what writes is a copy: another cell may be training the model"
    button.click()
    Slow.permits.release()
    wait(button)
    assert len(text_of(widget)) == 5
    control(widget, "Symbols").value = 3
    Slow.permits.release(3)
    assert len(write(widget)) == 4, "after a stop it can write again"


def test_the_model_itself_is_left_alone(model: GPT) -> None:
    """The reader may train while the widget writes: it holds a copy, taken at the click."""
    model.train()
    widget = sampler(model, TOKENIZER, "a", symbols=20)
    before = write(widget)
    assert model.training
    assert all(module.training for module in model.modules())
    torch.nn.init.constant_(model.head.weight, 0.0)
    torch.nn.init.constant_(model.head.bias, 0.0)
    model.head.bias.data[3] = 100.0
    assert set(write(widget)[1:]) == {TOKENIZER.symbols[3]} != set(before), "the copy is of the model as it is now"


# ---- head_browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, str, str]]:
    """What was handed to `attention_map`: weights, symbols, title."""
    calls: list[tuple[torch.Tensor, str, str]] = []

    def spy(weights: torch.Tensor, symbols: str, title: str, **more: Any) -> Any:
        calls.append((weights, symbols, title))
        return plots.attention_map(weights, symbols, title, **more)

    monkeypatch.setattr(ours, "attention_map", spy)
    return calls


def test_the_map_is_of_the_head_that_was_chosen(model: GPT, drawn: list) -> None:
    weights = model.attention(TOKENIZER.encode("abcab")[None])  # (n_layer, 1, n_head, T, T)
    widget = head_browser(model, TOKENIZER, "abcab")
    control(widget, "Layer").value = 2
    control(widget, "Head").value = 1
    chosen = [(0, 0), (2, 0), (2, 1)]
    assert len(drawn) == len(chosen)
    for (layer, head), (picture, symbols, title) in zip(chosen, drawn, strict=True):
        assert torch.equal(picture, weights[layer, 0, head])
        assert symbols == "abcab"
        distance = sum(picture[i, j].item() * (i - j) for i in range(5) for j in range(5)) / 5
        assert title == f"Layer {layer}, head {head} looks {distance:.1f} symbols back on average"


def test_the_picture_is_a_png_with_an_alt_text(model: GPT) -> None:
    before = matplotlib.pyplot.get_fignums()  # what other tests left
    widget = head_browser(model, TOKENIZER, "abc")
    alt, data = re.search(r'<img alt="([^"]*)".*base64,([^"]*)"', shown(widget)).groups()  # type: ignore[union-attr]
    assert alt.startswith("Heat map of 3 by 3 attention weights. Layer 0, head 0 looks ")
    png = base64.b64decode(data)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert min(width, height) > 300
    assert matplotlib.pyplot.get_fignums() == before, "the figure is closed"


def test_the_sliders_cover_every_head(model: GPT) -> None:
    widget = head_browser(model, TOKENIZER, "abc")
    for name, count in (("Layer", 3), ("Head", 2)):
        slider = control(widget, name)
        assert (slider.min, slider.max, slider.value, slider.disabled) == (0, count - 1, 0, False)
    one = GPT(GPTConfig(TOKENIZER.vocab_size, 8, 8, n_head=1, n_layer=1))
    assert all(control(head_browser(one, TOKENIZER, "abc"), name).disabled for name in ("Layer", "Head"))


def test_a_change_of_the_text_or_the_model_is_drawn(model: GPT, drawn: list) -> None:
    widget = head_browser(model, TOKENIZER, "abc")
    control(widget, "Text").value = "hg"
    assert drawn[-1][1] == "hg"
    torch.nn.init.constant_(model.blocks[0].attention.qkv.weight, 0.0)
    control(widget, "Head").value = 1
    assert drawn[-1][0].tolist() == [[1.0, 0.0], [0.5, 0.5]], "the model as it is now"


@pytest.mark.parametrize(("text", "message"), [("aé", "the symbol &#x27;é&#x27;"), ("", "the text is empty")])
def test_a_wrong_text_is_answered_in_one_line(model: GPT, text: str, message: str) -> None:
    widget = head_browser(model, TOKENIZER, "abc")
    control(widget, "Text").value = text
    assert message in shown(widget)
    assert "<img" not in shown(widget), "no picture of something else stays beside the message"
    control(widget, "Text").value = "abc"
    assert "<img" in shown(widget)
    assert "Please check" not in shown(widget)


def test_a_text_longer_than_the_block_is_cut_and_said(model: GPT, drawn: list) -> None:
    widget = head_browser(model, TOKENIZER, "abcdefghab")
    assert drawn[-1][1] == "abcdefgh"
    assert "The model sees 8 symbols at once; 2 more are left out." in shown(widget)


def test_dropout_is_off_and_the_mode_restored(model: GPT, drawn: list) -> None:
    model.train()
    head_browser(model, TOKENIZER, "abcdefgh")
    assert model.training
    assert torch.allclose(drawn[-1][0].sum(-1), torch.ones(8))


# ---- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sampler, lambda model, tokenizer: head_browser(model, tokenizer, "abc")])
def test_every_control_has_a_label_and_the_vocabularies_agree(make: Any, model: GPT) -> None:
    for widget in everything(make(model, TOKENIZER)):
        if not isinstance(widget, widgets.HTML | widgets.Box):
            assert widget.description.strip(), f"{type(widget).__name__} has no label"
    with pytest.raises(ValueError, match="the tokenizer has 2 symbols, but the model's vocab_size is 15"):
        make(model, CharTokenizer("ab"))


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(TypeError, match="a BigramLanguageModel has no attention to look at"):
        head_browser(BigramLanguageModel(15), TOKENIZER, "abc")  # type: ignore[arg-type]
    own = BigramLanguageModel(15)  # a model of a reader's own, whose attention is a layer, as in chapter 5
    own.attention = MultiHeadAttention(8, 2)
    with pytest.raises(TypeError, match="has no attention to look at"):
        head_browser(own, TOKENIZER, "abc")  # type: ignore[arg-type]


KERNEL_CODE = """
import time
from minigpt import BigramLanguageModel, CharTokenizer
from minigpt.view.widgets import sampler
class Slow(BigramLanguageModel):
    def forward(self, idx):
        time.sleep(0.01)
        return super().forward(idx)
widget = sampler(Slow(2), CharTokenizer("ab"), "a", symbols=10_000)
"""


def test_stop_reaches_a_real_kernel_while_it_writes() -> None:
    """Clicks sent as the browser sends them: text comes at once, and the second click ends what would last 100 s."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")

    def until(kind: str, seen: Any, seconds: float = 30.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Empty):
                message = client.get_iopub_msg(timeout=1)
                assert message["msg_type"] != "error", message["content"]
                if message["msg_type"] == kind and seen(message["content"]):
                    return message["content"]
        raise AssertionError(f"no such {kind} in {seconds:.0f} s")

    def click(button: str) -> None:
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        client.shell_channel.send(client.session.msg("comm_msg", content))

    def state(content: dict[str, Any]) -> dict[str, Any]:
        return content["data"].get("state", {})

    try:
        client.execute(KERNEL_CODE)
        button = until("comm_open", lambda c: state(c).get("_model_name") == "ButtonModel")["comm_id"]
        until("status", lambda c: c["execution_state"] == "idle")
        click(button)
        until("comm_msg", lambda c: "<pre" in str(state(c).get("value", "")))
        click(button)
        until("comm_msg", lambda c: state(c).get("description") == "Generate")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_kernel_that_ends_while_it_writes_ends_quietly() -> None:
    code = KERNEL_CODE + "widget.children[5].click()\ntime.sleep(0.3)\nassert widget.children[5].description == 'Stop'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_softmax_saturates_only_without_the_scale() -> None:
    widget = softmax_saturation()
    size, scale = control(widget, "head_size"), control(widget, "Scale")
    size.value = 1024
    assert largest(shown(widget)) > 0.99
    scale.value = "1 / √head_size"
    assert largest(shown(widget)) < 0.6
    assert "of at most 2.08 nats" in shown(widget)
    size.value = 384 // 6
    fair = shown(widget)
    scale.value = "1 / √n_embd, n_embd = 384"
    assert entropy(shown(widget)) > entropy(fair)


def largest(page: str) -> float:
    found = re.search(r"The largest of 8 weights is (\d\.\d+)", page)
    assert found
    return float(found[1])


def entropy(page: str) -> float:
    found = re.search(r"Entropy ([\d.]+)", page)
    assert found
    return float(found[1])
