"""Writes a prepared data set: Parquet shards with encoded images, which `datasets.load_dataset` reads as they are."""

import functools
import hashlib
import itertools
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from datasets import Features
from tqdm.auto import tqdm

from ...processing.decoding import MAX_PIXELS, check_limit
from . import shards
from .images import JPEG_QUALITY, is_broken, prepare_row
from .readers import MAX_BAD_FRACTION, check_fraction, left_out_of, too_many_bad
from .shards import (
    SplitSummary,
    UnfinishedSplit,
    find_shards,
    is_whole,
    read_json,
    summary_of,
    unfinished_folder,
    write_json,
)


REPORT_FILE = "report.json"
#: Small, because reading one row reads its whole row group.
ROW_GROUP_ROWS = 100
#: Row groups that are prepared while one is written.
LOOKAHEAD = 2


def plan_of(
    rows: Sequence[dict], features: Features, shorter_side: int | None = None, max_image_pixels: int = MAX_PIXELS
) -> str:
    """Return a digest of the rows and options that a split is written from, without the contents of image files."""
    sizes = (shorter_side, max_image_pixels)
    options = (features.arrow_schema.to_string(), *sizes, JPEG_QUALITY, shards.SHARD_BYTES, ROW_GROUP_ROWS)
    found = hashlib.sha256(repr(options).encode())
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()


def check_output(
    folder: str | os.PathLike,
    splits: Iterable[str],
    overwrite: bool = False,
    plans: Mapping[str, str | None] | None = None,
) -> None:
    """Raise `ValueError` if a folder already holds one of the splits and `overwrite` is not set. A split that was
    written, or begun, by the plan that `plans` has for it (see `plan_of`) may stay."""
    folder = Path(folder)
    for split in splits:
        if overwrite or not find_shards(folder, split):
            continue
        plan = (plans or {}).get(split)
        begun = read_json(unfinished_folder(folder, split) / "plan.json") or {}
        if plan is None or plan not in (_read_report(folder, split).get("plan"), begun.get("plan")):
            raise ValueError(
                f"{folder} already holds a prepared split {split!r}: choose another output folder, "
                "or pass --overwrite to replace it"
            )


def write_split(
    rows: Iterable[dict],
    features: Features,
    folder: str | os.PathLike,
    split: str,
    num_rows: int,
    shorter_side: int | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    overwrite: bool = False,
    plan: str | None = None,
    num_workers: int | None = None,
    max_image_pixels: int = MAX_PIXELS,
) -> SplitSummary:
    """
    Write one split as `<split>-00000-of-0000N.parquet`, rows in the order given.

    Images are stored as encoded bytes, those of the source unless shrunk. A row with a missing or broken image is left
    out and its image listed in the folder's report.json, beside the entries that the reader could not use
    (`rows.left_out`). The shards get their names when all are complete. After an interruption, or a refusal, a call
    with the same plan resumes behind the last finished shard. A finished split whose shards are gone or cut is written anew.

    Args:
        rows: Have the columns of `features`; an image is {"bytes", "path"}, read from the path if bytes is None.
        shorter_side: Images whose shorter side has more pixels are shrunk to it and stored as JPEG; None: never.
        max_bad_fraction: The share of rows, from 0 to 1, that may be left out because the reader or the writer cannot use
            them.
        overwrite: Replace the split if the folder already holds it, and begin an unfinished one anew.
        plan: The digest of `plan_of`; a split that was written by it is kept. None: an interrupted split is begun anew.
        num_workers: Threads that read, check and shrink images (Pillow does so outside of Python's lock); None: one a processor.
        max_image_pixels: Images whose headers promise more pixels count as broken.

    Raises:
        ValueError: If the folder holds the split and `overwrite` is not set, more than `max_bad_fraction` of the rows are bad, no
            row is left, a row has other columns than `features`, an argument is out of range, or images that boxes lie in are
            to be shrunk.
    """
    check_fraction(max_bad_fraction)
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter_side is {shorter_side}: expected at least 1 pixel")
    if shorter_side is not None and "boxes" in features:
        raise ValueError("shorter_side: the boxes of this data set are in pixels of the original images; leave it out")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: expected at least 1")
    check_limit(max_image_pixels)
    folder = Path(folder)
    check_output(folder, [split], overwrite, {split: plan})
    if overwrite:
        shutil.rmtree(unfinished_folder(folder, split), ignore_errors=True)
    elif plan is not None and (report := _read_report(folder, split)).pop("plan", None) == plan:
        finished = summary_of(split, report)
        if finished is not None and is_whole(folder, split, finished.bytes):
            # What a run has left that was cut off at its end.
            shutil.rmtree(unfinished_folder(folder, split), ignore_errors=True)
            return finished
    unfinished = UnfinishedSplit(folder, split, features.arrow_schema, plan)
    sizes = {"shorter_side": shorter_side, "max_pixels": max_image_pixels}
    summary = unfinished.begin(functools.partial(is_broken, **sizes))
    left_out = left_out_of(rows)
    summary.skipped, summary.by_rule = left_out.bad, {kind: n for kind, n in left_out.by_rule.items() if n}
    try:
        _check_bad(summary, max_bad_fraction, num_rows, folder)
        rest = itertools.islice(rows, summary.rows_read, None)
        with tqdm(rest, total=num_rows, initial=summary.rows_read, desc=split, unit="row", disable=None) as progress:
            prepare = functools.partial(prepare_row, features=features, **sizes)
            for chunk in _prepare(progress, prepare, num_workers or os.cpu_count(), summary):
                _check_bad(summary, max_bad_fraction, num_rows, folder)
                unfinished.write(chunk, summary)
        unfinished.close(summary)
        if not summary.rows:
            raise ValueError(f"split {split!r} has no rows with readable images: nothing to write to {folder}")
        summary.bytes = unfinished.publish()
    except BaseException:
        unfinished.abandon()
        raise
    _write_report(folder, summary, plan)
    shutil.rmtree(unfinished.folder)
    return summary


