"""SNLI-VE-style entailments: does a scene make a hypothesis true, make it false, or leave it open?"""

from dataclasses import dataclass

import numpy as np

from .. import schemas
from .captions import PRESENCE_TEMPLATES, list_groups
from .scenes import COLOURS, COVERED, ENTAILMENTS, SHAPES, Scene, Subject, draw_key, pick, pick_skewed, place


ENTAILMENT_CLASSES = schemas.classes_of(schemas.SNLI_VE)


@dataclass(frozen=True)
class Entailment:
    """A scene, a caption that lists its visible shapes, and the hypothesis that an object matches `subject`, which has
    a colour and a shape."""

    scene: Scene
    premise: str
    subject: Subject
    hypothesis: str

    @property
    def label(self) -> str:
        """Return one of `ENTAILMENT_CLASSES`; neutral if the match may be under the cover."""
        looks = [item.look for item in self.scene.objects]
        if (self.subject.colour, self.subject.shape) in looks:
            return "entailment"
        return "neutral" if COVERED in looks else "contradiction"


def make_entailment(seed: int, split: str, index: int) -> Entailment:
    """
    Return the entailment number `index` of a split; raise `ValueError` as `draw_key` does.

    Three in a row, from 3k on, have one hypothesis and all three labels, and the premise always names its shape: the
    text says nothing about the label. Half of the scenes have something covered; that alone decides two of three.
    """
    triple = np.random.default_rng(draw_key(seed, split, ENTAILMENTS, index // 3))
    subject = Subject(pick_skewed(triple, tuple(COLOURS)), pick(triple, SHAPES))
    hypothesis = pick(triple, PRESENCE_TEMPLATES).format(f"a {subject.noun}")
    label = ENTAILMENT_CLASSES[triple.permutation(3)[index % 3]]
    key = draw_key(seed, split, ENTAILMENTS, index)
    rng = np.random.default_rng([*key, 0])
    scene = Scene(place(rng, _entailment_looks(rng, subject, label)), key)
    shown = [item.shape for item in scene.objects if item.look != COVERED]
    return Entailment(scene, list_groups(shown, rng), subject, hypothesis)


def _entailment_looks(rng: np.random.Generator, subject: Subject, label: str) -> list[tuple[str, str]]:
    """Return two or three objects, one of them of the subject's shape, and in half of the scenes a covered one beside them."""
    others = [colour for colour in COLOURS if colour != subject.colour]
    shapes = [shape for shape in SHAPES if shape != subject.shape]
    looks = [(subject.colour if label == "entailment" else pick(rng, others), subject.shape)]
    looks += [(pick(rng, tuple(COLOURS)), pick(rng, shapes)) for _ in range(rng.integers(1, 3))]
    covered = {"contradiction": False, "neutral": True, "entailment": bool(rng.integers(2))}[label]
    return looks + [COVERED] * covered
