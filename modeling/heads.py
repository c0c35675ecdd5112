"""
The heads, each written once for all architectures. A head is a mixin: `class XForTask(TaskHead, XPreTrainedModel)`. It
reads nothing of a model but `encode_text`, `encode_image`, `fuse` and the sizes in its configuration.
"""

import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput
from transformers.utils import ModelOutput, can_return_tuple

from .outputs import FusedOutput, PreTrainingOutput


class HeadModel:
    """A base model, under the name `model`, with something on top."""

    def __init__(self, config):
        super().__init__(config)
        self.model = self.base_model_class()(config)
        self.add_head(config)
        self.post_init()

    def add_head(self, config) -> None:
        """Adds the modules of the head."""
        raise NotImplementedError


def check_inputs(input_ids: torch.Tensor | None, pixel_values: torch.Tensor | None, needs_image: bool = True) -> None:
    """Raises `ValueError` where a head that cannot do without text, or without images, gets none."""
    if input_ids is None:
        raise ValueError("input_ids: expected a text a row, got none")
    if needs_image and pixel_values is None:
        raise ValueError("pixel_values: expected an image a row, got none")


class ClassificationHead(nn.Module):
    """Dense, layer norm, GELU, linear: (B, in_size) to (B, num_labels)."""

    def __init__(self, config, in_size: int, num_labels: int):
        super().__init__()
        size = config.classifier_hidden_size or config.pooled_size
        eps = config.classifier_layer_norm_eps
        self.dense = nn.Linear(in_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps if eps is None else eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out = nn.Linear(size, num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.layer_norm(self.dense(pooled)))
        return self.out(self.dropout(hidden))


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
    ) -> PreTrainingOutput:
        """
        The losses of the objectives that the batch has inputs for. The images are encoded once for all of them.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): The clean text, for image-text matching.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding, of both texts.
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): One image a row.
            pixel_mask (`torch.Tensor` of shape `(batch, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            mlm_input_ids (`torch.LongTensor` of shape `(batch, tokens)`): The corrupted text, for masked language
                modelling; always with the image of its own row.
            mlm_labels (`torch.LongTensor` of shape `(batch, tokens)`): The true tokens where `mlm_input_ids` are
                masked, -100 elsewhere.
            itm_image_index (`torch.LongTensor` of shape `(batch,)`): The row whose image text i is matched against;
                its own by default.
            itm_labels (`torch.LongTensor` of shape `(batch,)`): 1 where text and image match, 0 where not. Without
                them the matching scores come back without a loss.
            output_attentions (`bool`): Whether to return attention weights.
            output_hidden_states (`bool`): Whether to return the states between the layers that fuse.

        Raises:
            ValueError: Where an input is missing, or an objective is asked for that the model has no head for.
        """
        self._check_inputs(input_ids, pixel_values, mlm_input_ids, mlm_labels, itm_labels)
        wanted = {
            "output_attentions": self.model.wants("attentions", output_attentions),
            "output_hidden_states": self.model.wants("hidden_states", output_hidden_states),
        }
        image = self.model.encode_image(pixel_values, pixel_mask)
        output = PreTrainingOutput()
        if mlm_labels is not None:
            self._masked_lm(output, mlm_input_ids, attention_mask, image, mlm_labels, wanted)
        if self.config.itm_weight and input_ids is not None:
            shown = image if itm_image_index is None else image.rows(itm_image_index)
            self._matching(output, input_ids, attention_mask, shown, itm_labels, wanted)
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

    def _check_inputs(self, input_ids, pixel_values, mlm_input_ids, mlm_labels, itm_labels) -> None:
        if pixel_values is None:
            raise ValueError("pixel_values: pretraining needs one image a row, got none")
        if (mlm_input_ids is None) != (mlm_labels is None):
            raise ValueError("mlm_input_ids and mlm_labels: expected both or neither")
        if input_ids is None and mlm_labels is None:
            raise ValueError("expected input_ids, or mlm_input_ids with mlm_labels, got neither")
        for name, labels in (("mlm", mlm_labels), ("itm", itm_labels)):
            if labels is not None and not getattr(self.config, f"{name}_weight"):
                raise ValueError(f"{name}_labels: this model was built with {name}_weight=0 and has no {name} head")
        if itm_labels is not None and input_ids is None:
            raise ValueError("itm_labels: image-text matching needs input_ids, the clean text, got none")

    def _masked_lm(self, output, input_ids, attention_mask, image, labels, wanted) -> None:
        fused = self.model.fuse(self.model.encode_text(input_ids, attention_mask), image, **wanted)
        masked = labels != -100
        output.mlm_logits = self.mlm_head(fused.text_states[masked])
        output.mlm_loss = masked_lm_loss(output.mlm_logits, labels[masked])
        output.hidden_states, output.attentions = fused.hidden_states, fused.attentions

    def _matching(self, output, input_ids, attention_mask, image, labels, wanted) -> None:
        fused = self.model.fuse(self.model.encode_text(input_ids, attention_mask), image, **wanted)
        output.itm_logits = self.itm_head(fused.pooled)
        if labels is not None:
            output.itm_loss = nn.functional.cross_entropy(output.itm_logits.float(), labels)
        output.hidden_states, output.attentions = fused.hidden_states, fused.attentions


