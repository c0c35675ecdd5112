"""Arguments of the run scripts: dataclasses that a YAML recipe, the command line, or both fill (see parsing.py)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..checkpoints import CheckpointArguments
from ..hub import parse_revisions
from ..modeling.architectures import ARCHITECTURES
from ..modeling.configuration_renaissance import EncoderSlot
from ..modeling.fields import check_bounds, option
from ..modeling.objectives import require_known, weights_of
from ..processing.augmentation import AUGMENTATIONS, RandAugment, RandomResizedCrop
from ..processing.decoding import MAX_PIXELS, check_limit
from ..processing.transforms import TRANSFORMS
from .argument_checks import BOUNDS, check_given, check_optimizer, deepspeed_configuration, parse_json_object
from .compilation import check_compiler
from .cuda_graphs import check_graphs
from .machine import local_cores
from .optimization import OptimizationArguments
from .option_fields import Option, build_from, given, options_of, with_options
from .precision import NAMES, choose_precision, on_cpu


DEFAULT_ARCHITECTURE = "two-tower"

#: Loader processes of a process that trains on a GPU, unless the user says otherwise: they decode more than a GPU takes.
MOST_WORKERS = 16

#: The recipe that repeats a run, in its folder and in each checkpoint.
OPTIONS_FILE = "run.yaml"


@dataclass
class ModelArguments(CheckpointArguments):
    """The model: a checkpoint to start from, or encoders to build a new one from."""

    remedy: ClassVar[str] = (
        ". To build a new model from encoders, name them in text_encoder and vision_encoder, or in encoder"
    )
    #: The options of new models by name, and by the architectures that have them.
    new_model_options: ClassVar[dict[str, dict[str, Option]]] = {}

    architecture: str | None = option(None, "Architecture of a new model.", DEFAULT_ARCHITECTURE)
    import_module: list[str] | None = option(
        None,
        "Modules of your own to import first, by dotted name, from the current folder or installed: those that "
        "register architectures or objectives.",
    )
    freeze: list[str] | None = option(
        None, "Parts to freeze: text, vision, cross_modal, or encoder for all; vision:-2 spares the last two layers."
    )
    tokenizer: str | None = option(
        None,
        "Hub id or folder of the tokenizer.",
        "the checkpoint's or text encoder's own; BERT's, uncased, for one tower on a vision encoder",
    )
    image_size: int | None = option(
        None,
        "Height and width of images in pixels. It may differ between pretraining and finetuning.",
        "the image processor's own",
        within="[1, 16384]",
    )
    image_transform: str | None = option(
        None,
        "Transform of images. vit, imagenet and clip resize the shorter side to image_size, cut out the square in the middle, "
        "and normalise by mean and deviation 0.5, ImageNet's or CLIP's. pixelbert keeps the aspect ratio, with sides of "
        "multiples of 32, the shorter one of image_size, and pads. It is saved with the checkpoint.",
        "the image processor of the checkpoint or vision encoder",
        choices=list(TRANSFORMS),
    )
    max_length: int | None = option(
        None, "Maximum number of tokens of a text; the rest is cut.", "the model's maximum", within="[3, inf)"
    )
    max_image_pixels: int | None = option(
        None,
        "Largest number of pixels, width times height, of an image. It is read from the header before the image is decoded: a "
        "file of a few KB can hold an image of several GB.",
        str(MAX_PIXELS),
        within="[1, inf)",
    )
    decode_in_full: bool = option(
        False,
        "Decode large JPEGs in full. Otherwise one that is far larger than the model's images is decoded at a half, a quarter or an "
        "eighth of its size, which is faster and makes it a little softer.",
    )
    attn_implementation: str | None = option(None, "sdpa or eager.", "the fastest that the encoders have")

    def __post_init__(self):
        if getattr(self, "objectives", None) is not None:
            self.objectives = parse_objectives(self.objectives)
        check_bounds(self)
        super().__post_init__()
        kinds = ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys())
        if self.attn_implementation and self.attn_implementation not in kinds and "/" not in self.attn_implementation:
            raise ValueError(f"attn_implementation: expected sdpa or eager, got {self.attn_implementation}")
        if self.image_transform not in (None, *TRANSFORMS):
            raise ValueError(f"image_transform: expected one of {', '.join(TRANSFORMS)}, got {self.image_transform}")
        if self.model_revision and not self.model_name_or_path:
            raise ValueError(
                "model_revision: without effect without model_name_or_path; write encoders as name@revision"
            )
        self.max_image_pixels = MAX_PIXELS if self.max_image_pixels is None else self.max_image_pixels
        check_limit(self.max_image_pixels)
        for name, versions in self.new_model_options.items():
            if any(option.type is dict for option in versions.values()):
                setattr(self, name, parse_json_object(name, getattr(self, name)))
        chosen = list(given(self, self.new_model_options))
        if self.model_name_or_path:
            fixed = fixed_by_checkpoint(self.new_model_options)
            if chosen := [
                name for name in given(self, (*self.new_model_options, "architecture", "tokenizer")) if name in fixed
            ]:
                fault = "without effect on a checkpoint (model_name_or_path is given), whose configuration is fixed"
                raise ValueError(f"{', '.join(chosen)}: {fault}; leave out one or the other")
            return
        self.architecture = self.architecture or DEFAULT_ARCHITECTURE
        if self.architecture not in ARCHITECTURES:
            known = f"{', '.join(ARCHITECTURES)}, or one that a module of import_module registers"
            raise ValueError(f"architecture: expected {known}, got {self.architecture}")
        if idle := [name for name in chosen if self.architecture not in self.new_model_options[name]]:
            raise ValueError(f"{', '.join(idle)}: without effect on a {self.architecture} model; leave it out")
        slots = ARCHITECTURES[self.architecture].config_class.encoder_slots()
        for slot in slots:
            others = {name: getattr(self, name) for name in (slot.random_init, slot.overrides_option)}
            slot.refuse_idle(getattr(self, slot.attribute), **others)
        if missing := [slot.attribute for slot in slots if not (slot.optional or getattr(self, slot.attribute))]:
            raise ValueError(f"a new {self.architecture} model needs {' and '.join(missing)}, or model_name_or_path")


def model_arguments_class() -> type[ModelArguments]:
    """Return `ModelArguments` with the options of all architectures that are registered by now."""
    options = new_model_options()
    own = {option.name: option for option in options_of(ModelArguments)}
    text = f"Architecture of a new model: {', '.join(ARCHITECTURES)}."
    own["architecture"] = dataclasses.replace(own["architecture"], help=text)
    merged = [merge(versions) for versions in options.values()]
    return with_options([*own.values(), *merged], new_model_options=options)(ModelArguments)


def new_model_options() -> dict[str, dict[str, Option]]:
    """Return the options of new models, of encoders and configurations, by name and by architecture."""
    found: dict[str, dict[str, Option]] = {}
    for name in sorted(ARCHITECTURES, key=lambda name: name != DEFAULT_ARCHITECTURE):
        config_class = ARCHITECTURES[name].config_class
        encoders = [each for slot in config_class.encoder_slots() for each in encoder_options(slot)]
        for each in (*encoders, *options_of(config_class)):
            found.setdefault(each.name, {})[name] = each
    return found


def fixed_by_checkpoint(options: dict[str, dict[str, Option]]) -> set[str]:
    """Return the names of the options that describe a new model alone; `options` are those of `new_model_options`."""
    fixed = {name for name, versions in options.items() if not any(each.changeable for each in versions.values())}
    return fixed | {"architecture", "tokenizer"}


def encoder_options(slot: EncoderSlot) -> list[Option]:
    """Return the options that choose one encoder of a new model."""
    types = {"text": "bert", "vision": "vit"}.get(slot.name, "bert or vit")
    source = f"Hub id or folder of the {slot.role}; with --{slot.random_init} also a model type such as {types}."
    if slot.name == "vision":
        # One help text serves all architectures.
        source += " One tower needs none; it takes a convolutional one (resnet), whose last feature map replaces the patches."
    random_init = f"Leave the {slot.role} random; only then its dimensions can change."
    overrides = (
        f'Fields of the configuration of the {slot.role} to change, as JSON such as {{"hidden_size": 64}}; in every family '
        "also mlp_ratio and dropout."
    )
    return [
        Option(slot.attribute, str, source),
        Option(slot.random_init, bool, random_init, "false"),
        Option(slot.overrides_option, dict, overrides),
    ]


def merge(versions: dict[str, Option]) -> Option:
    """Return one option for those of several architectures; its help names them, unless all have it."""
    first, text = next(iter(versions.values())), ""
    default = first.default
    if any(option.default != default for option in versions.values()):
        of: dict[str, list[str]] = {}
        for name, option in versions.items():
            of.setdefault(option.default, []).append(name)
        default = "; ".join(f"{each} ({', '.join(names)})" for each, names in of.items())
    if len(versions) < len(ARCHITECTURES):
        text = f"({', '.join(versions)}) "
    return dataclasses.replace(first, help=text + first.help, default=default)


#: The options of each augmentation.
AUGMENTATION_OPTIONS = {name: options_of(kind, prefix=f"{name}_") for name, kind in AUGMENTATIONS.items()}


@with_options(option for options in AUGMENTATION_OPTIONS.values() for option in options)
@dataclass
class AugmentationArguments:
    """Augmentation of the training images. The fields of each augmentation are options, behind its name."""

    augmentation: list[str] = option(
        ["none"], "Augmentation of training images, in this order: randaugment, random_resized_crop, or both; or none."
    )

    def __post_init__(self):
        chosen = self.augmentation
        if unknown := [name for name in chosen if name not in (*AUGMENTATIONS, "none")]:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation: expected none, or some of {known}, got {', '.join(unknown)}")
        if not chosen or len(set(chosen)) < len(chosen) or ("none" in chosen and len(chosen) > 1):
            raise ValueError(f"augmentation: expected none alone, or each name once, got {' '.join(chosen) or '[]'}")
        for name, options in AUGMENTATION_OPTIONS.items():
            if name in chosen:
                # Defaults too, so that the recipe of the run is complete.
                for key, value in dataclasses.asdict(build_from(AUGMENTATIONS[name], self, f"{name}_")).items():
                    setattr(self, f"{name}_{key}", list(value) if isinstance(value, tuple) else value)
            elif values := given(self, (option.name for option in options)):
                fault = f"without effect if augmentation is {' '.join(chosen)}"
                raise ValueError(f"{', '.join(values)}: {fault}; leave it out, or add {name} to augmentation")

    def build(self) -> list[RandAugment | RandomResizedCrop]:
        """Return the augmentations of each training image, in this order."""
        return [build_from(AUGMENTATIONS[name], self, f"{name}_") for name in self.augmentation if name != "none"]


@dataclass
class CachingArguments:
    """Caches of images on disk."""

    cache_frozen_features: str | None = option(
        None,
        "Folder for the features of images from a frozen vision encoder: they are made once, and read in later epochs and "
        "runs. Needs a vision encoder of its own (two towers, dual encoder, grid features) and --freeze vision.",
    )
    cache_pixels: str | None = option(
        None,
        "Folder for the pixels of images as the model reads them, 150 KB each at 224 px: images are decoded once, and read in "
        "later epochs and runs.",
    )
    yes: bool = option(False, "Write the features or pixels even if they take more than 50 GB of disk.")

    def __post_init__(self):
        if self.yes and not (self.cache_frozen_features or self.cache_pixels):
            raise ValueError("yes: without effect without cache_frozen_features or cache_pixels; leave it out")


@dataclass
class RunArguments(OptimizationArguments):
    """The training arguments, with the defaults that these models need."""

    remove_unused_columns: bool = option(False, "Must be false: the collators read columns that the model does not.")
    logging_nan_inf_filter: bool = option(False, "Leave NaN losses out of the log, as Trainer does by default.")
    push_revisions: list[str] | None = option(
        None,
        "Push the model of these moments of training, each with a tag, beside what hub_strategy pushes: after numbers of steps "
        "(1000), of samples (samples:1M) or of words seen (words:10M). The tag is steps-1000, samples-1M or words-10M, or NAME "
        "if =NAME follows.",
    )
    resume_from_checkpoint: str | None = option(
        None,
        "Checkpoint to go on from. true: the newest whole one in output_dir, of which there must be one; false: none, and "
        "there must be none.",
        "the newest whole one in output_dir, if there is one",
    )
    resume_partial: bool = option(
        False,
        "Go on from a checkpoint that lacks the state of the optimizer, schedule, loss scaler or random generators, which "
        "then begins anew.",
    )
    override_run: bool = option(
        False, "Go on from a checkpoint with options that change what is trained, from there on."
    )
    max_bad_steps: int = option(
        3,
        "Stop training after this many steps in a row whose loss, gradient norm or parameters are not finite (NaN or inf). No such "
        "step is applied.",
        within="[1, inf)",
    )
    bf16: bool | None = option(
        None,
        "Compute in bfloat16 (autocast), with float32 weights. If no precision is given, the device decides: bf16_weights on a GPU "
        "that has bfloat16, fp16 on other CUDA GPUs, float32 on a CPU. false means float32.",
        nargs="?",
        const=True,
    )
    bf16_weights: bool | None = option(
        None,
        "Compute with weights in bfloat16; the optimizer trains float32 copies of them, which are what is saved. Faster than bf16, "
        "with which it does not go together. false means bf16 where this would be the default.",
        nargs="?",
        const=True,
    )
    fp16: bool | None = option(
        None, "Compute in float16 (autocast, with a scaled loss), on a GPU. See bf16.", nargs="?", const=True
    )
    dataloader_num_workers: int | None = option(
        None,
        "Processes that load data, for each process that trains; 0 loads in that process itself.",
        "on a GPU the cores of each process but one, 16 at most; on a CPU 0, for a step takes far longer than its data",
    )
    dataloader_persistent_workers: bool | None = option(
        None,
        "Keep the processes that load data from epoch to epoch; by default on a GPU, if there are any.",
        nargs="?",
        const=True,
    )
    cuda_graphs: bool = option(
        False,
        "Record the passes of the model once for each shape, as CUDA graphs, and replay them in training: a step then costs the host "
        "next to nothing. Needs a CUDA GPU, and memory for each shape.",
    )
    text_buckets: list[int] | None = option(
        None,
        "With cuda_graphs: lengths in tokens, rising, to the next of which texts are padded; by default the multiples of 8 up to "
        "max_length.",
    )
    report_to: list[str] = option(
        ["none"],
        "Where losses and metrics go besides the log: none, all that are installed, or some of "
        f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}.",
    )

    def __post_init__(self):
        #: The options that the machine decides, which another one may decide otherwise.
        self.by_machine = {
            name for name in ("dataloader_num_workers", "dataloader_persistent_workers") if getattr(self, name) is None
        }
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 0 if on_cpu(self.use_cpu) else min(local_cores() - 1, MOST_WORKERS)
        self.metric_is_named = self.metric_for_best_model is not None
        if self.output_dir and str(self.output_dir).strip():
            # Without a slash at the end: commands for other folders are made from it. In Python it may be a path.
            self.output_dir = str(Path(self.output_dir))
        check_bounds(self, BOUNDS)
        check_given(self)
        if self.dataloader_persistent_workers is None:
            # A GPU would wait at the start of each epoch.
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0 and not on_cpu(self.use_cpu)
        self.precision_reason = choose_precision(self)
        asked = self.use_cpu
        # transformers allows bf16 on a CPU only with use_cpu. run.yaml has what the user said: it may be run on a GPU.
        self.use_cpu = on_cpu(asked)
        # The name of a configuration that ships stays in `run.yaml`, whatever the folder of the package.
        given, self.deepspeed = self.deepspeed, deepspeed_configuration(self.deepspeed)
        super().__post_init__()
        self.use_cpu, self.deepspeed = asked, given
        if self.mixed_precision in NAMES:
            # Else a launcher's word would win over `--bf16 false`.
            self.mixed_precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"
        if parse_revisions(self.push_revisions) and not (self.push_to_hub and self.do_train):
            raise ValueError(
                "push_revisions: without effect without push_to_hub and do_train; add them, or leave it out"
            )
        if self.n_gpu > 1:
            remedy = f"start one per GPU with `torchrun --nproc_per_node {self.n_gpu}`, or set CUDA_VISIBLE_DEVICES"
            raise ValueError(f"one process sees {self.n_gpu} GPUs, which tears image-text pairs apart: {remedy}")
        # Without an accelerator, every loader would warn.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.train_sampling_strategy == "batch_rebalance":
            expected = "random, sequential or group_by_length"
            raise ValueError(f"train_sampling_strategy: expected {expected}, got batch_rebalance")
        if self.gradient_checkpointing and (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            fault = "use_reentrant would leave layers above frozen ones without gradient"
            raise ValueError(f"gradient_checkpointing_kwargs: {fault}; leave it out")
        if not (self.do_train or self.do_eval or self.do_predict):
            raise ValueError("nothing to do: pass --do_train, --do_eval or --do_predict, or several")
        if self.do_train:
            check_optimizer(self)
        if self.torch_compile:
            check_compiler(self)
        check_graphs(self)

    @property
    def precision(self) -> str:
        """The precision that the run computes in, a key of `NAMES`: that of training or, if nothing is trained, of evaluation."""
        if self.bf16_weights:
            return "bf16_weights"
        bf16, fp16 = self.bf16, self.fp16
        if not self.do_train:
            bf16, fp16 = bf16 or self.bf16_full_eval, fp16 or self.fp16_full_eval
        return "bf16" if bf16 else "fp16" if fp16 else "float32"

    def describe_precision(self) -> str:
        """Return a phrase on the precision of the run, and who chose it."""
        by_autocast = self.precision == "float32" or getattr(self, self.precision)
        return f"{NAMES[self.precision]}, {self.precision_reason if by_autocast else 'as asked for'}"

    @property
    def sampling_seed(self) -> int:
        """The seed of the order of training rows, as in Trainer."""
        return self.seed if self.data_seed is None else self.data_seed


def argument_classes(task_class: Any) -> tuple[type, ...]:
    """Return the dataclasses of all options of a task: model, data, augmentation, cached features, training."""
    data = task_class.argument_class()
    return model_arguments_class(), data, AugmentationArguments, CachingArguments, RunArguments


def parse_objectives(given: list[str] | dict[str, float]) -> dict[str, float]:
    """Return the weights of objectives, given by name or as one JSON object; else raise `ValueError`."""
    if isinstance(given, list) and len(given) == 1 and given[0].lstrip().startswith("{"):
        given = parse_json_object("objectives", given[0]) or {}
    require_known(given)
    if len(set(given)) < len(given):
        raise ValueError(f"objectives: expected each once, got {' '.join(given)}")
    return weights_of(given)
