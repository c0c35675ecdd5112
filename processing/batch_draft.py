"""A batch of pretraining that is being made: which rows serve an objective, and which images and texts it shows; and the names of rows in
messages."""

from collections.abc import Hashable, Iterable, Mapping

import numpy as np
from PIL import Image
from transformers import BatchEncoding

from .decoding import MAX_PIXELS, has_name, to_rgb


def image_of(row: dict) -> dict | None:
    """Return the image of a row, or the first of several, if it has a name for messages."""
    image = row["images"][0] if row.get("images") else row.get("image")
    return image if has_name(image) else None


def name_of(row: dict) -> str:
    """Return the name of a row in messages: that of its image, which has the row in the file, its place, or its number in the data."""
    if image := image_of(row):
        return image["name"]
    return str(row.get("place") or f"row {row.get('sample_id', 'of other data')}")


class BatchDraft:
    """
    A batch that is being made.

    Args:
        rows: The rows (B), each with `sample_id`, `epoch`, in training `training`, and the columns that its objectives need; with
            `image` also `image_id` (rows of one image share it).
        encoding: The tokens of their texts, as numpy arrays (B, T); a row without a text has those of the empty text.
        seed: Seed of the run.
        repeats_shapes: Whether the batch is to have one of few shapes: inputs whose number varies, such as masked tokens, are padded.
        served: The numbers of the rows that serve each objective, by its name; all rows by default.
        max_pixels: Largest number of pixels of an image.

    Attributes:
        keys: What the randomness of each row is drawn from: seed, epoch and sample id.
        shown: Rows whose images the batch has, each image once.
        index_is_read: Whether an objective reads `image_index`.
    """

    def __init__(
        self,
        rows: list[dict],
        encoding: BatchEncoding,
        seed: int,
        repeats_shapes: bool = False,
        served: Mapping[str, np.ndarray] | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        self.rows = rows
        self.encoding = encoding
        self.repeats_shapes = repeats_shapes
        self.max_pixels = max_pixels
        self.keys = [(seed, row["epoch"], row["sample_id"]) for row in rows]
        self.shown: list[dict] = []
        self.index_is_read = False
        self._served = dict(served or {})
        self._numbers: dict[Hashable, int] = {}
        self._clean: set[int] = set()
        self._decoded: dict[str, Image.Image] = {}

    def rows_of(self, name: str) -> np.ndarray:
        """Return the numbers of the rows (R,) that serve an objective."""
        return self._served.get(name, np.arange(len(self.rows)))

    def show(self, row: dict, part: Hashable = None) -> int:
        """
        Return the number of a row's image in `shown`, to which it is added if it is not there. If the row has a `part` or a version of
        an image, `part` tells it from others.
        """
        number = self._numbers.setdefault((row["image_id"], part), len(self.shown))
        if number == len(self.shown):
            self.shown.append(row)
        return number

    def decoded(self, row: dict) -> Image.Image:
        """Return the image of a row as RGB, decoded once for all rows of the batch that have it; raise `UnusableRow` if it cannot be."""
        image_id = row["image_id"]
        if image_id not in self._decoded:
            self._decoded[image_id] = to_rgb(row["image"], self.max_pixels, name_of(row))
        return self._decoded[image_id]

    def images_of(self, rows: Iterable[int]) -> np.ndarray:
        """Return the numbers in `shown` of the images of rows (R,)."""
        return np.array([self.show(self.rows[number]) for number in rows], dtype=np.int64)

    @property
    def image_index(self) -> np.ndarray:
        """The image of each row (B,), a number in `shown`, of a batch all of whose rows have images."""
        self.index_is_read = True
        return self.images_of(range(len(self.rows)))

    def paired(self, name: str) -> dict[str, np.ndarray]:
        """Return the input that says which images meet the texts of the rows that serve an objective; none if it is all rows,
        which share `image_index`."""
        rows = self.rows_of(name)
        if len(rows) < len(self.rows):
            return {f"{name}_image_index": self.images_of(rows)}
        self.images_of(rows)
        self.index_is_read = True
        return {}

    def read_clean_text(self, rows: Iterable[int]) -> None:
        """Note that an objective reads the text of `rows` as it is."""
        self._clean.update(map(int, rows))

    @property
    def clean_rows(self) -> np.ndarray:
        """The rows whose text is read as it is, in order."""
        return np.array(sorted(self._clean), dtype=np.int64)

    def row_rng(self, row: int, name: str) -> np.random.Generator:
        """Return a source of randomness of an objective that depends on one row."""
        return np.random.default_rng([*self.keys[row], *name.encode()])

    def rng(self, rows: Iterable[int] | None = None) -> np.random.Generator:
        """Return a source of randomness that depends on `rows`, by default on all."""
        keys = self.keys if rows is None else [self.keys[number] for number in rows]
        return np.random.default_rng([number for key in keys for number in key])
