"""Reader of RefCOCO, RefCOCO+ and RefCOCOg in their public layout."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...processing.regions import clip_box, fault_of
from . import schemas
from .blank_texts import trimmed
from .readers import (
    UNKNOWN_SPLIT,
    LeftOut,
    PublicDataSet,
    SourceRows,
    Unusable,
    absent_splits,
    below,
    image_at,
    require_source,
    wanted_splits,
)
from .text_files import read_json
from .unpickling import read_pickle


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


@dataclass
class Photo:
    """An image of instances.json: its file, its size in pixels, its usable boxes, the number of each annotation's box among
    them (`None` if it cannot be used), and the faults of its annotations."""

    file: str
    width: int
    height: int
    boxes: list[list[float]] = field(default_factory=list)
    numbers: dict[int, int | None] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


def read_refcoco(
    source: str | os.PathLike, name: str, splits: Iterable[str] | None = None, partition: str = "unc"
) -> dict[str, SourceRows]:
    """
    Return the rows of `refcoco`, `refcoco+` or `refcocog`, one a sentence, whose id is the row's. `partition` names
    who drew up the splits: `unc`, or for RefCOCOg `umd` or `google`. Boxes are clipped to their image. A box without area in
    it, a reference that means one, and a blank sentence are left out and counted. Raise `ValueError` as `PublicDataSet` says.
    """
    source, available = Path(source), splits_of(name, partition)
    wanted = wanted_splits(splits, available)
    if splits is not None and (unknown := [split for split in splits if split not in available]):
        raise ValueError(f"splits: {name} of {partition} has no {', '.join(unknown)}, only {', '.join(available)}")
    instances, path = source / name / "instances.json", source / name / f"refs({partition}).p"
    folder = next((place for place in IMAGE_FOLDERS if (source / place).is_dir()), IMAGE_FOLDERS[0])
    require_source({key: [path, instances] for key in wanted}, {key: [source / folder] for key in wanted})
    rows = {split: SourceRows([]) for split in wanted}
    first = rows[wanted[0]].left_out
    photos = _read_instances(instances, first)
    # Pickled by Python 2, whose strings are bytes.
    if not isinstance(refs := read_pickle(path, "latin1"), list):
        raise ValueError(f"{path} has no list of references")
    seen, shown = set(), {split: {} for split in wanted}
    for position, ref in enumerate(refs):
        where, split = f"{path}: reference {position}", split_of(ref)
        left_out = rows[split].left_out if split in rows else first
        with left_out.entry(where, "a reference"):
            if split is None:
                raise Unusable(UNKNOWN_SPLIT, f"has the split {ref['split']!r}: expected one of {', '.join(SPLITS)}")
            image_id, annotation = ref["image_id"], ref["ann_id"]
            sentences = [(str(sentence["sent_id"]), trimmed(sentence["sent"])) for sentence in ref["sentences"]]
            if split not in rows:
                continue
            photo = photos.get(image_id)
            if photo is None or annotation not in photo.numbers:
                raise Unusable(
                    "unknown box", f"names the box {annotation} of an image {image_id}: not in {instances.name}"
                )
            shown[split][image_id] = photo
            image = image_at(below(source, f"{folder}/{photo.file}"))
            for sentence_id, text in sentences:
                with left_out.entry(where, "a sentence"):
                    if sentence_id in seen:
                        raise Unusable("repeated sentence", f"repeats the sentence {sentence_id}")
                    seen.add(sentence_id)
                    if photo.numbers[annotation] is None:
                        raise Unusable(
                            "means a bad box", f"means the box {annotation}, which has no area in its image"
                        )
                    if not text:
                        raise Unusable("blank sentence", f"has a blank sentence {sentence_id}")
                    row = {"id": sentence_id, "image": image, "text": text, "boxes": photo.boxes}
                    rows[split].entries.append(row | {"label": photo.numbers[annotation]})
    for split, of_split in shown.items():
        _add_boxes(rows[split].left_out, of_split)
    # RefCOCOg's test split, like all test splits, is not everywhere.
    absent = absent_splits(rows, path)
    if splits is None:
        optional = [split for split in absent if split.startswith("test")]
        rows = {split: rows[split] for split in wanted if split not in optional}
        absent = {split: place for split, place in absent.items() if split not in optional}
    require_source({key: [path] for key in wanted}, absent=absent)
    return rows


def splits_of(name: str, partition: str = "umd") -> tuple[str, ...]:
    """Return our names of the splits of a data set."""
    tests = {"refcocog": ("test",) if partition == "umd" else ()}.get(name, ("testA", "testB"))
    return ("train", "validation", *tests)


def split_of(ref: object) -> str | None:
    """Return our name of a reference's split, `None` if it has none that is known."""
    split = ref.get("split") if isinstance(ref, dict) else None
    return SPLITS.get(split) if isinstance(split, str) else None


