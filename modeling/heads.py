"""
The heads of a text, an image, or both, each written once for all architectures. A head is a mixin; `register_architecture`
puts it on a base model. It reads nothing of a model but `encode_text`, `encode_image`, `fuse` and the sizes in its configuration.
"""

import inspect
from collections.abc import Iterable

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput, can_return_tuple

from .answers import ANSWERING, CLASSIFICATION, OF_IMAGES, OF_TEXTS
from .encoder_forward import check_other_inputs
from .layers import ScoreLinear
from .objectives import IGNORED
from .outputs import FusedOutput
from .what_trains import freezing_left_to_caller


class HeadModel:
    """
    A base model, under the name `model`, with something on top. What its output does not depend on never trains.

    All heads take, as far as they read text or images:

    - `input_ids` (`torch.LongTensor` of shape `(batch, tokens)`): token ids;
    - `attention_mask` (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding;
    - `pixel_values` (`torch.Tensor` of shape `(batch, channels, height, width)`): one image a row;
    - `pixel_mask` (`torch.Tensor` of shape `(batch, height, width)`): 1 for pixels, 0 for padding below and to the right of an
      image; one-tower models only;
    - `image_features` (`torch.Tensor` of shape `(batch, patches, width)`): what `vision_features` made of the images, in place of
      `pixel_values`; two-tower models only;
    - `token_type_ids`: what tokenizers give; ignored. `inputs_embeds` must be `None`;
    - `labels`: what the head says; without them there is no loss;
    - `loss_weights` (`torch.Tensor` of the shape of `labels`): what to multiply the loss of each label by, by default 1; heads
      with a classifier only. They do not change the number of labels that the loss is a mean over;
    - `num_items_in_batch` (`int` or `torch.Tensor`): the number of labels in the whole step, over accumulated batches and
      processes; that of this batch by default;
    - `output_attentions`, `output_hidden_states` (`bool`): whether to return what `FusedOutput` describes.

    They raise `ValueError` if an input is missing or does not fit the model.

    Class attributes:
        needs: What a row must have, `"text"`, `"image"`, or both.
        reads: What of the fused states the head reads, any of `outputs.FUSED`.
        options: The fields of the configuration that it reads, of those that are options of heads (`of_heads`).
    """

    needs: tuple[str, ...] = ("text", "image")
    reads: tuple[str, ...] = ("pooled",)
    options: tuple[str, ...] = ("classifier_dropout", "classifier_hidden_size")
    accepts_loss_kwargs = True
    #: What the head says, by the name of the pipeline that runs models with it (see `answers.py`), and the number of images
    #: with one text that come in a dimension of their own.
    pipeline_task: str | None = None
    images_a_text: int | None = None

    def __init__(self, config):
        super().__init__(config)
        with freezing_left_to_caller():
            self.model = self.base_model_class(config)
        self.add_head(config)
        self.post_init()

    def add_head(self, config) -> None:
        """Add the modules of the head."""
        raise NotImplementedError

    @classmethod
    def options_with(cls, objectives: Iterable[str]) -> tuple[str, ...]:
        """
        Return the names of the options that have an effect, in a model with these objectives.

        Raises:
            ValueError: If the head has objectives, and one of these is unknown.
        """
        return cls.options

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return the inputs of the base model that the head takes."""
        taken = inspect.signature(self.forward).parameters
        return {name: value for name, value in self.model.dummy_inputs.items() if name in taken}

    @classmethod
    def without_fusing(cls) -> type["HeadModel"] | None:
        """
        Return the head of this kind for architectures that fuse no text with an image (`RenaissanceConfig.fuses`): this one if
        it reads a text or an image alone. `None` means that they have no model of this kind.
        """
        return cls if len(getattr(cls, "input_modalities", ("image", "text"))) == 1 else None

    def fuse_options(
        self,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **others,
    ) -> dict[str, bool]:
        """
        Return the options of `fuse` that the caller, or else the configuration, asks for. Raise `ValueError` for inputs that
        no model has; call it first, so that they are named rather than those that are missing.
        """
        check_other_inputs(**others)
        return self.model.wanted_outputs(output_attentions, output_hidden_states)

    def check_inputs(self, input_ids: torch.Tensor | None, *images: torch.Tensor | None) -> None:
        """
        Raise `ValueError` if text or images are missing that the head needs, or given if it reads the other alone. `images` are
        pixels and features.
        """
        if input_ids is not None and "text" not in self.input_modalities:
            raise ValueError("input_ids: expected None, this model reads images alone")
        if "image" not in self.input_modalities and any(image is not None for image in images):
            raise ValueError("pixel_values: expected None, this model reads text alone")
        if input_ids is None and "text" in self.needs:
            raise ValueError("input_ids: expected a text a row, got none")
        if "image" in self.needs and all(image is None for image in images):
            raise ValueError("pixel_values: expected an image a row, got none")


def mean_loss(
    total: torch.Tensor, count: torch.Tensor | int, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return a sum of losses () over their number: `count` in this batch, `num_items` in the whole step. No loss is 0."""
    number = count if num_items is None else num_items
    return total / (number.clamp(min=1) if isinstance(number, torch.Tensor) else max(number, 1))


