"""NLVR2 (Suhr et al. 2019): is a sentence true of a pair of images?"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import EvalPrediction, PreTrainedModel

from ..processing.collators import ImagesAndTextCollator
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task
from .data.loading import load_split, require_images, require_text
from .metrics import Accuracy


LABELS = ["False", "True"]

#: One row a sentence with its images, left first.
FEATURES = Features(
    {
        "identifier": Value("string"),
        "images": List(Image()),
        "text": Value("string"),
        "label": ClassLabel(names=LABELS),
    }
)


@dataclass
class NLVR2Arguments:
    """Data of NLVR2."""

    dataset: str | None = field(
        default=None, metadata={"help": "Prepared folder or Hub data set with train, validation and test splits."}
    )
    identifier_column: str = field(default="identifier", metadata={"help": "Name of the column that names a row."})
    images_column: str = field(default="images", metadata={"help": "Name of the column of lists of two images."})
    text_column: str = field(default="text", metadata={"help": "Name of the column of sentences."})
    label_column: str = field(
        default="label", metadata={"help": "Name of the column of labels, 0 (false) or 1 (true)."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows only."})

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("dataset: expected a prepared folder or a Hub data set, got none")


class NLVR2(Task):
    """Truth of a sentence about two images."""

    kind = "ForImagesAndTextClassification"
    arguments = NLVR2Arguments
    best_metric = "eval_accuracy"
    augmentable = ("images",)

    def load(self, split: str) -> Dataset:
        arguments = self.data_arguments
        columns = {
            "identifier": arguments.identifier_column,
            "images": arguments.images_column,
            "text": arguments.text_column,
            "label": arguments.label_column,
        }
        data = load_split(arguments.dataset, split, columns, optional=("identifier",))
        require_images(data, "images", arguments.dataset, several=True)
        require_text(data, "text", arguments.dataset)
        check_pairs(data, f"{arguments.dataset}, split {split!r}")
        check_labels(data, arguments.dataset, split)
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        return data.select(range(min(limit, len(data)))) if limit else data

    def config_fields(self) -> dict[str, Any]:
        return {
            "num_images": 2,
            "id2label": dict(enumerate(LABELS)),
            "label2id": {name: i for i, name in enumerate(LABELS)},
        }

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> ImagesAndTextCollator:
        return ImagesAndTextCollator(processor)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Accuracy, and that of the majority label."""
        return Accuracy().compute(predictions=prediction.predictions, references=prediction.label_ids)

    def write_predictions(self, predictions: Any, data: Dataset, folder: Path) -> None:
        """Writes `predictions.csv`, `identifier,True` or `identifier,False` a line, as NLVR2's evaluation script reads."""
        names = data["identifier"] if "identifier" in data.column_names else range(len(data))
        with (folder / "predictions.csv").open("w", newline="") as file:
            csv.writer(file).writerows((name, LABELS[label]) for name, label in zip(names, predictions, strict=True))


def check_pairs(data: Dataset, source: str) -> None:
    """Raises `ValueError`, naming the first row, where there are not two images."""
    for row, count in enumerate(data.data.column("images").combine_chunks().value_lengths().to_pylist()):
        if count != 2:
            raise ValueError(f"{source}, row {row}: expected 2 images, got {count}")


def check_labels(data: Dataset, source: str, split: str) -> None:
    """Raises `ValueError`, naming the first row, where a label is not 0 or 1."""
    for row, label in enumerate(data["label"]):
        if label not in (0, 1):
            raise ValueError(
                f"{source}, split {split!r}, row {row}: expected the label 0 (false) or 1 (true), got {label!r}"
            )
