"""NLVR2-style pairs: a statement about two scenes, true or false."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .scenes import PAIRS, Scene, Subject, draw_key, draw_subject, near_misses, pick, place


@dataclass(frozen=True)
class Kind:
    """A kind of statement about two images: its wordings, its truth given how many matching objects the left and the
    right image hold, and the pairs of counts that are drawn for true and for false statements.

    The counts are chosen so that neither image alone decides, except where the statement is about one image: there,
    the other image's count is independent of the label.
    """

    templates: tuple[str, ...]
    holds: Callable[[int, int], bool]
    true_counts: tuple[tuple[int, int], ...]
    false_counts: tuple[tuple[int, int], ...]
    weight: float


_MORE, _FEWER = ((1, 0), (2, 1)), ((0, 1), (1, 2))
KINDS = {
    "both": Kind(
        ("both images contain {one}", "there is {one} in both images"),
        lambda left, right: left > 0 and right > 0,
        ((1, 1),),
        ((1, 0), (0, 1)),
        weight=0.25,
    ),
    "neither": Kind(
        ("neither image contains {one}", "there is {one} in neither image"),
        lambda left, right: left == 0 and right == 0,
        ((0, 0),),
        ((1, 0), (0, 1)),
        weight=0.1,
    ),
    "at_least_one": Kind(
        ("at least one image contains {one}",),
        lambda left, right: left > 0 or right > 0,
        ((1, 0), (0, 1)),
        ((0, 0),),
        weight=0.1,
    ),
    "exactly_one": Kind(
        ("exactly one image contains {one}",),
        lambda left, right: (left > 0) != (right > 0),
        ((1, 0), (0, 1)),
        ((0, 0), (1, 1)),
        weight=0.05,
    ),
    "left": Kind(
        ("the left image contains {one}", "there is {one} in the left image"),
        lambda left, right: left > 0,
        ((1, 0), (1, 1)),
        ((0, 1), (0, 0)),
        weight=0.22,
    ),
    "right": Kind(
        ("the right image contains {one}", "there is {one} in the right image"),
        lambda left, right: right > 0,
        ((0, 1), (1, 1)),
        ((1, 0), (0, 0)),
        weight=0.22,
    ),
    "more_left": Kind(
        ("the left image has more {many} than the right image",),
        lambda left, right: left > right,
        _MORE,
        (*_FEWER, (1, 1)),
        weight=0.03,
    ),
    "more_right": Kind(
        ("the right image has more {many} than the left image",),
        lambda left, right: right > left,
        _FEWER,
        (*_MORE, (1, 1)),
        weight=0.03,
    ),
}


@dataclass(frozen=True)
class Statement:
    """A statement about two scenes, of one of `KINDS`."""

    kind: str
    subject: Subject
    text: str

    def holds(self, left: Scene, right: Scene) -> bool:
        """Whether the statement is true of these two scenes."""
        return KINDS[self.kind].holds(self.subject.count(left), self.subject.count(right))


@dataclass(frozen=True)
class ScenePair:
    """Two scenes, a statement about them, and whether it is true."""

    left: Scene
    right: Scene
    statement: Statement
    label: bool


def make_pair(seed: int, split: str, index: int) -> ScenePair:
    """The pair number `index` of a split.

    Pairs 2k and 2k + 1 carry the same statement, once true and once false: the text says nothing about the label.

    Raises:
        ValueError: for a split that is not one of `SPLITS`, or a negative seed.
    """
    couple = np.random.default_rng(draw_key(seed, split, PAIRS, index // 2))
    statement = _make_statement(couple)
    first_is_true = bool(couple.integers(2))
    kind = KINDS[statement.kind]
    wanted = first_is_true == (index % 2 == 0)

    key = draw_key(seed, split, PAIRS, index)
    rng = np.random.default_rng([*key, 0])
    counts = pick(rng, kind.true_counts if wanted else kind.false_counts)
    left, right = _pair_scenes(rng, key, statement.subject, counts)
    return ScenePair(left, right, statement, label=statement.holds(left, right))


def _make_statement(rng: np.random.Generator) -> Statement:
    name = tuple(KINDS)[rng.choice(len(KINDS), p=[kind.weight for kind in KINDS.values()])]
    subject = draw_subject(rng)
    text = pick(rng, KINDS[name].templates).format(one=f"a {subject.noun}", many=f"{subject.noun}s")
    return Statement(name, subject, text)


def _pair_scenes(
    rng: np.random.Generator, key: tuple[int, ...], subject: Subject, counts: tuple[int, int]
) -> tuple[Scene, Scene]:
    """Two scenes of two or three objects, `counts` of which match the subject.

    Whatever the counts, the two images have one look in common: the matching one if both have it, otherwise one that
    nearly matches. So "the images share something" does not give the label away, and a false image is a near miss.
    """
    matching, others = subject.looks
    match = pick(rng, matching)
    near_miss = pick(rng, near_misses(subject, match))
    scenes = []
    for side, count in enumerate(counts):
        looks = [match, *(pick(rng, matching) for _ in range(count - 1))][:count]
        if 0 in counts:
            looks.append(near_miss)
        num_objects = rng.integers(2, 4)
        looks += [pick(rng, others) for _ in range(num_objects - len(looks))]
        scenes.append(Scene(place(rng, looks), (*key, 1 + side)))
    return scenes[0], scenes[1]
