"""Reader of SNLI-VE in its public layout, on the images of Flickr30k."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .readers import PublicDataSet, SourceRows, Unusable, below, image_at, require_source, wanted_splits
from .text_files import json_lines


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


def read_snli_ve(source: str | os.PathLike, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of SNLI-VE. Pairs without a gold label (`-`) and pairs with the `pairID` of an earlier one are
    left out and counted. Raise `ValueError` as `PublicDataSet` says."""
    source = Path(source)
    files = {split: source / f"snli_ve_{SPLITS[split]}.jsonl" for split in wanted_splits(splits, SPLITS)}
    require_source(
        {split: [path] for split, path in files.items()}, {key: [source / "Flickr30K" / "images"] for key in files}
    )
    return {split: _read_file(source, path) for split, path in files.items()}


def _read_file(source: Path, path: Path) -> SourceRows:
    rows, read = {}, SourceRows([])
    for where, entry in json_lines(path):
        with read.left_out.entry(where, "an SNLI-VE pair"):
            label, premise, text = entry["gold_label"], trimmed(entry["sentence1"]), trimmed(entry["sentence2"])
            pair, image = entry["pairID"].strip(), below(source, f"Flickr30K/images/{entry['Flickr30K_ID']}.jpg")
            if label not in LABELS and label != NO_GOLD_LABEL:
                expected = f"expected {', '.join(LABELS)}, or - for none"
                raise Unusable("unknown label", f"has the label {label!r}: {expected}")
            if not premise or not text:
                raise Unusable("blank text", "has blank text in 'sentence1' or 'sentence2'")
            if label == NO_GOLD_LABEL:
                read.left_out.by_rule["pair without a gold label"] += 1
            elif pair in rows:
                read.left_out.by_rule["pair whose pairID was there before"] += 1
            else:
                row = {"id": pair, "image": image_at(image), "text": text, "premise": premise}
                rows[pair] = row | {"label": LABELS.index(label)}
    read.entries.extend(rows.values())
    return read


DATA_SETS = {"snli_ve": PublicDataSet(HELP, schemas.SNLI_VE, read_snli_ve)}
