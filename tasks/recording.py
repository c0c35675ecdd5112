"""Keeps the record of a run, `run.json`, and its model's card, while the run goes on."""

import dataclasses
import enum
import logging
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from renaissance_cli.subcommands import SUBCOMMANDS

from ..model_cards.card import run_card, write_card
from ..model_cards.lineage import commit_of, encoder_history, read_history
from ..modeling.encoders import source_name
from . import machine
from .arguments import ModelArguments, RunArguments
from .bad_steps import Counts
from .base import Task
from .data.bad_rows import BadRows
from .data.fingerprint import fingerprint
from .energy import EnergyMeter
from .report import metric_values
from .resuming import OF_ONE_SESSION, matches
from .run_record import DataSplit, RunRecord, of_model, public


logger = logging.getLogger(__name__)

#: Options that decide which rows are left out.
OF_BAD_ROWS = {"on_bad_row", "max_bad_fraction"}


#: What a model reads, by the input that is removed.
ALL_INPUTS, INPUT_LEFT = "the whole rows", {"text": "the images alone", "image": "the texts alone"}


class Recorder(TrainerCallback):
    """
    Keeps the record of a run, and writes it: when the run begins, before each checkpoint, and after each part of it. With a
    training, it also writes the card.

    Args:
        record: The record as the run begins (see `begin_record`).
        model: The model.
        mask_token: The token that stands for a masked word; `None` if there is none.
        changed: The options that are others than in the checkpoint that training goes on from, as `changed_options` has them.
        bad_rows: The bad rows of the training data.

    Raises:
        ValueError: If it goes on with a training whose data have changed, unless `override_run` or the rows that are left out differ.
    """

    def __init__(
        self,
        record: RunRecord,
        model: PreTrainedModel,
        args: RunArguments,
        mask_token: str | None = None,
        changed: dict[str, tuple[Any, Any]] | None = None,
        bad_rows: BadRows | None = None,
    ):
        self.record = record
        self.model = model
        self.args = args
        self.mask_token = mask_token
        self.changed = changed or {}
        self.bad_rows = bad_rows or BadRows()
        self.earlier = earlier_record(record, model, args)
        if self.earlier is not None and args.do_train and not (args.override_run or OF_BAD_ROWS & self.changed.keys()):
            refuse_other_data(self.earlier, record)
        self._begun = self._part_begun = time.monotonic()
        self._durations = record.duration_seconds, record.train_seconds
        self._meter = EnergyMeter(args.device, args.world_size) if args.do_train else None
        #: Joules of the earlier part of the run; `None` if they are not known.
        self._energy_before: float | None = 0.0

    def begin(self) -> None:
        """Join the record with that of the earlier part of the run, if this one takes it up again, and write it."""
        if self.earlier is not None:
            resumed = self.args.do_train
            self.record = joined(self.earlier, self.record, resumed)
            self._durations = self.record.duration_seconds, self.record.train_seconds
            if resumed:
                state = TrainerState.load_from_json(str(Path(self.args.resume_from_checkpoint) / "trainer_state.json"))
                self.record.resumed_at = [*self.earlier.resumed_at, state.global_step]
                self.record.changes = [*self.earlier.changes, *self.changes(state.global_step)]
                self._energy_before = self.record.energy_joules
                self._meter = EnergyMeter(self.args.device, self.args.world_size)
        self._begun = self._part_begun = time.monotonic()
        self.write()

    def changes(self, step: int) -> list[dict[str, Any]]:
        """Return the options that change at a step, as the record has them; folders by their names."""
        rows = [(name, public(old), public(new)) for name, (old, new) in self.changed.items()]
        return [{"step": step, "option": name, "old": old, "new": new} for name, old, new in rows]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs) -> None:
        self._meter.watch()
        # Before the checkpoint is saved, and perhaps pushed.
        if control.should_save and state.is_world_process_zero:
            self.add_training(state)
            self.write()

    on_epoch_end = on_step_end

    def add_training(self, state: TrainerState) -> None:
        """Add the steps that the training has come to, and its time."""
        self.record.steps, self.record.epochs = state.global_step, round(state.epoch or 0.0, 4)
        self.record.skipped_steps = Counts.of(state).skipped
        self.record.checkpoint_step = state.global_step
        self.record.checkpoint = f"that of step {state.global_step}, before training had ended"
        if train := self.record.of_split("train"):
            train.bad_rows = self.bad_rows.count()
        self.record.samples = samples_seen(state, self.record.of_split("train"), self.args, self.args.rows_a_step)
        self.record.flops = state.total_flos or None
        self.record.train_seconds = round(self._durations[1] + time.monotonic() - self._part_begun, 3)
        energy, before = self._meter.joules(), self._energy_before
        self.record.energy_joules = None if None in (energy, before) else round(before + energy, 3)

    def end_training(self, state: TrainerState, checkpoint: str) -> None:
        """Add the training as it ended, and the step that the saved weights are of, with the reason in words (`checkpoint`)."""
        self.add_training(state)
        self.record.checkpoint = checkpoint
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.record.checkpoint_step = int(Path(state.best_model_checkpoint).name.rpartition("-")[2])
            self.record.best_metric = self.args.metric_for_best_model
            self.record.best_value = state.best_metric
        self.write()

    def add_metrics(self, metrics: dict[str, float], prefix: str, split: str) -> None:
        """Add the metrics of a split, whose names begin with `prefix`, such as `"eval"`."""
        self.record.add_metrics(metric_values(metrics, f"{prefix}_", split))
        self.write()

    def finish(self) -> None:
        """Note that the run has come to its end."""
        self.record.status, self.record.finished = "finished", now()
        self.write()

    def write(self) -> None:
        """Write the record and, of a model that was trained, the card."""
        record, folder = self.record, Path(self.args.output_dir)
        record.duration_seconds = round(self._durations[0] + time.monotonic() - self._begun, 3)
        record.peak_memory_bytes = largest(record.peak_memory_bytes, machine.peak_memory())
        record.peak_gpu_memory_bytes = largest(record.peak_gpu_memory_bytes, machine.peak_gpu_memory(self.args.device))
        record.write(folder)
        if "train" in record.did:
            write_card(folder, run_card(self.model, record, self.mask_token))


