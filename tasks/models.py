"""The processor and the model of a run, made from its arguments."""

from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, PreTrainedConfig, PreTrainedModel

from ..auto import AUTO_CLASSES
from ..modeling.architectures import ARCHITECTURES
from ..modeling.configuration_renaissance import RenaissanceConfig
from ..modeling.encoder_traits import inspect_vision_tower
from ..modeling.encoders import is_model_type, is_vision_encoder, resolve_encoder_config
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import ModelArguments
from .option_fields import given, options_of


#: The tokenizer of a one-tower model on a vision encoder, which brings none.
DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"


def build_processor(arguments: ModelArguments) -> RenaissanceProcessor:
    """
    The processor of the checkpoint, or a new one out of the encoders' tokenizer and image processor.

    Raises:
        ValueError: If a tokenizer or processor is missing.
    """
    if arguments.model_name_or_path:
        try:
            processor = AutoProcessor.from_pretrained(arguments.model_name_or_path)
        except (OSError, ValueError) as error:
            raise ValueError(f"model_name_or_path {arguments.model_name_or_path!r}: no processor there") from error
        # Whatever else is installed: the pixels are those of the run that made the checkpoint.
        processor.image_processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path, backend="pil")
        processor.configure(arguments.image_size, arguments.max_length)
        return processor
    slots = ARCHITECTURES[arguments.architecture].config_class.encoder_slots()
    encoders = {slot.name: getattr(arguments, slot.attribute) for slot in slots}
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
    return RenaissanceProcessor.from_encoders(
        text, None if is_model_type(vision) else vision, arguments.image_size, arguments.max_length
    )


def build_model(
    kind: str, arguments: ModelArguments, processor: RenaissanceProcessor, config_fields: dict[str, Any]
) -> PreTrainedModel:
    """
    The model of a run, from a checkpoint or new, frozen as asked.

    Args:
        kind: The end of the model's class name, such as `"ForPreTraining"`.
        arguments: What the user asks for.
        processor: The run's processor; it is fitted to the model's image size and text length unless the user chose them.
        config_fields: Fields of the configuration that the task sets.

    Raises:
        ValueError: If the arguments name something that does not exist or does not fit together.
    """
    if arguments.model_name_or_path:
        model = load_checkpoint(kind, arguments, config_fields)
    else:
        model = new_model(kind, arguments, processor, config_fields)
    fit_processor(processor, model, arguments)
    model.unfreeze()
    if arguments.freeze:
        model.freeze(*arguments.freeze)
    return model


def saved_classes(kind: str, arguments: ModelArguments) -> list[str] | None:
    """
    Names of the classes of a checkpoint that has a head of `kind` already; `None` for any other start. Raises `ValueError` if
    there is no checkpoint.
    """
    if not arguments.model_name_or_path:
        return None
    config = checkpoint_config(arguments.model_name_or_path)
    if not (config.architectures or [""])[0].endswith(kind):
        return None
    # By number: a file may list them in another order, such as "1", "10", "2".
    return [config.id2label[number] for number in range(len(config.id2label))]


