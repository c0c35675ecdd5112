"""Shared by the readers of public data sets: how a data set is described, its files are found, and bad entries are counted."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features


logger = logging.getLogger(__name__)

#: The share of a split that may be left out because it cannot be used, unless the user says otherwise.
MAX_BAD_FRACTION = 0.01


#: What entries of a split that a data set does not have are counted as.
UNKNOWN_SPLIT = "unknown split"


@dataclass(frozen=True)
class PublicDataSet:
    """
    A public data set, which `renaissance prepare` prepares.

    Args:
        help: The text of `--help`: the data set and its splits in one line, the source of the files, their layout.
        features: The schema of the rows.
        read: Called with the source folder, with the names of the `splits` that are wanted (`None`: all that there are)
            and with `options` by name. It returns the rows by split, in the order of the files, with images by path,
            unopened; `SourceRows` also say which entries were left out and why. It raises `ValueError`, naming all that
            is missing, if files, folders or splits are, and if a file as a whole is not as published.
        options: Options of `read`, each with the keyword arguments of `ArgumentParser.add_argument`.
        splits: The splits that there may be; `--splits` offers them.
    """

    help: str
    features: Features
    read: Callable[..., Mapping[str, Sequence[dict]]]
    options: dict[str, dict] = field(default_factory=dict)
    splits: Sequence[str] = ("train", "validation", "test")


class Unusable(ValueError):
    """An entry cannot be used. `kind` is what the summary counts it as; the message goes on after the entry's place."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class OutsideSource(ValueError):
    """An entry names a file outside of the source folder: reading stops, for such a file may have been made to do harm."""


@dataclass
class LeftOut:
    """
    The entries that a reader leaves out of a split.

    Attributes:
        bad: Those that cannot be used, as {"where", "kind", "reason"}; too many of them stop the preparation.
        by_rule: The numbers of those that the data set's rules or the user's options leave out, and of what was mended.
    """

    bad: list[dict[str, str]] = field(default_factory=list)
    by_rule: Counter[str] = field(default_factory=Counter)

    def add(self, where: str, kind: str, reason: str) -> None:
        """Record an entry that cannot be used."""
        self.bad.append({"where": where, "kind": kind, "reason": reason})

    @contextmanager
    def entry(self, where: str, what: str) -> Iterator[None]:
        """Record the entry at `where`, which should be `what`, if it cannot be used: if the block raises `Unusable`, finds
        no key, or meets a value of another type. Raise `ValueError` if it names a file outside of the source folder."""
        try:
            yield
        except OutsideSource as fault:
            raise ValueError(f"{where} {fault}") from fault
        except Unusable as fault:
            self.add(where, fault.kind, str(fault))
        except KeyError as fault:
            self.add(where, f"no key {fault}", f"has no key {fault}")
        except (AttributeError, IndexError, TypeError, ValueError) as fault:
            self.add(where, f"not {what}", f"is not {what}: {fault}")


@dataclass(frozen=True)
class SourceRows(Sequence):
    """Rows that are built from their entries when they are read: for millions of rows, entries take a fraction of the
    memory. `left_out` says which entries have become no row."""

    entries: Sequence
    build: Callable[[Any], dict] = lambda entry: entry
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        chosen = self.entries[index]
        return list(map(self.build, chosen)) if isinstance(index, slice) else self.build(chosen)


def left_out_of(rows: Iterable[dict]) -> LeftOut:
    """Return what a reader left out beside its rows; nothing if they are plain rows."""
    return rows.left_out if isinstance(rows, SourceRows) else LeftOut()


def counts_of(faults: Iterable[Mapping[str, str]]) -> str:
    """Return the numbers of faults of each kind, as a phrase, the most frequent first."""
    counts = Counter(fault["kind"] for fault in faults).most_common()
    return ", ".join(f"{kind} ({count:,})" for kind, count in counts)


def require_few_bad(split: str, rows: Sequence[dict], max_bad_fraction: float = MAX_BAD_FRACTION) -> None:
    """Raise `ValueError`, with the counts and the first place, if too large a share of a split's entries is bad."""
    check_fraction(max_bad_fraction)
    bad = left_out_of(rows).bad
    if len(bad) > max_bad_fraction * (total := len(rows) + len(bad)):
        raise ValueError(too_many_bad(split, bad, total, max_bad_fraction))


