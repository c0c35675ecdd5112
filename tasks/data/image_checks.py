"""Finds the images that cannot be decoded, before training starts."""

import contextlib
import enum
import functools
import io
import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import PIL
import pyarrow as pa
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from PIL import Image
from pyarrow import compute
from tqdm.auto import tqdm

from ...processing.decoding import open_image, readable, upright_rgb
from ...processing.image_files import local_place, open_file
from .columns import column_of, flattened
from .faults import Faults


#: Images that a thread decodes before it takes others.
BATCH = 32

#: Seconds without a progress bar.
QUIET = 3


#: How whole files of some formats end.
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


class ImageCheck(enum.Enum):
    """How far images are looked at before training: not at all, their headers and ends, or the whole files."""

    NONE = 0
    HEADERS = 1
    WHOLE = 2


class Reason(NamedTuple):
    """
    Why an image cannot be decoded.

    Attributes:
        place: Which of the images that were checked it is.
        kind: The first words of the reason, without numbers. Messages count the images of a kind together.
        message: What is wrong, with the name of the image.
        passes: Whether the same file may be readable in the next run.
    """

    place: int
    kind: str
    message: str
    passes: bool

    @classmethod
    def of(cls, place: int, error: ValueError) -> "Reason":
        """Return the reason of an error of `check_image`."""
        cause = error.__cause__
        kind = " ".join(re.sub(r"[\d,]+", "", str(cause)).split()[:3])
        # Errors of the system have a number, and those of Pillow have none.
        passes = isinstance(cause, MemoryError) or getattr(cause, "errno", None) is not None
        return cls(place, kind, str(error), passes)


def decode_once(image: Image.Image) -> None:
    """Decode an opened image to be sure of it; raise an error of any type if it is damaged."""
    # A JPEG is decoded at an eighth of its size: all of its data is read all the same, in less time.
    image.draft(None, (1, 1))
    upright_rgb(image)


def check_image(stored: dict, max_pixels: int, check: ImageCheck = ImageCheck.WHOLE) -> None:
    """
    Raise `ValueError`, from the reason, if a stored image is missing, damaged or of more than `max_pixels`. If only headers are
    checked, files are decoded that do not end as whole ones of their format.
    """
    with readable(stored), opened(stored) as file:
        image = open_image(file, max_pixels)
        if check is ImageCheck.WHOLE or not ends_whole(image.format, file):
            decode_once(image)


def opened(stored: dict) -> contextlib.AbstractContextManager[BinaryIO]:
    """Return a context in which the file of a stored image is open; its bytes may be a buffer of pyarrow, which is not copied."""
    content = stored["bytes"]
    if content is not None:
        return pa.BufferReader(content) if isinstance(content, pa.Buffer) else io.BytesIO(content)
    if stored["path"] is None:
        raise ValueError("it has neither bytes nor a path")
    return open_file(stored["path"])


def ends_whole(kind: str, file: BinaryIO) -> bool:
    """Return whether an open file ends as a whole one of its format does; false of formats whose end says nothing. The place in the
    file stays as it is."""
    place = file.tell()
    try:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - 16, 0))
        end = file.read(16).rstrip(b"\0")
        if kind == "WEBP":
            file.seek(4)
            return int.from_bytes(file.read(4), "little") + 8 <= length
        return kind in ENDS and end.endswith(ENDS[kind])
    finally:
        file.seek(place)


def check_images(
    data: Dataset, column: str, without_file: Collection[int], faults: Faults, max_pixels: int, check: ImageCheck
) -> None:
    """
    Look at each image of a column, or of its lists, once, in threads. Add to `faults` the rows whose image is damaged or has
    more than `max_pixels`. Each process checks a part of the images; all get the same answer. It is remembered in the
    cache of `datasets`, so that the next run looks at none of these images unless one of their files has changed.

    Args:
        without_file: Numbers of the images whose file is known to be missing, which have a fault already.
        check: How far to look at them.
    """
    if check is ImageCheck.NONE:
        return
    images, owners = flattened(column_of(data, column))
    paths = compute.struct_field(images, "path").to_pylist()
    is_path = compute.struct_field(images, "bytes").is_null().to_pylist()
    # A file that several rows name is decoded once. Rows without an image have a fault already.
    same = {}
    for number, (path, alone, found) in enumerate(zip(paths, is_path, images.is_valid().to_pylist(), strict=True)):
        if found and number not in without_file:
            same.setdefault(path if alone and path else number, []).append(number)
    groups = list(same.values())
    firsts = [numbers[0] for numbers in groups]
    name = functools.partial(name_of, paths, faults.called(column))
    # To digest the content of all files takes longer than to look at their headers.
    known_as = f"{data._fingerprint} {column}" if check is ImageCheck.HEADERS else None
    for reason in remembered(images, firsts, name, max_pixels, known_as):
        for number in groups[reason.place]:
            faults.add_row(f"{column} {reason.kind}", int(owners[number]), reason.message)


