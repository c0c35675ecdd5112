"""Converts checkpoints of CLIP and SigLIP into dual encoders with the same outputs, with an account of every weight."""

import torch
from transformers import CLIPConfig, CLIPModel, PreTrainedConfig, SiglipConfig, SiglipModel

from .conversion import Conversion, WeightTransfer, load_config, load_model, processor_of
from .modeling.architectures import ARCHITECTURES
from .modeling.configuration_dual_encoder import DualEncoderConfig
from .modeling.encoders import source_name
from .modeling.modeling_dual_encoder import DualEncoderModel


#: Modules of both, and their names in `DualEncoderModel`. The encoders are the same classes of transformers.
ENCODERS = {"text_model": "text_encoder", "vision_model": "vision_encoder"}


def convert_clip(source: str, trust_remote_code: bool = False) -> Conversion:
    """
    Convert a CLIP model (Radford et al. 2021). `source` is the Hub id or folder of a checkpoint of `CLIPModel`, whose tokenizer may
    run code of its own only with `trust_remote_code`. Raise `ValueError` if there is no such checkpoint.
    """
    config = load_config(source, CLIPConfig)
    theirs, unexpected = load_model(source, CLIPModel)
    ours = dual_encoder(source, config, config.projection_dim, "softmax")
    transfer = WeightTransfer(theirs, ours)
    names = {"text_projection": "text_projection", "visual_projection": "image_projection"}
    transfer.copy(names, target_prefix="contrastive_head.")
    new = {f"contrastive_head.{name}.bias": "zero, CLIP's projections have none" for name in names.values()}
    for name in new:
        transfer.target[name].zero_()
    return finished(source, ours, transfer, new, unexpected, trust_remote_code)


def convert_siglip(source: str, trust_remote_code: bool = False) -> Conversion:
    """
    Convert a SigLIP model (Zhai et al. 2023), likewise of `SiglipModel`. Raise `ValueError` if there is no such checkpoint, or its
    vision encoder has no pooling head.
    """
    config = load_config(source, SiglipConfig)
    if not getattr(config.vision_config, "vision_use_head", True):
        raise ValueError(
            f"source {source!r}: vision_use_head: expected a vision encoder with its pooling head, got none"
        )
    theirs, unexpected = load_model(source, SiglipModel)
    size = config.vision_config.hidden_size
    ours = dual_encoder(source, config, size, "sigmoid")
    transfer = WeightTransfer(theirs, ours)
    transfer.set("contrastive_head.bias", transfer.source["logit_bias"].reshape(1), "logit_bias")
    new = {}
    for name in ("text_projection", "image_projection"):
        transfer.target[f"contrastive_head.{name}.weight"].copy_(torch.eye(size))
        transfer.target[f"contrastive_head.{name}.bias"].zero_()
        new[f"contrastive_head.{name}."] = "identity, SigLIP projects in its encoders"
    return finished(source, ours, transfer, new, unexpected, trust_remote_code)


def dual_encoder(source: str, config: PreTrainedConfig, size: int, loss: str) -> DualEncoderModel:
    """Return the model for the weights of `source`, whose configuration is `config`, with vectors of `size`."""
    own = DualEncoderConfig(
        text_config=config.text_config,
        vision_config=config.vision_config,
        text_pooling="own",
        image_pooling="own",
        contrastive_size=size,
        contrastive_loss=loss,
    )
    model = ARCHITECTURES["dual-encoder"].models["Model"](own).eval()
    model.config.weights_from = dict.fromkeys(["text", "vision", "cross_modal"], source_name(source))
    return model


def finished(
    source: str,
    model: DualEncoderModel,
    transfer: WeightTransfer,
    new: dict[str, str],
    unexpected: list[str],
    trust_remote_code: bool,
) -> Conversion:
    """Copy the encoders and the temperature, and return the conversion with its account. `unexpected` are weights that `source` has
    beside those of its model."""
    transfer.copy(ENCODERS)
    transfer.set("contrastive_head.log_scale", transfer.source["logit_scale"].reshape(1), "logit_scale")
    conversion = Conversion(source, model, processor_of(source, model, trust_remote_code))
    conversion.account(transfer, {}, new)
    conversion.left_out += [f"{name}: no part of the model" for name in unexpected]
    return conversion
