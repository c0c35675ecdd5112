"""The dual-encoder architecture: a text encoder and a vision encoder, whose vectors are compared."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .architectures import register_architecture
from .configuration_dual_encoder import DualEncoderConfig
from .contrastive import ContrastiveHead, mean_state
from .modeling_two_encoders import TwoEncoderModel
from .outputs import FUSED, DualEncoderOutput, EncodedImage, EncodedText


class DualEncoderModel(TwoEncoderModel):
    """
    A text and a vision encoder, a projection of each to a common space, and a learned temperature. To fuse texts with images is to
    compare their vectors: every text with every image.
    """

    config: DualEncoderConfig
    more_auto_classes = ("AutoModelForZeroShotImageClassification",)

    def __init__(self, config: DualEncoderConfig):
        super().__init__(config)
        sizes = self.text_traits.hidden_size, self.vision_traits.hidden_size
        self.contrastive_head = ContrastiveHead(config, *sizes)
        self.post_init()

    def parts(self) -> dict[str, list[nn.Module]]:
        return self.towers() | {"cross_modal": [self.contrastive_head]}

    def layers(self, part: str) -> list[nn.Module]:
        return [] if part == "cross_modal" else super().layers(part)

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        encoded = self.run_text_encoder(input_ids, attention_mask, **kwargs)
        pooled = self.own_pooled("text", encoded)
        return EncodedText.of(encoded.last_hidden_state, attention_mask, encoded, pooled)

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> EncodedImage:
        encoded = self.image_output(pixel_values, pixel_mask, image_features, **kwargs)
        pooled = self.own_pooled("image", encoded)
        return EncodedImage.of(encoded.last_hidden_state, None, encoded, pooled)

    def own_pooled(self, stream: str, encoded: BaseModelOutputWithPooling) -> torch.Tensor | None:
        """Return an encoder's own pooled vector (B, width) if `<stream>_pooling` asks for it; raise `ValueError` if it has none."""
        if getattr(self.config, f"{stream}_pooling") != "own":
            return None
        if encoded.pooler_output is None:
            part = "text" if stream == "text" else "vision"
            kind = getattr(self.config, f"{part}_config").model_type
            raise ValueError(f"{stream}_pooling: {kind} makes no pooled vector of its own here; choose mean or first")
        return encoded.pooler_output

    def alone(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        return encoded.states

    def summary(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        """Return what is projected (B, width) of each text or image: what `text_pooling` or `image_pooling` says."""
        if encoded.pooled is not None:
            return encoded.pooled
        pooling = self.config.image_pooling if isinstance(encoded, EncodedImage) else self.config.text_pooling
        return encoded.states[:, 0] if pooling == "first" else mean_state(encoded.states, encoded.mask)

    def paired(self, text: EncodedText, image: EncodedImage) -> tuple[EncodedText, EncodedImage]:
        """Return both as they are: every text is compared with every image."""
        return text, image

    def encoding_options(self, **outputs: bool) -> dict[str, bool]:
        return {name: True for name, wanted in outputs.items() if wanted}

    def fuse(
        self,
        text: EncodedText | None,
        image: EncodedImage | None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        reads: tuple[str, ...] = FUSED,
        pooled_from: int = 0,
    ) -> DualEncoderOutput:
        """
        Compare all texts with all images, from `encode_text` and `encode_image`; or give the vectors of one of them alone. The hidden
        states and attentions are those of each encoder, if it was asked for them. `image_index` is without effect.
        """
        head, one = self.contrastive_head, image if text is None else text
        text_embeds = None if text is None else head.text_vectors(self, text)
        image_embeds = None if image is None else head.image_vectors(self, image)
        if text is not None and image is not None:
            logits = head.logits(text_embeds, image_embeds)
            layers = {
                f"{stream}_{name}": getattr(encoded, name)
                for stream, encoded in (("text", text), ("image", image))
                for name in ("hidden_states", "attentions")
            }
        else:
            pooled = text_embeds if image is None else image_embeds
            layers = {"pooled": pooled[pooled_from:] if "pooled" in reads else None}
            layers |= {"hidden_states": one.hidden_states, "attentions": one.attentions}
            logits = None
        return DualEncoderOutput(
            logits_per_image=None if logits is None else logits.T,
            logits_per_text=logits,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_states=text.states if text is not None and "text_states" in reads else None,
            image_states=image.states if image is not None and "image_states" in reads else None,
            **layers,
        )


register_architecture("dual-encoder", DualEncoderConfig, DualEncoderModel)
