"""Configuration of the one-tower architecture."""

import dataclasses

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_renaissance import RenaissanceConfig
from .encoders import hidden_size_of, input_size_of, is_vision_encoder
from .fields import described, document_fields, option


#: What encoders call a field, if not as it is called here.
NAMES = {"layer_norm_eps": ("layer_norm_eps", "norm_eps"), "embedding_dropout": ("hidden_dropout_prob",)}

#: The fields that the encoder of images decides, if there is one.
OF_IMAGES = ("image_size", "num_channels")


def or_else(fallback: int | float) -> dict:
    """Metadata of a field that the encoder's configuration decides, or else is `fallback`."""
    return {"default_is": f"the encoder's own, or {fallback}", "fallback": fallback}


def own_value(encoder: PreTrainedConfig, field_name: str) -> int | float | None:
    """The value that an encoder has for a field: one number, or the side of a square; `None` if it has none."""
    values = [getattr(encoder, name, None) for name in NAMES.get(field_name, (field_name,))]
    found = next((value for value in values if value is not None), None)
    if isinstance(found, (list, tuple)):
        found = found[0] if len(set(found)) == 1 else None
    return found


@document_fields
@strict
class OneTowerConfig(RenaissanceConfig):
    """
    Word-piece and patch embeddings, joined into one sequence for the layers of any text or vision encoder. With a vision encoder, which
    makes feature maps, their cells take the place of the patches.

    Example:

    ```python
    >>> config = OneTowerConfig.from_encoder("vit", image_size=224, patch_size=16)
    >>> model = OneTowerModel(config)
    >>> with_grid_features = OneTowerConfig.from_encoder("bert", vision="resnet", image_size=224)
    ```
    """

    model_type = "renaissance-one-tower"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet", optional=True),
    }

    encoder_config: dict | PreTrainedConfig | None = described(
        None, "Configuration of the encoder whose layers are used.", "BERT's"
    )
    vision_config: dict | PreTrainedConfig | None = described(
        None,
        "Configuration of the convolutional encoder whose last feature map is the image part of the sequence.",
        "no such encoder",
    )
    random_init_embeddings: bool = option(
        False,
        "Leave both embeddings random beside the layers of a pretrained encoder. Otherwise the encoder's own are taken over.",
    )
    vocab_size: int | None = option(
        None, "Number of word pieces; that of --tokenizer if given.", **or_else(30522), within="[1, inf)"
    )
    pad_token_id: int | None = described(None, "Id of the padding token.", **or_else(0))
    max_position_embeddings: int | None = described(None, "Maximum number of tokens of a text.", **or_else(512))
    embedding_size: int | None = option(
        None,
        "Width of both embeddings; if another than the encoder takes, they are projected.",
        "what the encoder takes",
        within="[1, 65536]",
    )
    image_size: int | None = described(
        None,
        "Height and width of images in pixels. Position embeddings are interpolated for other sizes.",
        **or_else(224),
        within="[1, inf)",
    )
    patch_size: int | None = option(
        None,
        "Height and width of a patch in pixels; there are none with a vision_encoder.",
        **or_else(16),
        within="[1, inf)",
    )
    position_interpolation: str = option(
        "bicubic",
        "Interpolation of position embeddings for other image sizes: bicubic, as in ViT, or bilinear with aligned corners, as "
        "in ViLT.",
    )
    num_channels: int | None = described(None, "Number of channels of an image.", **or_else(3))
    embedding_dropout: float | int | None = option(
        None, "Dropout probability after the embeddings.", **or_else(0.1), within="[0, 1)"
    )
    layer_norm_eps: float | None = option(
        None, "Epsilon of the layer norms outside the encoders.", **or_else(1e-12), within="(0, inf)"
    )

    def derive_fields(self) -> None:
        encoder = self.encoder_config
        if self.embedding_size is None:
            self.embedding_size = input_size_of(encoder)
        of_images = self.vision_config or encoder
        for entry in dataclasses.fields(self):
            if entry.name == "patch_size" and self.vision_config:
                continue
            if "fallback" in entry.metadata and getattr(self, entry.name) is None:
                found = own_value(of_images if entry.name in OF_IMAGES else encoder, entry.name)
                # A text encoder without a padding token (GPT-2) has no row of embeddings that does not train.
                has_none = entry.name == "pad_token_id" and hasattr(encoder, "vocab_size")
                setattr(self, entry.name, entry.metadata["fallback"] if found is None and not has_none else found)

    @property
    def hidden_size(self) -> int:
        """Width of the states that the encoder returns."""
        return hidden_size_of(self.encoder_config)

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        return self.encoder_config.num_attention_heads

    def check_fields(self) -> None:
        super().check_fields()
        if self.vision_config:
            self.check_beside_vision()
        elif self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) is not a multiple of patch_size ({self.patch_size}): no patch fits"
            )
        if self.position_interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                f'position_interpolation: expected "bicubic" or "bilinear", got {self.position_interpolation!r}'
            )

    def check_beside_vision(self) -> None:
        """Raise `ValueError` if a field does not go together with a vision encoder."""
        if self.patch_size is not None:
            raise ValueError(
                "patch_size: without effect with a vision_encoder, whose feature map has cells; leave it out"
            )
        if is_vision_encoder(self.encoder_config):
            kind = self.encoder_config.model_type
            raise ValueError(
                f"vision_encoder: the encoder, {kind}, is one of images itself; choose one of text, or leave this out"
            )


__all__ = ["OneTowerConfig"]
