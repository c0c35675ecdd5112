"""Tasks whose data is a table: a row an example, with columns of images, text and labels."""

import csv
import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from transformers import EvalPrediction, PreTrainedModel

from ..processing.collators import RowCollator
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task
from .data.loading import character_counts, open_split, require_features, with_own_names
from .metrics import Accuracy


logger = logging.getLogger(__name__)


@dataclass
class SupervisedArguments:
    """Where the data is: a data set with splits, or a file for each. A task adds the names of its columns."""

    dataset: str | None = field(
        default=None, metadata={"help": "Prepared folder or Hub data set with train, validation and test splits."}
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration of a Hub data set that has several, such as cola of nyu-mll/glue."},
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own training data: a .parquet, .csv, .tsv, .json or .jsonl file with a row an example, or a folder of "
            "images. Columns are named by the options --*_column."
        },
    )
    validation_file: str | None = field(default=None, metadata={"help": "The same for evaluation."})
    test_file: str | None = field(default=None, metadata={"help": "The same for prediction; it needs no labels."})
    image_folder: str | None = field(
        default=None,
        metadata={
            "help": "Folder that paths in an image column of your own file start from; by default the file's own."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows only."})

    def __post_init__(self):
        files = [name for name in ("train_file", "validation_file", "test_file") if getattr(self, name)]
        if not self.dataset and not files:
            raise ValueError(
                "dataset: expected a prepared folder or a Hub data set, or train_file, validation_file, test_file"
            )
        if self.dataset and files:
            raise ValueError(f"{', '.join(files)}: without effect where dataset is given; leave out one of them")
        if self.dataset_config and (files or Path(self.dataset).is_dir()):
            raise ValueError(
                "dataset_config: without effect on files and folders, only Hub data sets have it; leave it out"
            )
        if self.image_folder and self.dataset:
            raise ValueError("image_folder: without effect on a dataset, which holds its images; leave it out")

    def columns(self) -> dict[str, str]:
        """The task's names of columns, each with the name that the data has for it."""
        options = (option.name for option in dataclasses.fields(self) if option.name.endswith("_column"))
        return {name.removesuffix("_column"): getattr(self, name) for name in options}

    def file(self, split: str) -> str | None:
        """The user's own file for a split; raises `ValueError` where there are others, but none for this one."""
        if self.dataset:
            return None
        found = getattr(self, f"{split}_file", None)
        if not found:
            raise ValueError(f"{split}_file: no data for {split}; name a file, or leave out what needs it")
        return found


class SupervisedTask(Task):
    """
    A task on a table. A row of its data has the columns of `features`, under whatever names the user gives, and
    `label` is a class, unless the task says otherwise.

    Class attributes:
        features: The schema of a prepared data set.
        target: The column that is to be predicted, which `with_labels` reads.
        optional: Columns that may be missing. The target may, in a test split.
        classes: Names of the classes, in order; `None` where the data says what they are.
        no_label: Labels that say that a row has none; such rows are skipped and counted.
    """

    arguments = SupervisedArguments
    best_metric = "eval_accuracy"
    features: ClassVar[Features]
    target: ClassVar[str] = "label"
    optional: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[list[str] | None] = None
    no_label: ClassVar[tuple[str | int, ...]] = ()

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        # Of the checkpoint's head, of the task, or, from when it is loaded, of the data.
        super().__init__(data_arguments, names or self.classes)

    def load(self, split: str) -> Dataset:
        data = self.read(split)
        arguments = self.data_arguments
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        return data.select(range(min(limit, len(data)))) if limit else data

    def read(self, split: str) -> Dataset:
        """All rows of a split, with the task's names of columns; raises `ValueError` where one is not what it should be."""
        arguments = self.data_arguments
        optional = (*self.optional, self.target) if split in self.test_splits else self.optional
        file = arguments.file(split)
        source = f"{file or arguments.dataset}, split {split!r}"
        data = with_own_names(self.open(split), arguments.columns(), optional, source)
        if "id" in data.column_names:
            data = with_text_ids(data)
        folder = arguments.image_folder or (file and Path(file).parent)
        data = require_features(
            data, {name: kind for name, kind in self.features.items() if name != self.target}, source, folder
        )
        data = self.with_labels(data, split, source)
        require_unique_ids(data, source)
        self.check_rows(data, source)
        return data

    def open(self, split: str) -> Dataset:
        """A split as it is, under whatever names of columns."""
        arguments = self.data_arguments
        file = arguments.file(split)
        return open_split(file or arguments.dataset, split, arguments.dataset_config, is_file=bool(file))

    def check_rows(self, data: Dataset, source: str) -> None:
        """Raises `ValueError`, naming the first one, where a row is not what the task needs."""

    def with_labels(self, data: Dataset, split: str, source: str) -> Dataset:
        """
        The data with `label` as class numbers of `self.names`; without it where a test split has none. Rows that say that they
        have no label are left out.

        Raises:
            ValueError: Where a label is missing, or is no class of the training data, of the task or of the checkpoint.
        """
        if "label" not in data.column_names:
            return data
        values, feature = data.data.column("label").to_pylist(), data.features["label"]
        # Hub data sets write -1 where the benchmark keeps its test labels to itself.
        if split in self.test_splits and all(value in (None, -1, *self.no_label) for value in values):
            return data.remove_columns("label")
        skipped = {row for row, value in enumerate(values) if value in self.no_label}
        own = feature.names if isinstance(feature, ClassLabel) else None
        if own:
            values = [own[value] if value is not None and value >= 0 else None for value in values]
        if self.names is None:
            self.names = own or class_names(values, source)
        if len(skipped) == len(values):
            raise ValueError(f"{source}: no row has a label")
        # Only for the look-up: these rows go.
        values = [self.names[0] if row in skipped else value for row, value in enumerate(values)]
        data = data.remove_columns("label").add_column("label", class_numbers(values, self.names, source))
        return without_rows(data, skipped, source) if skipped else data

    def text_lengths(self, data: Dataset, epoch: int) -> np.ndarray | None:
        texts = [name for name in ("text", "text_pair") if name in data.column_names]
        return sum(character_counts(data, name) for name in texts) if texts else None

    def config_fields(self) -> dict[str, Any]:
        numbered = list(enumerate(self.names))
        return {"id2label": dict(numbered), "label2id": {name: number for number, name in numbered}}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RowCollator:
        return RowCollator(processor)

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Accuracy, and that of the majority label."""
        return Accuracy().compute(predictions=prediction.predictions, references=prediction.label_ids)

    def write_predictions(self, predictions: Any, data: Dataset, path: Path) -> None:
        """Writes a CSV file: the row's `id`, or its number, and the name of the class, a row a line."""
        with path.with_suffix(".csv").open("w", newline="") as file:
            ids = data["id"] if "id" in data.column_names else range(len(data))
            csv.writer(file).writerows((row, self.names[label]) for row, label in zip(ids, predictions, strict=True))


def with_text_ids(data: Dataset) -> Dataset:
    """The data with the column `id` as strings, where a file or a Hub data set has numbers."""
    if data.features["id"] == Value("string"):
        return data
    # Not `cast_column`, which writes all of the data anew, images too.
    ids = [None if value is None else str(value) for value in data["id"][:]]
    return data.remove_columns("id").add_column("id", ids)


def require_unique_ids(data: Dataset, source: str) -> None:
    """Raises `ValueError`, naming the first such rows, where two have the same `id`."""
    seen = {}
    for row, value in enumerate(data["id"][:] if "id" in data.column_names else ()):
        if seen.setdefault(value, row) != row:
            raise ValueError(
                f"{source}, row {row}: column 'id' has {value!r}, as row {seen[value]} does; expected each once"
            )


def without_rows(data: Dataset, skipped: set[int], source: str) -> Dataset:
    """The data without rows that have no label, whose number is logged; the others keep their numbers, as `id`, if they have none."""
    logger.warning(f"{source}: skipped {len(skipped)} of {len(data)} rows, which have no label")
    if "id" not in data.column_names:
        data = data.add_column("id", [str(row) for row in range(len(data))])
    return data.select([row for row in range(len(data)) if row not in skipped])


def class_names(values: list, source: str) -> list[str]:
    """The names of the classes that the values of a label column are: strings in order, or numbers from 0 on."""
    present = {value for value in values if value is not None}
    if all(isinstance(value, str) for value in present):
        return sorted(present)
    if not all(isinstance(value, int) and value >= 0 for value in present):
        raise ValueError(
            f"{source}: expected names or whole numbers from 0 on in column 'label', got {sorted(present)[:3]}"
        )
    return [str(number) for number in range(max(present) + 1)]


def class_numbers(values: list, names: list[str], source: str) -> np.ndarray:
    """
    The numbers (N,) of the classes that a label column gives by name or number.

    Raises:
        ValueError: Where one is missing or none of `names`; the message names the first such row.
    """
    numbers = {name: number for number, name in enumerate(names)} | dict(
        zip(range(len(names)), range(len(names)), strict=True)
    )
    for row, value in enumerate(values):
        if value not in numbers:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{source}, row {row}: expected one of the labels {shown}, or its number, got {value!r}")
    return np.array([numbers[value] for value in values], dtype=np.int64)