def checkpoint_config(name: str) -> PreTrainedConfig:
    """The configuration of a Renaissance checkpoint; raises `ValueError` if there is none."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"model_name_or_path {name!r}: no checkpoint there ({str(error).splitlines()[0]})") from error
    if not isinstance(config, RenaissanceConfig):
        raise ValueError(
            f"model_name_or_path {name!r} is a {config.model_type} model; expected a Renaissance checkpoint. Encoders to build a "
            "new model from are named in text_encoder and vision_encoder, or in encoder"
        )
    return config


def load_checkpoint(kind: str, arguments: ModelArguments, config_fields: dict[str, Any]) -> PreTrainedModel:
    """The model of `kind` with the weights of a Renaissance checkpoint; raises `ValueError` if there is none."""
    name = arguments.model_name_or_path
    checkpoint_config(name)
    try:
        return AUTO_CLASSES[kind].from_pretrained(
            name, attn_implementation=arguments.attn_implementation, **config_fields
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"model_name_or_path {name!r}: its weights are missing or do not fit {config_fields or 'its configuration'} "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


def new_model(
    kind: str, arguments: ModelArguments, processor: RenaissanceProcessor, config_fields: dict[str, Any]
) -> PreTrainedModel:
    """A new model of `kind` around the encoders that the arguments name."""
    architecture = ARCHITECTURES[arguments.architecture]
    config_class = architecture.config_class
    wanted = given(arguments, (option.name for option in options_of(config_class))) | config_fields
    if arguments.attn_implementation:
        wanted["attn_implementation"] = arguments.attn_implementation
    for slot in config_class.encoder_slots():
        wanted[slot.name] = getattr(arguments, slot.attribute)
        wanted[slot.random_init] = bool(getattr(arguments, slot.random_init))
        wanted[slot.overrides] = getattr(arguments, slot.overrides_option)
    tokenizer = processor.tokenizer
    # If the text encoder brings the tokenizer, it has the vocabulary.
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} if arguments.tokenizer else {}
    wanted = config_class.fit_to_inputs(wanted, vocabulary, arguments.image_size)
    return architecture.models[kind].from_encoders(**wanted)


def fit_processor(processor: RenaissanceProcessor, model: PreTrainedModel, arguments: ModelArguments) -> None:
    """
    Make the processor's output fit the model: the text limit, and the image size unless the user chose it. Tell the model how the
    processor normalises pixels, so that it can do so for pixels of 8 bits.

    Raises:
        ValueError: If the tokenizer has more word pieces than the model, or the patches do not divide the image.
    """
    vocab_size = model.get_input_embeddings().num_embeddings
    if len(processor.tokenizer) > vocab_size:
        raise ValueError(f"tokenizer: has {len(processor.tokenizer)} word pieces, the model embeds only {vocab_size}")
    limit = model.base_model.text_limit
    if limit is not None:
        if arguments.max_length and arguments.max_length > limit:
            raise ValueError(f"max_length: {arguments.max_length} tokens asked for, this model takes at most {limit}")
        processor.configure(max_length=min(processor.tokenizer.model_max_length, limit))

    vision_config = getattr(model.config, "vision_config", model.config)
    size = square_side(getattr(vision_config, "image_size", None))
    chosen = arguments.model_name_or_path or arguments.image_size
    if not chosen and size and processor.image_shape != (size, size):
        processor.configure(image_size=size)
    model.config.pixel_mean, model.config.pixel_deviation = processor.pixel_statistics or (None, None)
    shape, patch = processor.image_shape, model.base_model.patch_size
    if shape and patch and (shape[0] % patch[0] or shape[1] % patch[1]):
        raise ValueError(
            f"image_size: images of {shape[0]}x{shape[1]} pixels cannot be cut into patches of {patch[0]}x{patch[1]}; choose a "
            f"multiple of {patch[0]}"
        )
    if shape and vision_config is not model.config:
        inspect_vision_tower(vision_config, shape)


def square_side(size: int | list[int] | tuple[int, int] | None) -> int | None:
    """The side of the square images that a configuration's `image_size` asks for; `None` if they are not square."""
    if isinstance(size, (list, tuple)):
        return size[0] if len(set(size)) == 1 else None
    return size


def describe(model: PreTrainedModel) -> str:
    """Describe the model's size: its parameters, and how many of each part train and are frozen."""
    counts = model.count_parameters()
    entries = {entry.split(":")[0]: entry for entry in model.config.frozen}
    parts = []
    for part, (number, trainable) in counts.items():
        if part == "total":
            continue
        frozen = f", {(number - trainable) / 1e6:.2f}M of it frozen" if 0 < trainable < number else ""
        frozen = " frozen" if number and not trainable else frozen
        parts.append(f"{entries.get(part, part)} {number / 1e6:.2f}M{frozen}")
    total, trainable = counts["total"]
    return (
        f"{total / 1e6:.2f}M parameters, {trainable / 1e6:.2f}M trainable and {(total - trainable) / 1e6:.2f}M frozen "
        f"({'; '.join(parts)})"
    )
