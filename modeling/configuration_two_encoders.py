"""Configuration that architectures with a text encoder and a vision encoder share."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_renaissance import RenaissanceConfig
from .fields import described, document_fields


def of_encoder(encoder: str, name: str) -> property:
    """Return a property of a configuration: the field `name` of that of an encoder, which other tools look for here."""

    def set_field(config: PreTrainedConfig, value: Any) -> None:
        setattr(getattr(config, encoder), name, value)

    return property(lambda config: getattr(getattr(config, encoder), name), set_field)


@document_fields
@strict
class TwoEncoderConfig(RenaissanceConfig):
    """A text encoder and a vision encoder."""

    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    takes_padded_images = False

    text_config: dict | PreTrainedConfig | None = described(None, "Configuration of the text encoder.", "BERT's")
    vision_config: dict | PreTrainedConfig | None = described(None, "Configuration of the vision encoder.", "ViT's")

    vocab_size = of_encoder("text_config", "vocab_size")
    pad_token_id = of_encoder("text_config", "pad_token_id")
    max_position_embeddings = of_encoder("text_config", "max_position_embeddings")
    image_size = of_encoder("vision_config", "image_size")
    patch_size = of_encoder("vision_config", "patch_size")
    num_channels = of_encoder("vision_config", "num_channels")
