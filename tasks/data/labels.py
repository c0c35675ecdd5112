"""Classes of a label column: their names, from the data, and their numbers."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .faults import Faults


def plain_labels(values: Sequence[Any]) -> list[Any]:
    """Return labels without differences of the file's format: whole numbers as such, also those of a column of text in
    which every value is one, or of a column of decimals; blank ones as `None`."""
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    plain = [None if isinstance(value, str) and not value.strip() else value for value in plain]
    texts = [value for value in plain if value is not None]
    # "01" is a name.
    if all(
        isinstance(value, str) and value.removeprefix("-").isdecimal() and str(int(value)) == value for value in texts
    ):
        return [None if value is None else int(value) for value in plain]
    return plain


def class_names(values: Sequence[Any], faults: Faults, called: str) -> list[str]:
    """Return the names of the classes in a column that messages call `called`: texts in order, or whole numbers in
    order. Add a fault if there are other values, or fewer than two classes."""
    present = {value for value in values if value is not None}
    named = all(isinstance(value, (str, bool)) for value in present)
    if not named and not all(isinstance(value, int) and value >= 0 for value in present):
        faults.add(f"expected names or whole numbers from 0 on in {called}, got {sorted(map(str, present))[:3]}")
        return []
    names = sorted(map(str, present)) if named else list(map(str, sorted(map(int, present))))
    if len(names) < 2:
        faults.add(f"expected at least two classes in {called}, got {' '.join(names) or 'none'}")
    return names


def class_numbers(
    values: Sequence[Any], names: Sequence[str], skipped: Collection[int], faults: Faults, called: str
) -> np.ndarray:
    """
    Return the numbers (N,), int64, of the classes that a column gives by name, in any case if names differ by more
    than that, or by number, unless the names are numbers. Add the rows to `faults` whose label is missing or not one of
    `names`; these, and `skipped` rows, come out as 0.
    """
    by_key: dict[Any, int] = {name.casefold(): number for number, name in enumerate(names)}
    by_key = (by_key if len(by_key) == len(names) else {}) | {name: number for number, name in enumerate(names)}
    if not all(name.isdecimal() for name in names):
        by_key = {str(number): number for number in range(len(names))} | by_key
    numbers = np.zeros(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if row in skipped:
            continue
        key = str(value)
        keys = (key, key.casefold(), str(int(value)) if isinstance(value, bool) else key)
        found = next((by_key[key] for key in keys if key in by_key), None)
        if found is not None and value is not None:
            numbers[row] = found
        elif names:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            expected = (
                f"expected one of the labels {shown}, or its number"
                if not names[0].isdecimal()
                else f"expected one of the labels {shown}"
            )
            faults.add_row("label", row, f"{expected}, in {called}, got {value!r}")
    return numbers
