"""Reader of easy-VQA: questions with one answer each, about one drawn shape."""

import os
from collections.abc import Iterator
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, image_at, json_entries


HELP = """easy-VQA, questions about one drawn shape: train, test; every tenth training image -> validation.

Questions and images: https://github.com/vzhou842/easy-VQA, folder easy_vqa/data

Expected layout:
    SOURCE/train/questions.json, SOURCE/train/images/0.png ...
    SOURCE/test/questions.json, SOURCE/test/images/0.png ..."""

#: One training image in this many is held out: the data set has no validation split.
HELD_OUT = 10


def read_easy_vqa(source: str | os.PathLike) -> dict[str, list[dict]]:
    """Return the rows of easy-VQA. Validation is every tenth image of their training split, with all of its questions. Their
    questions have no ids: a row's id is the split and the place in its file. Raise `ValueError` as `PublicDataSet` says."""
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for name in ("train", "test"):
        for number, row in _read_file(Path(source), name):
            held = name == "train" and number % HELD_OUT == HELD_OUT - 1
            splits["validation" if held else name].append(row)
    return splits


def _read_file(source: Path, name: str) -> Iterator[tuple[int, dict]]:
    """Yield the rows of one of their splits, each behind the number of its image."""
    path = source / name / "questions.json"
    for position, (where, entry) in enumerate(json_entries(path, "questions")):
        if not isinstance(entry, list) or [type(value) for value in entry] != [str, str, int]:
            raise ValueError(f"{where}: expected a question, an answer and an image number, got {entry}")
        text, answer, number = entry
        if not text.strip() or not answer.strip():
            raise ValueError(f"{where} has a blank question or answer")
        image = image_at(source / name / "images" / f"{number}.png")
        yield number, {"id": f"{name}-{position}", "image": image, "text": text, "answers": [answer]}


DATA_SETS = {"easy_vqa": PublicDataSet(HELP, schemas.VQAV2, read_easy_vqa)}
