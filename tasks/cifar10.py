"""CIFAR-10 (Krizhevsky 2009), and any other classification of images alone, also without training, by prompts."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedConfig, Trainer, TrainingArguments

from ..modeling.fields import option
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .data import schemas
from .data.keyed_rows import KeyedRows
from .own_data import with_columns
from .scoring import VectorScorer
from .supervised import SupervisedArguments, SupervisedTask


@with_columns(schemas.CIFAR10, image="images; img in the Hub's uoft-cs/cifar10")
@dataclass
class CIFAR10Arguments(SupervisedArguments):
    """Data of CIFAR-10, or other images with classes."""

    prompts: list[str] | None = option(
        None,
        'Classify without training, by a dual encoder: texts with {} for the name of a class, such as "a photo of a {}". An image '
        "gets the class whose texts are nearest to it; the vectors of several texts of a class are averaged.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.prompts is not None and not self.prompts:
            raise ValueError("prompts: expected at least one text, got none")
        for prompt in self.prompts or ():
            if "{}" not in prompt:
                raise ValueError(f"prompts: expected {{}} for the name of the class in each, got {prompt!r}")


class CIFAR10(SupervisedTask):
    """Classification of images; the classes come from the data."""

    kind = "ForImageClassification"
    arguments = CIFAR10Arguments
    augmentable = ("image",)
    features = schemas.CIFAR10
    optional = ("id",)

    @classmethod
    def kind_for(cls, data_arguments: CIFAR10Arguments) -> str:
        return "ForImageTextRetrieval" if data_arguments.prompts else cls.kind

    def __init__(self, data_arguments: CIFAR10Arguments, names: list[str] | None = None):
        # By prompts all classes are those of the data, whatever the checkpoint's head says.
        super().__init__(data_arguments, None if data_arguments.prompts else names)
        if data_arguments.prompts:
            self.evaluate = self.evaluate_by_prompts

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if not self.data_arguments.prompts:
            return
        if config.fuses:
            name = config.model_type.removeprefix("renaissance-")
            raise ValueError(
                f"prompts: expected a dual encoder, which has vectors of texts and images, got a {name} model"
            )
        if args.do_train:
            raise ValueError("prompts: images are classified without training; leave out do_train, or prompts")

    def config_fields(self) -> dict:
        if not self.data_arguments.prompts:
            return super().config_fields()
        if not self.names:
            raise ValueError(
                "prompts: the data has no labels, so that no classes are known; evaluate a split that has them"
            )
        if all(name.strip("-").isdecimal() for name in self.names):
            shown = ", ".join(self.names[:5])
            raise ValueError(
                f"prompts: expected classes with names, got the numbers {shown}; write names into the label column"
            )
        return {}

    def evaluate_by_prompts(self, trainer: Trainer, data: KeyedRows) -> tuple[np.ndarray, dict[str, float]]:
        """
        Return the number of the class (N,) whose texts are nearest to each image, and the metrics. The vector of a class is the mean
        of those of its texts, one for each prompt (Radford et al. 2021, section 3.1.4).
        """
        rows, prompts = data.data, self.data_arguments.prompts
        scorer = VectorScorer(trainer)
        texts = [prompt.replace("{}", name) for name in self.names for prompt in prompts]
        check_told_apart(texts, self.names, trainer.processing_class)
        classes = scorer.text_vectors(texts).unflatten(0, (len(self.names), len(prompts))).mean(dim=1)
        images = scorer.image_vectors(lambda number: rows[number]["image"], len(rows))
        scores = images @ torch.nn.functional.normalize(classes, dim=-1).T
        chosen, _ = self.collect(scores, {})
        predictions = chosen.cpu().numpy()
        labels = np.asarray(rows["label"][:]) if "label" in rows.column_names else np.full(len(rows), IGNORED)
        known = (labels != IGNORED).any()
        return predictions, self.metrics(EvalPrediction(predictions, labels), rows) if known else {}


def check_told_apart(texts: list[str], names: list[str], processor: RenaissanceProcessor) -> None:
    """Raise `ValueError` if the texts of two classes, as many of each as there are prompts, are the same to the model."""
    tokens = list(map(tuple, processor.tokenize(texts)["input_ids"]))
    count, first = len(texts) // len(names), {}
    for number, name in enumerate(names):
        other = first.setdefault(tuple(tokens[number * count : (number + 1) * count]), name)
        if other != name:
            limit = processor.tokenizer.model_max_length
            why = f"it reads {limit} tokens of a text, and words that the tokenizer does not know are one and the same"
            raise ValueError(
                f"prompts: the texts of {other!r} and {name!r} are the same to the model: {why}; choose others"
            )
