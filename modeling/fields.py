"""Fields of dataclasses that say what they are: the one place for an option's default and its help text."""

import dataclasses
import inspect
import textwrap
from typing import Any


def option(default: Any, text: str, default_is: str | None = None, **metadata: Any) -> Any:
    """
    A field that is also an option of the command line.

    Args:
        default: Its default; a list is copied.
        text: What it sets, as `--help` and the documentation say it.
        default_is: The default in words, if it is worked out later.
        metadata: Further entries of the field's metadata, such as `choices`.
    """
    return described(default, None, default_is, help=text, **metadata)


def described(default: Any, text: str | None, default_is: str | None = None, **metadata: Any) -> Any:
    """A field that is no option of the command line; arguments as those of `option`."""
    metadata = {name: value for name, value in {"doc": text, "default": default_is, **metadata}.items() if value}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def document_fields(kind: type) -> type:
    """Append the descriptions of all fields to the docstring of a dataclass."""
    lines = []
    for entry in dataclasses.fields(kind):
        if text := entry.metadata.get("help") or entry.metadata.get("doc"):
            type_name = entry.type.__name__ if isinstance(entry.type, type) else entry.type
            default = entry.metadata.get("default", entry.default)
            line = f"{entry.name} ({type_name}, default: {default}): {text}"
            lines += textwrap.wrap(line, 115, initial_indent=" " * 4, subsequent_indent=" " * 8)
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__), "", "Args:", *lines])
    return kind
