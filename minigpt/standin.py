"""A play written by a small random grammar, for when Tiny Shakespeare is out of reach.

Every choice of the grammar is known, so two things can be computed that no real text allows: the exact
probability of each symbol given everything before it, and the lowest loss that any model could reach.
In no list is one word the beginning of another, so a text can be read back in one way only.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np

SYMBOLS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LENGTH = 1_115_394
SEED = 2_463_534_242
START = "after KING OXBERT to QUEEN MUMBLE"  # as if the king had just called the queen

# fmt: off
# Speakers, each with the greeting they like best. The others call them by the last word of the name.
CAST = {
    "KING OXBERT": "Good", "QUEEN MUMBLE": "Sweet", "VEXWORTH": "Come", "LADY ZIFFLE": "Gentle",
    "DUMPLETON": "Brave", "FRIAR TOAST": "Dear", "BRINEBEARD": "Ahoy", "JUNKET": "Kind",
    "First Gardener": "Pray", "GOBBIN": "Ho",
}

# Nouns that may end a line, by rhyme: what stands before the shared ending.
RHYMES = {
    "ight": "kn l n s f pl", "ing": "k r th spr st w sw str", "ay": "d pl w cl h b tr r",
    "own": "cr g t cl fr d", "and": "h l s b st w", "oon": "m sp n ball lag bab drag buff",
    "ear": "sp y f t b g", "ell": "b sh w sp c sm", "ill": "h m qu p b w dr g", "ock": "cl r s l fl sm bl st",
    "ake": "l sn c r dr fl st", "art": "c d he p ch t", "ool": "f t p st w sch", "ale": "t wh g s sc b k",
    "ain": "r br ch tr gr dr st p", "ook": "b c br h r cr n", "one": "st b thr t dr c z",
    "ee": "b tr kn f s gl",
}
NOUNS = """eye time door cat heir house dog boat friend pie hour table egg mother ship word river apple
    pot lord oath cloud uncle duke letter nail mule onion joke axle kettle idiot isle ghost elbow poem throat
    jewel oyster owl vine wizard eagle tailor zebra sermon secret duel debt vow empire worm orchard spider
    aunt knot rope cow rat pig hen goat hat cap coat cup jug lid mat net oar pan rug sack tent urn van wall
    yard arm leg toe lip gut hip ankle bed inn park road dust fog wind gem ink jam key milk nut oven pin rib
    soup toad unit vest wig zeal"""
ADJECTIVES = """old great sweet new dear poor long true other idle cold white dead black high sad proud
    soft late green wet thin royal angry bitter empty hungry quiet eager mad lost brave ugly humble dusty
    narrow early noble lazy vain bold iron keen muddy odd queer rusty salty tame velvet windy young loud dim
    fat raw shy sly dry wise wild warm pale blue red grey dull deaf fair fond lame mild numb pink rare sour
    vast weak"""
VERBS = """love hear take tell want help meet eat seek hate steal fear sell end mend forget break trust
    paint drink greet save doubt write order trade hide know bite tickle wake bake return count rob guard chew
    ignore ride flatter jilt visit yield lose find curse hunt lift obey own use ask burn cook dig feed grab
    hit join keep lick move name open pull quote read send tie view warn call fold heal jab kick lend milk
    need let add aim beg bend boil cut draw fill free gain get hold"""
# Words that no dictionary has are put together: blu-bri-vish, gro-mble.
ONSETS = """b bl br ch cl cr d dr f fl fr g gl gr h j k kr l m n p pl pr r s sc scr shr sl sm sn spl spr st
    str sw t th thr tr tw v w y z"""
MIDDLES = "b bbl bl br ddl dr ffl fl fr h j l lbr ldr lv mbl mbr ndl ndr r rbl rl v y"
NOUN_CODAS = "bble ddle ft lb lk lm lp lt mble ndle rb rf rk rl rp rst sk sp st v"
ADJECTIVE_CODAS = "bby dgy ffy fty lby lky lmish lty mbish mby ndy rby rdy rfy rky rlish rpy rsty rty vish"

# Templates and their weights. {name} calls a rule; @ is the rhyme that the line must end in, nothing in a
# first line. There {end.@} draws the last word and its mark, and then calls the line that rhymes.
LINES = {
    "line@": {
        "The {strange} {noun}{predicate@}": 60, "My {creature}{predicate@}": 40,
        "Your {adjective} {creature}{predicate@}": 40, "I {verb} {article}{end.@}": 20,
        "That {strange} {creature} {verb}s {article}{end.@}": 40, "If {clause@}": 20,
        "When {clause@}": 25, "And {clause@}": 30, "But {clause@}": 25, "For {clause@}": 20,
        "Why {question@}": 25, "How {question@}": 15, "'Tis {article}{noun} of {strange} {end.@}": 20,
        "Let {article}{noun} {verb} {article}{end!@}": 20, "O {twice}{verb} {article}{end!@}": 10,
        "No {noun}-{adjective} {noun} {verb}s {article}{end.@}": 15,
        "I'll give you $3 & 3 {noun}s for {article}{end.@}": 1,
    },
    # The verb agrees with its subject, whatever stands between them.
    "predicate@": {
        " {verb}s {article}{end.@}": 6, ", like my {noun}{number}{verb}s {article}{end.@}": 2,
        "s {verb} {article}{end.@}": 6, "s, like my {noun}{number}{verb} {article}{end.@}": 2,
        "'s {creature} {verb}s {article}{end.@}": 3,
    },
    "clause@": {
        "I {verb} {article}{end.@}": 6, "you {verb} {article}{end.@}": 5, "he {verb}s {article}{end.@}": 5,
        "she {verb}s {article}{end.@}": 5, "they {verb} {article}{end.@}": 4, "the {creature}{predicate@}": 6,
        "your {strange} {noun}{predicate@}": 5, "in the {creature} we {verb} {article}{end.@}": 3,
    },
    "question@": {
        "does the {noun} {verb} {article}{end?@}": 5, "do your {creature}s {verb} {article}{end?@}": 5,
        "must I {verb} {article}{end?@}": 4, "should {strange} {noun}s {verb} {article}{end?@}": 4,
    },
}
PHRASES = {
    "article": {
        "the {adjective} ": 6, "a {strange} ": 14, "my {creature}'s ": 14, "your {adjective} ": 6, "his ": 5,
        "her {strange} ": 5, "this ": 5, "no ": 3, "some {noun}'s ": 4, "every {strange} ": 7,
        "our {adjective} ": 4,
    },
    "strange": {"{syllable}{middle}{adjective coda}": 1},
    "creature": {"{syllable}{noun coda}": 1},
    "number": {", ": 1, "s, ": 1},
    "pause": {",\n": 8, ";\n": 3, ":\n": 2, "\n": 3},
    "stop": {".\n": 6, "!\n": 1},
    "plea": {
        ", I {verb} {article}{end.}": 5, ", will you {verb} {article}{end?}": 4, ", why {question}": 4,
        ", my {noun}{predicate}": 4, "! {line}": 5,
    },
}
# fmt: on

Tail = tuple[str, ...]
Choices = dict[str, tuple[int, Tail]]


class Rule(NamedTuple):
    """A weighted choice of a head, the symbols written at once. Its tail names the rules that follow."""

    bag: list[tuple[str, Tail]]  # every head with its tail, as often as its weight
    tails: dict[str, Tail]
    ways: Counter[str]  # how much of the bag begins with each prefix of a head


def _rule(choices: Choices) -> Rule:
    bag = [(head, tail) for head, (weight, tail) in choices.items() for _ in range(weight)]
    ways: Counter[str] = Counter()
    for head, (weight, _) in choices.items():
        ways.update({head[:n]: weight for n in range(len(head) + 1)})
    return Rule(bag, {head: tail for head, (_, tail) in choices.items()}, ways)


def _words(words: list[str]) -> Choices:
    """Words with weights that fall with their rank, more gently than in a language (Zipf's law)."""
    return {word: (3 + 24 // (rank + 4), ()) for rank, word in enumerate(words)}


def _templates(templates: dict[str, int], rhyme: str = "") -> Choices:
    choices: Choices = {}
    for template, weight in templates.items():
        head, *tail = re.split("[{}]", template.replace("@", rhyme))
        choices[head] = weight, tuple(part for part in tail if part)
    return choices


def _then(choices: Choices, *rules: str) -> Choices:
    return {head: (weight, tail + rules) for head, (weight, tail) in choices.items()}


def _speeches(lines: Choices) -> dict[str, Choices]:
    """Who speaks to whom. A speaker mostly calls the one before, and who is called mostly answers."""
    total = sum(weight for weight, _ in lines.values())
    rules = {"more": {"\n": (2 * total // 3, ())} | _then(lines, "more")}
    for speaker, other in permutations(CAST, 2):
        to, others = f"{speaker} to {other}", [name for name in CAST if name != speaker]
        greetings: Choices = {
            f"{greeting} ": (total // 2 if name == speaker else total // 20, ("call " + to,))
            for name, greeting in CAST.items()
        }
        rules["speech " + to] = greetings | _then(lines, "more", "after " + to)
        rules["call " + to] = {
            name.split()[-1].title(): (
                8 if name == other else 1,
                ("plea", "more", f"after {speaker} to {name}"),
            )
            for name in others
        }
        rules["after " + to] = {
            f"{name}:\n": (24 if name == other else 1, (f"speech {name} to {speaker}",)) for name in others
        }
    return rules


@cache
def _grammar() -> dict[str, Rule]:
    """Every rule by its name. A play begins with the rule START."""
    rhymes = {ending: [onset + ending for onset in onsets.split()] for ending, onsets in RHYMES.items()}
    finals = [(word, ending) for ending, words in rhymes.items() for word in words]
    nouns = NOUNS.split() + [word for word, _ in finals]
    lists = {"noun": nouns, "adjective": ADJECTIVES.split(), "verb": VERBS.split()}
    lists |= {"noun coda": NOUN_CODAS.split(), "adjective coda": ADJECTIVE_CODAS.split()}
    lists["syllable"] = [onset + vowel for onset in ONSETS.split() for vowel in "aeiou"]
    lists["middle"] = [middle + vowel for middle in MIDDLES.split() for vowel in "aeiou"]
    lists["twice"] = [f"{noun}, O {noun}, " for noun in nouns]
    rules = {name: _words(words) for name, words in lists.items()}
    rules |= {name: _templates(templates) for name, templates in PHRASES.items()}
    for rhyme in ["", *rhymes]:
        rules |= {name.replace("@", rhyme): _templates(templates, rhyme) for name, templates in LINES.items()}
    for mark, pause, stop in (".", "pause", "stop"), ("?", "?\n", "?\n"), ("!", "!\n", "!\n"):
        rules["end" + mark] = {word: (1, (pause, "line" + ending)) for word, ending in finals}
        for word, ending in finals:
            rules.setdefault(f"end{mark}{ending}", {})[word] = 1, (stop,)
    rules |= _speeches(rules["line"])
    called = [name for choices in rules.values() for _, tail in choices.values() for name in tail]
    literals: dict[str, Choices] = {name: {name: (1, ())} for name in called if name not in rules}
    return {name: _rule(choices) for name, choices in (rules | literals).items()}


def _xorshift32(seed: int) -> Iterator[int]:
    """The whole numbers from 1 to 2**32 - 1 in a scrambled order (Marsaglia 2003, "Xorshift RNGs")."""
    state = seed
    while True:
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        yield state


def generate_play(length: int = LENGTH, seed: int = SEED) -> str:
    """The first `length` symbols of the play that `seed` (1 to 2**32 - 1) gives, the same on every machine.

    Raises ValueError if `length` is not a whole number from 0 up, or `seed` is out of its range.
    """
    if not isinstance(length, int) or length < 0:
        raise ValueError(f"length must be an int from 0 up, not {length!r}: pass one such as 1000.")
    if not isinstance(seed, int) or not 0 < seed < 2**32:
        raise ValueError(f"seed must be an int from 1 to 2**32 - 1, not {seed!r}: pass one such as {SEED}.")
    rules, stack, pieces, size = _grammar(), [START], [""], 0
    draws = _xorshift32(seed)
    while size < length:
        bag = rules[stack.pop()].bag
        # Integers only: a float might be rounded differently elsewhere.
        head, tail = bag[next(draws) * len(bag) >> 32]
        pieces.append(head)
        stack += tail[::-1]
        size += len(head)
    return "".join(pieces)[:length]


def log_probabilities(text: str) -> np.ndarray:
    """The natural logarithm (nats) of the probability of each symbol of `text`, given all symbols before it.

    `text` is the beginning of a play and may stop anywhere; the result has shape (len(text),).
    A symbol's probability is the share of the bag that begins with it too, among what begins as read so far.
    Raises ValueError, with the place, at the first symbol that the grammar cannot write there.
    """
    rules, stack, at = _grammar(), [START], 0
    before, after = [], []
    while at < len(text):
        _, tails, ways = rules[stack.pop()]
        head = ""
        while head not in tails and at < len(text):
            before.append(ways[head])
            head += text[at]
            if head not in ways:
                line = text.count("\n", 0, at) + 1
                raise ValueError(
                    f"The grammar cannot write {text[at]!r} at position {at} (line {line}): "
                    "pass a text that generate_play wrote."
                )
            after.append(ways[head])
            at += 1
        stack += tails.get(head, ())[::-1]
    result: np.ndarray = np.log(np.array(after, dtype=float) / np.array(before, dtype=float))
    return result


def lowest_loss() -> float:
    """The entropy rate of the play, in nats per symbol: no model can expect a lower loss.

    Exact, from the grammar alone (Shannon 1948, section 7): the entropy of all choices over the length of
    all heads, each rule counted as often as it is called. In the long run visits = visits @ calls, where
    calls[i, j] is how often rule i calls rule j on average.
    """
    rules = _grammar()
    index = {name: i for i, name in enumerate(rules)}
    calls = np.zeros((len(rules), len(rules)))
    entropy, symbols = np.zeros(len(rules)), np.zeros(len(rules))
    for i, rule in enumerate(rules.values()):
        for head, tail in rule.tails.items():
            p = rule.ways[head] / len(rule.bag)
            entropy[i] -= p * np.log(p)
            symbols[i] += p * len(head)
            for name in tail:
                calls[i, index[name]] += p
    # One equation follows from the others. In its place: START is called once.
    system, once = calls.T - np.eye(len(rules)), np.zeros(len(rules))
    once[index[START]] = 1
    system[index[START]] = once
    visits = np.linalg.solve(system, once)
    return float(visits @ entropy / (visits @ symbols))
