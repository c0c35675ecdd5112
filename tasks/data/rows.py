"""Data sets whose rows carry what their randomness is drawn from."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ...processing.decoding import named
from .mixing import MixedRows
from .sampling import GroupedSampler


class KeyedRows(Dataset):
    """
    The rows of a data set, each with the keys that collators draw randomness from: `sample_id`, its number in the data;
    `epoch`, 0 in evaluation, where nothing changes from one to the next; and `training`, whether it is trained on. Undecoded
    images get the row as their name in messages, unless they have one.

    Args:
        data: The rows, dictionaries.
        training: Whether they are trained on.
        source: What the data is called in messages.
    """

    def __init__(self, data: Sequence[dict], training: bool, source: str = "data"):
        self.data = data
        self.training = training
        self.source = source
        # Shared, so that loader processes that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    # Not `set_epoch`: accelerate calls that with numbers of its own, on evaluation data too.
    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch that rows carry: what is random about them is drawn anew in each."""
        self._epoch.fill_(epoch)
        if isinstance(self.data, MixedRows):
            self.data.begin_epoch(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        row = {column: named(value, f"{self.source}, row {index}") for column, value in self.data[index].items()}
        return {**row, "sample_id": index, "epoch": int(self._epoch), "training": self.training}


class EpochCallback(TrainerCallback):
    """Tells the training data which epoch it is, and the sampler, which accelerate does not reach under several processes."""

    def __init__(self, data: KeyedRows, sampler: GroupedSampler | None = None):
        self.data = data
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A whole number but for rounding, except where a run is resumed inside an epoch.
        epoch = int(state.epoch + 1e-6)
        self.data.begin_epoch(epoch)
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)
