"""
Loading: the time from the bytes of a JPEG to pixels for the model, and how many samples a second a loader gives.

Three ways, in batches, by CPU seconds of the process on one thread: "stock" decodes with Pillow and calls transformers' image processor;
"in full" and "ours" make pixels of 8 bits and normalise them as the model does, the former of images that are decoded in full, the
latter, as loaders do it, at the smallest fraction of their size that is enough. The differences from the stock pixels, before any are
normalised, are in levels from 0 to 255.

The images are drawn ones of 640x480, or those of `--images`, a folder of JPEG files: as they are, and fitted to 320x240 and then
enlarged to 640x480 or put together in fours and sixteens, which makes soft and sharp images of their size; all at quality 90. Sharp
ones of 640x480 (or the drawn ones) also go through the whole collator in each way that a run has to load images, with the number of cores
that feed a GPU of 3,000 samples a second. The
loader reads the first kind and captions through our collator, and its rate is by wall seconds. It need not be faster than the step
(group `step`).
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.commands.parsing import ROWS, existing_folder
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.decoding import Resizing, decode
from renaissance.tasks.arguments import CachingArguments, RunArguments
from renaissance.tasks.data import schemas
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.opening import undecoded
from renaissance.tasks.feature_cache import cache_features
from renaissance.tasks.pixel_cache import cache_pixels

from .measure import Spread, interleaved, ratios, use_threads
from .models import build_model, build_processor, caption, caption_lengths
from .options import add_count, add_worker_numbers
from .report import Report, Table


#: Samples a second that one GPU takes of a small model.
GPU_RATE = 3000

#: ViT's and DeiT's, and CLIP's.
IMAGE_PROCESSORS = {"bilinear, stretched": ViTImageProcessorPil(), "bicubic, middle": CLIPImageProcessorPil()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--images", type=existing_folder, help="folder of .jpg files (default: drawn images)")
    add_count(parser, "num_images", 64, "images a run")
    add_worker_numbers(parser)
    add_count(parser, "batch_size", 16, among=ROWS)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measures what the command line asks for."""
    # Once a large block was freed, the C library keeps the memory of arrays instead of asking for it anew each time, which costs the
    # image processor, with its arrays of float64, most. A run has freed many before it loads anything.
    np.zeros(30_000_000, dtype=np.uint8)
    if args.images:
        sets = sets_of(read_files(args.images, args.num_images))
    else:
        sets = {"drawn, 640x480": draw_files(args.num_images, args.seed)}
    table = report.table("From JPEG to pixels of 224x224")
    for name, image_processor in IMAGE_PROCESSORS.items():
        for kind, files in sets.items():
            compare(table, {"image processor": name, "JPEGs": kind}, image_processor, files, args)
    first = next(iter(sets.values()))
    cores(sets.get("mosaics of 640x480", first), args, report)
    rates(first, build_processor(), args, report)


def read_files(folder: Path, count: int) -> list[bytes]:
    """The bytes of the first files of a folder; raises `ValueError` where it has fewer."""
    paths = sorted(folder.rglob("*.jpg"))[:count]
    if len(paths) < count:
        raise ValueError(f"--images: expected {count} .jpg files in {folder}, found {len(paths)}")
    return [path.read_bytes() for path in paths]


def sets_of(files: list[bytes]) -> dict[str, list[bytes]]:
    """Photos as they are, enlarged, and put together."""
    photos = [ImageOps.fit(decode(file), (320, 240)) for file in files]
    found = {"as they are": files}
    found["enlarged to 640x480"] = [jpeg(photo.resize((640, 480), Image.Resampling.BICUBIC)) for photo in photos]
    for side in (2, 4):
        groups = [photos[first : first + side**2] for first in range(0, len(photos) - side**2 + 1, side**2)]
        found[f"mosaics of {320 * side}x{240 * side}"] = [jpeg(mosaic(group, side)) for group in groups]
    return found


