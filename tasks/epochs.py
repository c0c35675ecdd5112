"""Telling training data and samplers which epoch it is."""

from transformers import TrainerCallback

from .data.keyed_rows import KeyedRows
from .data.sampling import GroupedSampler


class EpochCallback(TrainerCallback):
    """Tell the training data which epoch it is, and the sampler, which accelerate does not reach under several processes. Raise
    `ValueError` if the data is not for training, or training reads other data."""

    def __init__(self, data: KeyedRows, sampler: GroupedSampler | None = None):
        if not isinstance(data, KeyedRows) or not data.training:
            found = "rows of evaluation" if isinstance(data, KeyedRows) else type(data).__name__
            raise ValueError(
                f"EpochCallback: expected KeyedRows(..., training=True), whose masks differ by epoch, got {found}"
            )
        self.data = data
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A whole number but for rounding, unless a run is resumed inside an epoch.
        epoch = int(state.epoch + 1e-6)
        self.data.begin_epoch(epoch)
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)
