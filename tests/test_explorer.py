"""The explorer's HTML: true weights, safe text, small, always the same. See also browser/test_browser_explorer.py."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt import GPT, BigramLanguageModel, CharTokenizer, GPTConfig, MultiHeadAttention
from minigpt.view.explorer import TABLE, AttentionExplorer, attention_explorer, to_units, visible

HOSTILE = ["<s>", "</script>", "<!--", "]]>", "\"'`&amp;", "\u2028", "\u2029", "\\", "${x}", "\x00", "\ud800", ""]


def data_of(explorer: AttentionExplorer) -> dict[str, Any]:
    """What the script is handed, read back from the HTML."""
    call = re.search(r'\("[0-9a-f]{12}", (\{.*\})\);</script>$', explorer._repr_html_(), re.DOTALL)
    assert call
    return json.loads(call[1])


def weights_of(explorer: AttentionExplorer) -> Tensor:
    """The weights as the script decodes them, (n_layer, n_head, T, T)."""
    data = data_of(explorer)
    T, raw = len(data["labels"]), base64.b64decode(data["weights"])
    values = torch.tensor(memoryview(raw).cast("H" if data["unit"] > 255 else "B").tolist()) / data["unit"]
    if not data["causal"]:
        return values.view(data["layers"], data["heads"], T, T)
    full = torch.zeros(data["layers"], data["heads"], T, T)
    full[..., *torch.tril_indices(T, T)] = values.view(data["layers"], data["heads"], -1)
    return full


class Reader(html.parser.HTMLParser):
    """The tags of a piece of HTML, with the text of each table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and self.tags[-1][0] in ("td", "th"):
            self.cells[-1] += data


def causal(*shape: int) -> Tensor:
    """Random weights of attention, (*shape, T, T) with T the last of `shape`."""
    scores = torch.randn(*shape, shape[-1])
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) == 1, float("-inf")).softmax(-1)


@pytest.fixture
def letters() -> CharTokenizer:
    return CharTokenizer("abcdefghijk")  # as many symbols as small_gpt knows


def test_weights_are_those_of_the_model(small_gpt: GPT, letters: CharTokenizer) -> None:
    text = "abcdefghijkabcde"  # block_size symbols
    explorer = attention_explorer(small_gpt, letters, text)
    theirs = small_gpt.attention(letters.encode(text)[None])[:, 0]
    ours = weights_of(explorer)
    assert ours.shape == theirs.shape == (2, 4, 16, 16)
    assert (ours - theirs).abs().max() < 1 / data_of(explorer)["unit"]
    torch.testing.assert_close(ours.sum(-1), torch.ones(2, 4, 16))


@pytest.mark.parametrize(("T", "unit"), [(45, 65535), (46, 255), (64, 255)])
def test_weights_are_stored_within_a_unit(T: int, unit: int) -> None:
    """Many weights in a byte each, few in two; the rows of either add up to 1."""
    weights = causal(2, 2, T)
    explorer = AttentionExplorer(weights, "x" * T)
    assert data_of(explorer)["unit"] == unit
    assert (weights_of(explorer) - weights).abs().max() < 1 / unit
    torch.testing.assert_close(weights_of(explorer).sum(-1), torch.ones(2, 2, T))


@pytest.mark.parametrize("row", [[1.0], [0.5, 0.5], [1 / 3] * 3, [1 / 300] * 300, [0.999, 0.001], [1e-9, 1 - 1e-9]])
def test_units_of_a_row_add_up(row: list[float]) -> None:
    for unit in (255, 65535):
        units = to_units(torch.tensor(row), unit)
        assert units.sum() == unit
        assert (units / unit - torch.tensor(row)).abs().max() < 1 / unit


def test_weights_of_other_shapes() -> None:
    """One head, one layer, or weights that see the future too."""
    one = causal(5)
    assert torch.allclose(weights_of(AttentionExplorer(one, "abcde"))[0, 0], one, atol=1e-4)
    assert weights_of(AttentionExplorer(causal(3, 5), "abcde")).shape == (1, 3, 5, 5)
    both = torch.randn(2, 5, 5).softmax(-1)
    explorer = AttentionExplorer(both, "abcde")
    assert not data_of(explorer)["causal"]
    assert torch.allclose(weights_of(explorer)[0], both, atol=1e-4)


def test_predictions_are_those_of_the_model(small_gpt: GPT, letters: CharTokenizer) -> None:
    small_gpt.train()
    text = "kjihgfedcba"
    guesses = data_of(attention_explorer(small_gpt, letters, text))["next"]
    assert small_gpt.training, "the mode must be restored"
    small_gpt.eval()
    chances = small_gpt(letters.encode(text)[None])[0].softmax(-1)
    for position, best in enumerate(guesses):
        assert len(best) == 5
        ids = [letters.symbols.index(symbol) for symbol, _ in best]
        assert ids == chances[position].topk(5).indices.tolist()
        assert [p for _, p in best] == pytest.approx(chances[position, ids].tolist(), abs=6e-5)


