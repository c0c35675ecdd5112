"""What is checked of training arguments before data is read or a model is built: transformers finds some of it hours later, or never."""

import contextlib
import copy
import importlib.util
import inspect
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig

from renaissance_cli.mistakes import nearest
from renaissance_cli.recipe_files import shipped

from .folder_files import fits
from .machine import UnfitMachine
from .precision import on_cpu


#: Rows of a batch, or batches of a step.
MANY = "[1, 16777216]"

#: The numbers that transformers' options may be, as `modeling.fields.Interval` reads them. A default is always allowed.
BOUNDS = {
    "per_device_eval_batch_size": MANY,
    "num_train_epochs": "(0, inf)",
    "max_steps": "[1, inf)",
    "learning_rate": "(0, inf)",
    "warmup_steps": "[0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "gradient_accumulation_steps": MANY,
    "max_grad_norm": "[0, inf)",
    "label_smoothing_factor": "[0, 1)",
    "neftune_noise_alpha": "(0, inf)",
    "torch_empty_cache_steps": "[1, inf)",
    "logging_steps": "(0, inf)",
    "eval_steps": "(0, inf)",
    "save_steps": "(0, inf)",
    "eval_delay": "[0, inf)",
    "eval_accumulation_steps": "[1, inf)",
    "save_total_limit": "[1, inf)",
    "seed": "[0, 4294967295]",
    "data_seed": "[0, 4294967295]",
    "dataloader_num_workers": "[0, 1024]",
    "dataloader_prefetch_factor": "[1, 65536]",
    "ddp_bucket_cap_mb": "[1, inf)",
    "ddp_timeout": "[1, 2147483647]",
}

#: Options that only optimizers like Adam have a use for.
OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")

#: Options of steps, which are whole numbers or, below 1, shares of all steps.
STEPS = ("logging_steps", "eval_steps", "save_steps", "warmup_steps")

OF_METRICS = "metrics are made of all predictions of a split at once"
#: Options with the only value that fits here, and why.
FIXED = {
    "eval_do_concat_batches": (True, OF_METRICS),
    "prediction_loss_only": (False, OF_METRICS),
    "batch_eval_metrics": (False, OF_METRICS),
    "include_for_metrics": ([], OF_METRICS),
    "eval_use_gather_object": (False, OF_METRICS),
    "remove_unused_columns": (False, "collators read columns that the model does not"),
    "enable_jit_checkpoint": (False, "without effect, for SIGTERM always ends training with a checkpoint"),
    "label_names": (None, "without effect, the task says which inputs are labels"),
    "length_column_name": ("length", "without effect, lengths are those of the texts of the task"),
    "use_liger_kernel": (False, "it has no kernels for these models"),
    "liger_kernel_config": (None, "it has no kernels for these models"),
    "use_cache": (False, "without effect, encoders keep no states of earlier words"),
    "restore_callback_states_from_checkpoint": (
        False,
        "without effect, a run that goes on takes up all that it needs",
    ),
    "debug": ("", "it fails on masks; max_bad_steps finds values that are not finite"),
}

#: Settings of `accelerator_config` that do not fit here, and why.
ACCELERATOR = {
    "even_batches": (
        False,
        "even_batches false leaves some processes without the last batch, for which the others would wait",
    ),
    "dispatch_batches": (
        True,
        "dispatch_batches loads all batches on one process, whose tensors differ in shape from process to process",
    ),
}

#: The schedules that follow evaluations.
FOLLOWING = ("reduce_lr_on_plateau", "greedy")

#: The names of optimizers that form groups of parameters of their own.
FORMS_GROUPS = re.compile("galore|apollo")

Condition = Callable[[TrainingArguments], Any]


def has_workers(args: TrainingArguments) -> bool:
    return args.dataloader_num_workers > 0


def checkpoints_activations(args: TrainingArguments) -> bool:
    return bool(args.activation_checkpointing or args.gradient_checkpointing)


def is_evaluated(args: TrainingArguments) -> bool:
    return word(args.eval_strategy) != "no"


def compares(args: TrainingArguments) -> bool:
    """Return whether evaluations decide which checkpoint is the best, or how the learning rate falls."""
    return wants_best(args) or word(args.lr_scheduler_type) in FOLLOWING


