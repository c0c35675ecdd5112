"""Reader of image-caption data sets in Karpathy's JSON layout: COCO and Flickr30k."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, image_at, json_entries, log_left_out, named_faults


COCO_HELP = """COCO captions with Karpathy's splits: train and restval -> train, val -> validation, test -> test.

Images:   http://images.cocodataset.org/zips/train2014.zip and val2014.zip
Captions: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip

Expected layout:
    SOURCE/karpathy/dataset_coco.json
    SOURCE/train2014/COCO_train2014_000000000009.jpg ...
    SOURCE/val2014/COCO_val2014_000000000042.jpg ..."""

FLICKR30K_HELP = """Flickr30k with Karpathy's splits: train, val -> validation, test.

Images:   on request, https://shannon.cs.illinois.edu/DenotationGraph/
Captions: https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip

Expected layout:
    SOURCE/karpathy/dataset_flickr30k.json
    SOURCE/flickr30k-images/1000092795.jpg ..."""

#: Karpathy's split names to ours. `restval` are the images of COCO's val2014 that he left over; papers train on them.
SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}

#: The name and the file of an entry's image, by data set.
IMAGES = {
    "coco": lambda entry: (entry["cocoid"], Path(entry["filepath"], entry["filename"])),
    "flickr30k": lambda entry: (Path(entry["filename"]).stem, Path("flickr30k-images", entry["filename"])),
}


def read_karpathy(source: str | os.PathLike, name: str) -> dict[str, list[dict]]:
    """Return the rows of COCO or Flickr30k, as `name` says. Blank captions are left out and counted. Raise `ValueError` as
    `PublicDataSet` says, also if an image has no caption or a split no image."""
    path = Path(source) / "karpathy" / f"dataset_{name}.json"
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS.values()}
    seen, left_out = set(), Counter()
    for where, entry in json_entries(path, "images", key="images"):
        with named_faults(where, "a Karpathy entry"):
            captions = [sentence["raw"].strip() for sentence in entry["sentences"]]
            split, (image_name, file) = entry["split"], IMAGES[name](entry)
        image_id = f"{name}-{image_name}"
        if split not in SPLITS:
            raise ValueError(f"{where} has the split {split!r}: expected one of {', '.join(SPLITS)}")
        if image_id in seen:
            raise ValueError(f"{where} repeats the image {image_id}")
        if not any(captions):
            raise ValueError(f"{where} has no caption in 'sentences'")
        seen.add(image_id)
        left_out["blank captions"] += captions.count("")
        row = {"image": image_at(Path(source) / file), "image_id": image_id, "captions": list(filter(None, captions))}
        splits[SPLITS[split]].append(row)
    log_left_out(path, left_out)
    for split, rows in splits.items():
        if not rows:
            raise ValueError(f"{path} has no image of the split {split!r}")
    return splits


DATA_SETS = {
    "coco": PublicDataSet(COCO_HELP, schemas.CAPTIONS, partial(read_karpathy, name="coco")),
    "flickr30k": PublicDataSet(FLICKR30K_HELP, schemas.CAPTIONS, partial(read_karpathy, name="flickr30k")),
}
