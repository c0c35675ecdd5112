"""What a training goes on from: the checkpoint, whether it has all that is needed, and whether it is of the same run."""

import fnmatch
import logging
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..hub import first_line
from ..processing.objectives import OBJECTIVE_DATA
from .argument_checks import FOLLOWING, FORMS_GROUPS, word
from .arguments import OPTIONS_FILE, RunArguments
from .checkpoints import Manifest, fault_of, newest_first, passed_over, step_of
from .folder_files import read_mapping
from .optimization import parameter_groups


logger = logging.getLogger(__name__)

#: The files that only a training that goes on reads, and what is in them.
STATE = {
    OPTIMIZER_NAME: "the state of the optimizer",
    SCHEDULER_NAME: "the place in the schedule",
    SCALER_NAME: "the state of the loss scaler",
    "rng_state*.pth": "the random generators",
}

#: Options that say how a run is run, shown, saved and pushed, which matter to nobody who has its model: patterns of their names.
OF_ONE_SESSION = (
    "do_*",
    "output_dir",
    "overwrite_*",
    "resume_*",
    "override_run",
    "max_bad_steps",
    "run_name",
    "project",
    "trackio_*",
    "report_to",
    "disable_tqdm",
    "log*",
    "hub_*",
    "push_*",
    "save_*",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "local_rank",
    "use_cpu",
    "skip_memory_metrics",
    "yes",
)

#: Options that leave what is trained as it is: patterns of their names.
HARMLESS = (
    *OF_ONE_SESSION,
    "eval_*",
    "per_device_eval_batch_size",
    "load_best_model_at_end",
    "validation_*",
    "test_*",
    "predict_*",
    "max_eval_samples",
    "max_predict_samples",
    "ddp_*",
    "deepspeed",
    "fsdp*",
    "include_*",
    "gradient_checkpointing*",
    "activation_checkpointing*",
    "cache_frozen_features",
    "cache_pixels",
    "check_images",
)

#: Options that choose the best checkpoint, which a run has one measure for from its beginning.
OF_THE_BEST = ("metric_for_best_model", "greater_is_better")

#: Options that may change, and are noted in the record of the run.
NOTED = ("max_steps", "num_train_epochs", "max_flops", "on_bad_row", "max_bad_fraction")

#: Options whose product with the number of processes is the rows of a step.
OF_ROWS = ("per_device_train_batch_size", "gradient_accumulation_steps", "total_batch_size")


def checkpoint_to_resume(args: RunArguments, model: PreTrainedModel) -> Path | None:
    """
    Return the checkpoint that training goes on from: the one that the user names, or the newest whole one in the output
    folder; `None` if training starts at the beginning. All processes return the same.

    Raises:
        ValueError: If the named one is not whole, there are checkpoints but none is whole, something that is needed to go
            on exactly is missing (unless `resume_partial`), the weights are those of another model, or the learning rates
            are others.
    """
    found: list[Any] = [None]
    if args.process_index == 0:
        try:
            found = [chosen_checkpoint(args)]
        except ValueError as error:
            found = [error]
    # Checksums of large files, which one process reads for all.
    checkpoint = broadcast_object_list(found)[0]
    if isinstance(checkpoint, ValueError):
        raise checkpoint
    if checkpoint is None:
        return None
    check_state(checkpoint, args)
    check_best(checkpoint, args)
    check_states(checkpoint)
    check_same_classes(checkpoint, model)
    check_weights_fit(checkpoint, model)
    check_saved_rates(checkpoint, args, model)
    check_optimizer_fits(checkpoint, args, model)
    return checkpoint


def check_named_checkpoint(args: RunArguments) -> None:
    """Raise `ValueError` if `resume_from_checkpoint` means a checkpoint and there is none; its files are not looked at."""
    named = args.resume_from_checkpoint
    if named is None or named.lower() == "false":
        return
    if named.lower() == "true":
        if not newest_first(Path(args.output_dir)):
            raise ValueError(f"resume_from_checkpoint {named}: there is no checkpoint in {args.output_dir}")
    elif not Path(named).is_dir():
        raise ValueError(f"resume_from_checkpoint {named}: no whole checkpoint there: there is no such folder")


