"""The base class of tasks: data, collator, metric, and the kind of model that it needs."""

import fnmatch
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from renaissance_cli.mistakes import nearest

from ..processing.decoding import MAX_PIXELS
from ..processing.processing_renaissance import RenaissanceProcessor
from .argument_checks import compares, wants_best
from .arguments import RunArguments
from .data.bad_rows import BadRows
from .data.sampling import GroupedSampler
from .own_data import OwnDataArguments


#: The answer to a row whose scores are not numbers (NaN), as those of a model whose training has diverged: it is wrong.
NO_ANSWER = -1


class Task:
    """
    A task, as `run_task` runs it. A new one is a subclass in a file of its own.

    Args:
        data_arguments: An instance of the class's `arguments`, filled from the recipe and the command line.
        names: Names of the classes of the checkpoint's head, if there is one.
    """

    #: The end of the model's class name, such as `"ForPreTraining"`.
    kind: ClassVar[str]
    #: Dataclass of the task's own options.
    arguments: ClassVar[type]
    #: The metric that chooses the best checkpoint.
    best_metric: ClassVar[str]
    #: The metrics of evaluation, by name or by a pattern such as `recall_*`; those of a task that names none are not checked.
    metric_names: tuple[str, ...] = ("*",)
    #: The splits for evaluation, of which the first chooses the best checkpoint, and those for prediction.
    eval_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    #: The columns with images that training may augment; none if a row has boxes or places of its image.
    augmentable: tuple[str, ...] = ()
    #: Whether the model sees whole images, not regions that the collator cuts out.
    whole_images: bool = True
    #: What becomes of texts that are too long for the model, in words.
    what_is_cut: str = "their ends are cut off"
    #: Columns that are read beside those that make the rows what they are, for the digest of the data to leave out.
    columns_beside: tuple[str, ...] = ()
    #: Seed of the run, for random draws when data is loaded.
    seed: int = 0
    #: Largest number of pixels of an image that is decoded when data is loaded.
    max_image_pixels: int = MAX_PIXELS
    #: Whether features will be made of all images of the training data before training.
    caches_features: bool = False
    #: A method that replaces Trainer's evaluation loop. It is called on all processes, with the trainer and the data
    #: (`KeyedRows`), and returns predictions and metrics.
    evaluate: Callable[[Any, Any], tuple[Any, dict[str, float]]] | None = None

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        self.data_arguments = data_arguments
        #: Names of the classes, if there are any.
        self.names = names
        #: The kind of input that is removed from all rows, one of `collators.INPUTS`; `None` for none.
        self.removed_input: str | None = getattr(data_arguments, "remove_input", None)
        #: What becomes of bad rows of the training data.
        self.bad_rows = data_arguments.bad_rows() if isinstance(data_arguments, OwnDataArguments) else BadRows()

    @classmethod
    def kind_for(cls, data_arguments: Any) -> str:
        """Return the kind of model that a run with these options needs."""
        return cls.kind

    def start_from(self, config: PreTrainedConfig) -> None:
        """Take what the head of a checkpoint, which has this configuration, knows of the task. Raise `ValueError` if the options contradict it."""

    def load(self, split: str) -> Any:
        """
        Return the data of `"train"`, or of one of `eval_splits` or `test_splits`; `None` if the user named none. Limits on
        the rows of evaluation do not apply to `test_splits`, all of whose rows are predicted. Raise `ValueError` if data
        that the user named is missing or has other columns.
        """
        raise NotImplementedError

    def check_loaded(self) -> None:
        """Raise `ValueError` if an option on data has no effect on all that was loaded, of every split."""

    def sources(self, split: str) -> list[str]:
        """Return the names of the data of a split, Hub ids, folders or files, for the record of the run; none by default. Raise `ValueError`
        if the user names some, but none for this split."""
        return []

    def parts_of(self, split: str) -> list[str]:
        """Return the splits of the data whose rows make up a split of the run."""
        return [split]

    def source(self, split: str) -> str:
        """Return the name of a split in messages."""
        return f"split {split!r}"

    @classmethod
    def argument_class(cls) -> type:
        """Return the dataclass of the task's own options."""
        return cls.arguments

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of the model's configuration that the task sets, such as its labels."""
        return {}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> Any:
        """Return the function that makes a batch of rows, which carry the keys of `KeyedRows` too."""
        raise NotImplementedError

    def sampler(self, data: Any, args: RunArguments) -> GroupedSampler | None:
        """
        Return the order of the training data (`KeyedRows`); `None` for Trainer's random order. Raise `ValueError` if the
        requested order would have no effect.
        """
        if args.train_sampling_strategy != "group_by_length":
            return None
        lengths = functools.partial(self.text_lengths, data.data)
        if lengths(0) is None:
            raise ValueError("train_sampling_strategy: group_by_length is without effect, this task has no text")
        return GroupedSampler(len(data), args.train_batch_size, args.world_size, args.sampling_seed, lengths)

    def text_lengths(self, data: Any, epoch: int) -> np.ndarray | None:
        """Return the number of characters of each row (N,) of training data in an epoch; `None` if there is no text."""
        return None

    def texts(self, data: Any, rows: np.ndarray) -> list[list[str]]:
        """Return the texts of some rows (N,) of a split, a list for each text of a row (N,); none if the task has no text."""
        return []

    def has_texts(self, data: Any) -> bool:
        """Return whether rows of a split have texts."""
        return bool(self.texts(data, np.zeros(1, dtype=np.int64)))

    def label_names(self, model: PreTrainedModel) -> list[str]:
        """Return the names of the inputs that are labels."""
        return ["labels"]

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        """Raise `ValueError` if the options of the run do not fit the task, or each other. There is no data yet, and of the model there
        is its `config`."""

    def check_best_metric(self, args: RunArguments) -> None:
        """Raise `ValueError` if checkpoints are to be compared by a metric that the task does not have."""
        # Unless it is named, `best_metric` chooses the checkpoint, and the loss the learning rate.
        if not compares(args) or (wants_best(args) and not args.metric_is_named):
            return
        named = args.metric_for_best_model
        starts = [f"{split}_" for split in self.eval_splits] if len(self.eval_splits) > 1 else [""]
        known = [start + name for start in starts for name in self.metric_names]
        if not any(fnmatch.fnmatchcase(named.removeprefix("eval_"), pattern) for pattern in known):
            near = nearest(named, [name for name in known if "*" not in name])
            raise ValueError(f"metric_for_best_model: no metric {named}{near} this task has {', '.join(known)}")

    def collect(self, logits: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the parts of a batch's logits and labels (`None` without any) that the metrics need, a row each: of the logits the
        best choice, or `NO_ANSWER`."""
        return logits.argmax(dim=-1).masked_fill(logits.isnan().any(dim=-1), NO_ANSWER), inputs.get("labels")

    def same_answer(self, predictions: Any) -> str | None:
        """Return the answer that all rows got, in words; `None` if they differ, or if rows have no answers."""
        return None

    def metrics(self, prediction: EvalPrediction, data: Any) -> dict[str, float]:
        """
        Return the metrics over all rows; `data` is the result of `load`, in the order of the predictions. A metric with a
        baseline is the result of a `Metric`.
        """
        raise NotImplementedError

    def write_predictions(self, predictions: Any, data: Any, path: Path) -> Path | None:
        """
        Write the predictions for `data` in the benchmark's format, to `path` with the format's suffix. Return the file;
        `None` if the task has no predictions, as pretraining.
        """
