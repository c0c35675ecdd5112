"""What architectures with a text encoder and a vision encoder share: they run both, each on its own input."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_two_encoders import TwoEncoderConfig
from .encoder_forward import (
    check_image_inputs,
    check_image_size,
    check_text_length,
    run_text_tower,
    run_vision_tower,
)
from .encoder_traits import (
    encoder_layers,
    image_shape_of,
    inspect_text_tower,
    patch_size_of,
    text_length_limit,
)
from .encoders import build_encoder
from .modeling_base import RenaissanceBaseModel


class TwoEncoderModel(RenaissanceBaseModel):
    """A text encoder and a vision encoder. A subclass says what is made of their states."""

    config: TwoEncoderConfig

    def __init__(self, config: TwoEncoderConfig):
        super().__init__(config)
        self.text_traits = inspect_text_tower(config.text_config)
        self.vision_traits = self.inspect_vision_encoder(config.vision_config)
        self.text_encoder = build_encoder(config.text_config)
        self.vision_encoder = build_encoder(config.vision_config)
        self.text_limit = text_length_limit(self.text_encoder)
        self.patch_size = patch_size_of(self.vision_encoder)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def layers(self, part: str) -> list[nn.Module]:
        return encoder_layers(self.text_encoder if part == "text" else self.vision_encoder)

    def towers(self) -> dict[str, list[nn.Module]]:
        return {"text": [self.text_encoder], "vision": [self.vision_encoder]}

    def run_text_encoder(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Return the text encoder's own output for token ids (B, T) and a mask (B, T), 0 for padding, if there is any."""
        check_text_length(input_ids, self.text_limit)
        return run_text_tower(self.text_encoder, self.text_traits, input_ids, attention_mask, **kwargs)

    def run_vision_encoder(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Return the vision encoder's own output for images (B, C, H, W)."""
        check_image_size(pixel_values, self.patch_size)
        pixel_values = self.normalised(pixel_values, self.vision_encoder.dtype)
        return run_vision_tower(self.vision_encoder, self.vision_traits, pixel_values, **kwargs)

    def image_output(
        self,
        pixel_values: torch.Tensor | None,
        pixel_mask: torch.Tensor | None,
        image_features: torch.Tensor | None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """
        Return the vision encoder's output for images, or that which `image_features` are the states of. Raise `ValueError` as
        `encode_image` does.
        """
        if pixel_mask is not None:
            raise ValueError(
                "pixel_mask: a model with a vision encoder sees whole images; leave it out, and resize images without padding"
            )
        check_image_inputs(pixel_values, image_features, self.vision_traits.hidden_size)
        if image_features is None:
            return self.run_vision_encoder(pixel_values, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=image_features.to(self.vision_encoder.dtype))

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Return the states (B, P, width) of the vision encoder for images (B, C, H, W), which `encode_image` takes instead. If the
        encoder is frozen, training does not change them, so they can be kept.
        """
        return self.run_vision_encoder(pixel_values).last_hidden_state

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return image_shape_of(self.config.vision_config)
