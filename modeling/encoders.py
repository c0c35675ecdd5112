"""Any text or image encoder of transformers: its configuration, how it is built, and how its weights are loaded."""

import contextlib
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.integrations import deepspeed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .checkpoint_files import check_no_kernel, check_own_files
from .encoder_forward import SHUFFLING


#: The dropout probabilities after embeddings and layers, as configurations of encoders call them.
DROPOUTS = [
    "hidden_dropout_prob",
    "hidden_dropout",
    "embedding_dropout",
    "embd_pdrop",
    "mlp_dropout",
    "resid_pdrop",
    "dropout_rate",
]

#: Fields that are at least 1 in every encoder that has them.
POSITIVE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

#: Errors of files of weights that are none, or parts of one, or pickles that ask to run code.
UNREADABLE_ERRORS = (SafetensorError, UnpicklingError)
UNREADABLE = "its weights cannot be read; download or copy them again"

#: Where a model of text and images keeps the configuration of the encoder that is asked for.
SUB_CONFIGS = {"text encoder": "text_config", "vision encoder": "vision_config"}


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """
    A context in which models are built and loaded whole. Under ZeRO-3, transformers would partition weights while a model is built,
    which then looks at their sizes. DeepSpeed partitions them when training starts.
    """
    # transformers has a function to set and one to unset the configuration in use, but none to get it.
    config = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def at_revision(name: str) -> tuple[str, dict[str, str]]:
    """
    Return a Hub id and the arguments that load its revision: `"org/name@v1"` is `"org/name"` and `{"revision": "v1"}`.
    Folders of this machine stay as they are.
    """
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)@(\S+)", name)
    return (match[1], {"revision": match[2]}) if match and not Path(name).exists() else (name, {})


def source_name(source: str) -> str:
    """
    Return the name of a source for files that others read: a Hub id as it is; of a file or folder, `./` and the last name of its
    path.
    """
    path = Path(source)
    return f"./{path.resolve().name}" if path.is_absolute() or os.path.exists(path) else source


def resolve_encoder_config(
    encoder: str | PreTrainedConfig, overrides: dict | None = None, role: str = "encoder"
) -> PreTrainedConfig:
    """
    Return the configuration of an encoder.

    Args:
        encoder: A Hub id, also with a revision (`"org/name@v1"`), a local folder, a model type of transformers such as `"bert"` (its default dimensions), or a
            configuration, which is copied. If it is of a model of text and images (CLIP), `role` says whose part to take.
        overrides: Fields of the configuration to change; also `mlp_ratio`, the width of the feed-forward layers as a multiple
            of the hidden size, and `dropout`, all its dropout probabilities but that of attention weights.
        role: The use of the encoder: `"text encoder"`, `"vision encoder"`, or `"encoder"`.

    Raises:
        ValueError: If no such encoder is found, its folder names files elsewhere, or an override is not a field of its configuration.
    """
    if isinstance(encoder, PreTrainedConfig):
        config = type(encoder).from_dict(encoder.to_dict())
    elif is_model_type(encoder):
        config = CONFIG_MAPPING[encoder]()
    else:
        check_own_files(role, encoder)
        try:
            name, revision = at_revision(encoder)
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, **revision)
        except (OSError, ValueError, RecursionError) as error:
            if "trust_remote_code" in str(error):
                fault = "has code of its own, which a model built on it could not carry"
                raise ValueError(f"{role} {encoder!r} {fault}; choose one that transformers has") from error
            raise ValueError(
                f"{role} {encoder!r} not found: expected a Hub id, a folder with a config.json, or a model type such as "
                f"'bert' or 'vit' ({str(error).splitlines()[0]})"
            ) from error
        check_no_kernel(f"{role} {encoder!r}", config)
    if isinstance(part := getattr(config, SUB_CONFIGS.get(role, ""), None), PreTrainedConfig):
        config = part
    config = overridden(config, overrides, role) if overrides else config
    check_sizes(config, role)
    return config


def check_sizes(config: PreTrainedConfig, role: str) -> None:
    """Raise `ValueError` if a dimension is below 1, or heads do not divide the width, which some encoders would round."""
    for name in POSITIVE:
        if isinstance(value := getattr(config, name, None), int) and value < 1:
            raise ValueError(f"{role}: {name}: expected at least 1, got {value}")
    size, heads, own = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads", "head_dim"))
    if isinstance(size, int) and isinstance(heads, int) and not own and (heads < 1 or size % heads):
        raise ValueError(
            f"{role}: hidden_size ({size}) is not a multiple of num_attention_heads ({heads}); change one"
        )


