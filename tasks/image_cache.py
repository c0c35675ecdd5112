"""Makes caches on disk of what becomes of images, once, by the content of their files: features of a frozen tower, or pixels."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch.utils.data import ConcatDataset, DataLoader, Subset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from .data.image_cache import StoredImages, read_shards, stored_images
from .data.shards import read_json, write_json
from .processes import message_of
from .run_lock import LOCK_FILE


logger = logging.getLogger(__name__)

#: Largest size of a file; an interrupted run loses one of each process.
SHARD_BYTES = 512_000_000
#: More than this needs `--yes`.
ASK_BYTES = 50_000_000_000
#: Changes with the way from images to pixels, and with the content of the files.
VERSION = 2
#: The entry of a file's metadata that has a digest of its arrays.
DIGEST = "digest"
#: Fields of an encoder's or an image processor's configuration that do not change its output.
IDLE_FIELDS = ("_name_or_path", "architectures", "auto_map", "dtype", "processor_class", "transformers_version")


@dataclass(frozen=True)
class ImageCache:
    """
    A folder with an array for each image.

    Attributes:
        option: The option that names the folder.
        content: What the arrays are, in the names of files and tensors, and in messages.
        title: The same, for the progress bar.
        folder: The folder.
        key: All that the arrays depend on, beside the files of images.
        collate: Makes a batch of pixels (B, C, H, W) of stored images.
        make: Makes arrays (B, ...) of such a batch.
        check: Raises `ValueError` if a file in a folder is damaged.
    """

    option: str
    content: str
    title: str
    folder: Path
    key: dict[str, Any]
    collate: Callable[[list], torch.Tensor]
    make: Callable[[torch.Tensor], np.ndarray]
    check: Callable[[Path], None]


def put_arrays_in_place(cache: ImageCache, data: dict[str, Any], args: TrainingArguments, agreed: bool) -> None:
    """
    Replace the images of `data`, the rows of each split, by their arrays. All processes together first make those that the folder
    lacks. The tables behind the rows are changed.

    Raises:
        ValueError: If the folder has arrays of another kind, or damaged ones, or they need more room than the user has or agreed to.
    """
    images = [found for rows in data.values() for found in stored_images(rows)]
    if not images:
        raise ValueError(f"{cache.option}: this task has no images; leave it out")
    folder = cache.folder
    if folder.is_file():
        raise ValueError(f"{cache.option} {folder} is a file: expected a folder, or nothing yet")
    with in_turn(folder):
        open_folder(cache)
        cache.check(folder)
        hashes = hash_images(images, folder)
        fill_folder(cache, ConcatDataset(images), np.concatenate(hashes), args, agreed)

    arrays, known = read_shards(folder, cache.content)
    order = np.argsort(known, kind="stable")
    for of_images, wanted in zip(images, hashes, strict=True):
        numbers = order[np.searchsorted(known, wanted, sorter=order)]
        assert np.array_equal(known[numbers], wanted)
        of_images.put_in_place(numbers, arrays)


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Let the processes of one run at a time into the folder of a cache, which is made; other runs wait."""
    state, lock = PartialState(), FileLock(folder / LOCK_FILE)
    if state.is_main_process:
        # A folder that nobody may write to is only read, and some file systems have no locks.
        with contextlib.suppress(NotImplementedError, OSError):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info(f"{folder}: another run fills it, which is waited for")
                lock.acquire()
    state.wait_for_everyone()
    try:
        yield
    finally:
        lock.release()


def fill_folder(
    cache: ImageCache, images: ConcatDataset, hashes: np.ndarray, args: TrainingArguments, agreed: bool
) -> None:
    """Make the arrays that the folder of a cache lacks of `images`, whose hashes (N,) are given."""
    distinct, first = np.unique(hashes, return_index=True)
    missing = np.sort(first[~np.isin(distinct, read_shards(cache.folder, cache.content)[1])])
    # Files that one process has finished must not change what another one finds missing.
    PartialState().wait_for_everyone()
    told = f"{cache.content} of {len(distinct) - len(missing)} of {len(distinct)} different images"
    logger.info(f"{cache.folder}: {told}")
    if len(missing):
        make_arrays(cache, images, missing, hashes[missing], args, agreed)
        PartialState().wait_for_everyone()
        cache.check(cache.folder)


def open_folder(cache: ImageCache) -> None:
    """Make the folder of a cache; raise `ValueError` if it holds something else."""
    folder, key = cache.folder, cache.key
    path = folder / "key.json"
    with PartialState().main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(each.name != LOCK_FILE for each in folder.iterdir()):
                raise ValueError(
                    f"{cache.option} {folder}: neither empty nor a folder of {cache.content} (no key.json); choose another"
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
        "decoded_in_full": "another decode_in_full",
        "image_processor": f"other settings of the image processor ({', '.join(changed)})",
    }
    others = " and ".join(text for name, text in names.items() if found.get(name) != key.get(name))
    remedy = "repeat its settings, choose another folder, or delete it"
    raise ValueError(f"{cache.option} {folder} was made with {others}: {remedy}")


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


