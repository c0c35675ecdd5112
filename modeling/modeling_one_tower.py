"""The one-tower architecture: word pieces and an image in one sequence, for the layers of any text or vision encoder."""

import functools

import torch
from torch import nn
from transformers import PreTrainedModel

from .architectures import register_architecture
from .configuration_one_tower import OneTowerConfig
from .encoder_embeddings import give_embeddings, transplant_embeddings
from .encoder_forward import check_image_inputs, check_image_size, check_text_length, run_grid_encoder, run_layers
from .encoder_traits import encoder_layers, inspect_grid_encoder, inspect_layers, position_limit
from .encoders import build_encoder
from .image_embeddings import GridEmbeddings, ImageEmbeddings, maps_without_padding, patch_mask, square_maps
from .layers import Pooler, TextEmbeddings, TypeEmbeddings, last_real
from .modeling_base import RenaissanceBaseModel
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput, joined


class OneTowerModel(RenaissanceBaseModel):
    """
    Word-piece and patch embeddings, joined into one sequence, and the stack of a text or vision encoder over it. A pooler reads
    the first state of its stream, or, if the encoder is causal (GPT-2, Llama), the last one that is not padding: the text's then
    knows image and text, and the image's, which comes first, the image only.

    With a vision encoder, the image is its last feature map, a state for each cell: grid features, as in Pixel-BERT (Huang et al. 2020,
    section 3.2). Unlike there, all cells are read, and each has a learned position, as patches have.
    """

    config: OneTowerConfig
    inspect_vision_encoder = staticmethod(inspect_grid_encoder)

    def __init__(self, config: OneTowerConfig):
        super().__init__(config)
        self.text_embeddings = TextEmbeddings(config)
        self.vision_encoder = None
        if config.vision_config is None:
            self.patch_size = (config.patch_size, config.patch_size)
            grid = (config.image_size // config.patch_size,) * 2
            self.image_embeddings = ImageEmbeddings(config, config.num_channels, config.patch_size, grid)
        else:
            size = (config.image_size, config.image_size)
            self.vision_traits = self.inspect_vision_encoder(config.vision_config, size)
            self.vision_encoder = build_encoder(config.vision_config)
            self.image_embeddings = GridEmbeddings(config, self.vision_traits.hidden_size, self.vision_traits.grid)
        self.traits = inspect_layers(config.encoder_config)
        input_size = self.traits.input_size
        same = config.embedding_size == input_size
        self.embedding_projection = nn.Identity() if same else nn.Linear(config.embedding_size, input_size)
        self.type_embeddings = TypeEmbeddings(config.num_images, input_size)
        self.encoder = build_encoder(config.encoder_config)
        give_embeddings(self.encoder)
        # Some encoders add positions of their own to whatever they are given: to image and text together.
        self.sequence_limit = position_limit(self.encoder)
        self.text_limit = config.max_position_embeddings
        if self.sequence_limit:
            image_length = self.image_embeddings.position_embeddings.shape[1]
            self.text_limit = min(self.text_limit, self.sequence_limit - image_length)
            if self.text_limit < 1:
                fault = f"has {self.sequence_limit} positions, and the image alone takes {image_length}"
                advice = "choose a smaller image_size" + ("" if config.vision_config else " or a larger patch_size")
                raise ValueError(f"{config.encoder_config.model_type} {fault}: {advice}")
        self.text_pooler = Pooler(config.hidden_size)
        if config.pooler == "double":
            self.image_pooler = Pooler(config.hidden_size)
        self.post_init()

    def load_encoder_weights(self, name: str, source: PreTrainedModel) -> None:
        if name == "encoder":
            # The embeddings of the encoder's own modality fit if they have the same shape.
            if not self.config.random_init_embeddings:
                transplant_embeddings(source, self)
            give_embeddings(source)
        super().load_encoder_weights(name, source)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_embeddings.word_embeddings = value

    def parts(self) -> dict[str, list[nn.Module]]:
        cross_modal = [self.embedding_projection, self.type_embeddings, self.encoder, self.text_pooler]
        poolers = [self.image_pooler] if self.config.pooler == "double" else []
        vision = [self.image_embeddings]
        if self.vision_encoder is not None:
            # The embeddings of feature maps are new, like the projections of two towers.
            vision, cross_modal = [self.vision_encoder], vision + cross_modal
        return {"text": [self.text_embeddings], "vision": vision, "cross_modal": cross_modal + poolers}

    def layers(self, part: str) -> list[nn.Module]:
        found = {"cross_modal": self.encoder, "vision": self.vision_encoder}.get(part)
        return [] if found is None else encoder_layers(found)

    def towers(self) -> dict[str, list[nn.Module]]:
        if self.vision_encoder is not None:
            return {"vision": [self.vision_encoder], "cross_modal": [self.text_embeddings, self.encoder]}
        return {"cross_modal": [self.text_embeddings, self.image_embeddings, self.encoder]}

    def encode_text(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None) -> EncodedText:
        check_text_length(input_ids, self.text_limit)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.embedding_projection(self.text_embeddings(input_ids))
        return EncodedText(states, mask, padded=attention_mask is not None)

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
    ) -> EncodedImage:
        if self.vision_encoder is not None:
            embedded, patches = self.feature_maps(pixel_values, pixel_mask, image_features)
        else:
            embedded, patches = self.pixels(pixel_values, pixel_mask, image_features)
        states = self.embedding_projection(self.image_embeddings(embedded, patches))
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        if patches is not None:
            mask[:, 1:] = patches.flatten(1)
        return EncodedImage(states, mask, padded=patches is not None)

    def pixels(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None, image_features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.BoolTensor | None]:
        """Return normalised pixels (B, C, H, W), and which of their patches (B, H / p, W / p) are not padding, `None` if all."""
        if image_features is not None:
            raise ValueError("image_features: this one-tower model has no vision encoder, give pixel_values")
        check_image_size(pixel_values, self.patch_size)
        patches = None if pixel_mask is None else patch_mask(pixel_mask, pixel_values, self.config.patch_size)
        return self.normalised(pixel_values, self.image_embeddings.cls_token.dtype), patches

    def feature_maps(
        self, pixel_values: torch.Tensor | None, pixel_mask: torch.Tensor | None, image_features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.BoolTensor | None]:
        """
        Return the vision encoder's last feature maps (B, width, H', W'), and which of their cells (B, H', W') are not padding,
        `None` if all.
        """
        check_image_inputs(pixel_values, image_features, self.vision_traits.hidden_size)
        if image_features is not None:
            if pixel_mask is not None:
                raise ValueError("pixel_mask: image_features are of images without padding; leave it out")
            return square_maps(image_features.to(self.image_embeddings.cls_token.dtype)), None
        check_image_size(pixel_values, self.patch_size)
        pixels = self.normalised(pixel_values, self.vision_encoder.dtype)
        run = functools.partial(run_grid_encoder, self.vision_encoder, self.vision_traits)
        if pixel_mask is None:
            return run(pixels), None
        return maps_without_padding(run, pixels, patch_mask(pixel_mask, pixel_values, 1))

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Return the cells (B, P, width), row by row, of the vision encoder's last feature maps of square images (B, C, H, H), which
        `encode_image` takes instead. If the encoder is frozen, training does not change them, so they can be kept.
        """
        features = self.feature_maps(pixel_values, None, None)[0].flatten(2).transpose(1, 2)
        square_maps(features)
        return features

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
        # The image first, so that the text's padding is last: then positions inside the encoder do not depend on it.
        parts = [part for part in (image, text) if part is not None]
        states = joined(text_states, image_states)
        padded = any(part.padding_mask is not None for part in parts)
        if self.sequence_limit and states.shape[1] > self.sequence_limit:
            fault = f"image and text make {states.shape[1]} states, but the encoder has positions for {self.sequence_limit}"
            raise ValueError(f"{fault}: shorten the text or make the image smaller")
        mask = torch.cat([part.mask.to(parts[0].mask.dtype) for part in parts], dim=1) if padded else None
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        encoded = run_layers(self.encoder, self.traits, states, mask, **options)
        if lacking := [
            name for name, asked in options.items() if asked and not encoded.get(name.removeprefix("output_"))
        ]:
            fault = f"{self.config.encoder_config.model_type} does not give them; leave it out"
            raise ValueError(f"{', '.join(lacking)}: {fault}")
        num_patches = 0 if image is None else image.mask.shape[1]
        image_states = None if image is None else encoded.last_hidden_state[:, :num_patches]
        text_states = None if text is None else encoded.last_hidden_state[:, num_patches:]
        pooled = None
        if "pooled" in reads:
            streams = (text_states, text), (image_states, image)
            pooled = self.pool(*(self.pooled_states(*stream, pooled_from) for stream in streams))
        return FusedOutput(
            text_states=text_states if "text_states" in reads else None,
            image_states=image_states if "image_states" in reads else None,
            pooled=pooled,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def pooled_states(self, states: torch.Tensor | None, part: EncodedText | None, first: int) -> torch.Tensor | None:
        """Return the states that a pooler gets of the rows from `first` on: all of a stream, or the last real one if causal."""
        if states is None:
            return None
        return last_real(states[first:], part.mask[first:]) if self.traits.causal else states[first:]


register_architecture("one-tower", OneTowerConfig, OneTowerModel)
