"""Images, from the bytes of their files to the 8-bit pixels that models read."""

import functools
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict

from .image_files import described, read_file
from .pixel_arrays import image_of, is_array, levels


#: Image files that are read, by Pillow's names of their formats. Others are refused: some of Pillow's readers start other
#: programs (EPS), and those of rare formats are little tested.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

#: Largest number of pixels of an image, by default. Full-frame cameras make 61 million at most, and 64 million are 0.2 GB
#: as RGB. A PNG of 20 KB can hold 177 million, for which Pillow takes 2.6 GB.
MAX_PIXELS = 64_000_000

#: Filters that torch's `interpolate` has too, with the results of Pillow up to rounding.
FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}

#: Methods that an image processor must not override for `Resizing` to replace it.
STEPS = ("preprocess", "_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize", "pad")

#: What turns an image of each EXIF orientation upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: EXIF orientations of images that are stored on their side.
SIDEWAYS = (5, 6, 7, 8)

#: What an image's `info` says about its orientation.
ORIENTATION_INFO = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")

#: An image that is more than this many times as long as wide is cut to its middle before its shorter side is resized.
LONGEST_RATIO = 64

#: The longest side of processed images in pixels.
MOST_SIDE = 16384


@functools.cache
def image_endings() -> tuple[str, ...]:
    """Return the endings of the names of image files in `FORMATS`, in lower case and without the point."""
    return tuple(ending[1:] for ending, name in Image.registered_extensions().items() if name in FORMATS)


def is_stored(image: Any) -> bool:
    """
    Return whether this is an image as the bytes of its file: bytes, or, as in columns of `Image(decode=False)`, a dictionary
    with `bytes`, `path` (of the file, if `bytes` is None) and an optional `name` for messages.
    """
    return isinstance(image, bytes) or (isinstance(image, dict) and {"bytes", "path"} <= image.keys())


def has_name(image: Any) -> bool:
    """Return whether this is a stored image with a name for messages."""
    return isinstance(image, dict) and "name" in image


def is_feature(image: Any) -> bool:
    """Return whether these are the features (patches, width), float16, of an image from a vision encoder."""
    return isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.float16


class ReadyPixels(np.ndarray):
    """The pixels (3, H, W), uint8, that `Resizing` has made of an image before: nothing is left to do."""


class UnusableRow(ValueError):
    """
    A row cannot be used.

    Attributes:
        place: The row, as `named` was given it; `None` if that is not known.
        path: The path of the file of its image, if it has one.
        reason: What is wrong, without the name of the row.
    """

    place: Any = None
    path: str | None = None
    reason: str = ""

    @classmethod
    def of(cls, message: str, reason: str, source: Any) -> "UnusableRow":
        """Return the error of a row that is known by `source`: the row itself, or its image, stored or not."""
        error = cls(message)
        error.reason = reason
        if isinstance(source, dict):
            error.place, error.path = source.get("place"), source.get("path")
        return error


class UnreadableImage(UnusableRow):
    """An image cannot be read."""


def named(value: Any, place: Any) -> Any:
    """Return a stored image, or a list of them, with its row (`place`), and a name for messages of that and its path, unless
    it has a name; anything else as it is."""
    if isinstance(value, list) and value and is_stored(value[0]):
        return [named(image, place) for image in value]
    if not isinstance(value, dict) or not is_stored(value):
        return value
    name = f"{place} ({value['path']})" if value["path"] else str(place)
    return {"name": name, "place": place} | value


def read_image(stored: dict) -> bytes:
    """Return the bytes of a stored image, whose path may be on the Hub or in an archive (see `read_file`)."""
    if stored["bytes"] is not None:
        return stored["bytes"]
    if stored["path"] is None:
        raise ValueError("it has neither bytes nor a path")
    return read_file(stored["path"])


def decode(
    stored: bytes | dict, resizing: "Resizing | None" = None, max_pixels: int = MAX_PIXELS, name: str = "an image"
) -> Image.Image:
    """
    Return a stored image (see `is_stored`) as RGB, the right way up (see `upright_rgb`). A JPEG that is far larger than
    `resizing` needs is decoded at a half, a quarter or an eighth of its size. Raise `ValueError`, with the image's own name or
    path or else `name`, if it cannot be read or its header promises more than `max_pixels`.
    """
    stored = {"bytes": stored, "path": None} if isinstance(stored, bytes) else stored
    with readable(stored, name):
        image = open_image(read_image(stored), max_pixels)
        if resizing:
            draft(image, resizing)
        return upright_rgb(image)


