"""The columns of a table: finds a task's under the user's names, checks their texts, and replaces their values."""

import ast
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from pyarrow import compute

from .blank_texts import BLANK
from .faults import Faults
from .text_files import json_value


#: How lists begin that Python or NumPy write, or of which the end is missing: ['a', ["a", [nan, array([; and lists of numbers
#: without commas.
PYTHON_LIST = re.compile(
    r"""array\(.*|\[\s*[bur]?['"].*|\[\s*(nan|None|<NA>)[\s,].*|\[[-+.\deEnaif\s]*\d[-+.\deEnaif\s]*\]""", re.DOTALL
)


#: The types of values, as Parquet files of other programs have them, and those that the tasks know for them.
PLAIN_TYPES = {
    "large_string": "string",
    "string_view": "string",
    "binary_view": "binary",
    "uint8": "int64",
    "uint16": "int64",
    "uint32": "int64",
    "uint64": "int64",
    "float16": "float32",
    "date32": "string",
    "date64": "string",
}

#: Decimals are whole numbers if they have no places.
DECIMAL = re.compile(r"decimal\d+\(\d+, (-?\d+)\)")


def with_own_names(
    data: Dataset, columns: Mapping[str, str | list[str]], required: Collection[str], faults: Faults
) -> Dataset:
    """
    Return the `columns` that a task uses, under the task's names. One column may have two of them. A name with a dot
    may be that of a field in a column of records (`json.caption`). Add to `faults` the required ones that are missing.
    """
    parts = [part for own in columns.values() for part in parts_of(own)]
    data = with_plain_types(data, {*parts, *(part.partition(".")[0] for part in parts)})
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


def plain_type(feature: Any) -> Any:
    """Return the type that the tasks know for one that a file may have: lists of any kind as `List`, texts as string, floats of
    16 bits as float32, whole numbers without a sign as int64, decimals as int64 or float64, days as strings. Others stay."""
    if isinstance(feature, (List, LargeList)):
        return List(plain_type(feature.feature))
    if isinstance(feature, dict):
        return {name: plain_type(own) for name, own in feature.items()}
    if not isinstance(feature, Value):
        return feature
    if decimal := DECIMAL.fullmatch(feature.dtype):
        return Value("float64" if int(decimal[1]) > 0 else "int64")
    return Value(PLAIN_TYPES[feature.dtype]) if feature.dtype in PLAIN_TYPES else feature


def with_plain_types(data: Dataset, columns: Iterable[str]) -> Dataset:
    """Return the data with those of the columns cast that have another type than `plain_type`; one with a number that is too large
    for it stays."""
    for name in [name for name in data.column_names if name in columns]:
        feature, plain = data.features[name], plain_type(data.features[name])
        if plain == feature:
            continue
        stored = Features({name: plain}).arrow_schema.field(name).type
        try:
            values = column_of(data, name).cast(stored)
        except pa.ArrowException:
            continue
        order = data.column_names
        data = replace_column(data, name, values, plain).select_columns(order)
    return data


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


def is_name_or_number(feature: object) -> bool:
    """Return whether a column holds what can name something: strings, numbers, truth values, or nothing at all."""
    names = ("string", "large_string", "bool", "null")
    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and (feature.dtype in names or feature.dtype.startswith(("int", "uint", "float")))
    )


def with_cells_read(data: Dataset, column: str, faults: Faults, or_text: bool = False) -> Dataset:
    """
    Return the data with lists in a column of text whose cells are JSON lists, as those of a CSV file are. With
    `or_text`, a list is of texts or numbers, and a cell that is no list of any kind is a text; else it is a fault. Other
    columns stay as they are.
    """
    if not is_text(data.features[column]):
        return data
    cells, called = column_of(data, column).to_pylist(), faults.called(column)
    lists = [json_list(cell) for cell in cells]
    if or_text:
        lists = [texts_of(found) for found in lists]
        for row, (cell, found) in enumerate(zip(cells, lists, strict=True)):
            if found is None and has_lists(cell):
                expected = f'expected a text, or a list of texts in JSON, such as ["a", "b"], in {called}'
                faults.add_unreadable(f"list {column}", row, f"{expected}, got {cell!r:.60}")
        if all(found is None for found in lists):
            return data
        lists = [
            [cell] if found is None and cell is not None else found for cell, found in zip(cells, lists, strict=True)
        ]
    else:
        for row, (cell, found) in enumerate(zip(cells, lists, strict=True)):
            if found is None and cell:
                kind = f"expected a JSON list, such as [1, 2], in {called}, got {cell!r:.60}"
                faults.add_unreadable(f"list {column}", row, kind)
    try:
        return replace_column(data, column, array_of(lists))
    except ValueError as error:
        faults.add(f"expected lists of one type in {called}, which has {error}")
        return data


def texts_of(entries: list | None) -> list[str] | None:
    """Return a list of texts or numbers as texts; `None` if it is something else."""
    if entries is None or not all(isinstance(entry, (str, int, float)) for entry in entries):
        return None
    return list(map(text_of, entries))


