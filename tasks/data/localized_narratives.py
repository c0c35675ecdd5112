"""Reader of Localized Narratives (Pont-Tuset et al. 2020): what people said while they pointed at an image is its caption."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import schemas
from .blank_texts import trimmed
from .karpathy import WITHOUT_COCO, evaluated_images
from .readers import (
    PublicDataSet,
    SourceRows,
    Unusable,
    absent_splits,
    below,
    image_at,
    require_source,
    wanted_splits,
)
from .text_files import json_value, single_lines


HELP = """Localized Narratives on the images of COCO, Flickr30k, Open Images and ADE20k: train, validation, test.

Narratives: https://google.github.io/localized-narratives, the JSONL files of the parts that you want, either with traces or
            the captions alone (coco_train_captions.jsonl)
Images:     http://images.cocodataset.org/zips/train2017.zip and val2017.zip; Flickr30k on request,
            https://shannon.cs.illinois.edu/DenotationGraph/; https://storage.googleapis.com/openimages/web/download.html;
            http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, whose folder images is ade20k here

Expected layout:
    SOURCE/narratives/coco_train_localized_narratives-00000-of-00004.jsonl
        ... (all four), coco_val_localized_narratives.jsonl
    SOURCE/narratives/flickr30k_train_localized_narratives.jsonl
        flickr30k_val_..., flickr30k_test_...
    SOURCE/narratives/
        open_images_train_v6_localized_narratives-00000-of-00010.jsonl ...,
        open_images_validation_..., open_images_test_...
    SOURCE/narratives/ade20k_train_localized_narratives.jsonl
        ade20k_validation_...
    SOURCE/train2017/000000000009.jpg ..., val2017/
    SOURCE/flickr30k-images/1000092795.jpg ...
    SOURCE/open_images/train/000002b66c9c498e.jpg ..., validation/, test/
    SOURCE/ade20k/training/ADE_train_00000001.jpg ..., validation/"""

#: The beginning of the names of the files of each part and split, and the folder of their images.
PARTS = {
    "coco": {"train": ("coco_train", "train2017"), "validation": ("coco_val", "val2017")},
    "flickr30k": {
        "train": ("flickr30k_train", "flickr30k-images"),
        "validation": ("flickr30k_val", "flickr30k-images"),
        "test": ("flickr30k_test", "flickr30k-images"),
    },
    "open_images": {
        "train": ("open_images_train_v6", "open_images/train"),
        "validation": ("open_images_validation", "open_images/validation"),
        "test": ("open_images_test", "open_images/test"),
    },
    "ade20k": {
        "train": ("ade20k_train", "ade20k/training"),
        "validation": ("ade20k_validation", "ade20k/validation"),
    },
}

OPTIONS = {
    "parts": {
        "nargs": "+",
        "choices": tuple(PARTS),
        "help": "the images whose narratives are wanted (default: those that SOURCE/narratives has a file of)",
    },
    "without_coco": WITHOUT_COCO,
}


def read_localized_narratives(
    source: str | os.PathLike,
    splits: Iterable[str] | None = None,
    parts: Iterable[str] | None = None,
    without_coco: str | os.PathLike | None = None,
) -> dict[str, SourceRows]:
    """
    Return a row for each image, with all of its narratives. A line that is not a narrative is left out and counted; so is one that an
    image has already. Most images that Karpathy's splits of COCO evaluate on are in the training narratives: `without_coco`, his
    dataset_coco.json, leaves them out.

    Raises:
        ValueError: As `PublicDataSet` says; if `splits` or `without_coco` name something that no part has, or `without_coco` is no such
            file.
    """
    source = Path(source)
    chosen = chosen_parts(source / "narratives", parts)
    if without_coco and "coco" not in chosen:
        raise ValueError(f"without_coco: without effect on {', '.join(chosen)}; leave it out")
    available = [split for split in ("train", "validation", "test") if any(split in PARTS[part] for part in chosen)]
    wanted = wanted_splits(splits, available)
    if missing := [split for split in splits or () if split not in available]:
        raise ValueError(f"splits: {', '.join(chosen)} have no split {', '.join(missing)}")
    places = {split: [(part, *PARTS[part][split]) for part in chosen if split in PARTS[part]] for split in wanted}
    files = {split: [files_of(source / "narratives", stem) for _, stem, _ in places[split]] for split in wanted}
    folders = {split: dict.fromkeys(source / folder for *_, folder in places[split]) for split in wanted}
    require_source({split: [path for paths in own for path in paths] for split, own in files.items()}, folders)
    excluded = evaluated_images(Path(without_coco)) if without_coco else set()
    rows = {split: SourceRows([], build) for split in wanted}
    for split in wanted:
        for (part, _, folder), paths in zip(places[split], files[split], strict=True):
            add_narratives(rows[split], part, source, folder, paths, excluded if part == "coco" else set())
    require_source(dict.fromkeys(wanted, ()), absent=absent_splits(rows, source / "narratives"))
    return rows


def chosen_parts(narratives: Path, parts: Iterable[str] | None) -> list[str]:
    """Return the parts that are wanted, in their order, by default those with a file; raise `ValueError` if there are none."""
    if parts is not None:
        return [part for part in PARTS if part in parts]
    stems = {part: [stem for stem, _ in splits.values()] for part, splits in PARTS.items()}
    found = [
        part for part, own in stems.items() if any(p.is_file() for stem in own for p in files_of(narratives, stem))
    ]
    if not found:
        raise ValueError(
            f"{narratives} has no file of narratives, such as coco_val_localized_narratives.jsonl: `renaissance prepare "
            "localized_narratives --help` shows the expected files"
        )
    return found


def files_of(narratives: Path, stem: str) -> list[Path]:
    """Return the files of one part and split: that of captions alone, if it is there, or all numbered files, or one."""
    captions = narratives / f"{stem}_captions.jsonl"
    whole = f"{stem}_localized_narratives"
    numbered = sorted(narratives.glob(f"{whole}-*-of-*.jsonl"))
    if captions.is_file() or not numbered:
        return [captions if captions.is_file() else narratives / f"{whole}.jsonl"]
    # As many as the first says, so that a missing one is missed.
    total = re.search(r"-of-(\d+)\.jsonl$", numbered[0].name)
    return (
        [narratives / f"{whole}-{number:05d}-of-{total[1]}.jsonl" for number in range(int(total[1]))]
        if total
        else numbered
    )


def add_narratives(
    rows: SourceRows, part: str, source: Path, folder: str, paths: list[Path], excluded: set[int]
) -> None:
    """Add the narratives in files to the rows of a split, those of an image to its row; COCO's `excluded` images are left out."""
    captions_of: dict[str, list[str]] = {}
    for path in paths:
        for number, line in single_lines(path):
            with rows.left_out.entry(f"{path}: line {number}", "a narrative"):
                name, caption = narrative_in(line, part)
                if part == "coco" and int(name) in excluded:
                    rows.left_out.by_rule["image of COCO's validation and test splits"] += 1
                    continue
                image = below(source, f"{folder}/{name}.jpg")
                if name not in captions_of:
                    captions_of[name] = []
                    rows.entries.append((image, image_id_of(part, name), captions_of[name]))
                if caption in captions_of[name]:
                    rows.left_out.by_rule["repeated narrative"] += 1
                    continue
                captions_of[name].append(caption)


