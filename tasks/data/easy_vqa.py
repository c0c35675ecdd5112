"""Reader of easy-VQA (https://github.com/vzhou842/easy-VQA): questions with one answer each, about one drawn shape."""

import json
import os
from pathlib import Path


#: Every so many-th training image is held out for validation, which the data set has no split for.
HELD_OUT = 10


def read_easy_vqa(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of easy-VQA by split (train, validation, test), in the order of the files.

    Validation is every tenth image of their training split, with all of its questions. A row has the columns of
    `tasks.vqav2.FEATURES`, with a single answer; its image is given by path and not opened here. Their questions have no
    ids: theirs are the split and the place in its file.

    Args:
        source: the folder that holds {train,test}/questions.json and {train,test}/images/<number>.png.

    Raises:
        ValueError: if a file is missing, is not JSON, or has an entry that is not a question, an answer and an image number.
    """
    rows = _read_file(Path(source), "train")
    held_out = [number % HELD_OUT == HELD_OUT - 1 for number, _ in rows]
    return {
        "train": [row for (_, row), held in zip(rows, held_out, strict=True) if not held],
        "validation": [row for (_, row), held in zip(rows, held_out, strict=True) if held],
        "test": [row for _, row in _read_file(Path(source), "test")],
    }


def _read_file(source: Path, name: str) -> list[tuple[int, dict]]:
    """The rows of one of their splits, each with the number of its image."""
    path = source / name / "questions.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected easy-VQA's questions there")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of questions")
    rows = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, list) or [type(value) for value in entry] != [str, str, int]:
            raise ValueError(
                f"{path}: entry {position}: expected a question, an answer and an image number, got {entry}"
            )
        text, answer, number = entry
        if not text.strip() or not answer.strip():
            raise ValueError(f"{path}: entry {position} has a blank question or answer")
        image = {"bytes": None, "path": str(source / name / "images" / f"{number}.png")}
        rows.append((number, {"id": f"{name}-{position}", "image": image, "text": text, "answers": [answer]}))
    return rows
