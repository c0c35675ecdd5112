"""
The heads, each written once for all architectures. A head is a mixin; `register_architecture` puts it on a base model. It
reads nothing of a model but `encode_text`, `encode_image`, `fuse` and the sizes in its configuration. Here are those of a text
and one image, or one of them; heads_pretraining.py has those that score the vocabulary, heads_several.py those with several texts
or images a row.
"""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput, can_return_tuple

from .outputs import FusedOutput


class HeadModel:
    """
    A base model, under the name `model`, with something on top. What its head does not read never trains.

    Class attributes:
        needs: What a row must have, `"text"`, `"image"`, or both.
        takes: What it may have.
        reads: What of the fused states the head reads, `"text_states"`, `"pooled"`, or both.
    """

    needs: tuple[str, ...] = ("text", "image")
    takes: tuple[str, ...] = ("text", "image")
    reads: tuple[str, ...] = ("pooled",)

    def __init__(self, config):
        super().__init__(config)
        self.model = self.base_model_class(config)
        self.add_head(config)
        self.post_init()
        self.freeze()

    def add_head(self, config) -> None:
        """Adds the modules of the head."""
        raise NotImplementedError

    def unread(self) -> list[str]:
        return [f"model.{name}" for name in self.model.unread(self.takes, self.reads)]

    def check_inputs(self, input_ids: torch.Tensor | None, *images: torch.Tensor | None) -> None:
        """Raises `ValueError` where text or images are missing that the head needs; `images` are pixels and features."""
        if input_ids is None and "text" in self.needs:
            raise ValueError("input_ids: expected a text a row, got none")
        if "image" in self.needs and all(image is None for image in images):
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


class PairHead(HeadModel):
    """A head that reads what a text and one image were fused to. A subclass says what it makes of that, and its loss."""

    output_class = SequenceClassifierOutput

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
        image_features: torch.Tensor | None = None,
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
            image_features (`torch.Tensor` of shape `(batch, patches, width)`): What `vision_features` made of the images, in
                the place of `pixel_values`; two-tower models only.

        Raises:
            ValueError: Where an input is missing or does not fit the model.
        """
        self.check_inputs(input_ids, pixel_values, image_features)
        fused = self.model(
            input_ids,
            attention_mask,
            pixel_values,
            pixel_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            image_features=image_features,
            reads=self.reads,
        )
        logits = self.predict(fused)
        return self.output_class(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )


class PairClassificationHead(PairHead):
    """A pair head with a classifier over the pooled vector."""

    def add_head(self, config) -> None:
        size = config.pooled_size if len(self.takes) == 2 else config.hidden_size
        self.classifier = ClassificationHead(config, size, config.num_labels)

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.classifier(fused.pooled)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with classes (batch,); mean squared error with numbers (batch,) where `problem_type` is regression."""
        if self.config.problem_type == "regression":
            return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
        return nn.functional.cross_entropy(logits.float(), labels)


class ImageTextClassificationHead(PairClassificationHead):
    """Classifies a text with one image (SNLI-VE). The labels are classes (batch,)."""


class SequenceClassificationHead(PairClassificationHead):
    """
    Classifies text alone (GLUE). The labels are classes (batch,), or numbers where `config.problem_type` is
    `"regression"`.
    """

    needs = takes = ("text",)
    input_modalities = ("text",)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """`PairHead.forward` without images."""
        return super().forward(
            input_ids,
            attention_mask,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )


class ImageClassificationHead(PairClassificationHead):
    """Classifies images alone (CIFAR-10). The labels are classes (batch,)."""

    needs = takes = ("image",)
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """`PairHead.forward` without text."""
        return super().forward(
            pixel_values=pixel_values,
            pixel_mask=pixel_mask,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            image_features=image_features,
            return_dict=return_dict,
        )


class VisualQuestionAnsweringHead(PairClassificationHead):
    """
    Answers questions by scoring `config.num_labels` answers, several of which may be right (Teney et al. 2018). The labels
    are how right each is, from 0 to 1 (batch, num_labels). The loss is binary cross-entropy, summed over the answers and
    averaged over the questions.
    """

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels: expected a number from 0 to 1 for each answer, of shape {tuple(logits.shape)}, got the shape "
                f"{tuple(labels.shape)}"
            )
        mean = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return mean * labels.shape[1]
