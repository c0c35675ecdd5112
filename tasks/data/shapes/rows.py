"""The rows of the prepared data sets, one generator a task, each called with a split, how many rows, a seed and the side of the
images in pixels. All raise `ValueError` at the first row for an unknown split, a negative seed or too small an image size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Features, Image

from .. import schemas
from ..schemas import STRING
from .captions import describe, describe_fully, make_full_scene
from .drawing import encode_scene
from .entailments import ENTAILMENT_CLASSES, make_entailment
from .pairs import make_pair
from .questions import make_question
from .references import REFERENCE_SPLITS, make_reference
from .scenes import LOOKS, SPLITS, make_scene, make_single
from .text_pairs import PARAPHRASE_CLASSES, make_text_pair


LOOK_CLASSES = tuple(" ".join(look) for look in LOOKS)


def caption_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Drawn scenes with four captions each, for pretraining."""
    for name, scene in _made(make_scene, split, num, seed):
        yield {"image": encode_scene(scene, image_size), "image_id": name, "captions": describe(scene)}


def retrieval_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Drawn scenes with four captions each, none of which is true of another one, for retrieval."""
    for name, scene in _made(make_full_scene, split, num, seed):
        yield {"image": encode_scene(scene, image_size), "image_id": name, "captions": describe_fully(scene)}


def pair_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Statements about two drawn scenes, true or false, for NLVR2."""
    for name, pair in _made(make_pair, split, num, seed):
        images = [encode_scene(scene, image_size) for scene in (pair.left, pair.right)]
        yield {"id": name, "images": images, "text": pair.statement.text, "label": int(pair.label)}


def entailment_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Hypotheses about drawn scenes, with a premise, for SNLI-VE."""
    for name, made in _made(make_entailment, split, num, seed):
        yield {
            "id": name,
            "image": encode_scene(made.scene, image_size),
            "text": made.hypothesis,
            "premise": made.premise,
            "label": ENTAILMENT_CLASSES.index(made.label),
        }


def question_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Questions about drawn scenes, with ten answers each, for VQAv2."""
    for name, made in _made(make_question, split, num, seed):
        image = encode_scene(made.scene, image_size)
        yield {"id": name, "image": image, "text": made.text, "answers": list(made.answers)}


def reference_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Referring expressions for objects of drawn scenes, with the boxes of all of them, for RefCOCO."""
    for name, made in _made(make_reference, split, num, seed):
        yield {
            "id": name,
            "image": encode_scene(made.scene, image_size),
            "text": made.expression,
            "boxes": made.boxes(image_size),
            "label": made.label,
        }


def text_pair_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Pairs of sentences that say the same, or not, for GLUE. There are no images."""
    for name, made in _made(make_text_pair, split, num, seed):
        text, text_pair = made.texts
        yield {"id": name, "text": text, "text_pair": text_pair, "label": PARAPHRASE_CLASSES.index(made.label)}


def single_rows(split: str, num: int, seed: int = 0, image_size: int = 64) -> Iterator[dict]:
    """Drawn scenes of one object and what it is, for CIFAR-10."""
    for name, scene in _made(make_single, split, num, seed):
        label = LOOK_CLASSES.index(scene.objects[0].noun)
        yield {"id": name, "image": encode_scene(scene, image_size), "label": label}


@dataclass(frozen=True)
class DataSet:
    """The generator of a data set's rows, their schema, and the splits."""

    rows: Callable[[str, int, int, int], Iterator[dict]]
    features: Features
    splits: tuple[str, ...] = SPLITS


#: The data sets by their names, which are those of the tasks.
DATA_SETS = {
    "captions": DataSet(caption_rows, schemas.CAPTIONS),
    "retrieval": DataSet(retrieval_rows, schemas.CAPTIONS),
    "nlvr2": DataSet(pair_rows, schemas.NLVR2),
    "snli_ve": DataSet(entailment_rows, schemas.SNLI_VE),
    "vqav2": DataSet(question_rows, schemas.VQAV2),
    "refcoco": DataSet(reference_rows, schemas.REFCOCO, REFERENCE_SPLITS),
    "glue": DataSet(text_pair_rows, schemas.with_label(PARAPHRASE_CLASSES, text=STRING, text_pair=STRING)),
    "cifar10": DataSet(single_rows, schemas.with_label(LOOK_CLASSES, image=Image())),
}


def _made(make: Callable[[int, str, int], Any], split: str, num: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each of `make`'s calls."""
    for index in range(num):
        yield f"shapes-{seed}-{split}-{index}", make(seed, split, index)
