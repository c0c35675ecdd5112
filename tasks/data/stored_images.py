"""Makes images of what a table has for them: paths, URLs, or the bytes of their files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image, List, Value
from datasets.table import cast_array_to_feature
from pyarrow import compute

from .columns import check_values, column_of, entry_of, flattened, in_words, is_text, replace_column
from .downloading import Downloading, NoFile, is_url
from .faults import Faults
from .image_checks import ImageCheck, check_images
from .image_paths import fault_of_path, file_of, folders_of


#: Characters of a path that messages show.
LONGEST = 200


def store_images(
    data: Dataset,
    column: str,
    several: bool,
    faults: Faults,
    folder: str | Path | None,
    downloading: Downloading | None,
    max_pixels: int,
    check: ImageCheck,
    inside: bool,
) -> Dataset:
    """
    Return the data with undecoded images, or with `several` lists of them, in a column of such, of the bytes of
    files, or of paths and URLs. Add to `faults` the rows whose file is missing, cannot be fetched or cannot be decoded.

    Args:
        folder: Where relative paths start from; `None` if the images may not be paths.
        downloading: Fetches URLs; `None` if the user did not ask for it.
        max_pixels: Largest number of pixels of an image that is fetched or decoded.
        check: How far each image is looked at, to be sure of it.
        inside: Whether paths must lie inside of `folder`.
    """
    feature = data.features[column]
    kind = entry_of(feature)
    allowed = folder is not None or downloading is not None
    if not holds_images(kind) or several != isinstance(feature, List) or (is_text(kind) and not allowed):
        expected = "lists of images" if several else "images"
        advice = "; paths are read only in files and folders of your own" if is_text(kind) and not allowed else ""
        faults.add(f"expected {expected} in {faults.called(column)}, found {in_words(feature)}{advice}")
        return data
    check_values(data, column, faults)
    if not isinstance(kind, Image):
        stored = List(Image(decode=False)) if several else Image(decode=False)
        chunks = [cast_array_to_feature(chunk, stored) for chunk in column_of(data, column).chunks]
        data = replace_column(data, column, pa.chunked_array(chunks), stored)
    without_file = set()
    if allowed:
        plain = not isinstance(kind, Image)
        data, without_file = with_files(data, column, plain, faults, folder, downloading, max_pixels, inside)
    check_images(data, column, without_file, faults, max_pixels, check)
    return data


def holds_images(kind: object) -> bool:
    """Return whether a column of this type can hold images: as such, as records of bytes and path, as bytes, as paths."""
    if isinstance(kind, dict):
        return kind.keys() <= {"bytes", "path"}
    return isinstance(kind, Image) or is_text(kind) or (isinstance(kind, Value) and "binary" in kind.dtype)


def with_files(
    data: Dataset,
    column: str,
    plain: bool,
    faults: Faults,
    folder: str | Path | None,
    downloading: Downloading | None,
    max_pixels: int,
    inside: bool,
) -> tuple[Dataset, set[int]]:
    """
    Return the data with whole paths in a column of images, those of fetched files for URLs, and the numbers of the images
    without a file, whose rows are added to `faults`. Unless paths are `plain`, they may be those of files in archives.
    """
    images, owners = flattened(column_of(data, column))
    alone = compute.struct_field(images, "bytes").is_null().to_numpy() & images.is_valid().to_numpy()
    numbers = np.flatnonzero(alone).tolist()
    if not numbers:
        return data, set()
    paths = compute.struct_field(images, "path").to_pylist()
    named = {paths[number] for number in numbers}
    folders = folders_of(folder) if inside and folder is not None else None
    found = {path: local_file(path, plain, folder, folders) for path in named if not is_url(path)}
    found |= fetch(sorted(path for path in named if is_url(path)), downloading, max_pixels)
    without_file = set()
    places = np.arange(len(owners)) - np.searchsorted(owners, owners)
    for number in numbers:
        file = found[paths[number]]
        if isinstance(file, NoFile):
            message = f"{file.message} ({faults.called(column, int(places[number]))})"
            faults.add_row(f"{column} {file.reason}", int(owners[number]), message)
            without_file.add(number)
        else:
            paths[number] = file
    return with_paths(data, column, pa.array(paths, pa.string())), without_file


def local_file(
    path: str | None, plain: bool, folder: str | Path | None, folders: Sequence[str] | None
) -> str | NoFile:
    """Return the whole path of an image file, or what is wrong with it; with `folders`, it must lie in one of them."""
    if not path:
        return NoFile("blank", "the path of the image is blank")
    if "://" in path:
        if plain:
            return NoFile("protocol", f"expected a path of a file, or a URL with http, got {path}")
        # What `datasets` makes of files in an archive is no plain path.
        return NoFile("protocol", fault) if (fault := fault_of_path(path, None)) else path
    if folder is None:
        return path if not plain else NoFile("local", f"expected a URL, for this data is not here, got {path}")
    found = file_of(folder, path)
    if found:
        fault = fault_of_path(found, folders) if folders else None
        return NoFile("outside", fault) if fault else found
    # A text that is no path may be long.
    shown = path if len(path) <= LONGEST else f"{path[:LONGEST]}..."
    return NoFile("missing", f"no image file {Path(folder) / shown}")


def fetch(urls: Sequence[str], downloading: Downloading | None, max_pixels: int) -> dict[str, str | NoFile]:
    """Return for each URL the file that it was fetched to, or what is wrong."""
    if downloading is None:
        return {url: NoFile("web", f"an image on the web, {url}; --download_images fetches them") for url in urls}
    return downloading.fetch(urls, max_pixels) if urls else {}


def with_paths(data: Dataset, column: str, paths: pa.Array) -> Dataset:
    """Return the data with other paths of the images in a column, in the order of its rows and lists."""
    chunks, start = [], 0
    for chunk in column_of(data, column).chunks:
        several = pa.types.is_list(chunk.type)
        images = chunk.flatten() if several else chunk
        own = paths[start : start + len(images)]
        start += len(images)
        stored = pa.StructArray.from_arrays([images.field("bytes"), own], ["bytes", "path"], mask=images.is_null())
        if several:
            lengths = compute.fill_null(compute.list_value_length(chunk), 0).to_numpy()
            offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
            stored = pa.ListArray.from_arrays(offsets, stored, mask=chunk.is_null())
        chunks.append(stored)
    return replace_column(data, column, pa.chunked_array(chunks), data.features[column])
