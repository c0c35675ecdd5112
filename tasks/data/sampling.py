"""The order of training rows, where batches are to be cheap: texts of about one length, and the captions of an image, together."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler


#: Batches of each process that rows are sorted by length within: few enough that who meets whom stays random.
POOL = 50


class GroupedSampler(Sampler[int]):
    """
    Every row once an epoch, in an order that is a function of the seed and the epoch, so that a resumed run repeats it. Batches are
    cut from it one after the other, to each process in turn.

    Args:
        size: Number of rows.
        batch_size: Rows a batch, on one process.
        num_processes: Of which each takes one batch at a time; those that they take together have texts of about one length.
        seed: Seed of the run.
        lengths: Gives for an epoch how long each row's text is (N,), in any unit; batches then hold texts of about one length,
            sorted within pools of 50 batches a process and put back into random order. By default their length plays no role.
        images: Gives for an epoch the number of each row's image (N,); needed to bring rows of one image together.
        per_image: Most rows of one image that follow each other, so that a batch has its image once for those of them that it has.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        num_processes: int,
        seed: int,
        lengths: Callable[[int], np.ndarray] | None = None,
        images: Callable[[int], np.ndarray] | None = None,
        per_image: int = 1,
    ):
        self.size = size
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.seed = seed
        self.lengths = lengths
        self.images = images
        self.per_image = per_image
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that the next order is of."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        rows, units = rng.permutation(self.size), np.arange(self.size)
        if self.per_image > 1:
            rows, units = units_of_images(rows, self.images(self.epoch), self.per_image, rng)
        if self.lengths is not None:
            rows = self.by_length(rows, units, self.lengths(self.epoch), rng)
        return iter(rows.tolist())

    def by_length(
        self, rows: np.ndarray, units: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`rows` (N,) with those of like length together; those of one unit (N,), which go by the longest, are not parted."""
        together = self.batch_size * self.num_processes
        blocks = []
        for start in range(0, self.size, POOL * together):
            pool, unit = rows[start : start + POOL * together], units[start : start + POOL * together]
            firsts = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
            longest = np.maximum.reduceat(lengths[pool], firsts).repeat(np.diff(np.r_[firsts, len(unit)]))
            pool = pool[np.lexsort((unit, longest))]
            blocks += np.split(pool, range(together, len(pool), together))
        # An incomplete block stays last: inside, it would shift the batches behind it.
        complete = sum(len(block) == together for block in blocks)
        order = [*rng.permutation(complete), *range(complete, len(blocks))]
        return np.concatenate([blocks[number] for number in order])


def units_of_images(
    rows: np.ndarray, images: np.ndarray, per_image: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    Row numbers in random order (N,), now in units of up to `per_image` rows of one image (`images` (N,) says which that is), the
    units in random order; and the number of each row's unit (N,).
    """
    rows = rows[np.argsort(images[rows], kind="stable")]
    _, firsts, counts = np.unique(images[rows], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - firsts.repeat(counts)
    # Of about one size: of five rows, with at most four together, three and two.
    per_unit = -(-counts // -(-counts // per_image))
    units = np.cumsum(place % per_unit.repeat(counts) == 0) - 1
    units = rng.permutation(units[-1] + 1)[units]
    order = np.argsort(units, kind="stable")
    return rows[order], units[order]
