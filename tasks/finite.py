"""Looks for values that are not finite (NaN, inf) in weights, in the files of a checkpoint, and in cached features."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.trainer import OPTIMIZER_NAME
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from ..modeling.encoders import at_revision


#: Patterns of the names of files with weights, and of the optimizer's state.
OF_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", OPTIMIZER_NAME)


def is_finite(values: torch.Tensor) -> bool:
    """Return whether all values of a tensor are finite; those of whole numbers, and of an empty tensor, are."""
    if not values.is_floating_point() or not values.numel():
        return True
    # NaN is the least and the largest of the values that it is among; torch finds these two without a copy, but not of 8 bits.
    bounds = torch.aminmax(values.detach().float() if values.element_size() == 1 else values.detach())
    return all(bound.isfinite().item() for bound in bounds)


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor that has a value which is not finite; `None` if all values are."""
    return next((name for name, values in tensors if not is_finite(values)), None)


def fault_in_files(folder: Path) -> str | None:
    """
    Return in words which file of a checkpoint, and which tensor in it, has values that are not finite; `None` if there is none.
    Files that cannot be read are passed over: reading them tells more.
    """
    for path in sorted({path for pattern in OF_WEIGHTS for path in folder.glob(pattern)}):
        try:
            name = first_not_finite(tensors_in(path))
        except Exception:  # of many types, if a file is damaged
            continue
        if name is not None:
            return f"its file {path.name} has values that are not finite (NaN or inf), the first in {name}"
    return None


def tensors_in(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a file of weights or of an optimizer's state with their names, one by one."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (a file is no dictionary)
                yield name, file.get_tensor(name)
    else:
        yield from nested_tensors(torch.load(path, map_location="cpu", mmap=True, weights_only=True))


def nested_tensors(content: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in dictionaries and lists within each other, each with the keys that lead to it."""
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, (dict, list, tuple)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from nested_tensors(value, f"{name}.{key}" if name else str(key))


def refuse_not_finite(model: PreTrainedModel, sources: dict[str, tuple[str, str | None]]) -> None:
    """
    Raise `ValueError` if a weight of a model that has just been loaded is not finite; it names the file and the tensor.

    Args:
        sources: The Hub ids or folders that its weights are from, each with its revision, by the option that names it; none of a
            model whose weights are random.
    """
    name = first_not_finite(model.named_parameters())
    if name is None:
        return
    if not sources:
        fault = f"the random weights of {name} are not finite (NaN or inf)"
        raise ValueError(f"initializer_range: {fault}; choose a smaller one")
    remedy = "nothing can be trained from them, nor evaluated; choose another checkpoint"
    for option, (source, revision) in sources.items():
        folder = folder_of_weights(source, revision)
        if folder is not None and (fault := fault_in_files(folder)):
            raise ValueError(f"{option} {source}: {fault}; {remedy}")
    given = ", ".join(f"{option} {source}" for option, (source, _) in sources.items())
    raise ValueError(f"{given}: values that are not finite (NaN or inf) in the weight {name}; {remedy}")


def folder_of_weights(source: str, revision: str | None) -> Path | None:
    """Return the folder, here or in the Hub's cache, that holds the weights of a checkpoint; `None` if it is not known."""
    name, at = at_revision(source)
    at = at or ({"revision": revision} if revision else {})
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        if found := cached_file(name, file, local_files_only=True, **at, **quiet):
            return Path(found).parent
    return None
