"""Models on disk: what comes back is what was saved, or an error of ours, and never a wrong model."""

import json
import os
import stat

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigpt.run.checkpoint as checkpoint
from minigpt import GPT, BigramLanguageModel, CharTokenizer, GPTConfig, load_model, load_tokenizer, save_model
from minigpt.run.checkpoint import CheckpointError, load_facts, read_tensors, write_bytes, write_tensors

SYMBOLS = CharTokenizer('ab\n "\\é😀cd')


@pytest.fixture
def model():
    return GPT(GPTConfig(SYMBOLS.vocab_size, block_size=4, n_embd=8, n_head=2, n_layer=1))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("target", ["run", "deep/er/run", "model.safetensors"])
def test_what_comes_back_is_what_was_saved(model, tmp_path, target):
    file = save_model(model, tmp_path / target, SYMBOLS, {"steps": 3})
    loaded = load_model(tmp_path / target)
    assert file.suffix == ".safetensors"
    assert same(loaded, model)
    assert type(loaded) is GPT
    assert loaded.config == model.config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert load_tokenizer(tmp_path / target) == SYMBOLS
    assert load_facts(tmp_path / target) == {"steps": 3}
    idx = torch.tensor([[0, 1, 2]])
    assert torch.equal(loaded(idx), model.eval()(idx))


def test_any_safetensors_reader_can_read_it(model, tmp_path):
    tensors = safetensors.torch.load_file(save_model(model, tmp_path, SYMBOLS))
    assert torch.equal(tensors["head.weight"], model.head.weight)


def test_a_bigram_and_half_precision(tmp_path):
    model = BigramLanguageModel(5, block_size=3)
    save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    loaded = load_model(tmp_path / "half.safetensors")
    assert type(loaded) is BigramLanguageModel
    assert loaded.config == model.config
    assert loaded.table.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.table.weight, model.table.weight, atol=2e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="without an alphabet"):
        load_tokenizer(tmp_path / "half.safetensors")


def test_a_folder_may_be_called_like_a_file(model, tmp_path):
    folder = tmp_path / "first.safetensors"
    folder.mkdir()
    assert save_model(model, folder) == folder / "model.safetensors"
    load_model(folder)


def test_saving_refuses_what_could_not_be_loaded(model, tmp_path):
    with pytest.raises(TypeError, match="a Linear cannot be loaded again"):
        save_model(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="2 symbols, but the model's vocab_size is 10"):
        save_model(model, tmp_path, CharTokenizer("ab"))
    model.head.weight = model.token_embedding.weight
    with pytest.raises(ValueError, match="two layers of the model share their numbers"):
        save_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = tmp_path_factory.mktemp("good") / "model.safetensors"
    model = GPT(GPTConfig(SYMBOLS.vocab_size, block_size=4, n_embd=8, n_head=2, n_layer=1))
    save_model(model, file, SYMBOLS)
    return file.read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["flip", "flip in the header", "cut", "prepend", "append"]))
def test_damage_is_an_error_of_ours_every_time(good, tmp_path, data, kind):
    if kind.startswith("flip"):
        end = len(good) if kind == "flip" else 8 + int.from_bytes(good[:8], "little")
        at, bits = data.draw(st.integers(0, end - 1)), data.draw(st.integers(1, 255))
        bad = good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :]
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        extra = data.draw(st.binary(min_size=1, max_size=40))
        bad = extra + good if kind == "prepend" else good + extra
    file = tmp_path / "bad.safetensors"
    file.write_bytes(bad)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        load_model(file)


def header_of(header: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a safetensors file"),
        (b"PK\x03\x04 a pickle in a zip, as torch.save writes", "is not a safetensors file"),
        (header_of(b"{}", 2**62) + bytes(50), "is not a safetensors file"),
        (header_of(b"{}", 5000) + bytes(50), "is truncated"),
        (header_of(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}') + bytes(10), "truncated: 6 bytes"),
        (header_of(b"{not json}") + bytes(50), "is not a safetensors file"),
        (header_of(b'{"a": 7}') + bytes(50), "is not a safetensors file"),
        (safetensors.torch.save({"a": torch.zeros(2)}), "not one of minigpt's"),
        (safetensors.torch.save({"a": torch.zeros(2)}, {"format": "pt"}), "not one of minigpt's"),
        (safetensors.torch.save({"a": torch.zeros(2)}, {"format": "minigpt", "version": "99"}), "format version '99'"),
    ],
)
def test_the_error_says_what_is_wrong(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Transformer9000"}, "no model this version knows"),
        ({"config": json.dumps({"vocab_size": 9, "block_size": 4, "n_embd": 8, "n_head": 3})}, "does not fit its own"),
        ({"config": json.dumps({"vocab_size": 9, "block_size": 5, "n_embd": 8, "n_head": 2, "n_layer": 1})}, "fit"),
        ({"config": json.dumps({"vocab_size": 9, "n_layer": 10**12, "n_embd": 8, "n_head": 2})}, "more than it has"),
        ({"config": json.dumps({"vocab_size": 10**18, "n_layer": 1, "n_embd": 8, "n_head": 2})}, "does not fit"),
        ({"config": json.dumps({"vocab_size": 10**15, "n_layer": 1, "n_embd": 8, "n_head": 2})}, "does not fit"),
        ({"config": "[1]"}, "does not fit its own config"),
        ({"config": json.dumps({"width": 3})}, "does not fit its own config"),
    ],
)
def test_a_forged_config_never_gives_a_model(model, tmp_path, change, message):
    tensors, metadata = read_tensors(save_model(model, tmp_path, SYMBOLS))
    write_tensors(tmp_path / "forged.safetensors", tensors, {**metadata, **change})
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "forged.safetensors")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_facts_that_json_cannot_hold_are_not_written(model, tmp_path, loss):
    """Python would write a word that no other reader of JSON knows, the playground's for one."""
    with pytest.raises(ValueError, match="JSON has no nan and no infinity"):
        save_model(model, tmp_path, facts={"val_loss": loss})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("facts", ["[1]", "not JSON", "3"])
def test_facts_that_are_none_are_refused(model, tmp_path, facts):
    tensors, metadata = read_tensors(save_model(model, tmp_path, SYMBOLS))
    file = tmp_path / "forged.safetensors"
    write_tensors(file, tensors, {**metadata, "facts": facts})
    with pytest.raises(CheckpointError, match=f"{file.name} does not fit"):
        load_facts(file)


def test_a_missing_model_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m minigpt train"):
        load_model(tmp_path)


def test_planted_without_the_checksum_a_wrong_model_would_pass(good, tmp_path, monkeypatch):
    bad = bytearray(good)
    bad[-1] ^= 0x40
    (tmp_path / "bad.safetensors").write_bytes(bad)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "bad.safetensors")

    class Blind:
        def __init__(self, data):
            start = data.index(b'"sha256":"') + 10 if b'"sha256":"' in data else 0
            self.digest = good[good.index(b'"sha256":"') + 10 :][:64].decode() if start else ""

        def hexdigest(self):
            return self.digest

    monkeypatch.setattr(checkpoint.hashlib, "sha256", Blind)
    load_model(tmp_path / "bad.safetensors")  # a wrong weight, and nobody says so


# ── atomic ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, moment):
    write_bytes(tmp_path / "file", b"old")

    def crash(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, moment, crash)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(tmp_path / "file", b"new and longer")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_others_may_read_what_was_written(tmp_path):
    write_bytes(tmp_path / "file", b"x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
