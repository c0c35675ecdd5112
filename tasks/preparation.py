"""Everything that a run does before its first step: reads options and data, builds the model, and finds where it stands."""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from renaissance_cli.recipe_files import CommandLine

from ..hub import check_access, check_reached, parse_revisions
from ..processing.collators import AugmentingCollator, RemovingCollator
from ..processing.processing_renaissance import RenaissanceProcessor
from .argument_checks import wants_best, warnings_of_options
from .arguments import OPTIONS_FILE, AugmentationArguments, CachingArguments, RunArguments, argument_classes
from .base import Task
from .batch_fitting import ROWS, StepTrial, keep_rows, settle_rows, tell_needs
from .checkpoints import Manifest, check_places, clear_staging
from .compilation import LENGTH_MULTIPLE
from .compute_budget import settle_steps
from .cuda_graphs import buckets_of, record_model
from .cut_texts import report_cut_texts
from .data.bad_rows import REPORT, SkippingCollator
from .data.keyed_rows import KeyedRows
from .data.sampling import GroupedSampler
from .epochs import EpochCallback
from .feature_cache import cache_features, check_cacheable
from .folder_files import read_mapping
from .logs import set_up_logging
from .models import (
    build_model,
    build_processor,
    check_sources,
    classes_in,
    configuration_of,
    describe,
    refuse_new_head,
    refuse_unfit,
    saved_head,
)
from .optimization import check_parts, describe_optimization
from .own_data import OwnDataArguments
from .parsing import fill_arguments, import_modules, recipe_of, save_arguments
from .pixel_cache import cache_pixels, check_pixel_cache
from .progress import ProgressLog
from .recording import Recorder, begin_record
from .resuming import changed_options, check_named_checkpoint, checkpoint_to_resume, saved_options
from .run_lock import exclusive
from .run_state import RunState
from .saving import told_of_disk
from .signals import StopRequests
from .stages import what_is_left
from .trainer import RenaissanceTrainer


logger = logging.getLogger(__name__)


