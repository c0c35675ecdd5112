"""The order of training rows for cheap batches: texts of like length, and captions of an image, come together; and the share
of each process."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import BatchSampler, Sampler


#: Number of batches of each process within which rows are sorted by length: few, so that batches stay random.
POOL = 50


@dataclass(eq=False)
class GroupedSampler(Sampler[int]):
    """
    Every row once an epoch, in an order that is a function of the seed and the epoch, so that a resumed run repeats it. Batches are
    cut from it one after the other, to each process in turn.

    Args:
        size: Number of rows.
        batch_size: Rows a batch, on one process.
        num_processes: Number of processes; the batches that they take together have texts of about one length.
        seed: Seed of the run.
        lengths: Returns for an epoch the length of each row's text (N,), in any unit; batches then hold texts of about
            one length, sorted within pools of `POOL` batches a process and put back into random order.
        images: Returns for an epoch the number of each row's image (N,); needed to bring rows of one image together.
        per_image: Most rows of one image that follow each other; a batch encodes their image once.
    """

    size: int
    batch_size: int
    num_processes: int
    seed: int
    lengths: Callable[[int], np.ndarray] | None = None
    images: Callable[[int], np.ndarray] | None = None
    per_image: int = 1
    epoch: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
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
        """Return `rows` (N,) with rows of like length together; rows of one unit (N,) go by the longest of them."""
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


@dataclass(eq=False)
class ShareOfBatches(Sampler[list[int]]):
    """
    The batches of one of several processes, as many on each: of a step, which takes a batch a process, the rows in turn.

    The rows that are left for the last step of an epoch are divided equally, so that each counts once, as on one process. If
    their number is not a multiple of that of the processes, as many rows as are missing to it are taken from the start of the
    epoch, and count twice.

    Args:
        batches: The batches of all processes, in their order.
        processes: Number of processes.
        process: Number of this one.
    """

    batches: BatchSampler
    processes: int
    process: int

    @property
    def sampler(self) -> Sampler[int]:
        """The order of the rows, which accelerate tells the epoch."""
        return self.batches.sampler

    @property
    def batch_size(self) -> int:
        """Rows of a full batch."""
        return self.batches.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether rows that do not fill a step are left out."""
        return self.batches.drop_last

    def __len__(self) -> int:
        number = len(self.batches)
        return number // self.processes if self.drop_last else -(-number // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        batches, first = iter(self.batches), ()
        while rows := [row for batch in itertools.islice(batches, self.processes) for row in batch]:
            first = first or tuple(rows)
            if len(rows) < self.batch_size * self.processes:
                if self.drop_last:
                    return
                rows += itertools.islice(itertools.cycle(first), -len(rows) % self.processes)
            share = len(rows) // self.processes
            yield rows[share * self.process : share * (self.process + 1)]


def units_of_images(
    rows: np.ndarray, images: np.ndarray, per_image: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return row numbers (N,), given in random order, in units of up to `per_image` rows of one image (`images` (N,)),
    the units in random order; and the number of each row's unit (N,)."""
    rows = rows[np.argsort(images[rows], kind="stable")]
    _, firsts, counts = np.unique(images[rows], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - firsts.repeat(counts)
    # Of about one size: of five rows, with at most four together, three and two.
    per_unit = -(-counts // -(-counts // per_image))
    units = np.cumsum(place % per_unit.repeat(counts) == 0) - 1
    units = rng.permutation(units[-1] + 1)[units]
    order = np.argsort(units, kind="stable")
    return rows[order], units[order]
