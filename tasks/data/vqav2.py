"""Reader of VQAv2 in its public layout."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import schemas
from .blank_texts import trimmed
from .readers import (
    LeftOut,
    PublicDataSet,
    SourceRows,
    Unusable,
    image_at,
    require_source,
    wanted_splits,
    warn_of_no_split,
)
from .text_files import json_entries


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


def read_vqav2(source: str | os.PathLike, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of VQAv2, of the test split if its questions are there or it is asked for; its answers are not
    public: they are null. The answer that VQA names as the most frequent one comes first, so that ties are broken as
    there. Raise `ValueError` as `PublicDataSet` says."""
    source, names = Path(source), {split: SPLITS[split] for split in wanted_splits(splits, SPLITS)}
    if left_out := splits is None and not question_file(source, SPLITS["test"]).is_file():
        del names["test"]
    files = {split: [question_file(source, name)] for split, name in names.items()}
    for split in files.keys() - {"test"}:
        files[split].append(answer_file(source, names[split]))
    require_source(files, {split: [source / name] for split, name in names.items()})
    if left_out:
        warn_of_no_split("test", question_file(source, SPLITS["test"]))
    return {split: _read_split(source, name, has_answers=split != "test") for split, name in names.items()}


def question_file(source: Path, name: str) -> Path:
    """Return the file of the questions of one of their splits."""
    return source / f"v2_OpenEnded_mscoco_{name}_questions.json"


def answer_file(source: Path, name: str) -> Path:
    """Return the file of the answers of one of their splits."""
    return source / f"v2_mscoco_{name}_annotations.json"


def _read_split(source: Path, name: str, has_answers: bool) -> SourceRows:
    rows, seen, read, path = {}, set(), SourceRows([]), question_file(source, name)
    answers = _read_answers(answer_file(source, name), read.left_out) if has_answers else {}
    for where, entry in json_entries(path, "questions", key="questions"):
        with read.left_out.entry(where, "a VQA question"):
            question = entry["question_id"]
            seen.add(question)
            text = trimmed(entry["question"])
            image = image_at(source / name / f"COCO_{name}_{entry['image_id']:012d}.jpg")
            if question in rows:
                raise Unusable("repeated question", f"repeats the question_id {question}")
            if not text:
                raise Unusable("blank question", "has a blank question")
            if has_answers and question not in answers:
                raise Unusable("question without answers", f"has no annotation with answers, question_id {question}")
            row = {"id": str(question), "image": image, "text": text, "answers": answers.get(question)}
            # The annotation of one without usable answers has been counted.
            if row["answers"] or not has_answers:
                rows[question] = row
    for question in sorted(answers.keys() - seen, key=str):
        reason = f"has no question for the annotation of question_id {question}"
        read.left_out.add(str(answer_file(source, name)), "annotation without a question", reason)
    read.entries.extend(rows.values())
    return read


def _read_answers(path: Path, left_out: LeftOut) -> dict[int, list[str] | None]:
    """Return the answers to each question, by its id; `None` if they cannot be used."""
    answers = {}
    for where, entry in json_entries(path, "annotations", key="annotations"):
        with left_out.entry(where, "a VQA annotation"):
            question = entry["question_id"]
            answers.setdefault(question)
            given = [answer["answer"] for answer in entry["answers"]]
            most_frequent = entry["multiple_choice_answer"]
            if answers[question] is not None:
                raise Unusable("repeated annotation", f"repeats the question_id {question}")
            if not given or not all(isinstance(answer, str) for answer in given):
                raise Unusable(
                    "annotation without answers", f"(question_id {question}): expected texts in 'answers', got {given}"
                )
            answers[question] = sorted(given, key=lambda answer: answer != most_frequent)
    return answers


DATA_SETS = {"vqav2": PublicDataSet(HELP, schemas.VQAV2, read_vqav2)}
