"""Reads the files of predictions that tasks write."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any


@dataclass
class Prediction:
    """
    The prediction for a row.

    Attributes:
        id: The row's id, or its number.
        answer: The answer as the file has it: the name of a class, a text, or names of classes in a list; of a choice among boxes the
            number of the box; of retrieval the ids of the best images. Empty or `None` if the model gave none.
        probability: The probability of the answer, if the file has it.
        caption: The caption that images were searched for.
    """

    id: str
    answer: Any
    probability: float | None = None
    caption: str | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """
    Return the predictions in a file of one of the tasks. Raise `ValueError`, which names file and line, if it cannot be read, or is cut
    or broken.
    """
    readers = {".csv": of_lines, ".tsv": of_server_lines, ".jsonl": of_choices, ".json": of_json}
    place = [0]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(readers[path.suffix](counted(file, place)))
    except OSError as error:
        raise ValueError(f"{path.name}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, csv.Error, RecursionError) as error:
        where = f" line {place[0]}" if path.suffix != ".json" else ""
        raise ValueError(f"{path.name}{where}: not as a run writes predictions; is the file cut?") from error


def counted(lines: Iterator[str], place: list[int]) -> Iterator[str]:
    """Yield lines, with the number of the last one in `place`. Raise `ValueError` if the last line has no end: the file is cut."""
    for line in lines:
        place[0] += 1
        yield line
    # JSON has an end of its own.
    if place[0] and not line.endswith("\n") and not line.rstrip().endswith(("]", "}")):
        raise ValueError("the last line has no end")


def of_lines(lines: Iterator[str]) -> Iterator[Prediction]:
    """Yield the predictions of lines of id, class and, in some tasks, probability; if a row may have several classes, lists of both."""
    for row in csv.reader(lines, strict=True):
        name, answer, *share = row
        if len(share) > 1:
            raise ValueError("too many columns")
        several = bool(share) and share[0].startswith("[")
        yield Prediction(
            name,
            json.loads(answer) if several else answer,
            float(share[0]) if share and share[0] and not several else None,
        )


def of_server_lines(lines: Iterator[str]) -> Iterator[Prediction]:
    """Yield the predictions of a file for GLUE's server."""
    rows = csv.reader(lines, delimiter="\t", strict=True)
    if next(rows, None) != ["index", "prediction"]:
        raise ValueError("no header")
    for name, answer in rows:
        yield Prediction(name, answer)


def of_choices(lines: Iterator[str]) -> Iterator[Prediction]:
    """Yield the predictions of a file of chosen boxes."""
    for line in lines:
        row = json.loads(line)
        yield Prediction(str(row["id"]), row["choice"])


def of_json(lines: Iterator[str]) -> Iterator[Prediction]:
    """Yield the predictions of a file for VQA's server, or of images found for captions."""
    content = json.loads("".join(lines))
    if isinstance(content, dict):
        for row in content["images_for_captions"]:
            best = [str(each) for each in row["best"]]
            yield Prediction(str(row["image_id"]), best, caption=str(row["caption"]))
        return
    for row in content:
        yield Prediction(str(row["question_id"]), str(row["answer"]))


def spread(numbers: list[int], most: int) -> list[int]:
    """Return at most `most` of some numbers, evenly spaced."""
    if len(numbers) <= most:
        return numbers
    return list(islice((numbers[place * len(numbers) // most] for place in range(most)), most))