class ClassificationHead(nn.Module):
    """Dense, layer norm, GELU, linear: (B, in_size) to (B, num_labels)."""

    def __init__(self, config, in_size: int, num_labels: int):
        super().__init__()
        size = config.classifier_hidden_size or config.pooled_size
        eps = config.classifier_layer_norm_eps
        self.dense = nn.Linear(in_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps if eps is None else eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out = ScoreLinear(size, num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        # The vectors of a dual encoder are in single precision, whatever that of the model.
        hidden = nn.functional.gelu(self.layer_norm(self.dense(pooled.to(self.layer_norm.weight.dtype))))
        return self.out(self.dropout(hidden))


def weighted_sum(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the sum () of losses, each times its weight, of the same shape; `None` is 1 for all."""
    if weights is None:
        return losses.sum()
    if weights.shape != losses.shape:
        expected = f"a weight for each label, of shape {tuple(losses.shape)}"
        raise ValueError(f"loss_weights: expected {expected}, got the shape {tuple(weights.shape)}")
    return (losses * weights).sum()


class PairHead(HeadModel):
    """A head that reads what a text and one image were fused to. A subclass says what it makes of that, and its loss."""

    output_class = SequenceClassifierOutput

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        """Return the logits, a row a pair."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | int]:
        """
        Return the sum () of the losses of `logits` for `labels`, as the class describes them, and their number. A head
        that takes `loss_weights` has them as a third argument, `weights`, of the shape of the losses.
        """
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """Return the logits, and the loss if there are labels; the arguments are those of `HeadModel`."""
        options = self.fuse_options(**kwargs)
        self.check_inputs(input_ids, pixel_values, image_features)
        options |= {"image_features": image_features, "reads": self.reads, "return_dict": True}
        fused = self.model(input_ids, attention_mask, pixel_values, pixel_mask, **options)
        logits = self.predict(fused)
        weights = {} if loss_weights is None else {"weights": loss_weights}
        return self.output_class(
            loss=None if labels is None else mean_loss(*self.loss(logits, labels, **weights), num_items_in_batch),
            logits=logits,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )


class PairClassificationHead(PairHead):
    """A pair head with a classifier over the pooled vector."""

    def add_head(self, config) -> None:
        size = config.pooled_size if len(self.needs) == 2 else config.hidden_size
        self.classifier = ClassificationHead(config, size, config.num_labels)

    def predict(self, fused: FusedOutput) -> torch.Tensor:
        return self.classifier(fused.pooled)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Cross-entropy with classes (batch,); squared error with numbers if it is a regression; both without the rows whose label
        is -100, which have none; `multi_label_loss` if a row may have several classes. See `kind_of_problem`."""
        kind = self.kind_of_problem(logits, labels)
        if kind == "multi_label_classification":
            return multi_label_loss(logits, labels, weights)
        if kind == "regression":
            return regression_loss(logits, labels, weights)
        require_classes(labels)
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return weighted_sum(losses, weights), (labels != IGNORED).sum()

    def kind_of_problem(self, logits: torch.Tensor, labels: torch.Tensor) -> str | None:
        """
        Return the configuration's `problem_type`. If it has none, it follows from the labels, as in transformers: a model with one
        score is a regression, and a float for each class says whether a row has it. The configuration then records it, because
        whoever reads the scores must know it.
        """
        if self.config.problem_type is None and self.config.num_labels == 1:
            self.config.problem_type = "regression"
        elif self.config.problem_type is None and labels.is_floating_point() and labels.shape == logits.shape:
            self.config.problem_type = "multi_label_classification"
        return self.config.problem_type


def regression_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the sum () of the squared errors of logits (batch, numbers), each times its weight, and their number (). Labels of one
    number a row may lack the second dimension; -100 is no number.

    Raises:
        ValueError: If there is not a label for each number.
    """
    found = logits.squeeze(-1).float()
    if labels.shape not in (found.shape, logits.shape):
        expected = f"a number for each row, of shape {tuple(found.shape)}"
        raise ValueError(f"labels: expected {expected}, got the shape {tuple(labels.shape)}")
    numbers = labels.reshape(found.shape).float()
    known = numbers != IGNORED
    losses = nn.functional.mse_loss(found, numbers, reduction="none")
    return weighted_sum((losses * known).view(labels.shape), weights), known.sum()


def require_classes(labels: torch.Tensor) -> None:
    """Raise `ValueError` if labels are not classes, whole numbers (batch,)."""
    if labels.is_floating_point() or labels.ndim != 1:
        found = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise ValueError(
            f"labels: expected classes, int64 of shape (batch,), got {found}; config.problem_type says other kinds"
        )


def multi_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the sum () of binary cross-entropies of logits (batch, classes), each times its weight, and their number (). A
    label is 1 if the row has the class, 0 if it has not, and -100 if that is unknown, which has no loss.

    Raises:
        ValueError: If there is not a label for each class of a row.
    """
    if labels.shape != logits.shape:
        expected = f"0 or 1 for each class, of shape {tuple(logits.shape)}"
        raise ValueError(f"labels: expected {expected}, got the shape {tuple(labels.shape)}")
    known = labels != IGNORED
    targets = labels.float() * known
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return weighted_sum(losses * known, weights), known.sum()


class ImageTextClassificationHead(PairClassificationHead):
    """
    Classifies a text with one image (SNLI-VE). The labels are classes (batch,) or, if `problem_type` is
    `"multi_label_classification"`, 0 or 1 for each class (batch, num_labels).
    """

    pipeline_task = CLASSIFICATION


class SequenceClassificationHead(PairClassificationHead):
    """Classifies text alone (GLUE). The labels are classes (batch,), or numbers if `problem_type` is `"regression"` or
    `num_labels` is 1."""

    needs = ("text",)
    input_modalities = ("text",)
    pipeline_task = OF_TEXTS

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """`PairHead.forward` without images."""
        return super().forward(input_ids, attention_mask, labels=labels, **kwargs)


class ImageClassificationHead(PairClassificationHead):
    """Classifies images alone (CIFAR-10). The labels are classes (batch,)."""

    needs = ("image",)
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    pipeline_task = OF_IMAGES

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """`PairHead.forward` without text."""
        images = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "image_features": image_features}
        return super().forward(labels=labels, **images, **kwargs)


class VisualQuestionAnsweringHead(PairClassificationHead):
    """
    Scores `config.num_labels` answers to a question, several of which may be right (Teney et al. 2018). The labels (batch,
    num_labels) say how right each is, from 0 to 1, or are -100 if the answers to a question are not known. The loss is
    binary cross-entropy, a sum over answers and a mean over questions.
    """

    pipeline_task = ANSWERING

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if labels.shape != logits.shape:
            expected = f"a number from 0 to 1 for each answer, of shape {tuple(logits.shape)}"
            raise ValueError(f"labels: expected {expected}, got the shape {tuple(labels.shape)}")
        known = labels != IGNORED
        targets = labels.float() * known
        losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        # The labels of a step are counted one an answer.
        return weighted_sum(losses * known, weights) * labels.shape[1], known.sum()
