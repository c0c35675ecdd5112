"""Text files of data sets: the one place that decodes them, splits them into lines and reads JSON from them."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


#: Byte-order marks, by which a file says its encoding. UTF-32 comes first: UTF-16's are the beginning of its own.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


#: Half of a character beyond 16 bits, as JSON escapes it.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_bytes(path: Path) -> bytes:
    """Return the content of a text file in UTF-8, without a byte-order mark; another Unicode encoding that its mark names is
    converted. Raise `ValueError` if there is no such file, or it is no text. It may still hold single bytes that are not UTF-8."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file")
    content = path.read_bytes()
    mark, encoding = next(((mark, name) for mark, name in MARKS.items() if content.startswith(mark)), (b"", "utf-8"))
    if encoding in ("utf-16", "utf-32"):
        try:
            return content.decode(encoding).encode()
        except UnicodeError as error:
            raise ValueError(f"{path} is not {encoding}, as its first bytes say: save it as UTF-8") from error
    # Every second byte of English text in UTF-16 is zero, and no text has a zero in UTF-8.
    if b"\0" in content:
        raise ValueError(f"{path} is not UTF-8 but UTF-16, or is not text: save it as UTF-8")
    return content.removeprefix(mark)


def read_text(path: Path) -> str:
    """Return the content of a text file, with its own line ends and without a byte-order mark; raise `ValueError`, naming
    the line, if it is missing or not UTF-8."""
    content = read_bytes(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"line {line} has the byte 0x{content[error.start]:02x} (Latin-1?)"
        raise ValueError(f"{path} is not UTF-8: {found}; save the file as UTF-8") from error


def byte_lines(path: Path) -> list[bytes]:
    """Return the lines of a text file, undecoded: for files in which single lines may be damaged. Only a line feed ends a
    line, with or without a carriage return before it: texts hold all of Unicode's other line ends."""
    return [line.removesuffix(b"\r") for line in read_bytes(path).removesuffix(b"\n").split(b"\n")]


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, each behind its number from 1 on; raise `ValueError` if it is
    missing, not UTF-8, or has no such line. Lines end as in `byte_lines`; one of tabs is not blank: its fields are."""
    found = False
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip(" \r"):
            found = True
            yield number, line.removesuffix("\r")
    if not found:
        raise ValueError(f"{path} is empty")


def single_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    Yield the lines of a text file that are not blank, each behind its number from 1 on, one at a time: for files larger than memory, in
    which single lines may be damaged. A byte that is not UTF-8 becomes half of a character (`surrogateescape`), which cannot be encoded.
    Raise `ValueError` if the file is missing or empty, or is no text.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file")
    with path.open("rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
    found = False
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        try:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise ValueError(f"{path} is not UTF-8 but UTF-16, or is not text: save it as UTF-8")
                if line.strip():
                    found = True
                    yield number, line.removesuffix("\n").removesuffix("\r")
        except UnicodeError as error:
            raise ValueError(f"{path} is not {encoding}, as its first bytes say: save it as UTF-8") from error
    if not found:
        raise ValueError(f"{path} is empty")


def json_value(text: str, **options: Any) -> Any:
    """Return the content of a JSON text (`options` are those of `json.loads`). Raise `ValueError`, which says why, if it is not
    JSON or no other file can hold it: too many digits or brackets, or half of a character (`\\ud800` alone)."""
    try:
        value = json.loads(text, **options)
        if SURROGATE.search(text):
            # A key or text with half of a pair of surrogates cannot be encoded.
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise ValueError(f"it has {half} alone, half of a pair that makes a character") from error
    except RecursionError as error:
        raise ValueError("it has too many brackets inside each other") from error
    return value


def parse_json(text: str, path: Path, line: int | None = None, **options: Any) -> Any:
    """Return the content of a JSON text, as `json_value` does: a file, or one `line` of it. Raise `ValueError`, naming file and
    line, if it is not JSON."""
    try:
        return json_value(text, **options)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}"
        raise ValueError(f"{path}: {place} is not JSON: {error.msg} (column {error.colno})") from error
    except ValueError as error:
        raise ValueError(f"{path}{f': line {line}' if line else ''} is not JSON that can be read: {error}") from error


def read_json(path: Path, **options: Any) -> Any:
    """Return the content of a JSON file; raise `ValueError` as `read_text` and `parse_json` do."""
    return parse_json(read_text(path), path, **options)


def json_entries(path: Path, what: str, key: str | None = None, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the list that a JSON file holds, under `key` if it is a dictionary, each behind its place
    for messages, which call the entries `what`. `options` are those of `json.loads`. Raise `ValueError` if the file is
    missing, is not JSON, or has no such list or an empty one."""
    entries, place = read_json(path, **options), str(path)
    if key:
        if not isinstance(entries, dict):
            found = "an empty list" if entries == [] else type(entries).__name__
            raise ValueError(f"{path}: expected a dictionary with a list of {what} under {key!r}, got {found}")
        if key not in entries:
            raise ValueError(f"{path} has no key {key!r} with a list of {what}")
        entries, place = entries[key], f"{path}: {key}"
    if not isinstance(entries, list):
        raise ValueError(f"{place}: expected a list of {what}, got {type(entries).__name__}")
    if not entries:
        raise ValueError(f"{place} is empty: expected a list of {what}")
    for number, entry in enumerate(entries):
        yield f"{place}[{number}]" if key else f"{path}: entry {number}", entry


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the JSON value of each line that is not blank, behind its place for messages; raise `ValueError` if the file
    is missing or empty, or, naming the line, not UTF-8 or not JSON."""
    for number, line in text_lines(path):
        if line.isspace():
            continue
        yield f"{path}: line {number}", parse_json(line, path, number)
