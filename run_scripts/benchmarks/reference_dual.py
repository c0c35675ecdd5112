"""
The reference step of a dual encoder, written from transformers' own encoders as the figure of Radford et al. (2021, figure 3) has it:
text is padded to 50 tokens, both encoders run once, and the loss is the mean of two cross-entropies over all pairs of the batch. It
has the weights of one of our models, and with them gives the same loss. A frozen encoder runs without autograd and dropout.
"""

import contextlib

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from renaissance import DualEncoderConfig
from renaissance.conversion import WeightTransfer


#: Tokens that every text is padded to.
TEXT_LENGTH = 50


class DualEncoderReference(nn.Module):
    """Both encoders, their projections and a temperature; of a text the mean of its states is projected, of an image the first state."""

    def __init__(self, config: DualEncoderConfig):
        super().__init__()
        self.frozen = {"text", "vision"} & set(config.frozen)
        self.text_encoder = AutoModel.from_config(config.text_config)
        self.vision_encoder = AutoModel.from_config(config.vision_config, add_pooling_layer=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.contrastive_size)
        self.image_projection = nn.Linear(config.vision_config.hidden_size, config.contrastive_size)
        self.log_scale = nn.Parameter(torch.zeros(1))
        for part, tower in self.towers().items():
            tower.requires_grad_(part not in self.frozen)

    def towers(self) -> dict[str, nn.Module]:
        """Return the encoders by the part that our model calls them."""
        return {"text": self.text_encoder, "vision": self.vision_encoder}

    def train(self, mode: bool = True) -> "DualEncoderReference":
        """Set training mode, but leave frozen encoders in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            self.towers()[part].eval()
        return self

    def load(self, ours: PreTrainedModel) -> None:
        """Take over the weights of `ours`, a model for pretraining with the configuration that this was built from."""
        transfer = WeightTransfer(ours, self)
        head = {
            f"model.contrastive_head.{name}": name for name in ("text_projection", "image_projection", "log_scale")
        }
        transfer.copy({f"model.{name}": name for name in ("text_encoder", "vision_encoder")} | head)
        assert not transfer.unread and not transfer.unset, (transfer.unread, transfer.unset)

    def states(self, part: str, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the states (B, N, width) of an encoder."""
        with torch.no_grad() if part in self.frozen else contextlib.nullcontext():
            return self.towers()[part](**inputs).last_hidden_state

    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, pixel_values: torch.Tensor
    ) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Return the `loss` (), the `losses` and the `logits` (texts, images) by objective, of texts (B, T) with their images (B, C, H, W)."""
        text = self.states("text", input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1)
        text = self.text_projection((text * mask).sum(dim=1) / mask.sum(dim=1))
        image = self.image_projection(self.states("vision", pixel_values=pixel_values)[:, 0])
        text, image = (vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (text, image))
        logits = self.log_scale.exp() * text @ image.T
        true = torch.arange(len(logits), device=logits.device)
        loss = sum(nn.functional.cross_entropy(scores, true) for scores in (logits, logits.T)) / 2
        return {"loss": loss, "losses": {"contrastive": loss}, "logits": {"contrastive": logits}}


def contrastive_batch(batch: dict[str, torch.Tensor], pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the inputs of the reference: the texts of a batch of our collator, all of one length, and its images (B, C, H, W)."""
    missing = TEXT_LENGTH - batch["input_ids"].shape[1]
    texts = {name: nn.functional.pad(batch[name], (0, missing)) for name in ("input_ids", "attention_mask")}
    return {**texts, "pixel_values": pixel_values}