def wants_best(args: TrainingArguments) -> bool:
    """Return whether the best checkpoint is loaded, or only better ones are saved."""
    return args.load_best_model_at_end or word(args.save_strategy) == "best"


def reports_to_trackio(args: TrainingArguments) -> bool:
    return "trackio" in args.report_to or "all" in args.report_to


def saves(args: TrainingArguments) -> bool:
    return word(args.save_strategy) != "no"


def has_processes(args: TrainingArguments) -> bool:
    # There is no process group yet; launchers set this.
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def logs_by_steps(args: TrainingArguments) -> bool:
    """Return whether `logging_steps` has an effect: `eval_steps` are as many if they are not given."""
    evaluates = word(args.eval_strategy) == "steps" and args.eval_steps in (None, args.logging_steps)
    return word(args.logging_strategy) == "steps" or evaluates


SEVERAL, SAVING = "several processes", "save_strategy steps, epoch or best"
WORKERS, COMPARING = "dataloader_num_workers", "load_best_model_at_end, or save_strategy best"
#: Options that have no effect without another one: when they have one, and that other option.
NEEDED: dict[str, tuple[Condition, str]] = {
    "dataloader_persistent_workers": (has_workers, WORKERS),
    "dataloader_prefetch_factor": (has_workers, WORKERS),
    "dataloader_multiprocessing_context": (has_workers, WORKERS),
    "dataloader_in_order": (has_workers, WORKERS),
    "ddp_backend": (has_processes, SEVERAL),
    "fsdp": (has_processes, SEVERAL),
    "fsdp_config": (lambda args: args.fsdp, "fsdp"),
    "gradient_checkpointing_kwargs": (checkpoints_activations, "gradient_checkpointing"),
    "activation_checkpointing_kwargs": (checkpoints_activations, "activation_checkpointing"),
    "optim_target_modules": (lambda args: FORMS_GROUPS.search(word(args.optim)), "a GaLore or APOLLO optim"),
    "trackio_space_id": (reports_to_trackio, "report_to trackio"),
    "trackio_bucket_id": (reports_to_trackio, "report_to trackio"),
    "trackio_static_space_id": (reports_to_trackio, "report_to trackio"),
}

#: The same for those that are only warned of: a recipe may have them, and the command line switch off what they are for.
BETTER_WITH: dict[str, tuple[Condition, str]] = {
    "eval_steps": (lambda args: word(args.eval_strategy) == "steps", "eval_strategy steps"),
    "eval_delay": (is_evaluated, "eval_strategy"),
    "eval_on_start": (lambda args: args.do_train, "do_train"),
    "resume_from_checkpoint": (lambda args: args.do_train, "do_train"),
    "resume_partial": (lambda args: args.do_train, "do_train"),
    "override_run": (lambda args: args.do_train, "do_train"),
    "max_flops": (lambda args: args.do_train, "do_train"),
    "logging_steps": (logs_by_steps, "logging_strategy steps"),
    "logging_first_step": (lambda args: word(args.logging_strategy) != "no", "logging_strategy steps or epoch"),
    "save_steps": (lambda args: word(args.save_strategy) == "steps", "save_strategy steps"),
    "save_total_limit": (saves, SAVING),
    "save_only_model": (saves, SAVING),
    "bf16_full_eval": (lambda args: args.do_eval or args.do_predict, "do_eval or do_predict"),
    "fp16_full_eval": (lambda args: args.do_eval or args.do_predict, "do_eval or do_predict"),
    "torch_empty_cache_steps": (lambda args: not on_cpu(args.use_cpu), "a GPU"),
    "run_name": (lambda args: args.report_to, "report_to"),
    "project": (reports_to_trackio, "report_to trackio"),
    "metric_for_best_model": (compares, COMPARING),
    # It follows from the metric if it is not given.
    "greater_is_better": (lambda args: compares(args) or args.metric_for_best_model, COMPARING),
    **{
        name: (lambda args: args.push_to_hub, "push_to_hub")
        for name in ("hub_model_id", "hub_private_repo", "hub_always_push", "hub_revision", "hub_strategy")
    },
    **dict.fromkeys(
        (
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_timeout",
        ),
        (has_processes, SEVERAL),
    ),
}


