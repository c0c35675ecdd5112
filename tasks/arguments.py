"""Arguments of the run scripts: dataclasses, filled from a YAML recipe, the command line, or both."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import HfArgumentParser, TrainingArguments

from ..modeling.objectives import require_known, weights_of
from ..processing.augmentation import AUGMENTATIONS
from .optimization import OptimizationArguments


ARCHITECTURES = ("two-tower", "one-tower")

#: The options that shape a new model, by the architectures that they have an effect on.
CONFIG_OPTIONS = {
    "cross_modal_hidden_size": ("two-tower",),
    "cross_modal_layers": ("two-tower",),
    "cross_modal_heads": ("two-tower",),
    "cross_modal_mlp_ratio": ("two-tower",),
    "cross_modal_act": ("two-tower",),
    "cross_modal_dropout": ("two-tower",),
    "cross_modal_attention_dropout": ("two-tower",),
    "embedding_size": ("one-tower",),
    "embedding_dropout": ("one-tower",),
    "vocab_size": ("one-tower",),
    "patch_size": ("one-tower",),
    "position_interpolation": ("one-tower",),
    "pooler": ARCHITECTURES,
    "tie_word_embeddings": ARCHITECTURES,
    "classifier_dropout": ARCHITECTURES,
    "classifier_hidden_size": ARCHITECTURES,
    "layer_norm_eps": ARCHITECTURES,
    "initializer_range": ARCHITECTURES,
    "objectives": ARCHITECTURES,
}

#: The options that say which encoders a new model is built from, likewise.
ENCODER_OPTIONS = {
    "text_encoder": ("two-tower",),
    "vision_encoder": ("two-tower",),
    "text_overrides": ("two-tower",),
    "vision_overrides": ("two-tower",),
    "random_init_text": ("two-tower",),
    "random_init_vision": ("two-tower",),
    "encoder": ("one-tower",),
    "encoder_overrides": ("one-tower",),
    "random_init": ("one-tower",),
}


@dataclass
class ModelArguments:
    """The model: a checkpoint to go on from, or encoders to build a new one from."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a Renaissance checkpoint. Without it a new model is built."},
    )
    architecture: str | None = field(
        default=None,
        metadata={"help": "Of a new model: two-tower (the default) or one-tower.", "choices": ARCHITECTURES},
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Two towers: Hub id or folder of the text encoder, or, with --random_init_text, a model type."
        },
    )
    vision_encoder: str | None = field(
        default=None,
        metadata={"help": "Two towers: the same of the vision encoder."},
    )
    encoder: str | None = field(
        default=None, metadata={"help": "One tower: the same of the encoder, a text or a vision transformer."}
    )
    random_init_text: bool = field(default=False, metadata={"help": "Two towers: leave the text tower random."})
    random_init_vision: bool = field(default=False, metadata={"help": "Two towers: leave the vision tower random."})
    random_init: bool = field(default=False, metadata={"help": "One tower: leave the whole model random."})
    text_overrides: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Two towers: fields of the text encoder to change, as JSON: {"hidden_size": 64}. Any field of its '
            "configuration, and mlp_ratio and dropout. Dimensions need --random_init_text."
        },
    )
    vision_overrides: dict | str | None = field(
        default=None, metadata={"help": "Two towers: fields of the vision encoder to change, as JSON."}
    )
    encoder_overrides: dict | str | None = field(
        default=None, metadata={"help": "One tower: fields of the encoder to change, as JSON."}
    )
    cross_modal_hidden_size: int | None = field(
        default=None, metadata={"help": "Two towers: width of the cross-modal layers; 256."}
    )
    cross_modal_layers: int | None = field(
        default=None, metadata={"help": "Two towers: number of cross-modal layers; 6."}
    )
    cross_modal_heads: int | None = field(default=None, metadata={"help": "Two towers: their attention heads; 4."})
    cross_modal_mlp_ratio: float | None = field(
        default=None, metadata={"help": "Two towers: width of their feed-forward layers over their own width; 4."}
    )
    cross_modal_dropout: float | None = field(
        default=None, metadata={"help": "Two towers: their dropout probability; 0.1."}
    )
    cross_modal_act: str | None = field(
        default=None, metadata={"help": "Two towers: activation of their feed-forward layers; gelu."}
    )
    cross_modal_attention_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Two towers: dropout probability of their attention weights; 0, since more is slow on a CPU."
        },
    )
    embedding_size: int | None = field(
        default=None, metadata={"help": "One tower: width of the embeddings; the encoder's own."}
    )
    embedding_dropout: float | None = field(
        default=None, metadata={"help": "One tower: dropout probability of the embeddings; the encoder's own, or 0.1."}
    )
    vocab_size: int | None = field(
        default=None,
        metadata={"help": "One tower: rows of the word embeddings; as many as the tokenizer or the encoder has."},
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "One tower: pixels a patch; the encoder's own, or 16."}
    )
    position_interpolation: str | None = field(
        default=None,
        metadata={"help": "One tower: how positions are fitted to another image size, bicubic or bilinear; bicubic."},
    )
    pooler: str | None = field(
        default=None, metadata={"help": "single: pool the text; double: text and image, concatenated; double."}
    )
    tie_word_embeddings: bool | None = field(
        default=None, metadata={"help": "Use the word embeddings as the vocabulary projection; false."}
    )
    classifier_dropout: float | None = field(default=None, metadata={"help": "Dropout probability in heads; 0.1."})
    classifier_hidden_size: int | None = field(
        default=None, metadata={"help": "Width of the hidden layer of classifiers; that of the pooled vector."}
    )
    layer_norm_eps: float | None = field(
        default=None, metadata={"help": "Epsilon of layer norms outside the encoders; 1e-12, or the encoder's own."}
    )
    initializer_range: float | None = field(
        default=None, metadata={"help": "Standard deviation of new weights outside the encoders; 0.02."}
    )
    objectives: list[str] | None = field(
        default=None,
        metadata={
            "help": "Objectives of pretraining: names, such as mlm itm contrastive, or names with weights, as JSON: "
            '{"mlm": 1, "itm": 0.5}; mlm itm.'
        },
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Parts to freeze: text, vision, cross_modal, or encoder for all; vision:-2 for all but its last two layers."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the tokenizer; the checkpoint's or text encoder's own, and BERT's (uncased) for one "
            "tower on a vision encoder."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width of images in pixels; the processor's own. Another size than in pretraining works."
        },
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a text, truncated beyond; the most that the model takes."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa or eager; by default the fastest that the encoders have."}
    )

    def __post_init__(self):
        for name in ("text_overrides", "vision_overrides", "encoder_overrides"):
            setattr(self, name, parse_json_object(name, getattr(self, name)))
        if self.objectives is not None:
            self.objectives = parse_objectives(self.objectives)
        check_at_least(self, image_size=1, max_length=3)
        defaults = {option.name: option.default for option in dataclasses.fields(self)}
        options = {name: getattr(self, name) for name in (*CONFIG_OPTIONS, *ENCODER_OPTIONS)}
        # Not a test of truth: 0 is a value that somebody asked for.
        given = [name for name, value in options.items() if value is not defaults[name] and value != {}]
        if self.model_name_or_path:
            given += [name for name in ("architecture", "tokenizer") if getattr(self, name)]
            if given:
                raise ValueError(
                    f"{', '.join(given)}: without effect on a checkpoint (model_name_or_path is given), whose configuration "
                    "is fixed; leave out one or the other"
                )
            return
        self.architecture = self.architecture or "two-tower"
        idle = [name for name in given if self.architecture not in {**CONFIG_OPTIONS, **ENCODER_OPTIONS}[name]]
        if idle:
            raise ValueError(f"{', '.join(idle)}: without effect on a {self.architecture} model; leave it out")
        needed = ("text_encoder", "vision_encoder") if self.architecture == "two-tower" else ("encoder",)
        if missing := [name for name in needed if not getattr(self, name)]:
            raise ValueError(
                f"a new {self.architecture} model needs {' and '.join(missing)}; or name a checkpoint in model_name_or_path"
            )


