"""
How an encoder is run: as a text tower, as a vision tower, or, without its embeddings, as the layers of a one-tower model.
What differs between families is found from the encoder itself (inspection.py), but for what the two tables here say.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


#: Encoders that take an attention mask and mix padding into other states all the same, by model type. Their rows are run
#: without padding, those of one length together, as those of encoders without masks are.
MIXING = {
    "convbert": "convolves over neighbouring tokens",
    "funnel": "pools neighbouring tokens",
    "mobilebert": "joins the embeddings of neighbouring tokens",
    "nystromformer": "takes landmarks and convolves over padding too",
    "yoso": "convolves over neighbouring tokens",
}

#: Encoders that run and must not be used, by model type.
REFUSED = {
    "imagegpt": "it reads clusters of colours, each of which sees only those before it",
    "mra": "its attention is zero where there is no GPU with its kernel",
    "reformer": "it gives two sequences of states side by side",
}

#: Masked autoencoders that shuffle patches by `noise` and leave some out, by model type. They are built to leave out none, and
#: rising noise leaves them where they are.
SHUFFLING = ("vit_mae",)


@dataclass(frozen=True)
class EncoderTraits:
    """
    What is known of an encoder.

    Args:
        arguments: Names of the arguments that its `forward` takes.
        masked: Whether an attention mask keeps padding out of the other states.
        input_size: Width of the states that its layers, or a projection of its own before them, take; 0 for a tower.
        hidden_size: Width of the states that it returns.
        unread: Names of its parameters that these states do not depend on, which get no gradient.
    """

    arguments: frozenset[str]
    masked: bool
    input_size: int = 0
    hidden_size: int = 0
    unread: frozenset[str] = frozenset()


def run_text_tower(
    tower: PreTrainedModel,
    traits: EncoderTraits,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> BaseModelOutput:
    """The states (B, T, size) of a text encoder for token ids (B, T) and a mask (B, T), 0 for padding, if there is any."""
    if "global_attention_mask" in traits.arguments:
        # Longformer: the first token, which is pooled, sees all others, and they see it.
        kwargs["global_attention_mask"] = (torch.arange(input_ids.shape[1], device=input_ids.device) == 0).expand_as(
            input_ids
        )
    if traits.masked:
        return output_of(tower(input_ids=input_ids, attention_mask=attention_mask, **kwargs))
    if "attention_mask" in traits.arguments:
        return in_equal_lengths(
            lambda ids: output_of(tower(input_ids=ids, attention_mask=torch.ones_like(ids), **kwargs)),
            input_ids,
            attention_mask,
        )
    return in_equal_lengths(lambda ids: output_of(tower(input_ids=ids, **kwargs)), input_ids, attention_mask)


def run_vision_tower(
    tower: PreTrainedModel, traits: EncoderTraits, pixel_values: torch.Tensor, **kwargs
) -> BaseModelOutput:
    """
    The states (B, P, size) of an image encoder for pixels (B, C, H, W): of its patches and special tokens or, where it makes a
    feature map, of the cells of its last one, row by row.
    """
    # Contiguous: torch's convolutions on CPUs crash on images of another layout and few channels.
    inputs = {"pixel_values": pixel_values.to(tower.dtype).contiguous()}
    if "interpolate_pos_encoding" in traits.arguments:
        inputs["interpolate_pos_encoding"] = True
    if "spatial_shapes" in traits.arguments:
        inputs |= patch_rows(inputs["pixel_values"], tower.config.patch_size)
    if tower.config.model_type in SHUFFLING:
        count = pixel_values.shape[-2] * pixel_values.shape[-1] // tower.config.patch_size**2
        inputs["noise"] = torch.arange(count, device=pixel_values.device).expand(len(pixel_values), -1)
    return output_of(tower(**inputs, **kwargs))


def run_layers(
    encoder: PreTrainedModel,
    traits: EncoderTraits,
    states: torch.Tensor,
    mask: torch.Tensor | None,
    **kwargs,
) -> BaseModelOutput:
    """The states (B, N, size) that an encoder after `give_embeddings` makes of `states` (B, N, input size)."""
    name = "inputs_embeds" if "inputs_embeds" in traits.arguments else "pixel_values"
    if traits.masked:
        return output_of(encoder(**{name: states}, attention_mask=mask, **kwargs))
    return in_equal_lengths(lambda rows: output_of(encoder(**{name: rows}, **kwargs)), states, mask)


def output_of(output: object) -> BaseModelOutput:
    """An encoder's output with its last states as a sequence (B, N, size), whatever form it gives them."""
    states = output.feature_maps[-1] if "feature_maps" in output else output.last_hidden_state
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    return BaseModelOutput(
        last_hidden_state=states,
        hidden_states=getattr(output, "hidden_states", None),
        attentions=getattr(output, "attentions", None),
    )


def in_equal_lengths(
    run: Callable[[torch.Tensor], BaseModelOutput], inputs: torch.Tensor, mask: torch.Tensor | None
) -> BaseModelOutput:
    """
    Runs an encoder that cannot mask padding on rows without it, those of one length at a time.

    Args:
        run: Runs the encoder on unpadded rows.
        inputs: Token ids (B, N) or states (B, N, size).
        mask: 1 for what is to be read (B, N), 0 for padding; the last states are 0 there. `None` where nothing is padding.
    """
    if mask is None:
        return run(inputs)
    lengths = mask.sum(dim=1)
    states = None
    for length in lengths.unique().tolist():
        read = mask.bool() & (lengths == length).unsqueeze(1)
        if length == 0:
            continue
        found = run(inputs[read].unflatten(0, (-1, length))).last_hidden_state
        if states is None:
            states = found.new_zeros(*mask.shape, found.shape[-1])
        states[read] = found.flatten(0, 1)
    return BaseModelOutput(last_hidden_state=states)


def patch_rows(pixel_values: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """What encoders for images of any shape (SigLIP 2) take: flat patches (B, N, patch * patch * C), a mask, and grid sizes."""
    grid = [side // patch_size for side in pixel_values.shape[-2:]]
    patches = pixel_values.unflatten(3, (grid[1], patch_size)).unflatten(2, (grid[0], patch_size))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        "spatial_shapes": torch.tensor([grid] * len(patches), device="cpu"),  # read as numbers
    }


class GivenEmbeddings(nn.Module):
    """
    Stands where an encoder's embedding layer stood and returns the states that the encoder was given, so that its
    masks, layers, relative position biases and final norm run on embeddings made elsewhere.
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

    # What text encoders return from `get_input_embeddings`, which gradient checkpointing calls.
    word_embeddings = tok_embeddings = patch_embedding = patch_embeddings

    def forward(self, *args, inputs_embeds: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        # Encoders differ in how they pass the states on; whatever else they pass is None here, or comes by name.
        return next(states for states in (inputs_embeds, *args) if states is not None)


def embeddings_name(encoder: PreTrainedModel) -> str:
    """Name of the module that makes the states which an encoder's layers take: its embeddings or, alone, its word embeddings."""
    if hasattr(encoder, "embeddings"):
        return "embeddings"
    try:
        words = encoder.get_input_embeddings()
    except NotImplementedError as error:
        raise ValueError("it has no embeddings that others could stand for") from error
    return next(name for name, module in encoder.named_modules() if module is words)


def give_embeddings(encoder: PreTrainedModel) -> None:
    """Puts `GivenEmbeddings` in the place of an encoder's embeddings."""
    encoder.set_submodule(embeddings_name(encoder), GivenEmbeddings())
