"""Configuration of the two-tower architecture."""

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from .configuration_renaissance import check_heads
from .configuration_two_encoders import TwoEncoderConfig
from .fields import document_fields, option


@document_fields
@strict
class TwoTowerConfig(TwoEncoderConfig):
    """
    A text encoder, a vision encoder, and cross-modal layers that join them.

    Example:

    ```python
    >>> config = TwoTowerConfig.from_encoders(text="bert", vision="vit", cross_modal_layers=2)
    >>> model = TwoTowerModel(config)
    ```
    """

    model_type = "renaissance-two-tower"
    attribute_map = {
        "hidden_size": "cross_modal_hidden_size",
        "num_hidden_layers": "cross_modal_layers",
        "num_attention_heads": "cross_modal_heads",
    }

    cross_modal_hidden_size: int = option(
        256,
        "Width of the cross-modal layers; the states of both encoders are projected to it.",
        within="[1, 65536]",
    )
    cross_modal_layers: int = option(6, "Number of cross-modal layers.", within="[0, 1024]")
    cross_modal_heads: int = option(
        4, "Attention heads in each attention of the cross-modal layers.", within="[1, 65536]"
    )
    cross_modal_mlp_ratio: float | int = option(
        4, "Width of their feed-forward layers, as a multiple of cross_modal_hidden_size.", within="(0, 1024]"
    )
    cross_modal_act: str = option("gelu", "Activation of their feed-forward layers.")
    cross_modal_dropout: float | int = option(
        0.1, "Dropout probability after each of their sub-layers.", within="[0, 1)"
    )
    cross_modal_attention_dropout: float | int = option(
        0.0, "Dropout probability of their attention weights; above 0 it is slow on a CPU.", within="[0, 1)"
    )

    def check_fields(self) -> None:
        super().check_fields()
        check_heads(
            self.cross_modal_hidden_size, self.cross_modal_heads, ("cross_modal_hidden_size", "cross_modal_heads")
        )
        if self.cross_modal_act not in ACT2FN:
            raise ValueError(f"cross_modal_act: expected one of {', '.join(ACT2FN)}, got {self.cross_modal_act}")


__all__ = ["TwoTowerConfig"]