def narrative_in(line: str, part: str) -> tuple[str, str]:
    """Return the name of the image, without its ending, and the caption of a line; raise `Unusable` if it has none."""
    try:
        line.encode()
        entry = json_value(line)
    except UnicodeEncodeError as error:
        raise Unusable("not UTF-8", f"is not UTF-8 (column {error.start + 1})") from error
    except ValueError as error:
        raise Unusable("not JSON", f"is not JSON that can be read: {error}") from error
    image_id, caption = entry["image_id"], trimmed(entry["caption"])
    if part == "coco":
        if not re.fullmatch(r"[0-9]{1,12}", str(image_id)):
            raise Unusable("image id that is no number", f"has the image_id {image_id!r}: expected a number")
        image_id = f"{int(image_id):012d}"
    if not isinstance(image_id, str) or not trimmed(image_id):
        raise Unusable("image id that is no name", f"has the image_id {image_id!r}: expected a name")
    if not caption:
        raise Unusable("blank caption", "has a blank caption")
    return image_id, caption


def image_id_of(part: str, name: str) -> str:
    """Return the id of an image, for COCO and Flickr30k that which the data set of that name gives it."""
    return f"{part}-{int(name) if part == 'coco' else name}"


def build(entry: tuple[Path, str, list[str]]) -> dict[str, Any]:
    """Return the row of an image."""
    path, image_id, captions = entry
    return {"image": image_at(path), "image_id": image_id, "captions": captions}


DATA_SETS = {
    "localized_narratives": PublicDataSet(HELP, schemas.CAPTIONS, read_localized_narratives, OPTIONS),
}
