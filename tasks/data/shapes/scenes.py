"""Scenes: what is on a picture, and the draws from which they come."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


COLOURS = {"red": (214, 39, 40), "green": (34, 150, 60), "blue": (40, 80, 215), "yellow": (240, 200, 20)}
SHAPES = ("circle", "square", "triangle", "star")
#: The look of something under a cloth: neither colour nor shape are to be seen.
COVERED = ("unknown", "unknown")
CLOTH = (120, 120, 120)
#: Every look that an object can have, (colour, shape).
LOOKS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
#: The side of an object's box, as a share of the image's side.
SIZES = {"small": 0.3, "large": 0.4}
#: The cells of the grid in reading order, (row, column).
CELLS = [(row, column) for row in range(2) for column in range(2)]
SPLITS = ("train", "validation", "test")

ROWS = ("top", "bottom")
COLUMNS = ("left", "right")
_MARGIN = 0.02
# Few scenes of one object: there are not many different ones, so their captions are true of other images too.
_OBJECT_COUNT_WEIGHTS = (0.1, 0.3, 0.3, 0.3)
SCENES, PAIRS, ENTAILMENTS, QUESTIONS, REFERENCES, TEXT_PAIRS, SINGLES, FULL_SCENES, POSTS, DOCUMENTS = range(10)


@dataclass(frozen=True)
class ShapeObject:
    """One drawn object, which may be `COVERED`: its grid cell, and its tight box (left, top, right, bottom), each a
    share of the image's side from 0 to 1."""

    colour: str
    shape: str
    size: str
    row: int
    column: int
    box: tuple[float, float, float, float]

    @property
    def look(self) -> tuple[str, str]:
        """Return colour and shape."""
        return self.colour, self.shape

    @property
    def noun(self) -> str:
        """Return colour and shape in words."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, and the key from which the randomness of all that is derived from the scene comes."""

    objects: tuple[ShapeObject, ...]
    key: tuple[int, ...]

    def rng(self, purpose: int) -> np.random.Generator:
        """Return a generator of its own for each purpose, so that one derived thing does not change with another."""
        return np.random.default_rng([*self.key, purpose])


@dataclass(frozen=True)
class Subject:
    """What a sentence speaks of: the objects of its colour and its shape; None: of any."""

    colour: str | None
    shape: str | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Subject":
        """Draw a subject that names a colour, a shape, or both."""
        colour, shape = pick_skewed(rng, tuple(COLOURS)), pick_skewed(rng, SHAPES)
        named = rng.choice(("colour", "shape", "both"), p=(0.5, 0.2, 0.3))
        return cls(None if named == "shape" else colour, None if named == "colour" else shape)

    def matches(self, colour: str, shape: str) -> bool:
        """Return whether the sentence speaks of objects of this colour and shape."""
        return self.colour in (None, colour) and self.shape in (None, shape)

    def count(self, scene: Scene) -> int:
        """Return how many objects of the scene it speaks of."""
        return sum(self.matches(*item.look) for item in scene.objects)

    @property
    def noun(self) -> str:
        """Return the subject in words, without an article."""
        return " ".join(filter(None, (self.colour, self.shape or "shape")))

    @property
    def looks(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the looks that match, and the others."""
        matching = [look for look in LOOKS if self.matches(*look)]
        return matching, [look for look in LOOKS if look not in matching]

    def near_misses(self, look: tuple[str, str]) -> list[tuple[str, str]]:
        """Return the looks that do not match, but share the colour or the shape with `look`."""
        return [other for other in self.looks[1] if (other[0] == look[0]) != (other[1] == look[1])]


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Return the scene number `index` of a split; raise `ValueError` as `draw_key` does."""
    return scene_of(draw_key(seed, split, SCENES, index))


def make_told_scene(seed: int, split: str, index: int) -> Scene:
    """Return the scene number `index` of a split that a document tells of and no image shows; raise `ValueError` as `draw_key` does."""
    return scene_of(draw_key(seed, split, DOCUMENTS, index))


def scene_of(key: tuple[int, ...]) -> Scene:
    """Return the scene of one to four objects that is drawn from a key."""
    rng = np.random.default_rng(key)
    num_objects = 1 + rng.choice(len(_OBJECT_COUNT_WEIGHTS), p=_OBJECT_COUNT_WEIGHTS)
    return Scene(place(rng, [pick(rng, LOOKS) for _ in range(num_objects)]), key)


def make_single(seed: int, split: str, index: int) -> Scene:
    """Return the scene number `index` of a split for classification, which has one object."""
    rng = np.random.default_rng(key := draw_key(seed, split, SINGLES, index))
    return Scene(place(rng, [pick(rng, LOOKS)]), key)


def draw_key(seed: int, split: str, stream: int, index: int, splits: Sequence[str] = SPLITS) -> tuple[int, ...]:
    """Return the key of the random draws for item `index` of a split; each kind of item has a stream of its own. Raise
    `ValueError` if the split is not one of `splits` or the seed is negative."""
    if split not in splits:
        raise ValueError(f"split is {split!r}: expected one of {', '.join(splits)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected 0 or more")
    return (seed, splits.index(split), stream, index)


def pick(rng: np.random.Generator, choices: Sequence):
    """Draw one of `choices`, all equally likely."""
    return choices[rng.integers(len(choices))]


def pick_skewed(rng: np.random.Generator, choices: Sequence):
    """Draw one of `choices`, each half as likely as the one before it: if all words were as frequent, small models
    from scratch stayed at chance for thousands of steps."""
    weights = 0.5 ** np.arange(len(choices))
    return choices[rng.choice(len(choices), p=weights / weights.sum())]


def place(
    rng: np.random.Generator, looks: Sequence[tuple[str, str]], cells: Sequence[tuple[int, int]] | None = None
) -> tuple[ShapeObject, ...]:
    """Return objects of these looks at random places inside `cells`, by default random ones; they do not overlap."""
    if cells is None:
        cells = [CELLS[cell] for cell in rng.permutation(len(CELLS))[: len(looks)]]
    objects = []
    for (row, column), (colour, shape) in zip(cells, looks, strict=True):
        size = pick(rng, tuple(SIZES))
        half = SIZES[size] / 2
        slack = 0.25 - half - _MARGIN
        x, y = (0.25 + 0.5 * at + rng.uniform(-slack, slack) for at in (column, row))
        objects.append(ShapeObject(colour, shape, size, row, column, (x - half, y - half, x + half, y + half)))
    return tuple(sorted(objects, key=lambda item: (item.row, item.column)))


def in_words(cell: tuple[int, int]) -> str:
    """Return the place of a cell in words."""
    return f"{ROWS[cell[0]]} {COLUMNS[cell[1]]}"