def chosen_checkpoint(args: RunArguments) -> Path | None:
    """Return the checkpoint that `resume_from_checkpoint` means, whose files are all as they were saved."""
    check_named_checkpoint(args)
    named, output = args.resume_from_checkpoint, Path(args.output_dir)
    if blocking := [path.name for path in output.glob("*") if step_of(path) is not None and not path.is_dir()]:
        fault = f"{blocking[0]} is no folder, and has a name that a checkpoint may get"
        raise ValueError(f"output_dir {output}: {fault}; move it elsewhere")
    may_lack = tuple(STATE) if args.resume_partial else ()
    if named and named.lower() not in ("true", "false"):
        checkpoint = Path(named)
        if fault := fault_of(checkpoint, may_lack):
            raise ValueError(f"resume_from_checkpoint {named}: no whole checkpoint there: {fault}")
        return checkpoint
    if named and named.lower() == "false":
        if earlier := newest_first(output):
            fault = f"{output} has checkpoints of an earlier run, such as {earlier[0].name}"
            raise ValueError(f"resume_from_checkpoint false: {fault}; choose another output_dir, or delete them")
        return None
    faults = []
    for checkpoint, fault in passed_over(output, may_lack):
        if fault is None:
            return checkpoint
        logger.warning(f"{checkpoint} is passed over: {fault}")
        faults.append(f"{checkpoint.name}: {fault}")
    if faults:
        remedy = "delete them to start at the beginning, or choose another output_dir"
        raise ValueError(f"output_dir {output}: no checkpoint is whole ({'; '.join(faults)}); {remedy}")
    return None


def engine_of(args: RunArguments) -> str:
    """Return what holds the state of a training: `"torch"`, `"deepspeed"` or `"fsdp"`."""
    if args.deepspeed_plugin is not None:
        return "deepspeed"
    return "fsdp" if args.fsdp else "torch"


def check_state(checkpoint: Path, args: RunArguments) -> None:
    """
    Raise `ValueError` if a checkpoint lacks something without which training does not go on exactly. With `resume_partial`
    it begins anew, and the log says so.
    """
    manifest, engine = Manifest.read(checkpoint), engine_of(args)
    if manifest.weights_only:
        missing = ["all but the weights (it was saved with save_only_model)"]
    elif manifest.engine != engine:
        missing = [f"a state that {engine} can read (it was saved by {manifest.engine})"]
    else:
        gone = [name for name in manifest.files if not (checkpoint / name).is_file()]
        missing = [words for pattern, words in STATE.items() if fnmatch.filter(gone, pattern)]
        if args.fp16 and engine == "torch" and not manifest.scaled:
            missing.append(STATE[SCALER_NAME])
    if missing:
        fault = f"{checkpoint} lacks {' and '.join(missing)}"
        start = f"start a new run from its weights with --model_name_or_path {checkpoint} and another output_dir"
        if engine == "deepspeed":
            raise ValueError(f"{fault}, without which DeepSpeed cannot go on; {start}")
        if not args.resume_partial:
            raise ValueError(
                f"{fault}, without which training does not go on as it was; {start}, or make it anew with "
                "--resume_partial"
            )
        logger.warning(f"resume_partial: {fault}: optimizer and schedule begin anew where their state is missing")
    elif manifest.processes != args.world_size and engine == "deepspeed":
        raise ValueError(
            f"{checkpoint} is of {manifest.processes} processes, among which DeepSpeed has divided its state, and this run has "
            f"{args.world_size}; take as many, or start a new run from its weights with --model_name_or_path {checkpoint} and "
            "another output_dir"
        )
    elif manifest.processes != args.world_size:
        logger.warning(
            f"{checkpoint} is of {manifest.processes} processes, and this run has {args.world_size}: dropout draws other "
            "numbers than it would have"
        )


