"""
The reference step: what the original platform does, written from transformers' own modules. Masked language modelling (masked
text, true image) and image-text matching (clean text, half of the images false ones) are two passes, each through both towers
and all of the cross-modal layers; text is padded to 50 tokens; the vocabulary is scored at every token.

It has the weights of one of our models, and with them gives the same losses. For that it masks the padding of text, everywhere.
Its towers attend as transformers has them by default, with SDPA; LXMERT's layers have eager attention only. A frozen tower runs
without autograd and dropout, as ours does.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, LxmertConfig, PreTrainedModel, ViTConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer
from transformers.models.vit.modeling_vit import ViTEmbeddings

from renaissance import DualEncoderConfig, OneTowerConfig, TwoTowerConfig
from renaissance.conversion import LXMERT_LAYER, WeightTransfer

from .reference_dual import TEXT_LENGTH, DualEncoderReference


#: Pixels along a side of a cell of the last feature map of an encoder of four stages, such as ConvNeXt.
GRID_STRIDE = 32


@dataclass(frozen=True)
class ReferenceBatch:
    """
    A batch that `reference_batch` made.

    Attributes:
        input_ids, attention_mask, mlm_input_ids, mlm_labels: Texts (B, T), masked and not, as in our batches.
        pixel_values: Images (I, C, H, W), normalised.
        image_index: The image of each text (B,).
        itm_image_index, itm_labels: The image that each text is matched with (B,), and whether it is its own.
    """

    input_ids: torch.LongTensor
    attention_mask: torch.LongTensor
    mlm_input_ids: torch.LongTensor
    mlm_labels: torch.LongTensor
    pixel_values: torch.Tensor
    image_index: torch.LongTensor
    itm_image_index: torch.LongTensor
    itm_labels: torch.LongTensor

    @property
    def masked(self) -> dict[str, torch.Tensor]:
        """The masked texts, each with its image."""
        images = self.pixel_values[self.image_index]
        return {"input_ids": self.mlm_input_ids, "attention_mask": self.attention_mask, "pixel_values": images}

    @property
    def paired(self) -> dict[str, torch.Tensor]:
        """The texts, each with the image that it is matched with."""
        images = self.pixel_values[self.itm_image_index]
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "pixel_values": images}


class Pretrained(nn.Module):
    """A model that is trained on the batches of the reference. A subclass has `losses`."""

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Return the `loss` () of a batch that `reference_batch` made, and what else the model has to say of it."""
        return self.losses(ReferenceBatch(**batch))

    def losses(self, batch: ReferenceBatch) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Return what `forward` returns."""
        raise NotImplementedError


class Reference(Pretrained):
    """
    Both objectives on a pass each. A subclass has the modules that make states of a text and an image.

    Args:
        hidden_size: Width of the states.
        vocab_size: Number of word pieces.
        eps: Epsilon of the head's layer norm.
    """

    def __init__(self, hidden_size: int, vocab_size: int, eps: float):
        super().__init__()
        self.type_embeddings = nn.Embedding(2, hidden_size)
        self.text_pooler = nn.Linear(hidden_size, hidden_size)
        self.image_pooler = nn.Linear(hidden_size, hidden_size)
        self.mlm_head = nn.Sequential(
            nn.Linear(hidden_size, hidden_size),
            nn.GELU(),
            nn.LayerNorm(hidden_size, eps=eps),
            nn.Linear(hidden_size, vocab_size),
        )
        self.itm_head = nn.Linear(2 * hidden_size, 2)

    def states(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the text (B, T, size) and of the image (B, P, size) that have seen each other."""
        raise NotImplementedError

    def losses(self, batch: ReferenceBatch) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Return the `loss` (), the `losses` by objective, and the `logits`: of all tokens (B, T, vocabulary) and of the pairs (B, 2)."""
        text, _ = self.states(**batch.masked)
        mlm_logits = self.mlm_head(text)
        mlm_loss = nn.functional.cross_entropy(mlm_logits.flatten(0, 1), batch.mlm_labels.flatten())
        itm_logits = self.matching(**batch.paired)
        itm_loss = nn.functional.cross_entropy(itm_logits, batch.itm_labels)
        return {
            "loss": mlm_loss + itm_loss,
            "losses": {"mlm": mlm_loss, "itm": itm_loss},
            "logits": {"mlm": mlm_logits, "itm": itm_logits},
        }

    def matching(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, pixel_values: torch.Tensor
    ) -> torch.Tensor:
        """Scores (B, 2) of "no match" and "match", of each text with the image in its row."""
        text, image = self.states(input_ids, attention_mask, pixel_values)
        pooled = [self.text_pooler(text[:, 0]), self.image_pooler(image[:, 0])]
        return self.itm_head(torch.cat(pooled, dim=-1).tanh())

    def names(self) -> dict[str, str]:
        """What modules and parameters are called in our model, and what here."""
        return {
            "model.text_pooler.dense": "text_pooler",
            "model.image_pooler.dense": "image_pooler",
            "mlm_head.dense": "mlm_head.0",
            "mlm_head.layer_norm": "mlm_head.2",
            "mlm_head.decoder": "mlm_head.3",
            "itm_head": "itm_head",
        }

    def load(self, ours: PreTrainedModel) -> None:
        """Takes over the weights of `ours`, a model for pretraining with the configuration that this was built from."""
        transfer = WeightTransfer(ours, self)
        transfer.copy(self.names())
        # Further rows are for the second image of a pair.
        types = "model.type_embeddings.weight"
        transfer.set("type_embeddings.weight", transfer.source[types][:2], types)
        assert not transfer.unread and not transfer.unset, (transfer.unread, transfer.unset)


class TwoTowerReference(Reference):
    """Two towers and LXMERT's cross-modal layers, each in full."""

    def __init__(self, config: TwoTowerConfig):
        size = config.cross_modal_hidden_size
        super().__init__(size, config.text_config.vocab_size, config.layer_norm_eps)
        self.frozen = {"text", "vision"} & set(config.frozen)
        self.text_encoder = AutoModel.from_config(config.text_config)
        self.vision_encoder = AutoModel.from_config(config.vision_config, add_pooling_layer=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, size)
        self.image_projection = nn.Linear(config.vision_config.hidden_size, size)
        layer = LxmertConfig(
            hidden_size=size,
            num_attention_heads=config.cross_modal_heads,
            intermediate_size=round(size * config.cross_modal_mlp_ratio),
            hidden_dropout_prob=config.cross_modal_dropout,
            attention_probs_dropout_prob=config.cross_modal_attention_dropout,
        )
        self.cross_modal_layers = nn.ModuleList(LxmertXLayer(layer) for _ in range(config.cross_modal_layers))
        for part, tower in self.towers().items():
            tower.requires_grad_(part not in self.frozen)

    def towers(self) -> dict[str, nn.Module]:
        return {"text": self.text_encoder, "vision": self.vision_encoder}

    def train(self, mode: bool = True) -> "TwoTowerReference":
        super().train(mode)
        for part in self.frozen:
            self.towers()[part].eval()
        return self

    def tower_states(self, part: str, **inputs) -> torch.Tensor:
        with torch.no_grad() if part in self.frozen else contextlib.nullcontext():
            return self.towers()[part](**inputs).last_hidden_state

    def states(self, input_ids, attention_mask, pixel_values):
        text = self.tower_states("text", input_ids=input_ids, attention_mask=attention_mask)
        image = self.tower_states("vision", pixel_values=pixel_values)
        text = self.text_projection(text) + self.type_embeddings.weight[0]
        image = self.image_projection(image) + self.type_embeddings.weight[1]
        text_mask = (1 - attention_mask[:, None, None, :]).to(text.dtype) * torch.finfo(text.dtype).min
        for layer in self.cross_modal_layers:
            text, image = layer(text, text_mask, image, None)
        return text, image

    def names(self):
        same = ("text_encoder", "vision_encoder", "text_projection", "image_projection")
        layers = {
            f"model.cross_modal_layers.{number}.{ours}": f"cross_modal_layers.{number}.{theirs}"
            for number in range(len(self.cross_modal_layers))
            for theirs, ours in LXMERT_LAYER.items()
        }
        return super().names() | layers | {f"model.{name}": name for name in same}


