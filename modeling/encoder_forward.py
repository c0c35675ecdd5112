"""
Runs an encoder as a text tower, as a vision tower, or, without its embeddings, as the layers of a one-tower model. Differences
between families are found from the encoder itself (encoder_traits.py), except for those in the tables here.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .masks import masks_by_shape


#: Encoders that take an attention mask but mix padding into other states all the same, by model type. Their rows run without
#: padding, rows of equal length together, like those of encoders without masks.
MIXING = {
    "convbert": "convolves over neighbouring tokens",
    "funnel": "pools neighbouring tokens",
    "mobilebert": "joins the embeddings of neighbouring tokens",
    "nystromformer": "takes landmarks and convolves over padding too",
    "yoso": "convolves over neighbouring tokens",
}

#: Masked autoencoders that shuffle patches by `noise` and drop some, by model type. They are built to drop none, and rising
#: noise keeps the patches in order.
SHUFFLING = ("vit_mae",)

#: Convolutional encoders that give their last feature map as a sequence, its mean first, by model type.
MEAN_FIRST = ("dinov3_convnext",)


#: What encoders read: ids (B, N), states (B, N, size), or pixels, of which an encoder for images makes no padding.
INPUTS = ("input_ids", "inputs_embeds", "pixel_values")


@dataclass(frozen=True)
class EncoderInterface:
    """
    What must be known about an encoder to run it.

    Args:
        arguments: Names of the arguments of its `forward`.
        masked: Whether an attention mask keeps padding out of the other states.
        causal: Whether it hides later tokens from earlier ones, so that only its last state knows them all.
    """

    arguments: frozenset[str]
    masked: bool
    causal: bool = False

    @classmethod
    def of(cls, encoder: nn.Module) -> "EncoderInterface":
        """Return the interface of `encoder`, as far as it can be known before it runs."""
        arguments = frozenset(inspect.signature(encoder.forward).parameters)
        return cls(arguments, "attention_mask" in arguments and encoder.config.model_type not in MIXING)


def run_text_tower(
    tower: PreTrainedModel,
    interface: EncoderInterface,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> BaseModelOutputWithPooling:
    """Return the states (B, T, size) of a text encoder for token ids (B, T) and a mask (B, T), 0 for padding, if there is any."""
    if "global_attention_mask" in interface.arguments:
        # Longformer: the pooled first token attends to all others, and they attend to it.
        first = torch.arange(input_ids.shape[1], device=input_ids.device) == 0
        kwargs["global_attention_mask"] = first.expand_as(input_ids)
    if interface.masked:
        # Without a mask some encoders search the token ids for padding: they look at values, and may even find some.
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        padded = attention_mask is not None
        return states_of(tower, interface, padded, input_ids=input_ids, attention_mask=mask, **kwargs)

    def run(ids: torch.LongTensor) -> BaseModelOutputWithPooling:
        mask = {"attention_mask": torch.ones_like(ids)} if "attention_mask" in interface.arguments else {}
        return states_of(tower, interface, False, input_ids=ids, **mask, **kwargs)

    return in_equal_lengths(run, input_ids, attention_mask)


def run_vision_tower(
    tower: PreTrainedModel, interface: EncoderInterface, pixel_values: torch.Tensor, **kwargs
) -> BaseModelOutputWithPooling:
    """
    Return the states (B, P, size) of an image encoder for pixels (B, C, H, W): one for each patch and special token. An encoder
    that makes feature maps gives the cells of the last one, row by row.
    """
    return states_of(tower, interface, False, **image_inputs(tower, interface, pixel_values), **kwargs)


def run_grid_encoder(
    encoder: PreTrainedModel, interface: EncoderInterface, pixel_values: torch.Tensor
) -> torch.Tensor:
    """
    Return the last feature map (B, size, H', W') of a convolutional encoder for pixels (B, C, H, W): grid features (Jiang et al. 2020,
    "In Defense of Grid Features for Visual Question Answering"). Raise `ValueError` if the encoder makes no map.
    """
    inputs = image_inputs(encoder, interface, pixel_values)
    if encoder.config.model_type in MEAN_FIRST:
        output = output_of(encoder, interface, False, **inputs, output_hidden_states=True)
        return output.last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, output.hidden_states[-1].shape[2:])
    states = last_states(output_of(encoder, interface, False, **inputs))
    if states.ndim != 4:
        raise ValueError("it gives a sequence of states, not a feature map as convolutional encoders do")
    return states


def image_inputs(
    tower: PreTrainedModel, interface: EncoderInterface, pixel_values: torch.Tensor
) -> dict[str, torch.Tensor | bool]:
    """Return the arguments of an image encoder's `forward` for pixels (B, C, H, W)."""
    # Contiguous: torch's convolutions on CPUs crash on images of another layout and few channels.
    inputs = {"pixel_values": pixel_values.to(tower.dtype).contiguous()}
    if "interpolate_pos_encoding" in interface.arguments:
        inputs["interpolate_pos_encoding"] = True
    if "spatial_shapes" in interface.arguments:
        inputs |= patch_rows(inputs["pixel_values"], tower.config.patch_size)
    if tower.config.model_type in SHUFFLING:
        count = pixel_values.shape[-2] * pixel_values.shape[-1] // tower.config.patch_size**2
        inputs["noise"] = torch.arange(count, device=pixel_values.device).expand(pixel_values.shape[0], -1)
    return inputs


