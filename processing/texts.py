"""Texts as tokenizers can read them, and masks for those that make none."""

from typing import Any

import numpy as np
import torch


def well_formed(value: Any) -> Any:
    """Return a text, or a list of texts, as UTF-8 can have it: two surrogates, halves of a character, become that character, and one
    alone the replacement character. Anything else stays as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(well_formed, value))
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def ones_like(ids: Any) -> Any:
    """Return 1 for each of some token ids: a tensor, an array, or lists of them."""
    if isinstance(ids, torch.Tensor):
        return torch.ones_like(ids)
    if isinstance(ids, np.ndarray):
        return np.ones_like(ids)
    return [ones_like(row) for row in ids] if ids and isinstance(ids[0], list) else [1] * len(ids)