class OneTowerReference(Reference):
    """BERT's layers on the embeddings of image and text."""

    def __init__(self, config: OneTowerConfig):
        size = config.hidden_size
        super().__init__(size, config.vocab_size, config.layer_norm_eps)
        self.config = config.encoder_config
        self.words = nn.Embedding(config.vocab_size, size)
        self.positions = nn.Embedding(config.max_position_embeddings, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.image_embeddings = self.build_image_embeddings(config)
        bert = AutoModel.from_config(self.config, add_pooling_layer=False)
        self.config, self.encoder = bert.config, bert.encoder

    def build_image_embeddings(self, config: OneTowerConfig) -> nn.Module:
        """Return what makes states (B, P, size) of images."""
        image = {"image_size": config.image_size, "patch_size": config.patch_size}
        return ViTEmbeddings(
            ViTConfig(hidden_size=config.hidden_size, hidden_dropout_prob=config.embedding_dropout, **image)
        )

    def states(self, input_ids, attention_mask, pixel_values):
        text = self.words(input_ids) + self.positions.weight[: input_ids.shape[1]]
        text = self.dropout(self.layer_norm(text)) + self.type_embeddings.weight[0]
        image = self.image_embeddings(pixel_values) + self.type_embeddings.weight[1]
        states = torch.cat([image, text], dim=1)
        mask = torch.cat([attention_mask.new_ones(image.shape[:2]), attention_mask], dim=1)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        states = self.encoder(states, attention_mask=mask).last_hidden_state
        return states[:, image.shape[1] :], states[:, : image.shape[1]]

    def names(self):
        own = {
            "text_embeddings.word_embeddings": "words",
            "text_embeddings.position_embeddings": "positions",
            "text_embeddings.layer_norm": "layer_norm",
            "image_embeddings.cls_token": "image_embeddings.cls_token",
            "image_embeddings.position_embeddings": "image_embeddings.position_embeddings",
            "image_embeddings.patch_embeddings": "image_embeddings.patch_embeddings.projection",
            "encoder.encoder": "encoder",
        }
        return super().names() | {f"model.{ours}": here for ours, here in own.items()}


class GridEmbeddingsReference(nn.Module):
    """The cells of a convolutional encoder's last feature map, behind a class token, normalised and projected (Dosovitskiy et al. 2021,
    section 3.1)."""

    def __init__(self, config: OneTowerConfig):
        super().__init__()
        self.frozen = "vision" in config.frozen
        self.vision_encoder = AutoModel.from_config(config.vision_config).requires_grad_(not self.frozen)
        channels, cells = config.vision_config.hidden_sizes[-1], (config.image_size // GRID_STRIDE) ** 2
        self.layer_norm = nn.LayerNorm(channels)
        self.patch_embeddings = nn.Conv2d(channels, config.hidden_size, 1)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + cells, config.hidden_size))
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the states (B, 1 + cells, size) of images (B, C, H, W)."""
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            cells = self.vision_encoder(pixel_values).last_hidden_state.permute(0, 2, 3, 1)
        cells = self.patch_embeddings(self.layer_norm(cells).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(cells), -1, -1)
        return self.dropout(torch.cat([first, cells], dim=1) + self.position_embeddings)


class GridReference(OneTowerReference):
    """BERT's layers on grid features and the embeddings of text."""

    def build_image_embeddings(self, config: OneTowerConfig) -> nn.Module:
        return GridEmbeddingsReference(config)

    def names(self):
        names = super().names() | {
            f"model.{name}": name for name in ("image_embeddings.patch_embeddings", "image_embeddings.layer_norm")
        }
        return names | {"model.vision_encoder": "image_embeddings.vision_encoder"}


