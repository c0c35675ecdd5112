"""Compiling: each kind of layer once, in place, whatever the lengths of the texts."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from ..hub import first_line
from ..modeling.layers import CrossModalLayer, CrossModalMasks
from .cuda_graphs import WITH_CUDA_GRAPHS
from .machine import UnfitMachine


#: Versions of one kind of layer before torch gives up compiling it: training, evaluation, other batch sizes, precisions, ...
VERSIONS = 64

#: Texts that compiled layers read are padded to a multiple of this number of tokens, which suits matrix units.
LENGTH_MULTIPLE = 8


def compile_layers(model: PreTrainedModel, backend: str = "inductor", mode: str | None = None) -> dict[str, int]:
    """
    Compile the repeated layers of `model`, by `torch.compile`, in place: names of modules and weights stay. All layers of one kind
    share their code, so that it is compiled once, for texts of all lengths. The last cross-modal layer, of whose states only some
    are made, stays as it is, and so do parts without a list of layers, such as convolutional encoders.

    Args:
        model: Any model of the platform.
        backend: A backend of `torch.compile`.
        mode: A mode of it, such as `"max-autotune"`; its default if `None`.

    Returns:
        How many layers of each part are compiled, by the name of the part.

    Raises:
        ValueError: If the model has no list of layers.
    """
    base = model.base_model
    layers = {part: base.layers(part) for part in base.parts()}
    compiled = {part: [layer for layer in found if not is_trimmed(layer, found)] for part, found in layers.items()}
    if not any(compiled.values()):
        raise ValueError("torch_compile: this model has no repeated layers; leave it out")
    # All kinds of transformers' layers share a function around their own, and so this limit.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VERSIONS)
    for part, found in compiled.items():
        for layer in found:
            # Images are of one size, so that nothing but their number changes.
            compile_layer(layer, has_texts=part != "vision", backend=backend, mode=mode)
    return {part: len(found) for part, found in compiled.items() if found}


def check_compiler(args: TrainingArguments) -> None:
    """
    Try the compiler of `torch_compile_backend` and `torch_compile_mode` on a sum.

    Raises:
        ValueError: If the two do not fit together, or torch cannot compile with them on this machine.
    """
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    if mode is not None and backend != "inductor":
        raise ValueError(f"torch_compile_mode: without effect on torch_compile_backend {backend}; leave it out")
    for option, value in (("torch_compile_mode", mode), ("torch_compile_backend", backend)):
        if value in WITH_CUDA_GRAPHS and args.device.type != "cuda":
            fault = f"{value} records CUDA graphs, and this run is on the device {args.device.type}"
            raise UnfitMachine(f"{option}: {fault}; leave it out")
    try:
        torch.compile(torch.add, backend=backend, mode=mode)(torch.ones(2, device=args.device), 1)
    except Exception as error:  # whatever a backend raises
        raise UnfitMachine(
            f"torch_compile: {backend} does not run here ({first_line(error)}); leave it out"
        ) from error


def is_trimmed(layer: nn.Module, layers: list[nn.Module]) -> bool:
    """Return whether only those states of `layer` are made that are read, whose number has a version of its own each."""
    return isinstance(layer, CrossModalLayer) and layer is layers[-1]


def compile_layer(layer: nn.Module, has_texts: bool, **options: Any) -> None:
    """Compile one layer in place. With `has_texts`, its first input is states (B, N, size) of texts, of any number N."""
    plain = layer.forward
    compiled = torch.compile(plain, **options)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if has_texts and args and isinstance(args[0], torch.Tensor):
            mark_length(args[0].shape[1], (*args, *kwargs.values()))
        return compiled(*args, **kwargs)

    layer.forward = forward


def mark_length(length: int, values: tuple) -> None:
    """Tell the compiler that axes of size `length` of the tensors in `values` have other sizes in other calls."""
    for tensor in tensors_in(values):
        # The last axis of states is their width.
        for axis in range(1, tensor.ndim - (tensor.ndim == 3)):
            if tensor.shape[axis] == length:
                torch._dynamo.maybe_mark_dynamic(tensor, axis)


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in inputs of a layer: by themselves, in tuples, or as attributes of an object such as `CrossModalMasks`."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)
        elif isinstance(value, CrossModalMasks):
            yield from tensors_in(vars(value).values())
