"""
Options of the command line that are made from fields of other dataclasses: configurations, augmentations, objectives.

A field is an option if its metadata have a `help` text, as those of `modeling.fields.option` have; `default` there is
a default in words. The command line, recipes and the tables of the documentation are made from these fields.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """
    One option of the command line. A value of type `dict` is given as JSON, and a sequence as several values; the
    default is in words, or empty if `help` says it. Of a model's options, those `of_heads` have an effect on heads that
    list them, and those that are `changeable` on a checkpoint. Numbers are `within` an interval, as `check_bounds` reads it.
    """

    name: str
    type: Any
    help: str
    default: str = ""
    of_heads: bool = False
    changeable: bool = False
    within: str = ""

    def as_field(self) -> tuple[str, Any, dataclasses.Field]:
        """Return a field for `dataclasses.make_dataclass`; its value is `None` if the option is not given."""
        text = f"{self.help.rstrip('.')} (default: {self.default})." if self.default else self.help
        metadata = {"help": text.replace("%", "%%")} | ({"within": self.within} if self.within else {})
        kind = argument_type(self.type)
        if kind == bool | None:
            metadata |= {"nargs": "?", "const": True}
        return self.name, kind, dataclasses.field(default=None, metadata=metadata)


def options_of(kind: type, prefix: str = "", beyond: type | None = None) -> list[Option]:
    """
    Return the options that the fields of a dataclass make.

    Args:
        kind: The dataclass. Its annotations are types, not strings.
        prefix: Beginning of the options' names, before the names of the fields.
        beyond: A base class of `kind`, whose fields are left out.
    """
    inherited = {entry.name for entry in dataclasses.fields(beyond)} if beyond else set()
    return [
        Option(
            prefix + entry.name,
            entry.type,
            entry.metadata["help"],
            default_of(entry),
            entry.metadata.get("of_heads", False),
            entry.metadata.get("changeable", False),
            entry.metadata.get("within", ""),
        )
        for entry in dataclasses.fields(kind)
        if "help" in entry.metadata and entry.name not in inherited
    ]


def with_options(options: Iterable[Option], **attributes: Any) -> Callable[[type], type]:
    """
    Return a decorator that adds options to a dataclass of arguments, after its own fields, and sets class
    `attributes`. An option that is not given is `None`.
    """

    def add(base: type) -> type:
        namespace = {"__module__": base.__module__, "__doc__": base.__doc__, **attributes}
        fields = [option.as_field() for option in options]
        return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), namespace=namespace)

    return add


def given(arguments: object, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of the options among `names` that the user gave; 0 and false are values too."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def build_from(kind: type, arguments: object, prefix: str = "") -> Any:
    """Return an instance of the dataclass `kind` with the options, behind `prefix`, that the user gave."""
    values = given(arguments, (option.name for option in options_of(kind, prefix)))
    return kind(**{name.removeprefix(prefix): value for name, value in values.items()})


def argument_type(annotation: Any) -> Any:
    """Return the type, or `None`, that a command line reads for a field of type `annotation`."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if union else (annotation,)
    found = {typing.get_origin(member) or member: member for member in members if member is not types.NoneType}
    if dict in found:
        # Names, or a JSON object, where a list will do too.
        return list[str] | None if list in found else dict | str | None
    for sequence in {list, tuple} & found.keys():
        return list[typing.get_args(found[sequence])[0]] | None
    return (float if float in found else next(iter(found))) | None


def default_of(entry: dataclasses.Field) -> str:
    """Return the default of a field in words; nothing if it has none, or its text says it."""
    if "default" in entry.metadata:
        return entry.metadata["default"]
    factory = entry.default_factory
    return in_words(entry.default if factory is dataclasses.MISSING else factory())


def in_words(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(in_words, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, enum.Enum):
        return str(value.value)
    return "" if value is None else str(value)
