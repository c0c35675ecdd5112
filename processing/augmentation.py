"""Augmentation of training images that leaves the text about them true: pure functions of RGB images and randomness."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from ..modeling.fields import check_bounds, option


#: Colour of places that an operation leaves empty: the middle grey of RandAugment's authors.
FILL = (128, 128, 128)

# Strengths at magnitude 10. A picture is turned and moved at most half as far as in AutoAugment, so that nine tenths
# of it stay in sight. Its tones change only so far that each colour stays closest to its own name.
MAX_GAMMA = 1.4
MAX_CONTRAST = 0.4
MAX_SHARPNESS = 0.9
MAX_DEGREES = 15.0
MAX_SHEAR = 0.15
MAX_SHIFT = 0.1


def change_tones(image: Image.Image, curve: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """Apply `curve`, a function from [0, 1] to [0, 1], to the values of all three channels of an RGB image."""
    table = np.rint(255 * curve(np.arange(256) / 255)).astype(np.uint8)
    return image.point(table.tolist() * 3)


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """Correct gamma: brighter for positive strengths, to the exponent 1 / 1.4; darker for negative ones, to 1.4."""
    return change_tones(image, lambda value: value ** (MAX_GAMMA**-strength))


def contrast(image: Image.Image, strength: float) -> Image.Image:
    """Add up to 0.4 of the curve 3 x^2 - 2 x^3, which steepens the middle of the range, or subtract it."""
    return change_tones(image, lambda value: value + MAX_CONTRAST * strength * (value**2 * (3 - 2 * value) - value))


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Sharpen; for negative strengths, blur by about a pixel."""
    return ImageEnhance.Sharpness(image).enhance(1 + MAX_SHARPNESS * strength)


def transform(image: Image.Image, matrix: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """
    Transform an RGB image about its centre and keep its size.

    Args:
        matrix: (2, 2); maps a place (x, y) in the result, relative to the centre, to that in `image`.
        shift: Pixels (x, y) to add to the place in `image`.
    """
    centre = np.array(image.size) / 2
    offset = centre - matrix @ centre + shift
    coefficients = np.column_stack([matrix, offset]).ravel().tolist()
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=FILL)


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """Turn by up to 15 degrees, anticlockwise for positive strengths."""
    angle = np.radians(MAX_DEGREES * strength)
    return transform(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Move each row sideways by up to 0.15 of its distance from the middle row."""
    return transform(image, np.array([[1, MAX_SHEAR * strength], [0, 1]]))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Move each column up or down by up to 0.15 of its distance from the middle column."""
    return transform(image, np.array([[1, 0], [MAX_SHEAR * strength, 1]]))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """Move by up to a tenth of the width, to the left for positive strengths."""
    return transform(image, np.eye(2), (MAX_SHIFT * strength * image.width, 0.0))


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Move by up to a tenth of the height, up for positive strengths."""
    return transform(image, np.eye(2), (0.0, MAX_SHIFT * strength * image.height))


#: Functions of an RGB image and a strength from -1 to 1; at 0 they change nothing.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "brightness": brightness,
    "contrast": contrast,
    "sharpness": sharpness,
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


@dataclass(frozen=True)
class RandAugment:
    """
    RandAugment (Cubuk et al. 2020, section 3) with operations that do not contradict a text: a few different ones,
    drawn uniformly, one after the other, all at one magnitude, each in one of its two directions.

    Nine of the paper's fourteen operations are kept. The others change the colour of things: color and solarize;
    posterize, which rounds each channel on its own and so changes hues; autocontrast and equalize, which stretch the
    tones of a pale or dark image over the whole range: pink becomes red, and grey becomes black or white. There are no
    flips, as in the paper: they would swap left and right. There is no cutout, which can hide the subject of the text.

    Two more differences protect colours. Brightness and contrast are tone curves, the same for each channel and fixed
    at both ends, so that nothing saturates: a factor would turn orange into yellow and pink into white. The operations
    of an image are different, so that strengths do not add up.
    """

    num_ops: int = option(
        2, "RandAugment: number of operations per image; the paper's N.", within=f"[1, {len(OPERATIONS)}]"
    )
    magnitude: float = option(
        9,
        "RandAugment: strength of all operations, above 0 and at most 10; the paper's M. The docstrings of the "
        "operations give their effect at 10.",
        within="(0, 10]",
    )

    def __post_init__(self):
        check_bounds(self, prefix="randaugment_")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for name in rng.choice(list(OPERATIONS), size=self.num_ops, replace=False):
            image = OPERATIONS[name](image, rng.choice((-1, 1)) * self.magnitude / 10)
        return image


@dataclass(frozen=True)
class RandomResizedCrop:
    """
    Random resized crop (Szegedy et al. 2015, section 6): a random part of the image, which the image processor
    resizes. Its share of the area and the logarithm of its aspect ratio are uniform among the parts that fit into the
    image. If none fits, as in a panorama, the part has the aspect ratio closest to the range.
    """

    # The paper's smallest share, 0.08, is for labels of whole images. Half of the area keeps most things that a text names.
    scale: tuple[float, float] = option((0.5, 1.0), "Random resized crop: smallest and largest share of the area.")
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "Random resized crop: smallest and largest width over height.")

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1 or self.scale[0] == 1:
            expected = "the smallest and the largest share of the area, above 0, at most 1 and not both 1"
            raise ValueError(f"random_resized_crop_scale: expected {expected}, got {list(self.scale)}")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < np.inf:
            expected = "the smallest and the largest width over height, above 0"
            raise ValueError(f"random_resized_crop_ratio: expected {expected}, got {list(self.ratio)}")

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw the left, top, right and bottom of the part, in pixels, of an image of `width` by `height` pixels."""
        scale = rng.uniform(*self.scale)
        # At these ratios, a part of this area is as wide, or as high, as the image.
        widest, narrowest = width / (height * scale), width * scale / height
        ratio = np.exp(rng.uniform(*np.log(np.clip(self.ratio, narrowest, widest))))
        area = scale * width * height
        part_width = int(np.clip(round(np.sqrt(area * ratio)), 1, width))
        part_height = int(np.clip(round(np.sqrt(area / ratio)), 1, height))
        left = int(rng.integers(width - part_width, endpoint=True))
        top = int(rng.integers(height - part_height, endpoint=True))
        return left, top, left + part_width, top + part_height

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.crop(self.box(*image.size, rng))


#: The augmentations by their names in options.
AUGMENTATIONS = {"randaugment": RandAugment, "random_resized_crop": RandomResizedCrop}
