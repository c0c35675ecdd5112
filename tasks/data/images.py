"""Reads, checks and shrinks the images of rows before they are stored."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Features
from PIL import Image, ImageOps, UnidentifiedImageError

from ...processing.decoding import size_upright
from ...processing.regions import fault_of
from .readers import left_out_of
from .schemas import image_columns


JPEG_QUALITY = 95


def prepare_row(row: dict, features: Features, shorter_side: int | None) -> tuple[dict, list[dict[str, str]]]:
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
                prepared.append(prepare_image(image, shorter_side))
            # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
            except Exception as error:
                # This error's own text has an address in memory, another in each run.
                text = "not an image file" if isinstance(error, UnidentifiedImageError) else error
                kind = "missing image" if isinstance(error, FileNotFoundError) else "unreadable image"
                broken.append({"file": str(image["path"]), "kind": kind, "reason": f"{type(error).__name__}: {text}"})
        if "boxes" in row and prepared and not broken:
            width, height = size_upright(prepared[0])
            if faults := [fault for box in row["boxes"] if (fault := fault_of(box, width, height))]:
                broken.append(
                    {"file": str(image["path"]), "kind": "image smaller than its boxes", "reason": faults[0]}
                )
        row[column] = prepared if several else next(iter(prepared), None)
    return row, broken


def prepare_image(image: dict, shorter_side: int | None) -> dict:
    """Return the image's bytes, decoded once to be sure of them, and its bare file name; shrunk if it is too large."""
    data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    name = image["path"] and Path(image["path"]).name
    with Image.open(io.BytesIO(data)) as opened:
        if shorter_side is None or min(opened.size) <= shorter_side:
            # A JPEG is decoded at an eighth of its size: all of its data is read all the same, in a fraction of the time.
            opened.draft(None, (1, 1))
            opened.load()
            return {"bytes": data, "path": name}
        # Only the pixels are stored, so the orientation that the camera noted has to be applied to them.
        pixels = ImageOps.exif_transpose(opened).convert("RGB")
    scale = shorter_side / min(pixels.size)
    pixels = pixels.resize([round(side * scale) for side in pixels.size], Image.Resampling.BICUBIC)
    pixels.save(buffer := io.BytesIO(), format="JPEG", quality=JPEG_QUALITY)
    return {"bytes": buffer.getvalue(), "path": name and f"{Path(name).stem}.jpg"}


def is_broken(file: str, shorter_side: int | None) -> bool:
    """Return whether `prepare_image` fails on a file."""
    try:
        prepare_image({"bytes": None, "path": file}, shorter_side)
    except Exception:
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
    columns, checks = list(image_columns(features)), []

    @functools.cache
    def listed(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    for split, rows in splits.items():
        named = {}
        for row in rows:
            for column, several in columns:
                images = row[column] if several else [row[column]]
                named |= dict.fromkeys(image["path"] for image in images if image["bytes"] is None)
        missing = [path for path in named if os.path.basename(path) not in listed(os.path.dirname(path))]
        checks.append(SplitCheck(split, len(rows), left_out_of(rows).bad, len(named), missing))
    return checks
