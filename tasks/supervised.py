"""Tasks whose data is a table: a row an example, with columns of images, text and labels."""

import csv
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from ..modeling.fields import option
from ..processing.collators import INPUTS, RowCollator
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import NO_ANSWER, Task
from .data.columns import (
    character_counts,
    column_of,
    has_lists,
    in_words,
    is_name_or_number,
    is_text,
    replace_column,
    text_of,
)
from .data.faults import Faults
from .data.identity import held_out_rows
from .data.image_checks import ImageCheck
from .data.labels import class_names, class_numbers, names_of, plain_labels, warn_of_unlabelled
from .data.loading import is_unprepared, read_columns
from .data.opening import open_file, open_split
from .metrics import Accuracy, Metric
from .own_data import OwnDataArguments


logger = logging.getLogger(__name__)

#: Values in a test split whose labels the benchmark does not publish; Hub data sets write -1.
HIDDEN_LABELS = (None, -1, "-1", "", [])


@dataclass
class SupervisedArguments(OwnDataArguments):
    """Where the data is: a data set with splits, or a file for each. A task adds its columns by `with_columns`."""

    dataset: str | None = option(
        None, "Prepared folder, Hub data set, or folder of your own with train, validation and test splits."
    )
    dataset_config: str | None = option(None, "Configuration of a Hub data set, such as cola of nyu-mll/glue.")
    max_train_samples: int | None = option(None, "Train on at most this many rows, the first ones.", within="[1, inf)")
    max_eval_samples: int | None = option(
        None,
        "Evaluate on at most this many rows, the first ones. Test splits are predicted as a whole.",
        within="[1, inf)",
    )

    def __post_init__(self):
        super().__post_init__()
        files = self.files()
        if not self.dataset and not files:
            raise ValueError("dataset: expected a prepared folder or a Hub data set; or use the options --*_file")
        if self.dataset and files:
            raise ValueError(f"{', '.join(files)}: without effect if dataset is given; leave out one of them")
        if self.dataset_config and (files or Path(self.dataset).is_dir()):
            raise ValueError("dataset_config: without effect on files and folders, but only on Hub data; leave it out")
        if self.image_folder and self.dataset:
            raise ValueError("image_folder: without effect on a dataset, which holds its images; leave it out")
        self.check_images_column()

    def check_images_column(self) -> None:
        """Raise `ValueError` if the images of a row are to come from one column twice, or from more than two."""
        names = getattr(self, "images_column", None) or []
        if len(set(names)) < len(names) or len(names) > 2:
            expected = "one column with lists of two images, or two different columns, the left image first"
            raise ValueError(f"images_column: expected {expected}; got {' '.join(names)}")

    def columns(self) -> dict[str, str | list[str]]:
        """Return the columns that the task reads, each with its name in the data, or the names of several that make lists."""
        found = {}
        for name, usual in self.usual_columns().items():
            own = getattr(self, f"{name}_column") or usual
            found[name] = own[0] if isinstance(own, list) and len(own) == 1 else own
        return found

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
        if split == "validation" and self.held_out:
            found = self.train_file
        if not found:
            advice = " or use --held_out" if split == "validation" else ""
            raise ValueError(f"{split}_file: no data for {split}; name a file{advice}, or leave out what needs it")
        return found

    def source(self, split: str) -> str:
        """Return the name of a split in messages."""
        return f"{self.file(split) or self.dataset}, split {split!r}"


