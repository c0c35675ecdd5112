"""Images, from the bytes of their files to the 8-bit pixels that models read."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import load_image


#: Filters that torch's `interpolate` has too, with the results of Pillow up to rounding.
FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}

#: Methods that an image processor must not override for `Resizing` to replace it.
STEPS = ("preprocess", "_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize", "pad")

#: EXIF orientations of images that are stored on their side.
SIDEWAYS = (5, 6, 7, 8)


def is_stored(image: Any) -> bool:
    """
    Return whether this is an image as the bytes of its file: bytes, or, as in columns of `Image(decode=False)`, a dictionary
    with `bytes`, `path` (of the file, if `bytes` is None) and an optional `name` for messages.
    """
    return isinstance(image, bytes) or (isinstance(image, dict) and {"bytes", "path"} <= image.keys())


def is_feature(image: Any) -> bool:
    """Return whether these are the features (patches, width), float16, of an image from a vision encoder."""
    return isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.float16


def named(value: Any, name: str) -> Any:
    """Return a stored image, or a list of them, with a name for messages unless it has one; anything else as it is."""
    if isinstance(value, list) and value and is_stored(value[0]):
        return [named(image, name) for image in value]
    return {"name": name} | value if isinstance(value, dict) and is_stored(value) else value


def read_image(stored: dict) -> bytes:
    """Return the bytes of a stored image, whose path may be on the Hub or in an archive."""
    if stored["bytes"] is not None:
        return stored["bytes"]
    with fsspec.open(stored["path"], "rb") as file:
        return file.read()


def decode(stored: bytes | dict, resizing: "Resizing | None" = None) -> Image.Image:
    """
    Return a stored image (see `is_stored`) as RGB, the right way up; raise `ValueError`, naming it, if it cannot be
    read. A JPEG that is far larger than `resizing` needs is decoded at a half, a quarter or an eighth of its size.
    """
    stored = {"bytes": stored, "path": None} if isinstance(stored, bytes) else stored
    with readable(stored):
        image = Image.open(io.BytesIO(read_image(stored)))
        if resizing:
            draft(image, resizing)
        return upright_rgb(image)


def size_upright(stored: dict) -> tuple[int, int]:
    """Return width and height of a stored image, the right way up, from its header; raises errors like `decode`."""
    with readable(stored):
        image = Image.open(io.BytesIO(read_image(stored)))
        return image.size[::-1] if orientation(image) in SIDEWAYS else image.size


@contextmanager
def readable(stored: dict) -> Iterator[None]:
    """Turn any error inside into a `ValueError` that names the image."""
    try:
        yield
    # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        name = stored.get("name") or stored["path"] or "an image"
        raise ValueError(f"{name}: the image cannot be read ({error})") from error


def draft(image: Image.Image, resizing: "Resizing") -> None:
    """
    Set an opened JPEG to be decoded at the smallest fraction of its size that `resizing` does not have to enlarge;
    leave other formats alone. The fraction must be whole pixels: a part of one would shift the image.
    """
    sideways = orientation(image) in SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    least_height, least_width = resizing.size_of(width, height)
    for scale in (8, 4, 2):
        if width % scale == height % scale == 0 and min(width // least_width, height // least_height) >= scale:
            image.draft(None, (image.width // scale, image.height // scale))
            return


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 is upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def to_rgb(image: Any) -> Any:
    """
    Return an image as RGB, the right way up: apply EXIF rotation, lay transparency on white, scale 16-bit grey to 8
    bits. Decode a stored image, open a path or URL; return an array as it is.
    """
    if is_stored(image):
        return decode(image)
    if isinstance(image, (str, os.PathLike)):
        image = load_image(os.fspath(image))
    if isinstance(image, np.ndarray) and image.ndim == 2:
        image = Image.fromarray(image)
    return upright_rgb(image) if isinstance(image, Image.Image) else image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an open image as `to_rgb` does."""
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # Pillow's `convert` would copy an RGB image.
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


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
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    filter: str

    @classmethod
    def of(cls, image_processor: Any) -> "Resizing | None":
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
            return None if shorter else cls(whole, None, filter_name)
        crop = image_processor.crop_size.height, image_processor.crop_size.width
        # A crop beyond the edges of the image would be padding.
        inside = all(crop) and all(np.less_equal(crop, shorter or whole))
        return cls(shorter or whole, crop, filter_name) if inside else None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of a resized image of `width` by `height` pixels, before the crop."""
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(width, height) / min(width, height))
        return (longer, self.size) if width <= height else (self.size, longer)

    def __call__(self, image: Any) -> np.ndarray:
        """
        Return the pixels (3, H, W), uint8, of a PIL image, a stored image (`is_stored`) or one at a path or URL. Raise
        `ValueError` if the image is something else, or a stored one cannot be read.
        """
        image = decode(image, self) if is_stored(image) else to_rgb(image)
        if not isinstance(image, Image.Image):
            raise ValueError(f"expected an image, the bytes of its file or a path for 8-bit pixels, got {type(image)}")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        height, width = self.size_of(image.width, image.height)
        resized = torch.nn.functional.interpolate(pixels[None], (height, width), mode=self.filter, antialias=True)[0]
        if self.crop:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            resized = resized[:, top : top + self.crop[0], left : left + self.crop[1]]
        return resized.contiguous().numpy()
