"""What the models and their heads return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class EncodedText(ModelOutput):
    """
    Text, encoded and ready to be fused with images.

    Args:
        states (`torch.FloatTensor` of shape `(batch, tokens, width)`): One state a token.
        mask (`torch.LongTensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
        padded (`bool`): `False` if there can be no padding, so that no attention mask is made.
        hidden_states (`tuple` of `torch.FloatTensor`): The text tower's own, if they were asked for.
        attentions (`tuple` of `torch.FloatTensor`): The text tower's own, if they were asked for.
    """

    states: torch.FloatTensor | None = None
    mask: torch.LongTensor | None = None
    padded: bool | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    @property
    def padding_mask(self) -> torch.LongTensor | None:
        """The mask, or `None` if there can be no padding."""
        return None if self.padded is False else self.mask

    def rows(self, index: torch.LongTensor) -> "EncodedText":
        """Return the rows at `index`, in its order; a row may come back more than once."""
        return type(self)(states=self.states[index], mask=self.mask[index], padded=self.padded)


@dataclass
class EncodedImage(EncodedText):
    """
    Images, encoded and ready to be fused with text.

    Args:
        states (`torch.FloatTensor` of shape `(batch, patches, width)`): One state a patch, special tokens included.
        mask (`torch.LongTensor` of shape `(batch, patches)`): 1 for patches, 0 for padding.
        padded (`bool`): `False` if there can be no padding, so that no attention mask is made.
        hidden_states (`tuple` of `torch.FloatTensor`): The vision tower's own, if they were asked for.
        attentions (`tuple` of `torch.FloatTensor`): The vision tower's own, if they were asked for.
    """


#: What `fuse` can make, and a caller may read.
FUSED = ("text_states", "image_states", "pooled")


@dataclass
class FusedOutput(ModelOutput):
    """
    Text and images that have seen each other.

    Args:
        text_states (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`):
            `None` where there is no text, or nothing reads them.
        image_states (`torch.FloatTensor` of shape `(batch, patches, hidden_size)`):
            `None` where there is no image, or nothing reads them.
        pooled (`torch.FloatTensor` of shape `(batch, pooled_size)`):
            One vector a pair; of the text or the image alone where the other is missing. `None` where nothing reads it.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, patches + tokens, width)`):
            The joined states, the image first, before the first and after each of the layers that fuse.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, patches + tokens, patches + tokens)`):
            The layers' attention weights, the image first in both directions. In a one-tower model a row sums to 1. In a
            two-tower model a layer's four maps lie in one matrix, self-attention on the diagonal blocks and
            cross-attention beside them, and a row sums to 1 in each block.
    """

    text_states: torch.FloatTensor | None = None
    image_states: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class PreTrainingOutput(ModelOutput):
    """
    Losses and logits of the pretraining objectives; those of an objective that the batch does not ask for are `None`.

    Args:
        loss (`torch.FloatTensor`): The weighted sum of the losses below.
        mlm_loss (`torch.FloatTensor`): Masked language modelling, mean over the masked tokens.
        itm_loss (`torch.FloatTensor`): Image-text matching, mean over the pairs.
        mlm_logits (`torch.FloatTensor` of shape `(masked tokens, vocabulary)`):
            Scores at the masked positions only, row by row.
        itm_logits (`torch.FloatTensor` of shape `(batch, 2)`): Scores of "no match" and "match".
        hidden_states (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, of the last pass that fused.
        attentions (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, of the last pass that fused.
    """

    loss: torch.FloatTensor | None = None
    mlm_loss: torch.FloatTensor | None = None
    itm_loss: torch.FloatTensor | None = None
    mlm_logits: torch.FloatTensor | None = None
    itm_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class RetrievalOutput(ModelOutput):
    """
    Losses and scores of candidate pairs.

    Args:
        loss (`torch.FloatTensor`): The sum of the losses below.
        matching_loss (`torch.FloatTensor`): Cross-entropy over the candidates of a row.
        contrastive_loss (`torch.FloatTensor`): InfoNCE of the true pairs; `None` without `config.contrastive_size`.
        logits (`torch.FloatTensor` of shape `(batch, candidates)`): How well text and image of each pair fit.
        hidden_states (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each pair.
        attentions (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each pair.
    """

    loss: torch.FloatTensor | None = None
    matching_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
