"""Reader of RefCOCO, RefCOCO+ and RefCOCOg in their public layout (https://github.com/lichengunc/refer)."""

import json
import logging
import os
import pickle
from collections import defaultdict
from pathlib import Path

from ...processing.regions import fault_of


logger = logging.getLogger(__name__)

#: Who drew up the splits, by data set; the first is the usual one.
PARTITIONS = {"refcoco": ("unc",), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
#: Their split names to ours. RefCOCOg has one test split, RefCOCO one of people (A) and one of everything else (B).
SPLITS = {"train": "train", "val": "validation", "testA": "testA", "testB": "testB", "test": "test"}
#: Where the photos of COCO's train2014 are: as the authors' instructions have it, and as their code has it.
IMAGE_FOLDERS = ("images/mscoco/train2014", "images/mscoco/images/train2014")


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, strings and numbers. Anything else in a pickle could run code, and is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, where only plain containers are expected")


def read_refcoco(source: str | os.PathLike, name: str, partition: str | None = None) -> dict[str, list[dict]]:
    """The rows of a data set by split, in the order of the file, one a sentence.

    A row has the columns of `tasks.refcoco.FEATURES`: the id of the sentence, the image (by path), the sentence, all boxes
    that are annotated in the image, and the number of the one that is meant. Boxes without area or outside the image
    and blank sentences are left out, with a warning that counts them.

    Args:
        source: the folder that holds NAME/refs(PARTITION).p, NAME/instances.json and images/mscoco/train2014/.
        name: `refcoco`, `refcoco+` or `refcocog`.
        partition: who drew up the splits, one of `PARTITIONS[name]`; the first by default.

    Raises:
        ValueError: if a file is missing or damaged, an entry lacks a key, an id comes twice, a reference is to an
            annotation or an image that is not there, or the box that is meant cannot be one.
    """
    partition = partition or PARTITIONS[name][0]
    folder = Path(source) / name
    boxes, numbers, files = _read_instances(folder / "instances.json")
    refs_path = folder / f"refs({partition}).p"
    images = next((path for place in IMAGE_FOLDERS if (path := Path(source) / place).is_dir()), None)
    if images is None:
        raise ValueError(
            f"{Path(source) / IMAGE_FOLDERS[0]} does not exist: expected the photos of COCO's train2014 there"
        )
    splits: dict[str, list[dict]] = defaultdict(list)
    seen, blank = set(), 0
    for position, ref in enumerate(_read_refs(refs_path)):
        where = f"{refs_path}: reference {position}"
        try:
            split, image_id, annotation = SPLITS.get(ref["split"]), ref["image_id"], ref["ann_id"]
            sentences = [(str(sentence["sent_id"]), sentence["sent"].strip()) for sentence in ref["sentences"]]
        except KeyError as error:
            raise ValueError(f"{where} has no key {error}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{where} is not a reference: {error}") from error
        if split is None:
            raise ValueError(f"{where} has the split {ref['split']!r}: expected one of {', '.join(SPLITS)}")
        if image_id not in files or annotation not in numbers.get(image_id, {}):
            raise ValueError(f"{where}: instances.json has no box {annotation} in an image {image_id}")
        if numbers[image_id][annotation] is None:
            raise ValueError(f"{where}: the box {annotation} that is meant has no area or lies outside the image")
        for sentence_id, text in sentences:
            if sentence_id in seen:
                raise ValueError(f"{where} repeats the sentence {sentence_id}")
            seen.add(sentence_id)
            if not text:
                blank += 1
                continue
            splits[split].append(
                {
                    "id": sentence_id,
                    "image": {"bytes": None, "path": str(images / files[image_id])},
                    "text": text,
                    "boxes": boxes[image_id],
                    "label": numbers[image_id][annotation],
                }
            )
    if blank:
        logger.warning("%s: left out %d blank sentences", refs_path, blank)
    if missing := [split for split in ("train", "validation") if not splits[split]]:
        raise ValueError(f"{refs_path} has no sentence of the split {missing[0]!r}")
    return {split: splits[split] for split in SPLITS.values() if split in splits}


def _read_instances(path: Path) -> tuple[dict, dict, dict]:
    """By image id: its boxes; the number of each annotation's box among them, `None` for a faulty one; its file name."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected the annotated boxes there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {image["id"]: image["file_name"] for image in content["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        annotations = [(entry["image_id"], entry["id"], list(entry["bbox"])) for entry in content["annotations"]]
    except KeyError as error:
        raise ValueError(f"{path}: an image or annotation has no key {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no file of images and annotations: {error}") from error
    boxes: dict = defaultdict(list)
    numbers: dict = defaultdict(dict)
    faults = []
    for image_id, annotation, box in annotations:
        if image_id not in sizes or annotation in numbers[image_id]:
            problem = "comes twice" if image_id in sizes else f"is of an image {image_id} that is not there"
            raise ValueError(f"{path}: the annotation {annotation} {problem}")
        fault = fault_of(box, *sizes[image_id])
        numbers[image_id][annotation] = None if fault else len(boxes[image_id])
        if fault:
            faults.append(f"annotation {annotation}: {fault}")
        else:
            boxes[image_id].append(box)
    if faults:
        logger.warning("%s: left out %d boxes, the first of %s", path, len(faults), faults[0])
    return boxes, numbers, files


def _read_refs(path: Path) -> list:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected the references there")
    try:
        with path.open("rb") as file:
            # Pickled by Python 2, whose strings are bytes.
            refs = PlainUnpickler(file, encoding="latin1").load()
    # A damaged pickle raises errors of many types.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(refs, list):
        raise ValueError(f"{path} has no list of references")
    return refs
