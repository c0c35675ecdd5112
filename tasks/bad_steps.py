"""Steps whose loss, gradients or weights are not finite: they are left out, counted, and too many in a row end the run."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerState
from transformers.trainer_utils import TrainOutput

from .checkpoints import newest_first, newest_whole, step_of
from .precision_trainer import total_norm
from .pushing import PushingTrainer
from .saving import RunStopped


logger = logging.getLogger(__name__)

#: The entry of a checkpoint's trainer_state.json, among the states of callbacks, that has the counts.
COUNTS_STATE = "BadSteps"

#: The entry of a training batch that has the ids of its samples.
IDS = "sample_ids"

#: What of a step may be not finite, in the order of its flags.
PARTS = ("loss", "gradient norm", "parameters")

#: A checkpoint with weights that give no finite loss on any data gets a name with this beginning.
DIVERGED = "diverged-"

#: The largest number of sample ids in a message.
SHOWN_IDS = 64


@dataclass
class KeepIds:
    """A collator whose batches also have the ids of their samples, if the rows have numbers for them."""

    collator: Callable[[list], Any]

    def __call__(self, rows: list) -> Any:
        batch = self.collator(rows)
        if isinstance(rows[0], Mapping) and isinstance(rows[0].get("sample_id"), Integral):
            batch[IDS] = torch.tensor([row["sample_id"] for row in rows])
        return batch


@dataclass
class Counts:
    """
    Steps that were not finite.

    Attributes:
        skipped: The number of them, since training began.
        in_a_row: How many of them are the last steps.
        last_good: The last step that was finite.
    """

    skipped: int = 0
    in_a_row: int = 0
    last_good: int = 0

    @classmethod
    def of(cls, state: TrainerState) -> "Counts":
        """Return the counts in the state of a training."""
        return cls(**state.stateful_callbacks.get(COUNTS_STATE, {}).get("attributes", {}))

    def note(self, state: TrainerState) -> None:
        """Put the counts into the state of a training."""
        state.stateful_callbacks[COUNTS_STATE] = {"args": {}, "attributes": asdict(self)}


class OnItsWay:
    """A few numbers that go from a device to the host while both do other things."""

    def __init__(self, values: torch.Tensor):
        self._arrived = None
        if values.device.type == "cpu":
            self._values = values
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._arrived = torch.get_device_module(values.device).Event()
        self._arrived.record()

    def read(self) -> list[float]:
        """Return the numbers; wait if they are not here yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.numpy().tolist()


@dataclass
class Step:
    """
    A step, until the host knows whether it was finite. Tensors stay on their device.

    Attributes:
        number: Its number, from 1.
        rate: Its learning rate.
        flags: For each of `PARTS`, whether it is not finite on any process.
        ids: The sample ids of each of its batches here; `None` if they have none.
        batch_losses: The loss of each of its batches here.
        losses: Its losses by name; this process's shares.
        inputs: Its last batch here.
    """

    number: int
    rate: float
    flags: OnItsWay
    ids: list[torch.Tensor | None]
    batch_losses: list[torch.Tensor]
    losses: dict[str, torch.Tensor]
    inputs: dict[str, Any]

    def suspects(self) -> tuple[list[int], list[int], dict[str, float]]:
        """Return the ids of the samples in batches whose loss is not finite, those in all batches, and the losses; this waits."""
        every = [[] if ids is None else ids.tolist() for ids in self.ids]
        bad = [ids for ids, loss in zip(every, self.batch_losses, strict=True) if not loss.isfinite()]
        return [*chain(*bad)], [*chain(*every)], {name: float(value) for name, value in self.losses.items()}


