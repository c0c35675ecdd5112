"""Images with their captions, and captions and images that do not belong together."""

import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset, List
from datasets import Image as ImageFeature
from PIL import Image
from pyarrow import compute
from torch.utils.data import Dataset as TorchDataset

from ...processing.decoding import named
from .bad_rows import BadRow, BadRows
from .columns import character_counts, column_of, is_name_or_number, require_columns, text_of
from .faults import FILE_ROW, Faults, RowPlace, place_of
from .identity import file_places, same_images


logger = logging.getLogger(__name__)


class CaptionedImages(TorchDataset):
    """
    The images of a data set with their captions: item i is caption i with its image. The first captions of all images come
    first, then the second ones: an unshuffled batch of captions of one image would have no false pair.

    Rows with the same `image_id` are one image, that of the first of them; a row without an id is an image of its own. If
    there is no such column, rows whose images have the same bytes or, without bytes, the same path are one image. Only
    numbers are kept of each caption; texts and ids are read when they are first asked for.

    Args:
        data: Columns `image`, `captions` (a string or a list of strings) and, optionally, `image_id`.
        source: Name of the data in messages. It begins the `image_id` of each item, so that data sets share none.
        limit: Largest number of captions; all by default.
        more: Columns of which each item has the value of its row too.

    Attributes:
        objectives: The objectives of pretraining that each item names as those that it serves; `None` for none.

    Raises:
        ValueError: If the data is no `datasets.Dataset` with these columns, there is no caption, or the image ids are
            neither names nor numbers.
    """

    def __init__(self, data: Dataset, source: str, limit: int | None = None, more: Sequence[str] = ()):
        if not isinstance(data, Dataset):
            remedy = "a stream is trained on by --streaming, other rows become one by Dataset.from_list"
            raise ValueError(f"{source}: expected a datasets.Dataset, got {type(data).__name__}; {remedy}")
        require_columns(["image", "captions"], data.column_names, source)
        self.source = source
        self.more = more
        self.objectives: tuple[str, ...] | None = None
        #: The bad rows of the data, if it is for training: their images are not drawn as false ones.
        self.bad_rows = BadRows()
        captions = column_of(data, "captions")
        listed = isinstance(data.features["captions"], List)
        counts = compute.list_value_length(captions).to_numpy() if listed else np.ones(len(captions), dtype=int)
        rows = np.repeat(np.arange(len(counts)), counts)
        images = first_rows(data, source)[rows]
        self._order = np.argsort(Groups(images).places(), kind="stable")[:limit]
        if not len(self._order):
            raise ValueError(f"{source}: not one caption in column captions")
        #: The row of each caption (M,), the number of captions before each row, and the first row of each image (N,).
        self._rows = rows[self._order]
        self._before = np.cumsum(counts) - counts
        #: And the number of each caption's image (M,); images are numbered in the order of their first rows.
        self._first_rows, self.image_of = np.unique(images[self._order], return_inverse=True)
        self.data = data.select(range(self._rows.max() + 1))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        number = int(self._rows[index])
        row = self.data[number]
        captions = row["captions"]
        first = int(self._first_rows[self.image_of[index]])
        return {
            "image": named(row["image"], place_of(self.source, row, number)),
            "text": captions if isinstance(captions, str) else captions[self._order[index] - self._before[number]],
            "image_id": f"{self.source}/{id_of(first, row.get('image_id'))}",
            **{name: row[name] for name in self.more},
            **serving(self.objectives),
        }

    def lengths(self) -> np.ndarray:
        """Return the number of characters of each caption (M,)."""
        return character_counts(self.data, "captions")[self._order]

    @functools.cached_property
    def captions(self) -> list[str]:
        """All captions (M)."""
        return self.texts_at(np.arange(len(self)))

    @property
    def order(self) -> np.ndarray:
        """The numbers of the captions (M,) in the order of the rows, and of each row's list."""
        return np.argsort(self._order)

    def texts_at(self, numbers: np.ndarray) -> list[str]:
        """Return captions (N) by their numbers (N,)."""
        captions = column_of(self.data, "captions")
        texts = compute.list_flatten(captions) if isinstance(self.data.features["captions"], List) else captions
        return texts.take(self._order[numbers]).to_pylist()

    @functools.cached_property
    def text_ids(self) -> np.ndarray:
        """Numbers (M,) that captions of the same words share."""
        words = [" ".join(caption.casefold().split()) for caption in self.captions]
        return np.unique(np.array(words), return_inverse=True)[1]

    @functools.cached_property
    def image_ids(self) -> list[str]:
        """The id of each image (N), or, if it has none, its row."""
        rows = self._first_rows.tolist()
        named = "image_id" in self.data.column_names
        ids = column_of(self.data, "image_id").take(rows).to_pylist() if named else [None] * len(rows)
        return list(map(id_of, rows, ids))

    _of_image = functools.cached_property(lambda self: Groups(self.image_of))
    _of_text = functools.cached_property(lambda self: Groups(self.text_ids))

    def texts_of(self, images: np.ndarray) -> np.ndarray:
        """Return the `text_ids` of the captions of images (I,), as (I, most captions of an image), filled up with -1."""
        numbers = np.full((len(images), np.bincount(self.image_of).max()), -1)
        for row, image in zip(numbers, images, strict=True):
            own = self._of_image[image]
            row[: len(own)] = self.text_ids[own]
        return numbers

    def image(self, number: int) -> dict | Image.Image:
        """Return an image by its number, undecoded if the data has it so."""
        first = int(self._first_rows[number])
        row = self.data[first]
        return named(row["image"], place_of(self.source, row, first))

    def mismatch(self, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Return whether each of `captions` (C,) is false of each of `images` (I,), as (I, C): the image has no such text."""
        return np.stack([~np.isin(self.text_ids[captions], self.text_ids[self._of_image[image]]) for image in images])

    def fewest_false(self) -> tuple[int, int]:
        """Return the smallest number of false captions that an image has, and of false images that a caption has."""
        image, text = np.unique(np.stack([self.image_of, self.text_ids]), axis=1)
        true_captions = np.bincount(image, weights=np.bincount(self.text_ids)[text])
        return len(self) - int(true_captions.max()), len(self._first_rows) - int(np.bincount(text).max())

    def draw_false_captions(self, image: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw numbers (count,) of different captions of other images, uniformly from those with none of its captions' words."""
        own = self.text_ids[self._of_image[image]]
        return draw(len(self), count, lambda drawn: ~np.isin(self.text_ids[drawn], own), rng)

    def draw_false_images(self, caption: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw numbers (count,) of different images, uniformly from those without a caption of the same words."""
        own = self.image_of[self._of_text[self.text_ids[caption]]]
        return draw(len(self._first_rows), count, lambda drawn: ~np.isin(drawn, own) & ~self.is_bad(drawn), rng)

    def is_bad(self, images: np.ndarray) -> np.ndarray:
        """Return whether each of images (N,) is known to be unreadable (N,)."""
        rows = self._first_rows[images]
        of_file = self._file_rows[rows] if self._file_rows is not None else rows
        return np.array([RowPlace(self.source, int(row)) in self.bad_rows for row in of_file], dtype=bool)

    @functools.cached_property
    def _file_rows(self) -> np.ndarray | None:
        """The number in the file of each row (N,), if the data has them."""
        return column_of(self.data, FILE_ROW).to_numpy() if FILE_ROW in self.data.column_names else None


def serving(objectives: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """Return the entry of an item that names the objectives that it serves; nothing if it may serve all."""
    return {} if objectives is None else {"objectives": objectives}


class Groups:
    """The positions of each key in an array of keys (N,), whole numbers from 0 on."""

    def __init__(self, keys: np.ndarray):
        self.order = np.argsort(keys, kind="stable")
        self.ends = np.cumsum(np.bincount(keys))

    def __getitem__(self, key: int) -> np.ndarray:
        """Return the positions of a key, in order."""
        return self.order[self.ends[key - 1] if key else 0 : self.ends[key]]

    def places(self) -> np.ndarray:
        """Return for each position (N,) how many positions before it have the same key."""
        places = np.empty_like(self.order)
        starts = np.r_[0, self.ends[:-1]]
        places[self.order] = np.arange(len(places)) - np.repeat(starts, self.ends - starts)
        return places


def id_of(row: int, image_id: str | int | None) -> str:
    """Return the id of the image of a row, or, if it has none, the row."""
    return f"row {row}" if image_id is None else text_of(image_id)


def first_rows(data: Dataset, source: str) -> np.ndarray:
    """Return for each row (N,) the first row with the same image (see `CaptionedImages`)."""
    rows = np.arange(len(data))
    if "image_id" not in data.column_names:
        numbers = same_images(column_of(data, "image"))
        _, first, own = np.unique(numbers, return_index=True, return_inverse=True)
        if len(first) < len(data):
            counts = f"{len(data)} rows have {len(first)} different images, by their files"
            logger.info(f"{source}: no column of image ids; {counts}")
        return first[own]
    if not is_name_or_number(data.features["image_id"]):
        found = data.features["image_id"]
        raise ValueError(f"{source}: expected names or numbers in column 'image_id', found {found}")
    numbers = column_of(data, "image_id").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    _, first, own = np.unique(numbers, return_index=True, return_inverse=True)
    return np.where(numbers < 0, rows, first[own])


def check_captions(data: Dataset, faults: Faults) -> None:
    """Add the rows to `faults` that have no caption, or the `image_id` of a row with another image."""
    if isinstance(data.features.get("captions"), List):
        for row in np.flatnonzero(compute.equal(compute.list_value_length(column_of(data, "captions")), 0)):
            faults.add_row("no caption", int(row), f"expected at least one caption in {faults.called('captions')}")
    if not {"image", "image_id"} <= {*data.column_names}:
        return
    if not is_name_or_number(data.features["image_id"]):
        found = data.features["image_id"]
        faults.add(f"expected names or numbers in {faults.called('image_id')}, found {found}")
    elif isinstance(data.features["image"], ImageFeature):
        first, images = first_rows(data, faults.source), column_of(data, "image")
        ids = column_of(data, "image_id")
        for row in np.flatnonzero(first != np.arange(len(data))).tolist():
            image, other = images[row], images[int(first[row])]
            # Two images are the same if their bytes are, or without bytes the files that their paths lead to.
            key = "path" if image["bytes"].as_py() is None else "bytes"
            same = image[key].equals(other[key])
            if not same and key == "path":
                own, others = file_places([image[key].as_py(), other[key].as_py()])
                same = own == others
            if not same:
                fault = f"{faults.called('image_id')} is {ids[row].as_py()}, as in row {first[row]}, of another image"
                faults.add_row("image id", row, fault)


def draw(total: int, count: int, allowed: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw different numbers (count,) below `total`, uniformly from those that `allowed` admits. Raise
    `BadRow` if there are too few, which only unreadable images can cause."""
    drawn = rng.choice(total, size=min(total, 2 * count + 16), replace=False)
    if len(found := drawn[allowed(drawn)]) < count:
        drawn = rng.permutation(total)
        found = drawn[allowed(drawn)]
    if len(found) < count:
        raise BadRow(f"{count} false images were asked for, and only {len(found)} can be read")
    return found[:count]
