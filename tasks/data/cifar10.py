"""Reader of CIFAR-10 (Krizhevsky 2009) in its public layout for Python."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from . import schemas
from .readers import PublicDataSet, SourceRows, require_source, wanted_splits
from .unpickling import read_pickle


HELP = """CIFAR-10: train, test. There is no validation split: `renaissance cifar10` holds out rows of train (--held_out).

Batches: https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz

Expected layout:
    SOURCE/cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta"""

#: Our split names to the files. The data set has no validation split.
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
CLASSES = schemas.classes_of(schemas.CIFAR10)
#: Pixels of an image: channels, height, width.
SHAPE = (3, 32, 32)


def read_cifar10(source: str | os.PathLike, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of CIFAR-10, with images encoded as PNG; an id is the name of the batch and the number in it. Raise
    `ValueError` as `PublicDataSet` says, also if images and labels of a batch do not fit."""
    folder = Path(source) / "cifar-10-batches-py"
    files = {split: [folder / name for name in SPLITS[split]] for split in wanted_splits(splits, SPLITS)}
    require_source({split: [folder / "batches.meta", *paths] for split, paths in files.items()})
    names = _load(folder / "batches.meta").get(b"label_names")
    if names != [name.encode() for name in CLASSES]:
        found = f"{len(names)} others" if isinstance(names, list) else type(names).__name__
        raise ValueError(f"{folder / 'batches.meta'}: expected the classes {', '.join(CLASSES)}, got {found}")
    return {split: SourceRows([row for path in paths for row in _read_batch(path)]) for split, paths in files.items()}


def _read_batch(path: Path) -> list[dict]:
    batch = _load(path)
    labels, pixels, size = batch.get(b"labels"), batch.get(b"data"), int(np.prod(SHAPE))
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != size:
        found = f"the shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"{path}: expected rows of {size} bytes under the key data, got {found}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(f"{path}: expected {len(pixels)} labels, one an image")
    for row, label in enumerate(labels):
        if type(label) is not int or label not in range(len(CLASSES)):
            found = repr(label) if isinstance(label, (int, float, str)) else type(label).__name__
            raise ValueError(f"{path}: image {row} has the label {found}: expected 0 to {len(CLASSES) - 1}")
    images = map(_encode, pixels.reshape(-1, *SHAPE).transpose(0, 2, 3, 1))
    return [
        {"id": f"{path.name}-{row}", "image": {"bytes": image, "path": None}, "label": label}
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _load(path: Path) -> dict:
    """Return the dictionary in a batch's file; raise `ValueError` if there is anything else in it."""
    batch = read_pickle(path, "bytes")
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(batch).__name__}")
    return batch


def _encode(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


DATA_SETS = {"cifar10": PublicDataSet(HELP, schemas.CIFAR10, read_cifar10, splits=tuple(SPLITS))}
