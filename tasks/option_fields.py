"""Options of a command line that are made from dataclasses elsewhere."""

import dataclasses
from collections.abc import Iterable
from typing import Any


def with_options(base: type, kinds: Iterable[type]) -> type:
    """Return the dataclass `base` with the fields of other dataclasses, each `None` unless given."""
    made = []
    for kind in kinds:
        for option in dataclasses.fields(kind):
            metadata = dict(option.metadata) | {
                "help": f"{option.metadata['help'].removesuffix('.')} ({option.default})."
            }
            made.append((option.name, option.type | None, dataclasses.field(default=None, metadata=metadata)))
    return dataclasses.make_dataclass(base.__name__, made, bases=(base,))


def build_from(kind: type, arguments: Any) -> Any:
    """Return an instance of the dataclass `kind` with the options that `arguments` have of it."""
    given = {option.name: getattr(arguments, option.name, None) for option in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})
