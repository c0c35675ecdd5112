"""The processor and the model of a run, made from its arguments."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints import load_config, load_model, load_processor
from ..hub import check_source
from ..modeling.architectures import ARCHITECTURES, HEADS, Architecture
from ..modeling.configuration_renaissance import EncoderSlot, RenaissanceConfig, parse_frozen
from ..modeling.encoders import at_revision, is_model_type, is_vision_encoder, resolve_encoder_config
from ..modeling.modeling_renaissance import expand_parts
from ..modeling.objectives import weights_of
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import ModelArguments
from .finite import refuse_not_finite
from .option_fields import given, options_of


#: The tokenizer of a one-tower model on a vision encoder, which brings none.
DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"

#: What models of the kinds that read no fused pairs can do, in words.
SUBJECTS = {
    "ForPreTraining": "pretraining (contrastive)",
    "ForImageTextRetrieval": "retrieval",
    "ForSequenceClassification": "classification of texts (glue)",
    "ForImageClassification": "classification of images (cifar10)",
}


def check_sources(arguments: ModelArguments) -> None:
    """Raise `ValueError` if the checkpoint, an encoder or the tokenizer of a run is neither here nor on the Hub."""
    check_source("model_name_or_path", arguments.model_name_or_path, arguments.model_revision)
    check_source("tokenizer", arguments.tokenizer)
    if not arguments.model_name_or_path:
        for option, source in sources_of(arguments).items():
            check_source(option, source[0])


def refuse_unfit(kind: str, arguments: ModelArguments) -> None:
    """Raise `ValueError` if models of the architecture of a run, which is that of its checkpoint or new, have no head of `kind`."""
    if arguments.model_name_or_path:
        architecture = architecture_of(load_config(arguments))
        named = f"model_name_or_path: {arguments.model_name_or_path} is of the architecture {architecture.name}"
    else:
        architecture = ARCHITECTURES[arguments.architecture]
        named = f"architecture: {architecture.name}"
    require_head(kind, architecture, named)


def require_head(kind: str, architecture: Architecture, named: str) -> None:
    """Raise `ValueError`, which begins with what is `named`, if models of an architecture have no head of `kind`."""
    if kind in HEADS and kind not in architecture.models:
        able = ", ".join(SUBJECTS.get(each, each) for each in architecture.models if each != "Model")
        raise ValueError(f"{named}, which fuses no text with an image, as this task needs; it can do {able}")


def build_processor(arguments: ModelArguments) -> RenaissanceProcessor:
    """
    Return the processor of the checkpoint, or a new one from the encoders' tokenizer and image processor. Raise
    `ValueError` if a tokenizer or processor is missing.
    """
    if arguments.model_name_or_path:
        processor = load_processor(arguments)
        processor.configure(arguments.image_size, arguments.max_length, arguments.image_transform)
    else:
        processor = new_processor(arguments)
    processor.max_image_pixels = arguments.max_image_pixels
    processor.decode_in_full = arguments.decode_in_full
    return processor


def new_processor(arguments: ModelArguments) -> RenaissanceProcessor:
    """Return a processor from the encoders of a new model; raise `ValueError` if there is no tokenizer."""
    encoders = {slot.name: getattr(arguments, slot.attribute) for slot in named_encoders(arguments)}
    # A single encoder reads text or images.
    single = encoders.get("encoder")
    text = arguments.tokenizer or encoders.get("text", single)
    if not arguments.tokenizer and single and is_vision_encoder(resolve_encoder_config(single)):
        text = DEFAULT_TOKENIZER
    if text is None:
        raise ValueError(f"tokenizer: a {arguments.architecture} model has no encoder that brings one; name one")
    if is_model_type(text):
        raise ValueError(f"tokenizer: {text!r} is a model type and brings none; name a folder or a Hub id")
    vision = encoders.get("vision", single)
    vision = None if is_model_type(vision) else vision
    code = {"trust_remote_code": arguments.trust_remote_code}
    name, revision = at_revision(text)
    tokenizer = RenaissanceProcessor.load_tokenizer(name, **code, **revision)
    name, revision = at_revision(vision or "")
    image_processor = RenaissanceProcessor.load_image_processor(name, **code, **revision)
    sizes = arguments.image_size, arguments.max_length
    return RenaissanceProcessor.from_encoders(tokenizer, image_processor, *sizes, arguments.image_transform)


def build_model(
    kind: str, arguments: ModelArguments, processor: RenaissanceProcessor, config_fields: dict[str, Any]
) -> PreTrainedModel:
    """
    Return the model of a run, from a checkpoint or new, with frozen parts, and fit the processor to it. `kind` is the
    end of the model's class name, such as `"ForPreTraining"`; the task sets `config_fields` of the configuration.
    Raise `ValueError` if the arguments name something that does not exist or does not fit together, or weights that are not
    finite.
    """
    if arguments.model_name_or_path:
        model = load_checkpoint(kind, arguments, config_fields)
    else:
        model = new_model(kind, arguments, processor, config_fields)
        refuse_not_finite(model, sources_of(arguments))
    fit_processor(processor, model, arguments)
    model.unfreeze()
    if arguments.freeze:
        model.freeze(*arguments.freeze)
    return model


def named_encoders(arguments: ModelArguments) -> list[EncoderSlot]:
    """Return the encoders of a new model: all of its architecture's but for optional ones that the user does not name."""
    slots = ARCHITECTURES[arguments.architecture].config_class.encoder_slots()
    return [slot for slot in slots if getattr(arguments, slot.attribute) is not None]


