"""Classes of a label column: their names, from the data, and their numbers."""

import itertools
import logging
import re
import string
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List, Value

from .columns import column_of, entry_of, has_lists, in_words, is_name_or_number, is_text, json_list, replace_column
from .faults import Faults


logger = logging.getLogger(__name__)

#: How a name begins that looks like a number: 3, -1, .5, 2+, 1st.
LIKE_NUMBER = re.compile(r"[-+]?\.?\d")

#: Marks without width that no word needs: of breaks, of directions, of byte orders.
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
#: Those that join letters, or keep them apart.
JOINERS = "\u200c\u200d"


def plain_name(name: str) -> str:
    """Return a name without what cannot be seen: in one normal form of Unicode, without marks of no width, spaces around it, and
    joiners at its ends (inside, they are a part of words of some scripts)."""
    return INVISIBLE.sub("", unicodedata.normalize("NFC", name)).strip(f"{JOINERS}{string.whitespace}\u00a0").strip()


def plain_labels(values: Sequence[Any]) -> list[Any]:
    """Return labels without differences of the file's format: texts as `plain_name` has them; whole numbers as such,
    also those of a column of text in which every value is one, or of a column of decimals; blank ones as `None`."""
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    # A gap in a column of decimals may be NaN.
    plain = [None if value != value else value for value in plain]
    # The two normal forms of Unicode, in which the same name may be written, are one name.
    plain = [(plain_name(own) or None) if isinstance(own, str) else own for own in plain]
    texts = [value for value in plain if value is not None]
    # "01" is a name.
    if all(
        isinstance(value, str) and value.removeprefix("-").isdecimal() and str(int(value)) == value for value in texts
    ):
        return [None if value is None else int(value) for value in plain]
    return plain


def class_names(values: Sequence[Any], faults: Faults, called: str) -> list[str]:
    """Return the names of the classes in a column that messages call `called`: texts in order, or whole numbers in
    order. Add a fault if there are other values, or fewer than two classes; it says first which row has no label."""
    present = {value for value in values if value is not None}
    if not are_classes(present, faults, called):
        return []
    named = all(isinstance(value, (str, bool)) for value in present)
    names = sorted(map(str, present)) if named else list(map(str, sorted(map(int, present))))
    if len(names) < 2:
        missing = [row for row, value in enumerate(values) if value is None]
        cause = f"no label in {called} in {len(missing)} of {len(values)} rows; " if missing else ""
        faults.add(f"{cause}expected at least two classes in {called}, got {' '.join(names) or 'none'}")
    return names


def are_classes(present: Collection[Any], faults: Faults, called: str) -> bool:
    """Return whether the different labels of a column that messages call `called` can be those of classes: texts alone, or whole
    numbers from 0 on alone. Add a fault if not."""
    if all(isinstance(value, (str, bool)) for value in present):
        return True
    if all(isinstance(value, int) and value >= 0 for value in present):
        return True
    numbers = [value for value in present if isinstance(value, (int, float)) and not isinstance(value, bool)]
    wrong = sorted(value for value in numbers if value < 0 or not isinstance(value, int))
    # Or names and numbers among each other, as decimals beside whole numbers are not.
    shown = ", ".join(map(repr, (wrong or sorted(present, key=str))[:3]))
    faults.add(f"expected names alone, or whole numbers from 0 on alone, in {called}, got {shown}")
    return False


def names_of(numbers: Sequence[int | None], names: Sequence[str]) -> list[str | None]:
    """Return the names of the classes that a column has by number: `None` for -1 and gaps, which are no labels, and of a number without
    a class what no class is called, for messages. (Files may have such numbers: `datasets` does not look at them.)"""
    return [
        None if number in (None, -1) else names[number] if 0 <= number < len(names) else f"class number {number}"
        for number in numbers
    ]


def with_class_names(data: Dataset, faults: Faults) -> Dataset:
    """Return the data with the column `class_name`, the names of the classes in `label`, in its place: texts, or numbers of named
    classes, or whole numbers from 0 on, which are their own names. Add to `faults` the rows without a label, and a column of something
    else."""
    feature, called = data.features["label"], faults.called("label")
    if not is_name_or_number(feature):
        faults.add(f"expected one label a row in {called}, found {in_words(feature)}")
        return data.remove_columns("label")
    values = plain_labels(column_of(data, "label").to_pylist())
    if not isinstance(feature, ClassLabel):
        are_classes({value for value in values if value is not None}, faults, called)
    names = names_of(values, feature.names) if isinstance(feature, ClassLabel) else values
    for row, (value, name) in enumerate(zip(values, names, strict=True)):
        if name is None or (isinstance(feature, ClassLabel) and not 0 <= value < len(feature.names)):
            faults.add_row("label", row, f"expected a label in {called}, got {value}")
    named = [None if name is None else str(name) for name in names]
    return replace_column(data, "label", named, Value("string")).rename_column("label", "class_name")


