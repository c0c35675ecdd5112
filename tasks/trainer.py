"""transformers' Trainer, with the losses of several objectives logged one by one."""

import json
import time
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME


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


def checkpoint_to_resume(args: TrainingArguments, model: PreTrainedModel) -> str | None:
    """
    The checkpoint that training goes on from: the one that the user names, or the newest whole one in the output folder.

    Raises:
        ValueError: Where the named one is no whole checkpoint, or the weights are those of another model.
    """
    named = args.resume_from_checkpoint
    if named and named.lower() not in ("true", "false"):
        if not (Path(named) / "trainer_state.json").is_file():
            raise ValueError(
                f"resume_from_checkpoint {named}: no checkpoint there, or one that was not saved to its end"
            )
        checkpoint = named
    else:
        checkpoint = last_complete_checkpoint(args.output_dir)
    weights = Path(checkpoint or "") / SAFE_WEIGHTS_NAME
    # Under ZeRO-3 a process has no whole weights to compare.
    if checkpoint and weights.is_file() and not is_deepspeed_zero3_enabled():
        with safe_open(weights, framework="pt") as file:
            names = file.keys()
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        # A weight that is tied to another is saved once.
        missing = set(expected) - set(saved) - set(model.all_tied_weights_keys)
        if missing or any(expected.get(name) != shape for name, shape in saved.items()):
            raise ValueError(
                f"{checkpoint} holds another model than the one that is asked for: repeat its options (run.yaml), or choose "
                "another output_dir"
            )
    return checkpoint


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