def name_of(paths: Sequence[str | None], called: str, number: int) -> str:
    """Return the name of an image in messages: its path, if it has one, and its column."""
    return f"{paths[number]} ({called})" if paths[number] else called


def remembered(
    images: pa.ChunkedArray,
    numbers: Sequence[int],
    name: Callable[[int], str],
    max_pixels: int,
    known_as: str | None,
) -> list[Reason]:
    """Return the result of `reasons_of`, from the cache if these images were checked before; arguments as those of `digest_of`."""
    file = None
    if PartialState().is_main_process:
        digest = digest_of(images, numbers, name, max_pixels, known_as)
        file = Path(datasets.config.HF_DATASETS_CACHE) / "checked_images" / f"{digest}.json"
    known = [json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else None]
    if (reasons := broadcast_object_list(known)[0]) is not None:
        return [Reason(*reason) for reason in reasons]
    check = ImageCheck.HEADERS if known_as else ImageCheck.WHOLE
    reasons = reasons_of(images, numbers, name, max_pixels, check)
    if file and not any(reason.passes for reason in reasons):
        remember(file, reasons)
    return reasons


def remember(file: Path, reasons: list[Reason]) -> None:
    """Write a file of the cache, whole or not at all; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(reasons), encoding="utf-8")
        part.replace(file)


def digest_of(
    images: pa.ChunkedArray,
    numbers: Sequence[int],
    name: Callable[[int], str],
    max_pixels: int,
    known_as: str | None = None,
) -> str:
    """Return a digest of images by `numbers`: of their names and their bytes or, of files, their sizes and times; with `known_as`,
    which stands for all bytes, of that in place of them."""
    digest = xxhash.xxh3_128(f"{max_pixels} {PIL.__version__} {known_as}".encode())
    for number in numbers:
        image = images[number]
        content, path = image["bytes"], image["path"].as_py()
        if content.is_valid and known_as:
            continue
        if content.is_valid:
            digest.update(f"{name(number)} {content.as_buffer().size}".encode())
            digest.update(content.as_buffer())
        else:
            # Of a member of an archive, those of the archive; files on the Hub have another path when they change.
            place = path and local_place(path)
            status = os.stat(place) if place and os.path.exists(place) else None
            digest.update(f"{name(number)} {status and (status.st_size, status.st_mtime_ns)}".encode())
    return digest.hexdigest()


def reasons_of(
    images: pa.ChunkedArray, numbers: Sequence[int], name: Callable[[int], str], max_pixels: int, check: ImageCheck
) -> list[Reason]:
    """Return why some of the images by `numbers` cannot be decoded; `name` gives the name of each in messages."""

    def stored(number: int) -> dict[str, Any]:
        content = images[number]["bytes"]
        own = content.as_buffer() if content.is_valid else None
        return {"bytes": own, "path": images[number]["path"].as_py(), "name": name(number)}

    state = PartialState()
    own = range(state.process_index, len(numbers), state.num_processes)
    batches = [own[start : start + BATCH] for start in range(0, len(own), BATCH)]

    def of_batch(batch: Sequence[int]) -> list[Reason]:
        found = []
        for place in batch:
            try:
                check_image(stored(numbers[place]), max_pixels, check)
            except ValueError as error:
                found.append(Reason.of(place, error))
        return found

    bar = tqdm(total=len(own), desc="checking images", unit="image", delay=QUIET, disable=not state.is_main_process)
    found = []
    # Pillow decodes outside of Python's lock.
    with bar, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for batch, reasons in zip(batches, pool.map(of_batch, batches), strict=True):
            found += reasons
            bar.update(len(batch))
    return sorted(gather_object(found))
