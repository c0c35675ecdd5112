"""Which rows have the same image: those with the same path or the same bytes. And the rows that are held out, by image."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from pyarrow import compute
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .columns import column_of, flattened


#: Bytes of each file, from its middle, that are compared first.
SAMPLE = 256


def one_path_each(paths: Sequence[str | None]) -> list[str | None]:
    """Return paths with one name for each file, however a row writes it (`a.png`, `b/../a.png`) and whatever links lead to it:
    the first of its names in the order of the alphabet, so that it is the same wherever the files lie. Paths in archives
    stay."""
    names = [path if path is None or "::" in path or "://" in path else os.path.normpath(path) for path in paths]
    files = file_places(names)
    first = {}
    for name, file in zip(names, files, strict=True):
        if name is not None:
            first[file] = min(first.get(file, name), name)
    return [first.get(file) for file in files]


def file_places(names: Sequence[str | None]) -> list[str | None]:
    """Return where the links in paths lead to. There may be millions of paths, but few folders: each is followed once."""
    folders, places = {}, []
    for name in names:
        if name is None or "::" in name or "://" in name:
            places.append(name)
            continue
        folder, file = os.path.split(name)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = os.path.join(folders[folder], file)
        places.append(os.path.realpath(place) if os.path.islink(place) else place)
    return places


def same_images(images: pa.ChunkedArray) -> np.ndarray:
    """Return numbers (N,) that stored images share if they have the same bytes or, without bytes, if their paths lead to the
    same file."""
    by_path, by_bytes = {}, []
    keys = np.empty(len(images), dtype=np.int64)
    row = 0
    for chunk in images.chunks:
        contents, paths = chunk.field("bytes"), file_paths(chunk)
        for content, path in zip(contents, paths, strict=True):
            if content.is_valid:
                by_bytes.append((row, content.as_buffer()))
            else:
                keys[row] = by_path.setdefault(path, len(by_path))
            row += 1
    # Most images differ in a few bytes of their middle: only those that do not are read as a whole.
    samples = [sample_of(content) for _, content in by_bytes]
    counts, known = Counter(samples), {}
    for (number, content), sample in zip(by_bytes, samples, strict=True):
        key = (sample, xxhash.xxh3_128_digest(content)) if counts[sample] > 1 else sample
        keys[number] = len(by_path) + known.setdefault(key, len(known))
    return keys


def file_paths(images: pa.Array) -> list[str | None]:
    """Return where the files of stored images (N,) lie that have no bytes; `None` for the others."""
    alone = compute.is_null(images.field("bytes"))
    return file_places(compute.if_else(alone, images.field("path"), None).to_pylist())


def sample_of(content: pa.Buffer) -> bytes:
    """Return the length of a file and some bytes from its middle, as one digest."""
    middle = max(0, content.size // 2 - SAMPLE // 2)
    return xxhash.xxh3_128_digest(bytes(content[middle : middle + SAMPLE]) + content.size.to_bytes(8))


def held_out_rows(data: Dataset, columns: Sequence[str], held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the rows to train on and those that are held out, in order, so that no image is on both sides.

    Rows that share a value of one of `columns` (images, lists of images, ids, texts) are one group. The groups with the
    lowest digests are held out: `held_out` of them, or as a share if that is below 1, then at least one. The digest of a group is that of
    an image if it has one, so that data sets with the same images hold out the same, whatever ids they give them. That is a function
    of the data alone, whatever the order of its rows and the folder that it lies in. Raise `ValueError` if there are no more groups.
    """
    owners, digests, is_image = [], [], []
    for column in columns:
        values, rows = flattened(column_of(data, column))
        owners.append(rows[values.is_valid().to_numpy()])
        digests += digests_of(values := values.drop_null())
        is_image += [pa.types.is_struct(values.type)] * len(values)
    # The number of each value is its place in the order of the digests.
    distinct, numbers = np.unique(np.array(digests, dtype="S16"), return_inverse=True)
    edges = np.concatenate(owners), len(data) + numbers
    size = len(data) + len(distinct)
    _, groups = connected_components(coo_array((np.ones(len(numbers)), edges), shape=(size, size)), directed=False)
    of_row, of_value = groups[: len(data)], groups[len(data) :]
    # A group's first image, else its first value; rows without any value are groups of their own, after all others.
    of_images = np.isin(np.arange(len(distinct)), numbers[np.array(is_image, dtype=bool)])
    first, first_image = np.full((2, groups.max() + 1), len(distinct))
    np.minimum.at(first, of_value, np.arange(len(distinct)))
    np.minimum.at(first_image, of_value[of_images], np.flatnonzero(of_images))
    first = np.where(first_image < len(distinct), first_image, first)
    order = np.argsort(first, kind="stable")
    count = max(1, round(held_out * len(order))) if held_out < 1 else int(held_out)
    if count >= len(order):
        found = f"the {len(order)} groups of rows with the same {' or '.join(columns)} in {len(data)} rows of training data"
        raise ValueError(f"held_out: expected fewer than {found}, got {held_out:g}")
    is_held = np.isin(of_row, order[:count])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def digests_of(values: pa.ChunkedArray) -> list[bytes]:
    """Return a digest of each value; of an image, that of its bytes or, without bytes, of its path in the folder of all."""
    if not pa.types.is_struct(values.type):
        return [hashlib.md5(str(value).encode()).digest() for value in values.to_pylist()]
    paths = compute.struct_field(values, "path").to_pylist()
    contents = compute.struct_field(values, "bytes")
    paths = one_path_each([None if content.is_valid else path for path, content in zip(paths, contents, strict=True)])
    alone = [path for path, content in zip(paths, contents, strict=True) if not content.is_valid]
    # Where the folder lies is not the data's; the names of files in archives are not all in one.
    one_folder = len({os.path.isabs(path) for path in alone}) == 1
    folder = os.path.commonpath(alone) if one_folder else ""
    names = [
        path if content.is_valid or not folder else os.path.relpath(path, folder)
        for path, content in zip(paths, contents, strict=True)
    ]
    return [
        hashlib.md5(content.as_buffer() if content.is_valid else name.encode()).digest()
        for name, content in zip(names, contents, strict=True)
    ]
