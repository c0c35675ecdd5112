"""What an encoder is, asked of the encoder itself: it is built and run on tensors that have a shape and no values."""

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig
from transformers.utils import logging

from .encoders import build_encoder, image_shape_of
from .towers import (
    MIXING,
    REFUSED,
    EncoderTraits,
    embeddings_name,
    give_embeddings,
    run_layers,
    run_text_tower,
    run_vision_tower,
)


#: Rows and tokens that encoders are tried on.
ROWS, TOKENS = 2, 7

#: What is known already, by configuration, use and image size: the same encoder is built many times.
KNOWN: dict[tuple, EncoderTraits] = {}


def inspect_text_tower(config: PreTrainedConfig) -> EncoderTraits:
    """The traits of the text encoder of `config`; raises `ValueError` where it can be no text tower."""
    return inspected(config, try_text_tower, "a text tower")


def inspect_vision_tower(config: PreTrainedConfig, size: tuple[int, int] | None = None) -> EncoderTraits:
    """
    The traits of the vision encoder of `config`, tried on images of `size` (height, width) in pixels, by default its own;
    raises `ValueError` where it can be no vision tower, or cannot take images of this size.
    """
    use = "a vision tower" + (f" on images of {size[0]}x{size[1]} pixels" if size else "")
    return inspected(config, functools.partial(try_vision_tower, size=size), use)


def inspect_layers(config: PreTrainedConfig) -> EncoderTraits:
    """The traits of the encoder of `config` without its embeddings; raises `ValueError` where it does not run so."""
    return inspected(config, try_layers, "the encoder of a one-tower model")


def inspected(config: PreTrainedConfig, attempt: Callable, use: str) -> EncoderTraits:
    """What `attempt` finds out about the encoder of `config`; raises `ValueError`, saying why, where it fails."""
    key = (config.to_json_string(), use)
    if key not in KNOWN:
        if config.model_type in REFUSED:
            raise ValueError(f"{config.model_type} cannot be {use}: {REFUSED[config.model_type]}")
        try:
            KNOWN[key] = attempted(config, attempt, shapes_only())
        except Exception:  # whatever a model raises that needs values, or one that is not used as it was meant
            try:
                KNOWN[key] = attempted(config, attempt, in_earnest())
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"{config.model_type} cannot be {use}: {reason}") from error
    return KNOWN[key]


def attempted(config: PreTrainedConfig, attempt: Callable, place: contextlib.AbstractContextManager) -> EncoderTraits:
    """What `attempt` finds out about the encoder of `config`, built and run in the context `place`."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.inference_mode(False), torch.enable_grad(), place:
            return attempt(build_encoder(copy.deepcopy(config)).eval())
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Runs models on shapes: nothing is computed or stored, but the graph of gradients is the true one."""
    with torch.device("meta"), Assent():
        yield


@contextlib.contextmanager
def in_earnest() -> Iterator[None]:
    """Runs models on the CPU, where a model asks for values that shapes do not have (Longformer); draws no random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield


class Assent(TorchDispatchMode):
    """Where a model asks for the value of a tensor that has none, the answer is 1, or true: no token is padding."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype == torch.bool or (1.0 if args[0].dtype.is_floating_point else 1)
        return func(*args, **(kwargs or {}))


def try_text_tower(encoder: nn.Module) -> EncoderTraits:
    """Runs `encoder` on tokens."""
    traits = interface(encoder)
    if "input_ids" not in traits.arguments:
        raise ValueError("it is no text encoder, it does not take input_ids")
    tokens = torch.ones(ROWS, TOKENS, dtype=torch.long)
    states = run_text_tower(encoder, traits, tokens, torch.ones_like(tokens) if traits.masked else None)
    return with_states(traits, encoder, states.last_hidden_state, TOKENS)


def try_vision_tower(encoder: nn.Module, size: tuple[int, int] | None = None) -> EncoderTraits:
    """Runs `encoder` on images of `size`."""
    traits = interface(encoder)
    if "pixel_values" not in traits.arguments:
        raise ValueError("it is no vision encoder, it does not take pixel_values")
    channels, *own = image_shape_of(encoder.config)
    images = torch.zeros(ROWS, channels, *(size or own))
    return with_states(traits, encoder, run_vision_tower(encoder, traits, images).last_hidden_state)


def try_layers(encoder: nn.Module) -> EncoderTraits:
    """Runs `encoder` on its own input, to see how wide its embeddings are, and then on states in their place."""
    widths = []
    embeddings = encoder.get_submodule(embeddings_name(encoder))
    embeddings.register_forward_hook(lambda module, args, output: widths.append(width_of(output)))
    attempt = try_text_tower if "input_ids" in interface(encoder).arguments else try_vision_tower
    attempt(encoder)
    give_embeddings(encoder)
    traits = dataclasses.replace(interface(encoder), input_size=widths[0])
    # Two lengths, since layers that expect a grid of patches may run on one by chance.
    for length in (3 * TOKENS, TOKENS):
        given = torch.zeros(ROWS, length, widths[0])
        mask = torch.ones(ROWS, length, dtype=torch.long) if traits.masked else None
        try:
            states = run_layers(encoder, traits, given, mask).last_hidden_state
        except Exception as error:
            raise ValueError(f"its layers do not run without its embeddings ({error!r})") from error
        found = with_states(traits, encoder, states, length)
    return found


def interface(encoder: nn.Module) -> EncoderTraits:
    """What is known of `encoder` before it runs."""
    arguments = frozenset(inspect.signature(encoder.forward).parameters)
    return EncoderTraits(arguments, "attention_mask" in arguments and encoder.config.model_type not in MIXING)


def width_of(output: object) -> int:
    """The width of what embeddings return, which must be one sequence of states."""
    if not isinstance(output, torch.Tensor) or output.ndim != 3:
        raise ValueError("its embeddings give more than one sequence of states")
    return output.shape[-1]


def with_states(
    traits: EncoderTraits, encoder: nn.Module, states: torch.Tensor, count: int | None = None
) -> EncoderTraits:
    """The traits of `encoder` with what its `states` tell; `count` states a row are expected, where that is known."""
    if states.ndim != 3 or (count is not None and states.shape[1] != count):
        raise ValueError(f"expected one state a token, got the shape {tuple(states.shape)}")
    return dataclasses.replace(traits, hidden_size=states.shape[-1], unread=unread_by(states, encoder))


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
