"""Reads the small files that runs write into their folders. Whatever else is in such a file is a `ValueError` in one line."""

import dataclasses
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml


Kind = TypeVar("Kind")


def read_mapping(path: Path) -> dict[str, Any]:
    """
    Return the object in a file of JSON, or the mapping in one of YAML. Raise `FileNotFoundError` if there is no file, and `ValueError`,
    which does not name it, if it cannot be read or has something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        name = path.suffix.removeprefix(".").upper()
        raise ValueError(f"not {name}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected entries with names, got {type(content).__name__}")
    return content


def made_of(kind: type[Kind], content: dict[str, Any]) -> Kind:
    """Return a dataclass with the entries of a file; raise `ValueError` if one is missing, unknown or of another type."""
    hints, fields = get_type_hints(kind), {each.name: each for each in dataclasses.fields(kind)}
    if unknown := sorted(content.keys() - fields.keys()):
        raise ValueError(f"no entry {unknown[0]} is known (of another version?)")
    if wrong := [name for name, value in content.items() if not fits(value, hints[name])]:
        raise ValueError(f"the entry {wrong[0]} has a value of another type: {str(content[wrong[0]])[:80]}")
    try:
        return kind(**content)
    except TypeError as error:
        raise ValueError(f"an entry is missing ({error})") from error


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value of JSON is of a type such as `int`, `str | None`, `list[int]` or `dict[str, Any]`."""
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any or kind is UnionType:
        return hint is Any or any(fits(value, part) for part in parts)
    if kind is list:
        return isinstance(value, list) and all(fits(each, parts[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(fits(each, parts[1]) for each in value.values())
    if hint in (int, float):
        # To Python, true is a number.
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint or NoneType)
