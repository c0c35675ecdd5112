"""Several data sets in given shares."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset


def check_weights(weights: Sequence[float], names: Sequence[str]) -> None:
    """Raise `ValueError` if `train_weights` are not one positive number a data set."""
    if len(names) < 2:
        raise ValueError("train_weights: without effect on fewer than two train_datasets; leave it out")
    if len(weights) != len(names):
        raise ValueError(f"train_weights: expected {len(names)} numbers, one a data set, got {len(weights)}")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"train_weights: expected numbers above 0, got {' '.join(map(str, weights))}")


class MixedRows(Dataset):
    """
    Rows of several data sets, `parts`, whose shares are `weights` up to a common factor. An epoch has as many rows as
    all data sets together, unless `set_counts` says otherwise. Its rows of a data set are a function of the seed and the epoch:
    each epoch begins at the row after the last one of the epoch before, so that no row comes again before all others of its data
    set have come. Raise `ValueError` if a share comes to less than one row.
    """

    def __init__(self, parts: Sequence[Sequence[dict]], weights: Sequence[float], seed: int):
        self.parts = parts
        self.weights = weights
        self.seed = seed
        total = sum(map(len, parts))
        ends = np.rint(np.cumsum(weights) / np.sum(weights) * total).astype(int)
        self.set_counts(np.diff(ends, prepend=0).tolist())
        if 0 in self.counts:
            raise ValueError(f"train_weights: {weights[self.counts.index(0)]} comes to less than one row of {total}")
        # Shared, so that loader processes that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_counts(self, counts: Sequence[int]) -> None:
        """Set the number of rows of each data set in an epoch."""
        #: The number of rows of each data set in an epoch, the first of them, and the row after its last one.
        self.counts, self.ends = list(counts), np.cumsum(counts).tolist()
        self.starts = [0, *self.ends[:-1]]

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch that rows are drawn for."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict:
        part, row = self.locate(index, int(self._epoch))
        return self.parts[part][row]

    def locate(self, index: int, epoch: int) -> tuple[int, int]:
        """Return the data set, and the row in it, that is row `index` of an epoch."""
        part = bisect_right(self.ends, index)
        size = len(self.parts[part])
        passes, offset = divmod(epoch * self.counts[part] + index - self.starts[part], size)
        factor, shift = self.permutation(part, passes)
        return part, (factor * offset + shift) % size

    def rows_of(self, part: int, epoch: int) -> np.ndarray:
        """Return the rows of data set `part` that an epoch has, in its order."""
        size = len(self.parts[part])
        passes, offsets = np.divmod(epoch * self.counts[part] + np.arange(self.counts[part]), size)
        maps = np.array([self.permutation(part, number) for number in np.unique(passes).tolist()])
        factor, shift = maps[passes - passes[0]].T
        return (factor * offsets + shift) % size

    def permutation(self, part: int, passes: int) -> tuple[int, int]:
        """Return factor and shift of a random affine map of a data set's row numbers, one a pass: a permutation that
        takes no memory. It only chooses the rows of the last, incomplete pass; the sampler shuffles an epoch."""
        size = len(self.parts[part])
        rng = np.random.default_rng((self.seed, part, passes))
        while math.gcd(factor := int(rng.integers(1, size + 1)), size) != 1:
            pass
        return factor, int(rng.integers(size))


def parts_of(data: ConcatDataset | MixedRows) -> list[Dataset]:
    """Return the data sets that `data` is made of."""
    return data.parts if isinstance(data, MixedRows) else data.datasets


def values_of_epoch(data: ConcatDataset | MixedRows, epoch: int, values: list[np.ndarray]) -> np.ndarray:
    """Return the value of each row of an epoch (N,); `values` are those of all rows, one array for each of `parts_of(data)`."""
    if isinstance(data, MixedRows):
        values = [of_part[data.rows_of(part, epoch)] for part, of_part in enumerate(values)]
    return np.concatenate(values)


def spans_of(data: ConcatDataset | MixedRows) -> list[tuple[int, int]]:
    """Return the first row of each data set in an epoch and the row after its last one."""
    if isinstance(data, MixedRows):
        return list(zip(data.starts, data.ends, strict=True))
    return list(zip([0, *data.cumulative_sizes], data.cumulative_sizes, strict=False))


def located(data: ConcatDataset | MixedRows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set of each of some rows (R,) of the first epoch (R,), and its number there (R,)."""
    if isinstance(data, MixedRows):
        owners, numbers = zip(*(data.locate(row, 0) for row in rows.tolist()), strict=True)
        return np.array(owners), np.array(numbers)
    owners = np.searchsorted(data.cumulative_sizes, rows, side="right")
    return owners, rows - np.array([0, *data.cumulative_sizes])[owners]


def span_of(data: Sequence[dict], row: int) -> tuple[int, int]:
    """Return the first row of the data set that a row is of and the row after its last one; of data that is no mixture, all rows."""
    if not isinstance(data, (ConcatDataset, MixedRows)):
        return 0, len(data)
    return next(span for span in spans_of(data) if row < span[1])
