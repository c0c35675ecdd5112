"""Reader of SNLI-VE in its public layout (https://github.com/necla-ml/SNLI-VE), on the images of Flickr30k."""

import json
import logging
import os
from pathlib import Path


logger = logging.getLogger(__name__)

#: Our split names to theirs.
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
#: What the files have where annotators disagreed.
NO_GOLD_LABEL = "-"


def read_snli_ve(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of SNLI-VE by split (train, validation, test), in the order of the files.

    A row has the columns of `tasks.snli_ve.FEATURES`; its image is given by path and not opened here. Pairs without a
    gold label (`-`) and pairs whose `pairID` was there before are left out, with a warning that counts them.

    Args:
        source: the folder that holds snli_ve_{train,dev,test}.jsonl and Flickr30K/images/.

    Raises:
        ValueError: if a JSONL file is missing or empty, or a line is not JSON, lacks a key, has blank text or another
            label than the three.
    """
    return {split: _read_file(Path(source), name) for split, name in SPLITS.items()}


def _read_file(source: Path, name: str) -> list[dict]:
    path = source / f"snli_ve_{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected SNLI-VE's pairs there, one JSON object a line")
    rows, without_label, repeated = {}, 0, 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            label, row = _parse(line, source, f"{path}: line {number}")
            if label == NO_GOLD_LABEL:
                without_label += 1
            elif row["id"] in rows:
                repeated += 1
            else:
                rows[row["id"]] = row
    if not rows:
        raise ValueError(f"{path} is empty: expected SNLI-VE's pairs, one JSON object a line")
    for count, what in (
        (without_label, "pairs without a gold label"),
        (repeated, "pairs whose pairID was there before"),
    ):
        if count:
            logger.warning("%s: left out %d %s", path, count, what)
    return list(rows.values())


def _parse(line: str, source: Path, where: str) -> tuple[str, dict]:
    """The gold label and the row of a line."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    try:
        label, premise, text = entry["gold_label"], entry["sentence1"].strip(), entry["sentence2"].strip()
        pair, image = entry["pairID"], source / "Flickr30K" / "images" / f"{entry['Flickr30K_ID']}.jpg"
    except KeyError as error:
        raise ValueError(f"{where} has no key {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where} is not an SNLI-VE pair: {error}") from error
    if label not in LABELS and label != NO_GOLD_LABEL:
        raise ValueError(f"{where} has the label {label!r}: expected {', '.join(LABELS)}, or - for none")
    if not premise or not text:
        raise ValueError(f"{where} has blank text in 'sentence1' or 'sentence2'")
    image = {"bytes": None, "path": str(image)}
    return label, {"id": pair, "image": image, "text": text, "premise": premise, "label": LABELS.get(label)}
