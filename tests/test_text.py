"""Chapter 1: symbols to ids and back, where the text comes from, the split, batches."""

import hashlib
from pathlib import Path

import pooch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minigpt.text
from minigpt import CharTokenizer, get_batch, load_text, split, standin
from minigpt.text import get_batch_in_turn

# ── the tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.text(min_size=1))
def test_decoding_what_was_encoded_gives_the_text_back(text):
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == torch.long
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.vocab_size == len(set(text)) == int(ids.max()) + 1


def test_ids_follow_the_sorted_order():
    tokenizer = CharTokenizer("banana")
    assert tokenizer.symbols == "abn"
    assert tokenizer.encode("nab").tolist() == [2, 0, 1]
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer == CharTokenizer("nab")
    assert tokenizer != CharTokenizer("na")
    assert repr(tokenizer) == "CharTokenizer(3 symbols: 'abn')"


def test_an_unknown_symbol_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"'Z' at position 6 \(line 3\) is not in the vocabulary of 4 symbols"):
        CharTokenizer("abc\n").encode("ab\nc\nbZ")


def test_the_first_of_several_unknown_symbols_is_named():
    with pytest.raises(ValueError, match=r"'Q' at position 1"):
        CharTokenizer("ab").encode("aQbZ")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 7], "id 7 at position 1"),
        ([-1], "id -1 at position 0"),
        (torch.zeros(2, 2, dtype=torch.long), "one row"),
        (torch.zeros(2), "whole numbers"),
        ([0, 0.5], "whole numbers: 'float' object"),
    ],
)
def test_decoding_nonsense_says_what_is_wrong(ids, message):
    with pytest.raises(ValueError, match=message):
        CharTokenizer("abc").decode(ids)


def test_an_empty_text_has_no_vocabulary():
    with pytest.raises(ValueError, match="the text is empty"):
        CharTokenizer("")


