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


#: Filters that `interpolate` has too, with the same results as Pillow but for rounding.
FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}

#: What an image processor must not do in a way of its own for `Resizing` to take its place.
STEPS = ("preprocess", "_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize", "pad")

#: Orientations that EXIF has for images that are stored lying on their side.
SIDEWAYS = (5, 6, 7, 8)


def is_stored(image: Any) -> bool:
    """
    Whether this is an image as the bytes of its file: bytes, or a dictionary with `bytes`, `path` (where they are, if `bytes` is
    None) and, optionally, `name`, what messages call it. Data sets have such dictionaries in columns of `Image(decode=False)`.
    """
    return isinstance(image, bytes) or (isinstance(image, dict) and {"bytes", "path"} <= image.keys())


def is_feature(image: Any) -> bool:
    """Whether this stands for an image that a vision encoder has seen before: its features (patches, width), float16."""
    return isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.float16


def named(value: Any, name: str) -> Any:
    """A stored image, or a list of them, with a name for messages unless it has one; anything else as it is."""
    if isinstance(value, list) and value and is_stored(value[0]):
        return [named(image, name) for image in value]
    return {"name": name} | value if isinstance(value, dict) and is_stored(value) else value


def read_image(stored: dict) -> bytes:
    """The bytes of a stored image, which a data set may have as a path, on the Hub or in an archive."""
    if stored["bytes"] is not None:
        return stored["bytes"]
    with fsspec.open(stored["path"], "rb") as file:
        return file.read()


def decode(stored: bytes | dict, resizing: "Resizing | None" = None) -> Image.Image:
    """
    A stored image as RGB, the right way up.

    Args:
        stored: The image, as `is_stored` describes it.
        resizing: What is to become of it. A JPEG that is far larger is decoded at a half, a quarter or an eighth of its
            size, as small as is still enough.

    Raises:
        ValueError: Where it cannot be read; the message names it.
    """
    stored = {"bytes": stored, "path": None} if isinstance(stored, bytes) else stored
    with readable(stored):
        image = Image.open(io.BytesIO(read_image(stored)))
        if resizing:
            draft(image, resizing)
        return upright_rgb(image)


def size_upright(stored: dict) -> tuple[int, int]:
    """Width and height of a stored image, the right way up, from its header; raises `ValueError` as `decode` does."""
    with readable(stored):
        image = Image.open(io.BytesIO(read_image(stored)))
        return image.size[::-1] if orientation(image) in SIDEWAYS else image.size


@contextmanager
def readable(stored: dict) -> Iterator[None]:
    """Names the image in what goes wrong inside, as a `ValueError`."""
    try:
        yield
    # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        name = stored.get("name") or stored["path"] or "an image"
        raise ValueError(f"{name}: the image cannot be read ({error})") from error


def draft(image: Image.Image, resizing: "Resizing") -> None:
    """
    Has an opened JPEG decoded at the smallest fraction of its size that is no smaller than `resizing` makes it; a file in
    another format is left alone. Only where the fraction is whole pixels, for a part of one would shift the image.
    """
    sideways = orientation(image) in SIDEWAYS
    width, height = reversed(image.size) if sideways else image.size
    least_height, least_width = resizing.size_of(width, height)
    for scale in (8, 4, 2):
        if width % scale == height % scale == 0 and min(width // least_width, height // least_height) >= scale:
            image.draft(None, (image.width // scale, image.height // scale))
            return


def orientation(image: Image.Image) -> int:
    """How EXIF says that an image lies; 1 is upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def to_rgb(image: Any) -> Any:
    """
    An image as RGB, the right way up: EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to 8
    bits. A stored image is decoded, a path or URL is opened; an array comes back as it is.
    """
    if is_stored(image):
        return decode(image)
    if isinstance(image, (str, os.PathLike)):
        image = load_image(os.fspath(image))
    if isinstance(image, np.ndarray) and image.ndim == 2:
        image = Image.fromarray(image)
    return upright_rgb(image) if isinstance(image, Image.Image) else image


def upright_rgb(image: Image.Image) -> Image.Image:
    """What `to_rgb` says of an image that is open."""
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    # Not where it is RGB: Pillow would copy it.
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Resizing:
    """
    What most image processors do to an image before they normalise it: they resize it and, some, cut out its middle. This does
    the same, in 8 bits throughout, with torch's resizing, which takes a third of Pillow's time.

    The pixels differ from the image processor's by rounding, and, of JPEGs that `decode` reads at a fraction of their size, by
    that. Of photos of COCO, made 224x224, in levels of 255 (`benchmark.py loading`): by 0.04 or less on average and 2 at most
    where they are decoded in full; by 0.6 (soft photos of 640x480) to 2.6 (sharp ones of 1280x960, bicubic) on average and 47
    at most at a half or a quarter. From bilinear to bicubic it is 1.6 on average.

    Args:
        size: Height and width to stretch the image to, or its shorter side.
        crop: Height and width of the part that is cut out; `None` for the whole.
        filter: One of `FILTERS`' names.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    filter: str

    @classmethod
    def of(cls, image_processor: Any) -> "Resizing | None":
        """What an image processor does; `None` where it does something else, such as padding, or in a way of its own."""
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
        # Beyond the edges of the image, the image processor's crop is padding.
        inside = all(crop) and all(np.less_equal(crop, shorter or whole))
        return cls(shorter or whole, crop, filter_name) if inside else None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that an image of `width` by `height` pixels is resized to, before a part of it is cut out."""
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(width, height) / min(width, height))
        return (longer, self.size) if width <= height else (self.size, longer)

    def __call__(self, image: Any) -> np.ndarray:
        """
        The pixels (3, H, W), uint8, of a PIL image, a stored image (`is_stored`) or one at a path or URL.

        Raises:
            ValueError: Where the image is something else, or a stored one cannot be read.
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


__all__ = ["Resizing", "decode", "is_feature", "is_stored", "named", "read_image", "size_upright", "to_rgb"]
