"""Reader of CIFAR-10 (Krizhevsky 2009) in its public layout for Python (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


#: Our split names to the files. The data set has no validation split.
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
#: Pixels of an image: channels, height, width.
SHAPE = (3, 32, 32)

#: All that the batches' pickles name beside plain Python values: what an array is made of.
ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class BatchUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings and arrays, and refuses a pickle that names anything else to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR-10 does")
        return ADMITTED[module, name]


def read_cifar10(source: str | os.PathLike) -> dict[str, list[dict]]:
    """The rows of CIFAR-10 by split (train, test), in the order of the files.

    A row has the columns of `tasks.cifar10.FEATURES`; its image is encoded as PNG, and its id is the name of its batch and its
    number there.

    Args:
        source: the folder that holds cifar-10-batches-py/.

    Raises:
        ValueError: if a batch is missing, is no pickle of what batches hold, or its images and labels do not fit; if the
            names of the classes are others.
    """
    folder = Path(source) / "cifar-10-batches-py"
    names = _load(folder / "batches.meta").get(b"label_names")
    if names != [name.encode() for name in CLASSES]:
        raise ValueError(f"{folder / 'batches.meta'}: expected the classes {', '.join(CLASSES)}, got {names}")
    return {split: [row for name in names for row in _read_batch(folder / name)] for split, names in SPLITS.items()}


def _read_batch(path: Path) -> list[dict]:
    batch = _load(path)
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    size = int(np.prod(SHAPE))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (size,):
        raise ValueError(f"{path}: expected rows of {size} bytes under the key data")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(f"{path}: expected {len(pixels)} labels, one an image")
    for row, label in enumerate(labels):
        if label not in range(len(CLASSES)):
            raise ValueError(f"{path}: image {row} has the label {label!r}: expected 0 to {len(CLASSES) - 1}")
    images = pixels.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    return [
        {"id": f"{path.name}-{row}", "image": {"bytes": _encode(image), "path": None}, "label": label}
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _load(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a batch of CIFAR-10's version for Python")
    try:
        with path.open("rb") as file:
            batch = BatchUnpickler(file, encoding="bytes").load()
    # A damaged pickle raises errors of many types.
    except Exception as error:
        raise ValueError(f"{path} is no batch of CIFAR-10 ({type(error).__name__}: {error})") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(batch).__name__}")
    return batch


def _encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