def begin_record(
    arguments: tuple, task: Task, model: PreTrainedModel, data: dict[str, Any], args: RunArguments
) -> RunRecord:
    """
    Return the record of a run that is about to begin.

    Args:
        arguments: All arguments, the first of them those of the model.
        data: The data of each split (`KeyedRows`, or a stream).
    """
    model_arguments: ModelArguments = arguments[0]
    start = model_arguments.model_name_or_path
    revision = commit_of(start, model_arguments.model_revision) if start else None
    sources = {slot.name: getattr(model_arguments, slot.attribute, None) for slot in model.config.encoder_slots()}
    did = {"train": args.do_train, "eval": args.do_eval, "predict": args.do_predict}
    record = RunRecord(
        name=args.hub_model_id or Path(args.output_dir).resolve().name,
        run_id=uuid.uuid4().hex,
        did=[part for part, wanted in did.items() if wanted],
        task=type(task).__name__,
        script=name_of_command(sys.argv),
        started=now(),
        precision=args.precision,
        started_from=source_name(start) if start else None,
        started_from_revision=revision,
        history=read_history(start, revision) if start else encoder_history(model.config, sources),
        seed=args.seed,
        options=options_for_readers(arguments),
        **machine.facts(args.device, args.world_size),
        **of_model(model),
    )
    if args.do_train:
        record.batch_size = args.rows_a_step
        record.learning_rate = args.learning_rate
    for split, rows in data.items():
        whole = None if isinstance(rows, IterableDataset) else rows
        sources = [source_name(source) for source in task.sources(split)]
        of_rows = (None, None) if whole is None else (len(whole), fingerprint(whole.data, task.columns_beside))
        parts = task.parts_of(split)
        record.add_data(DataSplit(split, sources, *of_rows, parts=[] if parts == [split] else parts))
    warn_of_trained_rows(record)
    return record


def warn_of_trained_rows(record: RunRecord) -> None:
    """Warn of each split to evaluate on whose rows this run, or one that led to its checkpoint, trains on."""
    train = record.of_split("train")
    for data in record.data:
        if data is train:
            continue
        runs = [
            run.name for run in record.history if data.split in run.splits and set(data.sources) & set(run.sources)
        ]
        if train and (data.split in train.parts or data.fingerprint in {train.fingerprint} - {None}):
            runs.insert(0, "this run")
        if runs:
            logger.warning(
                f"{', '.join(data.sources)}, split {data.split!r}: {' and '.join(runs)} trained on its rows, so that metrics of it say "
                "nothing about new data; evaluate on another split"
            )


def joined(earlier: RunRecord, own: RunRecord, resumed: bool) -> RunRecord:
    """
    Return the record of a run of two parts. A training that is resumed stays the run that it was, with the options and the
    machine of its last part; of a training that is evaluated later all stays but the metrics and the data of splits.
    """
    kept = earlier if not resumed else own
    record = dataclasses.replace(kept, status="running", finished=None)
    record.run_id, record.started = earlier.run_id, earlier.started
    record.did = list(dict.fromkeys([*earlier.did, *own.did]))
    record.duration_seconds, record.train_seconds = earlier.duration_seconds, earlier.train_seconds
    record.flops, record.energy_joules = earlier.flops, earlier.energy_joules
    record.data, record.metrics = list(earlier.data), list(earlier.metrics)
    for split in own.data:
        record.add_data(split)
    for name in ("peak_memory_bytes", "peak_gpu_memory_bytes"):
        setattr(record, name, largest(getattr(earlier, name), getattr(own, name)))
    return record


