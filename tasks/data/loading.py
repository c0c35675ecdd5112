"""Opens prepared data sets, in folders or on the Hub, and checks that the columns are there."""

from pathlib import Path

from datasets import Dataset, Image, List, load_dataset


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
        data = load_dataset("parquet", data_files={split: files}, split=split)
    else:
        try:
            data = load_dataset(source, split=split)
        except Exception as error:
            raise ValueError(
                f"data set {source!r}, split {split!r}: neither a folder here nor a data set that loads from the Hub "
                f"({str(error).splitlines()[0]})"
            ) from error
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


def require_images(data: Dataset, column: str, source: str) -> None:
    """Raises `ValueError` where `column` is not one of images, or of lists of images."""
    feature = data.features[column]
    if isinstance(feature, List):
        feature = feature.feature
    if not isinstance(feature, Image):
        raise ValueError(f"{source}: expected images in column {column!r}, found {data.features[column]}")
