"""Scenes as pictures."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from .scenes import CLOTH, COLOURS, COVERED, Scene, ShapeObject


_OVERSAMPLING = 4
_NOISE = 3
# One grey for all scenes: if each image had its own tint, small models from scratch stayed at chance.
_BACKGROUND = (238, 238, 238)
_MIN_IMAGE_SIZE = 32


def draw_scene(scene: Scene, image_size: int = 64) -> Image.Image:
    """Return the scene as an RGB image of `image_size` x `image_size` pixels, on a light, slightly noisy background;
    raise `ValueError` if that is too small to tell the shapes apart."""
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: expected at least {_MIN_IMAGE_SIZE} pixels")
    side = image_size * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        _draw_object(draw, item, side)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.int16)
    noise = scene.rng(purpose=1).integers(-_NOISE, _NOISE + 1, size=(image_size, image_size, 1), dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def encode_scene(scene: Scene, image_size: int) -> dict:
    """Return the drawn scene as a value of an `Image` column: the bytes of a PNG file."""
    draw_scene(scene, image_size).save(buffer := io.BytesIO(), format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _draw_object(draw: ImageDraw.ImageDraw, item: ShapeObject, side: int) -> None:
    left, top, right, bottom = (edge * side for edge in item.box)
    fill = CLOTH if item.look == COVERED else COLOURS[item.colour]
    if item.shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=fill)
    elif item.shape == "square" or item.look == COVERED:
        draw.rectangle((left, top, right, bottom), fill=fill)
    else:
        corners = _OUTLINES[item.shape]
        draw.polygon([(left + x * (right - left), top + y * (bottom - top)) for x, y in corners], fill=fill)


def _star_outline(inner_radius: float = 0.42) -> list[list[float]]:
    """Return the corners of a five-pointed star, stretched to touch all sides of the unit square so that boxes are tight."""
    angles = math.pi * np.arange(10) / 5 - math.pi / 2
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.tile([[1.0], [inner_radius]], (5, 1))
    return ((points - points.min(axis=0)) / np.ptp(points, axis=0)).tolist()


_OUTLINES = {"triangle": [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0)], "star": _star_outline()}