def _add_boxes(left_out: LeftOut, photos: Mapping[int, Photo]) -> None:
    """Count the boxes that were left out, or clipped, of the images of a split."""
    for photo in photos.values():
        left_out.bad += photo.left_out.bad
        left_out.by_rule += photo.left_out.by_rule


def _read_instances(path: Path, left_out: LeftOut) -> dict[int, Photo]:
    """Return the images by id. `left_out` gets the annotations that belong to none; each image has the faults of its own."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(f"{path}: expected a dictionary with lists under 'images' and 'annotations'")
    photos: dict[int, Photo] = {}
    for number, entry in enumerate(content["images"]):
        with left_out.entry(f"{path}: images[{number}]", "an image"):
            photos[entry["id"]] = Photo(str(entry["file_name"]), int(entry["width"]), int(entry["height"]))
    for number, entry in enumerate(content["annotations"]):
        where, image_id = f"{path}: annotations[{number}]", None
        with left_out.entry(where, "an annotation"):
            annotation, image_id, box = entry["id"], entry["image_id"], list(entry["bbox"])
            if image_id not in photos:
                raise Unusable("box of no image", f"is of an image {image_id} that is not there")
            _add_box(photos[image_id], where, annotation, box)
    return photos


def _add_box(photo: Photo, where: str, annotation: int, box: list[float]) -> None:
    """Add an annotation's box to its image, clipped, or its fault."""
    with photo.left_out.entry(where, "a box"):
        if annotation in photo.numbers:
            raise Unusable("repeated annotation", f"repeats the annotation {annotation}")
        photo.numbers[annotation] = None
        clipped = clip_box(box, photo.width, photo.height)
        if clipped is None:
            fault = fault_of(box, photo.width, photo.height) or "it has no area"
            raise Unusable("box without area", f"has a box without area in its image: {fault}")
        # Less than a pixel is rounding, which most files have.
        photo.left_out.by_rule["box clipped to its image"] += bool(fault_of(box, photo.width, photo.height))
        photo.numbers[annotation] = len(photo.boxes)
        photo.boxes.append(clipped)


def _data_set(name: str, title: str, tests: str, *partitions: str) -> PublicDataSet:
    text = HELP.format(name=name, title=title, tests=tests, partitions="|".join(partitions))
    partition = {
        "choices": partitions,
        "default": partitions[0],
        "help": "who drew up the splits; google has no test split (default: %(default)s)",
    }
    options = {"partition": partition} if len(partitions) > 1 else {}
    return PublicDataSet(text, schemas.REFCOCO, partial(read_refcoco, name=name), options, splits_of(name))


_TESTS = "testA (people), testB (other things)"
DATA_SETS = {
    "refcoco": _data_set("refcoco", "RefCOCO", _TESTS, "unc"),
    "refcoco+": _data_set("refcoco+", "RefCOCO+, without words for places", _TESTS, "unc"),
    "refcocog": _data_set("refcocog", "RefCOCOg, with longer expressions", "test", "umd", "google"),
}
