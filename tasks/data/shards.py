"""Parquet shards of a split that is being written, and what a later run needs to go on from them."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


SHARD_BYTES = 500_000_000

#: What the record of a shard counts: attributes of the summary.
COUNTED = {"rows_read", "rows", "rows_left_out", "sentences"}


@dataclass
class SplitSummary:
    """The numbers of a split's rows, sentences (captions, questions and other texts) and bytes on disk; the bad images as
    {"file", "kind", "reason"}, the entries that the reader could not use as {"where", "kind", "reason"}, and the numbers of
    what it left out, or mended, by the rules of the data set."""

    split: str
    rows_read: int = 0
    rows: int = 0
    rows_left_out: int = 0
    sentences: int = 0
    bytes: int = 0
    broken: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    by_rule: dict[str, int] = field(default_factory=dict)


class UnfinishedSplit:
    """
    The shards of a split that is being written, in a hidden folder in `folder`, which `load_dataset` passes over. Row
    groups are added, a file that has grown to `SHARD_BYTES` is closed, and `publish` gives all files their names.

    A finished shard `00003` has a record `00003.json` beside it, written last, with the file's digest and the summary so
    far. A run with the same `plan` resumes behind the shards whose records hold; with None it begins anew.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, plan: str | None):
        self.output, self.split, self.schema, self.plan = folder, split, schema, plan
        self.folder = unfinished_folder(folder, split)
        self.writer: pq.ParquetWriter | None = None
        self.file: BinaryIO | None = None
        self.shard_bytes = 0
        self.num_finished = 0
        self.recorded_broken = 0

    def begin(self, is_broken: Callable[[str], bool]) -> SplitSummary:
        """Return the summary of the shards that an earlier run with this plan has finished, up to the first that is
        damaged or lacks an image whose file is no longer broken (`is_broken`); remove all others."""
        summary, kept = SplitSummary(self.split), {"plan.json"}
        if self.plan is None or (read_json(self.folder / "plan.json") or {}).get("plan") != self.plan:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        while record := read_json(self.shard.with_suffix(".json")):
            counts, sha256, broken = (record.get(name) for name in ("counts", "sha256", "broken"))
            so_far = summary_of(self.split, (counts | {"broken": broken}) if isinstance(counts, dict) else None)
            if so_far is None or {*counts} != COUNTED or not all("file" in image for image in so_far.broken):
                # The record is damaged.
                break
            self.take_back(sha256)
            whole = self.shard.is_file() and digest(self.shard) == sha256
            if not (whole and all(is_broken(image["file"]) for image in so_far.broken)):
                break
            so_far.broken = summary.broken + so_far.broken
            summary = so_far
            kept |= {self.shard.name, f"{self.shard.name}.json"}
            self.num_finished += 1
        self.recorded_broken = len(summary.broken)
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        if self.plan is not None:
            write_json(self.folder / "plan.json", {"plan": self.plan})
        return summary

    def take_back(self, sha256: str) -> None:
        """Take back the shard at hand if it has got its name already: the earlier run was cut off while it named its shards."""
        named = self.output.glob(f"{self.split}-{self.num_finished:05d}-of-*.parquet")
        for path in named if not self.shard.exists() else ():
            if digest(path) == sha256:
                os.replace(path, self.shard)
                return

    def write(self, rows: list[dict], summary: SplitSummary) -> None:
        """Add rows as a row group; `summary` counts them and all before them."""
        if rows:
            if self.writer is None:
                self.file = self.shard.open("wb")
                self.writer = pq.ParquetWriter(self.file, self.schema)
            table = pa.Table.from_pylist(rows, schema=self.schema)
            self.writer.write_table(table)
            self.shard_bytes += table.nbytes
        if self.shard_bytes >= SHARD_BYTES:
            self.close(summary)

    def close(self, summary: SplitSummary) -> None:
        """End the shard at hand, if there is one, and record it."""
        if self.writer is None:
            return
        self.writer.close()
        self.file.flush()
        # Before the record that says that it is whole, also if the machine loses power.
        os.fsync(self.file.fileno())
        self.file.close()
        self.writer, self.shard_bytes = None, 0
        counts = {name: getattr(summary, name) for name in sorted(COUNTED)}
        record = {"sha256": digest(self.shard), "counts": counts, "broken": summary.broken[self.recorded_broken :]}
        write_json(self.shard.with_suffix(".json"), record)
        self.num_finished += 1
        self.recorded_broken = len(summary.broken)

    def abandon(self) -> None:
        """End an attempt that failed; the finished shards stay for a later run, if there is a plan to know them by."""
        if self.writer is not None:
            # Each writes what is left, for which there may be no room.
            for each in (self.writer, self.file):
                with contextlib.suppress(OSError):
                    each.close()
        if self.plan is None or not (self.folder / "00000.json").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self) -> int:
        """Give the shards their names, in place of the split's earlier shards; return their size in bytes."""
        for shard in find_shards(self.output, self.split):
            shard.unlink()
        for number in range(self.num_finished):
            name = f"{self.split}-{number:05d}-of-{self.num_finished:05d}.parquet"
            os.replace(self.folder / f"{number:05d}", self.output / name)
        return sum(shard.stat().st_size for shard in find_shards(self.output, self.split))

    @property
    def shard(self) -> Path:
        """The shard at hand."""
        return self.folder / f"{self.num_finished:05d}"


def unfinished_folder(folder: Path, split: str) -> Path:
    """Return the folder of the shards of a split until all are finished."""
    return folder / f".unfinished-{split}"


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split that have their names, in order."""
    return sorted(folder.glob(f"{split}-*-of-*.parquet"))


def is_whole(folder: Path, split: str, size: int) -> bool:
    """Return whether a folder holds all shards of a split that was finished, with `size` bytes in all."""
    shards = find_shards(folder, split)
    names = [f"{split}-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards))]
    files = all(shard.is_file() for shard in shards)
    return (
        files and [shard.name for shard in shards] == names and sum(shard.stat().st_size for shard in shards) == size
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict | None:
    """Return the object in a JSON file; `None` if there is none, or it was cut off or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def summary_of(split: str, content: object) -> SplitSummary | None:
    """Return the summary of a split from a file that may be damaged; `None` if it holds something else."""
    kinds = {each.name: type(getattr(SplitSummary(split), each.name)) for each in fields(SplitSummary)}
    fits = isinstance(content, dict) and all(type(value) is kinds.get(name) for name, value in content.items())
    lists = [value for value in content.values() if isinstance(value, list)] if fits else []
    if not fits or not all(isinstance(each, dict) for entries in lists for each in entries):
        return None
    return SplitSummary(**{"split": split} | content)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file that is whole or not there."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
