"""Reader of NLVR2 in its public layout (https://github.com/lil-lab/nlvr)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path


#: Our split names to theirs. test2 is not public.
SPLITS = {"train": "train", "validation": "dev", "test": "test1"}
LABELS = {"False": 0, "True": 1}
#: Parts of dev and test1 (Suhr and Artzi 2019): in the balanced one, the images alone say nothing about the label.
SUBSETS = ("balanced", "unbalanced")


def read_nlvr2(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of NLVR2 by split (train, validation, test), in the order of the files.

    A row has the columns of `tasks.nlvr2.PUBLIC_FEATURES`; its two images, left first, are given by path and not opened here.
    Its subset is `balanced` or `unbalanced` where nlvr2/data/balanced/ and unbalanced/ say so, otherwise None.

    Args:
        source: the folder that holds nlvr2/data/{train,dev,test1}.json, images/train/, dev/ and test1/.

    Raises:
        ValueError: if a JSON file is missing or empty, or a line is not JSON, lacks a key, has another label than
            True and False or the identifier of another; if a subset has a sentence that its split or the other subset has not.
    """
    return {split: _read_split(Path(source), name) for split, name in SPLITS.items()}


def _read_split(source: Path, name: str) -> list[dict]:
    data = source / "nlvr2" / "data"
    path = data / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected NLVR2's sentences there, one JSON object a line")
    rows = {}
    for row, where in _read_file(path, source, name):
        if row["id"] in rows:
            raise ValueError(f"{where} repeats the identifier {row['id']}: expected each once")
        rows[row["id"]] = row | {"subset": None}
    if not rows:
        raise ValueError(f"{path} is empty: expected NLVR2's sentences, one JSON object a line")
    for subset in SUBSETS:
        path = data / subset / f"{subset}_{name}.json"
        for row, where in _read_file(path, source, name) if path.is_file() else ():
            if row["id"] not in rows or rows[row["id"]]["subset"]:
                raise ValueError(f"{where}: {row['id']} is not in {name}.json, or is in both subsets")
            rows[row["id"]]["subset"] = subset
    return list(rows.values())


def _read_file(path: Path, source: Path, name: str) -> Iterator[tuple[dict, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}: line {number}"
            yield _parse(line, source, name, where), where


def _parse(line: str, source: Path, name: str, where: str) -> dict:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    try:
        identifier, text, label = entry["identifier"], entry["sentence"].strip(), entry["label"]
        folder = source / "images" / "train" / str(entry["directory"]) if name == "train" else source / name
    except KeyError as error:
        raise ValueError(f"{where} has no key {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where} is not an NLVR2 example: {error}") from error
    if label not in LABELS:
        raise ValueError(f"{where} has the label {label!r}: expected 'True' or 'False'")
    # Several sentences share a pair of images; the identifier's last number counts them.
    stem = identifier.rpartition("-")[0]
    images = [{"bytes": None, "path": str(folder / f"{stem}-img{side}.png")} for side in (0, 1)]
    return {"id": identifier, "images": images, "text": text, "label": LABELS[label]}
