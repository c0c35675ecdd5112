"""Captions: for pretraining, some that say all and some that hint; for retrieval, ones that fit no other picture."""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .scenes import CELLS, FULL_SCENES, LOOKS, SPLITS, Scene, ShapeObject, draw_key, in_words, pick, place


NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
LISTING_TEMPLATES = ("{}", "an image of {}", "a picture with {}")
# The wording of the statements about pairs, for one image: what pretraining learns of it carries over to them.
PRESENCE_TEMPLATES = ("the image contains {}", "there is {} in the image")
RELATIONS = ("left of", "right of", "above", "below")
_NUM_FULL_CAPTIONS = 4
_NUM_FULL_SCENES = len(LOOKS) ** len(CELLS)


def describe(scene: Scene) -> list[str]:
    """Return four different true captions: the first names all objects, the last only hints at some."""
    rng = scene.rng(purpose=2)
    makers = [_sized_listing, _positions] + ([_relation] if len(scene.objects) > 1 else [])
    chosen = rng.permutation(len(makers))[:2]
    listing = list_groups([item.noun for item in scene.objects], rng)
    return [listing, *(makers[i](scene, rng) for i in chosen), _presence(scene, rng)]


def make_full_scene(seed: int, split: str, index: int) -> Scene:
    """Return the scene number `index` of a split for retrieval: four objects, and no other scene of this seed in any
    split has the same looks in the same cells. Raise `ValueError` as `draw_key` does, or if no scene is left."""
    key = draw_key(seed, split, FULL_SCENES, index)
    number = index * len(SPLITS) + SPLITS.index(split)
    if number >= _NUM_FULL_SCENES:
        fault = f"there are {_NUM_FULL_SCENES // len(SPLITS):,} different scenes of four objects for {split}"
        raise ValueError(f"{fault}: expected a lower index than {index}")
    looks = np.unravel_index(_order(seed)[number], [len(LOOKS)] * len(CELLS))
    return Scene(place(np.random.default_rng(key), [LOOKS[look] for look in looks], CELLS), key)


def describe_fully(scene: Scene) -> list[str]:
    """Return four different captions, each of which says of every object what it is and where."""
    # The keys of a dictionary: different, and in order.
    rng, captions = scene.rng(purpose=3), {}
    while len(captions) < _NUM_FULL_CAPTIONS:
        phrases = join(_shuffled([place_phrase(item) for item in scene.objects], rng))
        captions[pick(rng, LISTING_TEMPLATES).format(phrases)] = None
    return list(captions)


def join(phrases: Sequence[str]) -> str:
    """Return an enumeration: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def list_groups(nouns: Sequence[str], rng: np.random.Generator) -> str:
    """Return a listing of the nouns in random order and wording; equal ones are counted."""
    groups = list(Counter(nouns).items())
    phrases = [f"{NUMBERS[count]} {noun}" + ("s" if count > 1 else "") for noun, count in groups]
    return pick(rng, LISTING_TEMPLATES).format(join(_shuffled(phrases, rng)))


def place_phrase(item: ShapeObject) -> str:
    """Return what an object is and where."""
    return f"a {item.noun} at the {in_words((item.row, item.column))}"


def _shuffled(items: Sequence, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


@functools.cache
def _order(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, FULL_SCENES]).permutation(_NUM_FULL_SCENES)


def _sized_listing(scene: Scene, rng: np.random.Generator) -> str:
    return list_groups([f"{o.size} {o.noun}" for o in scene.objects], rng)


def _positions(scene: Scene, rng: np.random.Generator) -> str:
    return join([place_phrase(item) for item in _shuffled(scene.objects, rng)[:2]])


def _presence(scene: Scene, rng: np.random.Generator) -> str:
    chosen = _shuffled(scene.objects, rng)[:2]
    looks = [pick(rng, [f"a {o.noun}", f"a {o.colour} shape", f"a {o.shape}"]) for o in chosen]
    return pick(rng, PRESENCE_TEMPLATES).format(join(looks))


def _relation(scene: Scene, rng: np.random.Generator) -> str:
    first, second = _shuffled(scene.objects, rng)[:2]
    right, below = first.column - second.column, first.row - second.row
    relation = pick(rng, [name for name, by in zip(RELATIONS, (-right, right, -below, below), strict=True) if by > 0])
    return f"a {first.noun} {relation} a {second.noun}"
