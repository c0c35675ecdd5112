"""transformers' Trainer, with losses logged one by one and learning rates by part of the model."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from .arguments import RunArguments
from .bad_steps import KeepIds
from .batch_fitting import StepTrial
from .compilation import compile_layers
from .data.sampling import ShareOfBatches
from .flops import CountingTrainer
from .optimization import make_schedule, parameter_groups
from .recording import Recorder
from .resuming import fault_of_optimizer
from .run_record import finite
from .scoring import cast_but_scores, half_precision
from .signals import StopRequests, worker_context, worker_init


#: The entry of a checkpoint's trainer_state.json, among the states of callbacks, that has the losses so far.
LOSS_STATE = "LossesSoFar"
#: The entry that a checkpoint has if the evaluation at its step was left out, because the run was asked to stop.
OWED_STATE = "OwedEvaluation"


@dataclass
class LossesSoFar:
    """
    The losses of a training up to a step.

    Attributes:
        total: The sum of the losses of all steps up to the last one that was logged.
        since_log: The sum of the losses of the steps since then, of each process.
        last_logged: The last step that was logged.
        by_name: The sums of the losses by name since then.
        steps_by_name: The number of steps that had each of them, and that were not left out.
        steps: The number of steps since then.
        skipped: The number of those that were left out.
    """

    total: float
    since_log: list[float]
    last_logged: int
    by_name: dict[str, float]
    steps_by_name: dict[str, float]
    steps: int
    skipped: int


class RenaissanceTrainer(CountingTrainer):
    """
    `Trainer` that also logs each of the `losses` that a model returns, and the training samples per second, and optimises as
    `OptimizationArguments` say. The loss of a step is a mean over all masked tokens, pairs or rows of its accumulated batches and
    processes, so that each weighs the same. Steps that are left out because they are not finite don't count.

    Metrics are over all rows of a split, whatever the options of training say.

    Args:
        args, kwargs: Those of `Trainer`; its `args` are `RunArguments`.
        collect: What of a batch's logits and labels is kept for the metrics, as `Task.collect` says; all of both by default.
        evaluator: What evaluates and predicts in place of the loop over batches, as `Task.evaluate` says; that loop by default.
        same_answer: Says the answer that all rows got, as `Task.same_answer` does.
        train_sampler: The order of the training data, as `Task.sampler` gives it; Trainer's by default.
        stop_requests: Ends the run when it is asked to stop, if it is entered.

    Raises:
        ValueError: If the arguments are plain `TrainingArguments`, or none.
    """

    def __init__(
        self,
        *args,
        collect: Callable[[Any, dict], tuple[Any, Any]] | None = None,
        evaluator: Callable[[Trainer, Any], tuple[Any, dict[str, float]]] | None = None,
        same_answer: Callable[[Any], str | None] | None = None,
        train_sampler: Sampler | None = None,
        stop_requests: StopRequests | None = None,
        **kwargs,
    ):
        given = kwargs.get("args", args[1] if len(args) > 1 else None)
        if not isinstance(given, RunArguments):
            fault = f"expected RunArguments, which have the options of the run scripts, got {type(given).__name__}"
            raise ValueError(f"args: {fault}")
        super().__init__(*args, **kwargs)
        if self.args.torch_compile:
            compile_layers(self.model, self.args.torch_compile_backend, self.args.torch_compile_mode)
        self.train_sampler = train_sampler
        self.collect = collect
        self.evaluator = evaluator
        #: Keeps the record of the run, on the main process.
        self.recorder: Recorder | None = None
        #: Tries what other steps would need of memory, if the run trains; the runner sets it.
        self.step_trial: StepTrial | None = None
        #: The file with the options of the run; the runner sets it.
        self.options_file: Path | None = None
        #: Ends the run when it is asked to stop, if it is entered.
        self.stop_requests = stop_requests or StopRequests()
        self.add_callback(self.stop_requests)
        self.add_callback(GoingOn(self))
        self.same_answer = same_answer
        #: The answer that all rows got in the last evaluation, if all got the same, by the prefix of its metrics.
        self.same_answers: dict[str, str] = {}
        #: The losses by name, summed since the last log.
        self._losses: dict[str, torch.Tensor] = {}
        #: The number of steps that had each of them, and whether the step at hand has it, (), if losses have counts.
        self._loss_steps: dict[str, torch.Tensor] = {}
        self._has_loss: dict[str, torch.Tensor] | None = None
        #: Steps since the last log.
        self._num_steps = 0
        self._last_log: tuple[float, int] | None = None
        #: The losses before the run was resumed.
        self._losses_before: LossesSoFar | None = None
        #: The mean loss of all steps, when training ends.
        self._mean_loss = 0.0

    def _build_accelerator_args(self, **kwargs) -> dict[str, Any]:
        """`Trainer._build_accelerator_args`, with copies for which nobody waits, and without a plugin that compiles the model as a
        whole: its layers are compiled."""
        # A copy from pinned memory goes on while the device computes.
        kwargs["dataloader_config"].non_blocking = self.args.dataloader_pin_memory
        return super()._build_accelerator_args(**kwargs) | {"dynamo_plugin": None}

    def _prepare_input(self, data: Any) -> Any:
        """`Trainer._prepare_input`, which does not wait for copies from pinned memory: accelerate has not made those of a stream."""
        if isinstance(data, torch.Tensor) and self.args.dataloader_pin_memory and data.is_pinned():
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """`Trainer.get_batch_samples`; the number of items is that of each objective, if the model has several."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._num_steps += 1
        items = self.items_in(batches, device)
        self._has_loss = {name: count > 0 for name, count in items.items()} if isinstance(items, dict) else None
        return batches, items

    def items_in(self, batches: list, device: torch.device) -> dict[str, torch.Tensor] | torch.Tensor | None:
        """Return how many terms the loss has in the batches of a step, over all processes, or that of each objective; `None` if that
        is not known."""
        if not hasattr(self.model, "loss_counts") or not batches:
            return super()._get_num_items_in_batch(batches, device)
        found = [self.model.loss_counts(batch) for batch in batches]
        # The same on all processes, whose batches may ask for other objectives.
        names = list(self.model.config.objectives)
        sums = [sum(of_batch.get(name, 0) for of_batch in found) for name in names]
        counts = torch.stack([on_device(count, device) for count in sums])
        if self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts, "sum")
        return dict(zip(names, counts.unbind(), strict=True))

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

    def add_losses(self, losses: dict[str, torch.Tensor], counts: torch.Tensor) -> None:
        # The log has the loss itself.
        for name in self._has_loss or losses if "loss" not in losses else ():
            self._losses[name] = self._losses.get(name, 0.0) + losses.get(name, counts.new_zeros(()))
            self._loss_steps[name] = self._loss_steps.get(name, 0.0) + counts * (
                True if self._has_loss is None else self._has_loss[name]
            )

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
            in_order=self.args.dataloader_in_order,
            worker_init_fn=worker_init(),
            multiprocessing_context=worker_context() if self.args.dataloader_num_workers else None,
        )

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """`Trainer._get_dataloader`, which in training alone drops the last, smaller batch, or shares it out evenly."""
        asked = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = asked and is_training
        try:
            loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
            # Accelerate's loader reads from this one.
            own = getattr(loader, "base_dataloader", loader)
            own.worker_init_fn = worker_init(own.worker_init_fn)
            if own.num_workers:
                own.multiprocessing_context = worker_context()
            if is_training:
                own.collate_fn = KeepIds(own.collate_fn)
                if self.args.world_size > 1 and not self.args.accelerator_config.split_batches:
                    self.share_evenly(loader.batch_sampler)
            return loader
        finally:
            self.args.dataloader_drop_last = asked

    def share_evenly(self, shard: BatchSamplerShard) -> None:
        """Let accelerate's sampler of batches pass on those of `ShareOfBatches`: its own fill up the last step of an epoch with up
        to a whole batch a process."""
        shard.batch_sampler = ShareOfBatches(shard.batch_sampler, shard.num_processes, shard.process_index)
        shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False

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
            kind = torch.optim.Adam if self.args.adam_coupled_decay else kind
            if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & kwargs.keys():
                if self.args.differs:
                    raise ValueError(
                        f"{', '.join(self.args.differs)}: without effect on optim {self.args.optim.value}, which forms groups of "
                        "its own; leave out one of them"
                    )
            else:
                groups = self.with_masters(parameter_groups(self.model, self.args))
                self.optimizer_cls_and_kwargs = kind, kwargs | {"params": groups}
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
        """
        `Trainer._load_optimizer_and_scheduler`, after which the learning rate is what the schedule of this run gives for the step: the
        saved one is of the earlier schedule, which may have come to its end. With `override_run`, base rates and weight decay are
        those asked for.
        """
        if checkpoint is None:
            return
        if self.args.override_run and fault_of_optimizer(Path(checkpoint), self.args, self.model):
            # With `resume_partial`, as has been checked.
            return
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.args.override_run and not self.is_deepspeed_enabled:
            self.take_over_groups()
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        # Others follow evaluations, or are DeepSpeed's own.
        if isinstance(schedule, LambdaLR):
            factors = [shape(schedule.last_epoch) for shape in schedule.lr_lambdas]
            schedule._last_lr = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def take_over_groups(self) -> None:
        """Give the loaded groups of the optimizer, and the schedule, the numbers that the options ask for: rates, decay, betas, ..."""
        groups, asked = self.optimizer.param_groups, parameter_groups(self.model, self.args)
        # An optimizer that forms groups of its own keeps what it has.
        for group, wanted in zip(groups, asked, strict=True) if len(groups) == len(asked) else ():
            saved = group.get("initial_lr", wanted["lr"])
            if saved != wanted["lr"]:
                # The schedule stays where it is.
                group["lr"] *= wanted["lr"] / saved
                group["initial_lr"] = wanted["lr"]
            group |= {name: value for name, value in self.optimizer.defaults.items() if name not in ("params", "lr")}
            group["weight_decay"] = wanted["weight_decay"]
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [group["initial_lr"] for group in groups]

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """`Trainer._init_training_state`, which also reads the losses so far of a run that is resumed."""
        begun = super()._init_training_state(*args, **kwargs)
        saved = self.state.stateful_callbacks.get(LOSS_STATE, {}).get("attributes")
        self._losses_before = LossesSoFar(**saved) if saved else None
        self.stop_requests.owed = self.state.stateful_callbacks.pop(OWED_STATE, None) is not None
        return begun

    def take_up_losses(self) -> None:
        """Go on with the sums of the losses of a run that is resumed, so that it logs the same as one that never stopped."""
        if (before := self._losses_before) is None:
            return
        self._total_loss_scalar, self._globalstep_last_logged = before.total, before.last_logged
        # Sums of each process's own, so that they round as those of an unbroken run; of another number of processes, the mean.
        same = len(before.since_log) == self.args.world_size
        self._tr_loss += before.since_log[self.args.process_index] if same else fmean(before.since_log)
        # The sum over the processes.
        share = float(self.is_world_process_zero())
        self._losses = {name: self._tr_loss.new_tensor(value * share) for name, value in before.by_name.items()}
        steps = {name: value * share * self.args.world_size for name, value in before.steps_by_name.items()}
        self._loss_steps = {name: self._tr_loss.new_tensor(value) for name, value in steps.items()}
        self._num_steps, self.skipped_since_log = before.steps, before.skipped

    def losses_so_far(self) -> "LossesSoFar":
        """Return the sums of the losses of all processes."""
        since_log = nested_gather(self._tr_loss, self.args.parallel_mode).flatten().tolist()
        totals, counts = ({}, {}) if not self._losses else self.sums_of_losses()
        steps = self._num_steps, self.skipped_since_log
        return LossesSoFar(self._total_loss_scalar, since_log, self._globalstep_last_logged, totals, counts, *steps)

    def sums_of_losses(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the sums of the losses by name over all processes since the last log, and how many steps had each."""
        sums = torch.stack([*self._losses.values(), *self._loss_steps.values()])
        values = self.accelerator.reduce(sums.float(), "sum").tolist()
        totals, counts = values[: len(self._losses)], values[len(self._losses) :]
        steps = [count / self.args.world_size for count in counts]
        return dict(zip(self._losses, totals, strict=True)), dict(zip(self._losses, steps, strict=True))

    def _save_checkpoint(self, model, trial) -> None:
        """`Trainer._save_checkpoint`, which also saves the sums of the losses, from which a resumed run goes on. If the run was asked to
        stop, the checkpoint has all that the same command needs to go on, whatever `save_only_model` says."""
        self.state.stateful_callbacks[LOSS_STATE] = {"args": {}, "attributes": vars(self.losses_so_far())}
        if self.stop_requests.owed:
            self.state.stateful_callbacks[OWED_STATE] = {"args": {}, "attributes": {}}
        asked = self.args.save_only_model
        self.args.save_only_model = asked and not (
            self.stop_requests.stops and self.state.global_step < self.state.max_steps
        )
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_only_model = asked

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        """`Trainer._finalize_training`, whose loss is the mean over all steps that count, those before the run was resumed too."""
        # Which steps count is known when all are.
        self.learn(self.state.global_step)
        so_far = self.losses_so_far()
        self._mean_loss = (so_far.total + fmean(so_far.since_log)) / max(
            self.state.global_step - self.counts.skipped, 1
        )
        output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=self._mean_loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Add the mean of each loss over the steps since the last log that had it, steps that were left out, and the samples per second; at the end
        the mean of all steps.
        """
        if "train_loss" in logs:
            # Trainer's is a mean over the steps since the run was resumed.
            logs["train_loss"] = self._mean_loss
        if "loss" in logs:
            counted = self._num_steps - self.skipped_since_log
            if counted:
                logs["loss"] *= self._num_steps / counted
            else:
                del logs["loss"]
            if self._losses and counted:
                totals, steps = self.sums_of_losses()
                logs |= {f"{name}_loss": total / steps[name] for name, total in totals.items() if steps[name]}
            if self.counts.skipped:
                logs["skipped_steps"] = self.counts.skipped
            self._losses, self._loss_steps, self._num_steps, self.skipped_since_log = {}, {}, 0, 0
            now, step = time.perf_counter(), self.state.global_step
            if self._last_log:
                samples = (step - self._last_log[1]) * self._train_batch_size * self.args.gradient_accumulation_steps
                logs["samples_per_second"] = samples * self.args.world_size / (now - self._last_log[0])
            self._last_log = now, step
        super().log(logs, start_time)
        # It becomes JSON, which has no other numbers.
        self.state.log_history[-1] = finite(self.state.log_history[-1])


def on_device(count: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """Return a number as a float () on `device`, for which nobody has to wait."""
    if isinstance(count, torch.Tensor):
        return count.to(device, torch.float32, non_blocking=True)
    return torch.full((), float(count), device=device)


class GoingOn(TrainerCallback):
    """
    Let a trainer go on with the losses of the run that it resumes, after it has set its sums to zero, and do the evaluation that the
    run left out when it was stopped, after it has restored the random generators.
    """

    def __init__(self, trainer: RenaissanceTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.take_up_losses()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if self.trainer.stop_requests.owed:
            self.trainer.stop_requests.owed = False
            metrics = self.trainer._evaluate(None, None)
            self.trainer._determine_best_metric(metrics=metrics, trial=None)
