"""Reads, checks and shrinks the images of rows before they are stored."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Features
from PIL import Image

from ...processing.decoding import MAX_PIXELS, open_image, read_image, readable, size_upright, upright_rgb
from ...processing.regions import fault_of
from .image_checks import decode_once
from .image_paths import paths_of
from .readers import left_out_of
from .schemas import image_columns


JPEG_QUALITY = 95


def prepare_row(
    row: dict, features: Features, shorter_side: int | None, max_pixels: int = MAX_PIXELS
) -> tuple[dict, list[dict[str, str]]]:
    """Return the row with the bytes of its images (see `writer.write_split`), and its bad images as {"file", "kind",
    "reason"}: missing, unreadable, or too small for the row's boxes. Raise `ValueError` if the row has other columns than
    `features`."""
    if row.keys() != features.keys():
        raise ValueError(f"a row has the columns {', '.join(row)}: expected {', '.join(features)}")
    row, broken = dict(row), []
    for column, several in image_columns(features):
        prepared = []
        for image in row[column] if several else [row[column]]:
            try:
                prepared.append(prepare_image(image, shorter_side, max_pixels))
            except ValueError as error:
                cause = error.__cause__
                # Other errors say little without their type.
                reason = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
                kind = "missing image" if isinstance(cause, FileNotFoundError) else "unreadable image"
                broken.append({"file": str(image["path"]), "kind": kind, "reason": reason})
        if "boxes" in row and prepared and not broken:
            width, height = size_upright(prepared[0], max_pixels)
            if faults := [fault for box in row["boxes"] if (fault := fault_of(box, width, height))]:
                broken.append(
                    {"file": str(image["path"]), "kind": "image smaller than its boxes", "reason": faults[0]}
                )
        row[column] = prepared if several else next(iter(prepared), None)
    return row, broken


def prepare_image(image: dict, shorter_side: int | None, max_pixels: int = MAX_PIXELS) -> dict:
    """
    Return the image's bytes, decoded once to be sure of them, and its bare file name. If its shorter side has more pixels than
    `shorter_side`, shrink it, and store it as a JPEG. Raise `ValueError`, from the reason, if `decode` cannot read it.
    """
    with readable(image):
        data = read_image(image)
        name = image["path"] and Path(image["path"]).name
        opened = open_image(data, max_pixels)
        if shorter_side is None or min(opened.size) <= shorter_side:
            decode_once(opened)
            return {"bytes": data, "path": name}
        pixels = upright_rgb(opened)
    scale = shorter_side / min(pixels.size)
    pixels = pixels.resize([round(side * scale) for side in pixels.size], Image.Resampling.BICUBIC)
    pixels.save(buffer := io.BytesIO(), format="JPEG", quality=JPEG_QUALITY)
    return {"bytes": buffer.getvalue(), "path": name and f"{Path(name).stem}.jpg"}


def is_broken(file: str, shorter_side: int | None, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether `prepare_image` fails on a file."""
    try:
        prepare_image({"bytes": None, "path": file}, shorter_side, max_pixels)
    except ValueError:
        return True
    return False


@dataclass
class SplitCheck:
    """A split: the number of its rows, the entries that the reader could not use (as in `LeftOut`), the number of its image
    files, and those that are missing."""

    split: str
    rows: int
    skipped: list[dict[str, str]]
    images: int
    missing: list[str]


def check_images(splits: Mapping[str, Sequence[dict]], features: Features) -> list[SplitCheck]:
    """Check which of the image files that the rows name are there; folders are listed, no image is opened."""
    checks = []

    @functools.cache
    def listed(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    for split, rows in splits.items():
        named = {}
        for row in rows:
            named |= dict.fromkeys(paths_of(row, features))
        missing = [path for path in named if os.path.basename(path) not in listed(os.path.dirname(path))]
        checks.append(SplitCheck(split, len(rows), left_out_of(rows).bad, len(named), missing))
    return checks
