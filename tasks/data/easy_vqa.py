"""Reader of easy-VQA: questions with one answer each, about one drawn shape."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .readers import PublicDataSet, SourceRows, Unusable, image_at, require_source, wanted_splits
from .text_files import json_entries


HELP = """easy-VQA, questions about one drawn shape: train, test; every tenth training image -> validation.

Questions and images: https://github.com/vzhou842/easy-VQA, folder easy_vqa/data

Expected layout:
    SOURCE/train/questions.json, SOURCE/train/images/0.png ...
    SOURCE/test/questions.json, SOURCE/test/images/0.png ..."""

#: Our split names to their folders.
FOLDERS = {"train": "train", "validation": "train", "test": "test"}
#: One training image in this many is held out: the data set has no validation split.
HELD_OUT = 10


def read_easy_vqa(source: str | os.PathLike, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of easy-VQA. Validation is every tenth image of their training split, with all of its questions. Their
    questions have no ids: a row's id is the split and the place in its file. Raise `ValueError` as `PublicDataSet` says."""
    rows = {split: SourceRows([]) for split in wanted_splits(splits, FOLDERS)}
    folders = {split: Path(source) / FOLDERS[split] for split in rows}
    require_source(
        {split: [folder / "questions.json"] for split, folder in folders.items()},
        {split: [folder / "images"] for split, folder in folders.items()},
    )
    for folder in dict.fromkeys(folders.values()):
        _read_file(folder, {split: rows[split] for split in rows if folders[split] == folder})
    return rows


def _read_file(folder: Path, rows: dict[str, SourceRows]) -> None:
    """Add the rows of one of their splits to those of ours that it holds, of `rows`. What cannot be used counts with the
    first."""
    left_out = next(iter(rows.values())).left_out
    for position, (where, entry) in enumerate(json_entries(folder / "questions.json", "questions")):
        with left_out.entry(where, "a question, an answer and an image number"):
            if not isinstance(entry, list) or [type(value) for value in entry] != [str, str, int]:
                raise ValueError(f"got {str(entry)[:80]}")
            text, answer, number = entry
            if not trimmed(text) or not answer.strip():
                raise Unusable("blank question or answer", "has a blank question or answer")
            held = folder.name == "train" and number % HELD_OUT == HELD_OUT - 1
            split = "validation" if held else folder.name
            if split in rows:
                row = {"id": f"{folder.name}-{position}", "image": image_at(folder / "images" / f"{number}.png")}
                rows[split].entries.append(row | {"text": text, "answers": [answer]})


DATA_SETS = {"easy_vqa": PublicDataSet(HELP, schemas.VQAV2, read_easy_vqa)}