def word(value: Any) -> str:
    """Return a value of a list of choices as it is written on the command line."""
    return str(getattr(value, "value", value))


def defaults_of(args: TrainingArguments) -> dict[str, Any]:
    """Return the defaults of training arguments, but for those that a function makes."""
    return {name: entry.default for name, entry in type(args).__dataclass_fields__.items()}


def idle_options(args: TrainingArguments, table: dict[str, tuple[Condition, str]]) -> list[str]:
    """Return a phrase for each option of a table like `NEEDED` that is given and has no effect."""
    defaults = defaults_of(args)
    return [
        f"{name}: without effect without {needed}; leave it out, or give that too"
        for name, (has_effect, needed) in table.items()
        # False says the same as nothing, unless the default is true.
        if getattr(args, name) not in (None, defaults[name], defaults[name] is True) and not has_effect(args)
    ]


def warnings_of_options(args: TrainingArguments) -> list[str]:
    """Return what to warn of: options that are given and have no effect."""
    found = idle_options(args, BETTER_WITH)
    found += idle_for_optimizer(args)
    if args.max_steps > 0 and args.num_train_epochs != defaults_of(args)["num_train_epochs"]:
        found.append(f"num_train_epochs: without effect, max_steps {args.max_steps} says how long training takes")
    return found


def idle_for_optimizer(args: TrainingArguments) -> list[str]:
    """Return a phrase for each option of Adam that is given and without effect on the optimizer."""
    defaults, found = defaults_of(args), []
    for name in [name for name in OF_ADAM if args.do_train and getattr(args, name) != defaults[name]]:
        other = copy.copy(args)
        setattr(other, name, defaults[name])
        # Those that want to see the model, which is not there yet, are not looked at.
        with contextlib.suppress(ValueError):
            if Trainer.get_optimizer_cls_and_kwargs(args) == Trainer.get_optimizer_cls_and_kwargs(other):
                found.append(f"{name}: without effect on optim {word(args.optim)}; leave it out")
    return found


def check_given(args: TrainingArguments) -> None:
    """
    Check training arguments as they are given, before transformers works out others from them. Replace JSON by what it
    says, and names of tools to report to by a list.

    Raises:
        ValueError: If an option is wrong; the message names it.
    """
    if args.output_dir is not None and not args.output_dir.strip():
        raise ValueError("output_dir: expected a folder, got an empty name")
    for name in args._VALID_DICT_FIELDS:
        setattr(args, name, read_json(name, getattr(args, name)))
    check_reports(args)
    for name in STEPS:
        value = getattr(args, name)
        if value is not None and value > 1 and value != int(value):
            raise ValueError(f"{name}: expected a whole number of steps, or a share below 1, got {value}")
    for name, (expected, fault) in FIXED.items():
        if (value := getattr(args, name)) != expected and (value or expected):
            raise ValueError(f"{name}: {fault}, expected {json.dumps(expected)}; leave it out")
    # It is a word for transformers, and true or false on the command line.
    if args.include_num_input_tokens_seen not in (False, "no"):
        fault = "it would count the numbers of one input, which need not be tokens"
        raise ValueError(f"include_num_input_tokens_seen: {fault}, expected false; leave it out")
    if phrases := idle_options(args, NEEDED):
        raise ValueError(phrases[0])
    check_machine(args)
    check_comparison(args)
    check_accelerator(args)
    check_compilation(args)
    check_checkpointing(args)
    named = args.resume_from_checkpoint
    if named is not None and not named.strip():
        raise ValueError("resume_from_checkpoint: expected true, false or a folder, got an empty name")


def check_machine(args: TrainingArguments) -> None:
    """Raise `ValueError` if options ask for processes or devices that are not there."""
    if args.local_rank != -1 and str(args.local_rank) != os.environ.get("LOCAL_RANK"):
        raise ValueError("local_rank: without effect, launchers set the variable LOCAL_RANK; leave it out")
    if not on_cpu(args.use_cpu):
        return
    needing_gpu = {
        "fp16_full_eval": args.fp16_full_eval,
        "fsdp": args.fsdp,
        f"ddp_backend {args.ddp_backend}": args.ddp_backend in ("nccl", "xccl", "hccl", "cncl", "mccl"),
    }
    if found := [name for name, is_given in needing_gpu.items() if is_given]:
        raise UnfitMachine(f"{found[0]}: needs a GPU, and this run is on a CPU; leave it out")


