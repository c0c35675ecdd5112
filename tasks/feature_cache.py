"""Makes the feature cache: a frozen vision tower's features of all images, once, on disk (`--cache_frozen_features`)."""

import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.utils.data import ConcatDataset, DataLoader, Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import SAFE_WEIGHTS_NAME

from ..modeling.configuration_renaissance import RenaissanceConfig
from ..modeling.modeling_renaissance import expand_parts
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import AugmentationArguments, CachingArguments
from .base import Task
from .data.feature_cache import StoredImages, read_shards, stored_images
from .data.shards import read_json, write_json
from .finite import first_not_finite
from .models import base_class
from .processes import message_of


logger = logging.getLogger(__name__)

#: Largest size of a file; an interrupted run loses one of each process.
SHARD_BYTES = 512_000_000
#: More than this needs `--yes`.
ASK_BYTES = 50_000_000_000
#: Changes with the way from images to pixels, and with the content of the files.
VERSION = 1
#: Lists the files of features that are known to be finite, with their sizes and times.
CHECKED = "finite.json"
#: Fields of an encoder's or an image processor's configuration that do not change its output.
IDLE_FIELDS = ("_name_or_path", "architectures", "auto_map", "dtype", "processor_class", "transformers_version")


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
    images = [found for rows in data.values() for found in stored_images(rows)]
    if not images:
        raise ValueError("cache_frozen_features: this task has no images; leave it out")
    folder = Path(arguments.cache_frozen_features)
    open_folder(folder, cache_key(model, processor))
    refuse_not_finite(folder)
    hashes = hash_images(images, folder)

    all_images, all_hashes = ConcatDataset(images), np.concatenate(hashes)
    distinct, first = np.unique(all_hashes, return_index=True)
    missing = np.sort(first[~np.isin(distinct, read_shards(folder)[1])])
    # Files that one process has finished must not change what another one finds missing.
    PartialState().wait_for_everyone()
    logger.info(f"{folder}: features of {len(distinct) - len(missing)} of {len(distinct)} different images")
    if len(missing):
        make_features(folder, all_images, missing, all_hashes[missing], model, processor, args, arguments.yes)
        PartialState().wait_for_everyone()
        refuse_not_finite(folder)

    features, known = read_shards(folder)
    order = np.argsort(known, kind="stable")
    for of_images, wanted in zip(images, hashes, strict=True):
        numbers = order[np.searchsorted(known, wanted, sorter=order)]
        assert np.array_equal(known[numbers], wanted)
        of_images.put_in_place(numbers, features)


def check_cacheable(
    arguments: CachingArguments,
    augmentation: AugmentationArguments,
    task: Task,
    config: RenaissanceConfig,
    frozen: Sequence[str],
) -> None:
    """
    Raise `ValueError` if features are asked for and those of an image differ from one use to the next, or cannot be made. No
    data is needed for that, but the configuration of the model and the entries of `freeze`.
    """
    if not arguments.cache_frozen_features:
        return
    faults = {
        "augmented images are new ones in every epoch; use either this option or augmentation": augmentation.build(),
        "the images of a stream are not known beforehand; use either this option or streaming": getattr(
            task.data_arguments, "streaming", False
        ),
        "this task looks at regions of images, which are cut out anew each time; leave it out": not task.whole_images,
        "a one-tower model has no encoder for images alone; leave it out": not hasattr(
            base_class(config), "vision_features"
        ),
        "a vision tower that trains makes other features in every step; freeze all of it with freeze: [vision] "
        f"(frozen is {', '.join(frozen) or 'nothing'})": "vision" not in expand_parts(frozen),
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
        "version": VERSION,
        "vision_tower": digest.hexdigest(),
        "image_processor": settings(processor.image_processor),
    }


