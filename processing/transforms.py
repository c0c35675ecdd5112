"""The transforms of the original platform, as image processors of transformers, which are saved with a checkpoint."""

from transformers import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil


HALVES = [0.5, 0.5, 0.5]

#: Mean and standard deviation of each channel, of pixels from 0 to 1, by the transforms that cut out the middle of an image.
STATISTICS = {
    "vit": (HALVES, HALVES),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}

#: The names of the transforms.
TRANSFORMS = ("pixelbert", *STATISTICS)


def make_transform(name: str, image_size: int) -> BaseImageProcessor:
    """
    Return the image processor for one of `TRANSFORMS`.

    `pixelbert` keeps the aspect ratio: it resizes an image so that its shorter side has `image_size` pixels and the longer one at
    most 1333 / 800 of that, rounds both down to multiples of 32, and pads the images of a batch to one size; mean and standard
    deviation are 0.5. The others resize the shorter side to `image_size` (bicubic), cut out the square in the middle, and
    normalise by `STATISTICS`.

    Raises:
        ValueError: If there is no such transform.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"image_transform: expected one of {', '.join(TRANSFORMS)}, got {name!r}")
    if name == "pixelbert":
        return ViltImageProcessorPil(size={"shortest_edge": image_size}, image_mean=HALVES, image_std=HALVES)
    mean, std = map(list, STATISTICS[name])
    square = {"height": image_size, "width": image_size}
    return CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square, image_mean=mean, image_std=std)
