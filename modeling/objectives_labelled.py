"""The objectives of pretraining on rows with labels of tasks: answers, boxes, classes of images. Those of objectives.py need none."""

import torch
from torch import nn

from .heads import ClassificationHead, multi_label_loss
from .objectives import IGNORED, Objective, Pass, Scores, has_plain_texts, register_objective


def required(config, field: str, what: str) -> list[str]:
    """Return a list of the configuration; raise `ValueError` if it has none."""
    if not (names := getattr(config, field)):
        raise ValueError(f"{field}: expected {what}; pretraining takes them from its data")
    return names


@register_objective
class VisualQuestionAnswering(Objective):
    """
    Scores the answers of `config.vqa_answers` to a question about an image, several of which may be right (Teney et al. 2018), as
    `VisualQuestionAnsweringHead` does.

    Inputs: the question, `input_ids`; `vqa_labels` (R, answers), how right each answer is, from 0 to 1; -100 in rows whose answers are
    not known.

    The scores are (R, answers). The loss is binary cross-entropy, a sum over answers, and a term each question.
    """

    name = "vqa"
    title = "visual question answering"
    inputs = ("vqa_labels",)
    needs = ("input_ids",)
    per_text = ("vqa_labels",)
    options = ("classifier_dropout", "classifier_hidden_size")
    task_kind = "ForVisualQuestionAnswering"

    def make_head(self, config, model=None):
        answers = required(config, "vqa_answers", "the answers that the objective vqa chooses from")
        return ClassificationHead(config, config.pooled_size, len(answers))

    def is_asked(self, batch):
        return super().is_asked(batch) or has_plain_texts(batch)

    def passes(self, batch):
        return [Pass("input_ids", ("pooled",), *self.own_rows(batch))]

    def score(self, head, step):
        logits, labels = head(step.fused[0].pooled), step.batch.get("vqa_labels")
        return Scores(logits, None if labels is None else multi_label_loss(logits, labels)[0])

    def count(self, batch):
        return (batch["vqa_labels"] != IGNORED).any(dim=1).sum()

    def dummy_inputs(self, input_ids, config):
        labels = torch.zeros(len(input_ids), len(config.vqa_answers), device=input_ids.device)
        return {"input_ids": input_ids, "vqa_labels": labels}


@register_objective
class Grounding(Objective):
    """
    Chooses the region of an image that a text refers to, as `ReferenceResolutionHead` does: the text is fused with each region, an image of
    its own, and the head gives each pair one score.

    Inputs: the text, `input_ids`; `grounding_image_index` (R, K), the regions that a text may mean, among the images of the batch;
    `grounding_mask` (R, K), 1 for regions, 0 for places that stand for none; `grounding_labels` (R,), the region that is meant.

    The scores are (R, K), the lowest number of their dtype if there is no region. The loss is cross-entropy over the regions, a term
    each text.
    """

    name = "grounding"
    title = "reference resolution"
    inputs = ("grounding_labels", "grounding_image_index", "grounding_mask")
    needs = ("input_ids", "grounding_labels", "grounding_image_index", "grounding_mask")
    per_text = ("grounding_labels", "grounding_image_index", "grounding_mask")
    options = ("classifier_dropout", "classifier_hidden_size")
    task_kind = "ForReferenceResolution"

    def make_head(self, config, model=None):
        return ClassificationHead(config, config.pooled_size, 1)

    def passes(self, batch):
        index, rows = batch["grounding_image_index"], batch.get("grounding_rows")
        rows = torch.arange(index.shape[0], device=index.device) if rows is None else rows
        return [Pass("input_ids", ("pooled",), rows.unsqueeze(1).expand(index.shape).flatten(), index.flatten())]

    def score(self, head, step):
        there = step.batch["grounding_mask"].bool()
        scores = head(step.fused[0].pooled).view(there.shape)
        logits = scores.masked_fill(~there, torch.finfo(scores.dtype).min)
        return Scores(
            logits, nn.functional.cross_entropy(logits.float(), step.batch["grounding_labels"], reduction="sum")
        )

    def count(self, batch):
        return batch["grounding_labels"].shape[0]

    def dummy_inputs(self, input_ids, config):
        regions = torch.arange(len(input_ids), device=input_ids.device).expand(len(input_ids), -1)
        own = {"grounding_image_index": regions, "grounding_mask": torch.ones_like(regions)}
        return own | {"input_ids": input_ids, "grounding_labels": regions[0]}


@register_objective
class ImageClassification(Objective):
    """
    Tells the class of an image alone, one of `config.image_classes`, as `ImageClassificationHead` does. Rows need no text.

    Inputs: `classification_image_index` (R,), the images, among those of the batch; `classification_labels` (R,), their classes.

    The scores are (R, classes). The loss is cross-entropy, a term each image.
    """

    name = "classification"
    title = "image classification"
    inputs = ("classification_labels", "classification_image_index")
    needs = inputs
    per_text = inputs
    options = ("classifier_dropout", "classifier_hidden_size")
    task_kind = "ForImageClassification"

    def make_head(self, config, model=None):
        classes = required(config, "image_classes", "the classes that the objective classification chooses from")
        return ClassificationHead(config, config.hidden_size, len(classes))

    def passes(self, batch):
        return [Pass(None, ("pooled",), image_index=batch["classification_image_index"], kind="images")]

    def score(self, head, step):
        logits, labels = head(step.fused[0].pooled), step.batch["classification_labels"]
        return Scores(logits, nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))

    def count(self, batch):
        return batch["classification_labels"].shape[0]

    def dummy_inputs(self, input_ids, config):
        images = torch.arange(len(input_ids), device=input_ids.device)
        return {"classification_image_index": images, "classification_labels": torch.zeros_like(images)}
