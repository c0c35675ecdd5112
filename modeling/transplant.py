"""Moves the embeddings of a pretrained encoder into a one-tower model."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging


logger = logging.get_logger(__name__)


@torch.no_grad()
def transplant_embeddings(source: PreTrainedModel, model: nn.Module) -> None:
    """
    Copies the embeddings of `source` into those of the one-tower `model`, where they exist there and have the same
    shape, and logs what came over. `source` is a text or a vision encoder, not a one-tower model.
    """
    embeddings = source.embeddings
    copied = copy_image_embeddings(embeddings, model.image_embeddings)
    copied += copy_text_embeddings(embeddings, model.text_embeddings)
    logger.info(f"{type(source).__name__}: took over {', '.join(copied) or 'no embeddings'}; the others are new")


def copy_image_embeddings(source: nn.Module, target: nn.Module) -> list[str]:
    """Copies patch projection, class token and positions of a ViT-like embedding layer; returns what was copied."""
    patches = getattr(source, "patch_embeddings", None)
    projection = getattr(patches, "projection", None)
    candidates = {
        "patch_embeddings.weight": getattr(projection, "weight", None),
        "patch_embeddings.bias": getattr(projection, "bias", None),
        "cls_token": getattr(source, "cls_token", None),
        "position_embeddings": getattr(source, "position_embeddings", None),
    }
    return copy_where_equal_shape(candidates, target)


def copy_text_embeddings(source: nn.Module, target: nn.Module) -> list[str]:
    """
    Copies word and position embeddings and layer norm of a BERT-like embedding layer; returns what was copied. The
    embedding of its first token type, which every token gets, is folded into the positions.
    """
    norm = getattr(source, "LayerNorm", None)
    candidates = {
        "word_embeddings.weight": getattr(getattr(source, "word_embeddings", None), "weight", None),
        "layer_norm.weight": getattr(norm, "weight", None),
        "layer_norm.bias": getattr(norm, "bias", None),
    }
    copied = copy_where_equal_shape(candidates, target)
    table = target.position_embeddings.weight
    positions = folded_positions(source)
    if positions is not None and positions.shape[1] == table.shape[1]:
        # As many as both have: their limits need not agree.
        count = min(len(positions), len(table))
        table[:count] = positions[:count]
        copied.append("position_embeddings.weight")
    return copied


def folded_positions(source: nn.Module) -> torch.Tensor | None:
    """Position embeddings (positions, size), from position 0 on, plus the embedding of token type 0."""
    table = getattr(source, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    # The RoBERTa family numbers its positions from padding_idx + 1 on.
    positions = table.weight[0 if table.padding_idx is None else table.padding_idx + 1 :]
    types = getattr(source, "token_type_embeddings", None)
    return positions if types is None else positions + types.weight[0]


def copy_where_equal_shape(candidates: dict[str, torch.Tensor | None], target: nn.Module) -> list[str]:
    """Copies each tensor into the parameter of `target` that its key names, where the shapes are equal."""
    copied = []
    for name, value in candidates.items():
        parameter = target.get_parameter(name)
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            parameter.copy_(value)
            copied.append(name)
    return copied
