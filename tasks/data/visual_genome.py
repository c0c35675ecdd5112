"""Reader of Visual Genome's region descriptions (Krishna et al. 2017): the phrases on an image's regions are its captions."""

import os
from collections import Counter
from pathlib import Path

from . import schemas
from .readers import (
    PublicDataSet,
    SourceRows,
    held_out_option,
    image_at,
    json_entries,
    log_left_out,
    named_faults,
    require_files,
    split_by_id,
)


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
    "without_coco": {
        "metavar": "FILE",
        "help": "Karpathy's dataset_coco.json: leave out the images of its validation and test splits",
    },
}

IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")


def read_visual_genome(
    source: str | os.PathLike,
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
        ValueError: As `PublicDataSet` says; if a region is another image's, no phrase is left, or an option is out of range.
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}: expected at least 1")
    split_of = split_by_id(validation_share)
    images, path = Path(source) / "images", Path(source) / "annotations" / "region_descriptions.json"
    excluded = coco_overlap(path.with_name("image_data.json"), Path(without_coco)) if without_coco else set()
    folders = {
        name: folder for folder in IMAGE_FOLDERS if (images / folder).is_dir() for name in os.listdir(images / folder)
    }
    splits: dict[str, list[tuple]] = {"train": [], "validation": []}
    seen, left_out = set(), Counter()
    for where, entry in json_entries(path, "images with regions", object_hook=_shortened):
        with named_faults(where, "an entry of region_descriptions.json"):
            image_id = entry["id"]
            # A region that could not be shortened has no phrase.
            regions = [region if isinstance(region, tuple) else region["phrase"] for region in entry["regions"]]
            phrases = [phrase.strip() for _, phrase in regions]
        if others := [owner for owner, _ in regions if owner != image_id]:
            raise ValueError(f"{where}, of the image {image_id}, has a region of the image {others[0]}")
        if image_id in seen:
            raise ValueError(f"{where} repeats the image {image_id}")
        seen.add(image_id)
        if image_id in excluded:
            left_out["images of COCO's validation and test splits"] += 1
            continue
        long_enough = [phrase for phrase in phrases if len(phrase.split()) >= min_words]
        left_out["blank phrases"] += phrases.count("")
        left_out[f"phrases of fewer than {min_words} words"] += sum(map(bool, phrases)) - len(long_enough)
        if not long_enough:
            left_out["images without a phrase"] += 1
            continue
        name = f"{image_id}.jpg"
        splits[split_of(f"vg-{image_id}")].append(
            (image_id, f"{folders.get(name, IMAGE_FOLDERS[0])}/{name}", long_enough)
        )
    log_left_out(path, left_out)
    if not splits["train"]:
        raise ValueError(f"{path} has no image to train on with a phrase of at least {min_words} words")

    def build(entry: tuple) -> dict:
        image_id, file, captions = entry
        return {"image": image_at(images / file), "image_id": f"vg-{image_id}", "captions": captions}

    return {split: SourceRows(entries, build) for split, entries in splits.items() if entries}


def coco_overlap(image_data: Path, karpathy: Path) -> set[int]:
    """Return the Visual Genome ids of the images that are in the validation and test splits of Karpathy's JSON file of COCO."""
    require_files(image_data, karpathy)
    try:
        entries = json_entries(karpathy, "images", key="images")
        evaluated = {entry["cocoid"] for _, entry in entries if entry["split"] in ("val", "test")}
        return {entry["image_id"] for _, entry in json_entries(image_data, "images") if entry["coco_id"] in evaluated}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"without_coco: {karpathy} is not Karpathy's dataset_coco.json, or {image_data} not Visual Genome's "
            f"({type(error).__name__}: {error})"
        ) from error


def _shortened(item: dict) -> dict | tuple:
    """Return image and phrase of a region, to save memory for millions of them, and any other item as it is."""
    return (item.get("image_id"), item["phrase"]) if "phrase" in item else item


DATA_SETS = {"vg": PublicDataSet(HELP, schemas.CAPTIONS, read_visual_genome, OPTIONS)}