@dataclass
class AugmentationArguments:
    """Augmentation of the training images. The options of an augmentation are its fields, behind its name."""

    augmentation: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={
            "help": "What is done to training images, in this order: randaugment, random_resized_crop, or both; or none."
        },
    )
    randaugment_num_ops: int | None = field(default=None, metadata={"help": "RandAugment: operations an image; 2."})
    randaugment_magnitude: float | None = field(
        default=None, metadata={"help": "RandAugment: strength of all operations, up to 10; 9."}
    )
    random_resized_crop_scale: list[float] = field(
        default_factory=list,
        metadata={"help": "Random resized crop: smallest and largest share of the image's area; 0.5 1."},
    )
    random_resized_crop_ratio: list[float] = field(
        default_factory=list,
        metadata={"help": "Random resized crop: smallest and largest width over height; 0.75 1.33."},
    )

    def __post_init__(self):
        chosen = self.augmentation
        if unknown := [name for name in chosen if name not in (*AUGMENTATIONS, "none")]:
            raise ValueError(
                f"augmentation: expected none, or some of {', '.join(AUGMENTATIONS)}, got {', '.join(unknown)}"
            )
        if not chosen or len(set(chosen)) < len(chosen) or ("none" in chosen and len(chosen) > 1):
            raise ValueError(
                f"augmentation: expected none alone, or each name once, got {' '.join(chosen) or 'nothing'}"
            )
        for name, kind in AUGMENTATIONS.items():
            options = [option.name for option in dataclasses.fields(kind)]
            values = {option: getattr(self, f"{name}_{option}") for option in options}
            given = {option: value for option, value in values.items() if value not in (None, [])}
            if name in chosen:
                # Defaults too, so that the recipe of the run has all that was used.
                for option, value in dataclasses.asdict(kind(**given)).items():
                    setattr(self, f"{name}_{option}", list(value) if isinstance(value, tuple) else value)
            elif given:
                raise ValueError(
                    f"{', '.join(f'{name}_{option}' for option in given)}: without effect where augmentation is "
                    f"{' '.join(chosen)}; leave it out, or add {name} to augmentation"
                )

    def build(self) -> list[Callable[[Image.Image, np.random.Generator], Image.Image]]:
        """What is applied to each training image, in this order."""
        return [
            kind(**{option.name: getattr(self, f"{name}_{option.name}") for option in dataclasses.fields(kind)})
            for name in self.augmentation
            if (kind := AUGMENTATIONS.get(name))
        ]