# ── where the text comes from ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nowhere(monkeypatch, tmp_path, clean_environment):
    """A machine with no copy of the text: no checkout, an empty cache. The sum expected is that of 'To be.'"""
    monkeypatch.setattr(minigpt.text, "__file__", str(tmp_path / "site" / "minigpt" / "text.py"))
    monkeypatch.setattr(minigpt.text, "SHA256", hashlib.sha256(b"To be.").hexdigest())
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    return tmp_path


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Lets pooch 'download' bytes given by the test; an exception breaks the line half way."""

    def serve(answer: bytes | Exception) -> None:
        class Downloader:
            def __init__(self, **settings):
                assert settings["progressbar"] is True

            def __call__(self, url, output_file, pooch):
                assert url in (Path(__file__).parents[1] / "data" / "README.md").read_text("utf8")
                Path(output_file).write_bytes(answer if isinstance(answer, bytes) else b"To")
                if isinstance(answer, Exception):
                    raise answer

        monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)

    return serve


def put(folder: Path, text: str = "To be.") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tinyshakespeare.txt").write_text(text)


def test_the_places_are_searched_in_order(nowhere, server, monkeypatch):
    server(b"To be.")
    assert load_text() == "To be."  # downloaded …
    server(ConnectionError("no network"))
    assert load_text() == "To be."  # … once: now it is in the cache
    put(nowhere / "site" / "data")
    put(nowhere / "cache", "spoiled")
    assert load_text() == "To be."  # the checkout, before the cache
    put(nowhere / "folder")
    put(nowhere / "site" / "data", "spoiled")
    monkeypatch.setenv("MINIGPT_DATA", str(nowhere / "folder"))
    assert load_text() == "To be."  # the folder named by the variable, before the checkout
    (nowhere / "mine.txt").write_text("My own words.")
    assert load_text(nowhere / "mine.txt") == "My own words."  # an explicit path: any text
    assert load_text(nowhere / "folder") == "To be."


@pytest.mark.parametrize(
    "answer", [b"<html>Access denied</html>", ConnectionError("line cut")], ids=["a proxy's page", "half a download"]
)
def test_a_bad_download_is_never_kept(nowhere, server, capsys, answer):
    server(answer)
    text = load_text()
    assert text == standin.generate_play()
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("minigpt:")] == lines[-1:]
    assert "stand-in" in lines[-1]
    assert "MINIGPT_DATA" in lines[-1]
    kept = [file for file in (nowhere / "cache").rglob("*") if file.is_file()] if (nowhere / "cache").exists() else []
    assert kept == []


def test_a_wrong_copy_is_refused(nowhere, monkeypatch):
    put(nowhere / "folder", "To be?")
    monkeypatch.setenv("MINIGPT_DATA", str(nowhere / "folder"))
    with pytest.raises(ValueError, match="is not Tiny Shakespeare"):
        load_text()


def test_a_missing_file_says_where_it_was_looked_for(nowhere, monkeypatch):
    monkeypatch.setenv("MINIGPT_DATA", str(nowhere / "empty"))
    with pytest.raises(FileNotFoundError, match="empty"):
        load_text()
    with pytest.raises(FileNotFoundError, match=r"no\.txt"):
        load_text(nowhere / "no.txt")


def test_the_mark_that_some_editors_put_first_is_no_symbol(tmp_path):
    (tmp_path / "notepad.txt").write_text("ab\r\n", "utf-8-sig", newline="")
    assert load_text(tmp_path / "notepad.txt") == "ab\n"


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_text(tmp_path / "picture.png")


def test_the_text_of_the_book_has_its_size(book_text):
    assert len(book_text) == 1_115_394
    assert CharTokenizer(book_text).symbols == standin.SYMBOLS
    assert len(standin.SYMBOLS) == 65


# ── split and batches ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_nine_tenths_are_for_training():
    train_ids, val_ids = split(torch.arange(1_115_394))
    assert len(train_ids) == 1_003_854
    assert len(val_ids) == 111_540
    assert val_ids[0] == train_ids[-1] + 1
    assert len(split(torch.arange(100), 0.25)[0]) == 25


@pytest.mark.parametrize(("n", "fraction", "message"), [(10, 1.0, "between 0 and 1"), (1, 0.9, "one part empty")])
def test_a_split_with_an_empty_part_is_refused(n, fraction, message):
    with pytest.raises(ValueError, match=message):
        split(torch.arange(n), fraction)


@given(st.integers(2, 60), st.integers(1, 59), st.integers(1, 9), st.integers(0, 2**31))
def test_targets_are_always_the_inputs_one_symbol_later(n, block_size, batch_size, seed):
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) * 3
    generator = torch.Generator().manual_seed(seed)
    if n <= block_size:
        with pytest.raises(ValueError, match=f"{n} symbols, but a block of {block_size} needs at least"):
            get_batch(ids, batch_size, block_size, generator)
        return
    idx, targets = get_batch(ids, batch_size, block_size, generator)
    assert idx.shape == targets.shape == (batch_size, block_size)
    for row, row_targets in zip(idx, targets, strict=True):
        start = ids.tolist().index(int(row[0]))
        assert torch.equal(row, ids[start : start + block_size])
        assert torch.equal(row_targets, ids[start + 1 : start + block_size + 1])


def test_every_offset_can_be_drawn_and_none_beyond():
    idx, targets = get_batch(torch.arange(10), 1000, 7, torch.Generator().manual_seed(0))
    assert idx[:, 0].unique().tolist() == [0, 1, 2]  # 10 - 7 offsets: the last block ends with the last symbol
    assert targets.max() == 9


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 5))
def test_in_turn_targets_are_the_inputs_one_symbol_later(n, block_size, batch_size, seed):
    if n <= block_size:
        n = block_size + 1
    for step in range(6):
        idx, targets = get_batch_in_turn(torch.arange(n), batch_size, block_size, step, seed)
        assert idx.shape == targets.shape == (batch_size, block_size)
        assert torch.equal(targets, idx + 1)


def test_in_turn_every_symbol_comes_once_before_any_comes_twice():
    n, T, rows = 1000, 7, 10
    a_turn = n // T - 1  # rows
    seen = [get_batch_in_turn(torch.arange(n), rows, T, step, seed=4)[1] for step in range(3 * a_turn // rows)]
    targets = torch.cat(seen)  # (rows read, T)
    for turn in range(3):
        once = targets[turn * a_turn : (turn + 1) * a_turn].flatten()
        assert len(once.unique()) == len(once)
    first, second = (targets[turn * a_turn : (turn + 1) * a_turn] for turn in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 0].sort().values)  # shuffled
    assert set((first[:, 0] % T).tolist()) != set((second[:, 0] % T).tolist())  # cut at another place


def test_in_turn_a_batch_depends_on_step_and_seed_alone():
    ids = torch.arange(500)
    batch = get_batch_in_turn(ids, 8, 5, step=40, seed=1)[0]
    torch.rand(3)
    assert torch.equal(batch, get_batch_in_turn(ids, 8, 5, step=40, seed=1)[0])
    assert not torch.equal(batch, get_batch_in_turn(ids, 8, 5, step=40, seed=2)[0])
    assert not torch.equal(batch, get_batch_in_turn(ids, 8, 5, step=41, seed=1)[0])


def test_the_same_seed_draws_the_same_batch():
    first, second, other = (get_batch(torch.arange(999), 4, 8, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("batch_size", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_below_one_are_refused(batch_size, block_size):
    with pytest.raises(ValueError, match="at least 1"):
        get_batch(torch.arange(10), batch_size, block_size)
