"""Captions: for pretraining, some that say all and some that hint; for retrieval, ones that fit no other picture."""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .scenes import (
    CELLS,
    FULL_SCENES,
    LOOKS,
    SPLITS,
    Scene,
    ShapeObject,
    draw_key,
    in_words,
    pick,
    place,
)


NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
LISTING_TEMPLATES = ("{}", "an image of {}", "a picture with {}")
# The wording of the statements about pairs, for one image: what pretraining learns of it carries over to them.
PRESENCE_TEMPLATES = ("the image contains {}", "there is {} in the image")
RELATIONS = ("left of", "right of", "above", "below")
_NUM_FULL_CAPTIONS = 4
_NUM_FULL_SCENES = len(LOOKS) ** len(CELLS)


def describe(scene: Scene) -> list[str]:
    """Four different captions, each true of the scene: the first names all of its objects, the last only hints at some."""
    rng = scene.rng(purpose=2)
    makers = [_sized_listing, _positions] + ([_relation] if len(scene.objects) > 1 else [])
    chosen = rng.permutation(len(makers))[:2]
    return [_listing(scene, rng), *(makers[i](scene, rng) for i in chosen), _presence(scene, rng)]


def make_full_scene(seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split for retrieval: four objects, and no other scene of this seed, whatever the
    split, has the same looks in the same cells.

    Raises:
        ValueError: for a split that is not one of `SPLITS`, a negative seed, or an index for which no scene is left.
    """
    key = draw_key(seed, split, FULL_SCENES, index)
    number = index * len(SPLITS) + SPLITS.index(split)
    if number >= _NUM_FULL_SCENES:
        raise ValueError(
            f"there are {_NUM_FULL_SCENES // len(SPLITS):,} different scenes of four objects for {split}: "
            f"expected a lower index than {index}"
        )
    looks = np.unravel_index(_order(seed)[number], [len(LOOKS)] * len(CELLS))
    return Scene(place(np.random.default_rng(key), [LOOKS[look] for look in looks], CELLS), key)


def describe_fully(scene: Scene) -> list[str]:
    """Four different captions, each of which says of every object what it is and where."""
    rng = scene.rng(purpose=3)
    captions: list[str] = []
    while len(captions) < _NUM_FULL_CAPTIONS:
        phrases = [place_phrase(scene.objects[i]) for i in rng.permutation(len(scene.objects))]
        caption = pick(rng, LISTING_TEMPLATES).format(join(phrases))
        if caption not in captions:
            captions.append(caption)
    return captions


def join(phrases: Sequence[str]) -> str:
    """An enumeration: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def list_groups(nouns: Sequence[str], rng: np.random.Generator) -> str:
    """A listing of all the nouns, equal ones counted, in random order and wording."""
    groups = list(Counter(nouns).items())
    phrases = [f"{NUMBERS[count]} {noun}" + ("s" if count > 1 else "") for noun, count in groups]
    return pick(rng, LISTING_TEMPLATES).format(join([phrases[i] for i in rng.permutation(len(phrases))]))


def place_phrase(item: ShapeObject) -> str:
    """What an object is and where."""
    return f"a {item.noun} at the {in_words((item.row, item.column))}"


@functools.cache
def _order(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, FULL_SCENES]).permutation(_NUM_FULL_SCENES)


def _listing(scene: Scene, rng: np.random.Generator) -> str:
    return list_groups([o.noun for o in scene.objects], rng)


def _sized_listing(scene: Scene, rng: np.random.Generator) -> str:
    return list_groups([f"{o.size} {o.noun}" for o in scene.objects], rng)


def _positions(scene: Scene, rng: np.random.Generator) -> str:
    return join([place_phrase(scene.objects[i]) for i in rng.permutation(len(scene.objects))[:2]])


def _presence(scene: Scene, rng: np.random.Generator) -> str:
    chosen = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:2]]
    looks = [pick(rng, [f"a {o.noun}", f"a {o.colour} shape", f"a {o.shape}"]) for o in chosen]
    return pick(rng, PRESENCE_TEMPLATES).format(join(looks))


def _relation(scene: Scene, rng: np.random.Generator) -> str:
    first, second = (scene.objects[i] for i in rng.permutation(len(scene.objects))[:2])
    holding = (
        first.column < second.column,
        first.column > second.column,
        first.row < second.row,
        first.row > second.row,
    )
    relation = pick(rng, [name for name, holds in zip(RELATIONS, holding, strict=True) if holds])
    return f"a {first.noun} {relation} a {second.noun}"