def class_numbers(
    values: Sequence[Any], names: Sequence[str], skipped: Collection[int], faults: Faults, called: str
) -> np.ndarray:
    """
    Return the numbers (N,), int64, of the classes that a column gives by name, in any case if names differ by more
    than that, or by number, unless a name looks like one. Add the rows to `faults` whose label is missing or not one of
    `names`; these, and `skipped` rows, come out as 0.
    """
    numbered = numbers_of(names)
    numbers = np.zeros(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if row in skipped:
            continue
        found = number_of(value, numbered)
        if found is not None:
            numbers[row] = found
        elif names:
            faults.add_row("label", row, f"{expected_of(names)}, in {called}, got {value!r}")
    return numbers


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    """Return the numbers of classes by all that a column may have for them, as `class_numbers` says."""
    names = [plain_name(name) for name in names]
    by_key = {name.casefold(): number for number, name in enumerate(names)}
    by_key = (by_key if len(by_key) == len(names) else {}) | {name: number for number, name in enumerate(names)}
    if may_be_numbers(names):
        by_key = {str(number): number for number in range(len(names))} | by_key
    return by_key


def may_be_numbers(names: Sequence[str]) -> bool:
    """Return whether labels may be the numbers of classes: not if a name looks like a number, for a label `1` could then be a
    name that is written in another way, or one that is missing."""
    return not any(LIKE_NUMBER.match(name.strip()) for name in names)


def number_of(value: Any, numbered: dict[str, int]) -> int | None:
    """Return the number that `numbered` has for a label; `None` if it has none."""
    key = plain_name(str(value))
    keys = (key, key.casefold(), str(int(value)) if isinstance(value, bool) else key)
    return None if value is None else next((numbered[key] for key in keys if key in numbered), None)


def expected_of(names: Sequence[str]) -> str:
    """Return what messages say that a label may be."""
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"expected one of the labels {shown}" + (", or its number" if may_be_numbers(names) else "")


def label_lists(
    data: Dataset, column: str, separator: str | None, skipped: Collection[int], faults: Faults
) -> list[list] | None:
    """
    Return the labels of each row of a column of lists, in JSON if it is a column of text, or joined by `separator` if
    there is one; a row may have none. Add the rows to `faults` that have no list, unless they are `skipped`; they come out empty. Return `None`, with
    a fault, if the column has something else.
    """
    called, feature = faults.called(column), data.features[column]
    cells = column_of(data, column).to_pylist()
    text = is_text(feature)
    if not text and not (isinstance(feature, List) and is_name_or_number(feature.feature)):
        faults.add(
            f"expected lists of labels in {called}, found {in_words(feature)}; leave out multi_label, or give lists"
        )
        return None
    if text and separator:
        for row, cell in enumerate(cells):
            if has_lists(cell):
                advice = "leave out label_separator if the cells are JSON lists"
                faults.add_row(
                    "list of labels",
                    row,
                    f"expected labels with {separator!r} between them in {called}, got {cell!r:.60}; {advice}",
                )
        cells = [None if cell is None else [part.strip() for part in cell.split(separator)] for cell in cells]
        # An empty cell is a row without a class.
        cells = [[] if cell == [""] else cell for cell in cells]
    found = [json_list(cell) for cell in cells] if text and not separator else cells
    lists = [
        labels if labels is not None and all(isinstance(label, (str, int, float)) for label in labels) else None
        for labels in found
    ]
    for row, (cell, labels) in enumerate(zip(cells, lists, strict=True)):
        if labels is None and row not in skipped:
            example = 'expected a list of labels, such as ["a", "b"] in JSON, or [] for none'
            faults.add_row("list of labels", row, f"{example}, in {called}, got {cell!r:.60}")
    flat = plain_labels(list(itertools.chain.from_iterable(labels or () for labels in lists)))
    plain, inner = iter(flat), entry_of(feature)
    lists = [[next(plain) for _ in labels or ()] for labels in lists]
    if isinstance(inner, ClassLabel):
        lists = [names_of(row, inner.names) for row in lists]
    return lists


def are_indicators(lists: Sequence[list], names: Sequence[str]) -> bool:
    """Return whether lists have 0 or 1 for each of two classes, instead of the classes of a row: as names, every row would
    have both, or one twice. If there are more classes, such lists repeat a label."""
    return len(names) == 2 and len(lists) > 1 and all(len(labels) == 2 and set(labels) <= {0, 1} for labels in lists)


def class_lists(lists: Sequence[list], names: Sequence[str], faults: Faults, called: str) -> list[list[int]]:
    """
    Return the numbers of the classes of each row, in order, of labels as `class_numbers` takes them. Add the rows to `faults`
    that have another label, or one twice; or a fault of the column if its lists are `are_indicators`.
    """
    if are_indicators(lists, names):
        expected = f"expected lists of the classes of each row in {called}"
        faults.add(
            f"{expected}, got 0 or 1 for each class (one-hot), such as {lists[0]}; list the classes that have 1"
        )
    numbered = numbers_of(names)
    found = [[number_of(value, numbered) for value in labels] for labels in lists]
    for row, (labels, numbers) in enumerate(zip(lists, found, strict=True)):
        wrong = [value for value, number in zip(labels, numbers, strict=True) if number is None]
        twice = [value for place, value in enumerate(labels) if numbers[place] in numbers[:place]]
        if None in wrong:
            faults.add_row("blank label", row, f"a label in the list in {called} is blank")
        elif wrong and names:
            faults.add_row("label", row, f"{expected_of(names)}, in the list in {called}, got {wrong[0]!r}")
        elif twice and names:
            advice = "list the classes of a row; 0 or 1 for each class (one-hot) is not read"
            faults.add_row("repeated label", row, f"{twice[0]!r} is twice in the list in {called}, {labels}; {advice}")
    return [sorted({number for number in numbers if number is not None}) for numbers in found]


def warn_of_unlabelled(count: int, total: int, faults: Faults) -> None:
    """Warn that some rows of a test split have no label."""
    logger.warning(f"{faults.source}: {count} of {total} rows have no label; metrics are over the others")