def settings(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, or an image processor, as JSON has them, without those that change nothing."""
    fields = {name: value for name, value in config.to_dict().items() if name not in IDLE_FIELDS}
    return json.loads(json.dumps(fields, default=str))


def open_folder(folder: Path, key: dict[str, Any]) -> None:
    """Make the folder for features of `key`; raise `ValueError` if it holds something else."""
    path = folder / "key.json"
    with PartialState().main_process_first():
        if folder.is_file():
            raise ValueError(f"cache_frozen_features {folder} is a file: expected a folder, or nothing yet")
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(folder.iterdir()):
                raise ValueError(
                    f"cache_frozen_features {folder}: neither empty nor a folder of features (no key.json); choose another"
                )
            write_json(path, key)
    found = read_json(path) or {}
    if found == key:
        return
    processors = found.get("image_processor", {}), key["image_processor"]
    changed = sorted(n for n in processors[0] | processors[1] if processors[0].get(n) != processors[1].get(n))
    names = {
        "version": "another version of this program",
        "vision_tower": "another vision tower (other weights or configuration)",
        "image_processor": f"other settings of the image processor ({', '.join(changed)})",
    }
    others = " and ".join(text for name, text in names.items() if found.get(name) != key[name])
    remedy = "repeat its settings, choose another folder, or delete it"
    raise ValueError(f"cache_frozen_features {folder} was made with {others}: {remedy}")


def refuse_not_finite(folder: Path) -> None:
    """
    Raise `ValueError` if a file in a folder of features has a value that is not finite. The main process reads a file for that
    once, and again if it changes: `finite.json` lists those that were read.
    """
    with PartialState().main_process_first():
        known = read_json(folder / CHECKED) or {}
        for path in sorted(folder.glob("features-*.safetensors")):
            status = path.stat()
            place = [status.st_size, status.st_mtime_ns]
            if known.get(path.name) == place:
                continue
            try:
                name = first_not_finite(parts_of_features(path))
            except SafetensorError:
                # `read_shards` tells more.
                continue
            if name is not None:
                fault = f"{path} has values that are not finite (NaN or inf), the first in {name}"
                raise ValueError(f"cache_frozen_features: {fault}; delete this file, and its features are made anew")
            known[path.name] = place
            write_json(folder / CHECKED, known)


def parts_of_features(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the features in a file, image by image, each with a name."""
    with safe_open(path, "pt") as file:
        features = file.get_slice("features")
        for number in range(features.get_shape()[0]):
            yield f"features, image {number}", features[number]


def hash_images(images: list[StoredImages], folder: Path) -> list[np.ndarray]:
    """Return the hashes (images,), uint64, of each; an earlier run's, if the data has not changed."""
    state = PartialState()
    found, new = [], {}
    for of_images in images:
        path = folder / f"index-{of_images.fingerprint()}.npy"
        if path.exists():
            found.append(read_index(path, len(of_images)))
            continue
        logger.info(f"{of_images.owner.source}: looking through {len(of_images)} images")
        bounds = [len(of_images) * part // state.num_processes for part in range(state.num_processes + 1)]
        own = of_images.hashes(bounds[state.process_index], bounds[state.process_index + 1])
        new[path] = np.array(gather_object(own), dtype=np.uint64)
        found.append(new[path])
    # Not before all processes have seen what there is.
    state.wait_for_everyone()
    if state.is_main_process:
        for path, hashes in new.items():
            with (temporary := path.with_name(f".{path.name}")).open("wb") as file:
                np.save(file, hashes)
            # safetensors lets nobody but their owner read them.
            shutil.copymode(folder / "key.json", temporary)
            os.replace(temporary, path)
    return found


def read_index(path: Path, count: int) -> np.ndarray:
    """Return the hashes (count,), uint64, in a file of an earlier run; raise `ValueError` if it holds anything else."""
    try:
        # Nothing is unpickled, and a length that is not there takes no memory.
        hashes = np.lib.format.open_memmap(path, mode="r")
    # A damaged header raises errors of many types.
    except Exception as error:
        fault = f"not a file of this feature cache ({str(error).splitlines()[0]})"
        raise ValueError(f"{path}: {fault}; delete it") from error
    if hashes.dtype != np.uint64 or hashes.shape != (count,):
        raise ValueError(f"{path}: expected {count} hashes, found something else; delete it")
    return np.array(hashes)


def make_features(
    folder: Path,
    images: ConcatDataset,
    missing: np.ndarray,
    hashes: np.ndarray,
    model: PreTrainedModel,
    processor: RenaissanceProcessor,
    args: TrainingArguments,
    agreed: bool,
) -> None:
    """Write the features of the images whose numbers are `missing` (N,) and whose hashes are `hashes` (N,), in files
    that the processes share out. A file is named by its images, so that an interrupted run finds its files again."""
    model.to(args.device)
    make = functools.partial(vision_features, model=model, args=args)
    pixels = functools.partial(pixels_of, processor=processor)
    bytes_an_image = make(pixels([Image.new("RGB", (96, 64))])).nbytes
    check_room(folder, len(missing), bytes_an_image, agreed)
    state, size = PartialState(), max(1, SHARD_BYTES // bytes_an_image)
    starts = range(0, len(missing), size)[state.process_index :: state.num_processes]
    # Where there is no terminal, tqdm's `None` shows nothing.
    silent = args.disable_tqdm or not state.is_main_process or None
    total = sum(min(size, len(missing) - start) for start in starts)
    with tqdm(desc="vision features", unit="image", total=total, disable=silent) as progress:
        for start in starts:
            chosen = slice(start, start + size)
            loader = DataLoader(
                Subset(images, missing[chosen].tolist()),
                batch_size=args.per_device_eval_batch_size,
                collate_fn=pixels,
                num_workers=args.dataloader_num_workers,
            )
            content = {"features": features_of(loader, make, progress), "hashes": hashes[chosen]}
            path = folder / f"features-{xxhash.xxh3_64_hexdigest(hashes[chosen])}.safetensors"
            save_file(content, temporary := path.with_name(f".{path.name}"))
            # safetensors lets nobody but their owner read them.
            shutil.copymode(folder / "key.json", temporary)
            os.replace(temporary, path)


def features_of(loader: DataLoader, make: Callable[[torch.Tensor], np.ndarray], progress: tqdm) -> np.ndarray:
    """Return the joined results of `make` for all batches; raise `ValueError` if an image cannot be read."""
    parts = []
    try:
        for batch in loader:
            parts.append(make(batch))
            progress.update(len(batch))
    except ValueError as error:
        raise ValueError(message_of(error)) from error
    return np.concatenate(parts)


def pixels_of(images: list, processor: RenaissanceProcessor) -> torch.Tensor:
    """Return the pixels (B, C, H, W) of images, as the collators make them."""
    return torch.from_numpy(np.stack(processor.process_images(images, as_uint8=True)["pixel_values"]))


@torch.inference_mode()
def vision_features(pixels: torch.Tensor, model: PreTrainedModel, args: TrainingArguments) -> np.ndarray:
    """Return the features (B, P, width), float16, of pixels (B, C, H, W); raise `ValueError` if they are beyond its range."""
    features = model.base_model.vision_features(pixels.to(args.device)).half()
    if not features.isfinite().all():
        raise ValueError("cache_frozen_features: features beyond the range of 16 bits (65,504); leave it out")
    return features.cpu().numpy()


def check_room(folder: Path, count: int, bytes_an_image: int, agreed: bool) -> None:
    """Log the size of the new files; raise `ValueError` if it exceeds the disk, or is large and not agreed to."""
    total = count * bytes_an_image
    size = f"{count} images at {bytes_an_image / 1000:.1f} KB each, {total / 1e9:.2f} GB"
    logger.info(f"{folder}: making features of {size}")
    if (free := shutil.disk_usage(folder).free) < total:
        raise ValueError(f"cache_frozen_features {folder}: {size}, and only {free / 1e9:.2f} GB are free there")
    if total > ASK_BYTES and not agreed:
        limit = f"more than {ASK_BYTES / 1e9:g} GB; add --yes to write them all the same"
        raise ValueError(f"cache_frozen_features {folder}: {size}, {limit}")