def overridden(config: PreTrainedConfig, overrides: dict, role: str) -> PreTrainedConfig:
    """Return `config` with other values of some fields; raise `ValueError` if it has no such field, or they do not fit."""
    changes = {}
    for name, value in overrides.items():
        if name == "dropout" and not hasattr(config, name):
            fields = [field for field in DROPOUTS if hasattr(config, field)]
            if not fields:
                raise ValueError(f"{role} overrides: a {config.model_type} configuration has no dropout probability")
            changes |= dict.fromkeys(fields, value)
        elif name == "mlp_ratio" and not hasattr(config, name) and hasattr(config, "intermediate_size"):
            changes["intermediate_size"] = int(value * overrides.get("hidden_size", config.hidden_size))
        else:
            changes[name] = value
    if unknown := [name for name in changes if not hasattr(config, name) or name == "model_type"]:
        raise ValueError(f"{role} overrides: a {config.model_type} configuration has no field {', '.join(unknown)}")
    sides = [overrides.get(name, getattr(config, name, None)) for name in ("image_size", "patch_size")]
    chosen = {"image_size", "patch_size"} & overrides.keys() and all(map(is_size, sides))
    if chosen and any(patch < 1 or side % patch for side, patch in zip(*map(both_sides, sides), strict=True)):
        raise ValueError(f"{role} overrides: image_size {sides[0]} is not a multiple of patch_size {sides[1]}")
    # A field may have a second name, as `dim` of DistilBERT is `hidden_size` elsewhere.
    changes = {config.attribute_map.get(name, name): value for name, value in changes.items()}
    try:
        # Built anew, so that the fields are validated together and derived ones follow.
        return type(config)(**{**chosen_fields(config), **changes})
    except (StrictDataclassError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{role} overrides {overrides}: {' '.join(str(error).split())}") from error


def chosen_fields(config: PreTrainedConfig) -> dict:
    """Return the fields that make `config`, without those that follow from others (kinds of layers from their number)."""
    whole, fields = config.to_dict(), config.to_diff_dict()
    for name in tuple(fields):
        fewer = {other: value for other, value in fields.items() if other != name}
        with contextlib.suppress(Exception):  # whatever a configuration raises that lacks a field
            if type(config)(**fewer).to_dict() == whole:
                fields = fewer
    return fields


def is_model_type(encoder: str | PreTrainedConfig) -> bool:
    """Return whether `encoder` names a kind of model (`"bert"`), which has a configuration but no weights."""
    return isinstance(encoder, str) and encoder in CONFIG_MAPPING


def is_vision_encoder(config: PreTrainedConfig) -> bool:
    """Return whether the encoder of `config` reads images and no text."""
    return encoder_class(config).main_input_name == "pixel_values"


def encoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class that AutoModel builds for `config`; raise `ValueError` if there is none."""
    if type(config) not in MODEL_MAPPING:
        # The towers of some models of text and images (SigLIP, BLIP) are no AutoModel of their own.
        module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
        found = getattr(module, type(config).__name__.removesuffix("Config") + "Model", None)
        if found is None:
            raise ValueError(f"{config.model_type}: transformers has no AutoModel for this configuration")
        AutoModel.register(type(config), found, exist_ok=True)
    found = MODEL_MAPPING[type(config)]
    if isinstance(found, tuple):
        # AutoModel picks the one that the configuration names; one that was made by hand names none.
        found = found[0]
        config.architectures = config.architectures or [found.__name__]
    return found


def encoder_kwargs(config: PreTrainedConfig) -> dict:
    """Return the arguments to build the encoder of `config` without parts that nothing here reads."""
    signature = inspect.signature(encoder_class(config).__init__)
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature.parameters else {}


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model itself or, if it is an encoder and a decoder, its encoder."""
    # Not `config.is_encoder_decoder`: a saved T5EncoderModel says no, and AutoModel builds the whole T5 from it.
    return model.get_encoder() if "decoder_input_ids" in inspect.signature(model.forward).parameters else model


@whole_weights()
def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the encoder of `config` with random weights, or with those that `from_pretrained` is loading."""
    if config._attn_implementation == "sdpa" and not encoder_class(config)._supports_sdpa:
        config._attn_implementation = "eager"
    try:
        if config.model_type in SHUFFLING:
            config.mask_ratio = 0.0
        # Not in the type of its checkpoint, which may be a 16-bit one: all of a model has one type.
        kwargs = {"dtype": torch.get_default_dtype(), "trust_remote_code": False, **encoder_kwargs(config)}
        return encoder_of(AutoModel.from_config(config, **kwargs))
    except (AssertionError, ImportError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{config.model_type} cannot be built from this configuration: {error!r}") from error


def load_encoder(
    encoder: str, config: PreTrainedConfig, role: str = "encoder", unread: frozenset[str] = frozenset()
) -> PreTrainedModel:
    """
    Return the pretrained encoder at a Hub id or in a folder, built from `config`. Weights named in `unread` may be missing;
    `role` is what messages call the encoder. Raise `ValueError` if weights are missing or have other dimensions.
    """
    if not isinstance(encoder, str) or is_model_type(encoder):
        name = encoder if isinstance(encoder, str) else type(encoder).__name__
        raise ValueError(f"{role} {name!r} has no pretrained weights: pass a Hub id or a folder, or set random_init")
    theirs, ours = resolve_encoder_config(encoder, role=role).to_dict(), config.to_dict()
    sizes = [name for name in ours if is_size(ours[name]) and is_size(theirs.get(name))]
    if changed := ", ".join(name for name in sizes if ours[name] != theirs[name]):
        fault = f"its weights have other dimensions than asked for ({changed})"
        raise ValueError(f"{role} {encoder!r}: {fault}; leave the dimensions alone, or set random_init")
    # A model of text and images is loaded as a whole, and one of its encoders taken.
    name, revision = at_revision(encoder)
    whole = AutoConfig.from_pretrained(name, trust_remote_code=False, **revision)
    whole = config if isinstance(config, type(whole)) else whole
    kwargs = {"output_loading_info": True, "trust_remote_code": False, **revision, **encoder_kwargs(whole)}
    try:
        model, report = AutoModel.from_pretrained(name, config=whole, **kwargs)
    except UNREADABLE_ERRORS as error:
        raise ValueError(f"{role} {encoder!r}: {unreadable(error)}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{role} {encoder!r}: no weights that fit ({str(error).splitlines()[0]})") from error
    prefix, loaded = part_of(model, config)
    expected = {name for name, _ in loaded.named_parameters()} - unread
    missing = expected & {key.removeprefix(prefix) for key in report["missing_keys"]}
    if missing:
        count = f"{len(missing)} of {len(expected)} weights of a {type(loaded).__name__}"
        raise ValueError(f"{role} {encoder!r}: {count} are not there, such as {min(missing)}")
    return loaded


def unreadable(error: Exception) -> str:
    """Return why weights cannot be read, in one line, for one of `UNREADABLE_ERRORS`."""
    if isinstance(error, UnpicklingError):
        return (
            "its weights are a pickle that is damaged or asks to run code, which was not done; use model.safetensors"
        )
    return f"{UNREADABLE} ({str(error).splitlines()[0]})"


def part_of(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[str, PreTrainedModel]:
    """Return the start of the names of its parameters, and the encoder of `config`, in a model that has one."""
    wanted = encoder_of(model) if isinstance(model.config, type(config)) else encoder_class(config)
    for name, module in model.named_modules():
        if module is wanted or type(module) is wanted:
            return f"{name}." if name else "", module
    raise ValueError(f"a {type(model).__name__} has no {wanted.__name__} in it")


def both_sides(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a configuration's size, which is one number if they are the same."""
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def is_size(value: object) -> bool:
    """Return whether the value of a configuration's field is a dimension: a whole number, or a list of them."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def hidden_size_of(config: PreTrainedConfig) -> int:
    """Return the width of the states that the encoder of `config` returns; raise `ValueError` if it has no one width."""
    # OPT projects its embeddings to the width of its layers, and back.
    size = getattr(config, "word_embed_proj_dim", None) or getattr(config, "hidden_size", None)
    if not isinstance(size, int):
        use = "cannot be the encoder of a one-tower model"
        raise ValueError(f"{config.model_type} {use}: its layers have no one width, hidden_size")
    return size


def input_size_of(config: PreTrainedConfig) -> int:
    """Return the width of the embeddings that the encoder's layers, or a projection of its own before them, take."""
    sizes = (getattr(config, name, None) for name in ("embedding_size", "input_embedding_size"))
    return next((size for size in sizes if size), None) or hidden_size_of(config)