def test_the_start_can_be_chosen(small_gpt: GPT, letters: CharTokenizer) -> None:
    assert data_of(attention_explorer(small_gpt, letters, "abc"))["start"] == [0, 0, 2]
    assert data_of(attention_explorer(small_gpt, letters, "abc", layer=1, head=3, position=1))["start"] == [1, 3, 1]
    assert data_of(attention_explorer(small_gpt, letters, "abc", head=None))["start"] == [0, 4, 2], "the mean is last"
    assert data_of(AttentionExplorer(torch.eye(3), "abc", head=None))["start"] == [0, 0, 2], "one head is its own mean"


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_symbols_are_only_text(label: str) -> None:
    """No symbol ends the script, opens a tag or adds one; each arrives as it is shown."""
    weights = causal(3)
    explorer = AttentionExplorer(weights, [label, "a", label], [[(label, 1.0)]] * 3, title=label)
    page = explorer._repr_html_()
    plain = AttentionExplorer(weights, "aaa", [[("a", 1.0)]] * 3, title="a")._repr_html_()
    names = [tag for tag, _ in Reader(page).tags]
    assert names == [tag for tag, _ in Reader(plain).tags]
    assert page.lower().count("</script") == page.lower().count("<script") == 1
    assert "<!--" not in page
    assert not re.search("[\u2028\u2029\x00\ud800]", page)
    assert page.encode()
    data = data_of(explorer)
    assert data["labels"] == [visible(label), "a", visible(label)]
    assert data["next"][0] == [[visible(label), 1.0]]
    assert data["title"] == explorer.title
    assert Reader(page).cells[1] == visible(label)


def test_a_title_that_asks_gets_no_second_stop() -> None:
    titles = {"Why?": "Why? One head", "So": "So. One head"}
    for title, text in titles.items():
        assert text in AttentionExplorer(torch.eye(2), "ab", title=title)._repr_html_()


def test_no_symbol_is_invisible() -> None:
    assert visible(" ") == "␣"
    assert visible("a\n") == "a⏎"
    assert visible("\u2028") == r"\u2028"
    assert visible("é") == "é"
    assert visible("") == "∅"


def test_it_is_small() -> None:
    """64 symbols x 4 layers x 4 heads; even in the worst case, where each weight needs its color."""
    for weights in (causal(4, 4, 64), torch.ones(4, 4, 64, 64).tril() / torch.arange(1.0, 65)[:, None]):
        guesses = [[("x", 0.1234)] * 5] * 64
        page = AttentionExplorer(weights, "x" * 64, guesses)._repr_html_()
        assert len(page.encode()) < 125_000


def test_it_stands_alone() -> None:
    """No address, no import, no name left behind, no id that a second one could share."""
    page = AttentionExplorer(causal(4), "abcd")._repr_html_()
    assert not re.search(r"https?:|@import|url\(|\bsrc=|\bhref=|fetch\(|import\(|window\.\w+ *=|\bid=", page)
    assert not re.search(r"hsl|rgb", page), "JupyterLab's sanitizer drops such colors"
    assert re.search(r"<script>/\*.*?\*/\s*\(function", page, re.DOTALL), "everything is inside one function"


def test_it_is_the_same_every_time(small_gpt: GPT, letters: CharTokenizer) -> None:
    one, two = (attention_explorer(small_gpt, letters, "abcabc") for _ in range(2))
    assert one._repr_html_() == two._repr_html_()
    assert repr(one) == "AttentionExplorer(2 layers, 4 heads, 6 symbols)"
    assert repr(AttentionExplorer(torch.ones(1, 1), "a")) == "AttentionExplorer(1 layer, 1 head, 1 symbol)"
    other = attention_explorer(small_gpt, letters, "abcabd")

    def key(page: str) -> str:
        return re.search('data-explorer="([0-9a-f]+)"', page)[1]  # type: ignore[index]

    assert key(one._repr_html_()) != key(other._repr_html_())


def test_the_table_shows_one_head() -> None:
    """For readers without scripts: the symbols on both axes, percent from a tenth on, a color for each weight."""
    weights = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0.04, 0.06, 0.9]], torch.eye(3).tolist()])
    reader = Reader(AttentionExplorer(weights, ["a", " ", "<"])._repr_html_())
    assert reader.cells == ["", "a", "␣", "<", "a", "100", "␣", "50", "50", "<", "", "", "90"]
    colors = [attributes.get("bgcolor") for tag, attributes in reader.tags if tag == "td"][1:]
    assert all(re.fullmatch("#[0-9a-f]{3}|#[0-9a-f]{6}", color or "") for color in colors)
    assert colors[0] != colors[1] == colors[2] != colors[3]
    other = Reader(AttentionExplorer(weights, "abc", head=1)._repr_html_())
    assert other.cells[4:] == ["a", "100", "b", "", "100", "c", "", "", "100"]
    mean = Reader(AttentionExplorer(weights, "abc", head=None)._repr_html_())
    assert mean.cells[4:] == ["a", "100", "b", "25", "75", "c", "", "", "95"]