def run_layers(
    encoder: PreTrainedModel, interface: EncoderInterface, states: torch.Tensor, mask: torch.Tensor | None, **kwargs
) -> BaseModelOutputWithPooling:
    """Run an encoder after `give_embeddings` on `states` (B, N, input size); return its states (B, N, size)."""
    name = "inputs_embeds" if "inputs_embeds" in interface.arguments else "pixel_values"
    if interface.masked:
        padded = mask is not None
        if mask is None and interface.causal:
            # Without a mask it would look in its position ids for several texts that are packed into one row.
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        return states_of(encoder, interface, padded, **{name: states}, attention_mask=mask, **kwargs)
    return in_equal_lengths(lambda rows: states_of(encoder, interface, False, **{name: rows}, **kwargs), states, mask)


def states_of(
    encoder: PreTrainedModel, interface: EncoderInterface, padded: bool, **inputs
) -> BaseModelOutputWithPooling:
    """
    Run an encoder, of inputs that may be `padded` or are not; return its output with its last states as one sequence (B, N, size),
    whatever form it gives them.
    """
    output = output_of(encoder, interface, padded, **inputs)
    states = last_states(output)
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    return BaseModelOutputWithPooling(
        last_hidden_state=states,
        pooler_output=getattr(output, "pooler_output", None),
        hidden_states=getattr(output, "hidden_states", None),
        attentions=getattr(output, "attentions", None),
    )


def output_of(encoder: PreTrainedModel, interface: EncoderInterface, padded: bool, **inputs) -> ModelOutput:
    """Run an encoder, of inputs that may be `padded` or are not; return its output as it gives it."""
    if "use_cache" in interface.arguments:
        inputs["use_cache"] = False  # keys and values are for text that is generated
    read = next(inputs[name] for name in INPUTS if name in inputs)
    with masks_by_shape(None if padded else read.shape[1]):
        return encoder(**inputs)


def last_states(output: ModelOutput) -> torch.Tensor:
    """Return the last states of an encoder's output: a sequence (B, N, size), or a feature map (B, size, H, W)."""
    return output.feature_maps[-1] if "feature_maps" in output else output.last_hidden_state


def in_equal_lengths(
    run: Callable[[torch.Tensor], BaseModelOutputWithPooling], inputs: torch.Tensor, mask: torch.Tensor | None
) -> BaseModelOutputWithPooling:
    """
    Run an encoder that cannot mask padding, by `run`, on token ids (B, N) or states (B, N, size) without their padding, rows of
    equal length together. The mask (B, N) is 0 for padding, where all states and weights of attention become 0; `None` if there is
    no padding.
    """
    if mask is None:
        return run(inputs)
    lengths = mask.sum(dim=1)
    whole: dict[str, list[torch.Tensor | None]] = {}
    for length in lengths.unique().tolist():
        read = mask.bool() & (lengths == length).unsqueeze(1)
        if length == 0:
            continue
        found = run(inputs[read].unflatten(0, (-1, length)))
        layers = {"last_hidden_state": [found.last_hidden_state], "hidden_states": found.hidden_states}
        for name, values in (layers | {"attentions": found.attentions}).items():
            if values and all(value.shape[-2] == length for value in values):
                before = whole.get(name) or [None] * len(values)
                whole[name] = [placed(value, read, into) for value, into in zip(values, before, strict=True)]
    (states,) = whole.pop("last_hidden_state")
    return BaseModelOutputWithPooling(states, **{name: tuple(values) for name, values in whole.items()})


