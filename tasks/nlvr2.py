"""NLVR2 (Suhr et al. 2019): is a sentence true of a pair of images?"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from ..processing.masking import IGNORED
from .data import schemas
from .data.columns import check_counts
from .data.faults import Faults
from .data.image_checks import ImageCheck
from .metrics import Accuracy, Consistency
from .own_data import with_columns
from .supervised import SupervisedTask, TextAndImageArguments, warn_of_no_answer


#: How NLVR2 names its rows: split, set of images, pair of images in it, sentence about the set.
IDENTIFIER = re.compile(r"(?P<set>[^-]+-\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")


@with_columns(
    schemas.PUBLIC_NLVR2,
    label="labels, 0 (false) or 1 (true)",
    subset="subsets, such as balanced; the metrics of each are reported too",
)
@dataclass
class NLVR2Arguments(TextAndImageArguments):
    """Data of NLVR2."""


class NLVR2(SupervisedTask):
    """Truth of a sentence about two images."""

    kind = "ForImagesAndTextClassification"
    arguments = NLVR2Arguments
    metric_names = ("loss", "accuracy", "accuracy_*", "consistency", "consistency_*")
    augmentable = ("images",)
    features = schemas.NLVR2
    optional = ("id", "subset")
    classes = schemas.classes_of(schemas.NLVR2)

    def check_rows(self, data: Dataset, faults: Faults, check: ImageCheck) -> None:
        check_counts(data, "images", 2, faults)

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """
        Return the accuracy and, if the ids are NLVR2's, the consistency, each with its baseline and its number of rows: of
        all rows and, under names that end in the subset's, of each subset.
        """
        warn_of_no_answer(prediction.predictions)
        figures = self.figures(prediction, data, np.arange(len(data)))
        subsets = data["subset"][:] if "subset" in data.column_names else []
        for name in sorted({subset for subset in subsets if subset}):
            rows = np.flatnonzero([subset == name for subset in subsets])
            if (prediction.label_ids[rows] != IGNORED).any():
                figures |= {f"{key}_{name}": value for key, value in self.figures(prediction, data, rows).items()}
        return figures

    def figures(self, prediction: EvalPrediction, data: Dataset, rows: np.ndarray) -> dict[str, float]:
        """Return the metrics of some rows, given by number, of which those without a label do not count."""
        rows = rows[prediction.label_ids[rows] != IGNORED]
        answers = {
            "predictions": self.in_task_order(prediction.predictions[rows]),
            "references": self.in_task_order(prediction.label_ids[rows]),
        }
        figures = Accuracy().compute(**answers)
        sentences = sentences_of(data["id"][:]) if "id" in data.column_names else None
        if sentences:
            figures |= Consistency().compute(**answers, groups=[sentences[row] for row in rows])
        return figures

    def config_fields(self) -> dict[str, Any]:
        return super().config_fields() | {"num_images": 2}


def sentences_of(ids: list[str]) -> list[str] | None:
    """
    Return a key of each row's sentence, the same for all pairs of images that it is about, as in NLVR2's own script:
    the set of images and the number of the sentence. Return `None` if an id is not NLVR2's.
    """
    found = [IDENTIFIER.fullmatch(value) for value in ids]
    return [f"{match['set']}-{match['sentence']}" for match in found] if all(found) else None
