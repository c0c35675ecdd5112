"""Traits of an encoder, found from its modules, and by running it on tensors that have a shape but no values."""

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .encoder_embeddings import embeddings_name, give_embeddings
from .encoder_forward import EncoderInterface, run_grid_encoder, run_layers, run_text_tower, run_vision_tower
from .encoders import both_sides, build_encoder, whole_weights
from .masks import causal_masks


#: Encoders that run but must not be used, by model type.
REFUSED = {
    "imagegpt": "it reads clusters of colours, each of which sees only those before it",
    "mra": "its attention is zero if there is no GPU with its kernel",
    "openai-gpt": "it hides later tokens by a table of its own, so that nothing shows that it is causal",
    "reformer": "it gives two sequences of states side by side",
}

#: Names that encoders give to their tables of position embeddings.
POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")

Result = TypeVar("Result")

#: Rows, tokens and pixels a side that encoders are tried on if nothing says how many.
ROWS, TOKENS, PIXELS = 2, 7, 224


@dataclasses.dataclass(frozen=True)
class EncoderTraits(EncoderInterface):
    """
    Everything that is known about an encoder.

    Args:
        input_size: Width of the states that its layers, or its own projection before them, take; 0 for a tower.
        hidden_size: Width of the states that it returns.
        unread: Names of its parameters that these states do not depend on, and that get no gradient.
        grid: Height and width, in cells, of the feature map that a grid encoder makes of the images that it was tried on.
    """

    input_size: int = 0
    hidden_size: int = 0
    unread: frozenset[str] = frozenset()
    grid: tuple[int, int] = (0, 0)


#: Traits found so far, by configuration, use and image size: the same encoder is built many times.
KNOWN: dict[tuple, EncoderTraits] = {}


def inspect_text_tower(config: PreTrainedConfig) -> EncoderTraits:
    """Return the traits of the text encoder of `config`; raise `ValueError` if it cannot be a text tower."""
    return inspected(config, try_text_tower, "a text tower")


def inspect_vision_tower(config: PreTrainedConfig, size: tuple[int, int] | None = None) -> EncoderTraits:
    """
    Return the traits of the vision encoder of `config`, tried on images of `size` (height, width) in pixels, by default its own;
    raise `ValueError` if it cannot be a vision tower, or cannot take images of this size.
    """
    use = "a vision tower" + (f" on images of {size[0]}x{size[1]} pixels" if size else "")
    return inspected(config, functools.partial(try_vision_tower, size=size), use)


def inspect_grid_encoder(config: PreTrainedConfig, size: tuple[int, int] | None = None) -> EncoderTraits:
    """
    Return the traits of the convolutional encoder of `config`, tried on images of `size` (height, width) in pixels, by default its own;
    raise `ValueError` if it makes no feature map of them, or one of a single cell.
    """
    size = size or image_shape_of(config)[1:]
    use = f"a grid encoder on images of {size[0]}x{size[1]} pixels"
    return inspected(config, functools.partial(try_grid_encoder, size=size), use)


def inspect_layers(config: PreTrainedConfig) -> EncoderTraits:
    """Return the traits of the encoder of `config` without its embeddings; raise `ValueError` if it does not run so."""
    return inspected(config, try_layers, "the encoder of a one-tower model")


def inspected(config: PreTrainedConfig, attempt: Callable, use: str) -> EncoderTraits:
    """Return the traits that `attempt` finds for the encoder of `config`; raise `ValueError`, with the reason, if it fails."""
    key = (config.to_json_string(), use)
    if key not in KNOWN:
        if config.model_type in REFUSED:
            raise ValueError(f"{config.model_type} cannot be {use}: {REFUSED[config.model_type]}")
        try:
            KNOWN[key] = tried(lambda: attempted(config, attempt))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{config.model_type} cannot be {use}: {reason}") from error
    return KNOWN[key]


