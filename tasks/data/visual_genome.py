"""Reader of Visual Genome's region descriptions (Krishna et al. 2017): the phrases on an image's regions are its captions."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .karpathy import WITHOUT_COCO, evaluated_images
from .readers import (
    PublicDataSet,
    SourceRows,
    Unusable,
    absent_splits,
    held_out_option,
    image_at,
    require_source,
    split_by_id,
    wanted_splits,
)
from .text_files import json_entries


HELP = """Visual Genome's region descriptions as captions: train, and a share of the images as validation.

Images:  https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, images.zip and images2.zip
Regions: the same page, region_descriptions.json; image_data.json for --without_coco

Expected layout:
    SOURCE/annotations/region_descriptions.json, image_data.json
    SOURCE/images/VG_100K/2.jpg ...
    SOURCE/images/VG_100K_2/1.jpg ..."""

OPTIONS = {
    "min_words": {"type": int, "default": 1, "help": "fewest words of a phrase (default: %(default)s)"},
    **held_out_option(0.02),
    "without_coco": WITHOUT_COCO,
}

IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")


def read_visual_genome(
    source: str | os.PathLike,
    splits: Iterable[str] | None = None,
    min_words: int = 1,
    validation_share: float = 0.02,
    without_coco: str | os.PathLike | None = None,
) -> dict[str, SourceRows]:
    """
    Return the rows of Visual Genome, which has no official split: `split_by_id` decides. Blank phrases, phrases of
    fewer than `min_words` words, and images without any other are left out and counted. About half of the images are
    COCO's: `without_coco`, Karpathy's dataset_coco.json, leaves out those of its validation and test splits, which
    annotations/image_data.json names, so that pretraining has not seen them.

    Raises:
        ValueError: As `PublicDataSet` says; if no phrase is left, or an option is out of range.
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}: expected at least 1")
    split_of = split_by_id(validation_share)
    images, path = Path(source) / "images", Path(source) / "annotations" / "region_descriptions.json"
    wanted = wanted_splits(splits, ("train", "validation") if validation_share or splits else ("train",))
    present = [folder for folder in IMAGE_FOLDERS if (images / folder).is_dir()]
    image_data = path.with_name("image_data.json")
    files = [path, *([image_data, Path(without_coco)] if without_coco else [])]
    require_source(
        dict.fromkeys(wanted, files), {} if present else {key: [images / IMAGE_FOLDERS[0]] for key in wanted}
    )
    excluded = coco_overlap(image_data, Path(without_coco)) if without_coco else set()
    folders = {name: folder for folder in present for name in os.listdir(images / folder)}

    def build(entry: tuple) -> dict:
        image_id, captions = entry
        name = f"{image_id}.jpg"
        image = image_at(images / folders.get(name, IMAGE_FOLDERS[0]) / name)
        return {"image": image, "image_id": f"vg-{image_id}", "captions": captions}

    rows = {split: SourceRows([], build) for split in wanted}
    seen = set()
    for where, entry in json_entries(path, "images with regions", object_hook=_shortened):
        split = split_of(f"vg-{entry['id']}") if isinstance(entry, dict) and "id" in entry else wanted[0]
        if split not in rows:
            continue
        left_out = rows[split].left_out
        with left_out.entry(where, "an entry of region_descriptions.json"):
            image_id, phrases = entry["id"], _phrases(entry)
            if image_id in seen:
                raise Unusable("repeated image", f"repeats the image {image_id}")
            seen.add(image_id)
            if image_id in excluded:
                left_out.by_rule["image of COCO's validation and test splits"] += 1
                continue
            long_enough = [phrase for phrase in phrases if len(phrase.split()) >= min_words]
            left_out.by_rule["blank phrase"] += phrases.count("")
            short = sum(map(bool, phrases)) - len(long_enough)
            left_out.by_rule[f"phrase of fewer than {min_words} words"] += short
            if long_enough:
                rows[split].entries.append((image_id, long_enough))
            else:
                left_out.by_rule["image without a phrase"] += 1
    absent = absent_splits(rows, path)
    if splits is None:
        # A small share of few images may be none.
        absent.pop("validation", None)
        rows = {split: own for split, own in rows.items() if split == "train" or len(own) or own.left_out.bad}
    require_source({key: [path] for key in wanted}, absent=absent)
    return rows


def _phrases(entry: dict) -> list[str]:
    """Return the phrases on an image's regions; raise `Unusable` if a region is another image's."""
    if type(entry["id"]) is not int:
        raise Unusable("id that is no number", f"has the id {entry['id']!r}: expected a number")
    # A region that could not be shortened has no phrase.
    regions = [region if isinstance(region, tuple) else region["phrase"] for region in entry["regions"]]
    if others := [owner for owner, _ in regions if owner != entry["id"]]:
        reason = f"of the image {entry['id']}, has a region of the image {others[0]}"
        raise Unusable("region of another image", reason)
    return [trimmed(phrase) for _, phrase in regions]


def coco_overlap(image_data: Path, karpathy: Path) -> set[int]:
    """Return the Visual Genome ids of the images that are in the validation and test splits of Karpathy's JSON file of COCO."""
    evaluated = evaluated_images(karpathy)
    try:
        return {entry["image_id"] for _, entry in json_entries(image_data, "images") if entry["coco_id"] in evaluated}
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{image_data} is not Visual Genome's ({type(error).__name__}: {error})"
        raise ValueError(f"without_coco: {fault}") from error


def _shortened(item: dict) -> dict | tuple:
    """Return image and phrase of a region, to save memory for millions of them, and any other item as it is."""
    return (item.get("image_id"), item["phrase"]) if "phrase" in item else item


DATA_SETS = {"vg": PublicDataSet(HELP, schemas.CAPTIONS, read_visual_genome, OPTIONS, ("train", "validation"))}
