"""Rows with the keys that their randomness is drawn from."""

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import Dataset

from ...processing.decoding import named
from .faults import FILE_ROW, place_of
from .mixing import MixedRows


class KeyedRows(Dataset):
    """
    The rows of a data set, each with the keys that collators draw randomness from: `sample_id`, its number in the
    data; `epoch`, which stays 0 in evaluation; and `training`, whether it is trained on. An undecoded image without a
    name gets `source`, its row in the file and its path as its name in messages; rows of a table also have `place`, which is both of
    the former.

    Training rows must be told their epoch, by `EpochCallback` among the callbacks of a `Trainer`, or by `begin_epoch`.

    Rows with `training=False` are for evaluation: their masks and false images are the same whenever they are read.

    Raises:
        ValueError: If the data is not read by number and of a known length, as a stream is not. If a training row is read before the first epoch has begun: masks would be the same in every epoch.
    """

    def __init__(self, data: Sequence[dict], training: bool, source: str = "data"):
        if isinstance(data, Mapping) or not all(hasattr(data, name) for name in ("__len__", "__getitem__")):
            remedy = "a stream needs rows with sample_id and epoch of its own, and no KeyedRows"
            raise ValueError(
                f"{source}: expected rows by number, as of a datasets.Dataset, got {type(data).__name__}; {remedy}"
            )
        self.data = data
        self.training = training
        self.source = source
        # Shared, so that loader processes that outlive an epoch see the next one.
        self._epoch = torch.tensor(-1 if training else 0).share_memory_()

    # Not `set_epoch`: accelerate calls that with numbers of its own, on evaluation data too.
    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch of the rows: their randomness is drawn anew in each."""
        self._epoch.fill_(epoch)
        if isinstance(self.data, MixedRows):
            self.data.begin_epoch(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        if self._epoch < 0:
            raise ValueError(
                f"{self.source}: the epoch is not known, by which masks and false images are drawn; give Trainer "
                "callbacks=[EpochCallback(rows)], or call rows.begin_epoch(epoch) before each epoch"
            )
        row = self.data[index]
        place = place_of(self.source, row, index)
        of_table = {"place": place} if FILE_ROW in row else {}
        row = {column: named(value, place) for column, value in row.items() if column != FILE_ROW} | of_table
        return {**row, "sample_id": index, "epoch": int(self._epoch), "training": self.training}
