"""Tasks whose data is a table: a row an example, with columns of images, text and labels."""

import csv
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from transformers import EvalPrediction, PreTrainedModel

from ..modeling.fields import option
from ..processing.collators import RowCollator
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task
from .data.loading import character_counts, open_split, require_features, with_own_names
from .metrics import Accuracy, Metric
from .option_fields import Option, with_options


logger = logging.getLogger(__name__)

#: Values in a test split whose labels the benchmark does not publish; Hub data sets write -1.
HIDDEN_LABELS = (None, -1, "", [])


#: What the columns of tasks hold, unless a task says more about one.
COLUMNS = {
    "id": "ids, one for each row",
    "image": "images",
    "images": "lists of two images",
    "text": "texts",
    "text_pair": "second texts",
    "label": "labels, by name or number",
    "captions": "captions: a string or a list of strings for each row",
    "image_id": "ids of images; without it, every row is another image",
}


def with_columns(columns: Iterable[str], **texts: str) -> Callable[[type], type]:
    """
    Return a decorator that adds the options `<column>_column` to the arguments of a task, for the columns of its
    schema. `texts` say what the columns hold that are not in `COLUMNS`, or hold something else here.
    """
    texts = COLUMNS | texts
    options = [Option(f"{name}_column", str, f"Name of the column of {texts[name]}.", name) for name in columns]
    return with_options(options)


@dataclass
class SupervisedArguments:
    """Where the data is: a data set with splits, or a file for each. A task adds its columns by `with_columns`."""

    dataset: str | None = option(None, "Prepared folder or Hub data set with train, validation and test splits.")
    dataset_config: str | None = option(None, "Configuration of a Hub data set, such as cola of nyu-mll/glue.")
    train_file: str | None = option(
        None,
        "Your own training data: a .parquet, .csv, .tsv, .json or .jsonl file with one example per row, or a folder "
        "of images. The options --*_column name the columns.",
    )
    validation_file: str | None = option(None, "The same for evaluation.")
    test_file: str | None = option(None, "The same for prediction; it needs no labels.")
    image_folder: str | None = option(
        None, "Folder that paths in an image column of your own file start from. Without it, the folder of the file."
    )
    max_train_samples: int | None = option(None, "Train on at most this many rows, the first ones.")
    max_eval_samples: int | None = option(
        None, "Evaluate on at most this many rows, the first ones. Test splits are predicted as a whole."
    )

    def __post_init__(self):
        files = [name for name in ("train_file", "validation_file", "test_file") if getattr(self, name)]
        if not self.dataset and not files:
            raise ValueError("dataset: expected a prepared folder or a Hub data set; or use the options --*_file")
        if self.dataset and files:
            raise ValueError(f"{', '.join(files)}: without effect if dataset is given; leave out one of them")
        if self.dataset_config and (files or Path(self.dataset).is_dir()):
            raise ValueError("dataset_config: without effect on files and folders, but only on Hub data; leave it out")
        if self.image_folder and self.dataset:
            raise ValueError("image_folder: without effect on a dataset, which holds its images; leave it out")

    def columns(self) -> dict[str, str]:
        """Return the columns that the task reads, each with its name in the data."""
        return {name: getattr(self, f"{name}_column") or usual for name, usual in self.usual_columns().items()}

    def usual_columns(self) -> dict[str, str]:
        """Return the columns that the task reads, each with the name that it has if the user names no other."""
        names = [entry.name for entry in dataclasses.fields(self)]
        columns = [name.removesuffix("_column") for name in names if name.endswith("_column")]
        return dict(zip(columns, columns, strict=True))

    def file(self, split: str) -> str | None:
        """Return the user's own file for a split; raise `ValueError` if there are others, but none for this one."""
        if self.dataset:
            return None
        found = getattr(self, f"{split}_file", None)
        if not found:
            raise ValueError(f"{split}_file: no data for {split}; name a file, or leave out what needs it")
        return found

    def source(self, split: str) -> str:
        """Return the name of a split in messages."""
        return f"{self.file(split) or self.dataset}, split {split!r}"


