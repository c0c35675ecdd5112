"""GLUE (Wang et al. 2019), nine tasks of text alone, and any other classification of texts or pairs of texts."""

import csv
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features
from transformers import PreTrainedConfig, TrainingArguments

from ..modeling.fields import option
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .data import schemas
from .data.blank_texts import is_blank
from .data.columns import column_of, replace_column
from .data.faults import Faults
from .data.glue import HIGHEST_SCORE, LAYOUTS, LOWEST_SCORE, labels_of, read_glue_split
from .data.readers import MAX_BAD_FRACTION, counts_of, require_few_bad
from .data.schemas import STRING
from .metrics import Accuracy, AccuracyAndF1, Correlations, Matthews, Metric
from .own_data import with_columns
from .supervised import SupervisedArguments, SupervisedTask, row_ids


logger = logging.getLogger(__name__)

#: Text columns of `nyu-mll/glue`, for the tasks whose files call them something else.
HUB_TEXTS = {"mnli": ("premise", "hypothesis"), "mrpc": ("sentence1", "sentence2")}

#: Metrics of the tasks that are not scored by accuracy, each with the names of its results, that of the task's score first.
METRICS: dict[str, tuple[type[Metric], tuple[str, ...]]] = {
    "cola": (Matthews, ("matthews_correlation", "accuracy")),
    "mrpc": (AccuracyAndF1, ("accuracy_and_f1", "f1", "accuracy")),
    "qqp": (AccuracyAndF1, ("accuracy_and_f1", "f1", "accuracy")),
    "stsb": (Correlations, ("pearson_and_spearman", "pearson", "spearman")),
}