def attempted(config: PreTrainedConfig, attempt: Callable) -> EncoderTraits:
    """Return the traits that `attempt` finds for an encoder of `config`, and whether it is causal."""
    with causal_masks() as causal:
        encoder = build_encoder(copy.deepcopy(config)).eval()
        traits = attempt(encoder)
    # Recurrent encoders (Mamba, RWKV), which have no masks, keep a state.
    return dataclasses.replace(traits, causal=any(causal) or encoder._is_stateful)


def tried(attempt: Callable[[], Result]) -> Result:
    """
    Return the result of `attempt`, which builds and runs a model: on shapes alone, on shapes with an answer to models that ask for
    values, or, as a last resort, with values; raise what it raises then.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with whole_weights(), torch.inference_mode(False), torch.enable_grad():
            # On shapes nothing is computed or stored, but the graph of gradients is the true one. To answer takes longer.
            for answers in (contextlib.nullcontext(), Assent()):
                # Any error of a model that needs values, or that is used against its purpose.
                with contextlib.suppress(Exception), torch.device("meta"), answers:
                    return attempt()
            # For models that ask for values that shapes lack (Longformer); random numbers outside stay as they are.
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                return attempt()
    finally:
        logging.set_verbosity(verbosity)


class Assent(TorchDispatchMode):
    """If a model asks for the value of a tensor that has none, the answer is 1, or true: no token is padding."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype == torch.bool or (1.0 if args[0].dtype.is_floating_point else 1)
        return func(*args, **(kwargs or {}))


def try_text_tower(encoder: nn.Module) -> EncoderTraits:
    """Run `encoder` on tokens."""
    interface = EncoderInterface.of(encoder)
    if "input_ids" not in interface.arguments:
        raise ValueError("it is no text encoder, it does not take input_ids")
    tokens = torch.ones(ROWS, TOKENS, dtype=torch.long)
    states = run_text_tower(encoder, interface, tokens, torch.ones_like(tokens) if interface.masked else None)
    return traits_of(encoder, interface, states.last_hidden_state, TOKENS)


def try_vision_tower(encoder: nn.Module, size: tuple[int, int] | None = None) -> EncoderTraits:
    """Run `encoder` on images of `size`."""
    interface = image_interface(encoder)
    images = images_for(encoder, size)
    return traits_of(encoder, interface, run_vision_tower(encoder, interface, images).last_hidden_state)


def try_grid_encoder(encoder: nn.Module, size: tuple[int, int]) -> EncoderTraits:
    """Run `encoder` on images of `size`, to see which map it makes of them."""
    interface = image_interface(encoder)
    features = run_grid_encoder(encoder, interface, images_for(encoder, size))
    grid = tuple(features.shape[2:])
    if grid == (1, 1):
        raise ValueError("its last feature map has one cell; choose a larger image_size")
    traits = traits_of(encoder, interface, features.flatten(2).transpose(1, 2))
    return dataclasses.replace(traits, grid=grid)


def image_interface(encoder: nn.Module) -> EncoderInterface:
    """Return the interface of an encoder of images; raise `ValueError` if it is none."""
    interface = EncoderInterface.of(encoder)
    if "pixel_values" not in interface.arguments:
        raise ValueError("it is no vision encoder, it does not take pixel_values")
    return interface


def images_for(encoder: nn.Module, size: tuple[int, int] | None) -> torch.Tensor:
    """Return black images (ROWS, C, H, W) of `size` (height, width), by default that which `encoder` is made for."""
    channels, *own = image_shape_of(encoder.config)
    return torch.zeros(ROWS, channels, *(size or own))


