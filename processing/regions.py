"""Regions of images, given as boxes."""

import math
from numbers import Real

from PIL import Image


def crop_boxes(image: Image.Image, boxes: list[list[float]]) -> list[Image.Image]:
    """
    Return the regions of an upright image, each the pixels that its box touches, at least one. Boxes are [left, top, width,
    height] in pixels, as in COCO; by rounding, one may exceed the image by less than a pixel.

    Raises:
        ValueError: If there is no box, or one is not four numbers, has no area or lies outside the image.
    """
    if not len(boxes):
        raise ValueError("expected at least one box, got none")
    crops = []
    for number, box in enumerate(boxes):
        if fault := fault_of(box, *image.size):
            raise ValueError(f"box {number}: {fault}")
        left, top, width, height = box
        (left, right), (top, bottom) = touched(left, width, image.width), touched(top, height, image.height)
        crops.append(image.crop((left, top, right, bottom)))
    return crops


def touched(start: float, length: float, size: int) -> tuple[int, int]:
    """Return the first pixel that a box touches along a side of an image of `size` pixels, and the one behind the last."""
    first = max(0, math.floor(start))
    # A length can be too small to change the sum.
    return first, min(size, max(math.ceil(start + length), first + 1))


def fault_of(box: list[float], image_width: int, image_height: int) -> str | None:
    """Return the fault of a box, [left, top, width, height], in an image of this size in pixels, or `None`."""
    if not hasattr(box, "__len__"):
        return f"expected a list of four numbers, left, top, width and height in pixels, got {box!r}"
    if len(box) != 4 or not all(isinstance(value, Real) and math.isfinite(value) for value in box):
        return f"expected four numbers, left, top, width and height in pixels, got {list(box)}"
    left, top, width, height = box
    shown = [round(value, 2) for value in box]
    if width <= 0 or height <= 0:
        return f"expected a width and a height above 0, got {shown}"
    inside = -1 < left < image_width and -1 < top < image_height
    inside &= 0 < left + width < image_width + 1 and 0 < top + height < image_height + 1
    if not inside:
        return f"expected a box inside the image of {image_width}x{image_height} pixels, got {shown}"
    return None


def clip_box(box: list[float], image_width: int, image_height: int) -> list[float] | None:
    """
    Return the part of a box, [left, top, width, height], that lies in an image of this size in pixels; `None` if it has
    no area there, or is not four finite numbers.
    """
    if len(box) != 4 or not all(isinstance(value, Real) and math.isfinite(value) for value in box):
        return None
    left, top, width, height = box
    if width <= 0 or height <= 0:
        return None
    if left >= 0 and top >= 0 and left + width <= image_width and top + height <= image_height:
        return [left, top, width, height]
    right, bottom = min(left + width, image_width), min(top + height, image_height)
    left, top = max(left, 0), max(top, 0)
    return [left, top, right - left, bottom - top] if right > left and bottom > top else None


__all__ = ["clip_box", "crop_boxes", "fault_of"]
