"""transformers' Trainer, with losses logged one by one and learning rates by part of the model."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from .bad_steps import KeepIds, WatchingTrainer
from .data.keyed_rows import KeyedRows
from .data.sampling import GroupedSampler
from .optimization import make_schedule, parameter_groups
from .recording import Recorder
from .run_record import finite
from .run_state import RunState
from .scoring import cast_but_scores, half_precision
from .signals import StopRequests, worker_init


#: The entry of a checkpoint's trainer_state.json, among the states of callbacks, that has the sum of the losses so far.
LOSS_STATE = "LossTotal"


class RenaissanceTrainer(WatchingTrainer):
    """
    `Trainer` that also logs each of the `losses` that a model returns, and the training samples per second, and optimises as
    `OptimizationArguments` say. The loss of a step is a mean over all masked tokens, pairs or rows of its accumulated batches and
    processes, so that each weighs the same. Steps that are left out because they are not finite don't count.

    Metrics are over all rows of a split, whatever the options of training say.

    Args:
        args, kwargs: Those of `Trainer`.
        collect: What of a batch's logits and labels is kept for the metrics, as `Task.collect` says; all of both by default.
        evaluator: What evaluates and predicts in place of the loop over batches, as `Task.evaluate` says; that loop by default.
        same_answer: Says the answer that all rows got, as `Task.same_answer` does.
        train_sampler: The order of the training data, as `Task.sampler` gives it; Trainer's by default.
    """

    def __init__(
        self,
        *args,
        collect: Callable[[Any, dict], tuple[Any, Any]] | None = None,
        evaluator: Callable[[Trainer, Any], tuple[Any, dict[str, float]]] | None = None,
        same_answer: Callable[[Any], str | None] | None = None,
        train_sampler: Sampler | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.train_sampler = train_sampler
        self.collect = collect
        self.evaluator = evaluator
        #: Keeps the record of the run, on the main process.
        self.recorder: Recorder | None = None
        #: How far the run has come; the runner sets it.
        self.run_state: RunState | None = None
        #: Ends the run when it is asked to stop, if it is entered and among the callbacks.
        self.stop_requests = StopRequests()
        self.same_answer = same_answer
        #: The answer that all rows got in the last evaluation, if all got the same, by the prefix of its metrics.
        self.same_answers: dict[str, str] = {}
        #: The losses by name, summed since the last log.
        self._losses: dict[str, torch.Tensor] = {}
        #: Steps since the last log.
        self._num_steps = 0
        self._last_log: tuple[float, int] | None = None
        #: The sum of the losses of the steps before the run was resumed.
        self._loss_before = 0.0

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """`Trainer.get_batch_samples`; the number of items is that of each objective, if the model has several."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._num_steps += 1
        if not hasattr(self.model, "loss_counts") or not batches:
            return batches, super()._get_num_items_in_batch(batches, device)
        found = [self.model.loss_counts(batch) for batch in batches]
        counts = torch.stack([on_device(sum(of_batch[name] for of_batch in found), device) for name in found[0]])
        if self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, dict(zip(found[0], counts.unbind(), strict=True))

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        """`None`: in evaluation the loss of a batch is that of its own rows, by whose number it is weighed."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            # Shares of the step's losses, which add up over batches, and over processes if their numbers did, or means of a batch.
            parts = (
                1
                if self.args.average_tokens_across_devices and num_items_in_batch is not None
                else self.args.world_size
            )
            if num_items_in_batch is None:
                parts *= self.current_gradient_accumulation_steps
            losses = outputs.get("losses", {"loss": loss})
            loss = self.watched(loss, {name: value.detach() / parts for name, value in losses.items()})
        return (loss, outputs) if return_outputs else loss

    def add_losses(self, losses: dict[str, torch.Tensor]) -> None:
        # The log has the loss itself.
        for name, value in losses.items() if "loss" not in losses else ():
            self._losses[name] = self._losses.get(name, 0.0) + value

    def get_train_dataloader(self) -> DataLoader:
        """`Trainer.get_train_dataloader`; of a stream, of which each process reads a part of its own, one that accelerate does
        not part again: that would put the batches of all processes together, whose texts are padded to different lengths."""
        if not isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=KeepIds(self.data_collator),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=worker_init(),
        )

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """`Trainer._get_dataloader`, which drops the last, smaller batch in training alone."""
        asked = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = asked and is_training
        try:
            loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
            loader.worker_init_fn = worker_init(loader.worker_init_fn)
            if is_training:
                # Accelerate's loader reads from another one.
                own = getattr(loader, "base_dataloader", loader)
                own.collate_fn = KeepIds(own.collate_fn)
            return loader
        finally:
            self.args.dataloader_drop_last = asked

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        return self.train_sampler or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset) -> Sampler:
        """Return the rows in their order, however those of training come: predictions are written row by row."""
        return SequentialSampler(eval_dataset)

    def prediction_step(self, model, inputs: dict, *args, **kwargs) -> tuple:
        """`Trainer.prediction_step`, of whose logits and labels `collect` is kept, and which counts each row's loss once."""
        inputs = self._prepare_inputs(inputs)
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if logits is not None and self.collect:
            logits, labels = self.collect(logits, inputs)
        if loss is not None and self.is_filled_up(inputs):
            loss = self.loss_of_own_rows(model, inputs)
        return loss, logits, labels

    def is_filled_up(self, inputs: dict) -> bool:
        """
        Whether this is the last batch and has, on some process, rows from the beginning of the data in it, which accelerate
        adds so that all processes have as many. Not in pretraining, whose rows are no samples by themselves: they have false
        images from their batch.
        """
        state = self.accelerator.gradient_state
        several = self.accelerator.num_processes > 1
        return several and state.end_of_dataloader and state.remainder > 0 and "labels" in inputs

    def loss_of_own_rows(self, model, inputs: dict) -> torch.Tensor:
        """The loss of a last batch without the rows added to it. Of a process that has no other rows, Trainer drops the loss."""
        size = len(inputs["labels"])
        own = self.accelerator.gradient_state.remainder - self.accelerator.process_index * size
        # On every process, whatever it has: under ZeRO-3 all must call the model as often.
        rows = {name: value[: max(own, 1)] for name, value in inputs.items()}
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(rows)).detach()

    def evaluation_loop(
        self, dataloader: DataLoader, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """
        `Trainer.evaluation_loop`, whose metrics are also given the rows that are evaluated, as `data`; or the task's own. What
        surrounds it, such as logging and the choice of the best checkpoint, stays.
        """
        if self.evaluator is not None:
            predictions, metrics = self.evaluator(self, dataloader.dataset)
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            output = EvalLoopOutput(predictions, None, metrics, len(dataloader.dataset))
        else:
            compute_metrics = self.compute_metrics
            if compute_metrics:
                self.compute_metrics = functools.partial(compute_metrics, data=dataloader.dataset.data)
            try:
                with self.scores_in_single_precision():
                    output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            finally:
                self.compute_metrics = compute_metrics
        answer = self.same_answer(output.predictions) if self.same_answer else None
        self.same_answers.pop(metric_key_prefix, None)
        if answer is not None:
            self.same_answers[metric_key_prefix] = answer
        return output

    @contextlib.contextmanager
    def scores_in_single_precision(self) -> Iterator[None]:
        """Return a context in which the model is cast to half precision as `Trainer.evaluation_loop` does it, if the run asks for
        that, but for its last layers."""
        asked = self.args.bf16_full_eval, self.args.fp16_full_eval
        if not any(asked) or self.is_in_train or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            yield
            return
        cast_but_scores(self.model.to(self.args.device), half_precision(self))
        self.args.bf16_full_eval = self.args.fp16_full_eval = False
        try:
            yield
        finally:
            self.args.bf16_full_eval, self.args.fp16_full_eval = asked

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """
        `Trainer.create_optimizer`, with the groups of `parameter_groups`.

        Raises:
            ValueError: Where learning rates are to differ and the optimiser forms groups of its own.
        """
        if self.optimizer is None:
            kind, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & kwargs.keys():
                if self.args.differs:
                    raise ValueError(
                        f"{', '.join(self.args.differs)}: without effect on optim {self.args.optim.value}, which forms groups of "
                        "its own; leave out one of them"
                    )
            else:
                self.optimizer_cls_and_kwargs = kind, kwargs | {"params": parameter_groups(self.model, self.args)}
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of `make_schedule`; raises `ValueError` where its warm-up would outlast training."""
        if self.lr_scheduler is None:
            self.args.check_warmup(num_training_steps)
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            optimizer = self.optimizer if optimizer is None else optimizer
            if not hasattr(optimizer, "defaults"):
                # DeepSpeed's optimisers have none; schedules that fall to an end rate read the base rate from there.
                optimizer.defaults = {"lr": self.args.learning_rate}
            self.lr_scheduler = make_schedule(self.args, optimizer, warmup_steps, num_training_steps)
            # As Trainer notes it, so that a second call of `train` makes a new one.
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """`Trainer._load_optimizer_and_scheduler`; with `override_run`, learning rates and weight decay are those asked for."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.args.override_run or self.is_deepspeed_enabled:
            return
        groups, asked = self.optimizer.param_groups, parameter_groups(self.model, self.args)
        # An optimizer that forms groups of its own keeps what it has.
        for group, wanted in zip(groups, asked, strict=True) if len(groups) == len(asked) else ():
            saved = group.get("initial_lr", wanted["lr"])
            if saved != wanted["lr"]:
                # The schedule stays where it is.
                group["lr"] *= wanted["lr"] / saved
                group["initial_lr"] = wanted["lr"]
            group["weight_decay"] = wanted["weight_decay"]
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [group["initial_lr"] for group in groups]

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """`Trainer._init_training_state`, which also reads the sum of the losses of a run that is resumed."""
        begun = super()._init_training_state(*args, **kwargs)
        self._loss_before = self.state.stateful_callbacks.get(LOSS_STATE, {}).get("attributes", {}).get("total", 0.0)
        return begun

    def _save_checkpoint(self, model, trial) -> None:
        """`Trainer._save_checkpoint`, which also saves the sum of the losses of all steps, from which a resumed run goes on."""
        since_log = nested_gather(self._tr_loss, self.args.parallel_mode).mean().item()
        total = self._loss_before + self._total_loss_scalar + since_log
        self.state.stateful_callbacks[LOSS_STATE] = {"args": {}, "attributes": {"total": total}}
        super()._save_checkpoint(model, trial)

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        """`Trainer._finalize_training`, whose loss is the mean over all steps that count, those before the run was resumed too."""
        # Which steps count is known when all are.
        self.learn(self.state.global_step)
        since_log = self._tr_loss.item()
        total = self._loss_before + self._total_loss_scalar + since_log
        # Trainer adds the last losses to this sum, and divides it by the steps since the run was resumed.
        own_steps = max(self.state.global_step - self._initial_global_step, 0.001)
        counted = self.state.global_step - self.counts.skipped
        self._total_loss_scalar = total / max(counted, 0.001) * own_steps - since_log
        return super()._finalize_training(*args, **kwargs)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """`Trainer.save_metrics` in the order of the metrics, so that each is beside its baseline."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        write_json(folder / f"{split}_results.json", metrics)
        if combined:
            path = folder / "all_results.json"
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            kept = {name: value for name, value in earlier.items() if name not in metrics}
            write_json(path, kept | metrics)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss over the steps since the last log, steps that were left out, and the samples per second."""
        if "loss" in logs:
            counted = self._num_steps - self.skipped_since_log
            if counted:
                logs["loss"] *= self._num_steps / counted
            else:
                del logs["loss"]
            if self._losses and counted:
                totals = self.accelerator.reduce(torch.stack([*self._losses.values()]), "sum") / counted
                logs |= {f"{name}_loss": value for name, value in zip(self._losses, totals.tolist(), strict=True)}
            if self.counts.skipped:
                logs["skipped_steps"] = self.counts.skipped
            self._losses, self._num_steps, self.skipped_since_log = {}, 0, 0
            now, step = time.perf_counter(), self.state.global_step
            if self._last_log:
                samples = (step - self._last_log[1]) * self._train_batch_size * self.args.gradient_accumulation_steps
                logs["samples_per_second"] = samples * self.args.world_size / (now - self._last_log[0])
            self._last_log = now, step
        super().log(logs, start_time)
        # It becomes JSON, which has no other numbers.
        self.state.log_history[-1] = finite(self.state.log_history[-1])


def write_json(path: Path, content: dict) -> None:
    """Write a dictionary as JSON, an entry a line, in its order. Numbers that are not finite become null."""
    path.write_text(json.dumps(finite(content), indent=4, allow_nan=False) + "\n", encoding="utf-8")


def on_device(count: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """Return a number as a float () on `device`, for which nobody has to wait."""
    if isinstance(count, torch.Tensor):
        return count.to(device, torch.float32, non_blocking=True)
    return torch.full((), float(count), device=device)


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
