"""Fields of dataclasses that say what they are: the one place for an option's default and its help text."""

import dataclasses
import inspect
import math
import textwrap
from collections.abc import Mapping
from typing import Any


def option(default: Any, text: str, default_is: str | None = None, **metadata: Any) -> Any:
    """
    A field that is also an option of the command line.

    Args:
        default: Its default; a list is copied.
        text: What it sets, as `--help` and the documentation say it.
        default_is: The default in words, if it is worked out later.
        metadata: Further entries of the field's metadata, such as `choices`, and `within`: the `Interval` of a number, such
            as `"[0, 1)"`, which `check_bounds` checks.
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


@dataclasses.dataclass(frozen=True)
class Interval:
    """
    The numbers that an option may be. `low` and `high` may be infinite, which is never among the numbers.

    Attributes:
        low, high: The ends.
        with_low, with_high: Whether the ends are among the numbers.
    """

    low: float
    high: float
    with_low: bool
    with_high: bool

    @classmethod
    def read(cls, text: str) -> "Interval":
        """Return what is written as in mathematics: `"[0, 1)"` is from 0 to below 1, `"[1, inf)"` is at least 1."""
        low, high = text[1:-1].split(",")
        return cls(float(low), float(high), text[0] == "[", text[-1] == "]")

    def __contains__(self, number: float) -> bool:
        above = number >= self.low if self.with_low else number > self.low
        below = number <= self.high if self.with_high else number < self.high
        # No comparison with NaN is true.
        return above and below

    def __str__(self) -> str:
        low, high = (f"{end:.15g}" for end in (self.low, self.high))
        lower = f"at least {low}" if self.with_low else f"more than {low}"
        upper = f"at most {high}" if self.with_high else f"less than {high}"
        if math.isinf(self.high):
            return "a finite number" if math.isinf(self.low) else lower
        if not self.with_low:
            return f"{lower} and {upper}"
        return f"from {low} to {high if self.with_high else f'below {high}'}"


#: The numbers of an option that says nothing of its numbers.
FINITE = Interval.read("(-inf, inf)")


def check_bounds(instance: object, further: Mapping[str, str] | None = None, prefix: str = "") -> None:
    """
    Check the numbers in the fields of a dataclass, also those in lists. The default of a field is always allowed.

    Args:
        instance: The instance of the dataclass. An interval is in the metadata of its field, under `within`; other
            numbers must be finite.
        further: Intervals of fields that have none in their metadata, by name.
        prefix: Beginning of the options' names in messages, before the names of the fields.

    Raises:
        ValueError: If a number is not in its interval, or is no finite number.
    """
    for entry in dataclasses.fields(instance):
        value, written = getattr(instance, entry.name), entry.metadata.get("within", (further or {}).get(entry.name))
        interval = Interval.read(written) if written else FINITE
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if type(number) in (int, float) and number != entry.default and number not in interval:
                raise ValueError(f"{prefix}{entry.name}: expected {interval}, got {number}")
