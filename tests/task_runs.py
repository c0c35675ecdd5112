"""A run of each task that predicts, on scenes of its own, and how to read what it has written."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conftest import TWO_TOWER

from renaissance.tasks.base import Task
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data import shapes
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.vqav2 import VQAv2


def pretraining_argv(captions: Path, tokenizer: Path, folder: Path) -> list[str]:
    """The command line of a pretraining of the tiny two-tower model on a CPU, without its length and batch size."""
    argv = [*TWO_TOWER, "--train_datasets", str(captions), "--tokenizer", str(tokenizer), "--use_cpu", "--do_train"]
    return [*argv, "--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(folder)]


def mixture_argv(
    options: list[str], *sources: Path, steps: int = 6, objectives: tuple[str, ...] = ("mlm",)
) -> list[str]:
    """The command line of a pretraining of the tiny two-tower model on several data sets."""
    argv = [*TWO_TOWER, *options, "--train_datasets", *map(str, sources), "--do_train", "--objectives", *objectives]
    return [*argv, *f"--max_steps {steps} --learning_rate 1e-2 --weight_decay 0.1 --logging_steps 1".split()]


def ids_of_lines(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row[0] for row in csv.reader(file)]


def ids_of_boxes(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def ids_of_answers(path: Path) -> list[str]:
    return [str(entry["question_id"]) for entry in json.loads(path.read_text())]


def ids_of_images(path: Path) -> list[str]:
    found = json.loads(path.read_text())
    ids = [entry["image_id"] for entry in found["captions_for_images"]]
    # A row has its captions in one list.
    assert [*dict.fromkeys(entry["image_id"] for entry in found["images_for_captions"])] == ids
    return ids


class Predicted(NamedTuple):
    """A task with its files of predictions by split, and how to read the ids of their rows."""

    task: type[Task]
    read: Callable[[Path], list[str]]
    files: dict[str, str]
    id_column: str = "id"
    #: What counts the rows of a split in its metrics.
    counted: str = "rows"


LINES = {"test": "predictions.csv"}
TASKS = {
    "nlvr2": Predicted(NLVR2, ids_of_lines, LINES),
    "snli_ve": Predicted(SNLIVE, ids_of_lines, LINES),
    "image_text": Predicted(ImageTextClassification, ids_of_lines, LINES),
    "cifar10": Predicted(CIFAR10, ids_of_lines, LINES),
    "glue": Predicted(GLUE, ids_of_lines, LINES),
    "vqav2": Predicted(VQAv2, ids_of_answers, {"test": "predictions.json"}),
    "refcoco": Predicted(
        RefCOCO, ids_of_boxes, {"testA": "predictions_testA.jsonl", "testB": "predictions_testB.jsonl"}
    ),
    "retrieval": Predicted(Retrieval, ids_of_images, {"test": "predictions.json"}, "image_id", "images"),
}
#: Neither the batches of one process nor those of two are full at the end; nor are those of the rows that are evaluated.
ROWS, EVALUATED = 13, 5


def write_scenes(folder: Path) -> None:
    """Write the data of all tasks into a folder."""
    for name in TASKS:
        data = shapes.DATA_SETS[name]
        for split in data.splits:
            write_split(data.rows(split, ROWS, 0, 32), data.features, folder / name, split, num_rows=ROWS)


def run_argv(name: str, scenes: Path, tokenizer: Path, output: Path) -> list[str]:
    """A run of which every option that may shorten data is in force."""
    argv = [*TWO_TOWER, "--tokenizer", str(tokenizer), "--dataset", str(scenes / name), "--output_dir", str(output)]
    argv += ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--seed", "1", "--initializer_range", "0.3"]
    argv += ["--per_device_eval_batch_size", "4", "--dataloader_drop_last", "true"]
    argv += ["--max_eval_samples", str(EVALUATED), "--do_eval", "--do_predict"]
    return argv + (["--min_answer_count", "1"] if name == "vqav2" else [])
