"""Reads, checks and shrinks the images of rows before they are stored."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Features
from PIL import Image, ImageOps, UnidentifiedImageError

from .schemas import image_columns


JPEG_QUALITY = 95


def prepare_row(row: dict, features: Features, shorter_side: int | None) -> tuple[dict, list[dict[str, str]]]:
    """Return the row with the bytes of its images (see `writer.write_split`), and its broken images as {"file",
    "reason"}; raise `ValueError` if the row has other columns than `features`."""
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
                broken.append({"file": str(image["path"]), "reason": f"{type(error).__name__}: {text}"})
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
    """The numbers of a split's rows, of entries that the reader could not use, of image files; the missing files."""

    split: str
    rows: int
    skipped: int
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
        checks.append(SplitCheck(split, len(rows), len(getattr(rows, "skipped", ())), len(named), missing))
    return checks
