"""
Loading: the time from the bytes of a JPEG to pixels for the model, and how many samples a second a loader gives.

Ours is `RenaissanceProcessor.process_images` with pixels of 8 bits, which the model normalises; the stock way decodes with Pillow and
calls transformers' image processor for ViT. Both on one thread, by CPU seconds of the process, image after image. The
difference of pixels is in levels from 0 to 255, after both are normalised.

The images are those of `--images`, a folder of JPEG files, or drawn ones of 640x480 at quality 90. The loader reads pairs of them and
captions through our collator, and its rate is by wall seconds. A loader need not be faster than the step (group `step`).
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import PretrainingCollator
from renaissance.tasks.data.loading import undecoded
from renaissance.tasks.data.rows import KeyedRows
from renaissance.tasks.pretraining import FEATURES, CaptionPairs

from .measure import Spread, interleaved, ratios, use_threads
from .models import build_processor, caption, caption_lengths
from .report import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--images", type=Path, help="folder of .jpg files (default: drawn images)")
    parser.add_argument("--num_images", type=int, default=64, help="images a run (default: %(default)s)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--batch_size", type=int, default=16, help="of the loader (default: %(default)s)")


def run(args: argparse.Namespace) -> list[Table]:
    """Measures what the command line asks for."""
    files = read_files(args.images, args.num_images) if args.images else draw_files(args.num_images, args.seed)
    processor = build_processor()
    return [compare(files, processor, args.runs), rates(files, processor, args)]


def read_files(folder: Path, count: int) -> list[bytes]:
    """The bytes of the first files of a folder; raises `ValueError` where it has fewer."""
    paths = sorted(folder.rglob("*.jpg"))[:count]
    if len(paths) < count:
        raise ValueError(f"--images: expected {count} .jpg files in {folder}, found {len(paths)}")
    return [path.read_bytes() for path in paths]


def draw_files(count: int, seed: int) -> list[bytes]:
    """JPEG files of 640x480 with the spectrum of photos: noise of several scales, the coarser the stronger."""
    rng, files = np.random.default_rng(seed), []
    for _ in range(count):
        pixels = np.full((480, 640, 3), 128.0)
        for side in (5, 10, 20, 40, 80, 160):
            coarse = rng.integers(0, 256, (3 * side // 4 + 1, side, 3), dtype=np.uint8)
            scaled = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            pixels += (np.asarray(scaled) - 128.0) * 2 / side**0.5
        stored = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stored, "JPEG", quality=90)
        files.append(stored.getvalue())
    return files


def compare(files: list[bytes], processor: RenaissanceProcessor, runs: int) -> Table:
    """Both ways from bytes to pixels."""
    clock, stock = use_threads(1), ViTImageProcessorPil()

    def original(file: bytes) -> np.ndarray:
        return stock(Image.open(io.BytesIO(file)).convert("RGB"))["pixel_values"][0]

    def fast(file: bytes) -> np.ndarray:
        return processor.process_images([file], as_uint8=True)["pixel_values"][0]

    def timed(load) -> float:
        start = clock()
        for file in files:
            load(file)
        return (clock() - start) / len(files)

    found = interleaved({"stock": lambda run: timed(original), "ours": lambda run: timed(fast)}, runs)
    mean, std = (np.array(values)[:, None, None] for values in processor.pixel_statistics)
    differences = [np.abs((fast(file) - mean) / std - original(file)) * std for file in files]
    row = {"images": len(files), "bytes an image": sum(map(len, files)) / len(files)}
    row |= {f"ms an image, {side}": Spread.of([1e3 * value for value in values]) for side, values in found.items()}
    row["times faster"] = ratios(found["stock"], found["ours"])
    row["mean difference, levels"] = float(np.mean(differences))
    row["largest difference, levels"] = float(np.max(differences))
    return Table("From JPEG to pixels", [row])


def rates(files: list[bytes], processor: RenaissanceProcessor, args: argparse.Namespace) -> Table:
    """Samples a second of loaders with different numbers of worker processes, in turns."""
    clock, rng = use_threads(2), np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    captions = [[caption(length, rng)] for length in caption_lengths(len(files), rng)]
    rows = [
        {"image": {"bytes": file, "path": None}, "image_id": str(number), "captions": captions[number]}
        for number, file in enumerate(files)
    ]
    pairs = CaptionPairs(undecoded(Dataset.from_list(rows, features=FEATURES)), "drawn")
    loaders = {
        workers: DataLoader(
            KeyedRows(pairs, training=True),
            batch_size=args.batch_size,
            collate_fn=PretrainingCollator(processor, seed=args.seed),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in args.workers
    }

    def rate(loader: DataLoader) -> float:
        start = clock()
        for _ in loader:
            pass
        return len(files) / (clock() - start)

    sides = {workers: lambda run, loader=loader: rate(loader) for workers, loader in loaders.items()}
    found = interleaved(sides, args.runs)
    rows = [{"worker processes": workers, "samples/s": Spread.of(values)} for workers, values in found.items()]
    return Table("Samples a second of the loader", rows)