@dataclass
class CachingArguments:
    """Features of a frozen vision tower that are kept on disk."""

    cache_frozen_features: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the features that a frozen vision tower makes of the images: made once, and read in later epochs and "
            "runs. Needs two towers and --freeze vision."
        },
    )
    yes: bool = field(
        default=False, metadata={"help": "Write the features even where they take more than 50 GB of disk."}
    )

    def __post_init__(self):
        if self.yes and not self.cache_frozen_features:
            raise ValueError("yes: without effect without cache_frozen_features; leave it out")


@dataclass
class RunArguments(OptimizationArguments):
    """The training arguments, with the defaults that these models need."""

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be false: the collators read columns that the model does not."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Whether to leave NaN losses out of the log; shown by default, unlike Trainer's."},
    )

    def __post_init__(self):
        self.metric_is_named = self.metric_for_best_model is not None
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs are visible to one process: start one a GPU with `torchrun --nproc_per_node {self.n_gpu}`, or "
                "set CUDA_VISIBLE_DEVICES; splitting a batch inside one process would tear image-text pairs apart"
            )
        # Pinned memory is for copies to an accelerator; asked for without one, every loader warns.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "train_sampling_strategy: expected random, sequential or group_by_length, got batch_rebalance"
            )
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns: expected false, the collators read columns that the model does not"
            )
        if self.gradient_checkpointing and (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "gradient_checkpointing_kwargs: use_reentrant would leave layers above frozen ones without gradient; leave it "
                "out"
            )
        if not (self.do_train or self.do_eval or self.do_predict):
            raise ValueError("nothing to do: pass --do_train, --do_eval or --do_predict, or several")

    @property
    def sampling_seed(self) -> int:
        """The seed of the order of training rows, as Trainer has it."""
        return self.seed if self.data_seed is None else self.data_seed


