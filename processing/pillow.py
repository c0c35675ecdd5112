"""Image processors of transformers that compute with Pillow, in place of those that need torchvision, whose pixels are others."""

import tempfile
from typing import Any

from transformers import AutoImageProcessor, BaseImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging


logger = logging.get_logger(__name__)

#: Settings of image processors that say how an image is resized, cropped and normalised.
SETTINGS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean",
    "image_std",
)  # fmt: skip


def with_pillow(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """
    Return the image processor with the same settings that computes with Pillow. One that does already is returned as it is; so is
    a class that is not of transformers.
    """
    of_transformers = type(image_processor).__module__.startswith("transformers.")
    if not of_transformers or getattr(image_processor, "backend", None) != "torchvision":
        return image_processor
    with tempfile.TemporaryDirectory() as folder:
        image_processor.save_pretrained(folder)
        found = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    return plain_steps(found.to_dict()) if found.backend == "torchvision" else found


def plain_steps(settings: dict[str, Any]) -> ViTImageProcessorPil:
    """
    Return an image processor that resizes, crops and normalises with Pillow, with the settings of one that there is with torchvision
    only, such as DINOv3's.
    """
    name = settings.get("image_processor_type")
    logger.info(f"There is no {name} for Pillow: its size, mean and deviation are used, and no other steps")
    return ViTImageProcessorPil(**{key: settings[key] for key in SETTINGS if settings.get(key) is not None})
