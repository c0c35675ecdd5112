"""Classification of texts with an image each, by any classes: one for each row, or any number of them."""

import csv
import json
import logging
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, List, Value
from scipy.special import expit, softmax
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from ..modeling.answers import LEAST_PROBABILITY
from ..modeling.fields import option
from ..processing.collators import RowCollator
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import NO_ANSWER
from .data import schemas
from .data.columns import column_of, entry_of, replace_column
from .data.faults import Faults
from .data.labels import class_lists, class_names, label_lists
from .metrics import Classification, MultiLabelClassification
from .own_data import with_columns
from .supervised import SupervisedTask, TextAndImageArguments, labelled, row_ids, warn_of_no_answer


logger = logging.getLogger(__name__)


@dataclass
class WeightedArguments(TextAndImageArguments):
    """Data whose classes may have weights."""

    class_weights: dict | str | None = option(
        None,
        "Weights of the classes in the loss of training; evaluation has none. balanced, or JSON by name, such as "
        '{"rare": 5}; other classes have 1. The loss of a row is multiplied by the weight of its class, and their '
        "sum is divided by the number of rows; balanced is rows / (classes x rows of the class), counted in the training "
        "data. With multi_label, the loss of a class is multiplied in the rows that have it, and balanced is rows "
        "without it / rows with it.",
    )

    def __post_init__(self):
        super().__post_init__()
        given = self.class_weights
        if given is None or given == "balanced":
            return
        expected = 'expected balanced, or a JSON object with numbers above 0, such as {"rare": 5}'
        try:
            weights = json.loads(given) if isinstance(given, str) else given
        except json.JSONDecodeError as error:
            raise ValueError(f"class_weights: {expected}, got {given}") from error
        # A bool is a number of Python's.
        if not isinstance(weights, dict) or not all(
            type(weight) in (int, float) and 0 < weight < math.inf for weight in weights.values()
        ):
            raise ValueError(f"class_weights: {expected}, got {given}")
        self.class_weights = {str(name): float(weight) for name, weight in weights.items()}


