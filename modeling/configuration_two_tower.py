"""Configuration of the two-tower architecture."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .configuration_renaissance import RenaissanceConfig, check_heads
from .encoders import resolve_encoder_config


@strict
class TwoTowerConfig(RenaissanceConfig):
    r"""
    A text encoder, a vision encoder, and cross-modal layers that join them.

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the text tower, BERT's by default.
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the vision tower, ViT's by default.
        cross_modal_hidden_size (`int`, defaults to 256):
            Width that both towers' states are projected to.
        cross_modal_layers (`int`, defaults to 6):
            Number of cross-modal layers.
        cross_modal_heads (`int`, defaults to 4):
            Number of attention heads in each of their attentions.
        cross_modal_mlp_ratio (`float`, defaults to 4):
            Width of their feed-forward layers as a multiple of `cross_modal_hidden_size`.
        cross_modal_act (`str`, defaults to `"gelu"`):
            Activation of their feed-forward layers.
        cross_modal_dropout (`float`, defaults to 0.1):
            Dropout probability after each of their sub-layers.
        cross_modal_attention_dropout (`float`, defaults to 0.0):
            Dropout probability of their attention weights. Above 0 it forbids flash attention on the CPU.

    The other arguments are those of `RenaissanceConfig`.

    Example:

    ```python
    >>> config = TwoTowerConfig.from_encoders(text="bert", vision="vit", cross_modal_layers=2)
    >>> model = TwoTowerModel(config)
    ```
    """

    model_type = "renaissance-two-tower"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }
    attribute_map = {
        "hidden_size": "cross_modal_hidden_size",
        "num_hidden_layers": "cross_modal_layers",
        "num_attention_heads": "cross_modal_heads",
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    cross_modal_hidden_size: int = 256
    cross_modal_layers: int = 6
    cross_modal_heads: int = 4
    cross_modal_mlp_ratio: float | int = 4
    cross_modal_act: str = "gelu"
    cross_modal_dropout: float | int = 0.1
    cross_modal_attention_dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check_fields()

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector of an image-text pair."""
        return self.num_poolers * self.cross_modal_hidden_size

    def check_fields(self) -> None:
        super().check_fields()
        check_heads(
            self.cross_modal_hidden_size, self.cross_modal_heads, ("cross_modal_hidden_size", "cross_modal_heads")
        )
        if self.cross_modal_act not in ACT2FN:
            raise ValueError(f"cross_modal_act: expected one of {', '.join(ACT2FN)}, got {self.cross_modal_act}")
        if self.cross_modal_mlp_ratio <= 0:
            raise ValueError(f"cross_modal_mlp_ratio: expected more than 0, got {self.cross_modal_mlp_ratio}")
        if self.cross_modal_layers < 0:
            raise ValueError(f"cross_modal_layers: expected 0 or more, got {self.cross_modal_layers}")

    @classmethod
    def from_encoders(
        cls,
        text: str | PreTrainedConfig,
        vision: str | PreTrainedConfig,
        text_overrides: dict | None = None,
        vision_overrides: dict | None = None,
        **kwargs,
    ) -> "TwoTowerConfig":
        """
        The configuration of a model built from two encoders.

        Args:
            text: Hub id, folder, model type or configuration of the text encoder.
            vision: The same of the vision encoder.
            text_overrides: Fields of the text encoder's configuration to change.
            vision_overrides: Fields of the vision encoder's configuration to change.
            kwargs: Fields of this configuration.

        Raises:
            ValueError: Where an encoder is unknown or a field does not fit.
        """
        return cls(
            text_config=resolve_encoder_config(text, text_overrides, "text encoder"),
            vision_config=resolve_encoder_config(vision, vision_overrides, "vision encoder"),
            **kwargs,
        )


__all__ = ["TwoTowerConfig"]
