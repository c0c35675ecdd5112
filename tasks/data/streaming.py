"""Image-caption pairs of data sets that are read as they come, without being downloaded or indexed first."""

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Image as ImageFeature
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from ...processing.decoding import MAX_PIXELS, decode, read_image, readable
from .bad_rows import JUDGED_ROWS, BadRow, BadRows
from .blank_texts import is_blank
from .columns import require_columns
from .image_paths import fault_of_path, folders_of
from .opening import open_split
from .readers import Unusable
from .web_samples import first_endings, is_complete, read_tars, tar_files


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionSource:
    """A data set to stream: its name, its rows with undecoded images, its names of the columns, the largest number of pixels of
    an image, and what becomes of bad rows. By default they are left out, however many they are."""

    name: str
    data: IterableDataset
    columns: dict[str, str]
    max_pixels: int = MAX_PIXELS
    bad_rows: BadRows = field(default_factory=lambda: BadRows(skip=True, max_fraction=1.0))

    @classmethod
    def open(
        cls,
        name: str,
        split: str,
        columns: dict[str, str],
        max_pixels: int = MAX_PIXELS,
        bad_rows: BadRows | None = None,
    ) -> "CaptionSource":
        """Open a split of a data set (see `open_split`); `columns` are its names for `image`, `captions` and, if it
        has one, `image_id`. Raise `ValueError` if it cannot be read, or lacks a column or images."""
        source, bad_rows = f"{name}, split {split!r}", bad_rows or BadRows(skip=True, max_fraction=1.0)
        if files := tar_files(name, split):
            require_members(files, columns, source)
            # The files are the shards: processes and loader processes share them out, and a shuffled pass reorders them.
            data = IterableDataset.from_generator(read_tars, gen_kwargs={"paths": files, "columns": columns})
            return cls(name, data, {own: own for own in ("image", "captions", "image_id")}, max_pixels, bad_rows)
        data = open_split(name, split, streaming=True, bad_rows=bad_rows)
        found = data.features or {}
        require_columns([columns["image"], columns["captions"]], found, source)
        if not isinstance(feature := found[columns["image"]], ImageFeature):
            raise ValueError(f"{source}: expected images in column {columns['image']!r}, found {feature}")
        return cls(
            name, data, {own: column for own, column in columns.items() if column in found}, max_pixels, bad_rows
        )

    def rows(self, seed: int | None = None, buffer_size: int = 1) -> Iterator[tuple[dict, Image.Image]]:
        """Yield the rows, once: each with the columns of `schemas.CAPTIONS`, its image as bytes and an `image_id` that
        no other data set has, and the image itself. Rows share an `image_id` if they have the same bytes and, if the data
        has such a column, the same id. A `seed` shuffles the files, and buffers of `buffer_size` rows.

        Rows that cannot be used are left out; the log counts them by reason, names one whenever a count has doubled, and
        has all counts at the end. Raise `BadRow` if that is not allowed, or they are too many: of the whole pass, or of
        the first `JUDGED_ROWS` rows and more. Each process that reads judges its own rows: one whose files are all bad has none
        to give, however good those of the others are."""
        data = self.data if seed is None else self.data.shuffle(seed=seed, buffer_size=buffer_size)
        left_out, used, folders = Counter(), 0, folders_of(self.name)
        for number, row in enumerate(self.rows_read(data)):
            try:
                kept, image = self.usable(row, folders)
            except Unusable as fault:
                left_out[fault.kind] += 1
                place = self.name_of(row, number)
                # Whenever the number has doubled.
                if left_out[fault.kind].bit_count() == 1 and self.bad_rows.skip:
                    count = f"left out {left_out[fault.kind]} with {fault.kind}"
                    logger.warning(f"{self.name}: {count}, now {place} ({fault})")
                stored = row.get(self.columns["image"])
                self.bad_rows.add(self.name, place, stored and stored["path"], str(fault))
                self.bad_rows.judge(self.name, left_out.total(), max(number + 1, JUDGED_ROWS), reader())
                continue
            used += 1
            yield kept, image
        if left_out:
            self.bad_rows.judge(self.name, left_out.total(), used + left_out.total(), reader())
            counts = ", ".join(f"{kind} ({count:,})" for kind, count in left_out.most_common())
            logger.warning(
                f"{self.name}: a pass of {used:,} rows, without {left_out.total():,} that were left out: {counts}"
            )

    def rows_read(self, data: IterableDataset) -> Iterator[dict]:
        """Yield the rows of the data as they are; raise `BadRow` if a file is damaged so that `datasets` cannot go on."""
        try:
            yield from data
        except (OSError, ValueError, pa.ArrowException) as error:
            raise BadRow(f"{self.name}: cannot be read ({' '.join(str(error).split())})") from error

    def usable(self, row: dict, folders: list[str]) -> tuple[dict, Image.Image]:
        """Return what `rows` yields of a row of the data, whose images lie in `folders`; raise `Unusable`."""
        if fault := row.get("fault"):
            raise Unusable(fault.partition(" (")[0], fault)
        stored, captions = row[self.columns["image"]], row[self.columns["captions"]]
        captions = [captions] if isinstance(captions, str) else captions or []
        captions = [caption.strip() for caption in captions if caption and not is_blank(caption)]
        if stored is None:
            raise Unusable("no image", "its image is empty")
        if not captions:
            raise Unusable("blank caption", "it has no caption")
        try:
            content, image = self.read(stored, folders)
        except ValueError as error:
            raise Unusable("unreadable image", str(error)) from error
        own_id = row[self.columns["image_id"]] if "image_id" in self.columns else None
        digest = hashlib.sha256(content).hexdigest()
        # Files often number their samples anew. The digest keeps such images apart, which nothing else in a stream can.
        image_id = digest if own_id is None else f"{own_id}/{digest}"
        kept = {"bytes": content, "path": stored["path"]}
        return {"image": kept, "image_id": f"{self.name}/{image_id}", "captions": captions}, image

    def read(self, stored: dict, folders: list[str]) -> tuple[bytes, Image.Image]:
        """Return the bytes of an image and the image as `decode` does; raise `ValueError` if it cannot be read, or lies
        outside of `folders` (see `folders_of`)."""
        with readable(stored):
            named = stored["path"] if stored["bytes"] is None else None
            if named and (fault := fault_of_path(named, folders)):
                raise ValueError(fault)
            content = read_image(stored)
        return content, decode(stored | {"bytes": content}, max_pixels=self.max_pixels)

    def name_of(self, row: dict, number: int) -> str:
        """Return the name of a row of the data for messages: that of its sample, its image's id or path, or its number."""
        own_id, stored = row.get(self.columns.get("image_id")), row.get(self.columns["image"])
        return row.get("name") or own_id or (stored and stored["path"]) or f"row {number}"