def placed(values: torch.Tensor, read: torch.BoolTensor, into: torch.Tensor | None) -> torch.Tensor:
    """
    Return `into`, by default zeros, with the states (b, L, size) or the weights of attention (b, heads, L, L) of some rows at the
    places that were read (B, N), L in each of the b rows.
    """
    weights = values.ndim == 4
    values = values.permute(0, 2, 3, 1) if weights else values
    places = read.unsqueeze(2) & read.unsqueeze(1) if weights else read
    if into is None:
        whole = values.new_zeros(*places.shape, values.shape[-1])
    else:
        whole = into.permute(0, 2, 3, 1) if weights else into
    whole[places] = values.flatten(0, places.ndim - 1)
    return whole.permute(0, 3, 1, 2) if weights else whole


def patch_rows(pixel_values: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """
    Return the inputs of encoders for images of any shape (SigLIP 2): patches (B, N, patch * patch * C), mask, grid sizes.
    """
    grid = [side // patch_size for side in pixel_values.shape[-2:]]
    patches = pixel_values.unflatten(3, (grid[1], patch_size)).unflatten(2, (grid[0], patch_size))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        "spatial_shapes": torch.tensor([grid] * len(patches), device="cpu"),  # read as numbers
    }


def check_text_length(input_ids: torch.Tensor, limit: int | None) -> None:
    """Raise `ValueError` if `input_ids` (B, T) are longer than `limit` tokens."""
    if limit is not None and input_ids.shape[-1] > limit:
        fault = f"{input_ids.shape[-1]} tokens a row, but this model has positions for {limit}"
        raise ValueError(f"input_ids has {fault}: truncate the text (RenaissanceProcessor does)")


def check_other_inputs(**others) -> None:
    """
    Ignore token types, which tokenizers give and no model here reads, and inputs that are `None`. Raise `ValueError` if there
    are embeddings in place of tokens, or inputs that no model here has.
    """
    given = [name for name, value in others.items() if value is not None and name != "token_type_ids"]
    if "inputs_embeds" in given:
        raise ValueError("inputs_embeds: expected None, these models embed text themselves; pass input_ids")
    if given:
        raise ValueError(f"{', '.join(given)}: no input of this model")


def check_image_inputs(pixel_values: torch.Tensor | None, image_features: torch.Tensor | None, width: int) -> None:
    """
    Raise `ValueError` unless a vision encoder of `width` gets either `pixel_values` or `image_features` (B, P, width), which it made.
    """
    if (pixel_values is None) == (image_features is None):
        raise ValueError("pixel_values, image_features: expected one of them")
    if image_features is not None and (image_features.ndim != 3 or image_features.shape[2] != width):
        expected = f"(batch, patches, {width}), the width of the vision encoder"
        raise ValueError(f"image_features: expected {expected}, got the shape {tuple(image_features.shape)}")


def check_image_size(pixel_values: torch.Tensor, patch_size: tuple[int, int] | None) -> None:
    """Raise `ValueError` if `pixel_values` is not (B, C, H, W), or its height or width is not a multiple of the patch's."""
    if pixel_values.ndim != 4:
        fault = f"expected (batch, channels, height, width), got the shape {tuple(pixel_values.shape)}"
        raise ValueError(f"pixel_values: {fault}; only some heads take several images for each text")
    (height, width), (rows, columns) = pixel_values.shape[-2:], patch_size or (1, 1)
    if height % rows or width % columns:
        images = f"images of {height}x{width} pixels"
        raise ValueError(f"pixel_values: {images} cannot be cut into patches of {rows}x{columns}")
