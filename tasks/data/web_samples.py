"""Samples of WebDataset's .tar files: members that follow each other and share a name up to its first point."""

import logging
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
from datasets import load_dataset_builder
from datasets.packaged_modules.webdataset.webdataset import WebDataset


logger = logging.getLogger(__name__)

#: Endings that stand for each other in the column of images: one file of many has photos of several formats.
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
#: The errors of files that are no archives, or break off.
DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


def tar_files(name: str, split: str) -> list[str] | None:
    """Return the .tar files of a split of a data set, a folder, a name on the Hub or one such file; `None` if it is in
    another layout, or cannot be opened."""
    if Path(name).is_file():
        return [name] if name.endswith(".tar") else None
    # Prepared folders are many, and looking into each file of one takes time.
    if any(Path(name).glob("*.parquet")):
        return None
    try:
        builder = load_dataset_builder(name)
    # `open_split`, which comes next, says what is wrong.
    except Exception:
        return None
    files = (builder.config.data_files or {}).get(split) if isinstance(builder, WebDataset) else None
    return list(files) if files else None


def read_tars(paths: list[str], columns: Mapping[str, str]) -> Iterator[dict]:
    """
    Yield the samples of .tar files. `columns` are the endings of the members for `image`, `captions` and `image_id` (of
    which `__key__` is the sample's name), whatever their case; an image may have any of `IMAGE_SUFFIXES`.

    A row has `image` (as {"bytes", "path"}), `captions`, `image_id` (`None` if there is no such member), `name`, of the
    sample and its file, for messages, and `fault`, why it cannot be used, or `None`. A file that breaks off is a row with a
    fault: samples before the break are read.
    """
    for path in paths:
        try:
            for key, members in samples_of(path):
                yield row_of(key, members, columns, posixpath.basename(path))
        except DAMAGE as error:
            yield {"image": None, "captions": None, "image_id": None, "name": path, "fault": f"damaged file ({error})"}


def samples_of(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a .tar file: their names, and the contents of their members by ending, in lower case."""
    key, members = None, {}
    # A path of the user's own may look like a protocol.
    system, path = (fsspec.filesystem("file"), path) if Path(path).is_file() else fsspec.url_to_fs(path)
    with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            folder, base = posixpath.split(member.name)
            # macOS puts files like ._1.jpg beside each file.
            if not member.isreg() or base.startswith((".", "__")):
                continue
            stem, _, ending = base.partition(".")
            own, ending = posixpath.join(folder, stem), ending.lower()
            # A second member of the same ending is of another sample, of the same name.
            if members and (own != key or ending in members):
                yield key, members
                members = {}
            key = own
            members[ending] = archive.extractfile(member).read()
    if members:
        yield key, members


def first_samples(paths: list[str]) -> Iterator[dict[str, bytes]]:
    """Yield the members of the samples of .tar files that can be read."""
    for path in paths:
        try:
            for _, members in samples_of(path):
                yield members
        except DAMAGE:
            continue


def row_of(key: str, members: Mapping[str, bytes], columns: Mapping[str, str], file: str) -> dict:
    """Return the row of a sample (see `read_tars`)."""
    row = {"image": None, "captions": None, "image_id": None, "name": f"{key} of {file}", "fault": None}
    endings = {name: ending_of(column, members, name == "image") for name, column in columns.items()}
    if missing := [name for name in ("image", "captions") if endings[name] is None]:
        found = ", ".join(members)
        return row | {"fault": f"no member {columns[missing[0]]} ({found})"}
    path = f"{key}.{endings['image']}"
    row["image"] = {"bytes": members[endings["image"]], "path": path}
    try:
        row["captions"] = members[endings["captions"]].decode("utf-8-sig")
        if columns.get("image_id") == "__key__":
            row["image_id"] = key
        elif endings.get("image_id"):
            row["image_id"] = members[endings["image_id"]].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return row | {"fault": f"text that is not UTF-8 (byte 0x{error.object[error.start]:02x})"}
    return row


def ending_of(column: str, members: Mapping[str, bytes], is_image: bool) -> str | None:
    """Return the ending of a column's member in a sample; `None` if it has none."""
    column = column.lower()
    if column in members:
        return column
    prefix, point, suffix = column.rpartition(".")
    if is_image and suffix in IMAGE_SUFFIXES:
        return next(
            (f"{prefix}{point}{other}" for other in IMAGE_SUFFIXES if f"{prefix}{point}{other}" in members), None
        )
    return None