def text_of(value: Any) -> str:
    """Return a value as text. A whole number is written as such: a column with other numbers, or with gaps, has it as a decimal."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def json_list(cell: str | None) -> list | None:
    """Return the list that a cell is in JSON; `None` if it is something else."""
    if cell is None or not cell.lstrip().startswith("["):
        return None
    try:
        value = json_value(cell)
    except ValueError:
        return None
    return value if isinstance(value, list) else None


def has_lists(cell: str | None) -> bool:
    """Return whether a cell is a list, in JSON or as Python, pandas or NumPy write it, or several values of another kind: such a
    cell is no text. (A text in brackets, such as [sic], is one.)"""
    cell = (cell or "").strip()
    if not cell.startswith(("[", "(", "{", "array(")):
        return False
    if PYTHON_LIST.fullmatch(cell):
        return True
    for read in json_value, ast.literal_eval:
        try:
            return isinstance(read(cell), (list, tuple, set, dict))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return False


def array_of(values: list) -> pa.Array:
    """Return values as an array; raise `ValueError`, which says of which types they are and names rows, if they have no common
    type, or a number is too large."""
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        first = {}
        for row, value in enumerate(values):
            first.setdefault(kind_of(value), row)
        first = {kind: row for kind, row in first.items() if kind not in ("NoneType", "list of nothing")}
        if isinstance(error, OverflowError) or len(first) == 1:
            row = row_at_fault(values)
            raise ValueError(
                f"a value in row {row} that cannot be stored with the others: {values[row]!r:.60}"
            ) from error
        found = ", ".join(f"{kind} in row {row}" for kind, row in first.items())
        raise ValueError(f"values of several types ({found}); expected one") from error


def row_at_fault(values: list) -> int:
    """Return the first row that no array can have with the rows before it."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle])
            low = middle
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            high = middle
    return low


def kind_of(value: Any) -> str:
    """Return the type of a value for messages; of a list, with those of its entries, whole numbers and others as one."""
    if not isinstance(value, list):
        return type(value).__name__
    kinds = [kind_of(entry) for entry in value if entry is not None]
    kinds = dict.fromkeys("number" if kind in ("int", "float") else kind for kind in kinds)
    return f"list of {' and '.join(kinds) or 'nothing'}"


def check_text(data: Dataset, column: str, faults: Faults, lists: bool) -> None:
    """Add to `faults` what is no text in a column of strings, or, with `lists`, of lists of strings, and the rows with a blank one."""
    feature, called = data.features[column], faults.called(column)
    if not is_text(entry_of(feature) if lists else feature):
        faults.add(f"expected text in {called}, found {in_words(feature)}")
        return
    check_values(data, column, faults)
    values = column_of(data, column)
    texts, owners = flattened(values)
    for entry in compute.indices_nonzero(compute.match_substring_regex(texts, BLANK)):
        faults.add_row(f"blank {column}", int(owners[entry.as_py()]), f"the text in {called} is blank")


def check_values(data: Dataset, column: str, faults: Faults) -> None:
    """Add to `faults` the rows of a column that are null, or have a list with a null in it."""
    values = column_of(data, column)
    entries, owners = flattened(values)
    for row in np.flatnonzero(values.is_null().to_numpy()):
        faults.add_row(f"null {column}", int(row), f"{faults.called(column)} is empty (null)")
    places = np.arange(len(owners)) - np.searchsorted(owners, owners)
    for number in np.flatnonzero(entries.is_null().to_numpy(zero_copy_only=False)).tolist():
        called = faults.called(column, int(places[number]))
        faults.add_row(f"null {column}", int(owners[number]), f"{called} is empty (null)")


def check_counts(data: Dataset, column: str, count: int, faults: Faults) -> None:
    """Add the rows to `faults` whose list in a column, such as `images`, has another number of entries than `count`."""
    if not isinstance(data.features.get(column), List):
        return
    for row, found in enumerate(compute.list_value_length(column_of(data, column)).to_pylist()):
        if found not in (count, None):
            faults.add_row(column, row, f"expected {count} {column} in {faults.called(column)}, got {found}")


def flattened(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the entries (M,) of a column's lists, or the column (N,) itself, and the row of each entry."""
    if not pa.types.is_list(values.type):
        return values, np.arange(len(values))
    lengths = compute.fill_null(compute.list_value_length(values), 0).to_numpy()
    return compute.list_flatten(values), np.repeat(np.arange(len(values)), lengths)


def in_words(feature: Any) -> str:
    """Return the type of a column for a message, such as `lists of records (yes: int64)`."""
    if isinstance(feature, (List, LargeList)):
        return f"lists of {in_words(feature.feature)}"
    if isinstance(feature, dict):
        return f"records ({', '.join(f'{name}: {in_words(own)}' for name, own in feature.items())})"
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
