"""Reader of RefCOCO, RefCOCO+ and RefCOCOg in their public layout."""

import logging
import os
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from ...processing.regions import fault_of
from . import schemas
from .readers import PublicDataSet, image_at, log_left_out, named_faults, parse_json, read_pickle, read_text


logger = logging.getLogger(__name__)

HELP = """{title}: train, val -> validation, {tests}.

References: https://github.com/lichengunc/refer, {name}.zip
Images:     http://images.cocodataset.org/zips/train2014.zip

Boxes are in pixels of the images, which are therefore never shrunk.

Expected layout:
    SOURCE/{name}/refs({partitions}).p
    SOURCE/{name}/instances.json
    SOURCE/images/mscoco/train2014/COCO_train2014_000000000009.jpg ..."""

#: Their split names to ours. RefCOCOg has one test split, RefCOCO one of people (A) and one of everything else (B).
SPLITS = {"train": "train", "val": "validation", "testA": "testA", "testB": "testB", "test": "test"}
#: The folders that may hold the photos of COCO's train2014: that of the authors' instructions, and that of their code.
IMAGE_FOLDERS = ("images/mscoco/train2014", "images/mscoco/images/train2014")


def read_refcoco(source: str | os.PathLike, name: str, partition: str = "unc") -> dict[str, list[dict]]:
    """
    Return the rows of `refcoco`, `refcoco+` or `refcocog`, one a sentence, whose id is the row's. `partition` names
    who drew up the splits: `unc`, or for RefCOCOg `umd` or `google`. Boxes without area or outside the image and blank
    sentences are left out and counted. Raise `ValueError` as `PublicDataSet` says, also if a reference is to an
    annotation or an image that is not there, or the box that is meant has no area or lies outside its image.
    """
    folder = Path(source) / name
    boxes, numbers, files = _read_instances(folder / "instances.json")
    path = folder / f"refs({partition}).p"
    images = next(filter(Path.is_dir, (Path(source) / place for place in IMAGE_FOLDERS)), None)
    if images is None:
        raise ValueError(f"{Path(source) / IMAGE_FOLDERS[0]} does not exist: expected the photos of COCO's train2014")
    splits: dict[str, list[dict]] = defaultdict(list)
    seen, left_out = set(), Counter()
    # Pickled by Python 2, whose strings are bytes.
    if not isinstance(refs := read_pickle(path, "latin1"), list):
        raise ValueError(f"{path} has no list of references")
    for position, ref in enumerate(refs):
        where = f"{path}: reference {position}"
        with named_faults(where, "a reference"):
            split, image_id, annotation = SPLITS.get(ref["split"]), ref["image_id"], ref["ann_id"]
            sentences = [(str(sentence["sent_id"]), sentence["sent"].strip()) for sentence in ref["sentences"]]
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
                left_out["blank sentences"] += 1
                continue
            row = {"id": sentence_id, "image": image_at(images / files[image_id]), "text": text}
            splits[split].append(row | {"boxes": boxes[image_id], "label": numbers[image_id][annotation]})
    log_left_out(path, left_out)
    if missing := [split for split in ("train", "validation") if not splits[split]]:
        raise ValueError(f"{path} has no sentence of the split {missing[0]!r}")
    return {split: splits[split] for split in SPLITS.values() if split in splits}


def _read_instances(path: Path) -> tuple[dict, dict, dict]:
    """Return by image id: its boxes; the number of each annotation's box among them, `None` for a faulty one; its file name."""
    content = parse_json(read_text(path), str(path))
    with named_faults(f"{path}: an image or annotation", "as expected"):
        files = {image["id"]: image["file_name"] for image in content["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        annotations = [(entry["image_id"], entry["id"], list(entry["bbox"])) for entry in content["annotations"]]
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


def _data_set(name: str, title: str, tests: str, *partitions: str) -> PublicDataSet:
    text = HELP.format(name=name, title=title, tests=tests, partitions="|".join(partitions))
    partition = {
        "choices": partitions,
        "default": partitions[0],
        "help": "who drew up the splits; google has no test split (default: %(default)s)",
    }
    options = {"partition": partition} if len(partitions) > 1 else {}
    return PublicDataSet(text, schemas.REFCOCO, partial(read_refcoco, name=name), options)


_TESTS = "testA (people), testB (other things)"
DATA_SETS = {
    "refcoco": _data_set("refcoco", "RefCOCO", _TESTS, "unc"),
    "refcoco+": _data_set("refcoco+", "RefCOCO+, without words for places", _TESTS, "unc"),
    "refcocog": _data_set("refcocog", "RefCOCOg, with longer expressions", "test", "umd", "google"),
}
