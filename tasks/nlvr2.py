"""NLVR2 (Suhr et al. 2019): is a sentence true of a pair of images?"""

from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from .table import TableArguments, TableTask


CLASSES = ["False", "True"]

#: One row a sentence with its images, left first.
FEATURES = Features(
    {"id": Value("string"), "images": List(Image()), "text": Value("string"), "label": ClassLabel(names=CLASSES)}
)


@dataclass
class NLVR2Arguments(TableArguments):
    """Data of NLVR2."""

    id_column: str = field(default="id", metadata={"help": "Name of the column that names a row."})
    images_column: str = field(default="images", metadata={"help": "Name of the column of lists of two images."})
    text_column: str = field(default="text", metadata={"help": "Name of the column of sentences."})
    label_column: str = field(
        default="label", metadata={"help": "Name of the column of labels, 0 (false) or 1 (true)."}
    )


class NLVR2(TableTask):
    """Truth of a sentence about two images."""

    kind = "ForImagesAndTextClassification"
    arguments = NLVR2Arguments
    augmentable = ("images",)
    features = FEATURES
    optional = ("id",)
    classes = CLASSES

    def check_rows(self, data: Dataset, source: str) -> None:
        for row, count in enumerate(data.data.column("images").combine_chunks().value_lengths().to_pylist()):
            if count != 2:
                raise ValueError(f"{source}, row {row}: expected 2 images, got {count}")

    def config_fields(self) -> dict[str, Any]:
        return super().config_fields() | {"num_images": 2}
