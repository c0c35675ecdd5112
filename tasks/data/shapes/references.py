"""RefCOCO-style referring expressions: which object of a scene is meant?"""

from dataclasses import dataclass

import numpy as np

from .scenes import COLOURS, REFERENCES, SHAPES, Scene, Subject, draw_key, pick, pick_skewed, place


#: As in RefCOCO, the two test splits differ in what is told apart: in testA objects of one shape, in testB of one colour.
REFERENCE_SPLITS = ("train", "validation", "testA", "testB")
REFERENCE_TEMPLATES = ("the {}", "{}")


@dataclass(frozen=True)
class Reference:
    """A scene, the order in which its objects' boxes are listed, an expression that fits exactly one object, and the
    place of that one in the list."""

    scene: Scene
    order: tuple[int, ...]
    subject: Subject
    expression: str
    label: int

    def boxes(self, image_size: int) -> list[list[float]]:
        """Return [left, top, width, height] of every object in pixels."""
        boxes = [self.scene.objects[i].box for i in self.order]
        return [[image_size * edge for edge in (x, y, right - x, bottom - y)] for x, y, right, bottom in boxes]


def make_reference(seed: int, split: str, index: int) -> Reference:
    """
    Return the referring expression number `index` of one of `REFERENCE_SPLITS`; raise `ValueError` as `draw_key` does.

    The object is drawn first, all of a scene's equally likely, and then an expression for it. It speaks of looks and
    not of places: a model that sees each object cut out cannot tell where it was. Boxes are listed in random order.
    """
    key = draw_key(seed, split, REFERENCES, index, REFERENCE_SPLITS)
    rng = np.random.default_rng([*key, 0])
    same = {"testA": "shape", "testB": "colour"}.get(split) or pick(rng, ("shape", "colour", "neither"))
    looks = _different_looks(rng, same, num=rng.integers(2, 5))
    scene = Scene(place(rng, looks), key)
    order = tuple(int(i) for i in rng.permutation(len(looks)))
    label = int(rng.integers(len(looks)))

    colour, shape = scene.objects[order[label]].look
    subjects = [Subject(colour, shape), Subject(colour, None), Subject(None, shape)]
    subject = pick(rng, [subject for subject in subjects if subject.count(scene) == 1])
    return Reference(scene, order, subject, pick(rng, REFERENCE_TEMPLATES).format(subject.noun), label)


def _different_looks(rng: np.random.Generator, same: str, num: int) -> list[tuple[str, str]]:
    """Return `num` different looks with the same shape, with the same colour, or any."""
    colour = pick_skewed(rng, tuple(COLOURS)) if same == "colour" else None
    shape = pick_skewed(rng, SHAPES) if same == "shape" else None
    looks, _ = Subject(colour, shape).looks
    return [looks[i] for i in rng.permutation(len(looks))[:num]]
