"""Checkpoints as a command line names them: its options, and what is loaded for them, with mistakes in one line."""

import argparse
import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel

from .auto import AUTO_CLASSES
from .hub import check_source, reason, take_token
from .modeling.architectures import ARCHITECTURES
from .modeling.checkpoint_files import check_no_kernel
from .modeling.configuration_renaissance import RenaissanceConfig
from .modeling.encoders import UNREADABLE_ERRORS, at_revision, unreadable
from .modeling.fields import option
from .processing.objectives import OBJECTIVE_DATA
from .processing.processing_renaissance import RenaissanceProcessor
from .tasks.finite import refuse_not_finite


@dataclass
class CheckpointArguments:
    """A checkpoint, and what may be done to load it."""

    #: What the user calls the checkpoint, in messages, and what else may be meant by one of another kind.
    called: ClassVar[str] = "model_name_or_path"
    remedy: ClassVar[str] = ""

    model_name_or_path: str | None = option(
        None, "Folder or Hub id of a Renaissance checkpoint; else a new model is built."
    )
    model_revision: str | None = option(
        None,
        "Branch, tag or commit of the checkpoint on the Hub. All names on the Hub, also of encoders and data sets, take theirs "
        "after an @ too: org/name@v1.",
        "main",
    )
    token: str | None = option(
        None,
        "Access token of the Hub, for all that is read from it or pushed. It is kept nowhere. Other people on this machine "
        "see command lines: prefer HF_TOKEN or `hf auth login`.",
        "HF_TOKEN, or that of `hf auth login`",
    )
    trust_remote_code: bool = option(
        False,
        "Run code that comes with a checkpoint, tokenizer or image processor from the Hub, with all your rights.",
    )

    def __post_init__(self):
        # False, not unset: transformers would ask, and a script would answer.
        self.trust_remote_code = bool(self.trust_remote_code)
        name, found = at_revision(self.model_name_or_path or "")
        if found and self.model_revision not in (None, found["revision"]):
            fault = f"{self.model_revision} is given, but {self.model_name_or_path} names another"
            raise ValueError(f"model_revision: {fault}; leave out one of them")
        if found:
            self.model_name_or_path, self.model_revision = name, found["revision"]

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of every `from_pretrained` that reads the checkpoint."""
        return {"revision": self.model_revision or "main", "trust_remote_code": self.trust_remote_code}

    @property
    def at_revision(self) -> str:
        """The name of the checkpoint, with its revision behind an @ if it is not that of the main branch."""
        return f"{self.model_name_or_path}@{self.model_revision}" if self.model_revision else self.model_name_or_path


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `CheckpointArguments`, but for the checkpoint itself, to a parser."""
    group = parser.add_argument_group("the Hub")
    for entry in dataclasses.fields(CheckpointArguments)[1:]:
        text = entry.metadata["help"]
        if entry.default is False:
            group.add_argument(f"--{entry.name}", action="store_true", help=f"{text.rstrip('.')} (default: false).")
        else:
            group.add_argument(f"--{entry.name}", help=f"{text.rstrip('.')} (default: {entry.metadata['default']}).")


def checkpoint_of(args: argparse.Namespace, called: str) -> CheckpointArguments:
    """
    Return the checkpoint that a command line names in its option `called`, and sign in with the token that it gives. Raise
    `ValueError` if there is no such checkpoint.
    """
    take_token(args)
    arguments = CheckpointArguments(getattr(args, called), args.model_revision, None, args.trust_remote_code)
    arguments.called = called
    check_source(called, arguments.model_name_or_path, arguments.model_revision)
    return arguments


def open_config(option: str, name: str, revision: str = "main", trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the configuration of the checkpoint that `option` names; raise `ValueError` if there is none."""
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ValueError(f"{option} {name!r}: no checkpoint there ({reason(error)})") from error


def load_config(arguments: CheckpointArguments) -> RenaissanceConfig:
    """Return the configuration of a Renaissance checkpoint; raise `ValueError` if there is none."""
    name = arguments.model_name_or_path
    config = open_config(arguments.called, name, **arguments.loading)
    if not isinstance(config, RenaissanceConfig):
        raise ValueError(
            f"{arguments.called} {name!r} is a {config.model_type} model; expected a Renaissance checkpoint"
            f"{arguments.remedy}"
        )
    check_no_kernel(f"{arguments.called} {name!r}", config)
    return config


def load_processor(arguments: CheckpointArguments) -> RenaissanceProcessor:
    """Return the processor of a checkpoint; raise `ValueError` if there is none."""
    name = arguments.model_name_or_path
    try:
        return AutoProcessor.from_pretrained(name, **arguments.loading)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{arguments.called} {name!r}: no processor there ({reason(error)})") from error


def load_model(kind: str, arguments: CheckpointArguments, **fields: Any) -> PreTrainedModel:
    """
    Return the model of `kind`, such as `"ForPreTraining"`, with the weights of a checkpoint.

    Args:
        kind: The end of the name of the model's class. Its head may be new.
        arguments: The checkpoint.
        fields: Other arguments of `from_pretrained`, and fields of the configuration to change.

    Raises:
        ValueError: If weights are missing, cannot be read, do not fit, or are not finite.
    """
    name = f"{arguments.called} {arguments.model_name_or_path!r}"
    try:
        model, report = AUTO_CLASSES[kind].from_pretrained(
            arguments.model_name_or_path, output_loading_info=True, **arguments.loading, **fields
        )
    except UNREADABLE_ERRORS as error:
        raise ValueError(f"{name}: {unreadable(error)}") from error
    except (OSError, RuntimeError) as error:
        fault = f"its weights are missing or do not fit {fields or 'its configuration'}"
        other = "their sizes differ, as in another architecture or an older format"
        why = reason(error) if isinstance(error, OSError) else other
        raise ValueError(f"{name}: {fault} ({why})") from error
    base = {id(weight) for weight in model.base_model.parameters()}
    expected = {weight for weight, value in model.named_parameters() if id(value) in base}
    if missing := sorted(expected & set(report["missing_keys"])):
        # They would stay random: another format wrote the checkpoint, or another architecture.
        fault = f"lacks {len(missing)} of {len(expected)} weights of a {type(model.base_model).__name__}, such as {missing[0]}"
        raise ValueError(f"{name} {fault}: another model, or an older format, which cannot be read")
    refuse_not_finite(model, {arguments.called: (arguments.model_name_or_path, arguments.model_revision)})
    return model


def task_model(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """
    Return a model of the task that an objective of pretraining is, which shares its modules with `model`, in evaluation mode.

    Args:
        model: A model for pretraining.
        name: The objective.

    Raises:
        ValueError: If the model has no such objective, or it is no task of its own.
    """
    tasks = {own: objective.task_kind for own, objective in model.objectives.items() if objective.task_kind}
    if name not in tasks:
        has = ", ".join(tasks) or "none"
        raise ValueError(
            f"objective: expected one that this model was pretrained with and that is a task ({has}), got {name!r}"
        )
    config = copy.deepcopy(model.config)
    if (field := OBJECTIVE_DATA[name].vocabulary_option) is not None:
        config.id2label = dict(enumerate(getattr(config, field)))
        config.label2id = {label: number for number, label in config.id2label.items()}
    architecture = next(each for each in ARCHITECTURES.values() if isinstance(config, each.config_class))
    # Its own weights are not needed.
    with torch.device("meta"):
        made = architecture.models[tasks[name]](config)
    made.model, made.classifier = model.model, model.head_of(name)
    return made.eval()
