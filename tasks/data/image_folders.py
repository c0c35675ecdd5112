"""Reads the user's own folders of images: with metadata files, with a folder for each class, or images alone."""

import logging
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets

from ...processing.decoding import FORMATS, image_endings
from .columns import column_of, entry_of, in_words, is_text, json_list
from .downloading import is_url
from .faults import SHOWN, Faults
from .image_paths import file_of, lies_in
from .parquet_files import read_parquet
from .split_names import split_folders
from .tables import TEXT_FILES


logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """The files of a folder and of those below it, as sorted paths from the folder on. Hidden files are in none."""

    folder: Path
    images: list[str]
    metadata: list[str]
    others: list[str]


def read_image_folder(folder: Path, faults: Faults) -> Dataset:
    """
    Return a folder of images as a table with undecoded images and, as `file_name`, their paths from the folder on.

    With files `metadata.csv` (or .tsv, .jsonl, .json, .parquet), its rows are theirs: `file_name` also becomes
    `image`, `left_file_name` becomes `left`, and lists in `file_names` and `left_file_names` become `images` and
    `left`. Without, each image is a row, and its folder is its `label` if there are several and all are equally deep.

    Add the rows that cannot be used to `faults`. Log which files are left out. Raise `ValueError` if there is no image,
    nothing says which images are meant, or there is a folder for each of several splits.
    """
    files = list_files(folder)
    if files.others:
        what = "files that are neither images nor metadata"
        logger.warning(f"{folder}: left out {len(files.others)} {what}: {shown(files.others)}")
    folders = folders_of_splits(files)
    # Without metadata, folders that hold images themselves are classes, whatever they are called.
    if len(folders) > 1 and (files.metadata or split_folders([name.rpartition("/")[0] for name in files.images])):
        raise ValueError(
            f"{folder}: a folder for each split ({', '.join(sorted(folders))}), expected one split; name its folder, such "
            f"as {folder / min(folders)}, or the data set (--dataset, in pretraining --train_datasets)"
        )
    if files.metadata:
        return read_metadata(files, faults)
    if not files.images:
        expected = f"image files ({', '.join(FORMATS)}), .parquet or .tar files"
        found = f"only {shown(files.others)}; unpack archives first" if files.others else "nothing"
        raise ValueError(f"{folder}: expected a folder of {expected}, found {found}")
    return read_images(files)


def list_files(folder: Path) -> Listing:
    """Return the files of a folder. Links are followed. Raise `ValueError` if a name is not UTF-8, for tables cannot hold it."""
    found = Listing(folder, [], [], [])
    for name in sorted(walk(folder), key=lambda name: name.split("/")):
        stem, ending = os.path.splitext(name.rpartition("/")[2].lower())
        if not name.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in name):
            raise ValueError(f"{folder}: the name of the file {name!a} is not UTF-8; rename it")
        if stem == "metadata" and ending in (*TEXT_FILES, ".parquet"):
            found.metadata.append(name)
        else:
            (found.images if ending[1:] in image_endings() else found.others).append(name)
    return found


def folders_of_splits(files: Listing) -> dict[str, str]:
    """Return the split of each folder if folders part the images into splits, and no metadata file lies beside them; else
    nothing."""
    folders = split_folders(files.images)
    own = [any(name.startswith(f"{folder}/") for folder in folders) for name in files.metadata]
    return folders if all(own) else {}