def reader() -> str:
    """Return the name of this process in messages if others read other rows of a stream; else nothing."""
    worker, processes = get_worker_info(), PartialState()
    names = [f"loader process {worker.id}"] if worker and worker.num_workers > 1 else []
    names += [f"process {processes.process_index}"] if processes.num_processes > 1 else []
    return " of ".join(names)


def require_members(files: list[str], columns: dict[str, str], source: str) -> None:
    """Raise `ValueError` if .tar files have no members for images and captions."""
    needed = {name: columns[name] for name in ("image", "captions")}
    present = first_endings(files, lambda endings: is_complete(endings, needed))
    if not present:
        raise ValueError(f"{source}: no samples in {len(files)} .tar files, the first {files[0]}")
    require_columns([own for name, own in needed.items() if not is_complete(present, {name: own})], present, source)


@dataclass(eq=False)
class CaptionStream(TorchIterableDataset):
    """
    Image-caption pairs of one or several data sets, pass after pass, without end: a row of the data gives one pair a pass,
    with one of its captions. A pair has the keys of `KeyedRows`: its `sample_id` is a digest of image id and captions,
    the same in every pass and wherever the row comes; its `epoch` is the pass over its data set.

    The order is a function of the seed and of the numbers of processes and of loader processes. A run that is resumed reads
    the stream from its start up to where it was.

    Args:
        sources: The data sets; one that runs out starts over.
        weights: Share of each in the pairs, up to a common factor.
        seed: Seed of the run.
        buffer_size: Rows of each data set that are shuffled at a time.
        rank: Number of this process among the `world_size` processes that train. Each reads other files, or other rows
            if the files are no multiple of the processes.
    """

    sources: Sequence[CaptionSource]
    weights: Sequence[float]
    seed: int
    buffer_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        self._files = [source.data.num_shards for source in self.sources]
        own = [split_dataset_by_node(source.data, self.rank, self.world_size) for source in self.sources]
        self.sources = [replace(source, data=data) for source, data in zip(self.sources, own, strict=True)]

    @property
    def most_workers(self) -> int:
        """The most loader processes of each process for which all data sets have files."""
        return min(self._files) // self.world_size

    def check_files(self, workers: int) -> None:
        """Raise `ValueError` if a data set has too few files for each of the `workers` of each process to read one."""
        readers = self.world_size * max(workers, 1)
        for source, files in zip(self.sources, self._files, strict=True):
            if files < readers:
                shared = (
                    f"{self.world_size} process{'es' * (self.world_size > 1)} with dataloader_num_workers {workers}"
                )
                raise ValueError(
                    f"streaming: {source.name} has {files} file{'s' * (files > 1)}, and {shared} need at least {readers}, one for "
                    "each that reads; take fewer workers or processes, or divide the data into more files"
                )

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, self.rank, worker.id if worker else 0))
        shares = np.array(self.weights) / np.sum(self.weights)
        streams = [self.pairs(source) for source in self.sources]
        while True:
            yield next(streams[rng.choice(len(streams), p=shares)])

    def pairs(self, source: CaptionSource) -> Iterator[dict]:
        """Yield the pairs of one data set, pass after pass; raise `ValueError` if a pass has none."""
        for epoch in itertools.count():
            pair = None
            order = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
            for row, image in source.rows(order, self.buffer_size):
                yield (pair := self.pair(row, image, epoch))
            if not pair:
                among = f" among those that {who} reads" if (who := reader()) else ""
                raise ValueError(f"{source.name}: no row with a readable image and a caption{among}")

    def pair(self, row: dict, image: Image.Image, epoch: int) -> dict:
        """Return the image with one of its captions, another in each pass."""
        key = hashlib.sha256("\0".join([row["image_id"], *row["captions"]]).encode()).digest()
        sample_id = int.from_bytes(key[:8]) >> 1
        # One number more than the collator's keys, so that the choice of caption is independent of the masked words.
        chosen = np.random.default_rng((self.seed, epoch, sample_id, 1)).integers(len(row["captions"]))
        pair = {"image": image, "text": row["captions"][chosen], "image_id": row["image_id"]}
        return pair | {"sample_id": sample_id, "epoch": epoch, "training": True}
