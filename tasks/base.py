"""What a task is: its data, its collator, its metric, and the kind of model that it needs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from ..processing.decoding import MAX_PIXELS
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import RunArguments
from .data.sampling import GroupedSampler


class Task:
    """
    A task, as `run_task` runs it. A new one is a subclass in a file of its own.

    Args:
        data_arguments: An instance of the class's `arguments`, filled from the recipe and the command line.
        names: Names of the classes that the head of the checkpoint at hand tells apart, where it has one.
    """

    #: The end of the model's class name, such as `"ForPreTraining"`.
    kind: ClassVar[str]
    #: Dataclass of the task's own options.
    arguments: ClassVar[type]
    #: The metric that the best checkpoint is chosen by.
    best_metric: ClassVar[str]
    #: The splits that training is watched on, and those that are predicted. The first of the former decides which checkpoint
    #: is best.
    eval_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    #: The columns with images that training may augment; none where a row says where in its image a thing is.
    augmentable: tuple[str, ...] = ()
    #: Whether the model sees images as the data has them, and not regions that the collator cuts out.
    whole_images: bool = True
    #: Seed of the run, for what is drawn where data is loaded.
    seed: int = 0
    #: Largest number of pixels of an image, for what is decoded where data is loaded.
    max_image_pixels: int = MAX_PIXELS
    #: What evaluates and predicts in place of Trainer's loop over batches, where a task has a method of this name: called with
    #: the trainer and the data (`KeyedRows`), on all processes; returns predictions and metrics.
    evaluate: Callable[[Any, Any], tuple[Any, dict[str, float]]] | None = None

    def __init__(self, data_arguments: Any, names: list[str] | None = None):
        self.data_arguments = data_arguments
        #: Names of the classes, where there are any.
        self.names = names

    def load(self, split: str) -> Any:
        """
        The data of `"train"`, of one of `eval_splits` or of `test_splits`, or `None` where the user named none. What limits
        the rows of evaluation does not limit those of `test_splits`, all of which are predicted.

        Raises:
            ValueError: Where data that the user named is missing or has other columns.
        """
        raise NotImplementedError

    @classmethod
    def argument_class(cls) -> type:
        """Return the dataclass of the task's own options."""
        return cls.arguments

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration that the task sets, such as its labels."""
        return {}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> Any:
        """Makes batches out of rows, which also carry the keys that `KeyedRows` gives them."""
        raise NotImplementedError

    def sampler(self, data: Any, args: RunArguments) -> GroupedSampler | None:
        """
        The order of the training data (`KeyedRows`); `None` where it is Trainer's, which is random.

        Raises:
            ValueError: Where the order that is asked for would have no effect.
        """
        if args.train_sampling_strategy != "group_by_length":
            return None
        lengths = functools.partial(self.text_lengths, data.data)
        if lengths(0) is None:
            raise ValueError("train_sampling_strategy: group_by_length is without effect, this task has no text")
        return GroupedSampler(len(data), args.train_batch_size, args.world_size, args.sampling_seed, lengths)

    def text_lengths(self, data: Any, epoch: int) -> np.ndarray | None:
        """How long the text of each row (N,) of training data is in an epoch, in characters; `None` where there is no text."""
        return None

    def texts(self, data: Any, rows: np.ndarray) -> list[list[str]]:
        """Return the texts of some rows (N,) of a split, a list for each text of a row (N,); none if the task has no text."""
        return []

    def label_names(self, model: PreTrainedModel) -> list[str]:
        """The inputs that are labels."""
        return ["labels"]

    def check(self, args: TrainingArguments, model: PreTrainedModel) -> None:
        """Raises `ValueError` where the options of the run do not fit the task."""

    def collect(self, logits: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Return what to keep of a batch's logits, and of its labels (`None` without any), for the metrics: a row each."""
        return logits.argmax(dim=-1), inputs.get("labels")

    def same_answer(self, predictions: Any) -> str | None:
        """Return the answer that all rows got, in words; `None` if they differ, or if rows have no answers."""
        return None

    def metrics(self, prediction: EvalPrediction, data: Any) -> dict[str, float]:
        """
        The metrics, over all rows at once; `data` is what `load` gave, in the order of the predictions. Those with a
        baseline are what a `Metric` returns.
        """
        raise NotImplementedError

    def write_predictions(self, predictions: Any, data: Any, path: Path) -> Path | None:
        """
        Write the predictions for `data` in the benchmark's format, to `path` with the format's suffix. Return the file;
        `None` if the task has no predictions, as pretraining.
        """
