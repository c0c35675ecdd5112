"""Opens data sets, in folders or on the Hub, and the user's own files, as tables with undecoded images."""

import re
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset

from ...hub import check_source
from ...modeling.encoders import at_revision
from .bad_rows import BadRows
from .faults import Faults
from .image_folders import list_files, read_image_folder
from .image_paths import require_own_images
from .own_splits import files_of_split, tars_in
from .parquet_files import read_parquet
from .readers import without_split
from .schemas import image_columns
from .split_names import split_folders, split_of_words
from .tables import TEXT_FILES
from .web_tables import read_own_tars


#: The ends of the names of files that are read as they are or, several of them, as a folder.
FOLDERS_OF = (".parquet", ".tar")

#: Parts of a folder of images that is streamed, at most: processes and loader processes share them out.
SHARDS = 256


def open_split(
    source: str,
    split: str,
    config: str | None = None,
    streaming: bool = False,
    faults: Faults | None = None,
    bad_rows: BadRows | None = None,
) -> Dataset | IterableDataset:
    """
    Return one split of a data set, with undecoded images; with `streaming`, its rows are read as they come.

    Args:
        source: A folder that `renaissance prepare` wrote (`<split>-*.parquet`), a folder of images, .tar files or tables (see
            `files_of_split`), another folder that `load_dataset` reads, or a data set's name on the Hub, which may have a
            `config`, and a revision behind its name (`"org/name@v1"`).
        faults: Gets the rows of folders of images, .tar files or tables that cannot be read.
        bad_rows: Without `faults`, says what becomes of such rows; an error by default.

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
        fault = f"{source}: no {split}-*.parquet in this folder; `renaissance prepare` writes them"
        raise ValueError(f"{fault}{without_split(split)}")
    if folder.is_dir() and (found := files_of_split(folder, split)):
        own = faults or Faults(f"{source}, split {split!r}")
        is_tar = found[0].suffix.lower() == ".tar"
        data = read_own_tars(list(map(str, found)), own) if is_tar else open_file(found[0], own)
        data = require_own_images(data, source)
        if faults is None:
            data = (bad_rows or BadRows()).leave_out(data, own)
        return data.to_iterable_dataset(min(len(data), SHARDS)) if streaming else data
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
        path: A file of one of `TEXT_FILES` or `FOLDERS_OF`; or a folder of images (see `read_image_folder`), or of .parquet
            or .tar files.
    """
    if path.is_dir():
        if tars := tars_in(list_files(path)):
            files, kind = [str(path / name) for name in tars], ".tar"
        elif files := parquet_files(path):
            kind = ".parquet"
        else:
            return read_image_folder(path, faults)
        check_one_split(path, files)
        return require_own_images(read_files(str(path), kind, files, faults), str(path))
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix in TEXT_FILES:
        return TEXT_FILES[suffix](path, faults)
    if suffix not in FOLDERS_OF:
        expected = ", ".join([*TEXT_FILES, *FOLDERS_OF])
        raise ValueError(
            f"{path}: expected a file that ends in {expected}, or a folder of images, .parquet or .tar files"
        )
    return read_files(str(path), suffix, [str(path)], faults)


def read_files(what: str, suffix: str, files: list[str], faults: Faults) -> Dataset:
    """Return the rows of .parquet or .tar files, with undecoded images; `what` is their name in messages."""
    if suffix == ".tar":
        return read_own_tars(files, faults)
    return undecoded(read_parquet(what, files, faults))


def parquet_files(folder: Path) -> list[str]:
    """Return the .parquet files of a folder, in order, that are neither hidden nor metadata of images."""
    found = [path for path in folder.iterdir() if path.suffix.lower() == ".parquet" and path.is_file()]
    return sorted(str(path) for path in found if not path.name.startswith(".") and path.stem.lower() != "metadata")


def check_one_split(folder: Path, files: list[str]) -> None:
    """Raise `ValueError` if the files of a folder are those of several splits, as of a prepared data set, or some are missing."""
    prepared = [file for file in files if re.search(r"-of-\d+\.", file)]
    splits = {re.sub(r"-\d+-of-\d+\.\w+$", "", Path(file).name) for file in prepared}
    if len(splits) < 2:
        names = [Path(file).relative_to(folder).as_posix() for file in files]
        splits = set(split_folders(names)) or {own for name in names if (own := split_of_words(Path(name).stem))}
    if len(splits) > 1:
        advice = "name the data set (--dataset, in pretraining --train_datasets), or one file of it"
        raise ValueError(f"{folder}: its files are of several splits ({', '.join(sorted(splits))}); {advice}")
    check_complete(folder, prepared)


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
