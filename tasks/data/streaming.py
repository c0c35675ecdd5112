"""Image-caption pairs of data sets that are read as they come, without being downloaded or indexed first."""

import hashlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from datasets import Image as ImageFeature
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from ...processing.decoding import read_image
from .columns import require_columns
from .opening import open_split


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionSource:
    """A data set to stream: its name, its rows with undecoded images, and its names of the columns."""

    name: str
    data: IterableDataset
    columns: dict[str, str]

    @classmethod
    def open(cls, name: str, split: str, columns: dict[str, str]) -> "CaptionSource":
        """Open a split of a data set (see `open_split`); `columns` are its names for `image`, `captions` and, if it
        has one, `image_id`. Raise `ValueError` if it cannot be read, or lacks a column or images."""
        data = open_split(name, split, streaming=True)
        found, source = data.features or {}, f"{name}, split {split!r}"
        require_columns([columns["image"], columns["captions"]], found, source)
        if not isinstance(feature := found[columns["image"]], ImageFeature):
            raise ValueError(f"{source}: expected images in column {columns['image']!r}, found {feature}")
        return cls(name, data, {own: column for own, column in columns.items() if column in found})

    def rows(self, seed: int | None = None, buffer_size: int = 1) -> Iterator[tuple[dict, Image.Image]]:
        """Yield the rows, once: each with the columns of `schemas.CAPTIONS`, its image as bytes and an `image_id` that
        no other data set has, and the image itself. Rows without a caption or an image are left out; those with a
        broken image are counted in the log. A `seed` shuffles the files, and buffers of `buffer_size` rows."""
        data = self.data if seed is None else self.data.shuffle(seed=seed, buffer_size=buffer_size)
        broken = 0
        for row in data:
            stored, captions = row[self.columns["image"]], row[self.columns["captions"]]
            captions = [captions] if isinstance(captions, str) else captions or []
            captions = [caption.strip() for caption in captions if caption and caption.strip()]
            if stored is None or not captions:
                continue
            own_id = row[self.columns["image_id"]] if "image_id" in self.columns else None
            try:
                content = read_image(stored)
                image = Image.open(io.BytesIO(content))
                image.load()
            # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
            except Exception as error:
                broken += 1
                # Whenever the number has doubled.
                if broken.bit_count() == 1:
                    name = stored["path"] if own_id is None else own_id
                    logger.warning("%s: skipped %d broken images, now %s (%s)", self.name, broken, name, error)
                continue
            image_id = hashlib.sha256(content).hexdigest() if own_id is None else own_id
            kept = {"bytes": content, "path": stored["path"]}
            yield {"image": kept, "image_id": f"{self.name}/{image_id}", "captions": captions}, image


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
        own = [split_dataset_by_node(source.data, self.rank, self.world_size) for source in self.sources]
        self.sources = [replace(source, data=data) for source, data in zip(self.sources, own, strict=True)]

    @property
    def num_files(self) -> int:
        """The smallest number of files that a data set has for this process: each loader process needs its own."""
        return min(source.data.num_shards for source in self.sources)

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
                raise ValueError(f"{source.name}: no row with a readable image and a caption")

    def pair(self, row: dict, image: Image.Image, epoch: int) -> dict:
        """Return the image with one of its captions, another in each pass."""
        key = hashlib.sha256("\0".join([row["image_id"], *row["captions"]]).encode()).digest()
        sample_id = int.from_bytes(key[:8]) >> 1
        # One number more than the collator's keys, so that the choice of caption is independent of the masked words.
        chosen = np.random.default_rng((self.seed, epoch, sample_id, 1)).integers(len(row["captions"]))
        pair = {"image": image, "text": row["captions"][chosen], "image_id": row["image_id"]}
        return pair | {"sample_id": sample_id, "epoch": epoch, "training": True}