def test_a_long_text_has_a_short_table() -> None:
    page = AttentionExplorer(torch.eye(TABLE + 20), "x" * (TABLE + 20))._repr_html_()
    assert f"The first {TABLE} of {TABLE + 20} symbols." in page
    assert sum(tag == "tr" for tag, _ in Reader(page).tags) == TABLE + 1


def test_errors_of_a_model(small_gpt: GPT, letters: CharTokenizer) -> None:
    attention_explorer(small_gpt, letters, "a" * 16)
    with pytest.raises(ValueError, match=r"the text has 17 symbols, but block_size is 16: cut it, text\[:16\]"):
        attention_explorer(small_gpt, letters, "a" * 17)
    with pytest.raises(ValueError, match="the text is empty"):
        attention_explorer(small_gpt, letters, "")
    with pytest.raises(ValueError, match="'z' at position 1"):
        attention_explorer(small_gpt, letters, "az")
    with pytest.raises(ValueError, match="the tokenizer has 3 symbols, the model 11"):
        attention_explorer(small_gpt, CharTokenizer("abc"), "a")
    with pytest.raises(TypeError, match=r"BigramLanguageModel has no attention.*AttentionExplorer\(weights, labels\)"):
        attention_explorer(BigramLanguageModel(11), letters, "a")
    own = BigramLanguageModel(11)  # a model of a reader's own, whose attention is a layer, as in chapter 5
    own.attention = MultiHeadAttention(8, 2)
    with pytest.raises(TypeError, match=r"has no attention\(idx\)"):
        attention_explorer(own, letters, "a")


@pytest.mark.parametrize(
    ("weights", "labels", "options", "message"),
    [
        (torch.ones(3), "a", {}, r"shape \(3,\): they must be"),
        (torch.ones(2, 3), "ab", {}, "they must be"),
        (torch.zeros(0, 0), "", {}, "they must be"),
        (torch.eye(3), "ab", {}, "2 labels, but the weights are for 3"),
        (torch.ones(2, 2), "ab", {}, "row 0 of layer 0, head 0 adds up to 2 .*before dropout"),
        (torch.tensor([[1.0, 0.0], [1.5, -0.5]]), "ab", {}, "row 1 .* negative"),
        (torch.full((2, 2), float("nan")), "ab", {}, "adds up to nan"),
        (torch.eye(2), "ab", {"layer": 1}, "layer is 1: it must be a whole number from 0 to 0"),
        (torch.eye(2), "ab", {"head": -1}, "head is -1"),
        (torch.eye(2), "ab", {"position": 2}, "position is 2"),
        (torch.eye(2), "ab", {"predictions": [[("a", 1.0)]]}, "predictions for 1 positions, but 2 symbols"),
    ],
)
def test_errors_of_weights(weights: Tensor, labels: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionExplorer(weights, labels, **options)


def test_half_precision_and_gradients_are_no_obstacle() -> None:
    weights = causal(2, 8).bfloat16().requires_grad_()
    assert weights_of(AttentionExplorer(weights, "abcdefgh")).shape == (1, 2, 8, 8)


def test_a_vocabulary_smaller_than_the_list() -> None:
    model = GPT(GPTConfig(vocab_size=2, block_size=4, n_embd=8, n_head=1, n_layer=1))
    assert all(len(best) == 2 for best in data_of(attention_explorer(model, CharTokenizer("ab"), "abab"))["next"])


def test_a_page_of_its_own(tmp_path: Any) -> None:
    path = tmp_path / "inside.html"
    AttentionExplorer(torch.eye(2), "ab", title="<Two> & two").save(path)
    page = path.read_text("utf8")
    assert page.startswith('<!doctype html><html lang="en">')
    assert "<title>&lt;Two&gt; &amp; two</title>" in page
    assert page.count("<title>") == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inside.html"
    path.write_text("old", "utf8")

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.run.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        AttentionExplorer(torch.eye(2), "ab").save(path)
    assert [(file.name, file.read_text("utf8")) for file in tmp_path.iterdir()] == [("inside.html", "old")]


def test_script_and_style_are_in_the_package(tmp_path: Any) -> None:
    """They are read from beside the module, wherever Python was started."""
    code = "import torch; from minigpt.view import explorer as e; "
    code += "print(len(e.AttentionExplorer(torch.eye(2), 'ab')._repr_html_()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000