def sources_of(arguments: ModelArguments) -> dict[str, tuple[str, str | None]]:
    """Return the Hub ids or folders that the weights of a new model are from, with their revisions, by option."""
    named = {slot.attribute: getattr(arguments, slot.attribute) for slot in named_encoders(arguments)}
    return {option: (source, None) for option, source in named.items() if not is_model_type(source)}


def saved_head(kind: str, arguments: ModelArguments) -> RenaissanceConfig | None:
    """Return the configuration of a checkpoint with a head of `kind`; `None` for any other start."""
    if not arguments.model_name_or_path:
        return None
    config = load_config(arguments)
    return config if (config.architectures or [""])[0].endswith(kind) else None


def refuse_new_head(kind: str, arguments: ModelArguments) -> None:
    """Raise `ValueError` if a checkpoint has no head of `kind`, so that a new one would be evaluated or predict without training."""
    if not arguments.model_name_or_path:
        return
    config = load_config(arguments)
    saved = (config.architectures or ["a model without a head"])[0]
    require_trained_head(kind, saved, config.fuses, arguments.model_name_or_path)


def require_trained_head(kind: str, saved: str, fuses: bool, name: str) -> None:
    """Raise `ValueError` if the class `saved` of a checkpoint called `name`, which `fuses` or does not, brings no head of `kind` that has been trained."""
    # Retrieval has the head of pretraining that matches images and texts, or the vectors of a model that fuses nothing.
    if saved.endswith(kind) or (kind == "ForImageTextRetrieval" and (saved.endswith("ForPreTraining") or not fuses)):
        return
    raise ValueError(
        f"model_name_or_path: {name} is {saved}, whose head for this task would be new and say "
        "things at random; add --do_train, or name a finetuned checkpoint"
    )


def classes_in(config: RenaissanceConfig) -> list[str]:
    """Return the names of the classes of a head, in order."""
    # A file may list them in another order, such as "1", "10", "2".
    return [config.id2label[number] for number in range(len(config.id2label))]


def load_checkpoint(kind: str, arguments: ModelArguments, config_fields: dict[str, Any]) -> PreTrainedModel:
    """Return the model of `kind` with the weights of a Renaissance checkpoint; raise `ValueError` if there is none."""
    config = load_config(arguments)
    config_fields = chosen_fields(kind, arguments, type(config), config.objectives) | config_fields
    if arguments.attn_implementation:
        config_fields["attn_implementation"] = arguments.attn_implementation
    model = load_model(kind, arguments, **config_fields)
    # Fields that were changed have not been looked at.
    model.config.check_fields()
    return model


