"""Makes the pixel cache: images as the model reads them, decoded and resized once, on disk (`--cache_pixels`)."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import TrainingArguments

from ..processing.decoding import Resizing
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import AugmentationArguments, CachingArguments
from .base import Task
from .image_cache import DIGEST, VERSION, ImageCache, digest_of, put_arrays_in_place, refuse_faulty, settings


#: Lists the files of pixels that are known to be as they were written, with their sizes and times.
CHECKED = "whole.json"


def cache_pixels(
    arguments: CachingArguments, data: dict[str, Any], processor: RenaissanceProcessor, args: TrainingArguments
) -> None:
    """
    Replace the images of `data`, the rows of each split, by the pixels that the model reads, uint8, if the user asks for it.

    Raises:
        ValueError: As `put_arrays_in_place`.
    """
    if not arguments.cache_pixels:
        return
    cache = ImageCache(
        option="cache_pixels",
        content="pixels",
        title="pixels",
        folder=Path(arguments.cache_pixels),
        key=pixel_key(processor),
        collate=functools.partial(pixels_of, processor=processor),
        make=torch.Tensor.numpy,
        check=refuse_changed,
    )
    put_arrays_in_place(cache, data, args, arguments.yes)


def check_pixel_cache(
    arguments: CachingArguments, augmentation: AugmentationArguments, task: Task, processor: RenaissanceProcessor
) -> None:
    """Raise `ValueError` if pixels are to be kept and those of an image differ from one use to the next, or are not of 8 bits."""
    if not arguments.cache_pixels:
        return
    faults = {
        "the features of cache_frozen_features stand in for the pixels": arguments.cache_frozen_features,
        "augmented images are new ones in every epoch; use either this option or augmentation": augmentation.build(),
        "the images of a stream are not known beforehand; use either this option or streaming": getattr(
            task.data_arguments, "streaming", False
        ),
        "this task looks at regions of images, which are cut out anew each time": not task.whole_images,
        "the image processor does more than resize, crop and normalise": Resizing.of(processor.image_processor)
        is None,
    }
    for fault, applies in faults.items():
        if applies:
            raise ValueError(f"cache_pixels: {fault}; leave it out")


def pixel_key(processor: RenaissanceProcessor) -> dict[str, Any]:
    """Return all that pixels depend on, beside image files."""
    return {
        "version": VERSION,
        "decoded_in_full": processor.decode_in_full,
        "image_processor": settings(processor.image_processor),
    }


def pixels_of(images: list, processor: RenaissanceProcessor) -> torch.Tensor:
    """Return the pixels (B, C, H, W) of images, as the collators make them."""
    return torch.from_numpy(np.stack(processor.process_images(images, as_uint8=True)["pixel_values"]))


def refuse_changed(folder: Path) -> None:
    """Raise `ValueError` if a file in a folder of pixels is not as it was written."""

    def fault_in(path: Path) -> str | None:
        with safe_open(path, "np") as file:
            same = (file.metadata() or {}).get(DIGEST) == digest_of(file.get_tensor("pixels"))
        return None if same else "is not as it was written"

    refuse_faulty(folder, "cache_pixels", "pixels", fault_in, CHECKED)
