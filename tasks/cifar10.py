"""CIFAR-10 (Krizhevsky 2009), and any other classification of images alone."""

from dataclasses import dataclass

from datasets import Dataset

from ..modeling.fields import option
from .arguments import check_at_least
from .data import schemas
from .supervised import SupervisedArguments, SupervisedTask, with_columns


#: Which rows are held out is the same in every run, so that runs can be compared.
SEED_OF_HELD_OUT = 0


@with_columns(schemas.CIFAR10, image="images; img in the Hub's uoft-cs/cifar10")
@dataclass
class CIFAR10Arguments(SupervisedArguments):
    """Data of CIFAR-10, or other images with classes."""

    held_out: int | None = option(
        None,
        "Validate on this many random rows of the training data, the same in every run, and train on the others: for "
        "data without a validation split, such as CIFAR-10.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, held_out=1)
        if self.held_out and self.validation_file:
            raise ValueError("held_out: without effect if validation_file is given; leave out one of them")


class CIFAR10(SupervisedTask):
    """Classification of images; the classes come from the data."""

    kind = "ForImageClassification"
    arguments = CIFAR10Arguments
    augmentable = ("image",)
    features = schemas.CIFAR10
    optional = ("id",)

    def read(self, split: str) -> Dataset:
        held_out = self.data_arguments.held_out
        if not held_out or split not in ("train", *self.eval_splits):
            return super().read(split)
        data = super().read("train")
        if held_out >= len(data):
            raise ValueError(f"held_out: expected fewer than the {len(data)} rows of training data, got {held_out}")
        return data.train_test_split(held_out, seed=SEED_OF_HELD_OUT)["train" if split == "train" else "test"]
