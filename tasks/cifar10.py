"""CIFAR-10 (Krizhevsky 2009), and any other classification of images alone."""

from dataclasses import dataclass

from .data import schemas
from .own_data import with_columns
from .supervised import SupervisedArguments, SupervisedTask


@with_columns(schemas.CIFAR10, image="images; img in the Hub's uoft-cs/cifar10")
@dataclass
class CIFAR10Arguments(SupervisedArguments):
    """Data of CIFAR-10, or other images with classes."""


class CIFAR10(SupervisedTask):
    """Classification of images; the classes come from the data."""

    kind = "ForImageClassification"
    arguments = CIFAR10Arguments
    augmentable = ("image",)
    features = schemas.CIFAR10
    optional = ("id",)
