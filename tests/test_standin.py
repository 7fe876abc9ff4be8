"""The built-in play: the same everywhere, laid out like the real text, and its probabilities exact."""

import hashlib
import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from minigpt import standin
from minigpt.standin import LENGTH, SYMBOLS, generate_play, log_probabilities, lowest_loss

SHA256 = "c246192737deb35bab39da7a97d527cef8711c813bd8fc8cd24fe6e24c4cafff"
NAMES = {name: name.split()[-1].title() for name in standin.CAST}


@pytest.fixture(scope="module")
def play() -> str:
    return generate_play()


@pytest.fixture(scope="module")
def logs(play: str) -> np.ndarray:
    return log_probabilities(play)


@pytest.fixture(scope="module")
def sample(play: str, logs: np.ndarray) -> tuple[str, np.ndarray]:
    """Three plays, some 3 million symbols in all."""
    others = [generate_play(seed=seed) for seed in (20_240_229, 4_000_000_007)]
    return play + "".join(others), np.concatenate([logs, *map(log_probabilities, others)])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar small enough to do by hand: a, or b and a word that is xyy three times in four."""
    rules = {
        standin.START: standin._rule({"a": (1, (standin.START,)), "b": (1, ("word", standin.START))}),
        "word": standin._rule({"xyy": (3, ()), "xz": (1, ())}),
    }
    monkeypatch.setattr(standin, "_grammar", lambda: rules)


# The same text everywhere


def test_generator_gives_the_published_numbers():
    draws = standin._xorshift32(2_463_534_242)
    assert [next(draws) for _ in range(4)] == [723_471_715, 2_497_366_906, 2_064_144_800, 2_008_045_182]


def test_generator_agrees_with_32_bit_arithmetic():
    state, draws = np.array([12_345], dtype=np.uint32), standin._xorshift32(12_345)
    for _ in range(1000):
        state ^= state << np.uint32(13)
        state ^= state >> np.uint32(17)
        state ^= state << np.uint32(5)
        assert next(draws) == int(state[0])


def test_play_is_the_same_everywhere(play):
    assert hashlib.sha256(play.encode()).hexdigest() == SHA256


def test_shorter_play_is_a_prefix(play):
    for length in (0, 1, 7, 12_345, 200_001):
        assert generate_play(length) == play[:length]


def test_another_seed_gives_another_play(play):
    assert generate_play(1000, seed=1) != play[:1000]


# The look of Tiny Shakespeare


def test_size_and_symbols(play):
    assert len(play) == LENGTH == 1_115_394
    assert len(SYMBOLS) == 65
    assert "".join(sorted(set(play))) == SYMBOLS
    cut = LENGTH * 9 // 10
    assert set(play[:cut]) == set(SYMBOLS)
    assert len(set(play[cut:])) >= 62


def test_symbols_are_about_as_frequent_as_in_english(play):
    counts = Counter(play)
    assert [symbol for symbol, _ in counts.most_common(2)] == [" ", "e"]
    assert all(counts[symbol] < LENGTH // 5000 for symbol in "$&3")
    assert 0.02 < counts["\n"] / LENGTH < 0.05


def test_layout_of_speeches(play):
    speeches = play.split("\n\n")[:-1]
    assert len(speeches) > 4000
    for speech in speeches:
        label, *lines = speech.split("\n")
        assert label.removesuffix(":") in standin.CAST
        assert label.endswith(":")
        assert lines
        for line in lines:
            assert re.fullmatch(r"'?[A-Z][A-Za-z3$&' ,!-]+[a-z][,;:.!?]?", line), line


def test_couplets_rhyme(play):
    for speech in play.split("\n\n")[:-1]:
        ends = [re.sub("[^a-z]", "", line.split()[-1].split("-")[-1]) for line in speech.split("\n")[1:]]
        for first, second in zip(ends[::2], ends[1::2], strict=True):
            assert any(first.endswith(rhyme) and second.endswith(rhyme) for rhyme in standin.RHYMES), speech


def test_verb_agrees_with_its_subject_over_what_stands_between(play):
    verbs = set(standin.VERBS.split())
    found = re.findall(r"\nMy ([a-z]+), like my [a-z]+, ([a-z]+) ", play)
    plural = {coda + "s" for coda in standin.NOUN_CODAS.split()}
    assert len(found) > 100
    for subject, verb in found:
        assert (verb in verbs) == any(subject.endswith(ending) for ending in plural), (subject, verb)


def test_who_is_called_answers_three_times_in_four(play):
    call = re.compile(r"^(?:\w+) (" + "|".join(NAMES.values()) + r")[,!]")
    speeches = [speech.split("\n") for speech in play.split("\n\n")[:-1]]
    answers = [
        NAMES[answer[0].removesuffix(":")] == called[1]
        for speech, answer in pairwise(speeches)
        if (called := call.match(speech[1]))
    ]
    assert len(answers) > 1000
    assert abs(np.mean(answers) - 24 / (24 + 8)) < 4 * math.sqrt(0.75 * 0.25 / len(answers))


# The grammar


def test_no_choice_begins_with_another():
    for name, rule in standin._grammar().items():
        heads = sorted(rule.tails)
        for first, second in pairwise(heads):
            assert not second.startswith(first), (name, first, second)


def test_no_template_or_word_is_lost():
    rules = standin._grammar()
    for name, templates in (standin.LINES | standin.PHRASES).items():
        assert len(rules[name.replace("@", "")].tails) == len(templates)
        assert len(rules[name.replace("@", "")].bag) == sum(templates.values())
    for name, words in {"verb": standin.VERBS, "adjective": standin.ADJECTIVES}.items():
        assert len(rules[name].tails) == len(words.split())


def test_reader_and_writer_use_the_same_weights():
    for name, rule in standin._grammar().items():
        counted = Counter(head[:n] for head, _ in rule.bag for n in range(len(head) + 1))
        assert rule.ways == counted, name
        assert set(rule.bag) == set(rule.tails.items()), name


def test_every_rule_is_used():
    rules = standin._grammar()
    called = {name for rule in rules.values() for tail in rule.tails.values() for name in tail}
    assert called == set(rules)
    for name in called:
        assert "{" not in name
        assert "@" not in name


# Exact probabilities


def test_log_probabilities_of_the_toy_grammar(toy):
    expected = [1 / 2, 1 / 2, 1, 3 / 4, 1, 1 / 2, 1 / 2, 1, 1 / 4]
    np.testing.assert_allclose(np.exp(log_probabilities("abxyyabxz")), expected, rtol=1e-12)


def test_lowest_loss_of_the_toy_grammar(toy):
    entropy_of_word = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    length_of_word = 0.75 * 3 + 0.25 * 2
    expected = (math.log(2) + entropy_of_word / 2) / (1 + length_of_word / 2)
    assert lowest_loss() == pytest.approx(expected, rel=1e-12)


def test_shape_and_range(play, logs):
    assert logs.shape == (LENGTH,)
    assert logs.dtype == np.float64
    assert np.isfinite(logs).all()
    assert (logs <= 0).all()
    assert log_probabilities("").shape == (0,)


def test_a_text_may_stop_anywhere(play, logs):
    for length in range(1, 400):
        np.testing.assert_array_equal(log_probabilities(play[:length]), logs[:length])


def test_next_symbol_probabilities_sum_to_one(play):
    for length in [*range(40), *range(40, 1500, 53)]:
        total = 0.0
        for symbol in SYMBOLS:
            try:
                total += math.exp(log_probabilities(play[:length] + symbol)[-1])
            except ValueError:
                continue
        assert total == pytest.approx(1, abs=1e-9), play[:length][-20:]


# After each of these the grammar is in one state only, so plain counting must give the same figures.
CONTEXTS = (
    "\nKING OXBERT:\n", "\nFirst Gardener:\n", "\nThe ", "\nMy ", "\nMy s", "\nMy spl", "\nThat ", "\nI ",
    "\nThat st", "\nI b", "\nYour ", "\nYour s", "\nYour old ", "\nO ", "\nWhy ", "\nWhy do", "\nHow ",
    "\nWhen ", "\nAnd t", "\nLet ", "\n'Tis a ", "\nIf h", "\nBut she ", "\nNo ", "\nI'll give you $3 & 3 ",
)  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS)
def test_counts_agree_with_the_claimed_probabilities(sample, context):
    text, logs = sample
    counts: Counter[str] = Counter()
    claimed: dict[str, float] = {}
    for match in re.finditer(re.escape(context), text[:-1]):
        at = match.end()
        counts[text[at]] += 1
        assert claimed.setdefault(text[at], logs[at]) == logs[at]
    n = sum(counts.values())
    assert n > 100
    p = {symbol: math.exp(log_p) for symbol, log_p in claimed.items()}
    assert 0.96 < sum(p.values()) < 1 + 1e-9
    for symbol, count in counts.items():
        standard_error = math.sqrt(n * p[symbol] * (1 - p[symbol]))
        assert abs(count - n * p[symbol]) < 4.5 * standard_error + 1, symbol


def test_mean_loss_agrees_with_the_lowest_loss(sample):
    _, logs = sample
    blocks = -logs[: len(logs) // 2000 * 2000].reshape(-1, 2000).mean(axis=1)
    standard_error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    assert standard_error < 0.001
    assert abs(blocks.mean() - lowest_loss()) < 3.5 * standard_error


def test_a_bigram_is_far_from_the_lowest_loss(play):
    ids = np.searchsorted(np.array(list(SYMBOLS)), np.array(list(play)))
    cut = len(ids) * 9 // 10
    counts = np.ones((65, 65))
    np.add.at(counts, (ids[: cut - 1], ids[1:cut]), 1)
    p = counts / counts.sum(axis=1, keepdims=True)
    bigram = -np.log(p[ids[cut:-1], ids[cut + 1 :]]).mean()
    assert 2.25 < bigram < 2.6
    assert 0.75 < lowest_loss() < 1.4


# Bad input


def test_text_that_the_grammar_cannot_write(play):
    at = play.index("\n", 2000) + 1
    wrong = play[:at] + "$" + play[at + 1 :]
    line = play[:at].count("\n") + 1
    with pytest.raises(ValueError, match=rf"'\$' at position {at} \(line {line}\)"):
        log_probabilities(wrong)
    with pytest.raises(ValueError, match=r"position 0 \(line 1\)"):
        log_probabilities("\nFirst Gardener:")


@pytest.mark.parametrize("length", [-1, 2.0, "10", None])
def test_bad_length(length):
    with pytest.raises(ValueError, match="length must be"):
        generate_play(length)


@pytest.mark.parametrize("seed", [0, -3, 2**32, 1.5, None])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be"):
        generate_play(10, seed=seed)
