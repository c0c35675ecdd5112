"""The tasks on the user's own data: six rows of each, what a task makes of them, and what it refuses them with."""

from pathlib import Path

import pytest
from own_files import COLOURS, as_jsonl, column_in, with_paths, write_pictures, write_separated

from renaissance.processing.decoding import decode
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.vqav2 import VQAv2


# With each separator, quotation marks, an end of a line, and what other readers take for numbers or nothing.
WORDS = ['a "red" dog, running; or|not', "two lines\nof text", "NA", "07", "null", "[a cat]"]
KINDS = ["neutral", "entailment", "contradiction", "neutral", "neutral", "entailment"]
BOXES = [[[0, 0, 10, 10], [5, 5, 10.5, 8]], [[1, 1, 20, 10]]]

TASKS = {
    "pretraining": (Pretraining, {"image": "picture", "captions": "words"}),
    "image_and_text": (ImageTextClassification, {"image": "picture", "text": "words", "label": "kind"}),
    "entailments": (SNLIVE, {"image": "picture", "text": "words", "label": "kind"}),
    "vqa": (VQAv2, {"image": "picture", "text": "words", "answers": "answer"}),
    "retrieval": (Retrieval, {"image": "picture", "captions": "words"}),
    "images": (CIFAR10, {"image": "picture", "label": "kind"}),
    "texts": (GLUE, {"text": "words", "label": "kind"}),
    "pairs": (NLVR2, {"images": ["left", "right"], "text": "words", "label": "kind"}),
    "boxes": (RefCOCO, {"image": "picture", "text": "words", "boxes": "frames", "label": "which"}),
}
MORE_OPTIONS = {"vqa": {"min_answer_count": 1}, "retrieval": {"num_negative_texts": 1}}


def values_of(number: int) -> dict:
    """All columns of a row."""
    return {
        "picture": number,
        "left": number,
        "right": (number + 1) % 6,
        "words": WORDS[number],
        "kind": KINDS[number],
        "answer": [["red"], ["blue", "green"]][number % 2],
        "frames": BOXES[number % 2],
        "which": (number + 1) % 2,
    }


def rows_of(name: str) -> list[dict]:
    """The rows of a task, with its columns alone."""
    columns = [own for value in TASKS[name][1].values() for own in ([value] if isinstance(value, str) else value)]
    rows = [{column: values_of(number)[column] for column in columns} for number in range(6)]
    if name == "pairs":
        rows = [row | {"kind": ["False", "True"][number % 2]} for number, row in enumerate(rows)]
    if name == "boxes":
        rows = [row | {"which": number % len(row["frames"])} for number, row in enumerate(rows)]
    return rows


def task_of(name: str, form: str = "", **options):
    kind, columns = TASKS[name]
    named = {}
    for column, own in columns.items():
        parts = [column_in(form, part) for part in ([own] if isinstance(own, str) else own)]
        named[f"{column}_column"] = parts if column == "images" else parts[0]
    options = named | MORE_OPTIONS.get(name, {}) | options
    return kind(
        kind.argument_class()(
            **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
        )
    )


def lists_task(folder, labels: list, name: str = "own.jsonl", **options):
    """Classification by several classes, whose lists are given."""
    write_pictures(folder)
    rows = [{"picture": n % 6, "words": f"text {n}", "kind": label} for n, label in enumerate(labels)]
    if name.endswith("jsonl"):
        file = as_jsonl(folder, rows).rename(folder / name)
    else:
        file = write_separated(folder / name, with_paths(rows))
    names = {"image_column": "picture", "text_column": "words", "label_column": "kind"}
    options = {"train_file": str(file), "multi_label": True} | options
    return ImageTextClassification(ImageTextClassification.argument_class()(**names, **options))


def colour(stored: dict) -> tuple[int, ...]:
    image = decode(stored)
    assert image.size == (24, 16)
    return image.getpixel((5, 5))


def seen(name: str, task, split: str = "train") -> list[dict]:
    """The rows that a task has for training, with the numbers of their pictures, under the user's names of columns."""
    found = []
    data = task.load(split)
    for number in range(len(data)):
        row, out = data[number], {}
        images = row.get("images", [row["image"]] if "image" in row else [])
        names = ["left", "right"] if name == "pairs" else ["picture"]
        out |= {own: COLOURS.index(colour(image)) for own, image in zip(names, images, strict=bool(images))}
        out |= {"words": row["text"]} if "text" in row else {}
        if name == "boxes":
            out |= {"frames": row["boxes"], "which": row["label"]}
        elif "answers" in row:
            out["answer"] = row["answers"]
        elif "label" in row:
            out["kind"] = task.names[row["label"]]
        found.append(out)
    return found


def fault(task, split: str = "train") -> str:
    """The message that a task refuses its data with: one line."""
    with pytest.raises(ValueError) as error:
        task.load(split)
    assert "\n" not in str(error.value)
    return str(error.value)