class WatchingTrainer(PushingTrainer):
    """
    `Trainer` that leaves out each step whose loss, gradient norm or parameters are not finite: weights and the optimizer's state
    stay as they are, and the step and its place in the schedule pass. Under fp16, a gradient norm that is not finite is the loss
    scaler's, which leaves out such steps itself; they don't count.

    All processes come to the same decision, on the device; the host learns of it a step later. After `max_bad_steps` of
    them in a row the run ends with `RunStopped`.

    Attributes:
        counts: How many there were.
    """

    def __init__(self, *args, **kwargs):
        self.counts = Counts()
        #: Those since the last log.
        self.skipped_since_log = 0
        self._waiting: deque[Step] = deque()
        self._good_inputs: dict[str, Any] | None = None
        self._begin_step([])
        super().__init__(*args, **kwargs)

    def _begin_step(self, batches: list) -> None:
        self._ids = [batch.pop(IDS, None) for batch in batches]
        self._inputs = batches[-1] if batches else {}
        self._batch_losses: list[torch.Tensor] = []
        self._step_losses: dict[str, torch.Tensor] = {}

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """`Trainer.get_batch_samples`, which takes the sample ids out of the batches."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._begin_step(batches)
        self._losses_so_far = self._tr_loss.clone()
        return batches, items

    def watched(self, loss: torch.Tensor, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """
        Return the loss (), to train with, of a batch: one whose value is not finite has no finite gradients, so that all that go
        by these (other processes, a loss scaler, DeepSpeed) leave out the step. `losses` are its shares of the step's, by name.
        """
        self._batch_losses.append(loss.detach())
        for name, value in losses.items():
            self._step_losses[name] = self._step_losses.get(name, 0.0) + value.detach()
        return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)

    def _get_grad_norm(self, model, grad_norm=None) -> torch.Tensor | float | None:
        """`Trainer._get_grad_norm`, behind which the step is decided: it comes last before the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm)
        flags = flags_of(
            sum(self._batch_losses), norm, [] if self.is_deepspeed_enabled else self.trained_weights(model)
        )
        if self.args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        bad = sum(flags[number] for number in self.counted()) > 0
        self.leave_out(model, bad)
        self._tr_loss.copy_(torch.where(bad, self._losses_so_far, self._tr_loss))
        losses = {name: torch.where(bad, 0.0, value) for name, value in self._step_losses.items()}
        self.add_losses(losses, bad.logical_not().float())
        facts = self._ids, self._batch_losses, self._step_losses, self._inputs
        number = self.state.global_step + 1
        self._waiting.append(Step(number, self._get_learning_rate(), OnItsWay(flags), *facts))
        return norm

    def add_losses(self, losses: dict[str, torch.Tensor], counts: torch.Tensor) -> None:
        """Take the losses of a step by name, 0 if it is left out, and whether it `counts` (), 0 or 1. `"loss"` is that of a model which does
        not name its losses."""

    def counted(self) -> list[int]:
        """Return the numbers of the `PARTS` that a step is judged by."""
        return [0, 2] if self.args.fp16 else [0, 1, 2]

    def leave_out(self, model: torch.nn.Module, bad: torch.Tensor) -> None:
        """Let the optimizer leave out the step if `bad` () is true."""
        # Both have seen the gradients, and left out the step themselves if these are not finite.
        if self.is_deepspeed_enabled or self.accelerator.scaler is not None:
            return
        optimizer = self.optimizer
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if decides_on_device(optimizer):
            # What a loss scaler would set.
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        elif bad:
            # This waits for the device. Every optimizer passes over parameters without a gradient.
            for each in self.trained_weights(model):
                each.grad = None

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        """`Trainer._maybe_log_save_evaluate`, before which the host learns of the steps but the last one."""
        control = self.control
        waits = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        self.learn(self.state.global_step - (not waits))
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def learn(self, last: int) -> None:
        """Count the steps up to the step `last`; raise `RunStopped` if too many were not finite."""
        while self._waiting and self._waiting[0].number <= last:
            step = self._waiting.popleft()
            flags = step.flags.read()
            faults = [PARTS[number] for number in self.counted() if flags[number]]
            if faults:
                self.counts.skipped += 1
                self.counts.in_a_row += 1
                self.skipped_since_log += 1
            else:
                self.counts.in_a_row, self.counts.last_good = 0, step.number
                self._good_inputs = step.inputs
                self.rotate_if_proven(step.number)
            self.counts.note(self.state)
            if faults:
                self.tell(step, faults)

    def tell(self, step: Step, faults: list[str]) -> None:
        """Warn of a step that was left out; raise `RunStopped` if it is one too many."""
        what, row = " and ".join(faults), self.counts.in_a_row
        if row < self.args.max_bad_steps:
            if self.is_world_process_zero():
                losses = in_words(step.suspects()[2])
                logger.warning(
                    f"step {step.number}: {what} not finite ({losses}); the step is not applied ({row} in a row, training "
                    f"stops at {self.args.max_bad_steps}; {self.counts.skipped} in all)"
                )
            return
        found = gather_object([step.suspects()])
        bad, every, of_all = zip(*found, strict=True)
        ids = [*chain(*bad)] or [*chain(*every)]
        losses: dict[str, float] = {}
        for shares in of_all:
            losses = {name: losses.get(name, 0.0) + value for name, value in shares.items()}
        shown = ", ".join(map(str, ids[:SHOWN_IDS])) + (f" and {len(ids) - SHOWN_IDS} more" * (len(ids) > SHOWN_IDS))
        steps = f"{row} steps in a row" if row > 1 else "a step"
        self.stop(
            f"{what} not finite in {steps} (max_bad_steps {self.args.max_bad_steps}), none of which was applied; the last is step "
            f"{step.number}, with {in_words(losses)}, learning rate {step.rate:g}, sample ids {shown or 'not known'}",
            self.are_weights_at_fault(PARTS[2] in faults),
        )

    def are_weights_at_fault(self, known: bool) -> bool:
        """
        Return whether not the data but the weights, which a row of bad steps has left as they are, are the reason: whether they have
        no finite loss and gradients on the last batch that was good either.
        """
        if known or self._good_inputs is None:
            return known
        model = self.model_wrapped
        model.eval()
        model.zero_grad()
        inputs = self._prepare_inputs(self._good_inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        norm = None
        if not self.is_deepspeed_enabled:
            loss.backward()
            norm = total_norm([each.grad for each in model.parameters() if each.grad is not None])
        flags = flags_of(loss.detach(), norm, [])
        if self.args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags.any())

    def stop(self, fault: str, of_weights: bool) -> None:
        """
        End the run with `RunStopped`. If `of_weights`, checkpoints with the weights at hand get another name, so that training
        does not go on from them.
        """
        output, aside = Path(self.args.output_dir), []
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            aside = put_aside(output, self.counts.last_good) if of_weights else []
            if self.recorder is not None:
                self.recorder.add_training(self.state)
                self.recorder.write()
        self.accelerator.wait_for_everyone()
        if not self.is_world_process_zero():
            # One process tells.
            raise RunStopped("")
        told = [f"training stopped at step {self.state.global_step} of {self.state.max_steps}: {fault}"]
        if aside:
            told.append(f"the weights are the reason, so that {', '.join(aside)} is kept under that name alone")
        whole = newest_whole(output)
        told.append(
            f"the last good checkpoint is {whole}, from which the same command goes on"
            if whole
            else "there is no good checkpoint"
        )
        told.append("a lower learning_rate (with --override_run), a warm-up or max_grad_norm may help")
        raise RunStopped("; ".join(told))

    def refuse_bad_weights(self) -> None:
        """Raise `RunStopped` if parameters are not finite by now."""
        if self.is_deepspeed_enabled:
            return
        flags = flags_of(None, None, self.trained_weights(self.model_wrapped))
        if self.args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        if flags.any():
            self.stop(f"parameters not finite after step {self.state.global_step}", True)

    def _save_checkpoint(self, model, trial) -> None:
        """`Trainer._save_checkpoint`, of weights that are finite."""
        self.refuse_bad_weights()
        super()._save_checkpoint(model, trial)

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """`Trainer._init_training_state`, which also reads the counts of a run that is resumed."""
        begun = super()._init_training_state(*args, **kwargs)
        self.counts, self.skipped_since_log, self._good_inputs = Counts.of(self.state), 0, None
        self._waiting.clear()
        return begun

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        """`Trainer._finalize_training`, before which all steps are known. Raise `RunStopped` if none was finite."""
        self.learn(self.state.global_step)
        if 0 < self.state.global_step == self.counts.skipped:
            self.stop(f"none of the {self.counts.skipped} steps was finite", False)
        self.refuse_bad_weights()
        self.rotate()
        return super()._finalize_training(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """`Trainer._determine_best_metric`; a metric that is not finite is never the best."""
        name = self.args.metric_for_best_model
        value = metrics.get(name if name is None or name.startswith("eval_") else f"eval_{name}", 0.0)
        if math.isfinite(value):
            return super()._determine_best_metric(metrics, trial)
        logger.warning(f"{name} is {value} at step {self.state.global_step}: this step is not the best one")
        return False


def flags_of(
    loss: torch.Tensor | None, norm: torch.Tensor | float | None, parameters: list[torch.nn.Parameter]
) -> torch.Tensor:
    """
    Return for each of `PARTS` whether it is not finite, as float32 (3,) on the device of the loss or of the parameters. Nobody
    waits for it. What is `None`, and parameters that don't train, count as finite.
    """
    trained = [each.detach() for each in parameters if each.requires_grad]
    # Weights near 1e19, whose squares overflow, count as not finite, which they will be soon.
    values = [loss, norm, total_norm(trained) if trained else None]
    tensors = [each for each in values if isinstance(each, torch.Tensor)]
    device = tensors[0].device if tensors else None
    numbers = [
        each if isinstance(each, torch.Tensor) else torch.full((), 0.0 if each is None else each, device=device)
        for each in values
    ]
    # Under FSDP a norm is in parts.
    numbers = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in numbers]
    return torch.stack([each.to(device, torch.float32) for each in numbers]).isfinite().logical_not().float()


def decides_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer leaves out a step on the device: torch's fused Adam and AdamW, the default, do."""
    # SGD does too, but its first step, if it is left out, makes momentum of whatever lies in the memory (torch 2.13).
    return isinstance(optimizer, torch.optim.Adam) and all(group["fused"] for group in optimizer.param_groups)


def put_aside(output_dir: Path, last_good: int) -> list[str]:
    """Rename the checkpoints of a run from the step `last_good` on; return their new names."""
    names = []
    for checkpoint in newest_first(output_dir):
        if step_of(checkpoint) >= last_good:
            name, again = f"{DIVERGED}{checkpoint.name}", 1
            while (output_dir / name).exists():
                again += 1
                name = f"{DIVERGED}{again}-{checkpoint.name}"
            checkpoint.rename(output_dir / name)
            names.append(name)
    return names


def in_words(losses: dict[str, float]) -> str:
    """Return losses by name as a phrase."""
    return ", ".join(
        f"{name} {value:.4g}" if name == "loss" else f"{name} loss {value:.4g}" for name, value in losses.items()
    )
