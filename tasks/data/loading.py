"""Opens prepared data sets, in folders or on the Hub, and checks their columns."""

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, Image, IterableDataset, List, Value, load_dataset
from pyarrow import compute

from .image_paths import require_own_images
from .readers import without_split
from .schemas import image_columns


#: The builder of `datasets` that reads each kind of file.
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


def open_split(
    source: str, split: str, config: str | None = None, is_file: bool = False, streaming: bool = False
) -> Dataset | IterableDataset:
    """
    Return one split of a data set, with undecoded images; with `streaming`, its rows are read as they come.

    Args:
        source: A folder that `prepare_data.py` wrote (`<split>-*.parquet`), another folder that `load_dataset` reads
            (of Parquet files, of WebDataset's .tar files, of images with a metadata file), a data set's name on the
            Hub, which may have a `config`, or, with `is_file`, the split itself: a user's file or folder of images.

    Raises:
        ValueError: If there is no such file, folder, data set or split, it cannot be read, or a data set names images that
            lie elsewhere. A user's own file may name any.
    """
    if is_file:
        return require_own_images(undecoded(open_file(Path(source))), source, anywhere=Path(source).is_file())
    folder = Path(source)
    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    if files:
        check_complete(folder, files)
        data = read(f"{source}: {split}-*.parquet", "parquet", data_files=files, streaming=streaming)
        return require_own_images(undecoded(data), source)
    if any(folder.glob("*-of-*.parquet")):
        fault = f"{source}: no {split}-*.parquet in this folder; prepare_data.py writes them"
        raise ValueError(f"{fault}{without_split(split)}")
    try:
        data = load_dataset(source, config, split=split, streaming=streaming)
    except Exception as error:
        fault = f"data set {source!r}, split {split!r}: neither a folder here nor a data set that loads from the Hub"
        if folder.is_dir():
            fault = f"{source}: no {split}-*.parquet in this folder, and nothing else that loads as {split!r}"
        raise ValueError(f"{fault} ({str(error).splitlines()[0]}){without_split(split)}") from error
    return require_own_images(undecoded(data), source)


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


def open_file(path: Path) -> Dataset:
    """Return the user's own file, or folder of images, as one split; raise `ValueError` if it cannot be read."""
    if path.is_dir():
        return read(str(path), "imagefolder", data_dir=str(path))
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    if path.suffix not in READERS:
        raise ValueError(f"{path}: expected a folder of images or a file that ends in {', '.join(READERS)}")
    is_tsv = path.suffix == ".tsv"
    data = read(str(path), READERS[path.suffix], data_files=[str(path)], **({"sep": "\t"} if is_tsv else {}))
    # If the first row has more fields than the header has names, pandas takes the first ones of all rows for an index,
    # and each name is at another column: a text with a comma in it would lose its beginning.
    if nameless := sum(name.startswith("__index_level_") for name in data.column_names):
        names = len(data.column_names) - nameless
        raise ValueError(
            f"{path}, row 0: {nameless} fields more than the {names} names in the first line; write a text that has "
            "the separator in it in quotation marks"
        )
    # A quotation mark that is not closed in its field joins it with those up to the next mark, even of other lines.
    for name in (name for name, feature in data.features.items() if is_tsv and is_text(feature)):
        row = compute.index(compute.match_substring(data.data.column(name), "\t"), True).as_py()
        if row >= 0:
            raise ValueError(
                f"{path}, row {row}: column {name!r} goes on over a tab, after a quotation mark that is not closed; "
                "write such a field in quotation marks, and double those inside it"
            )
    return data


def entry_of(feature: object) -> object:
    """Return the type of the entries of a column's lists, or of the column if it has none."""
    return feature.feature if isinstance(feature, List) else feature


