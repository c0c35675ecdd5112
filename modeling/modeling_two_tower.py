"""The two-tower architecture: a text encoder, a vision encoder, and cross-modal layers that join them."""

import torch
from torch import nn

from .architectures import register_architecture
from .configuration_two_tower import TwoTowerConfig
from .layers import CrossModalLayer, CrossModalMasks, Pooler, TypeEmbeddings
from .modeling_two_encoders import TwoEncoderModel
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput, joined


class TwoTowerModel(TwoEncoderModel):
    """
    A text and a vision encoder, each projected to a common width, and cross-modal layers (LXMERT, Tan & Bansal 2019).
    """

    config: TwoTowerConfig
    _no_split_modules = ["CrossModalLayer"]

    def __init__(self, config: TwoTowerConfig):
        super().__init__(config)
        size = config.cross_modal_hidden_size
        self.text_projection = nn.Linear(self.text_traits.hidden_size, size)
        self.image_projection = nn.Linear(self.vision_traits.hidden_size, size)
        self.type_embeddings = TypeEmbeddings(config.num_images, size)
        self.cross_modal_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.cross_modal_layers))
        self.text_pooler = Pooler(size)
        if config.pooler == "double":
            self.image_pooler = Pooler(size)
        self.post_init()

    def parts(self) -> dict[str, list[nn.Module]]:
        cross_modal = [self.text_projection, self.image_projection, self.type_embeddings, self.cross_modal_layers]
        poolers = [self.text_pooler] + ([self.image_pooler] if self.config.pooler == "double" else [])
        return {"text": [self.text_encoder], "vision": [self.vision_encoder], "cross_modal": cross_modal + poolers}

    def layers(self, part: str) -> list[nn.Module]:
        return list(self.cross_modal_layers) if part == "cross_modal" else super().layers(part)

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        encoded = self.run_text_encoder(input_ids, attention_mask, **kwargs)
        return EncodedText.of(self.text_projection(encoded.last_hidden_state), attention_mask, encoded)

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> EncodedImage:
        encoded = self.image_output(pixel_values, pixel_mask, image_features, **kwargs)
        return EncodedImage.of(self.image_projection(encoded.last_hidden_state), None, encoded)

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