def try_layers(encoder: nn.Module) -> EncoderTraits:
    """Run `encoder` on its own input, to see how wide its embeddings are, and then on states in their place."""
    widths = []
    embeddings = encoder.get_submodule(embeddings_name(encoder))
    embeddings.register_forward_hook(lambda module, args, output: widths.append(width_of(output)))
    interface = EncoderInterface.of(encoder)
    attempt = try_text_tower if "input_ids" in interface.arguments else try_vision_tower
    attempt(encoder)
    give_embeddings(encoder)
    # Two lengths, since layers that expect a grid of patches may run on one by chance.
    for length in (3 * TOKENS, TOKENS):
        given = torch.zeros(ROWS, length, widths[0])
        mask = torch.ones(ROWS, length, dtype=torch.long) if interface.masked else None
        try:
            states = run_layers(encoder, interface, given, mask).last_hidden_state
        except Exception as error:
            raise ValueError(f"its layers do not run without its embeddings ({error!r})") from error
        traits = traits_of(encoder, interface, states, length, widths[0])
    return traits


def width_of(output: object) -> int:
    """Return the width of the output of embeddings, which must be one sequence of states."""
    if not isinstance(output, torch.Tensor) or output.ndim != 3:
        raise ValueError("its embeddings give more than one sequence of states")
    return output.shape[-1]


def traits_of(
    encoder: nn.Module,
    interface: EncoderInterface,
    states: torch.Tensor,
    count: int | None = None,
    input_size: int = 0,
) -> EncoderTraits:
    """Return the traits of `encoder`, which gave `states`; raise `ValueError` if these are not `count` states a row, if known."""
    if states.ndim != 3 or (count is not None and states.shape[1] != count):
        raise ValueError(f"expected one state a token, got the shape {tuple(states.shape)}")
    unread = unread_by(states, encoder)
    return EncoderTraits(**vars(interface), input_size=input_size, hidden_size=states.shape[-1], unread=unread)


def unread_by(value: torch.Tensor, model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters of `model` that a backward pass from `value` would not reach."""
    seen, read, found = {value.grad_fn}, set(), [value.grad_fn]
    while found:
        node = found.pop()
        if hasattr(node, "variable"):
            read.add(id(node.variable))
        following = {next_node for next_node, _ in node.next_functions if next_node is not None} - seen
        seen |= following
        found += following
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in read)


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """
    Return the layers of an encoder, first to last, or the stages of a hierarchical one: the elements of its one outermost list
    of modules. Return none if it has several such lists (XLM, PVT), which cannot be told apart.
    """
    outermost, todo = [], [encoder]
    while todo:
        module = todo.pop()
        if isinstance(module, nn.ModuleList):
            outermost.append(module)
        else:
            todo.extend(module.children())
    return list(outermost[0]) if len(outermost) == 1 else []


def position_limit(model: nn.Module) -> int | None:
    """Return the number of positions of the smallest table of position embeddings in `model`; `None` if it has no table."""
    limits = []
    for name, module in model.named_modules():
        if name.split(".")[-1] in POSITION_TABLES and hasattr(module, "padding_idx") and hasattr(module, "weight"):
            # The RoBERTa family numbers its positions from padding_idx + 1 on.
            limits.append(len(module.weight) - (0 if module.padding_idx is None else module.padding_idx + 1))
    own = getattr(model.config, "max_position_embeddings", None) or 0
    # Tables may have rows that no token gets (YOSO, BART).
    return min([*limits, own] if own > 0 else limits) if limits else None


def text_length_limit(model: PreTrainedModel) -> int | None:
    """Return the number of tokens that a text encoder has positions for; `None` if it sets no limit."""
    own = getattr(model.config, "max_position_embeddings", None) or 0
    return position_limit(model) or (own if own > 0 else None)


def image_shape_of(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a vision encoder of `config` is made for; 3x224x224 if it does not say."""
    return getattr(config, "num_channels", 3), *both_sides(getattr(config, "image_size", None) or PIXELS)


def patch_size_of(encoder: nn.Module) -> tuple[int, int] | None:
    """
    Return height and width of the patches that an encoder's first convolution makes; `None` if they overlap or it has none.
    """
    first = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None and "spatial_shapes" in inspect.signature(encoder.forward).parameters:
        return both_sides(encoder.config.patch_size)  # patches are cut before it (SigLIP 2)
    return first.kernel_size if first is not None and first.kernel_size == first.stride else None
