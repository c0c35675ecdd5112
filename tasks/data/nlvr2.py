"""Reader of NLVR2 in its public layout."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .readers import PublicDataSet, SourceRows, Unusable, below, image_at, require_source, wanted_splits
from .text_files import json_lines


HELP = """NLVR2: train, dev -> validation, test1 -> test.

Sentences: https://github.com/lil-lab/nlvr, folder nlvr2/data
Images:    on request, see https://lil.nlp.cornell.edu/nlvr/

Expected layout:
    SOURCE/nlvr2/data/train.json, dev.json, test1.json
    SOURCE/images/train/<directory>/train-10171-0-img0.png ...
    SOURCE/dev/dev-0-0-img0.png ...
    SOURCE/test1/test1-0-0-img0.png ..."""

#: Our split names to theirs. test2 is not public.
SPLITS = {"train": "train", "validation": "dev", "test": "test1"}
LABELS = schemas.classes_of(schemas.NLVR2)
#: Parts of dev and test1 (Suhr and Artzi 2019): in the balanced one, the images alone say nothing about the label.
SUBSETS = ("balanced", "unbalanced")


def read_nlvr2(source: str | os.PathLike, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of NLVR2. A row's subset is `balanced` or `unbalanced` if nlvr2/data/balanced/ and unbalanced/ say so,
    otherwise None. Raise `ValueError` as `PublicDataSet` says."""
    source, names = Path(source), {split: SPLITS[split] for split in wanted_splits(splits, SPLITS)}
    require_source(
        {split: [data_file(source, name)] for split, name in names.items()},
        {split: [source / image_folder(name)] for split, name in names.items()},
    )
    return {split: _read_split(source, name) for split, name in names.items()}


def data_file(source: Path, name: str) -> Path:
    """Return the file of one of their splits."""
    return source / "nlvr2" / "data" / f"{name}.json"


def image_folder(name: str) -> str:
    """Return the folder of the images of one of their splits."""
    return "images/train" if name == "train" else name


def _read_split(source: Path, name: str) -> SourceRows:
    path, rows, read = data_file(source, name), {}, SourceRows([])
    for where, entry in json_lines(path):
        with read.left_out.entry(where, "an NLVR2 example"):
            row = _row(entry, source, name)
            if row["id"] in rows:
                raise Unusable("repeated identifier", f"repeats the identifier {row['id']}: expected each once")
            rows[row["id"]] = row
    for subset in SUBSETS:
        part = path.parent / subset / f"{subset}_{name}.json"
        for where, entry in json_lines(part) if part.is_file() else ():
            with read.left_out.entry(where, "an NLVR2 example"):
                identifier = entry["identifier"]
                if identifier not in rows:
                    raise Unusable("unknown in a subset", f"names {identifier}, which is not a row of {path.name}")
                if rows[identifier]["subset"]:
                    raise Unusable("in both subsets", f"names {identifier}, which is in both subsets")
                rows[identifier]["subset"] = subset
    read.entries.extend(rows.values())
    return read


def _row(entry: dict, source: Path, name: str) -> dict:
    identifier, text, label = entry["identifier"], trimmed(entry["sentence"]), entry["label"]
    folder = image_folder(name) + (f"/{entry['directory']}" if name == "train" else "")
    if label not in LABELS:
        raise Unusable("unknown label", f"has the label {label!r}: expected 'True' or 'False'")
    if not text:
        raise Unusable("blank sentence", "has a blank sentence")
    # Several sentences share a pair of images; the identifier's last number counts them.
    stem = identifier.rpartition("-")[0]
    images = [image_at(below(source, f"{folder}/{stem}-img{side}.png")) for side in (0, 1)]
    return {"id": identifier, "images": images, "text": text, "label": LABELS.index(label), "subset": None}


DATA_SETS = {"nlvr2": PublicDataSet(HELP, schemas.PUBLIC_NLVR2, read_nlvr2)}