def read_json(name: str, value: Any) -> Any:
    """Return a dictionary option, parsed if it is JSON; raise `ValueError` if it cannot be read."""
    text = value.lstrip() if isinstance(value, str) else ""
    if text.startswith(("{", "[")):
        return parse_json_object(name, value)
    if text and name in ("accelerator_config", "fsdp_config") and not Path(value).is_file():
        raise ValueError(f"{name}: expected a JSON object or a file with one, got {value}")
    return value


def parse_json_object(name: str, value: dict | str | None) -> dict | None:
    """Return the value of a dictionary option; raise `ValueError` if it is given and not a JSON object."""
    if isinstance(value, str):
        try:
            value = json.loads(
                value, object_pairs_hook=each_once, parse_constant=finite_float, parse_float=finite_float
            )
        except (ValueError, RecursionError) as error:
            kind = "not JSON" if isinstance(error, json.JSONDecodeError) else "cannot be read"
            raise ValueError(f"{name}: {kind} ({error}): {value[:200]}") from error
    if not isinstance(value, dict | None):
        raise ValueError(f'{name}: expected a JSON object such as {{"hidden_size": 64}}, got {value}')
    return value or None


def each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the entries of a JSON object; raise `ValueError` if a name is there twice, of which Python would take the last."""
    names = [name for name, _ in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is there twice; leave out one")
    return dict(entries)


def finite_float(text: str) -> float:
    """Return a number of JSON; raise `ValueError` if it is not finite, as NaN, Infinity and 1e999 are."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"expected a finite number, got {text}")
    return value


def check_reports(args: TrainingArguments) -> None:
    """Raise `ValueError` if `report_to` names a tool that is unknown or not installed."""
    names = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or ["none"])
    args.report_to = names
    if unknown := [name for name in names if name not in (*INTEGRATION_TO_CALLBACK, "none", "all")]:
        known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise ValueError(f"report_to: expected none, all, or some of {known}, got {', '.join(unknown)}")
    if len(names) > 1 and {"none", "all"} & set(names):
        raise ValueError(f"report_to: none and all stand alone, got {' '.join(names)}")
    for name in set(names) - {"none", "all"}:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to {name}: {' '.join(str(error).split())}") from error


def check_comparison(args: TrainingArguments) -> None:
    """Raise `ValueError` if the best checkpoint is wanted, or a schedule that follows evaluations, and nothing is evaluated for it."""
    evaluated, saved, schedule = word(args.eval_strategy), word(args.save_strategy), word(args.lr_scheduler_type)
    wanting = {
        "load_best_model_at_end": args.load_best_model_at_end,
        "save_strategy best": saved == "best",
        f"lr_scheduler_type {schedule}": schedule in FOLLOWING,
    }
    for name, is_wanted in wanting.items():
        if is_wanted and evaluated == "no":
            raise ValueError(f"{name}: needs evaluations to compare; set eval_strategy to steps or epoch")
    if args.load_best_model_at_end and saved not in ("best", evaluated):
        fault = f"each checkpoint needs its evaluation, but save_strategy is {saved} and eval_strategy {evaluated}"
        raise ValueError(f"load_best_model_at_end: {fault}; make them alike, or set save_strategy to best")


def check_accelerator(args: TrainingArguments) -> None:
    """Raise `ValueError` if `accelerator_config` has settings that do not exist or do not fit here."""
    config = args.accelerator_config
    if isinstance(config, str):
        args.accelerator_config = config = parse_json_object(
            "accelerator_config", Path(config).read_text(encoding="utf-8")
        )
    if isinstance(config, dict):
        known = list(AcceleratorConfig.__dataclass_fields__)
        if unknown := [name for name in config if name not in known]:
            told = ", ".join(f"no setting {name}{nearest(name, known)}" for name in unknown)
            raise ValueError(f"accelerator_config: {told} expected some of {', '.join(known)}")
        for name, value in config.items():
            if name in ACCELERATOR and value == ACCELERATOR[name][0]:
                raise ValueError(f"accelerator_config: {ACCELERATOR[name][1]}; leave it out")
            expected = get_type_hints(AcceleratorConfig)[name]
            # The one that is no switch is a mapping of torch's own arguments.
            if "kwargs" not in name and not fits(value, expected):
                raise ValueError(f"accelerator_config: {name}: expected true or false, got {json.dumps(value)}")


