"""Reader of VQAv2 in its public layout (https://visualqa.org/download.html)."""

import json
import logging
import os
from pathlib import Path


logger = logging.getLogger(__name__)

#: Our split names to theirs.
SPLITS = {"train": "train2014", "validation": "val2014", "test": "test2015"}


def read_vqav2(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of VQAv2 by split (train, validation, and test where its questions are there), in the order of the files.

    A row has the columns of `tasks.vqav2.FEATURES`; its image is given by path and not opened here. The answer that VQA
    names as the most frequent one comes first, so that ties are broken as there. The answers of the test split are not
    public: they are null.

    Args:
        source: the folder that holds v2_OpenEnded_mscoco_{train2014,val2014,test2015}_questions.json,
            v2_mscoco_{train2014,val2014}_annotations.json, and the images in train2014/, val2014/ and test2015/.

    Raises:
        ValueError: if a file is missing or not VQA's JSON, an id comes twice, a question is blank or has no annotation or
            an annotation no question, or an annotation has no answers.
    """
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
    """The rows of a split, with `answers` by question id."""
    rows = {}
    for position, entry in enumerate(_read_entries(path, "questions")):
        where = f"{path}: questions[{position}]"
        try:
            question, text = entry["question_id"], entry["question"].strip()
            image = folder / f"COCO_{name}_{entry['image_id']:012d}.jpg"
        except KeyError as error:
            raise ValueError(f"{where} has no key {error}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is not a VQA question: {error}") from error
        if question in rows:
            raise ValueError(f"{where} repeats the question_id {question}")
        if not text:
            raise ValueError(f"{where} has a blank question")
        if answers is not None and question not in answers:
            raise ValueError(f"{where} has no annotation: the annotations have no question_id {question}")
        rows[question] = {
            "id": str(question),
            "image": {"bytes": None, "path": str(image)},
            "text": text,
            "answers": None if answers is None else answers[question],
        }
    if left := [question for question in answers or () if question not in rows]:
        raise ValueError(f"{path} has no question for {len(left)} annotations, the first of question_id {left[0]}")
    return list(rows.values())


def _read_answers(path: Path) -> dict[int, list[str]]:
    """The answers to each question, by its id."""
    answers = {}
    for position, entry in enumerate(_read_entries(path, "annotations")):
        where = f"{path}: annotations[{position}]"
        try:
            question, given = entry["question_id"], [answer["answer"] for answer in entry["answers"]]
            most_frequent = entry["multiple_choice_answer"]
        except KeyError as error:
            raise ValueError(f"{where} has no key {error}") from error
        except TypeError as error:
            raise ValueError(f"{where} is not a VQA annotation: {error}") from error
        if not given or not all(isinstance(answer, str) for answer in given):
            raise ValueError(f"{where} (question_id {question}): expected texts in 'answers', got {given}")
        if question in answers:
            raise ValueError(f"{where} repeats the question_id {question}")
        answers[question] = sorted(given, key=lambda answer: answer != most_frequent)
    return answers


def _read_entries(path: Path, key: str) -> list:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected VQA's {key} there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
        raise ValueError(f"{path} has no key {key!r} with a list of {key}")
    return content[key]
