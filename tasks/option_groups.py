"""How help shows the options of a task: first those that a first run needs, then the others by what they are about."""

import argparse
import dataclasses
from collections.abc import Iterable
from typing import Any

from transformers import TrainingArguments

from renaissance_cli.table import table_of

from ..modeling.heads import HeadModel
from .option_fields import default_of, in_words


#: The groups that come first, with the options that a first run needs.
FIRST = {
    "data": (
        "dataset",
        "dataset_config",
        "task_name",
        "train_datasets",
        "eval_datasets",
        "train_file",
        "validation_file",
        "test_file",
        "held_out",
    ),
    "model": (
        "model_name_or_path",
        "text_encoder",
        "vision_encoder",
        "architecture",
        "encoder",
        "freeze",
        "objectives",
    ),
    "what to do, and where the results go": (
        "do_train",
        "do_eval",
        "do_predict",
        "output_dir",
        "report_to",
        "push_to_hub",
        "hub_model_id",
    ),
    "usual training options": (
        "num_train_epochs",
        "max_steps",
        "max_flops",
        "per_device_train_batch_size",
        "total_batch_size",
        "per_device_eval_batch_size",
        "learning_rate",
        "warmup_steps",
        "eval_strategy",
        "save_strategy",
        "load_best_model_at_end",
        "image_size",
        "max_length",
        "seed",
    ),
}

#: How the names of the other options of `TrainingArguments` begin, by group.
TRAINER = {
    "optimisation": (
        "lr_",
        "optim",
        "weight_decay",
        "adam_",
        "max_grad_norm",
        "gradient_accumulation",
        "label_smoothing",
        "neftune",
        "average_tokens",
        "auto_find",
    ),
    "evaluation, checkpoints and logging": (
        "eval_",
        "batch_eval",
        "prediction_",
        "include_",
        "save_",
        "logging_",
        "log_",
        "disable_tqdm",
        "run_name",
        "project",
        "trackio",
        "metric_",
        "greater_",
        "resume_",
        "restore_",
        "ignore_data",
        "enable_jit",
        "label_names",
    ),
    "precision and memory": (
        "bf16",
        "fp16",
        "tf32",
        "activation_",
        "gradient_checkpointing",
        "torch_",
        "cuda_graphs",
        "text_buckets",
        "use_cpu",
    ),
    "the Hub": ("hub_",),
    "loading data": ("dataloader_", "data_seed", "remove_unused", "train_sampling", "length_column"),
    "several devices": ("ddp_", "fsdp", "deepspeed", "local_rank", "parallelism", "accelerator_"),
}


#: Help on options of transformers that a first run needs, in fewer words.
PLAIN = {
    "do_train": "Train, and save the model.",
    "do_eval": "Evaluate on the validation split.",
    "do_predict": "Predict the test split, and write the predictions.",
    "output_dir": "Folder for the model, checkpoints, metrics and predictions.",
    "report_to": "Where to report metrics, such as tensorboard, wandb or trackio; or none.",
    "push_to_hub": "Push the model to the Hub each time it is saved.",
    "hub_model_id": "Repository on the Hub, such as me/my-model.",
    "num_train_epochs": "Passes over the training data.",
    "max_steps": "Training steps, in place of num_train_epochs; -1 for those of the epochs.",
    "per_device_eval_batch_size": "Rows in a batch of evaluation, on each device.",
    "learning_rate": "Peak learning rate.",
    "warmup_steps": "Steps in which the learning rate rises, or below 1 a share of all steps.",
    "eval_strategy": "When to evaluate during training.",
    "save_strategy": "When to save checkpoints during training.",
    "load_best_model_at_end": "Keep the best checkpoint rather than the last one; needs eval_strategy.",
    "seed": "Seed of new weights, the order of rows, and all that is drawn.",
}


#: Those of `FIRST` that only some heads have use for: what must be among what these need, or their own options.
OF_HEADS = {"max_length": "text", "image_size": "image", "objectives": "objectives"}


def grouped_table(
    parser: argparse.ArgumentParser, dataclass_types: Iterable[type], head: type[HeadModel] | None = None
) -> dict[str, Any]:
    """Return the table of a parser that fills dataclasses: `FIRST`, as far as a model with the `head` has use for them if it is
    known, then the other options of each dataclass, then those of transformers."""
    fields = {entry.name: entry for kind in dataclass_types for entry in dataclasses.fields(kind)}
    places = {name: title for title, names in FIRST.items() for name in names if is_of_use(name, head)}
    for kind in dataclass_types:
        for entry in dataclasses.fields(kind):
            places.setdefault(entry.name, group_of(entry.name, kind))
    table = table_of(parser)
    options = [option for group in table["groups"] for option in group["options"]]
    groups: dict[str, list[dict]] = {title: [] for title in (*FIRST, *dict.fromkeys(places.values()))}
    for option in options:
        groups[places[option["name"]]].append(with_default(option, fields[option["name"]]))
    for title, names in FIRST.items():
        groups[title].sort(key=lambda option, names=names: names.index(option["name"]))
    last = [title for title in groups if title in (*TRAINER, "other options of training")]
    ordered = [*(title for title in groups if title not in last), *last]
    grouped = [{"title": title, "options": groups[title]} for title in ordered if groups[title]]
    return table | {"usage": "[recipe] [--option value ...]", "groups": grouped}


def is_of_use(name: str, head: type[HeadModel] | None) -> bool:
    """Return whether an option has an effect on a model with a head, as far as that is known."""
    return head is None or name not in OF_HEADS or OF_HEADS[name] in (*head.needs, *head.options)


def group_of(name: str, kind: type) -> str:
    """Return the group of an option of a dataclass that is not among the first ones."""
    if issubclass(kind, TrainingArguments):
        inherited = name in {entry.name for entry in dataclasses.fields(TrainingArguments)}
        found = [title for title, starts in TRAINER.items() if name.startswith(starts)]
        return found[0] if found else "other options of training" if inherited else "optimisation"
    if name.endswith("_column"):
        return "columns of your data"
    # Their docstrings say what they are about.
    return " ".join((kind.__doc__ or "").split()).partition(".")[0] or "other options"


def with_default(option: dict[str, Any], field: dataclasses.Field) -> dict[str, Any]:
    """Return an option with its default at the end of its help, unless the help says it, or it has none."""
    text = PLAIN.get(option["name"], option.get("help", ""))
    if option.get("flag"):
        # The negation of an option that is true by default, which need not be shown.
        return option | {"help": ""}
    default = in_words(default_of(field))
    if not default or "default" in text.lower():
        return option | {"help": text}
    return option | {"help": f"{text.rstrip('.')} (default: {default})."}
