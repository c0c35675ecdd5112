"""The base model of an architecture: encode, then fuse."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_renaissance import RenaissanceConfig
from .contrastive import mean_state
from .encoder_forward import check_other_inputs
from .encoder_traits import TOKENS, image_shape_of, inspect_vision_tower
from .features import FeaturesOfEither
from .layers import PixelNormalisation
from .modeling_renaissance import RenaissancePreTrainedModel
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput


class RenaissanceBaseModel(FeaturesOfEither, RenaissancePreTrainedModel):
    """
    The base model of an architecture: encode what is given, then fuse it.

    Attributes:
        text_limit: Most tokens that a text can have; `None` if there is no limit.
        patch_size: Height and width that images must be a multiple of; `None` if any will do.
        more_auto_classes: Auto classes of transformers that find the base model, beside `AutoModel`.
    """

    more_auto_classes: tuple[str, ...] = ()
    #: Finds the traits of the vision encoder of a configuration, on images of a size.
    inspect_vision_encoder = staticmethod(inspect_vision_tower)
    text_limit: int | None = None
    patch_size: tuple[int, int] | None = None

    def __init__(self, config: RenaissanceConfig):
        super().__init__(config)
        self.normalised = PixelNormalisation(config)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part that can be frozen: `"text"`, `"vision"` and `"cross_modal"`."""
        raise NotImplementedError

    def layers(self, part: str) -> list[nn.Module]:
        """Return the layers of a part, first to last; none if it has only embeddings, or layers that are not in one list."""
        return []

    def towers(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each encoder, embeddings first, by the part that has its layers."""
        return {}

    def load_encoder_weights(self, name: str, source: PreTrainedModel) -> None:
        """Take over the weights of `source`, a pretrained encoder of the kind that the model has under `name`."""
        getattr(self, name).load_state_dict(source.state_dict())

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        """
        Encode text on its own.

        Args:
            input_ids: Token ids (B, T).
            attention_mask: 1 for tokens, 0 for padding (B, T); all tokens by default.
            kwargs: `output_hidden_states`, `output_attentions` of a text tower.

        Raises:
            ValueError: If the text is longer than the model has positions for.
        """
        raise NotImplementedError

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> EncodedImage:
        """
        Encode images on their own.

        Args:
            pixel_values: Normalised pixels (B, C, H, W), or unnormalised ones as uint8.
            pixel_mask: 1 for pixels, 0 for padding below and to the right (B, H, W), by default none; one-tower models only.
            image_features: States (B, P, width) from `vision_features` instead of pixels; models with a vision encoder only.
            kwargs: `output_hidden_states`, `output_attentions` of a vision tower.

        Raises:
            ValueError: If an input is missing, does not fit the images, or is for the other architecture.
        """
        raise NotImplementedError

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
        """
        Let text and images, from `encode_text` and `encode_image`, see each other, row by row. Either may be missing.

        Args:
            image_index: Number of the image (B,) among those of its text, from 0 on; all first ones by default.
            output_attentions: Whether to return attention weights; needs eager attention.
            output_hidden_states: Whether to return the states between the layers.
            reads: What the caller reads, any of `"text_states"`, `"image_states"` and `"pooled"`: the rest is `None`, and what
                only it depends on is not computed, unless attention weights or hidden states are asked for.
            pooled_from: The first row that is pooled; those before it have no pooled vector.

        Raises:
            ValueError: If attention weights are asked for and attention is not eager.
        """
        raise NotImplementedError

    def alone(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        """Return the states (B, N, hidden size) of texts or images that have seen nothing but themselves."""
        if isinstance(encoded, EncodedImage):
            return self.fuse(None, encoded, reads=("image_states",)).image_states
        return self.fuse(encoded, None, reads=("text_states",)).text_states

    def summary(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        """Return one vector (B, width) of each text or image alone: the mean of its states, which suits any encoder."""
        return mean_state(self.alone(encoded), encoded.mask)

    def paired(self, text: EncodedText, image: EncodedImage) -> tuple[EncodedText, EncodedImage]:
        """Return what `forward` fuses of texts and images: `one_with_each`."""
        return one_with_each(text, image)

    def encoding_options(self, **outputs: bool) -> dict[str, bool]:
        """
        Return the options of `encode_text` and `encode_image`, given whether `output_attentions` and `output_hidden_states` are
        wanted: none if they are those of the layers that fuse.
        """
        return {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the images that the model is made for."""
        return image_shape_of(self.config)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return two short texts with an image each."""
        tokens = min(self.text_limit or TOKENS, TOKENS)
        return {
            "input_ids": torch.ones(2, tokens, dtype=torch.long, device=self.device),
            "pixel_values": torch.zeros(2, *self.image_shape, device=self.device),
        }

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
        reads: tuple[str, ...] = FUSED,
        **others,
    ) -> FusedOutput:
        """
        Encode the text, the images, or both, and fuse them. One text goes with each of several images, one image with each of several
        texts. The arguments are those of `encode_text`, `encode_image` and `fuse`. Of `others`, `token_type_ids`, which
        tokenizers give, are ignored.

        Raises:
            ValueError: If there are neither text nor images, or they do not fit the model or each other.
        """
        check_other_inputs(**others)
        has_image = pixel_values is not None or image_features is not None
        if input_ids is None and not has_image:
            raise ValueError("expected input_ids, pixel_values or both, got neither")
        outputs = self.wanted_outputs(output_attentions, output_hidden_states)
        options = self.encoding_options(**outputs)
        text = None if input_ids is None else self.encode_text(input_ids, attention_mask, **options)
        image = self.encode_image(pixel_values, pixel_mask, image_features, **options) if has_image else None
        if text is not None and image is not None:
            text, image = self.paired(text, image)
        fused = self.fuse(text, image, image_index, reads=reads, **outputs)
        return fused.with_common_names() if set(FUSED) <= set(reads) else fused

    def wanted_outputs(self, attentions: bool | None, hidden_states: bool | None) -> dict[str, bool]:
        """Return the options of `fuse` for the optional outputs, each as `wants` has it."""
        return {
            "output_attentions": self.wants("attentions", attentions),
            "output_hidden_states": self.wants("hidden_states", hidden_states),
        }

    def wants(self, output: str, asked: bool | None) -> bool:
        """Return whether the caller, or else the configuration, asks for an optional output."""
        wanted = getattr(self.config, f"output_{output}") if asked is None else asked
        if wanted and output == "attentions" and self.config._attn_implementation != "eager":
            fault = f"{self.config._attn_implementation} attention keeps no weights"
            raise ValueError(f'output_attentions: {fault}; call model.set_attn_implementation("eager")')
        return bool(wanted)

    def with_types(
        self, text: EncodedText | None, image: EncodedImage | None, image_index: torch.LongTensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the states (B, T, size) and (B, P, size) with their token-type embeddings added."""
        text_states = image_states = None
        if text is not None:
            text_type = torch.zeros(1, dtype=torch.long, device=text.states.device)
            text_states = text.states + self.type_embeddings(text_type)
        if image is not None:
            first = torch.ones(1, dtype=torch.long, device=image.states.device)
            image_type = first if image_index is None else image_index + 1
            image_states = image.states + self.type_embeddings(image_type).unsqueeze(1)
        return text_states, image_states

    def pool(self, text_states: torch.Tensor | None, image_states: torch.Tensor | None) -> torch.Tensor:
        """Return one vector a row: of the text, of the image, or of both side by side, as the configuration's pooler says."""
        pooled = []
        if text_states is not None:
            pooled.append(self.text_pooler(text_states))
        if image_states is not None and (self.config.pooler == "double" or not pooled):
            pooler = self.text_pooler if self.config.pooler == "single" else self.image_pooler
            pooled.append(pooler(image_states))
        return torch.cat(pooled, dim=-1)


def one_with_each(text: EncodedText, image: EncodedImage) -> tuple[EncodedText, EncodedImage]:
    """Return as many texts as images: a single one of either goes with each of the others. Raise `ValueError` for other numbers."""
    texts, images = text.states.shape[0], image.states.shape[0]
    if texts == images:
        return text, image
    if 1 not in (texts, images):
        raise ValueError(f"expected an image a text, or one of either for all, got {texts} texts and {images} images")
    again = torch.zeros(max(texts, images), dtype=torch.long, device=text.states.device)
    return (text.rows(again), image) if texts == 1 else (text, image.rows(again))
