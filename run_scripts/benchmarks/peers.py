"""
Peers: models of transformers that are trained on both objectives too, at the sizes of ours and with random weights. They get the
batches of the reference, with texts padded to 50 tokens.

Where they differ from ours:

- ViLT is one tower of the same layers. Its attention is eager, for transformers has no other for it; its vocabulary head has the
  word embeddings' weights; it scores matching by one number. It takes one pass for each objective, as in its paper.
- LXMERT has no vision tower. The pixels of a patch take the place of a region's features, and as many layers as ours has in its
  tower, but of the cross-modal width, run over the patches, where ours are narrower (192 for 256 in `small`). One pass of the
  masked text serves both objectives, also for pairs that don't match. Its attention is eager.
- BridgeTower has the same towers, with a RoBERTa for the text, and cross-modal layers that each also read a layer of the towers. It
  takes one pass for each objective. Its cross-modal layers are as wide as its text tower.
"""

import torch
from torch import nn
from transformers import (
    BridgeTowerConfig,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    LxmertConfig,
    LxmertForPreTraining,
    PreTrainedModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForMaskedLM,
)

from renaissance import OneTowerConfig, TwoTowerConfig

from .reference import TEXT_LENGTH, Pretrained, ReferenceBatch


class PassEach(Pretrained):
    """
    A peer with a pass for each objective, over one body.

    Args:
        mlm: Its model for masked language modelling.
        itm: Its model for matching; it gets the body of `mlm`.
    """

    def __init__(self, mlm: PreTrainedModel, itm: PreTrainedModel):
        super().__init__()
        setattr(itm, itm.base_model_prefix, mlm.base_model)
        self.mlm, self.itm = mlm, itm

    def losses(self, batch: ReferenceBatch) -> dict[str, torch.Tensor]:
        """Return the `loss` ()."""
        mlm = self.mlm(**batch.masked, labels=batch.mlm_labels).loss
        scores = self.itm(**batch.paired).logits.float()
        if scores.shape[1] == 1:
            return {
                "loss": mlm + nn.functional.binary_cross_entropy_with_logits(scores[:, 0], batch.itm_labels.float())
            }
        return {"loss": mlm + nn.functional.cross_entropy(scores, batch.itm_labels)}


class Lxmert(Pretrained):
    """
    LXMERT on the patches of images, with one pass for both objectives.

    Args:
        config: Its configuration.
        grid: Patches in a row and in a column of an image.
        patch_size: Height and width of a patch in pixels.
    """

    def __init__(self, config: LxmertConfig, grid: int, patch_size: int):
        super().__init__()
        self.model = LxmertForPreTraining(config)
        self.patch_size = patch_size
        edges = torch.arange(grid + 1) / grid
        top, left = torch.meshgrid(edges[:-1], edges[:-1], indexing="ij")
        boxes = torch.stack([left, top, left + 1 / grid, top + 1 / grid], dim=-1)
        self.register_buffer("boxes", boxes.flatten(0, 1))

    def losses(self, batch: ReferenceBatch) -> dict[str, torch.Tensor]:
        """Return the `loss` ()."""
        size = self.patch_size
        patches = nn.functional.unfold(batch.paired["pixel_values"], size, stride=size).transpose(1, 2)
        loss = self.model(
            batch.mlm_input_ids,
            patches,
            self.boxes.expand(len(patches), -1, -1),
            attention_mask=batch.attention_mask,
            labels=batch.mlm_labels,
            matched_label=batch.itm_labels,
        ).loss
        return {"loss": loss.squeeze()}


def build_peers(config: OneTowerConfig | TwoTowerConfig, image_size: int = 224) -> dict[str, nn.Module]:
    """Return the peers of a model of ours by name, in training mode, at its sizes and without dropout; none of a dual encoder."""
    if not config.fuses:
        return {}
    peers = one_tower_peers(config) if isinstance(config, OneTowerConfig) else two_tower_peers(config, image_size)
    return {name: peer.train() for name, peer in peers.items()}


def one_tower_peers(config: OneTowerConfig) -> dict[str, nn.Module]:
    """Return ViLT."""
    encoder = config.encoder_config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: getattr(encoder, name) for name in names}
    vilt = ViltConfig(
        **sizes,
        image_size=config.image_size,
        patch_size=config.patch_size,
        max_position_embeddings=TEXT_LENGTH,
    )
    return {"ViLT": PassEach(ViltForMaskedLM(vilt), ViltForImageAndTextRetrieval(vilt))}


def two_tower_peers(config: TwoTowerConfig, image_size: int) -> dict[str, nn.Module]:
    """Return LXMERT and BridgeTower."""
    text, vision, layers = config.text_config, config.vision_config, config.cross_modal_layers
    width = config.cross_modal_hidden_size
    joined = {
        "hidden_size": width,
        "num_attention_heads": config.cross_modal_heads,
        "intermediate_size": round(width * config.cross_modal_mlp_ratio),
    }
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    lxmert = LxmertConfig(
        vocab_size=text.vocab_size,
        l_layers=text.num_hidden_layers,
        r_layers=vision.num_hidden_layers,
        x_layers=layers,
        visual_feat_dim=3 * vision.patch_size**2,
        max_position_embeddings=TEXT_LENGTH,
        task_obj_predict=False,
        task_qa=False,
        **joined,
        **no_dropout,
    )
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    # RoBERTa's positions begin after that of padding.
    positions = {"pad_token_id": 0, "max_position_embeddings": TEXT_LENGTH + 1}
    bridge = BridgeTowerConfig(
        num_hidden_layers=layers,
        text_config={name: getattr(text, name) for name in names} | positions | no_dropout,
        vision_config={
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "patch_size": vision.patch_size,
            "image_size": image_size,
        },
        **joined,
    )
    return {
        "LXMERT": Lxmert(lxmert, image_size // vision.patch_size, vision.patch_size),
        "BridgeTower": PassEach(BridgeTowerForMaskedLM(bridge), BridgeTowerForImageAndTextRetrieval(bridge)),
    }