def chosen_fields(
    kind: str,
    arguments: ModelArguments,
    config_class: type[RenaissanceConfig],
    objectives: Iterable[str] | None = None,
) -> dict[str, Any]:
    """
    Return the fields of the configuration that the user chose.

    Raises:
        ValueError: If the model has no use for one of them. Its objectives are `objectives` if the user chose none; of a new model
            those of its architecture.
    """
    options = options_of(config_class)
    chosen = given(arguments, (option.name for option in options))
    objectives = weights_of(chosen.get("objectives") or objectives or config_class.default_objectives)
    read = HEADS[kind].options_with(objectives) if kind in HEADS else ()
    if idle := [each.name for each in options if each.name in chosen and each.of_heads and each.name not in read]:
        of = f" with the objectives {', '.join(objectives)}" if "objectives" in read else ""
        raise ValueError(f"{', '.join(idle)}: without effect on a model {kind}{of}; leave it out")
    return chosen


def new_model(
    kind: str, arguments: ModelArguments, processor: RenaissanceProcessor, config_fields: dict[str, Any]
) -> PreTrainedModel:
    """Return a new model of `kind` around the encoders that the arguments name."""
    architecture = ARCHITECTURES[arguments.architecture]
    wanted = fitted_arguments(kind, arguments, processor) | config_fields
    if arguments.attn_implementation:
        wanted["attn_implementation"] = arguments.attn_implementation
    return architecture.models[kind].from_encoders(**wanted)


def fitted_arguments(kind: str, arguments: ModelArguments, processor: RenaissanceProcessor) -> dict[str, Any]:
    """Return the arguments of `from_encoders` for a new model of `kind`, fitted to the tokenizer and the size of images; raise
    `ValueError` as `chosen_fields` does."""
    config_class, tokenizer = ARCHITECTURES[arguments.architecture].config_class, processor.tokenizer
    # A text encoder whose tokenizer is used has its vocabulary.
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} if arguments.tokenizer else {}
    return config_class.fit_to_inputs(encoder_arguments(kind, arguments), vocabulary, arguments.image_size)


def encoder_arguments(kind: str, arguments: ModelArguments) -> dict[str, Any]:
    """Return the arguments of `from_encoders` for a new model of `kind`, as far as the user chose them; raise `ValueError` as
    `chosen_fields` does."""
    config_class = ARCHITECTURES[arguments.architecture].config_class
    wanted = chosen_fields(kind, arguments, config_class)
    for slot in config_class.encoder_slots():
        wanted[slot.name] = getattr(arguments, slot.attribute)
        wanted[slot.random_init] = bool(getattr(arguments, slot.random_init))
        wanted[slot.overrides] = getattr(arguments, slot.overrides_option)
    return wanted


def configuration_of(kind: str, arguments: ModelArguments, processor: RenaissanceProcessor) -> RenaissanceConfig:
    """
    Return the configuration of the model of a run, but for what follows from its data. It is made before data is read, to find
    mistakes in the options of the model.

    Raises:
        ValueError: If an option is out of range, does not fit the others, or has no effect on the model.
    """
    if arguments.model_name_or_path:
        config = load_config(arguments)
        for name, value in chosen_fields(kind, arguments, type(config), config.objectives).items():
            setattr(config, name, value)
        config.check_fields()
    else:
        config = new_configuration(kind, arguments, processor)
    processor.check_padding(config)
    if arguments.freeze:
        check_parts(arguments.freeze, config)
    return config


def new_configuration(kind: str, arguments: ModelArguments, processor: RenaissanceProcessor) -> RenaissanceConfig:
    """Return the configuration of a new model of `kind`, which is tried without memory for weights. Raise `ValueError`, with the
    option, if an encoder does not exist or cannot be used."""
    config_class, slots = ARCHITECTURES[arguments.architecture].config_class, named_encoders(arguments)
    for slot in slots:
        for option, overrides in (
            (slot.attribute, None),
            (slot.overrides_option, getattr(arguments, slot.overrides_option)),
        ):
            with naming(option):
                resolve_encoder_config(getattr(arguments, slot.attribute), overrides, slot.role)
    wanted = fitted_arguments(kind, arguments, processor)
    for slot in config_class.encoder_slots():
        del wanted[slot.random_init]
    config = config_class.from_encoders(**wanted)
    with naming("vision_overrides" if getattr(arguments, "vision_overrides", None) else "vision_encoder"):
        check_images(config)
    if arguments.image_size:
        with naming("image_size"):
            check_images(config, (arguments.image_size, arguments.image_size))
    given = [slot.overrides_option for slot in slots if getattr(arguments, slot.overrides_option)]
    with naming(", ".join(given or [slot.attribute for slot in slots])):
        bare_model(config)
    return config