def is_text(feature: object) -> bool:
    """Return whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def read(what: str, builder: str, **options) -> Dataset:
    """Return all that a builder of `datasets` reads, as one split; raise `ValueError` if it fails."""
    try:
        return load_dataset(builder, split="train", **options)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{what} cannot be read ({str(cause).splitlines()[0]})") from error


def with_own_names(data: Dataset, columns: dict[str, str], optional: tuple[str, ...], source: str) -> Dataset:
    """Return the `columns` that a task uses, renamed: the task's names, each with the name that the data has for it.
    Raise `ValueError`, with the name of the split, if a column is missing that is not one of the `optional` ones."""
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"{source}: one column is named for two purposes: {columns}")
    require_columns([own for name, own in columns.items() if name not in optional], data.column_names, source)
    present = {name: own for name, own in columns.items() if own in data.column_names}
    renamed = {own: name for name, own in present.items() if own != name}
    return data.select_columns(list(present.values())).rename_columns(renamed)


def require_columns(names: Iterable[str], present: Collection[str], source: str) -> None:
    """Raise `ValueError`, with the name of the split for messages, if not all of the columns are present."""
    if missing := [name for name in names if name not in present]:
        raise ValueError(
            f"{source}: no column {', '.join(missing)}, only {', '.join(present)}; name yours with --*_column"
        )


def load_split(source: str, split: str, columns: dict[str, str], optional: tuple[str, ...] = ()) -> Dataset:
    """Return `with_own_names` of `open_split`."""
    return with_own_names(open_split(source, split), columns, optional, f"{source}, split {split!r}")


def require_features(
    data: Dataset, features: dict[str, object], source: str, folder: str | Path | None = None
) -> Dataset:
    """Return the data with columns of the types in `features`, those that it has, and with images for paths, which
    start from `folder`, if there is one. Raise `ValueError`, with the name of the split and the first such row, if a
    column is something else, a value is null, text is blank or a file is missing."""
    for name, feature in features.items():
        if name not in data.column_names:
            continue
        if isinstance(entry_of(feature), Image):
            if folder is not None:
                data = with_images(data, name, source, Path(folder))
            require_images(data, name, source, isinstance(feature, List))
        elif is_text(entry_of(feature)):
            require_text(data, name, source)
        else:
            require_values(data, name, source)
    return data


def with_images(data: Dataset, column: str, source: str, folder: Path) -> Dataset:
    """Return the data with images in `column` for paths, or lists of them; raise `ValueError` if a file is missing."""
    feature = data.features[column]
    if not is_text(entry_of(feature)):
        return data
    several, rows = isinstance(feature, List), []
    for row, value in enumerate(data[column]):
        paths = [str(folder / path) for path in (value if several else [value])]
        missing = next((path for path in paths if not Path(path).is_file()), None)
        if missing:
            raise ValueError(f"{source}, row {row}: no image file {missing}; image_folder says where paths start from")
        rows.append(paths if several else paths[0])
    images = List(Image(decode=False)) if several else Image(decode=False)
    return data.remove_columns(column).add_column(column, rows).cast_column(column, images)


def require_images(data: Dataset, column: str, source: str, several: bool) -> None:
    """Raise `ValueError` if `column` does not have an image, or, with `several`, a list of images, in every row."""
    if dict(image_columns(data.features)).get(column) != several:
        expected = "lists of images" if several else "images"
        raise ValueError(f"{source}: expected {expected} in column {column!r}, found {data.features[column]}")
    require_values(data, column, source)


def require_text(data: Dataset, column: str, source: str) -> None:
    """Raise `ValueError` if `column` does not have a string, or a list of strings, in every row."""
    feature = data.features[column]
    if not is_text(entry_of(feature)):
        raise ValueError(f"{source}: expected text in column {column!r}, found {feature}")
    require_values(data, column, source)
    values = data.data.column(column)
    if isinstance(feature, List):
        values = compute.list_flatten(values)
    blank = compute.index(compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(values)), 0), True).as_py()
    if blank >= 0:
        owner = compute.list_parent_indices(data.data.column(column))[blank] if len(values) != len(data) else blank
        raise ValueError(f"{source}, row {owner}: the text in column {column!r} is blank")


def require_values(data: Dataset, column: str, source: str) -> None:
    """Raise `ValueError`, naming the first such row, if a row of `column`, or an entry of its list, is null."""
    values = data.data.column(column)
    rows = compute.indices_nonzero(values.is_null())
    if not len(rows) and isinstance(data.features[column], List):
        rows = compute.list_parent_indices(values).filter(compute.list_flatten(values).is_null())
    if len(rows):
        raise ValueError(f"{source}, row {rows[0]}: column {column!r} is empty (null)")


def character_counts(data: Dataset, column: str) -> np.ndarray:
    """Return the number of characters of each text (N,) in a column of texts, or of lists of texts, which are counted one by one."""
    texts = data.select_columns(column).with_format("arrow")[:][column].combine_chunks()
    if isinstance(data.features[column], List):
        texts = texts.flatten()
    return compute.utf8_length(texts).to_numpy(zero_copy_only=False)
