"""The embeddings of an encoder: replaced by those of a one-tower model, and moved into them."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .image_embeddings import interpolate_positions


logger = logging.get_logger(__name__)

#: Names that encoders give to the embedding of the class token, and to those of positions.
CLASS_TOKENS = ("cls_token", "class_embedding")
POSITIONS = ("position_embeddings", "position_embedding")


class GivenEmbeddings(nn.Module):
    """
    Replaces an encoder's embedding layer and returns the states that the encoder was given, so that its masks, layers,
    relative position biases and final norm run on embeddings made elsewhere.
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

    # The results of `get_input_embeddings` of text encoders, which gradient checkpointing calls.
    word_embeddings = tok_embeddings = patch_embedding = patch_embeddings

    def forward(self, *args, inputs_embeds: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        # Encoders differ in how they pass the states on; their other arguments are None here, or have a name.
        return next(states for states in (inputs_embeds, *args) if states is not None)


def embeddings_name(encoder: PreTrainedModel) -> str:
    """Return the name of the module that makes the input of an encoder's layers: its embeddings, or only its word embeddings."""
    if hasattr(encoder, "embeddings"):
        return "embeddings"
    try:
        words = encoder.get_input_embeddings()
    except NotImplementedError as error:
        raise ValueError("it has no embeddings that others could replace") from error
    return next(name for name, module in encoder.named_modules() if module is words)


def give_embeddings(encoder: PreTrainedModel) -> None:
    """Replace an encoder's embeddings by `GivenEmbeddings`."""
    encoder.set_submodule(embeddings_name(encoder), GivenEmbeddings())


@torch.no_grad()
def transplant_embeddings(source: PreTrainedModel, model: nn.Module) -> None:
    """
    Copy the embeddings of `source`, an encoder, into those of the one-tower `model` that have the same shape; log which.
    """
    embeddings = source.get_submodule(embeddings_name(source))
    if source.main_input_name == "pixel_values":
        copied = copy_image_embeddings(embeddings, model.image_embeddings)
    else:
        copied = copy_text_embeddings(source, embeddings, model.text_embeddings)
    logger.info(f"{type(source).__name__}: took over {', '.join(copied) or 'no embeddings'}; the others are new")


def copy_image_embeddings(source: nn.Module, target: nn.Module) -> list[str]:
    """
    Copy patch projection, class token and positions of a ViT-like embedding layer; return the names of the copied tensors.
    Interpolate positions of another grid, and leave out those of further special tokens (DeiT). If `source` has no positions,
    those of `target` start at zero.
    """
    patches = next((module for module in source.modules() if isinstance(module, nn.Conv2d)), None)
    cls_token = first_tensor(source, CLASS_TOKENS)
    projection = {f"patch_embeddings.{name}": getattr(patches, name, None) for name in ("weight", "bias")}
    copied = copy_where_it_fits({**projection, "cls_token": cls_token}, target)
    table = first_tensor(source, POSITIONS)
    if table is None:
        target.position_embeddings.zero_()
        return copied
    if table.shape[-1] != target.position_embeddings.shape[-1]:
        return copied
    table = table.flatten(0, -2)
    grid = int(len(table) ** 0.5)
    if cls_token is not None:
        target.position_embeddings[:, 0] = table[0]
    patches = table[None, -(grid**2) :]
    target.position_embeddings[:, 1:] = interpolate_positions(patches, (grid, grid), target.grid, target.interpolation)
    return [*copied, "position_embeddings"]


def copy_text_embeddings(encoder: PreTrainedModel, source: nn.Module, target: nn.Module) -> list[str]:
    """
    Copy word and position embeddings and layer norm of a BERT-like embedding layer; return the names of the copied tensors. The
    embedding of its first token type, which every token gets, is added to the positions. If `source` has no positions (the
    encoder adds its own later), those of `target` start at zero.
    """
    norm = next((module for module in source.children() if "LayerNorm" in type(module).__name__), None)
    norms = {f"layer_norm.{name}": getattr(norm, name, None) for name in ("weight", "bias")}
    copied = copy_where_it_fits({"word_embeddings.weight": encoder.get_input_embeddings().weight, **norms}, target)
    table = target.position_embeddings.weight
    positions = folded_positions(source, table.shape[1])
    if positions.shape[1] == table.shape[1]:
        # As many as both have: their limits need not agree. One row is for all positions.
        count = len(table) if len(positions) == 1 else min(len(positions), len(table))
        table[:count] = positions[:count]
        copied.append("position_embeddings.weight")
    return copied


def folded_positions(source: nn.Module, size: int) -> torch.Tensor:
    """
    Return the position embeddings (positions, size) plus the embedding of token type 0; one row, for all, if there are none.
    """
    types = getattr(source, "token_type_embeddings", None)
    table = getattr(source, "position_embeddings", None)
    first_type = types.weight[:1] if isinstance(types, nn.Embedding) else torch.zeros(1, size)
    if not isinstance(table, nn.Embedding):
        return first_type
    # The RoBERTa family numbers its positions from padding_idx + 1 on.
    return table.weight[0 if table.padding_idx is None else table.padding_idx + 1 :] + first_type


def first_tensor(source: nn.Module, names: tuple[str, ...]) -> torch.Tensor | None:
    """Return the first parameter, or weight of an embedding, that `source` has under one of `names`."""
    for name in names:
        found = getattr(source, name, None)
        found = found.weight if isinstance(found, nn.Embedding) else found
        if isinstance(found, torch.Tensor):
            return found
    return None


def copy_where_it_fits(candidates: dict[str, torch.Tensor | None], target: nn.Module) -> list[str]:
    """Copy each tensor into the parameter of `target` that its key names, if their shapes agree but for sides of 1."""
    copied = []
    for name, value in candidates.items():
        parameter = target.get_parameter(name)
        if value is not None and value.squeeze().shape == parameter.squeeze().shape:
            parameter.copy_(value.view_as(parameter))
            copied.append(name)
    return copied