class SupervisedTask(Task):
    """
    A task on a table. A row has the columns of `features`; its `label` is a class, unless the task overrides
    `with_labels`.

    Class attributes:
        features: The schema of a prepared data set.
        target: The column to predict, which `with_labels` reads. A test split may lack it.
        optional: Other columns that may be missing.
        classes: Names of the classes, in order; `None` if they come from the data.
        metric: The metric of predicted classes.
        no_label: Values of `label` for rows without a label; such rows are skipped and counted.
    """

    arguments = SupervisedArguments
    best_metric = "eval_accuracy"
    features: ClassVar[Features]
    target: ClassVar[str] = "label"
    optional: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[list[str] | None] = None
    no_label: ClassVar[tuple[str | int, ...]] = ()
    metric: type[Metric] = Accuracy

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        # Those of the checkpoint's head, of the task or, once it is loaded, of the data.
        super().__init__(data_arguments, names or self.classes)

    def load(self, split: str) -> Dataset:
        data, limit = self.read(split), self.limit(split)
        return data.select(range(min(limit, len(data)))) if limit else data

    def limit(self, split: str) -> int | None:
        """
        Return the largest number of rows of a split; `None` for all. Raise `ValueError` if a split that is to be
        predicted, as a whole, is also evaluated on its first rows.
        """
        arguments = self.data_arguments
        if split == "train":
            return arguments.max_train_samples
        if split in self.test_splits and split in self.eval_splits and arguments.max_eval_samples:
            fault = f"would leave out rows of {split}, which is predicted as well as evaluated"
            raise ValueError(f"max_eval_samples: {fault}; leave it out, or predict another split")
        return None if split in self.test_splits else arguments.max_eval_samples

    def read(self, split: str) -> Dataset:
        """Return all rows of a split, under the task's names of columns; raise `ValueError` if one is invalid."""
        arguments = self.data_arguments
        is_test = split in self.test_splits
        file, source = arguments.file(split), arguments.source(split)
        optional = (*self.optional, self.target) if is_test else self.optional
        data = with_own_names(self.open(split), arguments.columns(), optional, source)
        if "id" in data.column_names:
            data = with_text_ids(data)
        folder = arguments.image_folder or (file and Path(file).parent)
        inputs = {name: kind for name, kind in self.features.items() if name != self.target}
        data = require_features(data, inputs, source, folder)
        if self.target in data.column_names:
            values = data.data.column(self.target).to_pylist()
            if is_test and all(value in (*HIDDEN_LABELS, *self.no_label) for value in values):
                data = data.remove_columns(self.target)
            else:
                data = self.with_labels(data, split, source)
        require_unique_ids(data, source)
        self.check_rows(data, source)
        return data

    def open(self, split: str) -> Dataset:
        """Return a split as it is, with its own names of columns."""
        arguments = self.data_arguments
        file = arguments.file(split)
        return open_split(file or arguments.dataset, split, arguments.dataset_config, is_file=bool(file))

    def check_rows(self, data: Dataset, source: str) -> None:
        """Raise `ValueError`, naming the first such row, if a row does not fit the task."""

    def with_labels(self, data: Dataset, split: str, source: str) -> Dataset:
        """
        Return the data with `label` as numbers of the classes `self.names`, without the rows whose label is in
        `no_label`; of a test split, whose rows are all predicted, with the label `IGNORED` in these. Raise `ValueError`
        if a label is missing or not one of the classes.
        """
        values, feature = data.data.column("label").to_pylist(), data.features["label"]
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
        labels = class_numbers(values, self.names, source)
        if is_test := split in self.test_splits:
            labels[sorted(skipped)] = IGNORED
        data = data.remove_columns("label").add_column("label", labels)
        if skipped and is_test:
            logger.warning(f"{source}: {len(skipped)} of {len(data)} rows have no label; metrics are over the others")
        return without_rows(data, skipped, source) if skipped and not is_test else data

    def text_lengths(self, data: Dataset, epoch: int) -> np.ndarray | None:
        texts = [name for name in ("text", "text_pair") if name in data.column_names]
        return sum(character_counts(data, name) for name in texts) if texts else None

    def config_fields(self) -> dict[str, Any]:
        numbered = list(enumerate(self.names))
        return {"id2label": dict(numbered), "label2id": {name: number for number, name in numbered}}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RowCollator:
        return RowCollator(processor)

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return the figures of `metric`, each with its baseline, and the number of rows, which are those with a label."""
        return self.metric().compute(**labelled(prediction))

    def same_answer(self, predictions: Any) -> str | None:
        if len(predictions) < 2 or (predictions != predictions[0]).any():
            return None
        return f"{self.answer_name(predictions[0])} to all {len(predictions)} rows"

    def answer_name(self, answer: Any) -> str:
        """Return how a prediction is called in messages."""
        return repr(self.names[answer])

    def write_predictions(self, predictions: Any, data: Dataset, path: Path) -> None:
        """Write a CSV file with a line for each row: its id, or its number, and the name of its class."""
        with path.with_suffix(".csv").open("w", newline="") as file:
            rows = zip(row_ids(data), predictions, strict=True)
            csv.writer(file).writerows((row, self.names[label]) for row, label in rows)


def labelled(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Return the `predictions` (N,) and the labels, `references` (N,), of the rows that have a label."""
    rows = prediction.label_ids != IGNORED
    return {"predictions": prediction.predictions[rows], "references": prediction.label_ids[rows]}