def prepare(
    task_class: type[Task],
    description: str,
    argv: list[str],
    held: ExitStack | None = None,
    requests: StopRequests | None = None,
) -> tuple:
    """
    Do everything up to the first training step; return the trainer, the task, the data by split, and the training arguments.

    Args:
        task_class, description, argv: Those of `run_task`.
        held: Keeps what is to be given back when the run ends, such as the lock on its folder; without it there is no lock.
        requests: Heeds signals; without it nothing does.

    Raises:
        Finished: If the folder holds a run in which nothing is left to do.
        ValueError: If the user made a mistake.
    """
    line = CommandLine.read(argv)
    import_modules(line.words)
    groups, left_out = fill_arguments(argument_classes(task_class), line, description)
    model_arguments, data_arguments, augmentation, caching, args = groups
    set_up_logging(args)
    logger.info(f"precision: {args.describe_precision()}")
    if left_out:
        logger.info(f"{model_arguments.model_name_or_path} in place of the recipe's {', '.join(left_out)}")
    for each in warnings_of_options(args):
        logger.warning(each)
    if args.do_train:
        check_named_checkpoint(args)
    set_seed(args.seed)
    if held is not None and args.process_index == 0:
        held.enter_context(exclusive(Path(args.output_dir)))
        held.enter_context(told_of_disk(Path(args.output_dir)))
        # What a save that was cut off has left there; nobody else saves now.
        clear_staging(Path(args.output_dir))
        check_places(Path(args.output_dir))
    recipe = recipe_of(groups)
    if (state := RunState.find(args.output_dir)) is not None:
        keep_rows(args, recipe, state.options, state.processes)
    model_arguments = what_is_left(model_arguments, args, recipe)
    groups = (model_arguments, *groups[1:])
    if args.push_to_hub:
        check_access(args)
    check_sources(model_arguments)
    kind = task_class.kind_for(data_arguments)
    refuse_unfit(kind, model_arguments)

    head = saved_head(kind, model_arguments)
    task = task_class(data_arguments, head and classes_in(head))
    if head:
        task.start_from(head)
    elif not args.do_train:
        refuse_new_head(kind, model_arguments)
    task.seed, task.max_image_pixels = args.sampling_seed, model_arguments.max_image_pixels
    if task.removed_input == "image":
        augmentation, caching = without_image_options(augmentation, caching)
    task.caches_features = bool(caching.cache_frozen_features or caching.cache_pixels)
    task.bad_rows.report = Path(args.output_dir) / REPORT if args.do_train else None
    processor = build_processor(model_arguments)
    if args.torch_compile:
        processor.length_multiple = LENGTH_MULTIPLE
    config = configuration_of(kind, model_arguments, processor)
    task.check(args, config, processor)
    check_augmentation(augmentation, task)
    check_cacheable(caching, augmentation, task, config, processor, model_arguments.freeze or ())
    check_pixel_cache(caching, augmentation, task, processor)
    task.check_best_metric(args)
    data = load_data(task, args)
    if args.do_train and (steps := planned_steps(args, data["train"])) > 0:
        args.check_warmup(steps)

    model = build_model(kind, model_arguments, processor, task.config_fields())
    logger.info(f"{type(model).__name__}: {describe(model)}")
    if args.cuda_graphs:
        processor.text_buckets = buckets_of(processor, args.text_buckets)
    if args.should_log:
        if task.removed_input != "text":
            report_cut_texts(task, data, processor)
        if task.removed_input:
            logger.info(f"remove_input: the {task.removed_input} of all rows is removed")
    check_revisions(args, task, data)
    changed = {}
    if args.do_train:
        changed = prepare_training(model, args, recipe)
    recorder = None
    if args.process_index == 0:
        record = begin_record(groups, task, model, data, args)
        recorder = Recorder(record, model, args, processor.tokenizer.mask_token, changed, task.bad_rows)
    options = options_file(args, recipe)
    save_options(recipe, options, args)
    if args.should_save:
        task.bad_rows.write(keep=bool(args.resume_from_checkpoint))

    plain = task.collator(processor, model, args.seed)
    if task.removed_input:
        plain = RemovingCollator(plain, processor, task.removed_input)
    plain = collator = with_augmentation(plain, task, augmentation, args)
    if task.bad_rows.skip and isinstance(data.get("train"), KeyedRows):
        collator = SkippingCollator(collator, data["train"], task.bad_rows, args.sampling_seed)
    sampler = task.sampler(data["train"], args) if args.do_train else None
    # After all checks, because it may take hours.
    cache_features(caching, data, model, processor, args)
    cache_pixels(caching, data, processor, args)
    trial = StepTrial(model, task, data["train"], plain, processor, sampler) if args.do_train else None
    if args.do_train and args.finds_rows:
        settle_rows(trial, args)
        sampler = trial.sampler = task.sampler(data["train"], args)
        recipe[ROWS] = args.per_device_train_batch_size
        save_options(recipe, options, args)
        if recorder is not None:
            recorder.record.options[ROWS] = args.per_device_train_batch_size
            if isinstance(data["train"], KeyedRows):
                # Of a mixture, an epoch has as many rows as make whole batches.
                recorder.record.of_split("train").rows = len(data["train"])
    flops_a_row = None
    if trial is not None:
        tell_needs(trial, args)
        if args.max_flops is not None:
            flops_a_row = settle_steps(trial, args, changed)
            check_revisions(args, task, data)
            if recorder is not None:
                recorder.record.options["max_steps"] = args.max_steps
    trainer = make_trainer(task, data, model, processor, collator, sampler, args, requests or StopRequests())
    if args.cuda_graphs:
        record_model(trainer, processor.text_buckets)
    trainer.options_file = options
    trainer.step_trial, trainer.flops_a_row = trial, flops_a_row
    begun = RunState(recipe, args.world_size)
    trainer.run_state = begun if args.do_train else RunState.find(args.output_dir) or begun
    if not args.do_train and trainer.run_state.trained:
        # Of which the log of an evaluation tells.
        trainer.state.epoch = epoch_of(Path(args.output_dir) / TRAINER_STATE_NAME)
    if recorder is not None:
        # With its owner, if it is pushed.
        recorder.record.name = trainer.hub_model_id or recorder.record.name
        trainer.recorder = recorder
        trainer.add_callback(recorder)
    return trainer, task, data, args


