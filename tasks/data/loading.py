"""Reads a task's columns from a table that is open, and checks them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List

from ...processing.decoding import MAX_PIXELS
from .columns import check_text, check_values, entry_of, is_text, with_cells_read, with_own_names
from .downloading import Downloading
from .faults import Faults
from .image_checks import ImageCheck
from .stored_images import store_images


def read_columns(
    data: Dataset,
    features: Mapping[str, Any],
    columns: Mapping[str, str | list[str]],
    required: Collection[str],
    faults: Faults,
    folder: str | Path | None = None,
    downloading: Downloading | None = None,
    max_pixels: int = MAX_PIXELS,
    check: ImageCheck = ImageCheck.NONE,
    inside: bool = False,
) -> Dataset:
    """
    Return the columns of a task, under the task's names and of the types in `features`; columns without a type there
    come as they are. Add all that is wrong to `faults`.

    Args:
        data: A table, with the user's names of columns.
        features: The task's schema, or a part of it.
        columns: The user's name of each column of the task, or the names of several that make a list.
        required: The columns of the task that must be there.
        faults: Knows how the user calls the columns.
        folder: Where relative paths of images start from; `None` if images may not be paths.
        downloading: Fetches images whose paths are URLs; `None` if they may not be URLs.
        max_pixels: Largest number of pixels of an image that is fetched or decoded.
        check: How far each image is looked at, to be sure of it.
        inside: Whether paths must lie inside of `folder`, as those that the rows of a data set name.
    """
    data = with_own_names(data, columns, required, faults)
    if (
        columns.get("image_id") == columns.get("image")
        and "image_id" in data.column_names
        and not is_text(data.features["image_id"])
    ):
        # The bytes of a file are not used as a name: without ids, rows with the same bytes are the same image anyway.
        data = data.remove_columns("image_id")
    for name in [name for name in features if name in data.column_names]:
        feature = features[name]
        if isinstance(entry_of(feature), Image):
            data = with_cells_read(data, name, faults) if isinstance(feature, List) else data
            data = store_images(
                data, name, isinstance(feature, List), faults, folder, downloading, max_pixels, check, inside
            )
        elif is_text(entry_of(feature)):
            data = with_cells_read(data, name, faults, or_text=True) if isinstance(feature, List) else data
            check_text(data, name, faults, lists=isinstance(feature, List))
        else:
            data = with_cells_read(data, name, faults) if isinstance(feature, List) else data
            check_values(data, name, faults)
    return data


def is_unprepared(source: str, split: str) -> bool:
    """Return whether a source is a folder here whose split `renaissance prepare` has not written, and so not decoded."""
    folder = Path(source)
    return folder.is_dir() and not any(folder.glob(f"{split}-*.parquet"))
