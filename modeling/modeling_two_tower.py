"""The two-tower architecture: a text encoder, a vision encoder, and cross-modal layers that join them."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .architectures import register_architecture
from .configuration_two_tower import TwoTowerConfig
from .encoders import (
    build_encoder,
    check_image_size,
    check_text_length,
    encoder_layers,
    patch_size_of,
    text_length_limit,
)
from .inspection import inspect_text_tower, inspect_vision_tower
from .layers import CrossModalLayer, CrossModalMasks, Pooler, TypeEmbeddings
from .modeling_renaissance import RenaissanceBaseModel, parameter_names
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput
from .towers import run_text_tower, run_vision_tower


class TwoTowerModel(RenaissanceBaseModel):
    """
    A text and a vision encoder, each projected to a common width, and cross-modal layers (LXMERT, Tan & Bansal 2019)
    with a pooler for each stream.
    """

    config: TwoTowerConfig
    _no_split_modules = ["CrossModalLayer"]

    def __init__(self, config: TwoTowerConfig):
        super().__init__(config)
        size = config.cross_modal_hidden_size
        self.text_traits = inspect_text_tower(config.text_config)
        self.vision_traits = inspect_vision_tower(config.vision_config)
        self.text_encoder = build_encoder(config.text_config)
        self.vision_encoder = build_encoder(config.vision_config)
        self.text_projection = nn.Linear(self.text_traits.hidden_size, size)
        self.image_projection = nn.Linear(self.vision_traits.hidden_size, size)
        self.type_embeddings = TypeEmbeddings(config.num_images, size)
        # A single pooler reads the text: of the last layer's image states nothing is read.
        self.cross_modal_layers = nn.ModuleList(
            CrossModalLayer(config, reads_image=config.pooler == "double" or number < config.cross_modal_layers)
            for number in range(1, config.cross_modal_layers + 1)
        )
        self.text_pooler = Pooler(size)
        if config.pooler == "double":
            self.image_pooler = Pooler(size)
        self.text_limit = text_length_limit(self.text_encoder)
        self.patch_size = patch_size_of(self.vision_encoder)
        self.post_init()
        self.freeze()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def parts(self) -> dict[str, list[nn.Module]]:
        cross_modal = [self.text_projection, self.image_projection, self.type_embeddings, self.cross_modal_layers]
        poolers = [self.text_pooler] + ([self.image_pooler] if self.config.pooler == "double" else [])
        return {"text": [self.text_encoder], "vision": [self.vision_encoder], "cross_modal": cross_modal + poolers}

    def layers(self, part: str) -> list[nn.Module]:
        if part == "cross_modal":
            return list(self.cross_modal_layers)
        return encoder_layers(self.text_encoder if part == "text" else self.vision_encoder)

    def unread(
        self, inputs: tuple[str, ...] = ("text", "image"), reads: tuple[str, ...] = ("text_states", "pooled")
    ) -> list[str]:
        layers, single = list(self.cross_modal_layers), self.config.pooler == "single"
        unread = []
        if "text" not in inputs:
            unread += [self.text_encoder, self.text_projection, *([] if single else [self.text_pooler])]
            unread += [module for layer in layers for module in (layer.text_attention, layer.text_mlp)]
        # Without cross-modal layers the text does not see the image, which then is read by its pooler alone.
        image_is_seen = "image" in inputs and (layers or "text" not in inputs or (not single and "pooled" in reads))
        if not image_is_seen:
            unread += [self.vision_encoder, self.image_projection]
        if "image" not in inputs:
            unread += [] if single else [self.image_pooler]
        if "pooled" not in reads:
            unread += [self.text_pooler, *([] if single else [self.image_pooler])]
        image_layers = layers if "image" not in inputs else layers[-1:] if "pooled" not in reads else []
        unread += [
            module
            for layer in image_layers
            if layer.reads_image
            for module in (layer.image_attention, layer.image_mlp)
        ]
        if len(inputs) == 1:
            unread += [layer.cross_attention for layer in layers]
        towers = {"text_encoder": self.text_traits, "vision_encoder": self.vision_traits}
        return [
            *parameter_names(self, unread),
            *(f"{tower}.{name}" for tower, traits in towers.items() for name in traits.unread),
        ]

    def towers(self) -> dict[str, list[nn.Module]]:
        return {"text": [self.text_encoder], "vision": [self.vision_encoder]}

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        check_text_length(input_ids, self.text_limit)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        with self.gradients_for("text"):
            encoded = run_text_tower(self.text_encoder, self.text_traits, input_ids, attention_mask, **kwargs)
        return EncodedText(
            states=self.text_projection(encoded.last_hidden_state),
            mask=attention_mask,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> EncodedImage:
        if pixel_mask is not None:
            raise ValueError(
                "pixel_mask: the vision encoder of a two-tower model sees whole images; leave it out, and bring images to "
                "one size without padding"
            )
        if (pixel_values is None) == (image_features is None):
            raise ValueError("pixel_values, image_features: expected one of them")
        if image_features is None:
            encoded = self.run_vision_encoder(pixel_values, **kwargs)
        else:
            width = self.vision_traits.hidden_size
            if image_features.ndim != 3 or image_features.shape[2] != width:
                raise ValueError(
                    f"image_features: expected (batch, patches, {width}), the width of the vision encoder, got the shape "
                    f"{tuple(image_features.shape)}"
                )
            encoded = BaseModelOutput(last_hidden_state=image_features.to(self.image_projection.weight.dtype))
        states = self.image_projection(encoded.last_hidden_state)
        return EncodedImage(
            states=states,
            mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        What the vision encoder makes of images (B, C, H, W): (B, P, width), which `encode_image` takes in their place. Where
        the encoder is frozen they stay the same for as long as training lasts, and can be kept.
        """
        return self.run_vision_encoder(pixel_values).last_hidden_state

    def run_vision_encoder(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """The vision encoder's own output for images (B, C, H, W)."""
        check_image_size(pixel_values, self.patch_size)
        with self.gradients_for("vision"):
            pixel_values = self.normalised(pixel_values, self.image_projection.weight.dtype)
            return run_vision_tower(self.vision_encoder, self.vision_traits, pixel_values, **kwargs)

    def fuse(
        self,
        text: EncodedText | None,
        image: EncodedImage | None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        reads: tuple[str, ...] = FUSED,
    ) -> FusedOutput:
        text_states, image_states = self.with_types(text, image, image_index)
        masks = CrossModalMasks(
            self.config,
            text_states,
            image_states,
            None if text is None else text.mask,
            None if image is None else image.mask,
        )
        hidden_states = [joined(text_states, image_states)] if output_hidden_states else None
        attentions = [] if output_attentions else None
        everything = (None, None)
        of_last = everything if output_hidden_states or output_attentions else self.rows_read(reads, text is not None)
        for number, layer in enumerate(self.cross_modal_layers, start=1):
            rows = of_last if number == len(self.cross_modal_layers) else everything
            text_states, image_states, weights = layer(text_states, image_states, masks, *rows)
            if output_hidden_states:
                hidden_states.append(joined(text_states, image_states))
            if output_attentions:
                attentions.append(one_matrix(*weights))
        return FusedOutput(
            text_states=text_states if "text_states" in reads else None,
            image_states=image_states if "image_states" in reads else None,
            pooled=self.pool(text_states, image_states) if "pooled" in reads else None,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )

    def rows_read(self, reads: tuple[str, ...], has_text: bool) -> tuple[int | None, int | None]:
        """How many of the last layer's text and image states are read, from the first on; `None` for all of them."""
        pooled = "pooled" in reads
        image_is_pooled = pooled and (self.config.pooler == "double" or not has_text)
        return (
            None if "text_states" in reads else int(pooled),
            None if "image_states" in reads else int(image_is_pooled),
        )


def joined(text: torch.Tensor | None, image: torch.Tensor | None) -> torch.Tensor:
    """One sequence (B, P + T, size), the image first, of the streams that there are."""
    return torch.cat([states for states in (image, text) if states is not None], dim=1)


def one_matrix(
    text: torch.Tensor | None,
    text_to_image: torch.Tensor | None,
    image_to_text: torch.Tensor | None,
    image: torch.Tensor | None,
) -> torch.Tensor:
    """A layer's attention maps, each (B, heads, Q, K), as the blocks of one (B, heads, P + T, P + T)."""
    if text_to_image is None:
        return image if text is None else text
    if image is None:  # a last layer whose image states nothing reads
        image = image_to_text.new_zeros(*image_to_text.shape[:-1], image_to_text.shape[-2])
    return torch.cat([torch.cat([image, image_to_text], dim=-1), torch.cat([text_to_image, text], dim=-1)], dim=-2)


register_architecture("two-tower", TwoTowerConfig, TwoTowerModel)


__all__ = ["TwoTowerModel"]
