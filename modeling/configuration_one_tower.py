"""Configuration of the one-tower architecture."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_renaissance import RenaissanceConfig
from .encoders import hidden_size_of, input_size_of, resolve_encoder_config


#: What a field is where neither the user nor the encoder's configuration says.
DEFAULTS = {
    "vocab_size": 30522,
    "pad_token_id": 0,
    "max_position_embeddings": 512,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-12,
}


def own_value(encoder: PreTrainedConfig, name: str, default: int | float) -> int | float | None:
    """Return what an encoder's configuration says of a field: one number, or both sides of a square; else the default."""
    found = getattr(encoder, name, None)
    if name == "pad_token_id" and hasattr(encoder, "vocab_size"):
        return found  # a text encoder without a padding token (GPT-2) has no row of embeddings that does not train
    if found is None and name == "layer_norm_eps":
        found = getattr(encoder, "norm_eps", None)
    if isinstance(found, (list, tuple)):
        found = found[0] if len(set(found)) == 1 else None
    return default if found is None else found


@strict
class OneTowerConfig(RenaissanceConfig):
    r"""
    Word-piece and patch embeddings, joined into one sequence for the layers of any text or vision encoder.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the encoder whose layers are used, BERT's by default. Its own embeddings are not.
        vocab_size (`int`, *optional*):
            Number of word pieces; the encoder's own, or 30,522 (BERT's) where it is a vision encoder.
        pad_token_id (`int`, *optional*):
            Id of the padding token; a text encoder's own, if it has one, or 0 for a vision encoder.
        max_position_embeddings (`int`, *optional*):
            Most tokens a text can have; the encoder's own, or 512.
        embedding_size (`int`, *optional*):
            Width of both embeddings. Where it differs from the width that the encoder takes, they are projected to it,
            as in ELECTRA. By default the encoder's own.
        image_size (`int`, *optional*):
            Height and width of the images in pixels; the encoder's own, or 224. Position embeddings are interpolated
            for other sizes.
        patch_size (`int`, *optional*):
            Height and width of a patch in pixels; the encoder's own, or 16.
        position_interpolation (`"bicubic"` or `"bilinear"`, defaults to `"bicubic"`):
            How position embeddings are interpolated: `"bicubic"` as in ViT, or `"bilinear"` with the corners aligned, as
            in ViLT.
        num_channels (`int`, defaults to 3):
            Channels of an image.
        embedding_dropout (`float`, *optional*):
            Dropout probability after the embeddings; the encoder's `hidden_dropout_prob`, or 0.1.
        layer_norm_eps (`float`, *optional*):
            Epsilon of the layer norms of the text embeddings and the heads; the encoder's own, or 1e-12.

    The other arguments are those of `RenaissanceConfig`.

    Example:

    ```python
    >>> config = OneTowerConfig.from_encoder("vit", image_size=224, patch_size=16)
    >>> model = OneTowerModel(config)
    ```
    """

    model_type = "renaissance-one-tower"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder_config: dict | PreTrainedConfig | None = None
    vocab_size: int | None = None
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    embedding_size: int | None = None
    image_size: int | None = None
    patch_size: int | None = None
    position_interpolation: str = "bicubic"
    num_channels: int = 3
    embedding_dropout: float | int | None = None
    layer_norm_eps: float | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        encoder = self.encoder_config
        if self.embedding_size is None:
            self.embedding_size = input_size_of(encoder)
        if self.embedding_dropout is None:
            self.embedding_dropout = getattr(encoder, "hidden_dropout_prob", 0.1)
        for name, default in DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, own_value(encoder, name, default))
        self.check_fields()

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

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector of an image-text pair."""
        return self.num_poolers * self.hidden_size

    def check_fields(self) -> None:
        super().check_fields()
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) is not a multiple of patch_size ({self.patch_size}): no patch fits"
            )
        if self.position_interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                f'position_interpolation: expected "bicubic" or "bilinear", got {self.position_interpolation!r}'
            )

    @classmethod
    def from_encoder(
        cls, encoder: str | PreTrainedConfig, overrides: dict | None = None, **kwargs
    ) -> "OneTowerConfig":
        """
        The configuration of a model built from one encoder.

        Args:
            encoder: Hub id, folder, model type or configuration of a text or a vision encoder.
            overrides: Fields of the encoder's configuration to change.
            kwargs: Fields of this configuration.

        Raises:
            ValueError: Where the encoder is unknown or a field does not fit.
        """
        return cls(encoder_config=resolve_encoder_config(encoder, overrides), **kwargs)


__all__ = ["OneTowerConfig"]
