"""Reads what a cache on disk has of the images of rows, by the content of their files: a frozen vision tower's features, or pixels."""

import functools
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Dataset
from pyarrow import compute
from safetensors import SafetensorError, safe_open
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset

from ...processing.decoding import ReadyPixels, named, read_image, readable
from .faults import FILE_ROW, place_of
from .mixing import MixedRows, parts_of
from .schemas import image_columns


class StoredImages(TorchDataset):
    """
    The images in a column of a table, row by row, undecoded and named for messages. The `owner` has the table as
    `data`, and its name in messages as `source`; with `several`, the column holds lists of images, all of one length.
    """

    def __init__(self, owner: Any, column: str, several: bool):
        self.owner = owner
        self.column = column
        self.several = several
        self.data = owner.data.select_columns([name for name in owner.data.column_names if name in (column, FILE_ROW)])
        self.per_row = len(self.data[0][column]) if several else 1

    def __len__(self) -> int:
        return len(self.data) * self.per_row

    def __getitem__(self, index: int) -> dict:
        number, place = divmod(index, self.per_row)
        row = self.data[number]
        value = named(row[self.column], place_of(self.owner.source, row, number))
        return value[place] if self.several else value

    def fingerprint(self) -> str:
        """Return a digest that changes with the data, as `datasets` knows it, and with the image files that it only names."""
        values = self.data.data.column(self.column)
        values = compute.list_flatten(values) if self.several else values
        paths = compute.struct_field(values, "path").filter(compute.struct_field(values, "bytes").is_null())
        digest = xxhash.xxh3_64(f"{self.data._fingerprint} {self.column}".encode())
        for path in paths.to_pylist():
            # `datasets` itself has looked at others, such as those in archives.
            if path is not None and os.path.exists(path):
                status = os.stat(path)
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def hashes(self, start: int, stop: int) -> list[int]:
        """Return a number of 64 bits for each of the images from `start` on, by the bytes of its file; raise
        `ValueError` if a file cannot be read. The probability that two of 4 million images share a number is 4e-7."""
        found = []
        for index in range(start, stop):
            with readable(image := self[index]):
                found.append(xxhash.xxh3_64_intdigest(read_image(image)))
        return found

    def put_in_place(self, numbers: np.ndarray, cached: "CachedArrays") -> None:
        """Replace the images of the owner's table by the arrays of `numbers` (images,)."""
        rows = numbers.reshape(-1, self.per_row).tolist() if self.several else numbers
        # Not `map`, nor with the images at hand, which would be written anew.
        rest = self.owner.data.remove_columns(self.column)
        # A table without columns has no rows that others could be added to.
        table = rest.add_column(self.column, rows) if rest.column_names else Dataset.from_dict({self.column: rows})
        look_up = functools.partial(looked_up, cached=cached, column=self.column)
        self.owner.data = table.with_transform(look_up, columns=[self.column], output_all_columns=True)


def stored_images(rows: Any) -> Iterator[StoredImages]:
    """Yield the images of all tables that rows come from, as `Task.load` and `KeyedRows` put them together."""
    if isinstance(rows, ConcatDataset | MixedRows):
        for part in parts_of(rows):
            yield from stored_images(part)
    elif isinstance(rows.data, Dataset):
        for column, several in image_columns(rows.data.features):
            yield StoredImages(rows, column, several)
    else:
        yield from stored_images(rows.data)


@dataclass(frozen=True)
class CachedArrays:
    """
    The arrays in a folder, by number: those of the first file, then those of the second. `shards` have tensors `content`,
    such as `features` (N, P, width), float16, or `pixels` (N, 3, H, W), uint8, and `hashes` (N,), uint64; `starts` are the
    numbers of their first arrays. The files are mapped into memory, once in each process, and only the arrays that are asked
    for are read.
    """

    content: str
    shards: tuple[Path, ...]
    starts: tuple[int, ...]

    def __getitem__(self, number: int) -> np.ndarray:
        """Return the array of an image: features (P, width), float16, or `ReadyPixels` (3, H, W)."""
        shard = bisect_right(self.starts, number) - 1
        array = mapped(self.shards[shard], self.content)[number - self.starts[shard]].numpy()
        return array.view(ReadyPixels) if self.content == "pixels" else array


def read_shards(folder: Path, content: str = "features") -> tuple[CachedArrays, np.ndarray]:
    """Return the arrays in a folder, and the hashes (N,), uint64, of their images; raise `ValueError` if a file is damaged."""
    paths, hashes = sorted(folder.glob(f"{content}-*.safetensors")), [np.zeros(0, dtype=np.uint64)]
    for path in paths:
        try:
            with safe_open(path, "np") as file:
                hashes.append(file.get_tensor("hashes"))
        except SafetensorError as error:
            raise ValueError(
                f"{path}: a damaged file ({error}); delete it, and its {content} are made anew"
            ) from error
    starts = np.cumsum([len(part) for part in hashes])[:-1]
    return CachedArrays(content, tuple(paths), tuple(starts.tolist())), np.concatenate(hashes)


@functools.cache
def mapped(shard: Path, content: str = "features") -> torch.Tensor:
    """Return the arrays (N, ...) in a file, mapped into memory."""
    with safe_open(shard, "pt") as file:
        return file.get_tensor(content)


def looked_up(batch: dict[str, list], cached: CachedArrays, column: str) -> dict[str, list]:
    """Return a batch of a table with arrays for their numbers, or lists of them."""
    rows = batch[column]
    return {column: [[cached[n] for n in row] if isinstance(row, list) else cached[row] for row in rows]}