def largest(*values: int | None) -> int | None:
    """Return the largest of the values that are known; `None` if none is."""
    return max((value for value in values if value is not None), default=None)


def earlier_record(own: RunRecord, model: PreTrainedModel, args: RunArguments) -> RunRecord | None:
    """
    Return the record of the run that this one goes on with: of the training that it resumes, of the training whose model in its
    folder it evaluates, or of another evaluation of the same model.

    Raises:
        ValueError: If there is a record of a training in the folder, and this run evaluates another model.
    """
    if args.do_train:
        checkpoint = args.resume_from_checkpoint
        return RunRecord.find(Path(checkpoint).parent) if checkpoint else None
    found = RunRecord.find(args.output_dir)
    if found is None or is_evaluated_in(args.output_dir, model):
        refuse_other_inputs(found, own, args)
        return found
    if "train" in found.did and found.steps:
        fault = "holds the training of another model than the one that is evaluated"
        raise ValueError(
            f"output_dir {args.output_dir} {fault}: name it as model_name_or_path, or choose another output_dir"
        )
    same = (found.task, found.started_from, found.history) == (own.task, own.started_from, own.history)
    if not (own.started_from and same):
        return None
    refuse_other_inputs(found, own, args)
    return found


def refuse_other_inputs(earlier: RunRecord | None, own: RunRecord, args: RunArguments) -> None:
    """Raise `ValueError` if the metrics of an evaluation would replace those of the same model with other inputs."""
    inputs = [INPUT_LEFT.get(each.options.get("remove_input"), ALL_INPUTS) for each in (earlier or own, own)]
    if inputs[0] != inputs[1]:
        raise ValueError(
            f"remove_input: output_dir {args.output_dir} has metrics of {inputs[0]}, which those of {inputs[1]} would replace; choose "
            "another output_dir"
        )


def refuse_other_data(earlier: RunRecord, own: RunRecord) -> None:
    """Raise `ValueError` if the training data are not those of the earlier part of a run, though they lie in the same place."""
    old, new = earlier.of_split("train"), own.of_split("train")
    if old is None or new is None or None in (old.fingerprint, new.fingerprint) or old.fingerprint == new.fingerprint:
        return
    raise ValueError(
        f"the training data have changed since this run began ({old.rows:,} rows then, {new.rows:,} now): bring them back, "
        "choose another output_dir, or take them as they are from here on with --override_run"
    )


def is_evaluated_in(output_dir: str, model: PreTrainedModel) -> bool:
    """Return whether a run evaluates the model that lies in its own folder, or a checkpoint there."""
    start, folder = Path(model.name_or_path or "").resolve(), Path(output_dir).resolve()
    return bool(model.name_or_path) and (start == folder or folder in start.parents)


def samples_seen(state: TrainerState, train: DataSplit | None, args: TrainingArguments, batch: int) -> int:
    """Return the number of rows that a training with steps of `batch` rows has seen by now. An epoch ends with what is left of its rows."""
    if train is None or train.rows is None:
        return state.global_step * batch
    loaded = args.train_batch_size * args.world_size
    rows = train.rows - train.rows % loaded if args.dataloader_drop_last else train.rows
    per_epoch = -(-rows // batch)
    epochs, steps = divmod(state.global_step, per_epoch)
    return epochs * rows + min(steps * batch, rows)


def options_for_readers(arguments: tuple) -> dict[str, Any]:
    """Return the options that differ from their defaults, but for those of the run alone and for tokens; folders by their names."""
    found = {}
    for group in arguments:
        plain = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
        for entry in dataclasses.fields(group):
            private = matches(entry.name, OF_ONE_SESSION) or entry.name.endswith("token")
            value = plain.get(entry.name)
            # False says the same as nothing if that is the default.
            default = default_of(entry) or False
            if entry.init and not private and value not in (None, [], {}, "") and (value or False) != default:
                found[entry.name] = public(value)
    return dict(sorted(found.items()))


def default_of(entry: dataclasses.Field) -> Any:
    """Return the default of a field as `to_dict` has it."""
    if entry.name == "accelerator_config":
        # `None` stands for these.
        return AcceleratorConfig().to_dict()
    default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    return default.value if isinstance(default, enum.Enum) else default


def name_of_command(argv: list[str]) -> str:
    """Return how a run was started, from the words of its command line: as `renaissance nlvr2`, or the file name of a script."""
    name, subcommand = Path(argv[0]).name, " ".join(argv[1:2])
    of_package = Path(name).stem in ("renaissance", "__main__") and subcommand in SUBCOMMANDS
    return f"renaissance {subcommand}" if of_package else name


def now() -> str:
    """Return the time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
