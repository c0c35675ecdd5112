"""Shared by the readers of public data sets: how a data set is described, files are opened, and faults are named."""

import hashlib
import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublicDataSet:
    """
    A public data set, which `prepare_data.py` prepares.

    Args:
        help: The text of `--help`: the data set and its splits in one line, the source of the files, their layout.
        features: The schema of the rows.
        read: Called with the source folder, and with `options` by name. It returns the rows by split, in the order of
            the files, with images by path, unopened. It raises `ValueError`, naming file and entry, if a file is
            missing or is not as published: a key, a text or a label is missing or unknown, an id comes twice.
        options: Options of `read`, each with the keyword arguments of `ArgumentParser.add_argument`.
    """

    help: str
    features: Features
    read: Callable[..., Mapping[str, Sequence[dict]]]
    options: dict[str, dict] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceRows(Sequence):
    """Rows that are built from their entries when they are read: for millions of rows, entries take a fraction of the
    memory. `skipped` are the entries that the reader could not use, as {"where", "reason"}."""

    entries: Sequence
    build: Callable[[Any], dict]
    skipped: Sequence[dict[str, str]] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        return self.build(self.entries[index])


def image_at(path: Path) -> dict:
    """Return an image column's value for a file, which is not opened."""
    return {"bytes": None, "path": str(path)}


def require_files(*paths: Path) -> None:
    """Raise `ValueError`, naming all that are missing, if one of the files does not exist."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        verb = "does" if len(missing) == 1 else "do"
        raise ValueError(
            f"{', '.join(missing)} {verb} not exist: `prepare_data.py <data set> --help` shows the expected files"
        )


def parse_json(text: str, where: str, **options: Any) -> Any:
    """Return the content of a JSON text (`options` are those of `json.loads`); raise `ValueError` if it is not JSON."""
    try:
        return json.loads(text, **options)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def read_text(path: Path) -> str:
    """Return the content of a file, with its own line ends; raise `ValueError` if it is missing or not UTF-8."""
    require_files(path)
    try:
        # Some files begin with a byte-order mark.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def json_entries(path: Path, what: str, key: str | None = None, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the list that a JSON file holds, under `key` if it is a dictionary, each behind its place
    for messages, which call the entries `what`. `options` are those of `json.loads`. Raise `ValueError` if the file is
    missing, is not JSON, or has no such list or an empty one."""
    content = parse_json(read_text(path), str(path), **options)
    if key and not (isinstance(content, dict) and isinstance(content.get(key), list)):
        raise ValueError(f"{path} has no key {key!r} with a list of {what}")
    entries = content[key] if key else content
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of {what}, got {type(entries).__name__}")
    if not entries:
        raise ValueError(f"{path} is empty: expected a list of {what}")
    for number, entry in enumerate(entries):
        yield f"{path}: {key}[{number}]" if key else f"{path}: entry {number}", entry


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the JSON value of each line that is not blank, behind its place; raise `ValueError` as `json_entries` does."""
    lines = [(f"{path}: line {number}", line) for number, line in enumerate(read_text(path).split("\n"), start=1)]
    if not (lines := [(where, line) for where, line in lines if line.strip()]):
        raise ValueError(f"{path} is empty: expected one JSON object a line")
    for where, line in lines:
        yield where, parse_json(line, where)


def read_pickle(path: Path, encoding: str, admitted: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """Return the lists, dictionaries, strings and numbers in a pickle of Python 2, whose strings have an `encoding` or
    stay `"bytes"`. Anything else could run code: raise `ValueError` if it calls more than `admitted`, by module and
    name, or if the file is missing or damaged."""

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in (admitted or {}):
                raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
            return admitted[module, name]

    require_files(path)
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file, encoding=encoding).load()
    # A damaged pickle raises errors of many types.
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


@contextmanager
def named_faults(where: str, kind: str) -> Iterator[None]:
    """Turn errors about the entry at `where`, a missing key or a value that does not fit, into `ValueError`."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where} has no key {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not {kind}: {error}") from error


def log_left_out(path: Path, counts: Counter[str]) -> None:
    """Warn about the entries of a file that a reader left out, counted by kind."""
    for what, count in counts.items():
        if count:
            logger.warning("%s: left out %d %s", path, count, what)


def split_by_id(validation_share: float) -> Callable[[str], str]:
    """Return a function from an image id to its split, for data without a validation split: about this share of the
    images is in it, by a digest of the id, whatever the other images are. Raise `ValueError` if it is not a share."""
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}: expected a share from 0 to below 1")

    def split_of(image_id: str) -> str:
        drawn = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8])
        return "validation" if drawn < validation_share * 2**64 else "train"

    return split_of


def held_out_option(default: float) -> dict[str, dict]:
    """Return the option that holds images out for validation (see `split_by_id`)."""
    return {
        "validation_share": {
            "type": float,
            "default": default,
            "help": "share of the images, by a digest of their ids, that form the validation split (default: %(default)s)",
        }
    }
