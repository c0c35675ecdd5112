"""The two-tower architecture: a text encoder, a vision encoder, and cross-modal layers that join them."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .architectures import register_architecture
from .configuration_two_tower import TwoTowerConfig
from .encoder_forward import check_image_size, check_text_length, run_text_tower, run_vision_tower
from .encoder_traits import (
    encoder_layers,
    image_shape_of,
    inspect_text_tower,
    inspect_vision_tower,
    patch_size_of,
    text_length_limit,
)
from .encoders import build_encoder
from .layers import CrossModalLayer, CrossModalMasks, Pooler, TypeEmbeddings
from .modeling_renaissance import RenaissanceBaseModel
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput, joined


class TwoTowerModel(RenaissanceBaseModel):
    """
    A text and a vision encoder, each projected to a common width, and cross-modal layers (LXMERT, Tan & Bansal 2019).
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
        self.cross_modal_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.cross_modal_layers))
        self.text_pooler = Pooler(size)
        if config.pooler == "double":
            self.image_pooler = Pooler(size)
        self.text_limit = text_length_limit(self.text_encoder)
        self.patch_size = patch_size_of(self.vision_encoder)
        self.post_init()

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

    def towers(self) -> dict[str, list[nn.Module]]:
        return {"text": [self.text_encoder], "vision": [self.vision_encoder]}

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        check_text_length(input_ids, self.text_limit)
        encoded = run_text_tower(self.text_encoder, self.text_traits, input_ids, attention_mask, **kwargs)
        return EncodedText(
            states=self.text_projection(encoded.last_hidden_state),
            mask=torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            padded=attention_mask is not None,
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
                "pixel_mask: a two-tower model sees whole images; leave it out, and resize images without padding"
            )
        if (pixel_values is None) == (image_features is None):
            raise ValueError("pixel_values, image_features: expected one of them")
        if image_features is None:
            encoded = self.run_vision_encoder(pixel_values, **kwargs)
        else:
            width = self.vision_traits.hidden_size
            if image_features.ndim != 3 or image_features.shape[2] != width:
                expected = f"(batch, patches, {width}), the width of the vision encoder"
                raise ValueError(f"image_features: expected {expected}, got the shape {tuple(image_features.shape)}")
            encoded = BaseModelOutput(last_hidden_state=image_features.to(self.vision_encoder.dtype))
        states = self.image_projection(encoded.last_hidden_state)
        return EncodedImage(
            states=states,
            mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            padded=False,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Return the states (B, P, width) of the vision encoder for images (B, C, H, W), which `encode_image` takes instead. If the
        encoder is frozen, training does not change them, so they can be kept.
        """
        return self.run_vision_encoder(pixel_values).last_hidden_state

    def run_vision_encoder(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Return the vision encoder's own output for images (B, C, H, W)."""
        check_image_size(pixel_values, self.patch_size)
        pixel_values = self.normalised(pixel_values, self.vision_encoder.dtype)
        return run_vision_tower(self.vision_encoder, self.vision_traits, pixel_values, **kwargs)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return image_shape_of(self.config.vision_config)

    def alone(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        return encoded.states

    def fuse(
        self,
        text: EncodedText | None,
        image: EncodedImage | None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        reads: tuple[str, ...] = FUSED,
        pooled_from: int = 0,
    ) -> FusedOutput:
        text_states, image_states = self.with_types(text, image, image_index)
        padding = (None if stream is None else stream.padding_mask for stream in (text, image))
        masks = CrossModalMasks(self.config, text_states, image_states, *padding)
        hidden_states, attentions = [joined(text_states, image_states)] if output_hidden_states else [], []
        whole = output_hidden_states or output_attentions or not self.cross_modal_layers
        of_last = {} if whole else self.read_of_last_layer(reads, text is not None, pooled_from)
        for number, layer in enumerate(self.cross_modal_layers, start=1):
            rows = of_last if number == len(self.cross_modal_layers) else {}
            text_states, image_states, weights = layer(text_states, image_states, masks, **rows)
            if output_hidden_states:
                hidden_states.append(joined(text_states, image_states))
            if output_attentions:
                attentions.append(one_matrix(weights))
        pooled = None
        if "pooled" in reads:
            first_image = pooled_from - of_last.get("first_image", 0)
            pooled = self.pool(
                None if text_states is None else text_states[pooled_from:],
                None if image_states is None else image_states[first_image:],
            )
        return FusedOutput(
            text_states=text_states if "text_states" in reads else None,
            image_states=image_states if "image_states" in reads else None,
            pooled=pooled,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def read_of_last_layer(self, reads: tuple[str, ...], has_text: bool, pooled_from: int) -> dict[str, int | None]:
        """
        Return the options of the last layer that say what is read of its new states: how many of a text's and of an image's, from
        the first on (`None` for all), and of which pairs those of the images.
        """
        pooled = "pooled" in reads
        image_is_pooled = pooled and (self.config.pooler == "double" or not has_text)
        text_rows = None if "text_states" in reads else int(pooled)
        if "image_states" in reads:
            return {"text_rows": text_rows, "image_rows": None, "first_image": 0}
        return {"text_rows": text_rows, "image_rows": int(image_is_pooled), "first_image": pooled_from}


def one_matrix(weights: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
    """Return a layer's attention maps, each (B, heads, Q, K), as the blocks of one (B, heads, P + T, P + T)."""
    text, text_to_image, image_to_text, image = weights
    if text_to_image is None:
        return image if text is None else text
    return torch.cat([torch.cat([image, image_to_text], dim=-1), torch.cat([text_to_image, text], dim=-1)], dim=-2)


register_architecture("two-tower", TwoTowerConfig, TwoTowerModel)
