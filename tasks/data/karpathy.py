"""Reader of image-caption data sets in Karpathy's JSON layout: COCO and Flickr30k."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .readers import (
    UNKNOWN_SPLIT,
    PublicDataSet,
    SourceRows,
    Unusable,
    absent_splits,
    below,
    image_at,
    require_source,
    wanted_splits,
)
from .text_files import json_entries


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

#: The folders of the images, of which those must be there that the entries name.
FOLDERS = {"coco": ("train2014", "val2014"), "flickr30k": ("flickr30k-images",)}

#: The name of an entry's image, its folder and its file, by data set.
IMAGES = {
    "coco": lambda entry: (entry["cocoid"], entry["filepath"], entry["filename"]),
    "flickr30k": lambda entry: (Path(entry["filename"]).stem, FOLDERS["flickr30k"][0], entry["filename"]),
}

#: The option of data sets with images of COCO that leaves out those that COCO is evaluated on.
WITHOUT_COCO = {
    "metavar": "FILE",
    "help": "Karpathy's dataset_coco.json: leave out the images of its validation and test splits",
}


def evaluated_images(path: Path) -> set[int]:
    """Return COCO's ids of the images in the validation and test splits of `dataset_coco.json`; raise `ValueError` if the file is not
    that one."""
    try:
        entries = json_entries(path, "images", key="images")
        return {entry["cocoid"] for _, entry in entries if entry["split"] in ("val", "test")}
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{path} is not Karpathy's dataset_coco.json ({type(error).__name__}: {error})"
        raise ValueError(f"without_coco: {fault}") from error


def read_karpathy(source: str | os.PathLike, name: str, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of COCO or Flickr30k, as `name` says. Blank captions are left out and counted. Raise `ValueError` as
    `PublicDataSet` says, also if an entry names a file outside of the source folder."""
    source, path = Path(source), Path(source) / "karpathy" / f"dataset_{name}.json"
    wanted = wanted_splits(splits, dict.fromkeys(SPLITS.values()))
    if not path.is_file():
        places = [source / folder for folder in FOLDERS[name]]
        require_source({key: [path] for key in wanted}, dict.fromkeys(wanted, places))
    rows = {split: SourceRows([]) for split in wanted}
    seen, folders = set(), {split: {} for split in wanted}
    for where, entry in json_entries(path, "images", key="images"):
        # The split comes first: without one, an entry counts with the first that is wanted.
        split = split_of(entry)
        left_out = rows[split if split in rows else wanted[0]].left_out
        with left_out.entry(where, "a Karpathy entry"):
            if split is None:
                raise Unusable(UNKNOWN_SPLIT, f"has the split {entry['split']!r}: expected one of {', '.join(SPLITS)}")
            captions = [trimmed(sentence["raw"]) for sentence in entry["sentences"]]
            image_name, folder, file = IMAGES[name](entry)
            image, image_id = below(source, f"{folder}/{file}"), f"{name}-{image_name}"
            if image_id in seen:
                raise Unusable("repeated image", f"repeats the image {image_id}")
            seen.add(image_id)
            if split not in rows:
                continue
            if not any(captions):
                raise Unusable("no caption", "has no caption in 'sentences'")
            left_out.by_rule["blank caption"] += captions.count("")
            row = {"image": image_at(image), "image_id": image_id, "captions": list(filter(None, captions))}
            folders[split][source / folder] = None
            rows[split].entries.append(row)
    require_source({key: [path] for key in wanted}, folders, absent_splits(rows, path))
    return rows


def split_of(entry: object) -> str | None:
    """Return our name of an entry's split, `None` if it has none that is known."""
    split = entry.get("split") if isinstance(entry, dict) else None
    return SPLITS.get(split) if isinstance(split, str) else None


DATA_SETS = {
    "coco": PublicDataSet(COCO_HELP, schemas.CAPTIONS, partial(read_karpathy, name="coco")),
    "flickr30k": PublicDataSet(FLICKR30K_HELP, schemas.CAPTIONS, partial(read_karpathy, name="flickr30k")),
}
