"""Configuration of the dual-encoder architecture."""

from huggingface_hub.dataclasses import strict

from .configuration_two_encoders import TwoEncoderConfig
from .contrastive import INITIAL_SCALES
from .fields import described, document_fields, option
from .objectives import CONTRASTIVE_SIZE


#: How one vector is made of the states of an encoder.
POOLINGS = ("mean", "first", "own")


@document_fields
@strict
class DualEncoderConfig(TwoEncoderConfig):
    """
    A text encoder and a vision encoder, whose vectors are compared (Radford et al. 2021; Zhai et al. 2022 if the vision encoder is
    frozen; Zhai et al. 2023 with the sigmoid loss).

    Example:

    ```python
    >>> config = DualEncoderConfig.from_encoders(text="bert", vision="vit", contrastive_size=256)
    >>> model = DualEncoderModel(config)
    ```
    """

    model_type = "renaissance-dual-encoder"
    attribute_map = {"hidden_size": "contrastive_size", "projection_dim": "contrastive_size"}
    fuses = False
    default_objectives = ("contrastive",)

    text_pooling: str = option(
        "mean",
        "Dual encoder: the vector that is projected of a text. mean: the mean of its states; first: the first state; own: "
        "the pooled vector that the encoder itself makes, as those of CLIP and SigLIP do.",
        choices=POOLINGS,
    )
    image_pooling: str = option("mean", "The same of an image.", choices=POOLINGS)
    contrastive_size: int = option(
        CONTRASTIVE_SIZE, "Width of the vectors of texts and of images.", within="[1, 65536]"
    )
    contrastive_loss: str = option(
        "softmax",
        "Loss of the vectors: softmax, the cross-entropy of each row's text among all texts and of its image among all images; "
        "or sigmoid, the binary cross-entropy of each pair, with a learned bias.",
        choices=tuple(INITIAL_SCALES),
    )
    pooler: str = described("single", "Without effect: no pairs are pooled.")
    num_images: int = described(2, "Without effect: no text is fused with images.", within="[1, inf)")

    @property
    def pooled_size(self) -> int:
        """Width of the vector of a text or of an image."""
        return self.contrastive_size

    def check_fields(self) -> None:
        super().check_fields()
        for name in ("text_pooling", "image_pooling"):
            if getattr(self, name) not in POOLINGS:
                raise ValueError(f"{name}: expected one of {', '.join(POOLINGS)}, got {getattr(self, name)!r}")


__all__ = ["DualEncoderConfig"]
