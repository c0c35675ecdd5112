"""Opens data sets, in folders or on the Hub, and the user's own files, as tables with undecoded images."""

import re
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset

from ...hub import check_source
from ...modeling.encoders import at_revision
from .faults import Faults
from .image_paths import require_own_images
from .readers import without_split
from .schemas import image_columns
from .tables import read_json, read_separated


#: The readers of the user's tables, by the end of the file's name. Other files are read by builders of `datasets`.
TEXT_FILES = {".csv": read_separated, ".tsv": read_separated, ".json": read_json, ".jsonl": read_json}
BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}


def open_split(
    source: str, split: str, config: str | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """
    Return one split of a data set, with undecoded images; with `streaming`, its rows are read as they come.

    Args:
        source: A folder that `prepare_data.py` wrote (`<split>-*.parquet`), another folder that `load_dataset` reads
            (of Parquet files, of WebDataset's .tar files, of images with a metadata file), or a data set's name on the
            Hub, which may have a `config`, and a revision behind its name (`"org/name@v1"`).

    Raises:
        ValueError: If there is no such folder, data set or split, it cannot be read, or it names images that lie elsewhere. A
            user's own file may name any.
    """
    folder = Path(source)
    if folder.is_file():
        raise ValueError(f"{source}: a file, expected a folder or a data set on the Hub; name files with --train_file")
    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    if files:
        check_complete(folder, files)
        data = read(f"{source}: {split}-*.parquet", "parquet", data_files=files, streaming=streaming)
        return require_own_images(undecoded(data), source)
    if any(folder.glob("*-of-*.parquet")):
        fault = f"{source}: no {split}-*.parquet in this folder; prepare_data.py writes them"
        raise ValueError(f"{fault}{without_split(split)}")
    check_source("data set", source, kind="dataset")
    try:
        name, revision = at_revision(source)
        data = load_dataset(name, config, split=split, streaming=streaming, **revision)
    except Exception as error:
        fault = f"data set {source!r}, split {split!r}: neither a folder here nor a data set that loads from the Hub"
        if folder.is_dir():
            fault = f"{source}: no {split}-*.parquet in this folder, and nothing else that loads as {split!r}"
        raise ValueError(f"{fault} ({str(error).splitlines()[0]}){without_split(split)}") from error
    return require_own_images(undecoded(data), source)


def open_file(path: Path, faults: Faults) -> Dataset:
    """
    Return the user's own file or folder as one split, with undecoded images. Add lines that do not fit the others to
    `faults`. Raise `ValueError` if there is no such file or folder, or it cannot be read.

    Args:
        path: A file of one of `TEXT_FILES` or `BUILDERS`; or a folder of images, with a metadata file or a folder for
            each class, or of .parquet or .tar files.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        for suffix, builder in BUILDERS.items():
            if files := sorted(str(file) for file in path.glob(f"*{suffix}")):
                return require_own_images(undecoded(read(str(path), builder, data_files=files)), str(path))
        return require_own_images(undecoded(read(str(path), "imagefolder", data_dir=str(path))), str(path))
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if suffix in TEXT_FILES:
        return TEXT_FILES[suffix](path, faults)
    if suffix not in BUILDERS:
        expected = ", ".join([*TEXT_FILES, *BUILDERS])
        raise ValueError(
            f"{path}: expected a file that ends in {expected}, or a folder of images, .parquet or .tar files"
        )
    return undecoded(read(str(path), BUILDERS[suffix], data_files=[str(path)]))


def undecoded(data: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Return the data with images as {"bytes", "path"}: the collator, which knows the size it needs, decodes them."""
    if isinstance(data, IterableDataset):
        # One that does not know its columns decodes nothing.
        return data.decode(False) if data.features else data
    # Not `cast_column`, which writes lists of images anew. The data is the same; only how it is read changes.
    for name, several in list(image_columns(data.features)):
        feature = data.features[name]
        changes = {"feature": replace(feature.feature, decode=False)} if several else {"decode": False}
        data.info.features[name] = replace(feature, **changes)
    return data


def check_complete(folder: Path, files: list[str]) -> None:
    """Raise `ValueError` if some of the files `...-of-<total>.parquet` of a split are missing."""
    totals = {int(number[1]) for file in files if (number := re.search(r"-of-(\d+)\.parquet$", file))}
    if totals and totals != {len(files)}:
        raise ValueError(
            f"{folder}: {len(files)} files such as {Path(files[0]).name}, expected {' or '.join(map(str, sorted(totals)))}; prepare "
            "the data set again"
        )


def read(what: str, builder: str, **options) -> Dataset | IterableDataset:
    """Return all that a builder of `datasets` reads, as one split; raise `ValueError` if it fails."""
    try:
        return load_dataset(builder, split="train", **options)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{what} cannot be read ({str(cause).splitlines()[0]})") from error
