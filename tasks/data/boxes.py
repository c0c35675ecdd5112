"""Boxes in the rows of a table: lists of [left, top, width, height] in pixels of the row's image; and which of them is meant."""

from collections.abc import Collection
from typing import Any

import numpy as np
from datasets import Dataset, Image, List, Value

from ...processing.decoding import UnreadableImage, open_image, readable, upright_size
from ...processing.masking import IGNORED
from ...processing.regions import fault_of
from .columns import column_of, in_words, replace_column
from .faults import Faults
from .image_checks import opened
from .labels import plain_labels


def check_boxes(data: Dataset, faults: Faults) -> bool:
    """Add the rows to `faults` whose boxes are no boxes. Return whether there is a column of lists of boxes."""
    if "boxes" not in data.column_names:
        return False
    kind, called = data.features["boxes"], faults.called("boxes")
    boxes_of = kind.feature if isinstance(kind, List) else None
    number = boxes_of.feature if isinstance(boxes_of, List) else boxes_of if boxes_of == Value("null") else None
    # If no row has a box, the type of boxes is not known.
    if not isinstance(number, Value) or not number.dtype.startswith(("float", "int", "null")):
        faults.add(f"expected lists of boxes of four numbers in {called}, found {in_words(kind)}")
        return False
    for row, boxes in enumerate(column_of(data, "boxes").to_pylist()):
        if boxes == []:
            faults.add_row("no boxes", row, f"expected at least one box in {called}, got none")
        for number, box in enumerate(boxes or ()):
            if box is None or len(box) != 4 or None in box or not np.isfinite(box).all() or min(box[2:]) <= 0:
                expected = "left, top, and a width and a height above 0"
                faults.add_row("box", row, f"box {number}: expected {expected}, in {called}, got {box}")
    return True


def check_boxes_inside(data: Dataset, faults: Faults, max_pixels: int) -> None:
    """Add the rows to `faults` with a box outside its image."""
    if not isinstance(data.features["image"], Image):
        return
    called, bad = faults.called("boxes"), faults.bad_rows
    images, all_boxes = column_of(data, "image"), column_of(data, "boxes")
    for row in [row for row in range(len(data)) if row not in bad]:
        content, path = images[row]["bytes"], images[row]["path"].as_py()
        # Not copied: only the header is read.
        stored = {"bytes": content.as_buffer() if content.is_valid else None, "path": path}
        try:
            with readable(stored), opened(stored) as file:
                width, height = upright_size(open_image(file, max_pixels))
        except UnreadableImage as error:
            # A look at the header and the end of a file does not find all.
            faults.add_row("image", row, str(error))
            continue
        for number, box in enumerate(all_boxes[row].as_py()):
            if fault := fault_of(box, width, height):
                faults.add_row("box outside", row, f"box {number}: {fault}, in {called}")


def numbers_in_labels(data: Dataset) -> list[Any]:
    """Return the values of `label` (N), of which texts that are whole numbers are numbers."""
    # One by one: a text that is no number must not make texts of the others.
    return [plain_labels([value])[0] for value in column_of(data, "label").to_pylist()]


def with_meant_boxes(data: Dataset, labels: list[Any], unlabelled: Collection[int], faults: Faults) -> Dataset:
    """Return the data with `labels` (N) as its `label`, the number of the box that is meant; `IGNORED` in `unlabelled` rows. Add to
    `faults` the rows whose label is not the number of one of their boxes."""
    all_boxes = column_of(data, "boxes").to_pylist() if "boxes" in data.column_names else [None] * len(labels)
    numbers = []
    for row, (label, boxes) in enumerate(zip(labels, all_boxes, strict=True)):
        count = len(boxes) if isinstance(boxes, list) else None
        is_number = isinstance(label, int) and not isinstance(label, bool)
        if row in unlabelled:
            numbers.append(IGNORED)
            continue
        if not is_number or (count is not None and not 0 <= label < count):
            expected = f"the number of one of {count} boxes, from 0 on, as label in {faults.called('label')}"
            faults.add_row("label", row, f"expected {expected}, got {label!r}")
        numbers.append(label if is_number else None)
    return replace_column(data, "label", numbers)
