"""What the models and their heads return."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
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
        pooled (`torch.FloatTensor` of shape `(batch, width)`): One vector a row, if the architecture makes one of a text alone.
    """

    states: torch.FloatTensor | None = None
    mask: torch.LongTensor | None = None
    padded: bool | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pooled: torch.FloatTensor | None = None

    @classmethod
    def of(
        cls,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        output: BaseModelOutputWithPooling,
        pooled: torch.Tensor | None = None,
    ) -> "EncodedText":
        """Return the `states` (B, N, width) that were made of the `output` of an encoder; without a `mask` nothing is padding."""
        whole = torch.ones(states.shape[:2], dtype=torch.long, device=states.device) if mask is None else mask
        layers = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return cls(states=states, mask=whole, padded=mask is not None, pooled=pooled, **layers)

    @property
    def padding_mask(self) -> torch.LongTensor | None:
        """The mask, or `None` if there can be no padding."""
        return None if self.padded is False else self.mask

    def rows(self, index: torch.LongTensor) -> "EncodedText":
        """Return the rows at `index`, in its order; a row may come back more than once."""
        return self.each(lambda values: values.index_select(0, index))

    def slice(self, start: int, count: int) -> "EncodedText":
        """Return `count` rows from `start` on, without copying them."""
        return self.each(lambda values: values[start : start + count])

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "EncodedText":
        """Return the same with `change` made to each of the values that have a row a text."""
        pooled = None if self.pooled is None else change(self.pooled)
        return type(self)(states=change(self.states), mask=change(self.mask), padded=self.padded, pooled=pooled)


@dataclass
class EncodedImage(EncodedText):
    """Images, encoded and ready to be fused with text: as `EncodedText`, with a state for each patch and special token."""


#: What `fuse` can make, and a caller may read.
FUSED = ("text_states", "image_states", "pooled")


@dataclass
class FusedOutput(ModelOutput):
    """
    Text and images that have seen each other.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, patches + tokens, hidden_size)`):
            The states of the image and those of the text behind them, or of what there is of them. A base model's `forward`
            gives it if everything is read.
        pooler_output (`torch.FloatTensor` of shape `(batch, pooled_size)`): `pooled`, under the name that other tools read.
        text_states (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`): `None` if there are none or nothing reads them.
        image_states (`torch.FloatTensor` of shape `(batch, patches, hidden_size)`): Likewise.
        pooled (`torch.FloatTensor` of shape `(batch, pooled_size)`): One vector a pair, or of what there is of it; or `None`.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(batch, patches + tokens, width)`):
            The joined states, the image first, before the first and after each of the layers that fuse.
        attentions (`tuple` of `torch.FloatTensor` of shape `(batch, heads, patches + tokens, patches + tokens)`):
            The layers' attention weights, the image first both ways. In a one-tower model a row sums to 1. In a two-tower model a
            matrix has self-attention on the diagonal blocks and cross-attention beside them, and a row sums to 1 in each.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    text_states: torch.FloatTensor | None = None
    image_states: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    def with_common_names(self) -> "FusedOutput":
        """Return this output with `last_hidden_state` and `pooler_output` in front, which transformers and others read."""
        states = joined(self.text_states, self.image_states)
        return type(self)(**{**self, "last_hidden_state": states, "pooler_output": self.pooled})


@dataclass
class DualEncoderOutput(ModelOutput):
    """
    Texts, images, or both, and how well each text fits each image.

    Args:
        logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): Scaled cosines, if there are both.
        logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): The same, transposed.
        text_embeds (`torch.FloatTensor` of shape `(texts, contrastive_size)`): Vectors of length 1, if there are texts.
        image_embeds (`torch.FloatTensor` of shape `(images, contrastive_size)`): Vectors of length 1, if there are images.
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens or patches, width)`): The states of the one stream, if
            there is one.
        pooler_output (`torch.FloatTensor` of shape `(batch, contrastive_size)`): Its vectors.
        text_states (`torch.FloatTensor` of shape `(texts, tokens, width)`): The states of the text encoder.
        image_states (`torch.FloatTensor` of shape `(images, patches, width)`): The states of the vision encoder.
        pooled (`torch.FloatTensor` of shape `(batch, contrastive_size)`): As `pooler_output`.
        hidden_states (`tuple` of `torch.FloatTensor`): Those of the encoder of the one stream, if they were asked for.
        attentions (`tuple` of `torch.FloatTensor`): Those of the encoder of the one stream, if they were asked for.
        text_hidden_states, image_hidden_states, text_attentions, image_attentions (`tuple` of `torch.FloatTensor`): Those of each
            encoder, if there are both streams and they were asked for.
    """

    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    text_states: torch.FloatTensor | None = None
    image_states: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    text_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    text_attentions: tuple[torch.FloatTensor, ...] | None = None
    image_attentions: tuple[torch.FloatTensor, ...] | None = None

    def with_common_names(self) -> "DualEncoderOutput":
        """Return this output with `last_hidden_state` and `pooler_output`, if it is of texts alone or of images alone."""
        if self.logits_per_image is not None:
            return self
        states = self.image_states if self.text_states is None else self.text_states
        return type(self)(**{**self, "last_hidden_state": states, "pooler_output": self.pooled})


def joined(text: torch.Tensor | None, image: torch.Tensor | None) -> torch.Tensor:
    """Return one sequence (B, P + T, size), the image first, of the streams that there are."""
    streams = [states for states in (image, text) if states is not None]
    return streams[0] if len(streams) == 1 else torch.cat(streams, dim=1)


@dataclass
class PreTrainingOutput(ModelOutput):
    """
    Losses and scores of the pretraining objectives that the batch asks for, by their names.

    Args:
        loss (`torch.FloatTensor`): The weighted sum of the losses below.
        losses (`dict` of `torch.FloatTensor`): The loss of each objective, a mean over its terms (masked tokens, pairs, ...).
        logits (`dict` of `torch.FloatTensor`):
            The scores of each objective: `"mlm"`, (masked tokens, vocabulary), at the masked positions only; `"itm"`, (pairs, 2), of
            "no match" and "match"; `"contrastive"`, (batch, batch), of each text with the image of each row; and so on (`Objective`).
        hidden_states (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each distinct pair.
        attentions (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each distinct pair.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    logits: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class RetrievalOutput(ModelOutput):
    """
    Losses and scores of candidate pairs.

    `logits_per_image` is `logits`, under the name that zero-shot classification of images reads.

    Args:
        loss (`torch.FloatTensor`): The sum of the losses below.
        losses (`dict` of `torch.FloatTensor`): `"matching"`, cross-entropy over the candidates of a row, and, with
            `config.contrastive_size`, `"contrastive"`, InfoNCE of the true pairs.
        logits (`torch.FloatTensor` of shape `(batch, candidates)`): How well text and image of each pair fit.
        hidden_states (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each pair.
        attentions (`tuple` of `torch.FloatTensor`): As in `FusedOutput`, a row for each pair.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    @property
    def logits_per_image(self) -> torch.FloatTensor:
        return self.logits
