"""Batches of several data sets: each with rows of all of them, or with rows of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Sampler

from .mixing import MixedRows


#: What the batches of several data sets are made of.
BATCHES = ("shuffled", "mixed", "homogeneous")


def rounded_shares(weights: Sequence[float], total: int) -> list[int]:
    """Return whole numbers that add up to `total` and are in proportion to `weights`: each is rounded down, and those that lose most by
    it get what is left."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    # So that a share of a third of 3 is not less than 1.
    whole = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole.tolist()


def compose(data: MixedRows, batches: str, rows: int, rows_a_step: int, names: Sequence[str]) -> list[int]:
    """
    Set how many rows an epoch has of each data set, so that it consists of whole steps, about as many as the data sets have rows for.

    Args:
        data: The rows.
        batches: `"mixed"` or `"homogeneous"`.
        rows: Rows of a batch.
        rows_a_step: Rows of a step, over processes and accumulated batches.
        names: The names of the data sets.

    Returns:
        The number of rows of each data set in a batch, or of steps of each in an epoch.

    Raises:
        ValueError: If a data set gets none.
    """
    steps = max(1, round(sum(map(len, data.parts)) / rows_a_step))
    mixed = batches == "mixed"
    shares = rounded_shares(data.weights, rows if mixed else steps)
    if 0 in shares:
        empty = shares.index(0)
        what = (
            f"one row in a batch of {rows}"
            if mixed
            else f"one of the {steps} steps of an epoch, of {rows_a_step} rows each"
        )
        share = data.weights[empty] / sum(data.weights)
        remedy = "raise per_device_train_batch_size" if mixed else "lower per_device_train_batch_size"
        raise ValueError(
            f"train_weights: the share of {names[empty]}, {share:.3g}, comes to less than {what}; give it a larger one, or {remedy}"
        )
    data.set_counts([share * (steps * rows_a_step // rows if mixed else rows_a_step) for share in shares])
    return shares


@dataclass(eq=False)
class ComposedSampler(Sampler[int]):
    """
    The rows of an epoch in an order that makes batches of several data sets, a function of the seed and the epoch. Batches are cut from
    it one after the other, to each process in turn.

    Args:
        data: The rows, whose numbers of each data set `compose` has set.
        batches: `"mixed"`: each batch has the same number of rows of each data set as every other. `"homogeneous"`: all rows of a step are of
            one data set, and the steps come in random order.
        rows: Rows of a batch, on one process.
        rows_a_step: Rows of a step, over processes and accumulated batches.
        seed: Seed of the run.
    """

    data: MixedRows
    batches: str
    rows: int
    rows_a_step: int
    seed: int
    epoch: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        parts = zip(self.data.starts, self.data.ends, strict=True)
        shuffled = [rng.permutation(np.arange(start, end)) for start, end in parts]
        if self.batches == "mixed":
            number = len(self.data) // self.rows
            blocks = np.concatenate([rows.reshape(number, -1) for rows in shuffled], axis=1)
        else:
            blocks = rng.permutation(np.concatenate([rows.reshape(-1, self.rows_a_step) for rows in shuffled]))
        return iter(blocks.ravel().tolist())
