"""
How fast cached features come through a shuffling loader, in images a second. Not a test: it writes, by default, 0.6 GB.

    OMP_NUM_THREADS=1 python tests/feature_reading.py FOLDER --images 2000 --patches 197 --width 768
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image
from safetensors.numpy import save_file
from torch.utils.data import DataLoader

from renaissance.processing.collators import RowCollator
from renaissance.processing.processing_renaissance import RenaissanceProcessor
from renaissance.tasks.data.cached import mapped, stored_images
from renaissance.tasks.data.rows import KeyedRows
from renaissance.tasks.data.shapes import write_tokenizer
from renaissance.tasks.features import SHARD_BYTES, read_shards


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


def measure(folder: Path, images: int, processor: RenaissanceProcessor, batch_size: int, workers: int) -> float:
    """Images a second, through rows, look-up, collator and loader."""
    column = {"image": [{"bytes": b"", "path": None}] * images}
    rows = KeyedRows(Dataset.from_dict(column, features=Features({"image": Image(decode=False)})), training=True)
    (stored,) = stored_images(rows)
    features, hashes = read_shards(folder)
    stored.put_in_place(np.arange(len(hashes)), features)
    loader = DataLoader(rows, batch_size, shuffle=True, num_workers=workers, collate_fn=RowCollator(processor))
    start = time.perf_counter()
    seen = sum(len(batch["image_features"]) for batch in loader)
    assert seen == images
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the features are written, and left")
    for name, default in (("images", 2000), ("patches", 197), ("width", 768), ("batch_size", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    write(args.folder, args.images, args.patches, args.width)
    write_tokenizer(args.folder / "tokenizer")
    processor = RenaissanceProcessor.from_encoders(str(args.folder / "tokenizer"))
    for workers in (0, 1, 2):
        for where in ("disk", "memory"):
            speeds = []
            for _ in range(args.rounds):
                if where == "disk":
                    forget(args.folder)
                speeds.append(measure(args.folder, args.images, processor, args.batch_size, workers))
            print(f"{workers} loader processes, files in {where}: {np.median(speeds):.0f} images/s (all: "
                  f"{', '.join(f'{speed:.0f}' for speed in speeds)})")  # fmt: skip


if __name__ == "__main__":
    main()
