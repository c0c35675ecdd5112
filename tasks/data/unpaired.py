"""Rows of pretraining that are no pairs: images without a text, and texts without an image."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from ...processing.decoding import named
from .bad_rows import BadRows
from .captioned import first_rows, id_of, serving
from .columns import character_counts, require_columns
from .faults import place_of


class ImagesAlone(TorchDataset):
    """
    The images of a data set, a row each. Rows with the same `image_id`, or without such a column the same bytes or path, are one image.

    Args:
        data: Columns `image` and, optionally, `image_id`.
        source: Name of the data in messages. It begins the `image_id` of each item, so that data sets share none.
        limit: Largest number of rows; all by default.
        more: Columns of which each item has the value of its row too.

    Attributes:
        objectives: The objectives that each item names; `None` for none.

    Raises:
        ValueError: If there is no such column, or the image ids are neither names nor numbers.
    """

    def __init__(self, data: Dataset, source: str, limit: int | None = None, more: Sequence[str] = ()):
        require_columns(["image", *more], data.column_names, source)
        self.source, self.more = source, more
        self.objectives: tuple[str, ...] | None = None
        #: The bad rows of the data, if it is for training.
        self.bad_rows = BadRows()
        self.data = data.select(range(min(len(data), limit))) if limit else data
        self._first = first_rows(self.data, source)
        #: The number of each row's image (N,).
        self.image_of = np.unique(self._first, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        row = self.data[index]
        return {
            "image": named(row["image"], place_of(self.source, row, index)),
            "image_id": f"{self.source}/{id_of(int(self._first[index]), row.get('image_id'))}",
            **{name: row[name] for name in self.more},
            **serving(self.objectives),
        }

    def lengths(self) -> np.ndarray:
        """Return zeros (N,): there are no texts."""
        return np.zeros(len(self), dtype=np.int64)

    def texts_at(self, numbers: np.ndarray) -> list[str]:
        """Return empty texts (I,) for rows (I,)."""
        return [""] * len(numbers)


class TextsAlone(TorchDataset):
    """
    The texts of a data set, a row each, such as documents.

    Args:
        data: A column `text`.
        source: Name of the data in messages.
        limit: Largest number of rows; all by default.

    Attributes:
        objectives: The objectives that each item names; `None` for none.

    Raises:
        ValueError: If there is no such column.
    """

    more: tuple[str, ...] = ()

    def __init__(self, data: Dataset, source: str, limit: int | None = None):
        require_columns(["text"], data.column_names, source)
        self.source = source
        self.objectives: tuple[str, ...] | None = None
        #: The bad rows of the data, if it is for training.
        self.bad_rows = BadRows()
        self.data = data.select(range(min(len(data), limit))) if limit else data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        row = self.data[index]
        return {"text": row["text"], "place": place_of(self.source, row, index), **serving(self.objectives)}

    @property
    def image_of(self) -> np.ndarray:
        """A number of its own for each row (N,): rows share no image."""
        return np.arange(len(self))

    def lengths(self) -> np.ndarray:
        """Return the number of characters of each text (N,)."""
        return character_counts(self.data, "text")

    def texts_at(self, numbers: np.ndarray) -> list[str]:
        """Return texts (I,) by their numbers (I,)."""
        # `take` would first copy the whole column, which may be larger than the memory.
        return self.data.select_columns("text")[numbers.tolist()]["text"]
