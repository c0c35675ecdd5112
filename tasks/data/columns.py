"""The columns of a table: finds a task's under the user's names, checks their texts, and replaces their values."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, List, Value
from pyarrow import compute

from .faults import Faults


def with_own_names(
    data: Dataset, columns: Mapping[str, str | list[str]], required: Collection[str], faults: Faults
) -> Dataset:
    """
    Return the `columns` that a task uses, under the task's names. One column may have two of them. A name with a dot
    may be that of a field in a column of records (`json.caption`). Add to `faults` the required ones that are missing.
    """
    found = {name: [part for part in parts_of(own) if has_column(data, part)] for name, own in columns.items()}
    present = [name for name, own in columns.items() if found[name] == parts_of(own)]
    missing = {name: own for name, own in columns.items() if name not in present and name in required}
    if missing:
        absent = [part for own in missing.values() for part in parts_of(own) if not has_column(data, part)]
        for part in [part for part in absent if part in faults.unreadable_columns]:
            faults.add(faults.unreadable_columns[part])
        absent = [part for part in dict.fromkeys(absent) if part not in faults.unreadable_columns]
        options = ", ".join(f"--{name}_column" for name in missing)
        if absent:
            listed = ", ".join(data.column_names)
            faults.add(f"no column {', '.join(absent)}, only {listed}; name yours with {options}")

    # The first use of a column is a new name for it; others are columns more.
    names = {}
    for name in present:
        own = columns[name]
        kinds = {in_words(made_column(data, [part])[1]) for part in parts_of(own)}
        if len(kinds) > 1:
            faults.add(f"expected values of one type in {faults.called(name)}, found {' and '.join(sorted(kinds))}")
            continue
        if isinstance(own, list) or own not in data.column_names or own in names.values():
            values, feature = made_column(data, parts_of(own))
            names[name] = f"made for {name}"
            data = data.add_column(names[name], values, feature=feature)
        else:
            names[name] = own
    renamed = {own: name for name, own in names.items() if own != name}
    return data.select_columns(list(names.values())).rename_columns(renamed)


def parts_of(own: str | list[str]) -> list[str]:
    """Return the user's columns that make one of the task's."""
    return [own] if isinstance(own, str) else list(own)


def has_column(data: Dataset, name: str) -> bool:
    """Return whether there is such a column, or such a field in a column of records."""
    column, _, field = name.partition(".")
    records = data.features.get(column)
    return name in data.column_names or (bool(field) and isinstance(records, dict) and field in records)


def made_column(data: Dataset, names: Sequence[str]) -> tuple[pa.ChunkedArray, Any]:
    """Return the values and the type of a column, or of lists of the values of several, or of a field of records."""
    if len(names) > 1:
        made = [made_column(data, [name]) for name in names]
        columns = [values.combine_chunks() for values, _ in made]
        order = np.arange(len(data) * len(names)).reshape(len(names), -1).T.ravel()
        values = pa.concat_arrays(columns).take(pa.array(order))
        offsets = pa.array(np.arange(len(data) + 1, dtype=np.int32) * len(names))
        return pa.chunked_array([pa.ListArray.from_arrays(offsets, values)]), List(made[0][1])
    column, _, field = names[0].partition(".")
    if names[0] in data.column_names:
        return column_of(data, names[0]), data.features[names[0]]
    return compute.struct_field(column_of(data, column), field), data.features[column][field]


def column_of(data: Dataset, column: str) -> pa.ChunkedArray:
    """Return a column as pyarrow has it."""
    return data.select_columns(column).with_format("arrow")[:][column]


def replace_column(data: Dataset, name: str, values: Any, feature: Any = None) -> Dataset:
    """Return the data with other values in a column."""
    # Added first: a table without columns has no rows.
    data = data.add_column("replacement", values, feature=feature)
    return data.remove_columns(name).rename_column("replacement", name)


def entry_of(feature: object) -> object:
    """Return the type of the entries of a column's lists, or of the column if it has none."""
    return feature.feature if isinstance(feature, List) else feature


