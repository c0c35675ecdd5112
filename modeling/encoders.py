"""Any text or vision transformer of the library as a tower: what it is called, how it is built, run and measured."""

import inspect

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING


def resolve_encoder_config(
    encoder: str | PreTrainedConfig, overrides: dict | None = None, role: str = "encoder"
) -> PreTrainedConfig:
    """
    Finds the configuration of an encoder.

    Args:
        encoder: A Hub id, a local folder, a model type of transformers such as `"bert"` (its default dimensions), or a
            configuration, which is copied.
        overrides: Fields of the configuration to change.
        role: What the encoder is for, as error messages call it.

    Raises:
        ValueError: Where no such encoder is found, or an override is not a field of its configuration.
    """
    overrides = overrides or {}
    if isinstance(encoder, PreTrainedConfig):
        config = type(encoder).from_dict(encoder.to_dict())
    elif is_model_type(encoder):
        config = CONFIG_MAPPING[encoder]()
    else:
        try:
            config = AutoConfig.from_pretrained(encoder)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{role} {encoder!r} not found: expected a Hub id, a folder with a config.json, or a model type such as "
                f"'bert' or 'vit' ({str(error).splitlines()[0]})"
            ) from error
    if unknown := [name for name in overrides if not hasattr(config, name)]:
        raise ValueError(f"{role} overrides: a {config.model_type} configuration has no field {', '.join(unknown)}")
    if not overrides:
        return config
    try:
        # Built anew, so that the fields are validated together and derived ones follow.
        return type(config)(**{**config.to_dict(), **overrides})
    except StrictDataclassError as error:
        raise ValueError(f"{role} overrides {overrides}: {' '.join(str(error).split())}") from error


def is_model_type(encoder: str | PreTrainedConfig) -> bool:
    """Whether `encoder` names a kind of model (`"bert"`), which has a configuration but no weights."""
    return isinstance(encoder, str) and encoder in CONFIG_MAPPING


def encoder_kwargs(config: PreTrainedConfig) -> dict:
    """Arguments for building the encoder of `config` without parts that nothing here reads."""
    signature = inspect.signature(MODEL_MAPPING[type(config)].__init__)
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature.parameters else {}


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder of `config` with random weights, or with those that `from_pretrained` is loading."""
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"{config.model_type}: transformers has no AutoModel for this configuration")
    try:
        return AutoModel.from_config(config, **encoder_kwargs(config))
    except (KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"{config.model_type} cannot be built from this configuration ({error!r}): {config}"
        ) from error


def load_encoder(encoder: str, config: PreTrainedConfig, role: str = "encoder") -> PreTrainedModel:
    """
    The pretrained encoder at a Hub id or in a folder.

    Raises:
        ValueError: Where `encoder` has no weights, or weights of other shapes than `config` says.
    """
    if not isinstance(encoder, str) or is_model_type(encoder):
        name = encoder if isinstance(encoder, str) else type(encoder).__name__
        raise ValueError(
            f"{role} {name!r} has no pretrained weights: pass a Hub id or a folder, or ask for random_init"
        )
    try:
        return AutoModel.from_pretrained(encoder, config=config, **encoder_kwargs(config))
    except OSError as error:
        raise ValueError(f"{role} {encoder!r}: no weights there ({str(error).splitlines()[0]})") from error
    except RuntimeError as error:
        raise ValueError(
            f"{role} {encoder!r}: its weights do not fit the dimensions asked for; leave the dimensions alone or ask "
            f"for random_init ({str(error).splitlines()[0]})"
        ) from error


def hidden_size_of(config: PreTrainedConfig) -> int:
    """Width of the states that the encoder of `config` returns; raises `ValueError` where it does not say."""
    size = getattr(config, "hidden_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{config.model_type} cannot be an encoder here: its configuration has no one hidden_size")
    return size


def input_size_of(config: PreTrainedConfig) -> int:
    """Width of the embeddings that the encoder's layers, or a projection of its own before them, take."""
    return getattr(config, "embedding_size", None) or hidden_size_of(config)


def takes(model: nn.Module, argument: str) -> bool:
    """Whether `model.forward` has a parameter named `argument`."""
    return argument in inspect.signature(model.forward).parameters


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """
    The layers of an encoder, first to last; the stages of a hierarchical one. They are the elements of the one outermost
    list of modules that an encoder has. An encoder with several such lists (XLM, PVT) has no layers that could be told
    apart, and gives none.
    """
    outermost, todo = [], [encoder]
    while todo:
        module = todo.pop()
        if isinstance(module, nn.ModuleList):
            outermost.append(module)
        else:
            todo.extend(module.children())
    return list(outermost[0]) if len(outermost) == 1 else []


def text_length_limit(model: nn.Module) -> int | None:
    """Most tokens that a text encoder's position embeddings allow; `None` where its positions have no limit."""
    for name, module in model.named_modules():
        if name.split(".")[-1] in ("position_embeddings", "position_embedding") and isinstance(module, nn.Embedding):
            # The RoBERTa family numbers its positions from padding_idx + 1 on.
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return None


def check_text_length(input_ids: torch.Tensor, limit: int | None) -> None:
    """Raises `ValueError` where `input_ids` (B, T) are longer than `limit` tokens."""
    if limit is not None and input_ids.shape[-1] > limit:
        raise ValueError(
            f"input_ids has {input_ids.shape[-1]} tokens a row, but this model has positions for {limit}: truncate the "
            "text (RenaissanceProcessor does)"
        )


def check_image_size(pixel_values: torch.Tensor, patch_size: int | list[int] | tuple[int, int] | None) -> None:
    """Raises `ValueError` where `pixel_values` is not (B, C, H, W), or its height or width is no multiple of the patch."""
    if pixel_values.ndim != 4:
        raise ValueError(
            f"pixel_values: expected (batch, channels, height, width), got the shape {tuple(pixel_values.shape)}; "
            "several images a text are for the heads that take them"
        )
    if patch_size is None:
        return
    patch_height, patch_width = patch_size if isinstance(patch_size, (list, tuple)) else (patch_size, patch_size)
    height, width = pixel_values.shape[-2:]
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"pixel_values: images of {height}x{width} pixels cannot be cut into patches of {patch_height}x{patch_width}"
        )


class GivenEmbeddings(nn.Module):
    """
    Stands where an encoder's embedding layer stood and returns the states that the encoder was given, so that its
    masks, layers, relative position biases and final norm run on embeddings made elsewhere.
    """

    def __init__(self):
        super().__init__()
        # ViT-like encoders ask `embeddings.patch_embeddings.projection.weight` for the dtype of their input.
        self.register_buffer("weight", torch.empty(0), persistent=False)

    @property
    def patch_embeddings(self) -> "GivenEmbeddings":
        return self

    @property
    def projection(self) -> "GivenEmbeddings":
        return self

    # What text encoders return from `get_input_embeddings`, which gradient checkpointing calls.
    word_embeddings = tok_embeddings = patch_embeddings

    def forward(self, *args, inputs_embeds: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        # Encoders differ in how they pass the states on; whatever else they pass is None here, or comes by name.
        return next(states for states in (inputs_embeds, *args) if states is not None)