@with_columns(
    [*schemas.IMAGE_TEXT, "label"], label="labels, by name or number: one a row, or with multi_label a list of them"
)
@dataclass
class ImageTextClassificationArguments(WeightedArguments):
    """Texts with images, and classes of your own."""

    multi_label: bool = option(
        False,
        "A row has any number of classes, also none: the label column has lists of them, which are JSON in a column of "
        'text, such as ["a", "b"].',
    )
    label_separator: str | None = option(
        None,
        "With multi_label: what parts the labels in a cell of text, such as ; in a;b, in place of JSON. An empty cell has "
        "none.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_separator is not None and not self.multi_label:
            raise ValueError(
                "label_separator: without effect unless multi_label is set; leave it out, or set that too"
            )
        if self.label_separator is not None and not self.label_separator.strip():
            raise ValueError("label_separator: expected a mark, such as ; or |, got a blank one")


@dataclass
class ClassCollator:
    """
    Makes batches of texts with their images. `labels` come from `label`: the class of each row (B,), or, if `num_labels` is given, 0
    or 1 for each class (B, num_labels), from lists of classes. In rows whose `training` is true, the `weights` of classes
    (num_labels,) become `loss_weights`, of the shape of the labels.
    """

    processor: RenaissanceProcessor
    num_labels: int | None = None
    weights: np.ndarray | None = None

    def __post_init__(self):
        self._collate = RowCollator(self.processor)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        if self.num_labels and "label" in rows[0]:
            rows = [row | {"label": self.indicators(row["label"])} for row in rows]
        batch = self._collate(rows)
        if self.weights is not None and "labels" in batch and rows[0].get("training"):
            weights = torch.tensor(self.weights, dtype=torch.float32)
            labels = batch["labels"]
            # Where a row has not the class, its loss keeps the weight 1.
            batch["loss_weights"] = torch.where(labels > 0, weights, 1.0) if self.num_labels else weights[labels]
        return batch

    def indicators(self, numbers: list[int] | None) -> np.ndarray:
        """Return 1 (num_labels,), float32, for the classes of a row, and 0 for the others; `IGNORED` if they are not known."""
        if numbers is None:
            return np.full(self.num_labels, IGNORED, dtype=np.float32)
        found = np.zeros(self.num_labels, dtype=np.float32)
        found[numbers] = 1
        return found


class ImageTextClassification(SupervisedTask):
    """
    Classification of texts with an image each; the classes come from the data.

    What is kept of each row for the metrics is its logits (classes,), so that the probabilities of all classes are known.
    """

    kind = "ForImageTextClassification"
    metric_names = ("loss", "accuracy", "f1_macro", "f1_micro", "auroc")
    arguments = ImageTextClassificationArguments
    augmentable = ("image",)
    features = schemas.IMAGE_TEXT
    optional = ("id",)

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        #: The weights (classes,) of the classes in training, once its rows are loaded and if the user wants any.
        self.weights: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes, or none."""
        return self.data_arguments.multi_label

    @property
    def advice_on_lists(self) -> str:
        return "set multi_label" if "multi_label" in vars(self.data_arguments) else "give one"

    @property
    def problem_types(self) -> tuple[str | None, ...]:
        return ("multi_label_classification",) if self.multi_label else (None, "single_label_classification")

    def start_from(self, config: PreTrainedConfig) -> None:
        several = config.problem_type == "multi_label_classification"
        if several and not self.multi_label and "multi_label" in vars(self.data_arguments):
            logger.info("multi_label: set, for the checkpoint's head gives each row any number of classes")
            self.data_arguments.multi_label = True
        super().start_from(config)

    def other_task(self, config: PreTrainedConfig) -> str:
        return "; or leave out multi_label" if self.multi_label else ""

    def load(self, split: str) -> Dataset:
        data = super().load(split)
        if split == "train" and self.data_arguments.class_weights:
            self.weights = self.weights_of(data["label"][:])
        return data

    def weights_of(self, labels: list) -> np.ndarray:
        """Return the weights (classes,) that the user wants; raise `ValueError` if one is of no class. `labels` are those of the training rows."""
        wanted = self.data_arguments.class_weights
        if wanted == "balanced":
            numbers = list(chain.from_iterable(labels)) if self.multi_label else labels
            counts = np.bincount(np.asarray(numbers, dtype=np.int64), minlength=len(self.names))
            return balanced_weights(counts, len(labels), self.multi_label)
        if unknown := sorted(wanted.keys() - set(self.names)):
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise ValueError(f"class_weights: no class {', '.join(unknown)}, only {shown}")
        return np.array([wanted.get(name, 1.0) for name in self.names])

    def is_hidden(self, label: Any) -> bool:
        # With several, a row may have none of the classes.
        return not (self.multi_label and label == []) and super().is_hidden(label)

    def with_labels(self, data: Dataset, split: str, faults: Faults) -> Dataset:
        if self.multi_label:
            return self.with_label_lists(data, split in self.test_splits, faults)
        return super().with_labels(data, split, faults)

    def with_label_lists(self, data: Dataset, is_test: bool, faults: Faults) -> Dataset:
        """Return the data with `label` as lists of numbers of the classes `self.names`, null for blank ones of a test split;
        add to `faults` the rows that have no list, or a label in it that is not one of the classes."""
        called, separator = faults.called("label"), self.data_arguments.label_separator
        cells = column_of(data, "label").to_pylist() if is_test else []
        # Between separators there may be nothing: that is a row without a class.
        blank = [None if isinstance(cell, str) and not separator and not cell.strip() else cell for cell in cells]
        skipped = self.rows_without_label(blank, is_test, False, faults)
        labels = label_lists(data, "label", separator, skipped, faults)
        if labels is None:
            return data
        if self.names is None:
            kind = entry_of(data.features["label"])
            own = kind.names if isinstance(kind, ClassLabel) else None
            # If no row can be read, that is what to say.
            unread = len(faults.bad_rows) == len(labels)
            self.names = own or ([] if unread else class_names(list(chain.from_iterable(labels)), faults, called))
        without = sum(not own for row, own in enumerate(labels) if row not in skipped and row not in faults.bad_rows)
        if without:
            blank = "a blank cell" if separator else "an empty list"
            count = f"{without} of {len(labels)} rows have none of the classes ({blank} in {called})"
            logger.warning(f"{faults.source}: {count}")
        numbers = class_lists(labels, self.names, faults, called)
        numbers = [None if row in skipped else own for row, own in enumerate(numbers)]
        return replace_column(data, "label", numbers, List(Value("int64")))

    def config_fields(self) -> dict[str, Any]:
        kind = "multi_label_classification" if self.multi_label else "single_label_classification"
        return super().config_fields() | {"problem_type": kind}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> ClassCollator:
        return ClassCollator(processor, len(self.names) if self.multi_label else None, self.weights)

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if args.label_smoothing_factor and self.multi_label:
            raise ValueError("label_smoothing_factor: without effect with multi_label; leave it out")
        if args.label_smoothing_factor and self.data_arguments.class_weights:
            raise ValueError("class_weights: without effect with label_smoothing_factor; leave out one of them")
        if self.data_arguments.class_weights and not args.do_train:
            logger.warning("class_weights: without effect, for nothing is trained")

    def collect(self, logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[Any, Any]:
        return logits.float(), inputs.get("labels")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each class (N, classes), float64: in single precision, those near 1 would be the same."""
        logits = np.asarray(logits, dtype=np.float64)
        return expit(logits) if self.multi_label else softmax(logits, axis=1)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Return the most probable class (N,), `NO_ANSWER` without numbers, or with several whether each has a probability of at least 0.5 (N, classes)."""
        if self.multi_label:
            return self.probabilities(logits) >= LEAST_PROBABILITY
        return np.where(np.isnan(logits).any(axis=1), NO_ANSWER, np.argmax(logits, axis=1))

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return the figures of `Classification`, or of `MultiLabelClassification`, over the rows with a label."""
        warn_of_no_answer(prediction.predictions)
        if self.multi_label:
            rows = prediction.label_ids[:, 0] != IGNORED
            columns = {
                "predictions": prediction.predictions[rows],
                "references": prediction.label_ids[rows].astype(np.int64),
            }
        else:
            columns = labelled(prediction)
        columns["predictions"] = self.probabilities(columns["predictions"])
        return (MultiLabelClassification() if self.multi_label else Classification()).compute(**columns)

    def same_answer(self, predictions: np.ndarray) -> str | None:
        return super().same_answer(self.answers(predictions))

    def answer_name(self, answer: Any) -> str:
        if not self.multi_label:
            return super().answer_name(answer)
        return " and ".join(repr(self.names[number]) for number in np.flatnonzero(answer)) or "no class"

    def write_predictions(self, predictions: np.ndarray, data: Dataset, path: Path) -> Path:
        """
        Write a CSV file with a line for each row: its id, or its number, the name of its class, and the probability of
        that. With several, JSON lists: of the classes, most probable first, and of their probabilities. Return the file.
        """
        answers, probabilities = self.answers(predictions), self.probabilities(predictions)
        path = path.with_suffix(".csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for row, answer, found in zip(row_ids(data), answers, probabilities, strict=True):
                if not self.multi_label:
                    share = "" if answer == NO_ANSWER else f"{found[answer]:.6f}"
                    writer.writerow((row, self.written(answer), share))
                    continue
                numbers = sorted(np.flatnonzero(answer), key=lambda number: -found[number])
                names, values = [self.names[number] for number in numbers], [round(found[n], 6) for n in numbers]
                writer.writerow((row, json.dumps(names, ensure_ascii=False), json.dumps(values)))
        return path


def balanced_weights(counts: np.ndarray, rows: int, multi_label: bool) -> np.ndarray:
    """
    Return weights (classes,) that are higher for rarer classes, given the number of rows of each. If a row has one class,
    their mean over rows is 1; if it may have several, they make the rows with a class weigh as much as those without it. A
    class without rows has 1.
    """
    present = counts > 0
    # A class that all rows have still has a loss.
    share = np.maximum(rows - counts, 1) if multi_label else rows / present.sum()
    return np.where(present, share / np.maximum(counts, 1), 1.0)