def is_text(feature: object) -> bool:
    """Return whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def with_cells_read(data: Dataset, column: str, faults: Faults, or_text: bool = False) -> Dataset:
    """
    Return the data with lists in a column of text whose cells are JSON lists, as those of a CSV file are. With
    `or_text`, a cell that is no JSON list of texts or numbers is a text; else it is a fault. Other columns stay as
    they are.
    """
    if not is_text(data.features[column]):
        return data
    cells = column_of(data, column).to_pylist()
    lists = [json_list(cell) for cell in cells]
    if or_text:
        lists = [texts_of(found) for found in lists]
        if all(found is None for found in lists):
            return data
        lists = [
            [cell] if found is None and cell is not None else found for cell, found in zip(cells, lists, strict=True)
        ]
    else:
        for row, (cell, found) in enumerate(zip(cells, lists, strict=True)):
            if found is None and cell:
                kind = f"expected a JSON list, such as [1, 2], in {faults.called(column)}, got {cell!r:.60}"
                faults.add_unreadable(f"list {column}", row, kind)
    try:
        return replace_column(data, column, pa.array(lists))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        faults.add(f"expected lists of one type in {faults.called(column)}, got {cells[0]!r:.60}")
        return data


def texts_of(entries: list | None) -> list[str] | None:
    """Return a list of texts or numbers as texts; `None` if it is something else."""
    if entries is None or not all(isinstance(entry, (str, int, float)) for entry in entries):
        return None
    return list(map(str, entries))


def json_list(cell: str | None) -> list | None:
    """Return the list that a cell is in JSON; `None` if it is something else."""
    if cell is None or not cell.lstrip().startswith("["):
        return None
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, list) else None


def check_text(data: Dataset, column: str, faults: Faults) -> None:
    """Add to `faults` what is no text in a column of strings, or of lists of strings, and the rows with a blank one."""
    feature, called = data.features[column], faults.called(column)
    if not is_text(entry_of(feature)):
        faults.add(f"expected text in {called}, found {in_words(feature)}")
        return
    check_values(data, column, faults)
    values = column_of(data, column)
    texts, owners = flattened(values)
    for entry in compute.indices_nonzero(compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(texts)), 0)):
        faults.add_row(f"blank {column}", int(owners[entry.as_py()]), f"the text in {called} is blank")


def check_values(data: Dataset, column: str, faults: Faults) -> None:
    """Add to `faults` the rows of a column that are null, or have a list with a null in it."""
    values = column_of(data, column)
    entries, owners = flattened(values)
    rows = np.flatnonzero(values.is_null().to_numpy())
    for row in np.union1d(rows, owners[entries.is_null().to_numpy(zero_copy_only=False)]):
        faults.add_row(f"null {column}", int(row), f"{faults.called(column)} is empty (null)")


def flattened(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the entries (M,) of a column's lists, or the column (N,) itself, and the row of each entry."""
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return values, np.arange(len(values))
    lengths = compute.fill_null(compute.list_value_length(values), 0).to_numpy()
    return compute.list_flatten(values), np.repeat(np.arange(len(values)), lengths)


def in_words(feature: Any) -> str:
    """Return the type of a column for a message."""
    return feature.dtype if isinstance(feature, Value) else str(feature)


def require_columns(names: Iterable[str], present: Collection[str], source: str) -> None:
    """Raise `ValueError`, with the name of the split for messages, if not all of the columns are present."""
    if missing := [name for name in names if name not in present]:
        raise ValueError(
            f"{source}: no column {', '.join(missing)}, only {', '.join(present)}; name yours with --*_column"
        )


def character_counts(data: Dataset, column: str) -> np.ndarray:
    """Return the number of characters of each text (N,) in a column of texts, or of lists of texts, which are counted one by one."""
    return compute.utf8_length(flattened(column_of(data, column))[0]).to_numpy()