def check_at_least(arguments: object, **smallest: int) -> None:
    """Raises `ValueError` where an option of `arguments` is given and smaller than `smallest` says."""
    for name, least in smallest.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def parse_objectives(given: list[str] | dict[str, float]) -> dict[str, float]:
    """Return the weights of objectives that are given by name or as one JSON object; raise `ValueError` if they are neither."""
    if isinstance(given, list) and len(given) == 1 and given[0].lstrip().startswith("{"):
        given = parse_json_object("objectives", given[0])
    require_known(given)
    return weights_of(given)


def parse_json_object(name: str, value: dict | str | None) -> dict:
    """The value of a dictionary option, given as JSON or not at all; raises `ValueError` where it is no JSON object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}: not JSON ({error}): {value}") from error
    if not isinstance(value, dict | None):
        raise ValueError(f'{name}: expected a JSON object such as {{"hidden_size": 64}}, got {value}')
    return value or {}


def parse_arguments(dataclass_types: tuple[type, ...], argv: list[str], description: str) -> tuple:
    """
    Fills dataclasses from a command line, whose first argument may be a YAML recipe. Options of the command line win over
    those of the recipe.

    Args:
        dataclass_types: The dataclasses to fill, in this order.
        argv: The command line, without the script's name.
        description: What `--help` says that the script does.

    Raises:
        ValueError: Where an option is unknown or its value does not fit.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        usage="%(prog)s [recipe.yaml] [--option value ...]",
        epilog="A recipe is a YAML file with one option a line, as `option: value`. Options given here win over it.",
        allow_abbrev=False,
    )
    known = {option.name for kind in dataclass_types for option in dataclasses.fields(kind) if option.init}
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = [*recipe_options(Path(argv[0]), known), *argv[1:]]
    return parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)


def recipe_options(path: Path, known: set[str]) -> list[str]:
    """
    The options of a YAML recipe as those of a command line, so that both are read, converted and checked by one parser.

    Raises:
        ValueError: Where the file is missing, is no mapping, or has a key that is not in `known`.
    """
    if not path.is_file():
        raise ValueError(f"recipe {path}: no such file")
    try:
        recipe = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path}: expected `option: value` lines")
    if unknown := sorted(map(str, set(recipe) - known)):
        raise ValueError(f"recipe {path}: no option {', '.join(unknown)}; --help lists them")
    argv = []
    for name, value in recipe.items():
        if value is None:
            continue
        if isinstance(value, list):
            values = [str(item) for item in value]
        else:
            values = [json.dumps(value) if isinstance(value, dict) else str(value)]
        argv += [f"--{name}", *values] if values else []
    return argv


def save_arguments(arguments: tuple, path: Path) -> None:
    """Writes every option of a run as one recipe, which repeats it."""
    values = {}
    for group in arguments:
        plain = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
        # Tokens come masked out of `to_dict`, and would be taken for tokens; where this run went on from is not what
        # another is to do.
        left_out = {"hub_token", "push_to_hub_token", "resume_from_checkpoint"}
        if getattr(group, "total_batch_size", None):
            # It follows from the number of processes, which may be another when the run is repeated.
            left_out.add("gradient_accumulation_steps")
        names = {option.name for option in dataclasses.fields(group) if option.init} - left_out
        values |= {name: value for name, value in plain.items() if name in names and value not in (None, [], {}, "")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=True, allow_unicode=True))
