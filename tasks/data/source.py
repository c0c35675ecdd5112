"""What the readers of public layouts share: rows that are built when they are read, and what is missing from a folder."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features, List
from datasets import Image as ImageFeature


class SourceRows(Sequence):
    """
    Rows that are built when they are read, for data sets of millions of rows: an entry takes a fraction of the memory.

    Args:
        entries: What a row is built from, an entry each.
        build: Makes a row, a dictionary, of an entry.
        skipped: What the reader left out because it could not be used, as {"where", "reason"}.
    """

    def __init__(self, entries: Sequence, build: Callable[[Any], dict], skipped: Iterable[dict[str, str]] = ()):
        self.entries = entries
        self.build = build
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        return self.build(self.entries[index])


def require_files(*paths: Path) -> None:
    """Raises `ValueError`, naming all that are missing, where one of the files does not exist."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"no file {', '.join(missing)}: expected the data set's annotations there; --help has the layout"
        )


def held_out(image_id: str, share: float) -> bool:
    """Whether an image belongs to the validation split of a data set that has no split of its own: about `share` of the images,
    by a digest of the id, so that an image stays where it is when others come or go."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) < share * 2**64


def check_share(name: str, share: float) -> None:
    """Raises `ValueError` where an option is no share from 0 to below 1."""
    if not 0 <= share < 1:
        raise ValueError(f"{name} is {share}: expected a share from 0 to below 1")


def image_columns(features: Features) -> Iterator[tuple[str, bool]]:
    """The columns that hold images, and whether they hold a list of them."""
    for column, feature in features.items():
        if isinstance(feature, ImageFeature):
            yield column, False
        elif isinstance(feature, List) and isinstance(feature.feature, ImageFeature):
            yield column, True


@dataclass
class SplitCheck:
    """What a source folder has of a split: rows, rows that the reader could not use, different image files that the rows name,
    and those of them that are missing."""

    split: str
    rows: int
    skipped: int
    images: int = 0
    missing: list[str] = field(default_factory=list)


def check_images(splits: Mapping[str, Sequence[dict]], features: Features) -> list[SplitCheck]:
    """Which of the image files that the rows name are there; folders are listed, no image is opened."""
    columns = list(image_columns(features))
    listings: dict[str, set[str]] = {}
    checks = []
    for split, rows in splits.items():
        named = {}
        for row in rows:
            for column, several in columns:
                images = row[column] if several else [row[column]]
                named |= dict.fromkeys(image["path"] for image in images if image["bytes"] is None)
        check = SplitCheck(split, len(rows), len(getattr(rows, "skipped", ())), len(named))
        for path in named:
            folder, name = os.path.split(path)
            if folder not in listings:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in listings[folder]:
                check.missing.append(path)
        checks.append(check)
    return checks
