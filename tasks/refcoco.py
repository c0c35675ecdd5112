"""RefCOCO, RefCOCO+ (Yu et al. 2016) and RefCOCOg (Mao et al. 2016): which box of an image does an expression mean?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from ..modeling.fields import option
from ..processing.collators import RegionCollator
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import NO_ANSWER
from .data import schemas
from .data.boxes import check_boxes, check_boxes_inside, numbers_in_labels, with_meant_boxes
from .data.faults import Faults
from .data.image_checks import ImageCheck
from .metrics import ChoiceAccuracy
from .own_data import with_columns
from .supervised import SupervisedTask, TextAndImageArguments, row_ids, warn_of_no_answer


@with_columns(
    schemas.REFCOCO,
    text="expressions",
    boxes="lists of boxes, [left, top, width, height] in pixels",
    label="the number, from 0 on, of the box that the expression means",
)
@dataclass
class RefCOCOArguments(TextAndImageArguments):
    """Data of RefCOCO."""

    test_splits: list[str] = option(
        [], "Splits to predict. Without it, testA and testB, or test of your own files. RefCOCOg has test."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.remove_input == "image":
            # The model sees no place of a box, only the pixels in it.
            fault = "without them all boxes look alike, so that the accuracy is that of chance, which each run has as its baseline"
            raise ValueError(f"remove_input: images of this task are what it chooses from: {fault}; leave it out")
        if not self.dataset and self.test_splits:
            raise ValueError("test_splits: without effect on your own files, test_file is the one; leave it out")
        self.test_splits = self.test_splits or (["testA", "testB"] if self.dataset else ["test"])


class RefCOCO(SupervisedTask):
    """The box of an image that an expression means. Images are not augmented: boxes give places in them."""

    kind = "ForReferenceResolution"
    arguments = RefCOCOArguments
    features = schemas.REFCOCO
    optional = ("id",)
    whole_images = False

    def __init__(self, data_arguments: RefCOCOArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        self.test_splits = tuple(data_arguments.test_splits)

    def check_rows(self, data: Dataset, faults: Faults, check: ImageCheck) -> None:
        """Add the rows to `faults` whose boxes are no boxes; if images are looked at, also those with a box outside its image."""
        if check_boxes(data, faults) and check is not ImageCheck.NONE and "image" in data.column_names:
            check_boxes_inside(data, faults, self.max_image_pixels)

    def with_labels(self, data: Dataset, split: str, faults: Faults) -> Dataset:
        """Return the data with whole numbers as labels, in a test split `IGNORED` for blank ones; add to `faults` the labels
        that are not the number of a box."""
        labels = numbers_in_labels(data)
        unlabelled = self.rows_without_label(labels, split in self.test_splits, True, faults)
        return with_meant_boxes(data, labels, unlabelled, faults)

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if args.label_smoothing_factor:
            fault = "would give a share to boxes that a row does not have, for rows differ in their number of boxes"
            raise ValueError(f"label_smoothing_factor: {fault}; leave it out")

    def config_fields(self) -> dict[str, Any]:
        return {}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RegionCollator:
        return RegionCollator(processor)

    def collect(self, logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Keep the number of boxes with the labels: across processes, Trainer pads masks as if there were more."""
        choices, labels = super().collect(logits, inputs)
        return choices, None if labels is None else (labels, inputs["region_mask"].sum(dim=-1))

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return the accuracy, that of drawing one of the boxes at random, and the number of rows, which are those with a label."""
        warn_of_no_answer(prediction.predictions)
        labels, counts = prediction.label_ids
        rows = labels != IGNORED
        return ChoiceAccuracy().compute(
            predictions=prediction.predictions[rows], references=labels[rows], counts=counts[rows]
        )

    def answer_name(self, answer: Any) -> str:
        return f"box {answer}" if answer != NO_ANSWER else super().answer_name(answer)

    def write_predictions(self, predictions: np.ndarray, data: Dataset, path: Path) -> Path:
        """Write JSON lines: the id of the row, or its number, the number of the chosen box, and the box, both null if there is none. Return the file."""
        path = path.with_suffix(".jsonl")
        with path.open("w", encoding="utf-8") as file:
            for row, boxes, choice in zip(row_ids(data), data["boxes"], predictions.tolist(), strict=True):
                chosen = (
                    {"choice": None, "box": None} if choice == NO_ANSWER else {"choice": choice, "box": boxes[choice]}
                )
                file.write(json.dumps({"id": row, **chosen}) + "\n")
        return path
