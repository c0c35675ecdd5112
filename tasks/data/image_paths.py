"""Where the images of a data set may lie: a row of a stranger's data must not name any file of this machine."""

import os
import unicodedata
from collections.abc import Iterator, Sequence

import datasets
from datasets import Dataset, Features, IterableDataset
from huggingface_hub import constants
from pyarrow import compute

from ...processing.image_files import fault_of_protocol, local_place
from .schemas import image_columns


def folders_of(source: str | os.PathLike) -> list[str]:
    """Return the folders that a data set may name images in: its own, if it is a folder, and the caches of what was
    downloaded."""
    own = [source] if os.path.isdir(source) else []
    found = [*own, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]
    return [path for folder in found for path in dict.fromkeys([os.path.abspath(folder), os.path.realpath(folder)])]


def file_of(folder: str | os.PathLike, path: str) -> str | None:
    """
    Return the whole path of the file that a table names, whose relative paths start from `folder`; `None` if there is none. A
    file that is not there as written is looked for without spaces around its path, with slashes for the backslashes of
    Windows, and in both normal forms of Unicode: macOS writes é in another way than other systems.
    """
    plain = path.strip()
    for name in (path, plain, plain.replace("\\", "/")):
        for own in (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))):
            # Not of `Path`, whose method fails for long texts.
            if os.path.isfile(place := os.path.join(folder, own)):
                return place
    return None


def lies_in(path: str, folders: Sequence[str]) -> bool:
    """Return whether a file, or the archive it is in, lies in one of the folders or is not local. No link is followed."""
    place = local_place(path)
    if place is None:
        return True
    place = os.path.abspath(place)
    return any(place.startswith(os.path.join(folder, "")) for folder in folders)


def fault_of_path(path: str, folders: Sequence[str] | None) -> str | None:
    """Return why a data set may not name an image by this path, or `None`; with `folders`, it must lie in one of them."""
    if fault := fault_of_protocol(path):
        return f"the image {fault}"
    if folders is None or lies_in(path, folders):
        return None
    return f"the image {path} lies outside of the data set; only a file of your own may name images anywhere"


def require_own_images(data: Dataset | IterableDataset, source: str) -> Dataset | IterableDataset:
    """
    Return the data as it is; raise `ValueError`, naming the first such row, if an image is a path of a protocol that is not
    read, or one that leads out of the data set: a stranger's rows could name any file of this machine. Rows of a stream are
    checked as they come.
    """
    if isinstance(data, IterableDataset):
        return data
    folders = folders_of(source)
    for column, several in image_columns(data.features):
        values = data.data.column(column)
        owners = compute.list_parent_indices(values) if several else None
        values = compute.list_flatten(values) if several else values
        paths = compute.struct_field(values, "path")
        named = compute.and_(compute.struct_field(values, "bytes").is_null(), paths.is_valid())
        seen = set()
        for place, path in zip(
            compute.indices_nonzero(named).to_pylist(), paths.filter(named).to_pylist(), strict=True
        ):
            # There may be millions of paths, but few folders.
            if (folder := os.path.dirname(path)) in seen:
                continue
            if fault := fault_of_path(path, folders):
                raise ValueError(f"{source}, row {owners[place] if several else place}: {fault}")
            seen.add(folder)
    return data


def paths_of(row: dict, features: Features) -> Iterator[str]:
    """Yield the paths of the images of a row that have no bytes."""
    for column, several in image_columns(features):
        for image in row[column] if several else [row[column]]:
            if image["bytes"] is None:
                yield image["path"]