def check_fraction(max_bad_fraction: float) -> None:
    """Raise `ValueError` if this is not a share."""
    if not 0 <= max_bad_fraction <= 1:
        raise ValueError(f"max_bad_fraction is {max_bad_fraction}: expected a share from 0 to 1")


def too_many_bad(split: str, bad: Sequence[Mapping[str, str]], total: int, max_bad_fraction: float) -> str:
    """Return the message that more than a share of the rows of a split cannot be used: how many, why, and the first."""
    first = bad[0]
    place = f"{first['where']} {first['reason']}" if "where" in first else f"{first['file']} ({first['reason']})"
    return (
        f"split {split!r}: more than {max_bad_fraction:.2%} of {total} rows cannot be used: {counts_of(bad)}; the first: "
        f"{place}. Mend or complete the source folder, or allow more with --max_bad_fraction"
    )


def image_at(path: Path) -> dict:
    """Return an image column's value for a file, which is not opened."""
    return {"bytes": None, "path": str(path)}


def below(source: Path, name: str) -> Path:
    """Return the path of the file that an entry names, below the source folder; raise `OutsideSource` if it is not there.
    Links in the folder, which are the user's own, may lead elsewhere."""
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise OutsideSource(f"names the file {name}, which is outside of the source folder {source}")
    return source / name


def require_source(
    files: Mapping[str, Iterable[Path]],
    folders: Mapping[str, Iterable[Path]] | None = None,
    absent: Mapping[str, str] | None = None,
) -> None:
    """Raise `ValueError` in one line if splits lack something: all of the `files` and `folders`, by split, that do not
    exist, and the splits that a file has no entry of (`absent`). It also says which splits are complete."""
    folders, absent = folders or {}, absent or {}
    missing = {
        split: [str(path) for path in files.get(split, ()) if not path.is_file()]
        + [f"{path}/" for path in folders.get(split, ()) if not path.is_dir()]
        for split in dict.fromkeys([*files, *folders])
    }
    paths = list(dict.fromkeys(path for own in missing.values() for path in own))
    faults = [f"{', '.join(paths)} {'does' if len(paths) == 1 else 'do'} not exist"] if paths else []
    for path in dict.fromkeys(absent.values()):
        names = [repr(split) for split, file in absent.items() if file == path]
        faults.append(f"{path} has no entry of the split{'s' * (len(names) > 1)} {', '.join(names)}")
    if not faults:
        return
    complete = [split for split, own in missing.items() if not own and split not in absent]
    choice = f"; --splits {' '.join(complete)} prepares what is complete" if complete else ""
    raise ValueError(f"{'; '.join(faults)}: `renaissance prepare <data set> --help` shows the expected files{choice}")


def absent_splits(rows: Mapping[str, SourceRows], path: Path) -> dict[str, str]:
    """Return the splits without any entry, each with the name of the file for messages: behind it, the first entry in it
    whose split is unknown."""
    bad = [fault for own in rows.values() for fault in own.left_out.bad if fault["kind"] == UNKNOWN_SPLIT]
    place = f"{path} ({bad[0]['where'].removeprefix(f'{path}: ')} {bad[0]['reason']})" if bad else str(path)
    return {
        split: place
        for split, own in rows.items()
        if not len(own) and all(fault["kind"] == UNKNOWN_SPLIT for fault in own.left_out.bad)
    }


def wanted_splits(splits: Iterable[str] | None, available: Iterable[str]) -> list[str]:
    """Return those of the available splits that are wanted, in their order: all of them if `splits` is `None`."""
    return [split for split in available if splits is None or split in splits]


def without_split(split: str) -> str:
    """Return the end of a message about a split that is missing: how a run goes on without it."""
    options = {
        "train": "--do_train false",
        "validation": "--do_eval false --eval_strategy no",
        "test": "--do_predict false",
    }
    option = next((option for name, option in options.items() if split.startswith(name)), None)
    return f"; to go on without it, use {option}" if option else ""


def warn_of_no_split(split: str, path: Path) -> None:
    """Warn that a split will be missing because its file does not exist."""
    logger.warning(f"{path} does not exist: no split {split!r} is written{without_split(split)}")


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
