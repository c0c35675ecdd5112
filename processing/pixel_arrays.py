"""Images from arrays and tensors of pixels, of any type and layout."""

import functools
import logging
from typing import Any

import numpy as np
import torch
from PIL import Image


logger = logging.getLogger(__name__)

#: Numbers of channels: grey, grey and alpha, RGB, RGBA.
CHANNELS = (1, 2, 3, 4)

#: Values of 16 bits below this are all but black: they become levels up to 15.
ALMOST_BLACK = 4096

LAYOUTS = ("channels_first", "channels_last")


def is_array(image: Any) -> bool:
    """Return whether this is an array of NumPy or a tensor of torch."""
    return isinstance(image, (np.ndarray, torch.Tensor))


def image_of(array: np.ndarray | torch.Tensor, layout: str | None = None) -> Image.Image:
    """
    Return an array of pixels as an image of 8 bits: grey (L), grey with alpha (LA), RGB or RGBA.

    Args:
        array: (H, W), (H, W, C) or (C, H, W), where C is one of `CHANNELS`; `levels` says which values.
        layout: `"channels_first"` or `"channels_last"`; by default, whichever the shape allows. If it allows both, as
            (3, 50, 3) does, channels are last in an array, as Pillow and OpenCV make them, and first in a tensor, as
            torchvision makes them.

    Raises:
        ValueError: If the array has another shape or type, no pixels, or values out of range.
    """
    first = isinstance(array, torch.Tensor)
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        # NumPy does not know bfloat16.
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.ndim == 3 and array.size:
        array = with_channels_last(array, layout, first)
    elif array.ndim != 2 or not array.size:
        raise shape_error(array.shape)
    pixels = levels(array)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def with_channels_last(array: np.ndarray, layout: str | None, first: bool) -> np.ndarray:
    """Return an array (C, H, W) or (H, W, C) as (H, W, C); if it could be both, it is (C, H, W) if `first` is set."""
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"input_data_format: expected {' or '.join(LAYOUTS)}, got {layout!r}")
    may_be_first = array.shape[0] in CHANNELS and layout != "channels_last"
    may_be_last = array.shape[2] in CHANNELS and layout != "channels_first"
    if not may_be_first and not may_be_last:
        raise shape_error(array.shape, layout)
    return np.moveaxis(array, 0, 2) if may_be_first and (first or not may_be_last) else array


def shape_error(shape: tuple[int, ...], layout: str | None = None) -> ValueError:
    """Return the error for an array that is not an image."""
    shapes = {"channels_first": "(C, H, W)", "channels_last": "(H, W, C)"}
    expected = shapes.get(layout, "(H, W), (H, W, C) or (C, H, W)")
    return ValueError(f"its shape is {tuple(shape)}: expected {expected} of 1 to 4 channels, and at least one pixel")


def levels(values: np.ndarray) -> np.ndarray:
    """
    Return values as levels of 8 bits (uint8), from 0 for black to 255.

    Truth values become 0 and 255; uint8 stays; of uint16 the upper 8 bits stay. Other types, whole numbers and floats,
    have no range of their own. The largest value tells it: up to 1, floats are shares of 255; up to 255, values are
    levels; from 510 to 65535, values are of 16 bits, of which the upper 8 stay. A warning, once, names values of 16 bits
    that are all below `ALMOST_BLACK`, as those of 12 bits are.

    Raises:
        ValueError: If the values are not numbers, are negative, above 65535 or not finite. If the type has no range of its
            own, also if the largest value is between 255 and 510, or that of floats between 1 and 2: levels or shares that
            were resized without clipping, or an image that is all but black.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return np.where(values, np.uint8(255), np.uint8(0))
    if kind == "u" and size == 1:
        return values
    if kind == "u" and size == 2:
        return upper_bits(values)
    if kind not in "iuf":
        raise ValueError(f"its values are of type {values.dtype}: expected numbers")
    # As Python's numbers: float16 cannot be compared with 65535.
    lowest, highest = values.min().item(), values.max().item()
    # Not the other way round: a comparison with NaN is false.
    if not (lowest >= 0 and highest <= 65535):
        expected = "0 to 1 (floats), 0 to 255 or 0 to 65535; clip the values, and do not normalise them"
        raise ValueError(f"its values go from {lowest} to {highest}: expected {expected}")
    if kind == "f" and 1 < highest < 2:
        raise ValueError(
            f"its largest value is {highest}: expected up to 1, or levels up to 255; clip the values to 1"
        )
    if 255 < highest < 510:
        fault = f"its largest value is {highest:.6g}: expected up to 255, or 16 bits up to 65535"
        raise ValueError(f"{fault}; clip the values to 255, or pass uint16 if they are of 16 bits")
    if highest > 255:
        return upper_bits(values)
    return np.rint(values * 255 if kind == "f" and highest <= 1 else values).astype(np.uint8)


def upper_bits(values: np.ndarray) -> np.ndarray:
    """Return the upper 8 bits (uint8) of values of 16 bits."""
    if 0 < values.max() < ALMOST_BLACK:
        warn_of_dark_pixels()
    return (values // 256).astype(np.uint8)


@functools.cache
def warn_of_dark_pixels() -> None:
    """Warn, once in a run, of an image of 16 bits that becomes almost black."""
    logger.warning(
        f"an image of 16 bits has no value of {ALMOST_BLACK} or more: it becomes almost black; pass uint8 if its values are "
        "levels up to 255, and scale values of fewer bits up to 65535 (such images are named once)"
    )


__all__ = ["image_of", "is_array", "levels"]