def check_compilation(args: TrainingArguments) -> None:
    """Raise `ValueError` if torch has no such backend or mode of compilation."""
    if args.torch_compile_mode is not None:
        from torch._inductor import list_mode_options

        if args.torch_compile_mode not in (modes := list(list_mode_options())):
            raise ValueError(f"torch_compile_mode: expected one of {', '.join(modes)}, got {args.torch_compile_mode}")
    if args.torch_compile_backend is not None:
        from torch._dynamo import list_backends

        if args.torch_compile_backend not in list_backends(exclude_tags=()):
            expected = ", ".join(list_backends())
            raise ValueError(f"torch_compile_backend: expected one of {expected}, got {args.torch_compile_backend}")


def check_checkpointing(args: TrainingArguments) -> None:
    """Raise `ValueError` if torch's checkpoints of activations have no such settings."""
    known = [name for name, each in inspect.signature(checkpoint).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for option in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if unknown := [name for name in getattr(args, option) or {} if name not in (*known, "preserve_rng_state")]:
            told = ", ".join(f"no setting {name}{nearest(name, known)}" for name in unknown)
            raise ValueError(f"{option}: {told} expected some of {', '.join(known)}")


def check_optimizer(args: TrainingArguments) -> None:
    """
    Raise `ValueError` if the package of an optimizer is missing, or if it has no use for some of `optim_args`. The arguments are
    those that transformers has worked out.
    """
    given = dict(part.partition("=")[::2] for part in (args.optim_args or "").replace(" ", "").split(",") if part)
    if broken := [name for name, value in given.items() if not (name and value)]:
        raise ValueError(f"optim_args: expected name=value, several after a comma, got {', '.join(broken)}")
    name, asked = f"optim {args.optim.value}", args.optim_args
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        for each in given:
            args.optim_args = ",".join(f"{other}={value}" for other, value in given.items() if other != each)
            if Trainer.get_optimizer_cls_and_kwargs(args) == (kind, settings):
                raise ValueError(f"optim_args: {each}={given[each]} is without effect on {name}; leave it out")
        if isinstance(kind, type) and not {"params", "model", "optimizer_dict"} & settings.keys():
            kind([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (ImportError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        # Some want to see the model, which is not there yet.
        if not re.search("need to pass a `?model", str(error)):
            message = " ".join(str(error).split())
            raise ValueError(message if message.startswith("optim") else f"{name}: {message}") from error
    finally:
        args.optim_args = asked


def deepspeed_configuration(given: str | dict | None) -> str | dict | None:
    """
    Return what `--deepspeed` stands for: the file of a configuration that ships, if it is its name, or else what is given.
    Raise `ValueError` if there is no such file, it is not JSON, or the package is not installed.
    """
    if not given:
        return None
    spec = importlib.util.find_spec("deepspeed")
    # A folder of this name, such as that of the run scripts, is no package.
    if spec is None or spec.origin is None:
        raise ValueError("deepspeed: the package is missing; pip install 'renaissance[deepspeed]'")
    if isinstance(given, dict):
        return given
    if Path(given).is_file():
        try:
            if isinstance(json.loads(Path(given).read_text(encoding="utf-8")), dict):
                return given
        except ValueError as error:
            raise ValueError(f"deepspeed {given}: expected a JSON file, and this is not JSON ({error})") from error
        raise ValueError(f"deepspeed {given}: expected a JSON file with one object")
    known = shipped("deepspeed", ".json")
    if given not in known:
        raise ValueError(f"deepspeed {given}: no such file{nearest(given, known)} {' and '.join(known)} ship")
    return str(known[given])