def load_data(task: Task, args: RunArguments) -> dict[str, KeyedRows | IterableDataset]:
    """Return the data of each split that the run needs; raise `ValueError` if there is none for one."""
    splits = ["train"] if args.do_train else []
    splits += task.eval_splits if args.do_eval or args.eval_strategy != "no" or args.eval_on_start else ()
    splits += task.test_splits if args.do_predict else ()
    if isinstance(task.data_arguments, OwnDataArguments) and (missing := task.data_arguments.missing_files(splits)):
        raise ValueError("; ".join(missing))
    for split in splits:
        # Which raises if there is none, before another split is read for hours.
        task.sources(split)
    data = {split: task.load(split) for split in dict.fromkeys(splits)}
    if args.do_train:
        # The recipe of a training may name columns that an evaluation alone does not read.
        task.check_loaded()
    if empty := [split for split, rows in data.items() if not rows]:
        raise ValueError(f"no data for {', '.join(empty)}: name a data set that has it")
    rows, batch = data.get("train"), args.train_batch_size * args.world_size
    if args.do_train and args.dataloader_drop_last and not isinstance(rows, IterableDataset) and len(rows) < batch:
        fault = f"would leave out all {len(rows)} rows of training data, which are no batch of {batch}"
        raise ValueError(f"dataloader_drop_last: {fault}; leave it out, or lower per_device_train_batch_size")
    # Streams have keys of their own.
    keyed = {
        split: rows if isinstance(rows, IterableDataset) else KeyedRows(rows, split == "train", task.source(split))
        for split, rows in data.items()
    }
    if isinstance(keyed.get("train"), KeyedRows):
        # Until `EpochCallback` says more.
        keyed["train"].begin_epoch(0)
    return keyed


def prepare_training(model: PreTrainedModel, args: RunArguments, recipe: dict[str, Any]) -> dict[str, tuple]:
    """
    Check how the model is to be optimised, and find the checkpoint to go on from. Return the options that differ from those
    of that checkpoint.
    """
    check_parts(model, args)
    logger.info(describe_optimization(model, args))
    checkpoint = checkpoint_to_resume(args, model)
    args.resume_from_checkpoint = str(checkpoint) if checkpoint else None
    if checkpoint is None:
        return {}
    saved, processes = saved_options(checkpoint), Manifest.read(checkpoint).processes
    keep_rows(args, recipe, saved, processes)
    return changed_options(checkpoint, saved, processes, recipe, args)


def save_options(recipe: dict[str, Any], path: Path, args: RunArguments) -> None:
    """Write the options of a run, on the main process."""
    if args.should_save:
        save_arguments(recipe, path)


def options_file(args: RunArguments, recipe: dict[str, Any]) -> Path:
    """
    Return the file for the options of a run. An evaluation in the folder of a training leaves the training's file as it is, unless the
    command asks for both.
    """
    path = Path(args.output_dir) / OPTIONS_FILE
    if recipe.get("do_train") or not path.exists():
        return path
    try:
        of_training = read_mapping(path).get("do_train")
    except ValueError as error:
        raise ValueError(f"{path}: not the options of a run ({error}); move it elsewhere, or repair it") from error
    return path.with_name("run_evaluation.yaml") if of_training else path


def epoch_of(path: Path) -> float | None:
    """Return the epoch in the state of a training that has ended; `None` if there is no such file."""
    try:
        return read_mapping(path).get("epoch")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: not the state of a training ({error}); delete it") from error


