"""
How fast cached features come through a shuffling loader: images a second, from rows to batches, by wall seconds, with torch on one
thread a process. The clock starts with the first batch: how long loader processes take to start is not in it.

Random features are written into a temporary folder, by default 1.8 GB of those of ViT-Base, in files as large as those of runs, and
read with the files in the system's memory, or after it was told to forget them. The loader need not be faster than the step
(group `step`).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image
from safetensors.numpy import save_file
from torch.utils.data import DataLoader

from renaissance.commands.parsing import ROWS
from renaissance.processing.collators import RowCollator
from renaissance.tasks.data.image_cache import mapped, stored_images
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.image_cache import SHARD_BYTES, read_shards

from .measure import Spread, interleaved
from .models import build_processor
from .options import add_count, add_worker_numbers
from .report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    add_count(parser, "images", 6000)
    add_count(parser, "patches", 197, "states of an image")
    add_count(parser, "width", 768, "numbers of a state")
    add_count(parser, "batch_size", 64, among=ROWS)
    add_worker_numbers(parser)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measures what the command line asks for."""
    torch.set_num_threads(1)
    table = report.table("Cached features through a loader, images a second")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, args.images, args.patches, args.width)
        for workers in args.workers:
            found = interleaved(
                {
                    "not in memory": lambda run, workers=workers: rate(folder, args, workers, forgotten=True),
                    "in memory": lambda run, workers=workers: rate(folder, args, workers, forgotten=False),
                },
                args.runs,
            )
            row = {"worker processes": workers, "KB an image": args.patches * args.width * 2 / 1000}
            table.add(row | {f"files {where}": Spread.of(values) for where, values in found.items()})


def write(folder: Path, images: int, patches: int, width: int) -> None:
    """Random features, in files as large as those of runs."""
    rng = np.random.default_rng(0)
    size = SHARD_BYTES // (patches * width * 2)
    for start in range(0, images, size):
        count = min(size, images - start)
        features = rng.standard_normal((count, patches, width), dtype=np.float32).astype(np.float16)
        hashes = np.arange(start, start + count, dtype=np.uint64)
        save_file({"features": features, "hashes": hashes}, folder / f"features-{start:08d}.safetensors")


def forget(folder: Path) -> None:
    """Has the system drop what it keeps of the files in memory, which it does not with what is mapped."""
    mapped.cache_clear()
    for path in folder.glob("features-*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(folder: Path, args: argparse.Namespace, workers: int, forgotten: bool) -> float:
    """Images a second, through rows, look-up, collator and loader; `forgotten` says whether the files are read from disk."""
    if forgotten:
        forget(folder)
    column = {"image": [{"bytes": b"", "path": None}] * args.images}
    rows = KeyedRows(Dataset.from_dict(column, features=Features({"image": Image(decode=False)})), training=True)
    rows.begin_epoch(0)
    (stored,) = stored_images(rows)
    features, hashes = read_shards(folder)
    stored.put_in_place(np.arange(len(hashes)), features)
    loader = DataLoader(
        rows, args.batch_size, shuffle=True, num_workers=workers, collate_fn=RowCollator(build_processor())
    )
    batches = iter(loader)
    first = len(next(batches)["image_features"])
    start = time.perf_counter()
    seen = sum(len(batch["image_features"]) for batch in batches)
    assert first + seen == args.images
    return seen / (time.perf_counter() - start)
