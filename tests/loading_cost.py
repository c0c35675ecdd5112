"""
What loading JPEGs for a model costs: the image processor on decoded images, against 8-bit pixels from the bytes of the files.

    OMP_NUM_THREADS=1 python tests/loading_cost.py COCO

COCO is a folder of COCO's photos as `train2014/*.jpg` and `val2014/*.jpg`. They are loaded as they are and, for want of larger
ones, enlarged to 640x480 and put together in fours and sixteens, as JPEGs of quality 90. Times are milliseconds of this process's
CPU time an image, in batches of 16, medians of interleaved runs; differences are in levels of 255.
"""

import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from renaissance.processing.decoding import Resizing, decode


BATCH, BATCHES, RUNS = 16, 3, 9
IMAGE_PROCESSORS = {"bilinear, stretched": ViTImageProcessorPil(), "bicubic, middle": CLIPImageProcessorPil()}


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def mosaic(photos: list[Image.Image], side: int) -> Image.Image:
    """Photos of 320x240, `side` in a row and `side` rows of them."""
    whole = Image.new("RGB", (320 * side, 240 * side))
    for number, photo in enumerate(photos):
        whole.paste(photo, (number % side * 320, number // side * 240))
    return whole


def sets_of(folder: Path) -> dict[str, list[bytes]]:
    """The files of each kind."""
    files = [file.read_bytes() for file in sorted(folder.glob("*2014/*.jpg"))]
    photos = [photo for photo in map(decode, files) if photo.size == (320, 240)]
    found = {"as they are": files}
    found["enlarged to 640x480"] = [jpeg(photo.resize((640, 480), Image.Resampling.BICUBIC)) for photo in photos]
    for side in (2, 4):
        groups = [photos[first : first + side**2] for first in range(0, len(photos) - side**2 + 1, side**2)]
        found[f"mosaics of {320 * side}x{240 * side}"] = [jpeg(mosaic(group, side)) for group in groups]
    return found


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def levels(image_processor, resizing: Resizing, files: list[bytes]) -> tuple[float, int]:
    """Mean and largest difference of 8-bit pixels from the image processor's."""
    unscaled = {"do_rescale": False, "do_normalize": False}
    stock = (image_processor(decode(file), **unscaled)["pixel_values"][0].astype(int) for file in files)
    differences = np.stack([np.abs(resizing(file) - pixels) for file, pixels in zip(files, stock, strict=True)])
    return differences.mean(), differences.max()


def milliseconds(ways: list, files: list[bytes]) -> list[float]:
    """CPU time an image of each way to load a batch."""
    batches = np.resize(np.array(files, dtype=object), (BATCHES, BATCH)).tolist()
    seconds = np.zeros((RUNS, len(ways)))
    for run in range(-1, RUNS):
        for number, way in enumerate(ways):
            start = time.process_time()
            for batch in batches:
                torch.from_numpy(np.stack(way(batch)))
            # The first run warms up; the last one overwrites it.
            seconds[run, number] = time.process_time() - start
    return (np.median(seconds, axis=0) * 1000 / BATCH / BATCHES).tolist()


def main(folder: str) -> None:
    # Once a large block was freed, the C library keeps the arrays' memory instead of asking for it anew each time, which costs the
    # image processor, with its arrays of float64, most. A run has freed many before it loads anything.
    np.zeros(30_000_000, dtype=np.uint8)
    print("| image processor | JPEGs | KB | stock | 8 bits | times as fast | mean difference | largest |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, image_processor in IMAGE_PROCESSORS.items():
        resizing = Resizing.of(image_processor)
        for name, files in sets_of(Path(folder)).items():
            ways = [
                lambda batch, stock=image_processor: stock([opened(file) for file in batch])["pixel_values"],
                lambda batch, new=resizing: [new(file) for file in batch],
            ]
            stock, new = milliseconds(ways, files)
            mean, largest = levels(image_processor, resizing, files)
            size = np.mean([len(file) for file in files]) / 1000
            print(
                f"| {kind} | {name} | {size:.0f} | {stock:.2f} | {new:.2f} | {stock / new:.1f} | {mean:.3f} | {largest} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