@with_columns(schemas.GLUE["mnli"], label="labels: classes by name or number, or scores")
@dataclass
class GLUEArguments(SupervisedArguments):
    """Data of a task of GLUE, or of your own."""

    task_name: str | None = option(
        None,
        f"Task of GLUE: {', '.join(LAYOUTS)}. Without one, classify texts or pairs of your own, by the classes of the "
        "data.",
    )
    dataset: str | None = option(
        None,
        "The task's folder of GLUE's TSV files, a prepared folder, or a Hub data set such as nyu-mll/glue, whose "
        "configuration and columns follow from task_name.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.task_name is not None and self.task_name not in LAYOUTS:
            raise ValueError(f"task_name: expected one of {', '.join(LAYOUTS)}, or none, got {self.task_name}")
        if not self.has_pairs and self.text_pair_column:
            raise ValueError(f"text_pair_column: without effect on {self.task_name}, a task of single texts")
        if self.is_on_hub:
            self.dataset_config = self.dataset_config or self.task_name

    @property
    def has_pairs(self) -> bool:
        """Whether rows may have a second text."""
        return self.task_name is None or "text_pair" in schemas.GLUE[self.task_name]

    @property
    def is_on_hub(self) -> bool:
        """Whether the data is a task of GLUE in a Hub data set."""
        return bool(self.task_name and self.dataset) and not Path(self.dataset).is_dir()

    def usual_columns(self) -> dict[str, str]:
        usual = super().usual_columns()
        if not self.has_pairs:
            del usual["text_pair"]
        if self.is_on_hub:
            texts = HUB_TEXTS.get(self.task_name, LAYOUTS[self.task_name].texts)
            usual |= {"id": "idx", **dict(zip(("text", "text_pair"), texts, strict=False))}
        return usual


class GLUE(SupervisedTask):
    """A task of GLUE, or another classification of texts or pairs of texts."""

    kind = "ForSequenceClassification"
    arguments = GLUEArguments
    features = Features({"id": STRING, "text": STRING, "text_pair": STRING})

    def __init__(self, data_arguments: GLUEArguments, names: list[str] | None = None):
        name = data_arguments.task_name
        self.layout = LAYOUTS.get(name)
        self.metric, scores = METRICS.get(name, (Accuracy, ("accuracy",)))
        self.best_metric, self.metric_names = f"eval_{scores[0]}", ("loss", *scores)
        self.optional = ("id",) if self.layout else ("id", "text_pair")
        if self.layout and data_arguments.dataset:
            self.eval_splits = tuple(split for split in self.layout.splits if split.startswith("validation"))
            self.test_splits = tuple(split for split in self.layout.splits if split.startswith("test"))
        self.classes = schemas.classes_of(schemas.GLUE[name]) if self.layout else None
        if self.is_regression:
            self.problem_types = ("regression",)
        #: Whether rows have two texts, once that is known.
        self.pairs: bool | None = None
        super().__init__(data_arguments, names)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers."""
        return self.layout is not None and not self.classes

    def other_task(self, config: PreTrainedConfig) -> str:
        of_scores = config.problem_type == "regression" and self.layout is None
        return "; or set task_name to stsb, which is for scores" if of_scores else ""

    @property
    def has_own_scores(self) -> bool:
        """Whether the scores may be others than those of GLUE, from 0 to 5: all data but GLUE's own files and its set on the Hub."""
        arguments = self.data_arguments
        if arguments.is_on_hub:
            return arguments.dataset_config != "stsb"
        return not (arguments.dataset and self.is_public(arguments.dataset))

    def is_public(self, source: str) -> bool:
        """Return whether a folder has GLUE's own files of the task."""
        return any((Path(source) / name).is_file() for name in self.layout.splits.values())

    def open(self, split: str, faults: Faults) -> Dataset:
        source = self.data_arguments.dataset
        if self.layout and source and self.is_public(source):
            arguments = self.data_arguments
            limit = MAX_BAD_FRACTION if arguments.max_bad_fraction is None else arguments.max_bad_fraction
            skips = split == "train" and arguments.on_bad_row != "error"
            return public_split(source, arguments.task_name, split, limit if skips else 0.0)
        data = super().open(split, faults)
        if self.layout and self.layout.damaged and split == "train":
            columns = self.data_arguments.columns()
            data = without_blank(data, [columns["text"], columns["text_pair"]])
        return data

    def with_labels(self, data: Dataset, split: str, faults: Faults) -> Dataset:
        if not self.is_regression:
            return super().with_labels(data, split, faults)
        values = column_of(data, "label").to_pylist()
        # A gap in a column of decimals may be NaN.
        plain = [
            None if value != value or (isinstance(value, str) and not value.strip()) else value for value in values
        ]
        skipped = self.rows_without_label(plain, split in self.test_splits, False, faults)
        return replace_column(data, "label", scores(plain, skipped, faults))

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if args.label_smoothing_factor and self.is_regression:
            raise ValueError("label_smoothing_factor: without effect on scores, which are no classes; leave it out")

    def start_from(self, config: PreTrainedConfig) -> None:
        super().start_from(config)
        self.pairs = config.text_pairs

    def read(self, split: str) -> Dataset:
        """Return all rows of a split; raise `ValueError` if some data of the run, or of the checkpoint's, has pairs of texts, and other
        data has not."""
        data = super().read(split)
        pairs = "text_pair" in data.column_names
        if self.pairs is not None and pairs != self.pairs:
            source, others = self.data_arguments.source(split), "the training data or the checkpoint"
            if pairs:
                raise ValueError(f"{source}: has pairs of texts, while {others} has single ones; leave out the second")
            raise ValueError(
                f"{source}: no second texts, which {others} has; name their column with --text_pair_column"
            )
        self.pairs = pairs
        return data

    def config_fields(self) -> dict[str, Any]:
        pairs = {"text_pairs": self.pairs}
        if self.is_regression:
            return {"num_labels": 1, "problem_type": "regression"} | pairs
        return super().config_fields() | pairs

    def collect(self, logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[Any, Any]:
        found, labels = super().collect(logits, inputs)
        return logits.squeeze(dim=-1) if self.is_regression else found, labels

    def answer_name(self, answer: Any) -> str:
        return f"{answer:.3f}" if self.is_regression else super().answer_name(answer)

    def write_predictions(self, predictions: np.ndarray, data: Dataset, path: Path) -> Path:
        """
        Write the file that GLUE's evaluation server takes, under its name for the task: `index` and `prediction`, with
        the names of classes in GLUE's files; scores are from 0 to 5, unless they are your own. Without a task of GLUE, write that of `SupervisedTask`. Return the file.
        """
        if self.layout is None:
            return super().write_predictions(predictions, data, path)
        name = self.layout.folder
        if name == "MNLI":
            name += "-mm" if path.name.endswith("mismatched") else "-m"
        if self.is_regression and self.has_own_scores:
            answers = [f"{value:.6g}" for value in predictions]
        elif self.is_regression:
            answers = [f"{value:.3f}" for value in np.clip(predictions, LOWEST_SCORE, HIGHEST_SCORE)]
        else:
            written = dict(zip(self.classes, labels_of(self.data_arguments.task_name), strict=True))
            answers = [written.get(self.written(label), "") for label in predictions]
        path = path.with_name(f"{name}.tsv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(("index", "prediction"))
            writer.writerows(zip(row_ids(data), answers, strict=True))
        return path


def public_split(source: str, task_name: str, split: str, max_bad_fraction: float) -> Dataset:
    """Return a split of a task's own folder; raise `ValueError` if it cannot be read, or more than a share of its lines is bad."""
    rows = read_glue_split(source, task_name, split)
    require_few_bad(split, rows, max_bad_fraction)
    if bad := rows.left_out.bad:
        counts = f"{counts_of(bad)} of {len(rows) + len(bad)} lines"
        logger.warning(
            f"{source}, split {split!r}: left out {counts}, the first: {bad[0]['where']} {bad[0]['reason']}"
        )
    return Dataset.from_list(list(rows), features=schemas.GLUE[task_name])


def scores(values: list, skipped: Collection[int], faults: Faults) -> np.ndarray:
    """Return a column of scores (N,), float32, from numbers or texts of such, `IGNORED` in `skipped` rows. Add the rows to
    `faults` whose label is no number, or `IGNORED` itself, which come out as 0."""
    numbers = np.zeros(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        if row in skipped:
            numbers[row] = IGNORED
            continue
        try:
            number = np.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = np.nan
        if number == IGNORED:
            expected = f"expected another score than {IGNORED} in {faults.called('label')}, which stands for no label"
            faults.add_row("score", row, f"{expected}; scale the scores, such as by 0.01")
        elif np.isfinite(number):
            numbers[row] = number
        else:
            faults.add_row("label", row, f"expected a number in {faults.called('label')}, got {value!r}")
    return numbers


def without_blank(data: Dataset, columns: list[str]) -> Dataset:
    """Return the data without rows with a blank text, and log their number: the training split of QQP has two."""
    if not set(columns) <= set(data.column_names):
        return data
    texts = zip(*(data[name][:] for name in columns), strict=True)
    kept = [row for row, pair in enumerate(texts) if all(text and not is_blank(text) for text in pair)]
    if len(kept) == len(data):
        return data
    logger.warning(f"{len(data) - len(kept)} of {len(data)} training rows left out: a text is blank")
    return data.select(kept).flatten_indices()