def make_arrays(
    cache: ImageCache,
    images: ConcatDataset,
    missing: np.ndarray,
    hashes: np.ndarray,
    args: TrainingArguments,
    agreed: bool,
) -> None:
    """Write the arrays of the images whose numbers are `missing` (N,) and whose hashes are `hashes` (N,), in files
    that the processes share out. A file is named by its images, so that an interrupted run finds its files again."""
    bytes_an_image = cache.make(cache.collate([Image.new("RGB", (96, 64))])).nbytes
    check_room(cache, len(missing), bytes_an_image, agreed)
    state, size = PartialState(), max(1, SHARD_BYTES // bytes_an_image)
    starts = range(0, len(missing), size)[state.process_index :: state.num_processes]
    # Where there is no terminal, tqdm's `None` shows nothing.
    silent = args.disable_tqdm or not state.is_main_process or None
    total = sum(min(size, len(missing) - start) for start in starts)
    with tqdm(desc=cache.title, unit="image", total=total, disable=silent) as progress:
        for start in starts:
            chosen = slice(start, start + size)
            loader = DataLoader(
                Subset(images, missing[chosen].tolist()),
                batch_size=args.per_device_eval_batch_size,
                collate_fn=cache.collate,
                num_workers=args.dataloader_num_workers,
            )
            arrays = arrays_of(loader, cache.make, progress)
            content = {cache.content: arrays, "hashes": hashes[chosen]}
            path = cache.folder / f"{cache.content}-{xxhash.xxh3_64_hexdigest(hashes[chosen])}.safetensors"
            save_file(content, temporary := path.with_name(f".{path.name}"), {DIGEST: digest_of(arrays)})
            # safetensors lets nobody but their owner read them.
            shutil.copymode(cache.folder / "key.json", temporary)
            os.replace(temporary, path)


def digest_of(arrays: np.ndarray) -> str:
    """Return a digest of the values of an array."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(arrays).reshape(-1).view(np.uint8).data)


def arrays_of(loader: DataLoader, make: Callable[[torch.Tensor], np.ndarray], progress: tqdm) -> np.ndarray:
    """Return the joined results of `make` for all batches; raise `ValueError` if an image cannot be read."""
    parts = []
    try:
        for batch in loader:
            parts.append(make(batch))
            progress.update(len(batch))
    except ValueError as error:
        raise ValueError(message_of(error)) from error
    # safetensors writes the memory of an array as it lies there, and the cells of feature maps do not lie in their order.
    return np.ascontiguousarray(np.concatenate(parts))


def check_room(cache: ImageCache, count: int, bytes_an_image: int, agreed: bool) -> None:
    """Log the size of the new files; raise `ValueError` if it exceeds the disk, or is large and not agreed to."""
    total, folder = count * bytes_an_image, cache.folder
    size = f"{count} images at {bytes_an_image / 1000:.1f} KB each, {total / 1e9:.2f} GB"
    logger.info(f"{folder}: making {cache.content} of {size}")
    if (free := shutil.disk_usage(folder).free) < total:
        raise ValueError(f"{cache.option} {folder}: {size}, and only {free / 1e9:.2f} GB are free there")
    if total > ASK_BYTES and not agreed:
        limit = f"more than {ASK_BYTES / 1e9:g} GB; add --yes to write them all the same"
        raise ValueError(f"{cache.option} {folder}: {size}, {limit}")


def refuse_faulty(
    folder: Path, option: str, content: str, fault_in: Callable[[Path], str | None], checked: str
) -> None:
    """
    Raise `ValueError` if a file with `content` in the folder of a cache has a fault that `fault_in` finds. The main process reads a file for that
    once, and again if it changes: the file `checked` lists those that were read.
    """
    with PartialState().main_process_first():
        known = read_json(folder / checked) or {}
        for path in sorted(folder.glob(f"{content}-*.safetensors")):
            status = path.stat()
            place = [status.st_size, status.st_mtime_ns]
            if known.get(path.name) == place:
                continue
            try:
                fault = fault_in(path)
            except SafetensorError:
                # `read_shards` tells more.
                continue
            if fault is not None:
                remedy = f"delete this file, and its {content} are made anew"
                raise ValueError(f"{option}: {path} {fault}; {remedy}")
            known[path.name] = place
            write_json(folder / checked, known)


def settings(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, or an image processor, as JSON has them, without those that change nothing."""
    fields = {name: value for name, value in config.to_dict().items() if name not in IDLE_FIELDS}
    return json.loads(json.dumps(fields, default=str))
