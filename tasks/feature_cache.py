"""Makes the feature cache: a frozen vision tower's features of all images, once, on disk (`--cache_frozen_features`)."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import SAFE_WEIGHTS_NAME

from ..modeling.configuration_renaissance import RenaissanceConfig
from ..modeling.modeling_renaissance import expand_parts
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import AugmentationArguments, CachingArguments
from .base import Task
from .finite import first_not_finite
from .image_cache import ImageCache, put_arrays_in_place, refuse_faulty, settings
from .pixel_cache import pixel_key, pixels_of


#: Lists the files of features that are known to be finite, with their sizes and times.
CHECKED = "finite.json"


def cache_features(
    arguments: CachingArguments,
    data: dict[str, Any],
    model: PreTrainedModel,
    processor: RenaissanceProcessor,
    args: TrainingArguments,
) -> None:
    """
    Replace the images of `data`, the rows of each split, by the frozen vision tower's features, if the user asks for
    it. All processes together first make the features that the folder lacks. The tables behind the rows are changed.

    Raises:
        ValueError: If the folder has features of another tower or processor, or some that are not finite, or they need more room
            than the user has or agreed to.
    """
    if not arguments.cache_frozen_features:
        return
    if args.resume_from_checkpoint:
        check_resumed(Path(args.resume_from_checkpoint), model)
    cache = ImageCache(
        option="cache_frozen_features",
        content="features",
        title="vision features",
        folder=Path(arguments.cache_frozen_features),
        key=cache_key(model, processor),
        collate=functools.partial(pixels_of, processor=processor),
        make=functools.partial(vision_features, model=model, args=args),
        check=refuse_not_finite,
    )
    put_arrays_in_place(cache, data, args, arguments.yes)


def check_cacheable(
    arguments: CachingArguments,
    augmentation: AugmentationArguments,
    task: Task,
    config: RenaissanceConfig,
    processor: RenaissanceProcessor,
    frozen: Sequence[str],
) -> None:
    """
    Raise `ValueError` if features are asked for and those of an image differ from one use to the next, or cannot be made. No
    data is needed for that, but the configuration of the model, the processor and the entries of `freeze`.
    """
    if not arguments.cache_frozen_features:
        return
    faults = {
        "augmented images are new ones in every epoch; use either this option or augmentation": augmentation.build(),
        "the images of a stream are not known beforehand; use either this option or streaming": getattr(
            task.data_arguments, "streaming", False
        ),
        "this task looks at regions of images, which are cut out anew each time; leave it out": not task.whole_images,
        "this model has no encoder for images alone; leave it out": not getattr(config, "vision_config", None),
        "the image processor makes images of many sizes; choose another image_transform": processor.image_shape
        is None,
        "a vision tower that trains makes other features in every step; freeze all of it with freeze: [vision] "
        f"(frozen is {', '.join(frozen) or 'nothing'})": "vision" not in expand_parts(frozen),
        "features are states, and image_pooling own reads the vector that the vision tower itself makes; leave out one of "
        "them": getattr(config, "image_pooling", None) == "own",
        "under ZeRO-3 no process has the whole vision tower; use ZeRO-2 or leave it out": is_deepspeed_zero3_enabled(),
    }
    for fault, applies in faults.items():
        if applies:
            raise ValueError(f"cache_frozen_features: {fault}")


def check_resumed(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raise `ValueError` if the checkpoint that training resumes from has another vision tower than `model`."""
    if not (checkpoint / SAFE_WEIGHTS_NAME).is_file():
        return
    prefix = f"{model.base_model_prefix}.vision_encoder."
    own = {name: value.cpu() for name, value in model.state_dict().items() if name.startswith(prefix)}
    with safe_open(checkpoint / SAFE_WEIGHTS_NAME, "pt") as file:
        same = all(torch.equal(file.get_tensor(name), value) for name, value in own.items())
    if not same:
        fault = "holds another vision tower than the one whose features are asked for"
        remedy = "repeat the options of that run (run.yaml), its seed too, or choose another output_dir"
        raise ValueError(f"{checkpoint} {fault}: {remedy}")


def cache_key(model: PreTrainedModel, processor: RenaissanceProcessor) -> dict[str, Any]:
    """Return all that features depend on, besides image files: a digest of the tower, and the processor's settings."""
    encoder = model.base_model.vision_encoder
    digest = xxhash.xxh3_128(json.dumps(settings(encoder.config), sort_keys=True).encode())
    for name, value in encoder.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {
        "vision_tower": digest.hexdigest(),
        **pixel_key(processor),
    }


def refuse_not_finite(folder: Path) -> None:
    """Raise `ValueError` if a file in a folder of features has a value that is not finite."""

    def fault_in(path: Path) -> str | None:
        name = first_not_finite(parts_of_features(path))
        return name and f"has values that are not finite (NaN or inf), the first in {name}"

    refuse_faulty(folder, "cache_frozen_features", "features", fault_in, CHECKED)


def parts_of_features(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the features in a file, image by image, each with a name."""
    with safe_open(path, "pt") as file:
        features = file.get_slice("features")
        for number in range(features.get_shape()[0]):
            yield f"features, image {number}", features[number]


@torch.inference_mode()
def vision_features(pixels: torch.Tensor, model: PreTrainedModel, args: TrainingArguments) -> np.ndarray:
    """Return the features (B, P, width), float16, of pixels (B, C, H, W); raise `ValueError` if they are beyond its range."""
    features = model.to(args.device).base_model.vision_features(pixels.to(args.device)).half()
    if not features.isfinite().all():
        raise ValueError("cache_frozen_features: features beyond the range of 16 bits (65,504); leave it out")
    return features.cpu().numpy()