@dataclass
class TextAndImageArguments(SupervisedArguments):
    """Data whose rows have both texts and images, one of which may be removed."""

    remove_input: str | None = option(
        None,
        "Remove one kind of input from all rows, to see what the other one alone tells. text: all texts of a row are empty, of which the "
        "tokenizer's special tokens are left. image: all images of a row have one size and the mean colour of the image processor, "
        "which is 0 after normalisation. A training with it is blind from the beginning; with do_train false, the input of a trained "
        "model is removed. Labels, rows and their order stay.",
        choices=list(INPUTS),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.remove_input not in (None, *INPUTS):
            raise ValueError(f"remove_input: expected {' or '.join(INPUTS)}, got {self.remove_input!r}")


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
        problem_types: What the head of a checkpoint may be for, by the field `problem_type` of its configuration.
        no_label: Values of `label` for rows without a label; such rows are skipped and counted.
    """

    arguments = SupervisedArguments
    best_metric = "eval_accuracy"
    metric_names = ("loss", "accuracy")
    features: ClassVar[Features]
    target: ClassVar[str] = "label"
    optional: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[list[str] | None] = None
    problem_types: ClassVar[tuple[str | None, ...]] = (None, "single_label_classification")
    no_label: ClassVar[tuple[str | int, ...]] = ()
    #: What to do if labels are lists, in messages.
    advice_on_lists: ClassVar[str] = ""
    metric: type[Metric] = Accuracy

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        if names and self.classes:
            names = self.own_names(names)
        # Those of the checkpoint's head, of the task or, once it is loaded, of the data.
        super().__init__(data_arguments, names or self.classes)
        #: The rows of each split that was read: each file is read once, so that its rows and its messages are, too.
        self._rows: dict[str, Dataset] = {}

    def own_names(self, names: list[str]) -> list[str]:
        """Return the classes of a checkpoint's head, in its order, as the task writes them. Classes without names
        have the task's order. Raise `ValueError` if they are others."""
        if names == [f"LABEL_{number}" for number in range(len(self.classes))]:
            logger.warning(
                f"the checkpoint's classes have no names; taken for {', '.join(self.classes)}, in this order"
            )
            return self.classes
        own = {name.casefold(): name for name in self.classes}
        if sorted(name.casefold() for name in names) != sorted(own):
            raise ValueError(
                f"model_name_or_path: its head tells apart {', '.join(names[:8])}, while this task has the classes "
                f"{', '.join(self.classes)}; name a checkpoint without that head, such as the pretrained one"
            )
        return [own[name.casefold()] for name in names]

    def start_from(self, config: PreTrainedConfig) -> None:
        if config.problem_type not in self.problem_types:
            raise ValueError(
                f"model_name_or_path: its head is for {config.problem_type or 'one class a row'}, which is another task; "
                f"name a checkpoint without that head, such as the pretrained one{self.other_task(config)}"
            )

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        has_text = bool({"text", "captions"} & set(self.features))
        if args.train_sampling_strategy == "group_by_length" and not (has_text and self.removed_input != "text"):
            reason = "remove_input removes the text" if has_text else "this task has no text"
            raise ValueError(f"train_sampling_strategy: group_by_length is without effect, {reason}; leave it out")
        if has_text:
            return
        if args.neftune_noise_alpha is not None:
            raise ValueError("neftune_noise_alpha: without effect, this task has no text; leave it out")

    def other_task(self, config: PreTrainedConfig) -> str:
        """Return which option to set for the head of a checkpoint that does not fit, as the end of a message; nothing if none helps."""
        return ""

    def in_task_order(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers (N,) of the model's classes as numbers of the task's. A checkpoint may have them in another order."""
        if not self.classes or self.names == self.classes:
            return numbers
        order = np.array([self.classes.index(name) for name in self.names])
        return np.where(numbers < 0, numbers, order[np.maximum(numbers, 0)])

    def source(self, split: str) -> str:
        return self.data_arguments.source(split)

    def load(self, split: str) -> Dataset:
        data, limit = self.read(split), self.limit(split)
        return data.select(range(min(limit, len(data)))) if limit else data

    def sources(self, split: str) -> list[str]:
        return [self.data_arguments.file(split) or self.data_arguments.dataset]

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
        """Return all rows of a split, or the part of the training rows that `held_out` makes it; raise `ValueError` as
        `read_whole` does."""
        if split not in self._rows:
            if self.data_arguments.held_out and split in ("train", *self.eval_splits):
                self._rows |= zip(("train", *self.eval_splits), self.parts(), strict=True)
            else:
                self._rows[split] = self.read_whole(split)
        return self._rows[split]

    def parts(self) -> tuple[Dataset, Dataset]:
        """Return the training rows without those that are held out, and these."""
        if len(self.eval_splits) > 1:
            raise ValueError(f"held_out: this task is evaluated on {' and '.join(self.eval_splits)}; leave it out")
        data = self.read_whole("train")
        images = [name for name in ("image", "images", "image_id") if name in data.column_names]
        train, held = held_out_rows(data, images or ["text"], self.data_arguments.held_out)
        logger.info(f"{self.data_arguments.source('train')}: held out {len(held)} of {len(data)} rows for evaluation")
        return data.select(train), data.select(held)

    def read_whole(self, split: str, for_training: bool = False) -> Dataset:
        """
        Return the rows of a split, under the task's names of columns. Bad rows of the split `train`, and of another one that is
        `for_training`, may be skipped. Raise `ValueError` with all that is wrong, by the user's names of columns and the numbers
        of rows in the file, if too many rows cannot be used.
        """
        for_training = for_training or split == "train"
        arguments, is_test = self.data_arguments, split in self.test_splits
        source, columns = arguments.source(split), arguments.columns()
        faults = Faults(source, columns)
        data = self.open(split, faults)
        required = [name for name in columns if self.is_required(name, is_test)]
        inputs = {name: kind for name, kind in self.features.items() if name not in ("id", self.target)}
        file = arguments.file(split)
        decoded_before = not file and not is_unprepared(arguments.dataset, split)
        check = arguments.image_check("train" if for_training else split, decoded_before, self.caches_features)
        folder, downloading = arguments.folder(file or arguments.dataset), arguments.downloading()
        data = read_columns(
            data, inputs, columns, required, faults, folder, downloading, self.max_image_pixels, check, not file
        )
        if "id" in data.column_names:
            data = with_text_ids(data, faults)
        if self.target in data.column_names:
            if is_test and all(map(self.is_hidden, column_of(data, self.target).to_pylist())):
                data = data.remove_columns(self.target)
            else:
                data = self.with_labels(data, split, faults)
        elif is_test and getattr(arguments, f"{self.target}_column", None):
            logger.warning(f"{source}: no {faults.called(self.target)}, so that there are no metrics")
        self.check_rows(data, faults, check)
        return self.bad_rows.leave_out(data, faults) if for_training else faults.leave_out(data)

    def is_hidden(self, label: Any) -> bool:
        """Return whether this stands for no label."""
        # A gap in a column of decimals may be NaN.
        return label != label or (label.strip() if isinstance(label, str) else label) in (
            *HIDDEN_LABELS,
            *self.no_label,
        )

    def is_required(self, column: str, is_test: bool) -> bool:
        """Return whether a split must have a column: labels of tests may be missing, and optional
        columns that the user does not name."""
        if column == self.target:
            return not is_test
        return column not in self.optional or bool(getattr(self.data_arguments, f"{column}_column", None))

    def open(self, split: str, faults: Faults) -> Dataset:
        """Return a split as it is, with its own names of columns; add rows that cannot be read to `faults`."""
        arguments = self.data_arguments
        if file := arguments.file(split):
            return open_file(Path(file), faults)
        return open_split(arguments.dataset, split, arguments.dataset_config, faults=faults)

    def check_rows(self, data: Dataset, faults: Faults, check: ImageCheck) -> None:
        """Add the rows that do not fit the task to `faults`; `check` is how far images are looked at. Columns may be missing, which is a
        fault already."""

    def with_labels(self, data: Dataset, split: str, faults: Faults) -> Dataset:
        """
        Return the data with `label` as numbers of the classes `self.names`. Skip the rows whose label is in `no_label`. In a test
        split, whose rows are all predicted, they get the label `IGNORED`, as do rows with a blank label. Add to `faults` the rows
        whose label is missing or not one of the classes.
        """
        feature, called = data.features["label"], faults.called("label")
        if has_label_lists(data):
            advice = f"; {self.advice_on_lists}" if self.advice_on_lists else ""
            faults.add(f"expected one label a row in {called}, found lists{advice}")
            return data
        if not is_name_or_number(feature):
            faults.add(f"expected labels in {called}, found {in_words(feature)}")
            return data
        is_test = split in self.test_splits
        values = plain_labels(column_of(data, "label").to_pylist())
        skipped = self.rows_without_label(values, is_test, True, faults)
        if not is_test:
            faults.skip(skipped, "which have no label")
        if len(skipped) == len(values):
            faults.add("no row has a label")
            return data
        own = feature.names if isinstance(feature, ClassLabel) else None
        if own:
            values = names_of(values, own)
        if self.names is None:
            labelled = [value for row, value in enumerate(values) if row not in skipped]
            self.names = own or class_names(labelled, faults, called)
        # A number as a label is that of the task's order, whatever the order of the checkpoint is.
        known = self.classes or self.names
        numbers = class_numbers(values, known, skipped, faults, called)
        if known != self.names:
            numbers = np.array([self.names.index(name) for name in known])[numbers]
        if is_test:
            numbers[sorted(skipped)] = IGNORED
        return replace_column(data, "label", numbers)

    def rows_without_label(self, values: list, is_test: bool, by_number: bool, faults: Faults) -> set[int]:
        """Return the rows whose label is in `no_label`; in a test split also those whose label is blank, or -1 if labels may be
        numbers of classes (`by_number`), with a warning that metrics are over the others."""
        no_label = set(map(str, self.no_label))
        hidden = (None, -1, "-1") if by_number and "-1" not in (self.names or ()) else (None,)
        rows = {row for row, value in enumerate(values) if str(value) in no_label or (is_test and value in hidden)}
        if is_test and 0 < len(rows) < len(values):
            warn_of_unlabelled(len(rows), len(values), faults)
        return rows

    def text_lengths(self, data: Dataset, epoch: int) -> np.ndarray | None:
        texts = [name for name in ("text", "text_pair") if name in data.column_names]
        return sum(character_counts(data, name) for name in texts) if texts else None

    def texts(self, data: Dataset, rows: np.ndarray) -> list[list[str]]:
        names = [name for name in ("text", "text_pair") if name in data.column_names]
        return list(data.select_columns(names)[rows.tolist()].values()) if names else []

    def config_fields(self) -> dict[str, Any]:
        if not self.names:
            raise ValueError(
                "model_name_or_path: no classes are known, for nothing is trained and no data has labels; name a finetuned checkpoint"
            )
        numbered = list(enumerate(self.names))
        return {"id2label": dict(numbered), "label2id": {name: number for number, name in numbered}}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RowCollator:
        return RowCollator(processor)

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return the figures of `metric`, each with its baseline, and the number of rows, which are those with a label."""
        warn_of_no_answer(prediction.predictions)
        return self.metric().compute(
            **{name: self.in_task_order(numbers) for name, numbers in labelled(prediction).items()}
        )

    def same_answer(self, predictions: Any) -> str | None:
        if len(predictions) < 2 or (predictions != predictions[0]).any():
            return None
        return f"{self.answer_name(predictions[0])} to all {len(predictions)} rows"

    def answer_name(self, answer: Any) -> str:
        """Return how a prediction is called in messages."""
        return repr(self.names[answer]) if answer != NO_ANSWER else "nothing (its scores are NaN)"

    def written(self, answer: int) -> str:
        """Return an answer as files of predictions have it: the name of its class; nothing if there is none."""
        return self.names[answer] if answer != NO_ANSWER else ""

    def write_predictions(self, predictions: Any, data: Dataset, path: Path) -> Path:
        """Write a CSV file with a line for each row: its id, or its number, and the name of its class. Return it."""
        path = path.with_suffix(".csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = zip(row_ids(data), predictions, strict=True)
            csv.writer(file).writerows((row, self.written(label)) for row, label in rows)
        return path


def has_label_lists(data: Dataset) -> bool:
    """Return whether the labels of a table are lists, or its cells of text are, as a CSV file has them."""
    feature = data.features["label"]
    cells = column_of(data, "label").to_pylist() if is_text(feature) else []
    found = [cell for cell in cells if cell and cell.strip()]
    return isinstance(feature, List) or (bool(found) and all(map(has_lists, found)))


def warn_of_no_answer(predictions: np.ndarray) -> None:
    """Warn of the rows of predictions, answers (N,) or scores (N, ...), that are `NO_ANSWER` or NaN."""
    none = np.isnan(predictions) | (predictions == NO_ANSWER) & (predictions.dtype.kind == "i")
    if count := int(none.reshape(len(none), -1).any(axis=1).sum()):
        advice = "training has diverged; lower learning_rate"
        logger.warning(
            f"the scores of {count} of {len(none)} rows are not numbers (NaN), and count as wrong: {advice}"
        )


def labelled(prediction: EvalPrediction) -> dict[str, np.ndarray]:
    """Return the `predictions` (N,) and the labels, `references` (N,), of the rows that have a label."""
    rows = prediction.label_ids != IGNORED
    return {"predictions": prediction.predictions[rows], "references": prediction.label_ids[rows]}


def row_ids(data: Dataset) -> Sequence[str] | range:
    """Return the ids of the rows, or their numbers if they have none."""
    return data["id"] if "id" in data.column_names else range(len(data))


def with_text_ids(data: Dataset, faults: Faults) -> Dataset:
    """Return the data with the column `id` as strings; a file or a Hub data set may have numbers. Add to `faults` the
    rows without an id, and those with that of another row."""
    called, seen = faults.called("id"), {}
    feature = data.features["id"]
    if not is_name_or_number(feature):
        faults.add(f"expected texts or numbers in {called}, found {in_words(feature)}")
        return data
    # A gap in a column of decimals may be NaN.
    values = column_of(data, "id").to_pylist()
    ids = [None if value is None or value != value else text_of(value).strip() for value in values]
    for row, value in enumerate(ids):
        if not value:
            faults.add_row("no id", row, f"{called} is empty")
        elif seen.setdefault(value, row) != row:
            faults.add_row("id", row, f"{called} has {value!r}, as row {seen[value]} does; expected each once")
    return replace_column(data, "id", ids, Value("string"))
