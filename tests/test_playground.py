"""The models in the page: JavaScript against PyTorch, on the trained weights of `data/weights/`.

Everything is computed here and now, in Node and in torch, so no stored vector can grow old: whoever changes the model
in one language only sees these tests fail. `python tests/test_playground.py` prints how far the two are apart.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from minigpt import GPT, BigramLanguageModel, CharTokenizer, GPTConfig, generate, load_model, load_tokenizer, save_model
from minigpt.generation import next_probabilities
from minigpt.modern import ModernGPT
from minigpt.run.checkpoint import CheckpointError, load_facts, read_tensors, write_tensors

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "book" / "playground"
RUNNER = Path(__file__).with_name("playground_runner.js")
WEIGHTS = sorted((ROOT / "data" / "weights").glob("*.safetensors"))
LAPTOP = ROOT / "data" / "weights" / "gpt-laptop.safetensors"
CLOSE = 1e-4
OFF = [(1, 2), (3, 0)]  # layer and head, counted from 0; a smaller model has fewer of them

TEXT = """ROMEO:
But, soft! what light through yonder window breaks?
It is the east, and Juliet is the sun.
"""
OTHER = "KING RICHARD III:\nA horse! a horse! my kingdom for a horse!\n"


@pytest.fixture(scope="session")
def modern_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `ModernGPT`, trained for a moment: a fresh one gives zeros for every logit, whatever it computes.

    The queries of one layer are tiny. That changes nothing but how much the epsilon of `rms_norm` matters.
    """
    torch.manual_seed(1)
    tokenizer = CharTokenizer(TEXT + OTHER)
    ids = tokenizer.encode(TEXT + OTHER)
    model = ModernGPT(GPTConfig(tokenizer.vocab_size, block_size=24, n_embd=32, n_head=4, n_layer=4, dropout=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        starts = torch.randint(len(ids) - 25, (12, 1))
        batch = ids[starts + torch.arange(25)]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 2, "it has learned nothing, and would test nothing"
    model.blocks[1].attention.query.weight.data *= 1e-3  # type: ignore[union-attr]
    return save_model(model, tmp_path_factory.mktemp("modern") / "modern.safetensors", tokenizer)


@pytest.fixture(params=[*WEIGHTS, "a small ModernGPT"], ids=lambda file: getattr(file, "stem", file))
def file(request: pytest.FixtureRequest) -> Path:
    """Each stored model, and one of the class that no stored model may be of yet."""
    return request.param if isinstance(request.param, Path) else request.getfixturevalue("modern_file")


def node(jobs: list[dict[str, Any]], engine: Path = ENGINE) -> list[dict[str, Any]]:
    """Run jobs in Node; each gives {'result': ...} or {'error': ..., 'kind': ...}."""
    program = shutil.which("node")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("in CI the tests of the playground must run, but there is no Node")
        pytest.skip("there is no Node: apt-get install nodejs")
    given = json.dumps({"engine": str(engine), "jobs": jobs})
    done = subprocess.run([program, str(RUNNER)], input=given, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def results(jobs: list[dict[str, Any]], engine: Path = ENGINE) -> list[Any]:
    answers = node(jobs, engine)
    assert not [answer["error"] for answer in answers if "error" in answer]
    return [answer["result"] for answer in answers]


# ---- the trained models --------------------------------------------------------------------------------------------


def long_text(n: int) -> str:
    return ((TEXT + OTHER) * (n // len(TEXT) + 1))[:n]


def heads_off(config: GPTConfig) -> list[tuple[int, int]]:
    return [(layer, head) for layer, head in OFF if layer < config.n_layer and head < config.n_head]


@cache
def expected(file: Path, n: int) -> dict[str, Any]:
    """What PyTorch gives: logits at every position of a full context; of another text that begins in the same way;
    the greedy text from shortly before the end of the context to some symbols past it; where each head looks; and the
    logits with two heads switched off."""
    model, tokenizer = load_model(file), load_tokenizer(file)
    T = model.config.block_size
    idx = tokenizer.encode(long_text(T))
    branch = torch.cat([idx[: T // 2], tokenizer.encode(OTHER)[: T // 4]])
    start = idx[: max(1, T - n // 2)]
    given = {"idx": idx.tolist(), "branch": branch.tolist(), "start": start.tolist()}
    with torch.no_grad():
        found = {"logits": model(idx[None])[0], "branched": model(branch[None])[0]}
        found["greedy"] = generate(model, start[None], n, temperature=0, cache=False)[0, len(start) :]
        if isinstance(model, GPT):
            found["attention"] = model.attention(idx[None])[:, 0, :, -1]
            size = model.config.n_embd // model.config.n_head
            for layer, head in heads_off(model.config):
                model.blocks[layer].attention.proj.weight[:, head * size : (head + 1) * size] = 0
            found["silenced"] = model(branch[None])[0]
            given["off"] = heads_off(model.config)
    return {"off": [], **given, **found}


def distances(file: Path, engine: Path = ENGINE, n: int = 4) -> dict[str, float]:
    """How far JavaScript is from PyTorch: 0 or nearly 0 for each of the things in `expected`."""
    want = expected(file, n)
    off = [f"{layer}.{head}" for layer, head in want["off"]]
    jobs: dict[str, dict[str, Any]] = {
        "read": {"do": "read", "texts": [want["idx"], want["branch"]]},
        "silenced": {"do": "read", "texts": [want["branch"]], "off": off},
        "greedy": {"do": "stream", "ids": want["start"], "n": n, "settings": {"temperature": 0}},
    }
    answers = node([{"file": str(file), **job} for job in jobs.values()], engine)
    result = {name: answer.get("result") for name, answer in zip(jobs, answers, strict=True)}
    places = {
        "logits": ("read", 0, "logits"),
        "branched": ("read", 1, "logits"),
        "attention": ("read", 0, "weights"),
        "silenced": ("silenced", 0, "logits"),
        "greedy": ("greedy",),
    }

    def apart(wanted: torch.Tensor, place: tuple[Any, ...]) -> float:
        try:
            found = torch.tensor(reduce(getitem, place, result), dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):  # an error, a nan, rows of different lengths
            return math.inf
        return (found - wanted).abs().max().item() if found.shape == wanted.shape else math.inf

    return {what: apart(want[what], place) for what, place in places.items() if what in want}


def test_javascript_computes_what_pytorch_computes(file: Path) -> None:
    found = distances(file)
    assert {what: gap for what, gap in found.items() if gap > CLOSE} == {}


def test_greedy_text_is_identical_over_a_context_and_past_it(file: Path) -> None:
    model, tokenizer = load_model(file), load_tokenizer(file)
    start = tokenizer.encode(TEXT)[:8]
    n = model.config.block_size
    job = {"do": "stream", "file": str(file), "ids": start.tolist(), "n": n, "settings": {"temperature": 0}}
    [found] = results([job])
    wanted = generate(model, start[None], n, temperature=0)[0, len(start) :].tolist()
    assert tokenizer.decode(found) == tokenizer.decode(wanted)


def test_a_prompt_longer_than_the_context() -> None:
    """Only the last block_size symbols are read, as in Python."""
    model, tokenizer = load_model(LAPTOP), load_tokenizer(LAPTOP)
    idx = tokenizer.encode(OTHER + TEXT)
    assert len(idx) > model.config.block_size
    [found] = results([{"do": "read", "file": str(LAPTOP), "texts": [idx.tolist()]}])
    with torch.no_grad():
        wanted = model(idx[None, -model.config.block_size :])[0]
    torch.testing.assert_close(torch.tensor(found[0]["logits"]), wanted, atol=CLOSE, rtol=0)


def test_thirty_two_bits_and_other_sizes(tmp_path: Path, small_gpt: GPT) -> None:
    """A model of one's own: other sizes, an odd vocabulary, symbols beyond ASCII, weights in float32."""
    torch.nn.init.normal_(small_gpt.head.bias)
    tokenizer = CharTokenizer('ab\n "\\é😀cde')
    file = save_model(small_gpt, tmp_path / "own.safetensors", tokenizer, {"preset": "mine"})
    idx = tokenizer.encode('a😀bé\n"\\cab c')
    loaded, read, encoded = results(
        [
            {"do": "load", "file": str(file)},
            {"do": "read", "file": str(file), "texts": [idx.tolist()]},
            {"do": "encode", "file": str(file), "text": "a😀bé"},
        ]
    )
    assert loaded["alphabet"] == tokenizer.symbols
    assert loaded["name"] == "GPT"
    assert loaded["config"]["n_embd"] == 32
    assert loaded["facts"] == {"preset": "mine"}
    assert encoded == tokenizer.encode("a😀bé").tolist()
    with torch.no_grad():
        wanted = small_gpt.eval()(idx[None])[0]
    torch.testing.assert_close(torch.tensor(read[0]["logits"]), wanted, atol=CLOSE, rtol=0)


def test_every_sixteen_bit_number(tmp_path: Path) -> None:
    """All 63,488 finite numbers of float16 are read exactly, the smallest and both zeros included."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = every[every.isfinite()]
    model = BigramLanguageModel(252)
    model.table.weight.data = torch.cat([every.float(), torch.zeros(252 * 252 - len(every))]).view(252, 252)
    tokenizer = CharTokenizer("".join(chr(0x400 + i) for i in range(252)))
    file = save_model(model, tmp_path / "all.safetensors", tokenizer, dtype=torch.float16)
    [found] = results([{"do": "read", "file": str(file), "texts": [list(range(252))]}])
    assert torch.equal(torch.tensor(found[0]["logits"]), model.table.weight.data)


# ---- sampling ------------------------------------------------------------------------------------------------------


def test_probabilities_equal_those_of_python() -> None:
    model, tokenizer = load_model(LAPTOP), load_tokenizer(LAPTOP)
    with torch.no_grad():
        logits = model(tokenizer.encode(TEXT)[None, :64])[0, ::9]  # (8, vocab_size)
    settings = [
        (temperature, top_k, top_p)
        for temperature in (0, 1e-6, 0.5, 1, 1.7)
        for top_k in (None, 1, 3, 40, 65, 1000)
        for top_p in (None, 0.01, 0.5, 0.9, 1)
    ]
    cases = [[row.tolist(), *setting] for row in logits for setting in settings]
    [found] = results([{"do": "probabilities", "cases": cases}])
    wanted = [next_probabilities(row, t, top_k=k, top_p=p) for row in logits for t, k, p in settings]
    assert not any(None in row for row in found), "not a number"
    torch.testing.assert_close(torch.tensor(found), torch.stack(wanted), atol=1e-6, rtol=1e-4)
    assert [[p > 0 for p in row] for row in found] == [(row > 0).tolist() for row in wanted]


def test_the_seed_decides_and_the_numbers_are_even() -> None:
    """The same seed gives the same text; the numbers behind it fill [0, 1) evenly and differ from seed to seed."""
    tokenizer = load_tokenizer(LAPTOP)
    job = {"do": "stream", "file": str(LAPTOP), "ids": tokenizer.encode(TEXT[:20]).tolist(), "n": 30}
    once, again, other, *numbers = results(
        [
            {**job, "settings": {"seed": 1}},
            {**job, "settings": {"seed": 1}},
            {**job, "settings": {"seed": 2}},
            {"do": "uniform", "seed": 1, "n": 20_000},
            {"do": "uniform", "seed": 2, "n": 20_000},
        ]
    )
    assert once == again != other
    first, second = (torch.tensor(row) for row in numbers)
    for row in (first, second):
        assert 0 <= row.min() < row.max() < 1
        assert (torch.histc(row, 10, 0, 1) - 2000).abs().max() < 250  # about six standard deviations
        assert abs(torch.corrcoef(torch.stack([row[:-1], row[1:]]))[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.05


def test_draws_follow_the_probabilities(tmp_path: Path) -> None:
    model = BigramLanguageModel(3)
    model.table.weight.data = torch.tensor([[0.1, 0.6, 0.3]] * 3).log()
    file = save_model(model, tmp_path / "three.safetensors", CharTokenizer("abc"))
    [drawn] = results([{"do": "stream", "file": str(file), "ids": [0], "n": 20_000, "settings": {"seed": 5}}])
    share = torch.bincount(torch.tensor(drawn), minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.6, 0.3]), atol=0.015, rtol=0)


# ---- planted bugs --------------------------------------------------------------------------------------------------

BUGS = {
    "no scale": ("score * head_size ** -0.5", "score"),
    "scaled by n_embd": ("head_size ** -0.5", "n_embd ** -0.5"),
    "one key too few": ("T = k.length / n_embd", "T = Math.max(1, k.length / n_embd - 1)"),
    "the mask: a key of the future": ("this.length = start + 1;", "this.length = Math.min(start + 2, 64);"),
    "heads in another order": ("const start = head * head_size", "const start = (n_head - 1 - head) * head_size"),
    "heads interleaved": ("mixed[i] +=", "mixed[(i % head_size) * n_head + head] +="),
    "q and k exchanged": ("q = row(heads, 0, C), k = row(heads, 1, C)", "q = row(heads, 1, C), k = row(heads, 0, C)"),
    "epsilon 1e-6": ("variance + 1e-5", "variance + 1e-6"),
    "variance with n - 1": ("(value - mean) ** 2, 0) / x.length", "(value - mean) ** 2, 0) / (x.length - 1)"),
    "no bias of LayerNorm": ("* weight[i] + bias[i]", "* weight[i]"),
    "a bias forgotten": ("return bias ? add(y, bias) : y;", "return y;"),
    "transposed weights": (
        "linear(layer_norm(x, ...norm1), ...qkv)",
        "linear(layer_norm(x, ...norm1), qkv[0].map((_, i, w) => w[(i % (3 * C)) * C + (i / 3 / C | 0)]), qkv[1])",
    ),
    "position off by one": ("row(positions, this.kv.length, C)", "row(positions, Math.min(this.kv.length + 1, 63), C)"),
    "cache off by one": ("this.v.set(v, start * v.length)", "this.v.set(v, Math.max(0, start - 1) * v.length)"),
    "cache not cut": ("this.position.kv.length = this.ids.length", "this.ids.length"),
    "a stale cache past the context": ("ids.slice(-this.model.context)", "ids.slice(-this.model.context + 1)"),
    "no residual around the MLP": (
        "x = add(x, linear(relu(linear(layer_norm(x, ...norm2), ...first)), ...second));",
        "x = linear(relu(linear(layer_norm(x, ...norm2), ...first)), ...second);",
    ),
    "post-norm": ("linear(layer_norm(x, ...norm1), ...qkv)", "linear(x, ...qkv)"),
    "no last norm": ("linear(layer_norm(x, ...norm), ...head)", "linear(x, ...head)"),
    "GELU for ReLU": ("Math.max(0, value)", "value / (1 + Math.exp(-1.702 * value))"),
    "softmax without its sum": ("power / sum", "power"),
    "the head that is off": ("`${layer}.${head}`)) continue", "`${head}.${layer}`)) continue"),
    "16 bits, exponent": ("2 ** 112", "2 ** 111"),
}


def planted(bug: tuple[str, str], folder: Path) -> Path:
    """A copy of the engine in which the one place that says the first thing says the second."""
    right, wrong = bug
    sources = {name: (ENGINE / name).read_text("utf8") for name in ("minigpt.js", "checkpoint.js")}
    assert sum(source.count(right) for source in sources.values()) == 1, f"{right!r} should stand once in {ENGINE}"
    for name, source in sources.items():
        (folder / name).write_text(source.replace(right, wrong), "utf8")
    return folder


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_seen(bug: str, tmp_path: Path) -> None:
    found = distances(LAPTOP, planted(BUGS[bug], tmp_path))
    assert max(found.values()) > CLOSE, found


MODERN_BUGS = {
    "turned backwards": ("Math.sin(angle)", "-Math.sin(angle)"),
    "a mirror, no rotation": ("first * cos - second * sin", "first * cos + second * sin"),
    "neighbors are a pair": ("first = x[i], second = x[half + i]", "first = x[2 * i], second = x[2 * i + 1]"),
    "another base": ("BASE = 1024", "BASE = 10000"),
    "speeds as in the paper": ("i / Math.max(1, half - 1)", "i / half"),
    "not rotated": ("rotate(rms_norm(one), start)", "rms_norm(one)"),
    "values rotated too": ("return [q, k, v];", "return [q, k, rotate(v, start)];"),
    "only the queries rotated": (
        "rotate(rms_norm(one), start)",
        "rotate(rms_norm(one), one.buffer === k.buffer ? 0 : start)",
    ),
    "keys one position behind": (
        "rotate(rms_norm(one), start)",
        "rotate(rms_norm(one), start - (one.buffer === k.buffer))",
    ),
    "every position is the first": ("value, cache.length)", "value, 0)"),
    "queries and keys not normalized": ("rotate(rms_norm(one), start)", "rotate(one, start)"),
    "normalized over all heads": (
        "rotate(rms_norm(one), start)",
        "rotate(one.map((_, i) => rms_norm(one.buffer === k.buffer ? k : q)[head * one.length + i]), start)",
    ),
    "epsilon 1e-6": ("2 ** -23", "1e-6"),
    "epsilon 0": ("mean + 2 ** -23", "mean"),
    "a mean taken away": ("square(x).reduce(", "square(x.map((v) => v - x[0])).reduce("),
    "ReLU not squared": ("square(relu(linear(rms_norm(x), ...up)))", "relu(linear(rms_norm(x), ...up))"),
    "squared without ReLU": ("relu(linear(rms_norm(x), ...up))", "linear(rms_norm(x), ...up)"),
    "no norm before attention": ("this.project(rms_norm(x)", "this.project(x"),
    "no norm before the MLP": ("linear(rms_norm(x), ...up)", "linear(x, ...up)"),
    "no last norm": ("linear(rms_norm(x), ...this.last[1])", "linear(x, ...this.last[1])"),
    "query and key exchanged": ("([query, key, value, proj", "([key, query, value, proj"),
    "weights of another layer": ("part(`blocks.${i}.${name}`)", "part(`blocks.${i && i - 1}.${name}`)"),
    "no scale": ("score * head_size ** -0.5", "score"),
    "cache off by one": ("this.k.set(k, start * k.length)", "this.k.set(k, Math.max(0, start - 1) * k.length)"),
    "one key too few": ("T = k.length / n_embd", "T = Math.max(1, k.length / n_embd - 1)"),
    "a stale cache past the context": ("ids.slice(-this.model.context)", "ids.slice(-this.model.context + 1)"),
    "nothing of the symbol before": ("return start ? add(", "return start < 0 ? add("),
    "a share of itself": ("this.symbols[start - 1], C", "symbol, C"),
    "the first symbol before": ("this.symbols[start - 1], C", "this.symbols[0], C"),
    "the last symbol read, wherever": ("this.symbols[start] = symbol", "this.symbols[this.symbols.length] = symbol"),
    "all of the symbol before": ("multiply(this.smear, row(", "(row("),
}


@pytest.mark.parametrize("bug", MODERN_BUGS)
def test_a_planted_bug_of_the_modern_model_is_seen(bug: str, tmp_path: Path, modern_file: Path) -> None:
    found = distances(modern_file, planted(MODERN_BUGS[bug], tmp_path))
    assert max(found.values()) > CLOSE, found


PROBABILITY_BUGS = {
    "temperature multiplies": ("(logit - logits[order[0]]) / temperature", "(logit - logits[order[0]]) * temperature"),
    "one symbol too many": ("order.slice(top_k)", "order.slice(top_k + 1)"),
    "top-p stops before it is reached": ("if (before >= top_p)", "if (before + p >= top_p)"),
    "not scaled back to 1": ("probabilities.map((p) => p / sum)", "probabilities.map((p) => p)"),
    "top-p first": ("if (top_k !== null)", "if (top_k !== null && top_p === null)"),
}


@pytest.mark.parametrize("bug", PROBABILITY_BUGS)
def test_a_planted_bug_of_sampling_is_seen(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = planted(PROBABILITY_BUGS[bug], tmp_path)
    monkeypatch.setattr(f"{__name__}.results", lambda jobs, _=None: [a["result"] for a in node(jobs, engine)])
    with pytest.raises(AssertionError):
        test_probabilities_equal_those_of_python()


# ---- files ---------------------------------------------------------------------------------------------------------

SYMBOLS = CharTokenizer("ab\n cd")


def wrong_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Files that are no model, and what their message must say."""
    file = folder / "model.safetensors"
    save_model(GPT(GPTConfig(SYMBOLS.vocab_size, 4, 8, 2, 1)), file, SYMBOLS)
    good = file.read_bytes()
    tensors, metadata = read_tensors(file)
    metadata = {key: value for key, value in metadata.items() if key not in ("format", "version", "sha256")}

    def written(changed: dict[str, str], tensors: dict[str, torch.Tensor] = tensors, drop: str = "") -> bytes:
        kept = {k: v for k, v in {**metadata, **changed}.items() if k != drop}
        write_tensors(folder / "changed.safetensors", tensors, kept)
        return (folder / "changed.safetensors").read_bytes()

    def sizes(**changed: object) -> dict[str, str]:
        return {"config": json.dumps({**json.loads(metadata["config"]), **changed})}

    no_heads = {key: value for key, value in json.loads(metadata["config"]).items() if key != "n_head"}
    size = int.from_bytes(good[:8], "little")
    flipped = bytearray(good)
    flipped[-5] ^= 1
    modern = save_model(ModernGPT(GPTConfig(SYMBOLS.vocab_size, 4, 8, 2, 1)), folder / "modern.safetensors", SYMBOLS)
    modern_tensors = read_tensors(modern)[0]
    odd = save_model(GPT(GPTConfig(SYMBOLS.vocab_size, 4, 6, 2, 1)), folder / "odd.safetensors", SYMBOLS)
    without = {k: v for k, v in tensors.items() if k != "head.bias"}
    return {
        "empty": (b"", "empty"),
        "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a safetensors file"),
        "text": (b"ROMEO: But soft, what light", "not a safetensors file"),
        "JSON": (b'{"a": 1, "b": 2, "c": 3}', "not a safetensors file"),
        "absurd header": ((2**62).to_bytes(8, "little") + good[8:], "not a safetensors file"),
        "header of the wrong size": ((size - 7).to_bytes(8, "little") + good[8:], "not a safetensors file"),
        "cut in the header": (good[:100], "truncated: some bytes"),
        "cut in the weights": (good[:-1000], "truncated: 1,000 bytes are missing"),
        "a flipped bit": (bytes(flipped), "damaged"),
        "no header entries": (b"\x02" + bytes(7) + b"{}", "not one of minigpt's"),
        "foreign": (written({"format": "pt"}), "not one of minigpt's"),
        "a later version": (written({"version": "2"}), "format version"),
        "another class": (written({"model": "MambaLM"}), "MambaLM"),
        "a name every object has": (written({"model": "constructor"}), "constructor"),
        "n_head": (written(sizes(n_head=3)), "n_embd is 8: it must be divisible by n_head"),
        "no n_head": (written({"config": json.dumps(no_heads)}), "n_head is not there"),
        "heads of a bigram": (
            written({"model": "BigramLanguageModel", **sizes()}, {"table.weight": torch.zeros(2, 2)}),
            "is no part of a BigramLanguageModel",
        ),
        "a GPT that calls itself modern": (written({"model": "ModernGPT"}), "does not fit its own config"),
        "the reverse": (written({}, modern_tensors), "does not fit its own config"),
        "half a pair": (written({"model": "ModernGPT"} | sizes(n_embd=6), read_tensors(odd)[0]), "need an even size"),
        "layers without end": (written(sizes(n_layer=10**9)), "more than it has weights for"),
        "another width": (written(sizes(n_embd=16)), "does not fit its own config"),
        "half a symbol": (written(sizes(vocab_size=2.5)), "does not fit its own config"),
        "a weight missing": (written({}, without), "does not fit its own config"),
        "a weight too many": (written({}, {**tensors, "x": torch.zeros(1)}), "does not fit its own config"),
        "no config": (written({}, drop="config"), "does not fit its own config"),
        "no alphabet": (written({}, drop="alphabet"), "without an alphabet"),
    }  # fmt: skip


def test_a_wrong_file_gets_a_sentence_and_python_refuses_it_too(tmp_path: Path) -> None:
    files = wrong_files(tmp_path)
    paths = {name: tmp_path / f"{i}.safetensors" for i, name in enumerate(files)}
    for name, (data, _) in files.items():
        paths[name].write_bytes(data)
    answers = node([{"do": "load", "file": str(path)} for path in paths.values()])
    for (name, (_, words)), answer in zip(files.items(), answers, strict=True):
        assert answer.get("kind") == "CheckpointError", (name, answer)
        assert words in answer["error"], (name, answer["error"])
        assert "\n" not in answer["error"], name
        with pytest.raises(CheckpointError):
            _ = load_model(paths[name]), load_tokenizer(paths[name])


def test_files_only_the_page_refuses(tmp_path: Path) -> None:
    """bfloat16, an alphabet of another size, a context without end, facts that are none, the state of a run, NaN."""
    model = GPT(GPTConfig(SYMBOLS.vocab_size, 4, 8, 2, 1))
    half = save_model(model, tmp_path / "half.safetensors", SYMBOLS, dtype=torch.bfloat16)
    tensors, metadata = read_tensors(save_model(model, tmp_path / "alphabet.safetensors", SYMBOLS))
    alphabet = tmp_path / "alphabet.safetensors"
    write_tensors(alphabet, tensors, {"model": "GPT", "config": metadata["config"], "alphabet": "abc"})
    endless = save_model(
        ModernGPT(GPTConfig(SYMBOLS.vocab_size, 10**9, 8, 2, 1)), tmp_path / "endless.safetensors", SYMBOLS
    )
    factless = tmp_path / "factless.safetensors"
    own = {key: metadata[key] for key in ("config", "alphabet")}
    write_tensors(factless, tensors, {"model": "GPT", **own, "facts": "null"})
    model.head.bias.data[1] = float("nan")
    nan = save_model(model, tmp_path / "nan.safetensors", SYMBOLS)
    run = tmp_path / "run.safetensors"
    write_tensors(run, tensors, {"run": "{}"})
    nan16 = save_model(model, tmp_path / "nan16.safetensors", SYMBOLS, dtype=torch.float16)
    files = (half, alphabet, endless, factless, run, nan, nan16)
    answers = node([{"do": "read", "file": str(file), "texts": [[0]]} for file in files])
    said = ["BF16", "alphabet of 3 symbols", "more than this page can hold", "its facts are no object"]
    said += ["choose model.safetensors", "not finite", "not finite"]
    for words, answer in zip(said, answers, strict=True):
        assert words in answer.get("error", ""), (words, answer)


def test_an_unknown_symbol_and_an_empty_prompt() -> None:
    jobs = [
        {"do": "encode", "file": str(LAPTOP), "text": "Nay, 7 times"},
        {"do": "stream", "file": str(LAPTOP), "ids": [], "n": 1},
    ]
    unknown, empty = node(jobs)
    assert '"7" at position 5 is not in the vocabulary of 65 symbols' in unknown["error"]
    assert "the prompt is empty" in empty["error"]


# ---- the table in data/README.md -----------------------------------------------------------------------------------


def test_the_table_of_weights_says_what_the_files_say() -> None:
    text = (ROOT / "data" / "README.md").read_text("utf8")
    rows = {
        cells[0].strip("`"): cells
        for line in text.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6
    }
    assert set(rows) == {file.name for file in WEIGHTS}
    for file in WEIGHTS:
        facts, model = load_facts(file), load_model(file)
        command, date, data, result, size = rows[file.name][1:]
        parameters = sum(p.numel() for p in model.parameters())
        assert command == f"`python -m minigpt train --preset {facts['preset']}`"
        assert date == facts["date"]
        assert data.startswith("Tiny Shakespeare")
        assert f"`{facts['text_sha256'][:8]}" in data
        assert result == f"{facts['val_loss']:.4f}"
        assert size == f"{parameters:,}"
        assert file.stat().st_size <= 4_000_000
        assert all(tensor.dtype == torch.float16 for tensor in read_tensors(file)[0].values())


if __name__ == "__main__":
    for weights in WEIGHTS:
        for name, gap in distances(weights, n=16).items():
            print(f"{weights.stem:12} {name:10} {gap:.1e}")