def build_reference(ours: PreTrainedModel) -> Reference | DualEncoderReference:
    """The reference of one of our models for pretraining, with its weights and what it freezes."""
    one_tower = OneTowerReference if ours.config.vision_config is None else GridReference
    kinds = {TwoTowerConfig: TwoTowerReference, OneTowerConfig: one_tower, DualEncoderConfig: DualEncoderReference}
    reference = kinds[type(ours.config)](ours.config)
    with torch.no_grad():
        reference.load(ours)
    return reference


def reference_batch(
    batch: dict[str, torch.Tensor], pixel_values: torch.Tensor, length: int = TEXT_LENGTH
) -> dict[str, torch.Tensor]:
    """
    Return the inputs of the reference, which encodes an image anew for each text that meets it.

    Args:
        batch: A batch of our collator. If it has no clean text, the masked one is matched.
        pixel_values: Its images (I, C, H, W), normalised.
        length: Tokens to pad text to.
    """
    padding = {"input_ids": 0, "attention_mask": 0, "mlm_input_ids": 0, "mlm_labels": -100}
    texts = {"input_ids": batch["mlm_input_ids"]} | batch
    padded = {
        name: nn.functional.pad(texts[name], (0, length - texts[name].shape[1]), value=value)
        for name, value in padding.items()
    }
    own = batch.get("image_index", torch.arange(len(batch["mlm_labels"])))
    pairs = {name: batch[name] for name in ("itm_image_index", "itm_labels")}
    return {**padded, "pixel_values": pixel_values, "image_index": own, **pairs}
