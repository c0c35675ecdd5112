"""Reader of VQAv2 in its public layout."""

import logging
import os
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, image_at, json_entries, named_faults


logger = logging.getLogger(__name__)

HELP = """VQA v2: train2014 -> train, val2014 -> validation, test2015 -> test (no answers; it may be missing).

Questions and annotations: https://visualqa.org/download.html
Images:                    http://images.cocodataset.org/zips/train2014.zip, val2014.zip and test2015.zip

Expected layout:
    SOURCE/v2_OpenEnded_mscoco_train2014_questions.json, ..._val2014_..., ..._test2015_...
    SOURCE/v2_mscoco_train2014_annotations.json, ..._val2014_...
    SOURCE/train2014/COCO_train2014_000000000009.jpg ...
    SOURCE/val2014/COCO_val2014_000000000042.jpg ...
    SOURCE/test2015/COCO_test2015_000000000001.jpg ..."""

#: Our split names to theirs.
SPLITS = {"train": "train2014", "validation": "val2014", "test": "test2015"}


def read_vqav2(source: str | os.PathLike) -> dict[str, list[dict]]:
    """Return the rows of VQAv2, of the test split if its questions are there; its answers are not public: they are null. The
    answer that VQA names as the most frequent one comes first, so that ties are broken as there. Raise `ValueError` as
    `PublicDataSet` says, also if a question has no annotation, an annotation no question, or no answers."""
    splits = {}
    for split, name in SPLITS.items():
        questions = Path(source) / f"v2_OpenEnded_mscoco_{name}_questions.json"
        if split == "test" and not questions.is_file():
            logger.warning("%s does not exist: no test split is written", questions)
            continue
        answers = None if split == "test" else _read_answers(Path(source) / f"v2_mscoco_{name}_annotations.json")
        splits[split] = _read_questions(questions, Path(source) / name, name, answers)
    return splits


def _read_questions(path: Path, folder: Path, name: str, answers: dict[int, list[str]] | None) -> list[dict]:
    """Return the rows of a split; `answers` are by question id."""
    rows = {}
    for where, entry in json_entries(path, "questions", key="questions"):
        with named_faults(where, "a VQA question"):
            question, text = entry["question_id"], entry["question"].strip()
            image = image_at(folder / f"COCO_{name}_{entry['image_id']:012d}.jpg")
        if question in rows:
            raise ValueError(f"{where} repeats the question_id {question}")
        if not text:
            raise ValueError(f"{where} has a blank question")
        if answers is not None and question not in answers:
            raise ValueError(f"{where} has no annotation: the annotations have no question_id {question}")
        row = {"id": str(question), "image": image, "text": text}
        rows[question] = row | {"answers": None if answers is None else answers[question]}
    if left := [question for question in answers or () if question not in rows]:
        raise ValueError(f"{path} has no question for {len(left)} annotations, the first of question_id {left[0]}")
    return list(rows.values())


def _read_answers(path: Path) -> dict[int, list[str]]:
    """Return the answers to each question, by its id."""
    answers = {}
    for where, entry in json_entries(path, "annotations", key="annotations"):
        with named_faults(where, "a VQA annotation"):
            question, given = entry["question_id"], [answer["answer"] for answer in entry["answers"]]
            most_frequent = entry["multiple_choice_answer"]
        if not given or not all(isinstance(answer, str) for answer in given):
            raise ValueError(f"{where} (question_id {question}): expected texts in 'answers', got {given}")
        if question in answers:
            raise ValueError(f"{where} repeats the question_id {question}")
        answers[question] = sorted(given, key=lambda answer: answer != most_frequent)
    return answers


DATA_SETS = {"vqav2": PublicDataSet(HELP, schemas.VQAV2, read_vqav2)}
