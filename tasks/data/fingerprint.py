"""A digest of data that is the same on every machine: by it two runs tell whether they had the same rows."""

import json
import os
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from pyarrow import compute
from torch.utils.data import ConcatDataset

from .captioned import CaptionedImages
from .columns import column_of, flattened
from .mixing import MixedRows, parts_of
from .schemas import image_columns
from .unpaired import ImagesAlone, TextsAlone


#: Rows that are read at a time, and images whose content is read.
ROWS, IMAGES = 10_000, 256


def fingerprint(data: Any, left_out: Collection[str] = ()) -> str | None:
    """
    Return a digest of the rows of a split as `Task.load` gives them, in their order: of the content of all columns but images,
    of the size of each image's file, and of the content of 256 images, evenly spaced. Folders and formats have no part in
    it, nor have columns that are `left_out` of the rows of pretraining. `None` of anything but tables.
    """
    if isinstance(data, (ConcatDataset, MixedRows)):
        parts = [fingerprint(part, left_out) for part in parts_of(data)]
        # Not the shares of a mixture, which follow from the options and from the rows of a batch.
        return None if None in parts else digest_of(json.dumps(parts).encode())
    if isinstance(data, (CaptionedImages, ImagesAlone, TextsAlone)):
        # The last rows may not be used with all of their captions.
        beside = [column for column in data.more if column in left_out]
        return digest_of(f"{len(data)} {fingerprint(data.data.remove_columns(beside))}".encode())
    return of_table(data) if isinstance(data, Dataset) else None


def digest_of(content: bytes) -> str:
    """Return a digest of 64 bits as 16 digits."""
    return xxhash.xxh3_64_hexdigest(content)


def of_table(data: Dataset) -> str:
    """Return the digest of a table with undecoded images."""
    digest = xxhash.xxh3_64(str(len(data)).encode())
    images = dict(image_columns(data.features))
    for name in sorted(data.column_names):
        digest.update(f"\n{name}\n".encode())
        if name in images:
            digest.update(digest_of_images(data, name))
            continue
        values = column_of(data, name)
        for start in range(0, len(values), ROWS):
            digest.update(json.dumps(values.slice(start, ROWS).to_pylist(), default=str).encode())
    return digest.hexdigest()


def digest_of_images(data: Dataset, name: str) -> bytes:
    """Return a digest of a column of images, or of lists of them. Not `column_of`, which would copy the images of selected rows."""
    column = data.data.column(name)
    images, owners = flattened(column)
    if data._indices is not None:
        rows = data._indices.column(0).to_numpy()
        first, last = (np.searchsorted(owners, rows, side) for side in ("left", "right"))
        chosen = np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)] or [np.arange(0)])
    else:
        chosen = np.arange(len(images))
    sizes = file_sizes(images)[chosen]
    digest = xxhash.xxh3_64(sizes.astype("<i8").tobytes())
    for number in chosen[np.unique(np.linspace(0, len(chosen) - 1, min(IMAGES, len(chosen))).astype(int))]:
        digest.update(content_of(images[int(number)]))
    return digest.digest()


def file_sizes(images: pa.ChunkedArray) -> np.ndarray:
    """Return the number of bytes of the file of each image (N,); -1 of files that are not here."""
    sizes = (
        compute.fill_null(compute.binary_length(compute.struct_field(images, "bytes")), -1).to_numpy().astype(np.int64)
    )
    elsewhere = np.flatnonzero(sizes < 0)
    paths = compute.struct_field(images, "path").take(elsewhere).to_pylist()
    sizes[elsewhere] = [os.path.getsize(path) if path and os.path.isfile(path) else -1 for path in paths]
    return sizes


def content_of(image: pa.StructScalar) -> bytes | pa.Buffer:
    """Return the content of an image's file, or its name if the file is not here."""
    content, path = image["bytes"], image["path"].as_py()
    if content.is_valid:
        return content.as_buffer()
    if path and os.path.isfile(path):
        with open(path, "rb") as file:
            return file.read()
    return os.path.basename(path or "").encode()
