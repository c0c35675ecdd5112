"""NLVR2-style pairs: a statement about two scenes, true or false."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .scenes import PAIRS, Scene, Subject, draw_key, pick, place


@dataclass(frozen=True)
class Kind:
    """A kind of statement about two images: its share of the statements, its truth given how many matching objects the
    left and the right image hold, the pairs of counts that are drawn, and its wordings. Neither image's count alone
    decides. If the statement is about one image, the other image's count is independent of the label."""

    weight: float
    holds: Callable[[int, int], bool]
    counts: tuple[tuple[int, int], ...]
    templates: tuple[str, ...]


_UNEQUAL = ((1, 0), (2, 1), (0, 1), (1, 2), (1, 1))
KINDS = {
    "both": Kind(
        0.25,
        lambda left, right: min(left, right) > 0,
        ((1, 1), (1, 0), (0, 1)),
        ("both images contain {one}", "there is {one} in both images"),
    ),
    "neither": Kind(
        0.1,
        lambda left, right: max(left, right) == 0,
        ((0, 0), (1, 0), (0, 1)),
        ("neither image contains {one}", "there is {one} in neither image"),
    ),
    "at_least_one": Kind(
        0.1, lambda left, right: max(left, right) > 0, ((1, 0), (0, 1), (0, 0)), ("at least one image contains {one}",)
    ),
    "exactly_one": Kind(
        0.05,
        lambda left, right: (left > 0) != (right > 0),
        ((1, 0), (0, 1), (0, 0), (1, 1)),
        ("exactly one image contains {one}",),
    ),
    "left": Kind(
        0.22,
        lambda left, right: left > 0,
        ((1, 0), (1, 1), (0, 1), (0, 0)),
        ("the left image contains {one}", "there is {one} in the left image"),
    ),
    "right": Kind(
        0.22,
        lambda left, right: right > 0,
        ((0, 1), (1, 1), (1, 0), (0, 0)),
        ("the right image contains {one}", "there is {one} in the right image"),
    ),
    "more_left": Kind(
        0.03, lambda left, right: left > right, _UNEQUAL, ("the left image has more {many} than the right image",)
    ),
    "more_right": Kind(
        0.03, lambda left, right: right > left, _UNEQUAL, ("the right image has more {many} than the left image",)
    ),
}


@dataclass(frozen=True)
class Statement:
    """A statement about two scenes, of one of `KINDS`."""

    kind: str
    subject: Subject
    text: str

    def holds(self, left: Scene, right: Scene) -> bool:
        """Return whether the statement is true of these two scenes."""
        return KINDS[self.kind].holds(self.subject.count(left), self.subject.count(right))


@dataclass(frozen=True)
class ScenePair:
    """Two scenes, a statement about them, and whether it is true."""

    left: Scene
    right: Scene
    statement: Statement
    label: bool


def make_pair(seed: int, split: str, index: int) -> ScenePair:
    """Return the pair number `index` of a split; raise `ValueError` as `draw_key` does. Pairs 2k and 2k + 1 have the
    same statement, once true and once false: the text says nothing about the label."""
    couple = np.random.default_rng(draw_key(seed, split, PAIRS, index // 2))
    statement = _make_statement(couple)
    first_is_true = bool(couple.integers(2))
    kind = KINDS[statement.kind]
    wanted = first_is_true == (index % 2 == 0)

    key = draw_key(seed, split, PAIRS, index)
    rng = np.random.default_rng([*key, 0])
    counts = pick(rng, [counts for counts in kind.counts if kind.holds(*counts) == wanted])
    left, right = _pair_scenes(rng, key, statement.subject, counts)
    return ScenePair(left, right, statement, label=statement.holds(left, right))


def _make_statement(rng: np.random.Generator) -> Statement:
    name = tuple(KINDS)[rng.choice(len(KINDS), p=[kind.weight for kind in KINDS.values()])]
    subject = Subject.draw(rng)
    text = pick(rng, KINDS[name].templates).format(one=f"a {subject.noun}", many=f"{subject.noun}s")
    return Statement(name, subject, text)


def _pair_scenes(
    rng: np.random.Generator, key: tuple[int, ...], subject: Subject, counts: tuple[int, int]
) -> tuple[Scene, Scene]:
    """Return two scenes of two or three objects, `counts` of which match the subject.

    Whatever the counts, the two images have one look in common: the matching one if both have it, otherwise one that
    nearly matches. So "the images share something" does not give the label away, and a false image is a near miss.
    """
    matching, others = subject.looks
    match = pick(rng, matching)
    near_miss = pick(rng, subject.near_misses(match))
    scenes = []
    for side, count in enumerate(counts):
        looks = [match, *(pick(rng, matching) for _ in range(count - 1))][:count]
        if 0 in counts:
            looks.append(near_miss)
        looks += [pick(rng, others) for _ in range(rng.integers(2, 4) - len(looks))]
        scenes.append(Scene(place(rng, looks), (*key, 1 + side)))
    return scenes[0], scenes[1]
