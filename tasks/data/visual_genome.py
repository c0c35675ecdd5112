"""Reader of Visual Genome's region descriptions (Krishna et al. 2017): the phrases on an image's regions are its captions."""

import json
import logging
import os
from collections import Counter
from pathlib import Path

from .source import SourceRows, check_share, held_out, require_files


logger = logging.getLogger(__name__)

IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")


def read_visual_genome(
    source: str | os.PathLike,
    min_words: int = 1,
    validation_share: float = 0.02,
    without_coco: str | os.PathLike | None = None,
) -> dict[str, SourceRows]:
    """The rows of Visual Genome by split, in the order of the file.

    A row has the columns of `tasks.pretraining.FEATURES`; its image is given by path and not opened here. Visual Genome has
    no official split: `held_out` decides. Blank phrases, phrases of fewer than `min_words` words and images without any
    other are left out, and counted in the log.

    Args:
        source: the folder that holds annotations/region_descriptions.json and images/VG_100K, images/VG_100K_2.
        min_words: fewest words of a phrase.
        validation_share: share of the images that form the validation split; 0: all are trained on.
        without_coco: Karpathy's dataset_coco.json. About half of the images are COCO's; those of its validation and test
            splits are left out, as annotations/image_data.json tells them, so that pretraining has not seen them.

    Raises:
        ValueError: if a file is missing or not JSON, an entry lacks a key, a region is another image's, an image is
            repeated, no phrase is left, or an option is out of range.
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}: expected at least 1")
    check_share("validation_share", validation_share)
    source = Path(source)
    path = source / "annotations" / "region_descriptions.json"
    image_data = path.with_name("image_data.json")
    require_files(path, *([image_data, Path(without_coco)] if without_coco else []))
    excluded = coco_overlap(image_data, Path(without_coco)) if without_coco else set()
    folders = {
        name: folder
        for folder in IMAGE_FOLDERS
        if (source / "images" / folder).is_dir()
        for name in os.listdir(source / "images" / folder)
    }
    splits: dict[str, list[tuple]] = {"train": [], "validation": []}
    seen, left_out = set(), Counter()
    for position, entry in enumerate(_load(path)):
        where = f"{path}: entry {position}"
        image_id, phrases = _phrases(entry, where)
        if image_id in seen:
            raise ValueError(f"{where} repeats the image {image_id}")
        seen.add(image_id)
        if image_id in excluded:
            left_out["images of COCO's validation and test splits"] += 1
            continue
        long_enough = [phrase for phrase in phrases if len(phrase.split()) >= min_words]
        left_out["blank phrases"] += phrases.count("")
        left_out[f"phrases of fewer than {min_words} words"] += sum(map(bool, phrases)) - sum(map(bool, long_enough))
        if not long_enough:
            left_out["images without a phrase"] += 1
            continue
        name = f"{image_id}.jpg"
        split = "validation" if held_out(f"vg-{image_id}", validation_share) else "train"
        splits[split].append((image_id, f"{folders.get(name, IMAGE_FOLDERS[0])}/{name}", long_enough))
    for what, count in left_out.items():
        if count:
            logger.warning("%s: left out %d %s", path, count, what)
    if not splits["train"]:
        raise ValueError(f"{path} has no image to train on with a phrase of at least {min_words} words")

    def build(entry: tuple) -> dict:
        image_id, file, captions = entry
        image = {"bytes": None, "path": str(source / "images" / file)}
        return {"image": image, "image_id": f"vg-{image_id}", "captions": captions}

    return {split: SourceRows(entries, build) for split, entries in splits.items() if entries}


def coco_overlap(image_data: Path, karpathy: Path) -> set[int]:
    """The Visual Genome ids of the images that are in the validation and test splits of Karpathy's JSON file of COCO."""
    try:
        entries = json.loads(karpathy.read_text(encoding="utf-8"))["images"]
        evaluated = {entry["cocoid"] for entry in entries if entry["split"] in ("val", "test")}
        return {entry["image_id"] for entry in _load(image_data) if entry["coco_id"] in evaluated}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"without_coco: {karpathy} is not Karpathy's dataset_coco.json, or {image_data} not Visual Genome's "
            f"({type(error).__name__}: {error})"
        ) from error


def _load(path: Path) -> list:
    """The list in a JSON file. Of the millions of regions only what is used is kept: image and phrase."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(
                file, object_hook=lambda item: (item.get("image_id"), item["phrase"]) if "phrase" in item else item
            )
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list, one entry an image")
    return content


def _phrases(entry: dict, where: str) -> tuple[int, list[str]]:
    """An entry's image id and its phrases, stripped."""
    try:
        image_id, regions = entry["id"], entry["regions"]
        phrases = []
        for region in regions:
            # What `_load` could not shorten has no phrase.
            owner, phrase = region if isinstance(region, tuple) else region["phrase"]
            if owner != image_id:
                raise ValueError(f"{where}, of the image {image_id}, has a region of the image {owner}")
            phrases.append(phrase.strip())
    except KeyError as error:
        raise ValueError(f"{where} has no key {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where} is no entry of region_descriptions.json: {error}") from error
    return image_id, phrases