def check_revisions(args: RunArguments, task: Task, data: dict[str, KeyedRows | IterableDataset]) -> None:
    """Raise `ValueError` if `push_revisions` counts words of a task without text, or more than there will be."""
    revisions, train = parse_revisions(args.push_revisions) if args.do_train else [], data.get("train")
    if (
        any(each.unit == "words" for each in revisions)
        and isinstance(train, KeyedRows)
        and not task.has_texts(train.data)
    ):
        raise ValueError("push_revisions: this task has no text, whose words could be counted; count samples instead")
    if revisions and (steps := planned_steps(args, train)) > 0:
        check_reached(revisions, steps, args.rows_a_step)


def planned_steps(args: RunArguments, train: KeyedRows | IterableDataset) -> int:
    """Return the number of steps of a training; -1 if it is not known, because a stream has no end, or they are not counted yet."""
    if args.max_steps > 0 or args.max_flops is not None or isinstance(train, IterableDataset):
        return args.max_steps
    batch = args.train_batch_size * args.world_size
    batches = len(train) // batch if args.dataloader_drop_last else math.ceil(len(train) / batch)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def make_trainer(
    task: Task,
    data: dict[str, KeyedRows | IterableDataset],
    model: PreTrainedModel,
    processor: RenaissanceProcessor,
    collator: Callable,
    sampler: GroupedSampler | None,
    args: RunArguments,
    requests: StopRequests,
) -> RenaissanceTrainer:
    """Return the trainer of a run, whose best checkpoint is the one that the task, or the user, says."""
    args.label_names = task.label_names(model)
    if wants_best(args) and not args.metric_is_named:
        first = f"eval_{task.eval_splits[0]}_" if len(task.eval_splits) > 1 else "eval_"
        args.metric_for_best_model = task.best_metric.replace("eval_", first, 1)
        args.greater_is_better = not task.best_metric.endswith("loss")
        logger.info(f"The best checkpoint is the one with the best {args.metric_for_best_model}")
    train = data.get("train")
    trainer = RenaissanceTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=several_or_one({split: data[split] for split in task.eval_splits if split in data}),
        data_collator=collator,
        processing_class=processor,
        compute_metrics=task.metrics,
        collect=task.collect,
        same_answer=task.same_answer,
        evaluator=task.evaluate,
        train_sampler=sampler,
        callbacks=[EpochCallback(train, sampler)] if isinstance(train, KeyedRows) else [],
        stop_requests=requests,
    )
    for shown_by_trainer in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown_by_trainer)
    trainer.add_callback(ProgressLog())
    return trainer


def check_augmentation(arguments: AugmentationArguments, task: Task) -> None:
    """Raise `ValueError` if the images of a task cannot be augmented as the user asks."""
    if arguments.build() and not task.augmentable:
        raise ValueError(
            "augmentation: this task has no images that could be augmented, or draws false ones from all of its data, which stay "
            "as they are; leave it out"
        )


def without_image_options(
    augmentation: AugmentationArguments, caching: CachingArguments
) -> tuple[AugmentationArguments, CachingArguments]:
    """Return the options on images of a run whose images are removed, which are none; warn of those that are given. A recipe may have
    them, with which a model that sees is trained too."""
    idle = [name for name in ("cache_frozen_features", "cache_pixels") if getattr(caching, name)]
    idle += ["augmentation"] if augmentation.build() else []
    if idle:
        logger.warning(f"{', '.join(idle)}: without effect, for remove_input removes the images")
    return AugmentationArguments(), CachingArguments()


def with_augmentation(
    collator: Callable, task: Task, arguments: AugmentationArguments, args: RunArguments
) -> Callable:
    """Return the task's collator, behind the augmentation that the user asks for."""
    augmentations = arguments.build()
    if not augmentations:
        return collator
    if not args.do_train:
        logger.warning("augmentation: without effect, for nothing is trained")
    return AugmentingCollator(collator, augmentations, task.augmentable, args.seed, task.max_image_pixels)


def several_or_one(data: dict[str, KeyedRows]) -> dict[str, KeyedRows] | KeyedRows | None:
    """Return the data sets by split. If there is only one, return it alone; if there is none, `None`."""
    return data if len(data) > 1 else next(iter(data.values()), None)
