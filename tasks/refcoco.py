"""RefCOCO, RefCOCO+ (Yu et al. 2016) and RefCOCOg (Mao et al. 2016): which box of an image does an expression mean?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, List, Value
from transformers import EvalPrediction, PreTrainedModel

from ..modeling.fields import option
from ..processing.collators import RegionCollator
from ..processing.decoding import named, size_upright
from ..processing.processing_renaissance import RenaissanceProcessor
from ..processing.regions import fault_of
from .data import schemas
from .metrics import ChoiceAccuracy
from .supervised import SupervisedArguments, SupervisedTask, row_ids, with_columns


@with_columns(
    schemas.REFCOCO,
    text="expressions",
    boxes="lists of boxes, [left, top, width, height] in pixels",
    label="the number, from 0 on, of the box that the expression means",
)
@dataclass
class RefCOCOArguments(SupervisedArguments):
    """Data of RefCOCO."""

    test_splits: list[str] = option(
        [], "Splits to predict. Without it, testA and testB, or test of your own files. RefCOCOg has test."
    )

    def __post_init__(self):
        super().__post_init__()
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

    def read(self, split: str) -> Dataset:
        data = super().read(split)
        # The reader of a prepared data set has compared its boxes with the published sizes of the images.
        if file := self.data_arguments.file(split):
            require_boxes_inside(data, f"{file}, split {split!r}")
        return data

    def check_rows(self, data: Dataset, source: str) -> None:
        kind = data.features["boxes"]
        inner = kind.feature.feature if isinstance(kind, List) and isinstance(kind.feature, List) else None
        if not isinstance(inner, Value) or not inner.dtype.startswith(("float", "int")):
            raise ValueError(f"{source}: expected lists of boxes of four numbers in column 'boxes', found {kind}")
        for row, boxes in enumerate(data.data.column("boxes").to_pylist()):
            if not boxes:
                raise ValueError(f"{source}, row {row}: expected at least one box, got none")
            for number, box in enumerate(boxes):
                if len(box) != 4 or None in box or not np.isfinite(box).all() or min(box[2:]) <= 0:
                    expected = "left, top, and a width and a height above 0"
                    raise ValueError(f"{source}, row {row}, box {number}: expected {expected}, got {box}")

    def with_labels(self, data: Dataset, split: str, source: str) -> Dataset:
        """Return the data as it is; raise `ValueError` if a label is not the number of a box."""
        labels, all_boxes = (data.data.column(name).to_pylist() for name in ("label", "boxes"))
        for row, (label, boxes) in enumerate(zip(labels, all_boxes, strict=True)):
            if not isinstance(label, int) or not 0 <= label < len(boxes):
                expected = f"the number of one of {len(boxes)} boxes, from 0 on, as label"
                raise ValueError(f"{source}, row {row}: expected {expected}, got {label!r}")
        return data

    def config_fields(self) -> dict[str, Any]:
        return {}

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> RegionCollator:
        return RegionCollator(processor)

    def collect(self, logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Keep the number of boxes with the labels: across processes, Trainer pads masks as if there were more."""
        choices, labels = super().collect(logits, inputs)
        return choices, None if labels is None else (labels, inputs["region_mask"].sum(dim=-1))

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return the accuracy, that of drawing one of the boxes at random, and the number of rows."""
        labels, counts = prediction.label_ids
        return ChoiceAccuracy().compute(predictions=prediction.predictions, references=labels, counts=counts)

    def answer_name(self, answer: Any) -> str:
        return f"box {answer}"

    def write_predictions(self, predictions: np.ndarray, data: Dataset, path: Path) -> None:
        """Write JSON lines: the id of the row, or its number, the number of the chosen box, and the box."""
        with path.with_suffix(".jsonl").open("w") as file:
            for row, boxes, choice in zip(row_ids(data), data["boxes"], predictions.tolist(), strict=True):
                file.write(json.dumps({"id": row, "choice": choice, "box": boxes[choice]}) + "\n")


def require_boxes_inside(data: Dataset, source: str) -> None:
    """Raise `ValueError` if a box lies outside its image or the header of an image file cannot be read."""
    stored = data.select_columns(["image", "boxes"]).cast_column("image", Image(decode=False))
    for row, entry in enumerate(stored):
        width, height = size_upright(named(entry["image"], f"{source}, row {row}"))
        for number, box in enumerate(entry["boxes"]):
            if fault := fault_of(box, width, height):
                raise ValueError(f"{source}, row {row}, box {number}: {fault}")
