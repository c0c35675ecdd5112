"""How runs break off, what they say of bad rows, and whether one ended as another did."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


#: What a row may have in place of an image.
PAGE = b"<!DOCTYPE html>\n<html>gone</html>"


def report_of(folder: Path) -> list[dict]:
    """The bad rows that a run has listed."""
    return [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().split("\n") if line]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run or a checkpoint has saved."""
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = map(weights_of, (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
