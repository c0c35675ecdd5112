"""Opens prepared data sets, in folders or on the Hub, and checks that the columns are there."""

from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Image, List, Value, load_dataset
from pyarrow import compute


def load_split(source: str, split: str, columns: dict[str, str], optional: tuple[str, ...] = ()) -> Dataset:
    """
    One split of a data set, with the columns that a task expects.

    Args:
        source: A folder that `prepare_data.py` wrote (`<split>-*.parquet`), or a data set's name on the Hub.
        split: `"train"`, `"validation"` or `"test"`.
        columns: The names that the task uses, each with the name that the data set has for it.
        optional: Those of the task's names that may be missing.

    Raises:
        ValueError: Where the folder, the split or a column is missing; the message says what was expected.
    """
    if Path(source).is_dir():
        files = sorted(str(path) for path in Path(source).glob(f"{split}-*.parquet"))
        if not files:
            raise ValueError(f"{source}: no {split}-*.parquet in this folder; prepare_data.py writes them")
        try:
            data = load_dataset("parquet", data_files={split: files}, split=split)
        except Exception as error:
            cause = error.__cause__ or error
            raise ValueError(f"{source}: {split}-*.parquet cannot be read ({str(cause).splitlines()[0]})") from error
    else:
        try:
            data = load_dataset(source, split=split)
        except Exception as error:
            raise ValueError(
                f"data set {source!r}, split {split!r}: neither a folder here nor a data set that loads from the Hub "
                f"({str(error).splitlines()[0]})"
            ) from error
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"{source}: one column is named for two purposes: {columns}")
    missing = [own for name, own in columns.items() if own not in data.column_names and name not in optional]
    if missing:
        raise ValueError(
            f"{source}: no column {', '.join(missing)} in split {split!r}, which has {', '.join(data.column_names)}; the "
            "options --*_column say what yours are called"
        )
    present = {name: own for name, own in columns.items() if own in data.column_names}
    return data.select_columns(list(present.values())).rename_columns(
        {own: name for name, own in present.items() if own != name}
    )


def require_images(data: Dataset, column: str, source: str, several: bool) -> None:
    """Raises `ValueError` where `column` does not have an image, or, with `several`, a list of images in every row."""
    feature = data.features[column]
    found = isinstance(feature, List) and isinstance(feature.feature, Image) if several else isinstance(feature, Image)
    if not found:
        expected = "lists of images" if several else "images"
        raise ValueError(f"{source}: expected {expected} in column {column!r}, found {feature}")
    require_values(data, column, source)


def require_text(data: Dataset, column: str, source: str) -> None:
    """Raises `ValueError` where `column` does not have a string, or a list of strings, in every row."""
    feature = data.features[column]
    feature = feature.feature if isinstance(feature, List) else feature
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        raise ValueError(f"{source}: expected text in column {column!r}, found {data.features[column]}")
    require_values(data, column, source)


def require_values(data: Dataset, column: str, source: str) -> None:
    """Raises `ValueError`, naming the first such row, where a row of `column`, or an entry of its list, is null."""
    values = data.data.column(column)
    nulls = values.is_null()
    if not values.null_count and isinstance(data.features[column], List):
        entries = compute.list_flatten(values)
        owners = compute.list_parent_indices(values)
        nulls = compute.is_in(
            pa.array(range(len(values))), value_set=owners.filter(entries.is_null()).combine_chunks()
        )
    first = compute.index(nulls, True).as_py()
    if first >= 0:
        raise ValueError(f"{source}, row {first}: column {column!r} is empty (null)")