def open_image(content: bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """
    Return an image file, its bytes or the open file, with its header read and nothing decoded; raise `ValueError` if it has none
    of `FORMATS` or more than `max_pixels`.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    Image.init()
    try:
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        # Not this error's own text, which has an address in memory, another in each run.
        file.seek(0)
        content = file.read()
        fault = f"{described(content)}not an image file of" if content else "an empty file; expected one of"
        raise ValueError(f"{fault} the formats {', '.join(FORMATS)}") from None
    check_pixels(*image.size, max_pixels)
    return image


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `ValueError` if an image of this size in pixels is larger than `max_pixels`."""
    if width * height > max_pixels:
        limit = f"more than max_image_pixels, {max_pixels:,}"
        raise ValueError(f"{width} x {height} are {width * height:,} pixels, {limit}; shrink it, or raise the limit")


def check_limit(max_pixels: int) -> None:
    """Raise `ValueError` if this is no limit for the pixels of images: below 1, or more than Pillow itself opens."""
    most = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else max_pixels
    if not 1 <= max_pixels <= most:
        raise ValueError(f"max_image_pixels: expected 1 to {most:,}, the most that Pillow opens, got {max_pixels:,}")


def size_upright(stored: dict, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return width and height of a stored image, the right way up, from its header; raises errors like `decode`."""
    with readable(stored):
        return upright_size(open_image(read_image(stored), max_pixels))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image, the right way up."""
    if image.format == "PNG":
        # Its orientation may stand behind its pixels.
        image.load()
    # Pillow has turned the size of a TIFF already.
    turned = image.format != "TIFF" and orientation(image) in SIDEWAYS
    return image.size[::-1] if turned else image.size


@contextmanager
def readable(stored: dict, name: str = "an image") -> Iterator[None]:
    """Turn any error inside into an `UnreadableImage` that names the image, by its own name or path or else by `name`."""
    try:
        yield
    # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        name = stored.get("name") or stored["path"] or name
        # Errors of the system repeat the path.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage.of(f"{name}: the image cannot be read ({reason})", reason, stored) from error


def draft(image: Image.Image, resizing: "Resizing") -> None:
    """
    Set an opened JPEG to be decoded at the smallest fraction of its size that `resizing` does not have to enlarge;
    leave other formats alone. The fraction must be whole pixels: a part of one would shift the image.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    sideways = orientation(image) in SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    least_height, least_width = resizing.size_of(width, height)
    for scale in (8, 4, 2):
        if width % scale == height % scale == 0 and min(width // least_width, height // least_height) >= scale:
            image.draft(None, (image.width // scale, image.height // scale))
            return


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 is upright, as are images whose orientation cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Pillow raises errors of many types on damaged EXIF data, which says nothing about the pixels.
    except Exception:
        return 1
    return found if found in TURNS else 1


def to_rgb(
    image: Any,
    max_pixels: int = MAX_PIXELS,
    name: str = "an image",
    layout: str | None = None,
    resizing: "Resizing | None" = None,
) -> Image.Image:
    """
    Return any image as RGB, the right way up (see `upright_rgb`).

    Args:
        image: A PIL image, an array or a tensor (see `image_of`), a stored image (see `is_stored`) or a path.
        max_pixels: Largest number of its pixels.
        name: Its name in messages, unless it has one of its own.
        layout: Where an array has its channels, as in `image_of`.
        resizing: As in `decode`.

    Raises:
        ValueError: If the image is something else, cannot be read, or is too large.
    """
    if isinstance(image, (str, os.PathLike)):
        image = {"bytes": None, "path": os.fspath(image)}
    if is_stored(image):
        return decode(image, resizing, max_pixels, name)
    if not is_array(image) and not isinstance(image, Image.Image):
        kinds = "a PIL image, an array, a tensor, a path or the bytes of an image file"
        keys = f" with the keys {', '.join(map(str, image))}" if isinstance(image, dict) else ""
        raise ValueError(f"{name}: expected {kinds}, got {type(image).__name__}{keys}")
    with readable({"path": None}, name):
        image = image_of(image, layout) if is_array(image) else image
        check_pixels(*image.size, max_pixels)
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """
    Return an open image as RGB: apply its EXIF orientation, lay transparency on white, and bring pixels of more than
    8 bits to 8 (see `levels`). Of several frames, it is the current one; of a file just opened, the first.
    """
    # Before the orientation: Pillow turns TIFF files itself as it loads them.
    image.load()
    # Formats of 16 bits that Pillow hands out in 32.
    sixteen = image.mode == "I" and image.format in ("PNG", "PPM")
    # A turn may be number 0.
    if (turn := TURNS.get(orientation(image))) is not None:
        image = image.transpose(turn)
        for name in ORIENTATION_INFO:
            image.info.pop(name, None)
    if image.mode == "F" or image.mode.startswith("I"):
        return grey_of_deep(image, sixteen)
    if image.has_transparency_data:
        # Pillow has no way straight from grey whose alpha is multiplied in.
        image = image.convert("LA") if image.mode == "La" else image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # Pillow's `convert` would copy an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def grey_of_deep(image: Image.Image, sixteen: bool) -> Image.Image:
    """Return a grey image of more than 8 bits as RGB; `sixteen` says that they are 16 whatever the values are."""
    values = np.asarray(image)
    grey = levels(values.astype(np.uint16) if sixteen else values)
    if isinstance(clear := image.info.get("transparency"), int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def middle(image: Image.Image, ratio: int = LONGEST_RATIO) -> Image.Image:
    """
    Return an image without its far ends if it is more than `ratio` times as long as wide. Image processors that resize
    the shorter side, and then take a part or a limited length, would make billions of pixels of it, or none.
    """
    shorter, longer = sorted(image.size)
    if longer <= ratio * shorter:
        return image
    # Whole pixels on each side, so that the middle stays where it is.
    end = (longer - ratio * shorter) // 2
    box = (end, 0, image.width - end, image.height) if image.width == longer else (0, end, shorter, longer - end)
    return image.crop(box)


def check_settings(image_processor: Any) -> None:
    """Raise `ValueError` if the numbers of an image processor make no pixels that a model can read."""
    for name, step, above in (
        ("image_mean", "do_normalize", -math.inf),
        ("image_std", "do_normalize", 0),
        ("rescale_factor", "do_rescale", 0),
    ):
        value = getattr(image_processor, name, None) if getattr(image_processor, step, None) else None
        for number in [] if value is None else np.ravel(value).tolist():
            if not isinstance(number, (int, float)) or not above < number < math.inf:
                expected = "finite numbers" if above else "finite numbers above 0"
                raise ValueError(f"{name} of the image processor: expected {expected}, got {value}")
    for name in ("size", "crop_size"):
        value = getattr(image_processor, name, None)
        for side, number in dict(value).items() if isinstance(value, (dict, SizeDict)) else ():
            if number is not None and not (isinstance(number, int) and 1 <= number <= MOST_SIDE):
                fault = f"expected sides from 1 to {MOST_SIDE} pixels, got {side} {number}"
                raise ValueError(f"{name} of the image processor: {fault}")


@dataclass(frozen=True)
class Resizing:
    """
    The steps of most image processors before they normalise an image: resize it and maybe cut out its middle. Torch does the
    same here, in 8 bits and a third of Pillow's time.

    Pixels differ from the image processor's by rounding, and by the fraction at which `decode` reads large JPEGs. For
    photos of COCO, made 224x224, in levels of 255 (`benchmark.py loading`): by 0.04 or less on average and 2 at most
    if decoded in full; by 0.6 (soft photos of 640x480) to 2.6 (sharp ones of 1280x960, bicubic) on average and 47 at
    most at a half or a quarter. Bilinear and bicubic differ by 1.6 on average.

    Args:
        size: Height and width to stretch the image to, or its shorter side.
        crop: Height and width of the part to cut out; `None` for the whole.
        filter: One of `FILTERS`' names.
        in_full: Decode large JPEGs in full too, which takes about half as long again.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    filter: str
    in_full: bool = False

    @classmethod
    def of(cls, image_processor: Any, in_full: bool = False) -> "Resizing | None":
        """Return the steps of an image processor; `None` if it has others, such as padding, or overrides `STEPS`."""
        usual = all(getattr(type(image_processor), step, None) is getattr(PilBackend, step) for step in STEPS)
        if not usual or not image_processor.do_resize or image_processor.do_pad:
            return None
        size, resample = image_processor.size, image_processor.resample
        filter_name = FILTERS.get(Image.Resampling.BILINEAR if resample is None else resample)
        whole, shorter = (size.height, size.width), size.shortest_edge
        if filter_name is None or size.longest_edge or size.max_height or not (shorter or all(whole)):
            return None
        if not image_processor.do_center_crop:
            return None if shorter else cls(whole, None, filter_name, in_full)
        crop = image_processor.crop_size.height, image_processor.crop_size.width
        # A crop beyond the edges of the image would be padding.
        inside = all(crop) and all(np.less_equal(crop, shorter or whole))
        return cls(shorter or whole, crop, filter_name, in_full) if inside else None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of a resized image of `width` by `height` pixels, before the crop."""
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(width, height) / min(width, height))
        return (longer, self.size) if width <= height else (self.size, longer)

    def __call__(self, image: Any, **reading: Any) -> np.ndarray:
        """Return the pixels (3, H, W), uint8, of any image that `to_rgb` takes, whose options are `reading`."""
        image = to_rgb(image, resizing=None if self.in_full else self, **reading)
        image = image if isinstance(self.size, tuple) else middle(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        height, width = self.size_of(image.width, image.height)
        resized = torch.nn.functional.interpolate(pixels[None], (height, width), mode=self.filter, antialias=True)[0]
        if self.crop:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            resized = resized[:, top : top + self.crop[0], left : left + self.crop[1]]
        return resized.contiguous().numpy()