def _prepare(
    rows: Iterable[dict], prepare: Callable[[dict], tuple], workers: int, summary: SplitSummary
) -> Iterator[list[dict]]:
    """Yield chunks of rows after `prepare`; count rows, sentences and broken images in the summary."""
    rows, waiting = iter(rows), deque()
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) <= LOOKAHEAD and (chunk := list(itertools.islice(rows, ROW_GROUP_ROWS))):
                waiting.append(pool.map(prepare, chunk))
            if not waiting:
                return
            prepared = list(waiting.popleft())
            kept = [row for row, broken in prepared if not broken]
            summary.broken += itertools.chain.from_iterable(broken for _, broken in prepared)
            summary.rows_read += len(prepared)
            summary.rows_left_out += len(prepared) - len(kept)
            summary.rows += len(kept)
            summary.sentences += sum(map(count_sentences, kept))
            yield kept


def count_sentences(row: dict) -> int:
    """Return the number of captions, questions and other texts of a row."""
    return len(row.get("captions", ())) + sum(column in row for column in ("text", "text_pair"))


def _check_bad(summary: SplitSummary, max_bad_fraction: float, num_rows: int, folder: Path) -> None:
    skipped = len(summary.skipped)
    if summary.rows_left_out + skipped <= max_bad_fraction * (num_rows + skipped):
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_report(folder, summary, None)
    bad = summary.broken + summary.skipped
    message = too_many_bad(summary.split, bad, num_rows + skipped, max_bad_fraction)
    raise ValueError(f"{message}. {folder / REPORT_FILE} lists those found so far")


def _read_report(folder: Path, split: str) -> dict:
    entry = (read_json(folder / REPORT_FILE) or {}).get(split, {})
    return entry if isinstance(entry, dict) else {}


def _write_report(folder: Path, summary: SplitSummary, plan: str | None) -> None:
    # A refused split was not written, however many of its rows had been read.
    entry = asdict(summary) | ({} if summary.bytes else {"rows": 0, "sentences": 0}) | ({"plan": plan} if plan else {})
    write_json(folder / REPORT_FILE, (read_json(folder / REPORT_FILE) or {}) | {entry.pop("split"): entry})
