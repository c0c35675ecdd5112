"""Pairs of sentences about drawn scenes: do they say the same? For text alone."""

import zlib
from dataclasses import dataclass

import numpy as np

from .captions import RELATIONS, join, list_groups
from .scenes import CELLS, COLOURS, LOOKS, SHAPES, SPLITS, TEXT_PAIRS, draw_key, in_words, pick


PARAPHRASE_CLASSES = ("not_equivalent", "equivalent")
_CONVERSE = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
_PAIRS_IN_A_ROW = 4
# Of a hundred facts, so many belong to each split.
_SHARES = {"train": 80, "validation": 10, "test": 10}


@dataclass(frozen=True)
class Fact:
    """The content of a sentence: all looks of a scene ("listing"), two looks and the cell of each ("places"), or two
    looks and their relation ("relation"). `how` holds the cells, or the name of the relation."""

    kind: str
    looks: tuple[tuple[str, str], ...]
    how: tuple = ()

    def same_as(self) -> "Fact":
        """Return one way to write the fact down, the same for facts that mean the same."""
        if self.kind == "relation":
            first, second = self.looks
            return min(self, Fact(self.kind, (second, first), (_CONVERSE[self.how[0]],)), key=repr)
        parts = sorted(zip(self.looks, self.how or self.looks, strict=True))
        return Fact(self.kind, tuple(look for look, _ in parts), self.how and tuple(how for _, how in parts))

    def word(self, rng: np.random.Generator) -> str:
        """Return the fact in one of its wordings."""
        nouns = [" ".join(look) for look in self.looks]
        if self.kind == "listing":
            return list_groups(nouns, rng)
        if self.kind == "places":
            phrases = [f"a {noun} at the {in_words(cell)}" for noun, cell in zip(nouns, self.how, strict=True)]
            return join([phrases[i] for i in rng.permutation(len(phrases))])
        (first, second), relation = nouns, self.how[0]
        if rng.integers(2):
            first, second, relation = second, first, _CONVERSE[relation]
        return f"a {first} {relation} a {second}"


@dataclass(frozen=True)
class TextPair:
    """Two sentences, what each says, and whether that is the same."""

    texts: tuple[str, str]
    facts: tuple[Fact, Fact]

    @property
    def label(self) -> str:
        """Return one of `PARAPHRASE_CLASSES`."""
        first, second = self.facts
        return PARAPHRASE_CLASSES[first.same_as() == second.same_as()]


def make_text_pair(seed: int, split: str, index: int) -> TextPair:
    """
    Return the pair of sentences number `index` of a split; raise `ValueError` as `draw_key` does.

    Four in a row, from 4k on, come from two facts that differ in one thing, each in two wordings. Every first sentence
    comes with each second one, so that each sentence is in one pair with each label, and says nothing about it. No
    fact is in two splits.
    """
    rng = np.random.default_rng(draw_key(seed, split, TEXT_PAIRS, index // _PAIRS_IN_A_ROW))
    while True:
        facts = _two_facts(rng)
        if facts[0].same_as() != facts[1].same_as() and all(_split_of(fact) == split for fact in facts):
            break
    firsts, seconds = [], []
    for fact in facts:
        wording = fact.word(rng)
        firsts.append(wording)
        while wording == firsts[-1]:
            wording = fact.word(rng)
        seconds.append(wording)
    first, second = divmod(int(rng.permutation(_PAIRS_IN_A_ROW)[index % _PAIRS_IN_A_ROW]), 2)
    return TextPair((firsts[first], seconds[second]), (facts[first], facts[second]))


def _two_facts(rng: np.random.Generator) -> tuple[Fact, Fact]:
    """Return a random fact, and one that differs, if it does, in a look, in a cell, or in the relation."""
    kind = pick(rng, ("listing", "places", "relation"))
    num = rng.integers(2, 4) if kind == "listing" else 2
    looks = [pick(rng, LOOKS) for _ in range(num)]
    how = (pick(rng, RELATIONS),) if kind == "relation" else ()
    if kind == "places":
        how = tuple(CELLS[i] for i in rng.permutation(len(CELLS))[:num])
    fact = Fact(kind, tuple(looks), how)
    if how and rng.integers(3) == 0:
        others = RELATIONS if kind == "relation" else [cell for cell in CELLS if cell != how[1]]
        return fact, Fact(kind, fact.looks, (pick(rng, others), *how[1:]))
    at = rng.integers(num)
    colour, shape = looks[at]
    looks[at] = pick(rng, [(pick(rng, tuple(COLOURS)), shape), (colour, pick(rng, SHAPES))])
    return fact, Fact(kind, tuple(looks), how)


def _split_of(fact: Fact) -> str:
    """Return the split to which a fact belongs, in whatever words."""
    share = zlib.crc32(repr(fact.same_as()).encode()) % 100
    return SPLITS[np.searchsorted(np.cumsum([_SHARES[name] for name in SPLITS]), share, side="right")]
