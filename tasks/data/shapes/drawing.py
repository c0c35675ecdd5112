"""Scenes as pictures."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from .scenes import CLOTH, COLOURS, COVERED, Scene, ShapeObject


_OVERSAMPLING = 4
_NOISE = 3
# One grey for all scenes: where each image had a tint of its own, small models from scratch stayed at chance.
_BACKGROUND = (238, 238, 238)
_MIN_IMAGE_SIZE = 32


def draw_scene(scene: Scene, image_size: int = 64) -> Image.Image:
    """The scene as an RGB image of `image_size` x `image_size` pixels, on a light, slightly noisy background.

    Raises:
        ValueError: for an image size at which the shapes cannot be told apart.
    """
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
    """The drawn scene as a value of an `Image` column: the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw_scene(scene, image_size).save(buffer, format="PNG")
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


def _star_outline(inner_radius: float = 0.42) -> list[tuple[float, float]]:
    """Corners of a five-pointed star, stretched to touch all sides of the unit square so that boxes are tight."""
    angles = [math.pi * step / 5 - math.pi / 2 for step in range(10)]
    radii = [1.0 if step % 2 == 0 else inner_radius for step in range(10)]
    points = np.array([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    return [(float(x), float(y)) for x, y in points]


_OUTLINES = {"triangle": [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0)], "star": _star_outline()}