def row_ids(data: Dataset) -> Sequence[str] | range:
    """Return the ids of the rows, or their numbers if they have none."""
    return data["id"] if "id" in data.column_names else range(len(data))


def with_text_ids(data: Dataset) -> Dataset:
    """Return the data with the column `id` as strings; a file or a Hub data set may have numbers."""
    if data.features["id"] == Value("string"):
        return data
    # Not `cast_column`, which writes all of the data anew, images too.
    ids = [None if value is None else str(value) for value in data["id"][:]]
    return data.remove_columns("id").add_column("id", ids)


def require_unique_ids(data: Dataset, source: str) -> None:
    """Raise `ValueError`, naming the first such rows, if two have the same `id`."""
    seen = {}
    for row, value in enumerate(data["id"][:] if "id" in data.column_names else ()):
        if seen.setdefault(value, row) != row:
            fault = f"column 'id' has {value!r}, as row {seen[value]} does"
            raise ValueError(f"{source}, row {row}: {fault}; expected each once")


def without_rows(data: Dataset, skipped: set[int], source: str) -> Dataset:
    """Return the data without the skipped rows, and log their number. Rows without an id keep their number as one."""
    logger.warning(f"{source}: skipped {len(skipped)} of {len(data)} rows, which have no label")
    if "id" not in data.column_names:
        data = data.add_column("id", [str(row) for row in range(len(data))])
    return data.select([row for row in range(len(data)) if row not in skipped])


def class_names(values: list, source: str) -> list[str]:
    """Return the names of the classes in a label column: strings in order, or numbers from 0 on."""
    present = {value for value in values if value is not None}
    if all(isinstance(value, str) for value in present):
        return sorted(present)
    if not all(isinstance(value, int) and value >= 0 for value in present):
        shown = sorted(present)[:3]
        raise ValueError(f"{source}: expected names or whole numbers from 0 on in column 'label', got {shown}")
    return [str(number) for number in range(max(present) + 1)]


def class_numbers(values: list, names: list[str], source: str) -> np.ndarray:
    """
    Return the numbers (N,), int64, of the classes that a label column gives by name or number. Raise `ValueError`,
    naming the first such row, if one is missing or not one of `names`.
    """
    numbers = {key: number for number, name in enumerate(names) for key in (name, number)}
    for row, value in enumerate(values):
        if value not in numbers:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{source}, row {row}: expected one of the labels {shown}, or its number, got {value!r}")
    return np.array([numbers[value] for value in values], dtype=np.int64)