class PairHead(HeadModel):
    """A head that reads what a text and one image were fused to. A subclass says what it makes of that, and its loss."""

    output_class = SequenceClassifierOutput
    needs_image = True

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        """The logits, a row a pair."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss () of `logits` for `labels`, as the class describes them."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ModelOutput:
        """
        Logits, and the loss where there are labels.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): One image a row.
            pixel_mask (`torch.Tensor` of shape `(batch, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            labels (`torch.Tensor`): What the class says.
            output_attentions (`bool`): Whether to return attention weights.
            output_hidden_states (`bool`): Whether to return the states between the layers that fuse.

        Raises:
            ValueError: Where an input is missing or does not fit the model.
        """
        check_inputs(input_ids, pixel_values, self.needs_image)
        fused = self.model(
            input_ids,
            attention_mask,
            pixel_values,
            pixel_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits = self.predict(fused)
        return self.output_class(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )


class MaskedLanguageModellingHead(VocabularyHead, PairHead):
    """
    Masked language modelling alone, with or without images. The logits are scores at every token (batch, tokens,
    vocabulary); the labels are the true tokens (batch, tokens) where the text is masked, -100 elsewhere.
    """

    output_class = MaskedLMOutput
    needs_image = False

    def add_head(self, config) -> None:
        self.add_mlm_head(config)

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.mlm_head(fused.text_states)

    def loss(self, logits: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
        return masked_lm_loss(logits.flatten(0, 1), labels.flatten())


class VisualQuestionAnsweringHead(PairHead):
    """
    Answers questions by scoring `config.num_labels` answers, several of which may be right (Teney et al. 2018). The labels
    are how right each is, from 0 to 1 (batch, num_labels). The loss is binary cross-entropy, summed over the answers and
    averaged over the questions.
    """

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.pooled_size, config.num_labels)

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.classifier(fused.pooled)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels: expected a number from 0 to 1 for each answer, of shape {tuple(logits.shape)}, got the shape "
                f"{tuple(labels.shape)}"
            )
        mean = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return mean * labels.shape[1]


class ImageTextRetrievalHead(HeadModel):
    """
    Scores how well texts fit an image. The score is the log-odds of "match" under the image-text-matching head of
    pretraining, whose checkpoints it goes on from.
    """

    def add_head(self, config) -> None:
        self.itm_head = nn.Linear(config.pooled_size, 2)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """
        Scores each image's texts: `logits` (batch, texts). An image is encoded once for all of its texts; who ranks all
        pairs of many images and texts calls `encode_text`, `encode_image` and `fuse` and applies `score`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, texts, tokens)` or `(batch, tokens)`): The texts of each image,
                or its one text.
            attention_mask (`torch.Tensor` of the same shape): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(batch, channels, height, width)`): One image a row.
            pixel_mask (`torch.Tensor` of shape `(batch, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            labels (`torch.LongTensor` of shape `(batch,)`): Which of its texts is true of an image, from 0 on. The loss
                is cross-entropy over the texts.
            output_attentions (`bool`): Whether to return attention weights; a row for each text of each image.
            output_hidden_states (`bool`): Whether to return hidden states; likewise.

        Raises:
            ValueError: Where text or images are missing, an input does not fit the model, or there are labels and one text.
        """
        check_inputs(input_ids, pixel_values)
        if len(input_ids) != len(pixel_values):
            raise ValueError(
                f"expected one image a row, got {len(input_ids)} rows of text, {len(pixel_values)} images"
            )
        num_texts = 1 if input_ids.ndim == 2 else input_ids.shape[1]
        if labels is not None and num_texts == 1:
            raise ValueError("labels: say which of several texts is true; with one text a row leave them out")
        text = self.model.encode_text(
            input_ids.flatten(0, -2), None if attention_mask is None else attention_mask.flatten(0, -2)
        )
        image = self.model.encode_image(pixel_values, pixel_mask)
        images = torch.arange(len(pixel_values), device=pixel_values.device).repeat_interleave(num_texts)
        fused = self.model.fuse(
            text,
            image.rows(images),
            output_attentions=self.model.wants("attentions", output_attentions),
            output_hidden_states=self.model.wants("hidden_states", output_hidden_states),
        )
        logits = self.score(fused.pooled).unflatten(0, (-1, num_texts))
        return SequenceClassifierOutput(
            loss=None if labels is None else nn.functional.cross_entropy(logits.float(), labels),
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )

    def score(self, pooled: torch.Tensor) -> torch.Tensor:
        """Log-odds (B,) that text and image match, from the pooled vectors (B, pooled size) of pairs."""
        no_match, match = self.itm_head(pooled).unbind(dim=-1)
        return match - no_match


class ImagesAndTextClassificationHead(HeadModel):
    """
    One text with n images (NLVR2): the text is encoded once and fused with each image, and a classifier reads the n
    pooled vectors side by side. n is `config.num_images`.
    """

    def add_head(self, config) -> None:
        self.classifier = ClassificationHead(config, config.num_images * config.pooled_size, config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """
        Classifies each text together with its images.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
            pixel_values (`torch.Tensor` of shape `(batch, num_images, channels, height, width)`): The images of a row.
            pixel_mask (`torch.Tensor` of shape `(batch, num_images, height, width)`): 1 for pixels, 0 for padding below and to the
                right of an image; one-tower models only.
            labels (`torch.LongTensor` of shape `(batch,)`): Classes, from 0 to `config.num_labels - 1`.
            output_attentions (`bool`): Whether to return attention weights; a row for each image of each text.
            output_hidden_states (`bool`): Whether to return hidden states; likewise.

        Raises:
            ValueError: Where there is no text, or not `config.num_images` images a row.
        """
        num_images = self.config.num_images
        check_inputs(input_ids, pixel_values, needs_image=False)
        if pixel_values is None or pixel_values.ndim != 5 or pixel_values.shape[1] != num_images:
            got = None if pixel_values is None else tuple(pixel_values.shape)
            raise ValueError(
                f"pixel_values: expected (batch, {num_images}, channels, height, width), {num_images} images a text, got "
                f"the shape {got}; `processor(images=[[left, right], ...])` makes it, and config.num_images sets how many"
            )
        text = self.model.encode_text(input_ids, attention_mask)
        image = self.model.encode_image(
            pixel_values.flatten(0, 1), None if pixel_mask is None else pixel_mask.flatten(0, 1)
        )
        pairs = torch.arange(len(input_ids) * num_images, device=input_ids.device)
        fused = self.model.fuse(
            text.rows(pairs // num_images),
            image,
            pairs % num_images,
            self.model.wants("attentions", output_attentions),
            self.model.wants("hidden_states", output_hidden_states),
        )
        logits = self.classifier(fused.pooled.unflatten(0, (-1, num_images)).flatten(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=fused.hidden_states, attentions=fused.attentions
        )
