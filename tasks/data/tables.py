"""Reads the user's own tables: files of separated values, and JSON."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from .columns import array_of
from .faults import Faults
from .text_files import json_value, read_text


#: What may separate the values of a line. Of those that fit alike, the first one does.
SEPARATORS = (",", "\t", ";", "|")

#: Lines that are cut to find out what separates values.
TRIED = 50

#: What a spreadsheet's first line may say: sep=;
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

#: Rows that are turned into arrays at a time.
BLOCK = 50_000


def read_separated(path: Path, faults: Faults) -> Dataset:
    """
    Return the rows of a file of separated values, with a line of names first. All values are text, without spaces
    around them, for what looks like a number may be a name. Add the lines with more or fewer values than names to
    `faults`. Raise `ValueError` if the file cannot be read.
    """
    # Not `splitlines`: texts may have other ends of lines in them, such as U+2028.
    lines = [f"{line}\n" for line in plain_text(path).split("\n")]
    start = next((number for number, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise ValueError(f"{path}: the file is empty; expected a line with the names of the columns")
    stated = SEPARATOR_LINE.fullmatch(lines[start].strip(" \n"))
    start += bool(stated)
    if start == len(lines):
        raise ValueError(f"{path}: no line with the names of the columns after {lines[start - 1].strip()}")
    # Longer fields than the module's limit of 131,072 characters are no mistake by themselves.
    csv.field_size_limit(2**31 - 1)
    separator = stated[1] if stated else separator_of(lines[start:], path.suffix)
    reader = csv.reader(lines[start:], delimiter=separator, skipinitialspace=True, strict=True)
    blocks = []
    try:
        names = [name.strip() for name in next(reader)]
        check_names(names, path)
        rows = checked_rows(rows_of_lines(reader, lines[start:]), names, separator, faults)
        while block := list(itertools.islice(rows, BLOCK)):
            columns = zip(names, zip(*block, strict=True), strict=True)
            # Spreadsheets and pandas write an index without a name.
            blocks.append(pa.table({name: pa.array(values, pa.string()) for name, values in columns if name}))
    except csv.Error as error:
        line = start + reader.line_num
        raise ValueError(f"{path}, line {line}: {error}; is a quotation mark not closed, or not doubled?") from error
    if not blocks:
        raise ValueError(f"{path}: no row after the line with the names of the columns ({', '.join(names)})")
    return Dataset(pa.concat_tables(blocks))


def rows_of_lines(reader: Any, lines: list[str]) -> Iterator[list[str]]:
    """Yield the rows of a `csv` reader of some lines, but not those of blank lines. Lines of separators, or of \"\" in a file of
    one column, are not blank: they are rows whose values are missing."""
    for values in reader:
        if len(values) > 1 or any(map(str.strip, values)) or lines[reader.line_num - 1].strip():
            yield values


def checked_rows(rows: Iterable[list[str]], names: list[str], separator: str, faults: Faults) -> Iterator[list[str]]:
    """Yield the rows, each with as many values as there are names; add those with another number to `faults`."""
    for row, values in enumerate(rows):
        if len(values) != len(names):
            found = f"{len(values)} values for {len(names)} names in the first line"
            advice = "write a text that has the separator in it in quotation marks"
            faults.add_unreadable("values", row, f"{found} (separator {separator!r}); {advice}")
            values = [*values, *[""] * len(names)][: len(names)]
        # A quotation mark that is not closed joins a field with those up to the next mark, even of other lines.
        for name, value in zip(names, values, strict=True):
            if separator == "\t" and "\t" in value:
                advice = "write such a field in quotation marks, and double those inside it"
                fault = f"column {name!r} goes on over a tab, after a quotation mark that is not closed; {advice}"
                faults.add_unreadable("quotation", row, fault)
        yield [value.strip() for value in values]


def separator_of(lines: list[str], suffix: str) -> str:
    """
    Return what separates the values of lines, the first of which has names: a tab in a .tsv file whose names have one. Else, in
    files of all endings, of the marks that cut the names, the one that cuts most of the first rows into as many values and, of
    several such, into most. If none cuts the names, there is one column, whatever is in its texts.
    """
    if suffix.lower() == ".tsv" and "\t" in lines[0]:
        return "\t"

    def fit(mark: str) -> tuple[float, int]:
        reader = csv.reader(lines[:TRIED], delimiter=mark, skipinitialspace=True)
        counts = [len(values) for values in reader if any(map(str.strip, values))]
        return sum(count == counts[0] for count in counts) / len(counts), counts[0]

    fits = {mark: fit(mark) for mark in SEPARATORS}
    cutting = [mark for mark, (_, count) in fits.items() if count > 1]
    return max(cutting, key=fits.get, default="\t" if suffix.lower() == ".tsv" else ",")


def check_names(names: list[str], path: Path) -> None:
    """Raise `ValueError` if two columns have the same name."""
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path}: several columns are called {', '.join(repeated)}; expected each name once")


def read_json(path: Path, faults: Faults) -> Dataset:
    """
    Return the objects of a JSON file, which is one list of them or has one on each line. Add the lines that are none
    to `faults`. Raise `ValueError` if there is no object.
    """
    text = plain_text(path)
    entries = listed(text)
    entries = list(lines_of(text, faults)) if entries is None else entries
    for row, entry in enumerate(entries):
        if not isinstance(entry, dict):
            faults.add_unreadable(
                "object", row, f"expected a JSON object with a key for each column, got {entry!r:.60}"
            )
    objects = [entry if isinstance(entry, dict) else {} for entry in entries]
    names = list(dict.fromkeys(itertools.chain.from_iterable(objects)))
    if not names:
        found = "; ".join(faults.describe_rows()) or "the file is empty"
        raise ValueError(
            f"{path}: expected JSON objects with a key for each column, in a list or one a line ({found})"
        )
    columns = {name: json_column([entry.get(name) for entry in objects], name, faults) for name in names}
    return Dataset(pa.table({name: values for name, values in columns.items() if values is not None}))


def listed(text: str) -> list | None:
    """Return the list that a JSON text is, with the one object that it may be instead; `None` if it is something else."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json_value(text)
    except ValueError:
        return None
    return value if isinstance(value, list) else [value]


def lines_of(text: str, faults: Faults) -> Iterator[Any]:
    """Yield the JSON value of each line that is not blank; `None`, with a fault, if it is not JSON."""
    row = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield json_value(line)
        except ValueError as error:
            faults.add_unreadable("json", row, f"line {number} is not JSON ({error})")
            yield None
        row += 1


def json_column(values: list, name: str, faults: Faults) -> pa.Array | None:
    """
    Return the values of one key as an array; NaN is a missing one. Among lists, a single value stands for a list of one. Return `None`, and
    tell `faults`, if the values are not of one type, or are too large.
    """
    values = [None if value != value else value for value in values]
    if any(isinstance(value, list) for value in values):
        values = [value if isinstance(value, list | None) else [value] for value in values]
    try:
        return array_of(values)
    except ValueError as error:
        faults.unreadable_columns[name] = f"column {name!r} has {error}"
        return None


def plain_text(path: Path) -> str:
    """Return the text of a file, whose lines may have any system's ends, with \\n; raise `ValueError` as `read_text`."""
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n")


#: The readers of the user's tables, by the end of the file's name.
TEXT_FILES = {".csv": read_separated, ".tsv": read_separated, ".json": read_json, ".jsonl": read_json}
