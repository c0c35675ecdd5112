"""Reader of NLVR2 in its public layout."""

import os
from collections.abc import Iterator
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, image_at, json_lines, named_faults


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


def read_nlvr2(source: str | os.PathLike) -> dict[str, list[dict]]:
    """Return the rows of NLVR2. A row's subset is `balanced` or `unbalanced` if nlvr2/data/balanced/ and unbalanced/ say so,
    otherwise None. Raise `ValueError` as `PublicDataSet` says, also if a subset has a sentence of no or another subset's row."""
    return {split: _read_split(Path(source), name) for split, name in SPLITS.items()}


def _read_split(source: Path, name: str) -> list[dict]:
    data = source / "nlvr2" / "data"
    rows = {}
    for where, row in _read_file(data / f"{name}.json", source, name):
        if row["id"] in rows:
            raise ValueError(f"{where} repeats the identifier {row['id']}: expected each once")
        rows[row["id"]] = row | {"subset": None}
    for subset in SUBSETS:
        path = data / subset / f"{subset}_{name}.json"
        for where, row in _read_file(path, source, name) if path.is_file() else ():
            if row["id"] not in rows or rows[row["id"]]["subset"]:
                raise ValueError(f"{where}: {row['id']} is not in {name}.json, or is in both subsets")
            rows[row["id"]]["subset"] = subset
    return list(rows.values())


def _read_file(path: Path, source: Path, name: str) -> Iterator[tuple[str, dict]]:
    for where, entry in json_lines(path):
        with named_faults(where, "an NLVR2 example"):
            identifier, text, label = entry["identifier"], entry["sentence"].strip(), entry["label"]
            folder = source / "images" / "train" / str(entry["directory"]) if name == "train" else source / name
            # Several sentences share a pair of images; the identifier's last number counts them.
            stem = identifier.rpartition("-")[0]
        if label not in LABELS:
            raise ValueError(f"{where} has the label {label!r}: expected 'True' or 'False'")
        images = [image_at(folder / f"{stem}-img{side}.png") for side in (0, 1)]
        yield where, {"id": identifier, "images": images, "text": text, "label": LABELS.index(label)}


DATA_SETS = {"nlvr2": PublicDataSet(HELP, schemas.PUBLIC_NLVR2, read_nlvr2)}
