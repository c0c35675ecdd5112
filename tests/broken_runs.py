"""How runs break off, and whether one that did ended as another did."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run or a checkpoint has saved."""
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = map(weights_of, (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
