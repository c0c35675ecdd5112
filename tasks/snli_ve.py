"""SNLI-VE (Xie et al. 2019): does an image entail a sentence, contradict it, or neither?"""

import logging
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import EvalPrediction, PreTrainedConfig

from ..modeling.fields import option
from .data import schemas
from .image_text_classification import ImageTextClassification, WeightedArguments
from .metrics import ClassAccuracy
from .own_data import with_columns
from .supervised import labelled


logger = logging.getLogger(__name__)


@with_columns(
    schemas.SNLI_VE,
    text="hypotheses",
    premise="premises, for use_premise",
    label="labels: contradiction, neutral, entailment, or 0, 1, 2; rows with - or -1 (no agreement) are skipped",
)
@dataclass
class SNLIVEArguments(WeightedArguments):
    """Data of SNLI-VE."""

    use_premise: bool = option(False, "Read the premise too, as the first text of a pair, beside the image.")

    def __post_init__(self):
        super().__post_init__()
        if self.premise_column and not self.use_premise:
            raise ValueError("premise_column: without effect unless use_premise is set; leave it out, or set that too")

    def usual_columns(self) -> dict[str, str]:
        usual = super().usual_columns()
        if not self.use_premise:
            del usual["premise"]
        return usual


class SNLIVE(ImageTextClassification):
    """Entailment of a sentence by an image: the classification of images with texts, by three classes."""

    arguments = SNLIVEArguments
    metric_names = (*ImageTextClassification.metric_names, "accuracy_*")
    features = schemas.SNLI_VE
    classes = schemas.classes_of(schemas.SNLI_VE)
    multi_label = False
    # Annotators disagreed: in SNLI's files, and in data sets on the Hub.
    no_label = ("-", -1)

    def start_from(self, config: PreTrainedConfig) -> None:
        super().start_from(config)
        if config.text_pairs is None or config.text_pairs == self.data_arguments.use_premise:
            return
        if not config.text_pairs:
            fault = "the checkpoint's head was trained without premises; leave it out, or name another checkpoint"
            raise ValueError(f"use_premise: {fault}")
        logger.info("use_premise: set, for the checkpoint's head was trained with premises")
        self.data_arguments.use_premise = True

    def config_fields(self) -> dict[str, Any]:
        return super().config_fields() | {"text_pairs": self.data_arguments.use_premise}

    def load(self, split: str) -> Dataset:
        data = super().load(split)
        # A pair is the premise and then the hypothesis, as in the text-only task.
        return data.rename_columns({"text": "text_pair", "premise": "text"}) if "premise" in data.features else data

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return those of any classes, and the accuracy on the rows of each class, with its baseline and number of rows."""
        answers = labelled(prediction)
        answers["predictions"] = self.answers(answers["predictions"])
        return super().metrics(prediction, data) | ClassAccuracy().compute(**answers, names=self.names)
