"""The generated data sets: the columns of a task's schema, made of what is drawn for a row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Features, Image

from .. import schemas
from .captions import describe, describe_fully, make_full_scene
from .drawing import encode_scene
from .entailments import ENTAILMENT_CLASSES, make_entailment
from .pairs import make_pair
from .posts import POST_CLASSES, make_post
from .questions import make_question
from .references import REFERENCE_SPLITS, make_reference
from .scenes import LOOKS, SPLITS, make_scene, make_single, make_told_scene
from .text_pairs import PARAPHRASE_CLASSES, make_text_pair


LOOK_CLASSES = tuple(" ".join(look) for look in LOOKS)


@dataclass(frozen=True)
class DataSet:
    """A generated data set: `make` draws the scenes and texts of a row from seed, split and index; `columns` makes the
    row's columns, except its id, of these and the side of the images in pixels."""

    make: Callable[[int, str, int], Any]
    columns: Callable[[Any, int], dict]
    features: Features
    splits: tuple[str, ...] = SPLITS

    def rows(self, split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
        """Yield the first `num` rows; raise `ValueError` for an unknown split, a negative seed or too small images."""
        name = "id" if "id" in self.features else "image_id"
        for index in range(num):
            made = self.make(seed, split, index)
            row = {name: f"shapes-{seed}-{split}-{index}", **self.columns(made, image_size)}
            yield {column: row[column] for column in self.features}


def _captions(scene, size: int, describe=describe) -> dict:
    return {"image": encode_scene(scene, size), "captions": describe(scene)}


def _pair(made, size: int) -> dict:
    images = [encode_scene(scene, size) for scene in (made.left, made.right)]
    return {"images": images, "text": made.statement.text, "label": int(made.label)}


def _entailment(made, size: int) -> dict:
    texts = {"text": made.hypothesis, "premise": made.premise}
    return {"image": encode_scene(made.scene, size), **texts, "label": ENTAILMENT_CLASSES.index(made.label)}


def _post(made, size: int) -> dict:
    return {"image": encode_scene(made.scene, size), "text": made.text, "label": POST_CLASSES.index(made.label)}


def _question(made, size: int) -> dict:
    return {"image": encode_scene(made.scene, size), "text": made.text, "answers": list(made.answers)}


def _reference(made, size: int) -> dict:
    boxes = {"boxes": made.boxes(size), "label": made.label}
    return {"image": encode_scene(made.scene, size), "text": made.expression, **boxes}


def _text_pair(made, size: int) -> dict:
    text, text_pair = made.texts
    return {"text": text, "text_pair": text_pair, "label": PARAPHRASE_CLASSES.index(made.label)}


def _document(scene, size: int) -> dict:
    return {"text": ", ".join(describe(scene)[:3])}


def _single(scene, size: int) -> dict:
    return {"image": encode_scene(scene, size), "label": LOOK_CLASSES.index(scene.objects[0].noun)}


_POSTS = schemas.with_label(POST_CLASSES, image=Image(), text=schemas.STRING)
_TEXT_PAIRS = schemas.with_label(PARAPHRASE_CLASSES, text=schemas.STRING, text_pair=schemas.STRING)
#: The data sets by their names, which are those of the tasks. Captions for retrieval fit no other image.
DATA_SETS = {
    "captions": DataSet(make_scene, _captions, schemas.CAPTIONS),
    "retrieval": DataSet(make_full_scene, partial(_captions, describe=describe_fully), schemas.CAPTIONS),
    "nlvr2": DataSet(make_pair, _pair, schemas.NLVR2),
    "snli_ve": DataSet(make_entailment, _entailment, schemas.SNLI_VE),
    "image_text": DataSet(make_post, _post, _POSTS),
    "vqav2": DataSet(make_question, _question, schemas.VQAV2),
    "refcoco": DataSet(make_reference, _reference, schemas.REFCOCO, REFERENCE_SPLITS),
    "glue": DataSet(make_text_pair, _text_pair, _TEXT_PAIRS),
    "documents": DataSet(make_told_scene, _document, schemas.TEXTS),
    "cifar10": DataSet(make_single, _single, schemas.with_label(LOOK_CLASSES, image=Image())),
}
