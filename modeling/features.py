"""Features of texts alone and of images alone, under the names that CLIP gives them."""

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .encoder_forward import check_other_inputs
from .outputs import EncodedImage, EncodedText


class FeaturesOfEither:
    """
    A model that gives the features of texts alone and of images alone. The features of a row are its pooled vector or, with a
    contrastive head, its vector of length 1, whose products with those of the other kind are cosines.
    """

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **options
    ) -> BaseModelOutputWithPooling:
        """
        Return `last_hidden_state` (B, T, hidden size) and the features (B, size), `pooler_output`, of texts.

        Args:
            input_ids: Token ids (B, T).
            attention_mask: 1 for tokens, 0 for padding (B, T); all tokens by default.
            options: `output_attentions`, `output_hidden_states`; `token_type_ids`, which are ignored.

        Raises:
            ValueError: If the text is longer than the model has positions for.
        """
        base, (outputs, options) = self.base_model, self.options_of_features(**options)
        return self.features(base.encode_text(input_ids, attention_mask, **options), **outputs)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor | None = None, pixel_mask: torch.Tensor | None = None, **options
    ) -> BaseModelOutputWithPooling:
        """
        Return `last_hidden_state` (B, P, hidden size) and the features (B, size), `pooler_output`, of images.

        Args:
            pixel_values: Pixels (B, C, H, W), as in `encode_image`.
            pixel_mask: 1 for pixels, 0 for padding (B, H, W); one-tower models only.
            options: `output_attentions`, `output_hidden_states`; `image_features` in place of pixels, if there is a vision encoder.

        Raises:
            ValueError: If the images do not fit the model.
        """
        given = options.pop("image_features", None)
        base, (outputs, options) = self.base_model, self.options_of_features(**options)
        return self.features(base.encode_image(pixel_values, pixel_mask, given, **options), **outputs)

    def options_of_features(
        self, output_attentions: bool | None = None, output_hidden_states: bool | None = None, **others
    ) -> tuple[dict[str, bool], dict[str, bool]]:
        """Return the options of `fuse` and those of `encode_text` and `encode_image`; raise `ValueError` for other inputs."""
        check_other_inputs(**others)
        outputs = self.base_model.wanted_outputs(output_attentions, output_hidden_states)
        return outputs, self.base_model.encoding_options(**outputs)

    def features(self, encoded: EncodedText | EncodedImage, **outputs: bool) -> BaseModelOutputWithPooling:
        """Return the states and the features of encoded texts or images; `outputs` are options of `fuse`."""
        base, head = self.base_model, getattr(self, "contrastive_head", None)
        is_image = isinstance(encoded, EncodedImage)
        fused = base.fuse(*((None, encoded) if is_image else (encoded, None)), **outputs)
        pooled = fused.pooled
        if head is not None:
            pooled = (head.image_vectors if is_image else head.text_vectors)(base, encoded)
        return BaseModelOutputWithPooling(
            last_hidden_state=fused.image_states if is_image else fused.text_states,
            pooler_output=pooled,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )
