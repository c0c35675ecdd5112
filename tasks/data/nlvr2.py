"""Reader of NLVR2 in its public layout (https://github.com/lil-lab/nlvr)."""

import json
import os
from pathlib import Path


#: Our split names to theirs. test2 is not public.
SPLITS = {"train": "train", "validation": "dev", "test": "test1"}
LABELS = {"False": 0, "True": 1}


def read_nlvr2(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of NLVR2 by split (train, validation, test), in the order of the files.

    A row has the columns of `tasks.nlvr2.FEATURES`; its two images, left first, are given by path and not opened here.

    Args:
        source: the folder that holds nlvr2/data/{train,dev,test1}.json, images/train/, dev/ and test1/.

    Raises:
        ValueError: if a JSON file is missing or empty, or a line is not JSON, lacks a key or has another label than
            True and False.
    """
    return {split: _read_file(Path(source), name) for split, name in SPLITS.items()}


def _read_file(source: Path, name: str) -> list[dict]:
    path = source / "nlvr2" / "data" / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected NLVR2's sentences there, one JSON object a line")
    with path.open(encoding="utf-8") as lines:
        rows = [_parse(line, source, name, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]
    if not rows:
        raise ValueError(f"{path} is empty: expected NLVR2's sentences, one JSON object a line")
    return rows


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
