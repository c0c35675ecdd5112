"""
What loading JPEGs for a model costs: the image processor on decoded images, against 8-bit pixels of images that are decoded in
full, and at the fraction of their size that is enough, as loaders do it.

    OMP_NUM_THREADS=1 python tests/loading_cost.py COCO

COCO is a folder of COCO's photos as `train2014/*.jpg` and `val2014/*.jpg`. They are loaded as they are and, for want of larger
ones, enlarged to 640x480, and put together in fours and sixteens, as JPEGs of quality 90. Times are milliseconds of this process's
CPU time an image, in batches of 16, medians of interleaved runs; differences are in levels of 255.
"""

import io
import sys
import time
from functools import partial
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


def levels(way, other, files: list[bytes]) -> tuple[float, int]:
    """Mean and largest difference of the pixels that two ways make of files."""
    pairs = zip(way(files), other(files), strict=True)
    differences = np.stack([np.abs(pixels.astype(int) - others) for pixels, others in pairs])
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


def resized(resizing: Resizing, files: list[bytes]) -> list[np.ndarray]:
    return [resizing(decode(file)) for file in files]


def main(folder: str) -> None:
    # Once a large block was freed, the C library keeps the arrays' memory instead of asking for it anew each time, which costs the
    # image processor, with its arrays of float64, most. A run has freed many before it loads anything.
    np.zeros(30_000_000, dtype=np.uint8)
    print(
        "| image processor | JPEGs | KB | stock | in full | 8 bits | times as fast | in full: mean, largest difference | 8 bits |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    sets = sets_of(Path(folder))
    for kind, image_processor in IMAGE_PROCESSORS.items():
        resizing = Resizing.of(image_processor)

        def stock(batch, image_processor=image_processor, **options):
            return image_processor([opened(file) for file in batch], **options)["pixel_values"]

        def new(batch, resizing=resizing):
            return [resizing(file) for file in batch]

        in_full = partial(resized, resizing)
        unscaled = partial(stock, do_rescale=False, do_normalize=False)
        for name, files in sets.items():
            times = milliseconds([stock, in_full, new], files)
            shown = [f"{np.mean([len(file) for file in files]) / 1000:.0f}", *(f"{value:.2f}" for value in times)]
            shown.append(f"{times[0] / times[2]:.1f}")
            shown += ["{:.3f}, {}".format(*levels(way, unscaled, files)) for way in (in_full, new)]
            print("|", " | ".join([kind, name, *shown]), "|", flush=True)
    ways = [partial(resized, Resizing((224, 224), None, name)) for name in ("bilinear", "bicubic")]
    mean, largest = levels(*ways, sets["mosaics of 640x480"])
    print(f"Bilinear against bicubic resizing of the mosaics of 640x480: {mean:.3f}, {largest}")


if __name__ == "__main__":
    main(sys.argv[1])
