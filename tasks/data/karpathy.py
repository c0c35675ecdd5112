"""Reader of image-caption data sets in Karpathy's JSON layout: COCO and Flickr30k.

The JSON files are in https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


logger = logging.getLogger(__name__)

#: Karpathy's split names to ours. `restval` are the images of COCO's val2014 that he left over; papers train on them.
SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """Where a data set's JSON file lies under the source folder, and where an entry's image and id are found."""

    json_file: str
    image_file: Callable[[dict], Path]
    image_id: Callable[[dict], str]


LAYOUTS = {
    "coco": Layout(
        json_file="karpathy/dataset_coco.json",
        image_file=lambda entry: Path(entry["filepath"], entry["filename"]),
        image_id=lambda entry: f"coco-{entry['cocoid']}",
    ),
    "flickr30k": Layout(
        json_file="karpathy/dataset_flickr30k.json",
        image_file=lambda entry: Path("flickr30k-images", entry["filename"]),
        image_id=lambda entry: f"flickr30k-{Path(entry['filename']).stem}",
    ),
}


def read_karpathy(source: str | os.PathLike, name: str) -> dict[str, list[dict]]:
    """The rows of COCO or Flickr30k by split (train, validation, test), in the order of the file.

    A row has the columns of `tasks.pretraining.FEATURES`; its image is given by path and not opened here. Blank
    captions are left out, with a warning that counts them.

    Args:
        source: the folder that holds karpathy/ and the image folders.
        name: `coco` or `flickr30k`.

    Raises:
        ValueError: if the JSON file is missing or not JSON, lacks a key, names an unknown split, repeats an image, has
            an image with no caption, or has no image for one of the splits.
    """
    if name not in LAYOUTS:
        raise ValueError(f"data set is {name!r}: expected one of {', '.join(LAYOUTS)}")
    layout, source = LAYOUTS[name], Path(source)
    json_path = source / layout.json_file
    splits: dict[str, list[dict]] = {split: [] for split in dict.fromkeys(SPLITS.values())}
    seen: set[str] = set()
    blank = 0
    for position, entry in enumerate(_read_entries(json_path)):
        where = f"{json_path}: images[{position}]"
        try:
            captions = [sentence["raw"].strip() for sentence in entry["sentences"]]
            split, image_id, image_file = entry["split"], layout.image_id(entry), layout.image_file(entry)
        except KeyError as error:
            raise ValueError(f"{where} has no key {error}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{where} is not a Karpathy entry: {error}") from error
        if split not in SPLITS:
            raise ValueError(f"{where} has the split {split!r}: expected one of {', '.join(SPLITS)}")
        if image_id in seen:
            raise ValueError(f"{where} repeats the image {image_id}")
        if not any(captions):
            raise ValueError(f"{where} has no caption in 'sentences'")
        seen.add(image_id)
        blank += captions.count("")
        image = {"bytes": None, "path": str(source / image_file)}
        row = {"image": image, "image_id": image_id, "captions": [caption for caption in captions if caption]}
        splits[SPLITS[split]].append(row)
    if blank:
        logger.warning("%s: left out %d blank captions", json_path, blank)
    for split, rows in splits.items():
        if not rows:
            raise ValueError(f"{json_path} has no image of the split {split!r}")
    return splits


def _read_entries(path: Path) -> list:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected Karpathy's JSON file there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{path} has no key 'images' with a list of images")
    return content["images"]
