"""
Augmentation of training images that leaves the text about them true.

Each augmentation is a pure function of an RGB image and a source of randomness. What comes out is an RGB image again, which
the image processor resizes and normalises like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance


#: What shows where the picture was moved away; a grey in the middle of the range, as RandAugment's authors have it.
FILL = (128, 128, 128)

# What the operations do at magnitude 10. A picture is turned and moved half as far as in AutoAugment or less, so that nine
# tenths of it stay in sight; its tones change as far as no colour comes nearer to another one's name.
MAX_GAMMA = 1.4
MAX_CONTRAST = 0.4
MAX_SHARPNESS = 0.9
MAX_DEGREES = 15.0
MAX_SHEAR = 0.15
MAX_SHIFT = 0.1


def change_tones(image: Image.Image, curve: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """An RGB image with `curve`, a function from [0, 1] to [0, 1], applied to the values of all three channels alike."""
    table = np.rint(255 * curve(np.arange(256) / 255)).astype(np.uint8)
    return image.point(table.tolist() * 3)


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """Gamma correction: brighter for positive strengths, up to the exponent 1 / 1.4; darker for negative ones, up to 1.4."""
    return change_tones(image, lambda value: value ** (MAX_GAMMA**-strength))


def contrast(image: Image.Image, strength: float) -> Image.Image:
    """Mixes in up to 0.4 of the curve 3 x^2 - 2 x^3, which steepens the middle of the range, or takes it away."""
    return change_tones(image, lambda value: value + MAX_CONTRAST * strength * (value**2 * (3 - 2 * value) - value))


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Sharpens, or, for negative strengths, blurs by a pixel or so."""
    return ImageEnhance.Sharpness(image).enhance(1 + MAX_SHARPNESS * strength)


def transform(image: Image.Image, matrix: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """
    An affine transformation about the centre of an image, whose size stays.

    Args:
        image: RGB image.
        matrix: (2, 2); takes a place (x, y) in the result, counted from the centre, to that in `image`.
        shift: Pixels (x, y) that are added to the place in `image`.
    """
    centre = np.array(image.size) / 2
    offset = centre - matrix @ centre + shift
    coefficients = np.column_stack([matrix, offset]).ravel().tolist()
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=FILL)


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """Turns by up to 15 degrees, anticlockwise for positive strengths."""
    angle = np.radians(MAX_DEGREES * strength)
    return transform(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Moves each row sideways by up to 0.15 of its distance from the middle row."""
    return transform(image, np.array([[1, MAX_SHEAR * strength], [0, 1]]))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Moves each column up or down by up to 0.15 of its distance from the middle column."""
    return transform(image, np.array([[1, 0], [MAX_SHEAR * strength, 1]]))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """Moves by up to a tenth of the width, to the left for positive strengths."""
    return transform(image, np.eye(2), (MAX_SHIFT * strength * image.width, 0.0))


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Moves by up to a tenth of the height, up for positive strengths."""
    return transform(image, np.eye(2), (0.0, MAX_SHIFT * strength * image.height))


#: Functions of an RGB image and a strength from -1 to 1, at 0 of which they change nothing.
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
    RandAugment (Cubuk et al. 2020, section 3) with operations that do not contradict a text: a few of them, drawn uniformly,
    one after the other, all at one magnitude, each in one of its two directions. The metadata of the fields describe them.

    Of the paper's fourteen operations nine are kept: identity, brightness, contrast, sharpness, rotate, and shear and
    translate in x and y. Left out are those that change what colour a thing has:

    - color (takes the colours away) and solarize (turns bright values into their opposites);
    - posterize, which rounds each channel on its own, so that dark and pale colours change their hue;
    - autocontrast and equalize, whose strength depends on the image alone: where the paper's stretch the tones of a pale
      or dark image over the whole range, pink becomes red and grey becomes black or white.

    The paper has no flips, which would make left right and mirror writing, and none are added; nor is cutout, which can
    hide what the text is about. Two more differences from the paper serve the same end. Brightness and contrast are tone
    curves that are the same for each channel and fixed at both ends, so that nothing saturates: black, white, greys and
    pure colours stay what they are, where a factor would make orange yellow and pink white. And the operations of an image
    are different ones, so that no strength adds up.

    Raises:
        ValueError: Where a value is out of range.
    """

    num_ops: int = field(default=2, metadata={"help": "RandAugment: number of operations per image; the paper's N."})
    magnitude: float = field(
        default=9,
        metadata={
            "help": "RandAugment: strength of all operations, above 0 and at most 10; the paper's M. The docstrings of the "
            "operations say what they do at 10."
        },
    )

    def __post_init__(self):
        if not 1 <= self.num_ops <= len(OPERATIONS):
            raise ValueError(f"randaugment_num_ops: expected 1 to {len(OPERATIONS)} operations, got {self.num_ops}")
        if not 0 < self.magnitude <= 10:
            raise ValueError(f"randaugment_magnitude: expected more than 0 and at most 10, got {self.magnitude}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for name in rng.choice(list(OPERATIONS), size=self.num_ops, replace=False):
            image = OPERATIONS[name](image, rng.choice((-1, 1)) * self.magnitude / 10)
        return image


@dataclass(frozen=True)
class RandomResizedCrop:
    """
    Random resized crop (Szegedy et al. 2015, section 6): a random part of the image, which the image processor resizes. Its
    share of the area is uniformly distributed, the logarithm of its aspect ratio too, as far as such a part fits into the
    image. Where none does, as in a panorama, the part is as close to the range of aspect ratios as can be, and no smaller.

    Raises:
        ValueError: Where a value is out of range.
    """

    # The paper's smallest share is 0.08, for labels of whole images. A text names several things, and a part as small as that would
    # not show them; half of the area keeps most of them.
    scale: tuple[float, float] = field(
        default=(0.5, 1.0),
        metadata={"help": "Random resized crop: smallest and largest share of the image's area."},
    )
    ratio: tuple[float, float] = field(
        default=(3 / 4, 4 / 3), metadata={"help": "Random resized crop: smallest and largest width over height."}
    )

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1 or self.scale[0] == 1:
            raise ValueError(
                "random_resized_crop_scale: expected the smallest and the largest share of the area, above 0, at most 1 and "
                f"not both 1, got {list(self.scale)}"
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < np.inf:
            raise ValueError(
                "random_resized_crop_ratio: expected the smallest and the largest width over height, above 0, got "
                f"{list(self.ratio)}"
            )

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part of an image of `width` by `height` pixels, in pixels."""
        scale = rng.uniform(*self.scale)
        # The ratios at which a part of this area is as wide, or as high, as the image.
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


#: The augmentations by the names that options have for them.
AUGMENTATIONS = {"randaugment": RandAugment, "random_resized_crop": RandomResizedCrop}


__all__ = ["AUGMENTATIONS", "RandAugment", "RandomResizedCrop"]