def walk(folder: Path) -> Iterator[str]:
    """Yield the paths of all files from the folder on that are not hidden, each once even if links lead in a circle."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        # Folders such as __MACOSX hold no data either.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        beginning = Path(place).relative_to(folder)
        yield from ((beginning / name).as_posix() for name in names if not name.startswith("."))


def read_images(files: Listing) -> Dataset:
    """Return a row for each image, with a label if folders are classes."""
    parents = [name.split("/")[:-1] for name in files.images]
    images, kind = image_column(files.folder, [[name] for name in files.images], several=False)
    columns = {"image": images, "file_name": pa.array(files.images, pa.string())}
    features = {"image": kind, "file_name": Value("string")}
    # Of the two normal forms of Unicode, in which a name may be written, one.
    owners = [unicodedata.normalize("NFC", parts[-1]) if parts else "" for parts in parents]
    classes = sorted({name for name in owners if name})
    if len(classes) > 1 and len({len(parts) for parts in parents}) == 1:
        numbers = {name: number for number, name in enumerate(classes)}
        columns["label"] = pa.array([numbers[name] for name in owners], pa.int64())
        features["label"] = ClassLabel(names=classes)
    elif len(classes) > 1:
        logger.warning(f"{files.folder}: its folders are no classes, for images lie at several depths")
    # The schema says which column has images, and the names of the classes.
    return Dataset(pa.table(columns, schema=Features(features).arrow_schema))


def read_metadata(files: Listing, faults: Faults) -> Dataset:
    """Return the rows of the metadata files of a folder, in the order of their paths. Rows are counted through all of them."""
    folders = [name.rpartition("/")[0] for name in files.metadata]
    if repeated := sorted({name for name in folders if folders.count(name) > 1}):
        found = [name for name, own in zip(files.metadata, folders, strict=True) if own == repeated[0]]
        raise ValueError(f"{files.folder}: several metadata files, {', '.join(found)}; expected one in a folder")
    tables, listed = [], set()
    for name in files.metadata:
        own = Faults(f"{files.folder / name}")
        path = files.folder / name
        read = TEXT_FILES.get(path.suffix.lower())
        data = read(path, own) if read else read_parquet(str(path), [str(path)], own)
        data = with_images(data, files, name, own, listed)
        faults.add_all(own, sum(map(len, tables)), name if len(files.metadata) > 1 else None)
        tables.append(data)
    if unlisted := [name for name in files.images if name not in listed]:
        where = "the metadata file does not list" if len(tables) == 1 else "no metadata file lists"
        counts = f"left out {len(unlisted)} of {len(files.images)} images, which {where}"
        logger.warning(f"{files.folder}: {counts}: {shown(unlisted)}")
    try:
        return concatenate_datasets(tables)
    except ValueError as error:
        what = f"the metadata files {', '.join(files.metadata)} have columns of different types"
        raise ValueError(f"{files.folder}: {what} ({str(error).splitlines()[0]})") from error


def with_images(data: Dataset, files: Listing, metadata: str, faults: Faults, listed: set[str]) -> Dataset:
    """
    Return the rows of a metadata file with columns of images for those of paths, which start from its folder; add the
    images to `listed`. Add to `faults` the rows with a path that leads out of the folder of images. Raise `ValueError` if
    no column has paths.
    """
    path, beginning = files.folder / metadata, metadata.rpartition("/")[0]
    named = {name: new for name in data.column_names if (new := column_of_images(name))}
    if not named:
        broken = [fault for name, fault in faults.unreadable_columns.items() if column_of_images(name)]
        missing = f"no column file_name, left_file_name or such, only {', '.join(data.column_names)}"
        raise ValueError(f"{path}: {broken[0] if broken else missing}; expected the paths of images there")
    for name, new in named.items():
        if new in data.column_names:
            raise ValueError(f"{path}: column {name!r} becomes {new!r}, which is there too; rename one of them")
        several = name.endswith("file_names")
        rows = [
            [placed(value, files.folder, beginning, name, row, faults) for value in values]
            for row, values in enumerate(paths_in(data, name, several, path, faults))
        ]
        listed.update(value for values in rows for value in values if value)
        images, kind = image_column(files.folder, rows, several)
        data = data.add_column(new, images, feature=kind).remove_columns(name)
        if name == "file_name":
            data = data.add_column(name, pa.array([values[0] for values in rows], pa.string()))
    return data


def column_of_images(name: str) -> str | None:
    """Return the column of images that a column of paths becomes; `None` if it is not called like one."""
    if name in ("file_name", "file_names"):
        return "image" if name == "file_name" else "images"
    return next((name.removesuffix(end) for end in ("_file_name", "_file_names") if name.endswith(end)), "") or None


def paths_in(data: Dataset, name: str, several: bool, path: Path, faults: Faults) -> list[list[str | None]]:
    """Return the paths of each row: one or, with `several`, a list, in JSON if the column is text. Add the rows without a
    list to `faults`. Raise `ValueError` if the column has something else."""
    feature, cells = data.features[name], column_of(data, name).to_pylist()
    if not is_text(entry_of(feature)) or (isinstance(feature, List) and not several):
        expected = "lists of paths" if several else "paths"
        raise ValueError(f"{path}: expected {expected} in column {name!r}, found {in_words(feature)}")
    if not several:
        return [[cell] for cell in cells]
    lists = [json_list(cell) if isinstance(cell, str) else cell for cell in cells]
    for row, (cell, values) in enumerate(zip(cells, lists, strict=True)):
        if values is None or not all(isinstance(value, str) for value in values):
            faults.add_unreadable(name, row, f"expected a list of paths in column {name!r}, got {cell!r:.60}")
            lists[row] = []
    return lists


def placed(value: str | None, folder: Path, beginning: str, name: str, row: int, faults: Faults) -> str | None:
    """Return a path as it is from the folder on; a URL, a blank path and `None` as they are. Add the row to `faults` if the
    path leads out of the folder."""
    if not value or is_url(value):
        return value
    start = os.path.join(folder, beginning)
    place = file_of(start, value) or os.path.join(start, value)
    place = os.path.abspath(place)
    inside = next((own for own in (os.path.abspath(folder), os.path.realpath(folder)) if lies_in(place, [own])), None)
    if "://" in value or inside is None:
        faults.add_unreadable(name, row, f"expected a path inside the folder in column {name!r}, got {value:.200}")
        return None
    return Path(os.path.relpath(place, inside)).as_posix()


def image_column(folder: Path, rows: list[list[str | None]], several: bool) -> tuple[pa.Array, Image | List]:
    """Return a column of undecoded images, or of lists of them, and its type; `rows` has the paths from the folder on."""
    kind = List(Image(decode=False)) if several else Image(decode=False)
    images = [[stored(folder, value) for value in values] for values in rows]
    values = images if several else [own[0] for own in images]
    return pa.array(values, Features({"image": kind}).arrow_schema.field("image").type), kind


def stored(folder: Path, value: str | None) -> dict | None:
    """Return an undecoded image for a path from the folder on; a URL and a blank path are its path as they are."""
    if value is None:
        return None
    return {
        "bytes": None,
        "path": os.path.join(os.path.abspath(folder), value) if value and not is_url(value) else value,
    }


def shown(names: list[str]) -> str:
    """Return the first of some files for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
