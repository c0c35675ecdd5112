"""Reader of SNLI-VE in its public layout, on the images of Flickr30k."""

import os
from collections import Counter
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, image_at, json_lines, log_left_out, named_faults


HELP = """SNLI-VE: train, dev -> validation, test. Pairs without a gold label (-) are left out and counted.

Pairs:  https://github.com/necla-ml/SNLI-VE
Images: those of Flickr30k, on request, https://shannon.cs.illinois.edu/DenotationGraph/; a link to the folder will do

Expected layout:
    SOURCE/snli_ve_train.jsonl, snli_ve_dev.jsonl, snli_ve_test.jsonl
    SOURCE/Flickr30K/images/1000092795.jpg ..."""

#: Our split names to theirs.
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
LABELS = schemas.classes_of(schemas.SNLI_VE)
#: The label in the files if annotators disagreed.
NO_GOLD_LABEL = "-"


def read_snli_ve(source: str | os.PathLike) -> dict[str, list[dict]]:
    """Return the rows of SNLI-VE. Pairs without a gold label (`-`) and pairs with the `pairID` of an earlier one are
    left out and counted. Raise `ValueError` as `PublicDataSet` says."""
    return {split: _read_file(Path(source), name) for split, name in SPLITS.items()}


def _read_file(source: Path, name: str) -> list[dict]:
    path = source / f"snli_ve_{name}.jsonl"
    rows, left_out = {}, Counter()
    for where, entry in json_lines(path):
        with named_faults(where, "an SNLI-VE pair"):
            label, premise, text = entry["gold_label"], entry["sentence1"].strip(), entry["sentence2"].strip()
            pair, image = entry["pairID"], source / "Flickr30K" / "images" / f"{entry['Flickr30K_ID']}.jpg"
        if label not in LABELS and label != NO_GOLD_LABEL:
            raise ValueError(f"{where} has the label {label!r}: expected {', '.join(LABELS)}, or - for none")
        if not premise or not text:
            raise ValueError(f"{where} has blank text in 'sentence1' or 'sentence2'")
        if label == NO_GOLD_LABEL:
            left_out["pairs without a gold label"] += 1
        elif pair in rows:
            left_out["pairs whose pairID was there before"] += 1
        else:
            row = {"id": pair, "image": image_at(image), "text": text, "premise": premise}
            rows[pair] = row | {"label": LABELS.index(label)}
    log_left_out(path, left_out)
    return list(rows.values())


DATA_SETS = {"snli_ve": PublicDataSet(HELP, schemas.SNLI_VE, read_snli_ve)}
