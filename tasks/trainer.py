"""transformers' Trainer, with the losses of several objectives logged one by one."""

import json
import time
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class RenaissanceTrainer(Trainer):
    """`Trainer` that also logs every `*_loss` that a model returns, and the training samples per second."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._loss_sums: dict[str, torch.Tensor] = {}
        self._num_losses = 0
        self._last_log: tuple[float, int] | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._num_losses += 1
            for name, value in outputs.items():
                if name.endswith("_loss"):
                    self._loss_sums[name] = self._loss_sums.get(name, 0.0) + value.detach()
        return (loss, outputs) if return_outputs else loss

    def create_model_card(self, *args, **kwargs) -> None:
        """Leaves the card alone that the run has written, where Trainer would put its own over it before a push."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss since the last log, over all processes, and the samples per second."""
        if "loss" in logs and self._num_losses:
            for name, total in self._loss_sums.items():
                logs[name] = self.accelerator.gather(total).mean().item() / self._num_losses
            self._loss_sums, self._num_losses = {}, 0
            now, step = time.perf_counter(), self.state.global_step
            if self._last_log:
                samples = (step - self._last_log[1]) * self._train_batch_size * self.args.gradient_accumulation_steps
                logs["samples_per_second"] = samples * self.args.world_size / (now - self._last_log[0])
            self._last_log = now, step
        super().log(logs, start_time)


def last_complete_checkpoint(output_dir: str) -> str | None:
    """
    The newest checkpoint of a run that was saved to its end, or `None`. Trainer writes `trainer_state.json` last, so that a
    checkpoint cut off by a crash has none, or one that is no JSON.
    """
    found = {}
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        number = folder.name.rsplit("-", 1)[1]
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, json.JSONDecodeError):
            continue
        if number.isdigit():
            found[int(number)] = str(folder)
    return found[max(found)] if found else None