def mosaic(photos: list[Image.Image], side: int) -> Image.Image:
    """Photos of 320x240, `side` in a row and `side` rows of them."""
    whole = Image.new("RGB", (320 * side, 240 * side))
    for number, photo in enumerate(photos):
        whole.paste(photo, (number % side * 320, number // side * 240))
    return whole


def jpeg(image: Image.Image) -> bytes:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def draw_files(count: int, seed: int) -> list[bytes]:
    """JPEG files of 640x480 with the spectrum of photos: noise of several scales, the coarser the stronger."""
    rng, files = np.random.default_rng(seed), []
    for _ in range(count):
        pixels = np.full((480, 640, 3), 128.0)
        for side in (5, 10, 20, 40, 80, 160):
            coarse = rng.integers(0, 256, (3 * side // 4 + 1, side, 3), dtype=np.uint8)
            scaled = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            pixels += (np.asarray(scaled) - 128.0) * 2 / side**0.5
        files.append(jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))
    return files


def compare(table: Table, labels: dict, image_processor, files: list[bytes], args: argparse.Namespace) -> None:
    """Adds a row: the three ways from bytes to pixels, for one image processor and one kind of file."""
    clock, resizing = use_threads(1), Resizing.of(image_processor)
    batches = [files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)]

    mean, deviation = (
        255 * torch.tensor(values).view(3, 1, 1) for values in (image_processor.image_mean, image_processor.image_std)
    )

    def stock(batch: list[bytes], **options) -> torch.Tensor:
        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in batch]
        return torch.from_numpy(np.stack(image_processor(images, **options)["pixel_values"]))

    makers = {"in full": lambda file: resizing(decode(file)), "ours": resizing}

    def of_8_bits(batch: list[bytes], name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([makers[name](file) for file in batch]))

    ways = {"stock": stock}
    ways |= {name: lambda batch, name=name: (of_8_bits(batch, name) - mean) / deviation for name in makers}

    def timed(way: Callable) -> float:
        start = clock()
        for batch in batches:
            way(batch)
        return (clock() - start) / len(files)

    found = interleaved({name: lambda run, way=way: timed(way) for name, way in ways.items()}, args.runs)
    row = labels | {"KB": sum(map(len, files)) / len(files) / 1000}
    row |= {f"ms, {name}": Spread.of([1e3 * value for value in values]) for name, values in found.items()}
    row["times faster"] = ratios(found["stock"], found["ours"])
    expected = stock(files, do_rescale=False, do_normalize=False).int()
    for name in makers:
        differences = (of_8_bits(files, name) - expected).abs()
        row[f"{name}: mean, largest difference"] = f"{differences.float().mean():.3f}, {differences.max()}"
    table.add(row)


def pairs_of(files: list[bytes], captions_per_image: int, seed: int) -> KeyedRows:
    """Image-caption pairs of JPEG files, to train on."""
    rng = np.random.default_rng(seed)
    lengths = caption_lengths(len(files) * captions_per_image, rng).reshape(len(files), -1)
    rows = [
        {
            "image": {"bytes": file, "path": None},
            "image_id": str(number),
            "captions": [caption(length, rng) for length in own],
        }
        for number, (file, own) in enumerate(zip(files, lengths, strict=True))
    ]
    table = undecoded(Dataset.from_list(rows, features=schemas.CAPTIONS))
    keyed = KeyedRows(CaptionedImages(table, "drawn"), training=True)
    keyed.begin_epoch(0)
    return keyed


def cores(files: list[bytes], args: argparse.Namespace, report: Report) -> None:
    """Add the samples a second of one core, from rows to the batch for the model, in each way that there is, and the cores that feed a GPU."""
    clock, processor, in_full = use_threads(1), build_processor(), build_processor()
    in_full.decode_in_full = True
    data = {name: pairs_of(files, 1, args.seed) for name in ("pixels", "features")}
    with tempfile.TemporaryDirectory() as folder:
        run = RunArguments(output_dir=folder, do_train=True, use_cpu=True, disable_tqdm=True, report_to="none")
        cache_pixels(CachingArguments(cache_pixels=f"{folder}/pixels"), {"train": data["pixels"]}, processor, run)
        model = build_model("small", freeze=["vision"])
        caching = CachingArguments(cache_frozen_features=f"{folder}/features")
        cache_features(caching, {"train": data["features"]}, model, processor, run)
        plain = pairs_of(files, 1, args.seed)
        sides = {
            "decoded in full (--decode_in_full)": (plain, in_full),
            "decoded at a fraction of its size (default)": (plain, processor),
            "4 captions an image (--captions_per_image 4)": (pairs_of(files, 4, args.seed), processor),
            "pixels on disk (--cache_pixels)": (data["pixels"], processor),
            "features on disk (--cache_frozen_features)": (data["features"], processor),
        }

        def rate(rows: KeyedRows, collator: PretrainingCollator) -> float:
            # Those of an image one after the other.
            order = np.argsort(rows.data.image_of, kind="stable").tolist()
            start = clock()
            for first in range(0, len(order), args.batch_size):
                collator([rows[number] for number in order[first : first + args.batch_size]])
            return len(rows) / (clock() - start)

        collators = {name: PretrainingCollator(used, seed=args.seed) for name, (_, used) in sides.items()}
        found = interleaved(
            {name: lambda run, name=name: rate(sides[name][0], collators[name]) for name in sides}, args.runs
        )
    table = report.table("Samples a second of one core, and the cores that feed a GPU")
    for name, values in found.items():
        spread = Spread.of(values)
        table.add({"images": name, "samples/s": spread, "cores for 3,000 samples/s": GPU_RATE / spread.median})


def rates(files: list[bytes], processor: RenaissanceProcessor, args: argparse.Namespace, report: Report) -> None:
    """Add the samples a second of loaders with different numbers of worker processes, in turns."""
    torch.set_num_threads(1)
    keyed = pairs_of(files, 1, args.seed)
    loaders = {
        workers: DataLoader(
            keyed,
            batch_size=args.batch_size,
            collate_fn=PretrainingCollator(processor, seed=args.seed),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in args.workers
    }

    def rate(loader: DataLoader) -> float:
        start = time.perf_counter()
        for _ in loader:
            pass
        return len(files) / (time.perf_counter() - start)

    sides = {workers: lambda run, loader=loader: rate(loader) for workers, loader in loaders.items()}
    found = interleaved(sides, args.runs)
    table = report.table("Samples a second of the loader")
    for workers, values in found.items():
        table.add({"worker processes": workers, "samples/s": Spread.of(values)})
