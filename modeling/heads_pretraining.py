"""The heads that score the vocabulary: masked language modelling, alone or with image-text matching."""

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from .heads import HeadModel, PairHead
from .outputs import FusedOutput, PreTrainingOutput


class MaskedLMHead(nn.Module):
    """
    BERT's masked-LM head (Devlin et al. 2019, section 3.1): dense, GELU, layer norm, vocabulary projection with bias.

    Args:
        config: The model's configuration.
        word_embeddings: The input embeddings (vocabulary, embedding size), which give the sizes. Where the projection
            is tied to them, the dense layer goes from the hidden to the embedding size.
    """

    def __init__(self, config, word_embeddings: nn.Embedding):
        super().__init__()
        vocab_size, embedding_size = word_embeddings.weight.shape
        size = embedding_size if config.tie_word_embeddings else config.hidden_size
        self.dense = nn.Linear(config.hidden_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(size, vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer_norm(nn.functional.gelu(self.dense(states))))


def masked_lm_loss(logits: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """Cross-entropy (), mean over the labels (N,) that are not -100, of scores (N, vocabulary); 0 where all are."""
    # A sum over a count: the mean over no masked token would be NaN.
    total = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


class VocabularyHead(HeadModel):
    """A head that scores the vocabulary, with a projection that may be tied to the word embeddings."""

    def add_mlm_head(self, config) -> None:
        embeddings = self.get_input_embeddings()
        self.mlm_head = MaskedLMHead(config, embeddings)
        source = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"mlm_head.decoder.weight": f"{source}.weight"}

    def get_output_embeddings(self) -> nn.Module | None:
        return self.mlm_head.decoder if hasattr(self, "mlm_head") else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.mlm_head.decoder = new_embeddings


class PreTrainingHead(VocabularyHead):
    """Masked language modelling and image-text matching; an objective of weight 0 has no head."""

    @property
    def reads(self) -> tuple[str, ...]:
        return ("text_states",) * bool(self.config.mlm_weight) + ("pooled",) * bool(self.config.itm_weight)

    def add_head(self, config) -> None:
        if not (config.mlm_weight or config.itm_weight):
            raise ValueError("mlm_weight and itm_weight are both 0: no objective is left to pretrain with")
        if config.mlm_weight:
            self.add_mlm_head(config)
        if config.itm_weight:
            self.itm_head = nn.Linear(config.pooled_size, 2)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        mlm_input_ids: torch.LongTensor | None = None,
        mlm_labels: torch.LongTensor | None = None,
        itm_image_index: torch.LongTensor | None = None,
        itm_labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        mlm_image_index: torch.LongTensor | None = None,
        image_features: torch.Tensor | None = None,
    ) -> PreTrainingOutput:
        """
        The losses of the objectives that the batch has inputs for. The images are encoded once for all of them.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): The clean text, for image-text matching. Without it,
                where there are `itm_labels`, the corrupted text is matched, so that a pair that matches is fused once for both
                objectives.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding, of both texts.
            pixel_values (`torch.Tensor` of shape `(images, channels, height, width)`): One image a row, or, with
                `mlm_image_index`, the images of all rows.
            pixel_mask (`torch.Tensor` of shape `(images, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            mlm_input_ids (`torch.LongTensor` of shape `(batch, tokens)`): The corrupted text, for masked language
                modelling; always with the image of its own row.
            mlm_labels (`torch.LongTensor` of shape `(batch, tokens)`): The true tokens where `mlm_input_ids` are
                masked, -100 elsewhere.
            itm_image_index (`torch.LongTensor` of shape `(batch,)`): The image that text i is matched against; its own by
                default.
            itm_labels (`torch.LongTensor` of shape `(batch,)`): 1 where text and image match, 0 where not. Without
                them the matching scores come back without a loss.
            output_attentions (`bool`): Whether to return attention weights.
            output_hidden_states (`bool`): Whether to return the states between the layers that fuse.
            mlm_image_index (`torch.LongTensor` of shape `(batch,)`): The image that text i belongs to, where texts share
                images; that of its row by default.
            image_features (`torch.Tensor` of shape `(images, patches, width)`): What `vision_features` made of the images, in
                the place of `pixel_values`; two-tower models only.

        Raises:
            ValueError: Where an input is missing, or an objective is asked for that the model has no head for.
        """
        self._check_inputs(input_ids, (pixel_values, image_features), mlm_input_ids, mlm_labels, itm_labels)
        wanted = {
            "output_attentions": self.model.wants("attentions", output_attentions),
            "output_hidden_states": self.model.wants("hidden_states", output_hidden_states),
        }
        texts = mlm_input_ids if input_ids is None else input_ids
        images = pixel_values if image_features is None else image_features
        if mlm_image_index is None and len(texts) != len(images):
            raise ValueError(
                f"pixel_values: expected an image a text, got {len(images)} images and {len(texts)} texts; mlm_image_index says "
                "which image a text belongs to where they share them"
            )
        image = self.model.encode_image(pixel_values, pixel_mask, image_features)
        output = PreTrainingOutput()
        masked = None if mlm_labels is None else mlm_labels != -100
        matched_index = mlm_image_index if itm_image_index is None else itm_image_index
        if itm_labels is not None and input_ids is None:
            text = self.model.encode_text(mlm_input_ids, attention_mask)
            self._both(output, text, image, masked, mlm_image_index, matched_index, wanted)
        else:
            if mlm_labels is not None:
                text = self.model.encode_text(mlm_input_ids, attention_mask)
                fused = self._fuse(output, text, image, mlm_image_index, ("text_states",), wanted)
                output.mlm_logits = self.mlm_head(fused.text_states[masked])
            if self.config.itm_weight and input_ids is not None:
                text = self.model.encode_text(input_ids, attention_mask)
                fused = self._fuse(output, text, image, matched_index, ("pooled",), wanted)
                output.itm_logits = self.itm_head(fused.pooled)
        if mlm_labels is not None:
            output.mlm_loss = masked_lm_loss(output.mlm_logits, mlm_labels[masked])
        if itm_labels is not None:
            output.itm_loss = nn.functional.cross_entropy(output.itm_logits.float(), itm_labels)
        losses = [
            weight * loss
            for weight, loss in (
                (self.config.mlm_weight, output.mlm_loss),
                (self.config.itm_weight, output.itm_loss),
            )
            if loss is not None
        ]
        output.loss = sum(losses) if losses else None
        return output

    def _check_inputs(self, input_ids, images, mlm_input_ids, mlm_labels, itm_labels) -> None:
        if all(image is None for image in images):
            raise ValueError("pixel_values: pretraining needs one image a row, got none")
        if (mlm_input_ids is None) != (mlm_labels is None):
            raise ValueError("mlm_input_ids and mlm_labels: expected both or neither")
        if input_ids is None and mlm_labels is None:
            raise ValueError("expected input_ids, or mlm_input_ids with mlm_labels, got neither")
        for name, labels in (("mlm", mlm_labels), ("itm", itm_labels)):
            if labels is not None and not getattr(self.config, f"{name}_weight"):
                raise ValueError(f"{name}_labels: this model was built with {name}_weight=0 and has no {name} head")

    def _fuse(self, output, text, image, image_index, reads, wanted) -> FusedOutput:
        fused = self.model.fuse(text, image if image_index is None else image.rows(image_index), reads=reads, **wanted)
        output.hidden_states, output.attentions = fused.hidden_states, fused.attentions
        return fused

    def _both(self, output, text, image, masked, own_index, matched_index, wanted) -> None:
        """Both objectives on one text: each text is fused with its own image, and once more where it is matched with another."""
        rows = torch.arange(len(masked), device=masked.device)
        own_index = rows if own_index is None else own_index
        matched_index = own_index if matched_index is None else matched_index
        others = (matched_index != own_index).nonzero().squeeze(1)
        pairs = text.rows(torch.cat([rows, others])), torch.cat([own_index, matched_index[others]])
        fused = self._fuse(output, pairs[0], image, pairs[1], ("text_states", "pooled"), wanted)
        output.mlm_logits = self.mlm_head(fused.text_states[: len(rows)][masked])
        place = rows.clone()
        place[others] = len(rows) + torch.arange(len(others), device=rows.device)
        output.itm_logits = self.itm_head(fused.pooled[place])


class MaskedLanguageModellingHead(VocabularyHead, PairHead):
    """
    Masked language modelling alone, with or without images. The logits are scores at every token (batch, tokens,
    vocabulary); the labels are the true tokens (batch, tokens) where the text is masked, -100 elsewhere.
    """

    output_class = MaskedLMOutput
    needs = ("text",)
    reads = ("text_states",)

    def add_head(self, config) -> None:
        self.add_mlm_head(config)

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.mlm_head(fused.text_states)

    def loss(self, logits: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
        return masked_lm_loss(logits.flatten(0, 1), labels.flatten())