def check_best(checkpoint: Path, args: RunArguments) -> None:
    """Raise `ValueError` if the run is to end with the best weights, and the best checkpoint so far is gone or broken."""
    if not args.load_best_model_at_end:
        return
    best = best_beside(checkpoint)
    if best is None or best == checkpoint:
        return
    if fault := fault_of(best) if best.is_dir() else "there is no such folder":
        raise ValueError(
            f"load_best_model_at_end: {best} is the best checkpoint so far, and is not whole: {fault}; go on without it with "
            "--load_best_model_at_end false, or delete the later checkpoints, so that it is trained again"
        )


def best_beside(checkpoint: Path) -> Path | None:
    """
    Return the place of the best checkpoint when another was saved, beside that, whether it is there or not; `None` if none was chosen.
    The folder of the run may have moved since then.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return checkpoint.with_name(Path(state.best_model_checkpoint).name) if state.best_model_checkpoint else None


def check_weights_fit(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raise `ValueError` if the weights in a checkpoint are those of another model."""
    weights = checkpoint / SAFE_WEIGHTS_NAME
    # Under ZeRO-3 a process has no whole weights to compare.
    if not weights.is_file() or is_deepspeed_zero3_enabled():
        return
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


def check_same_classes(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raise `ValueError` if heads of pretraining were trained on other classes than the training data now gives, as many or not: their
    outputs would be renamed."""
    saved = read_mapping(checkpoint / CONFIG_NAME)
    for kind in [each for each in OBJECTIVE_DATA.values() if each.vocabulary_option]:
        option = kind.vocabulary_option
        old, new = saved.get(option) or [], getattr(model.config, option, None) or []
        if kind.name not in model.config.objectives or list(old) == list(new):
            continue
        number = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
        told = f"{len(old)} then, {len(new)} now" if number is None else f"{old[number]!r} then, {new[number]!r} now"
        raise ValueError(
            f"{checkpoint}: the {kind.vocabulary_column} of the training data make other {option} than those that the objective {kind.name} "
            f"was trained on ({told}); bring the data back, or choose another output_dir"
        )


def check_saved_rates(checkpoint: Path, args: RunArguments, model: PreTrainedModel) -> None:
    """
    Raise `ValueError` if a checkpoint's groups are those of `model` but for their learning rates or weight decay: an
    optimizer takes over the saved ones. With `override_run`, the ones asked for are put in place of them.
    """
    file = checkpoint / OPTIMIZER_NAME
    if args.override_run or not file.is_file():
        return
    saved = read_state(file)["param_groups"]
    asked = parameter_groups(model, args)
    # Of other groups torch tells, when it loads them.
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in asked]:
        return
    for old, new in zip(saved, asked, strict=True):
        if (old.get("initial_lr", new["lr"]), old["weight_decay"]) != (new["lr"], new["weight_decay"]):
            raise ValueError(
                f"{checkpoint} was trained with other learning rates or another weight_decay: repeat learning_rate, the "
                "multipliers, layer_decay and weight_decay (run.yaml), choose another output_dir, or take the new ones from here "
                "on with --override_run"
            )


def check_optimizer_fits(checkpoint: Path, args: RunArguments, model: PreTrainedModel) -> None:
    """
    Raise `ValueError` if `override_run` asks for an optimizer or a schedule that cannot take over the saved state. With
    `resume_partial` it begins anew, and the log says so.
    """
    if not args.override_run or not (fault := fault_of_optimizer(checkpoint, args, model)):
        return
    if not args.resume_partial:
        start = f"start a new run from its weights with --model_name_or_path {checkpoint} and another output_dir"
        raise ValueError(
            f"override_run: {checkpoint} has the state of {fault}; begin optimizer and schedule anew with "
            f"--resume_partial, or {start}"
        )
    logger.warning(f"resume_partial: {checkpoint} has the state of {fault}: optimizer and schedule begin anew")


def fault_of_optimizer(checkpoint: Path, args: RunArguments, model: PreTrainedModel) -> str | None:
    """Return in words of which other optimizer, schedule or parameters the saved state is; `None` if this run can take it over."""
    file, saved = checkpoint / OPTIMIZER_NAME, saved_options(checkpoint)
    if args.deepspeed_plugin is not None or not file.is_file():
        return None
    for name in ("optim", "lr_scheduler_type"):
        old, new = saved.get(name), word(getattr(args, name))
        # The state of all others is the number of the step.
        alike = name == "lr_scheduler_type" and not {old, new} & {*FOLLOWING}
        if old is not None and old != new and not alike:
            return f"{name} {old}, and this run has {new}"
    if bool(saved.get("adam_coupled_decay")) != args.adam_coupled_decay:
        here, there = ("Adam", "AdamW") if args.adam_coupled_decay else ("AdamW", "Adam")
        return f"{there}, and this run has {here} (adam_coupled_decay)"
    if FORMS_GROUPS.search(word(args.optim)):
        return None
    sizes = [len(group["params"]) for group in read_state(file)["param_groups"]]
    if sizes != [len(group["params"]) for group in parameter_groups(model, args)]:
        return "other parameters, or other groups of them (freeze, layer_decay and the multipliers form these)"
    return None


def check_states(checkpoint: Path) -> None:
    """Raise `ValueError` if one of the files of `STATE` is damaged, or would run code when it is read."""
    for pattern in STATE:
        for file in sorted(checkpoint.glob(pattern)):
            read_state(file)


def read_state(file: Path) -> dict[str, Any]:
    """Return the state in a file of a checkpoint, without running code; raise `ValueError` if it cannot be read so."""
    try:
        # The arrays of numpy's random generator are no tensors.
        with safe_globals():
            return torch.load(file, map_location="cpu", mmap=is_zipfile(file), weights_only=True)
    # A damaged file raises errors of many types.
    except Exception as error:
        raise ValueError(f"{file} is damaged, or asks to run code ({first_line(error)}); nothing was run") from error


def saved_options(checkpoint: Path) -> dict[str, Any]:
    """Return the options of the run that saved a checkpoint; raise `ValueError` if they are not in it."""
    try:
        return read_mapping(checkpoint / OPTIONS_FILE)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{checkpoint}: its {OPTIONS_FILE} holds no options ({first_line(error)})") from error


def changed_options(
    place: Path, saved: dict[str, Any], processes: int, options: dict[str, Any], args: RunArguments
) -> dict[str, tuple[Any, Any]]:
    """
    Return the options that differ from those of an earlier part of a run, each with its old and its new value, of which
    the record of the run is to tell.

    Args:
        place: The checkpoint, or the folder of the run.
        saved: The options of the earlier part, as run.yaml has them.
        processes: Number of processes of the earlier part.
        options: The options of this run.

    Raises:
        ValueError: If one of them changes what is trained, unless `override_run`.
    """
    names = sorted({*saved, *options})
    changed = {name: (saved.get(name), options.get(name)) for name in names if saved.get(name) != options.get(name)}
    changed = {name: values for name, values in changed.items() if not matches(name, HARMLESS)}
    if not (saved.get("load_best_model_at_end") and options.get("load_best_model_at_end")):
        changed = {name: values for name, values in changed.items() if name not in OF_THE_BEST}
    allowed = (*NOTED, *OF_ROWS) if rows_of(saved, processes) == args.rows_a_step else NOTED
    refused = {name: values for name, values in changed.items() if name not in allowed}
    if refused and not args.override_run:
        told = ", ".join(f"{name} {new} for {old}" for name, (old, new) in refused.items())
        raise ValueError(
            f"{place} was trained with other options: {told}; repeat those of its {OPTIONS_FILE}, choose another output_dir, "
            "or take the new ones from here on with --override_run"
        )
    return changed


def rows_of(saved: dict[str, Any], processes: int) -> int:
    """Return the rows of a step of a run with the options `saved`."""
    if total := saved.get("total_batch_size"):
        return total
    return saved["per_device_train_batch_size"] * saved.get("gradient_accumulation_steps", 1) * processes


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name fits one of several patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