def check_images(config: RenaissanceConfig, size: tuple[int, int] | None = None) -> None:
    """
    Raise `ValueError` if a model of `config` has a vision encoder that cannot take images of `size` (height, width) in pixels, by default
    its own, or make of them what the model reads.
    """
    if vision_config := getattr(config, "vision_config", None):
        base_class(config).inspect_vision_encoder(vision_config, size)


def bare_model(config: RenaissanceConfig) -> PreTrainedModel:
    """Return the base model of a configuration, whose weights take no memory and have no values."""
    with torch.device("meta"):
        return base_class(config)(config)


def architecture_of(config: RenaissanceConfig) -> Architecture:
    """Return the architecture of a configuration."""
    return next(each for each in ARCHITECTURES.values() if each.config_class.model_type == config.model_type)


def base_class(config: RenaissanceConfig) -> type[PreTrainedModel]:
    """Return the class of base models of a configuration."""
    return architecture_of(config).models["Model"]


@contextmanager
def naming(option: str) -> Iterator[None]:
    """A context in which an error becomes a `ValueError` that begins with the name of an option."""
    try:
        yield
    except Exception as error:  # what an encoder of transformers raises
        message = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(message if message.startswith(option) else f"{option}: {message}") from error


def check_parts(parts: Iterable[str], config: RenaissanceConfig) -> None:
    """Raise `ValueError` if an entry of `freeze` names no part of a model, or spares all of its layers."""
    try:
        entries = expand_parts(parts)
        for entry in entries:
            parse_frozen(entry)
        if any(":" in entry for entry in entries):
            base = bare_model(config)
            for entry in entries:
                base.last_layers(entry)
    except ValueError as error:
        # Configurations call it frozen.
        raise ValueError(f"freeze: {str(error).removeprefix('frozen: ')}") from error


def fit_processor(processor: RenaissanceProcessor, model: PreTrainedModel, arguments: ModelArguments) -> None:
    """
    Fit the processor to the model. Raise `ValueError` if `RenaissanceProcessor.fit` does, if the model has no room for the texts
    that were asked for, or if its vision tower cannot take the images.
    """
    limit = model.base_model.text_limit
    if limit is not None and arguments.max_length and arguments.max_length > limit:
        raise ValueError(f"max_length: {arguments.max_length} tokens asked for, this model takes at most {limit}")
    processor.fit(model, keep_image_size=bool(arguments.model_name_or_path or arguments.image_size))
    # If images keep their aspect ratio, the smallest are square.
    shorter = processor.image_processor.size.shortest_edge
    if shape := processor.image_shape or (shorter and (shorter, shorter)):
        check_images(model.config, shape)


def describe(model: PreTrainedModel) -> str:
    """Return a phrase on the number of parameters of the model and of each part, and on those that are frozen."""
    counts = model.count_parameters()
    total, trainable = counts.pop("total")
    entries = {entry.split(":")[0]: entry for entry in model.config.frozen}
    parts = []
    for part, (number, training) in counts.items():
        frozen = f", {(number - training) / 1e6:.2f}M of it frozen" if 0 < training < number else ""
        frozen = " frozen" if number and not training else frozen
        parts.append(f"{entries.get(part, part)} {number / 1e6:.2f}M{frozen}")
    return (
        f"{total / 1e6:.2f}M parameters, {trainable / 1e6:.2f}M trainable and {(total - trainable) / 1e6:.2f}M frozen "
        f"({'; '.join(parts)})"
    )
