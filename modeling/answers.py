"""What a model with a head says of its inputs: the scores of its choices, and the best of them by name."""

from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from .heads import HeadModel

#: What heads of images with texts say, by the names of pipelines. `pipeline_image_text.py` runs the first three.
MATCHING, ANSWERING, CLASSIFICATION = "image-text-matching", "visual-question-answering", "image-text-classification"
CHOOSING = "reference-resolution"

#: The same of other heads, which pipelines of transformers run. `COMPARING` is that of vectors of texts alone and of images alone.
OF_TEXTS, OF_IMAGES, FILLING = "text-classification", "image-classification", "fill-mask"
COMPARING = "zero-shot-image-classification"

#: The probability from which on a class is an answer, if a row may have several.
LEAST_PROBABILITY = 0.5


def score_choices(model: "HeadModel", inputs: dict[str, Any]) -> torch.Tensor:
    """
    Return the scores (B, choices) of a batch, in single precision: probabilities of all choices, or, in question answering and of
    several classes a row, of each alone; the number (B, 1) of a regression; the probability (B, 1) that image and text
    match. One image goes with each of several texts, and one text with each of several images.
    """
    task = model.pipeline_task
    if task == MATCHING:
        # Pretraining and retrieval have the same head for that.
        pooled = model.base_model(**inputs, reads=("pooled",)).pooled
        return model.itm_head(pooled).float().softmax(dim=-1)[:, 1:]
    logits = model(**inputs).logits.float()
    kind = model.config.problem_type
    if kind == "regression":
        return logits
    alone = task == ANSWERING or kind == "multi_label_classification"
    return logits.sigmoid() if alone else logits.softmax(dim=-1)


def score_words(model: "HeadModel", inputs: dict[str, Any], mask_token_id: int) -> list[torch.Tensor]:
    """Return the probabilities (masks, vocabulary) of the words for the masked places of each text; images may be left out."""
    states = model.base_model(**inputs, reads=("text_states",)).text_states
    places = inputs["input_ids"] == mask_token_id
    scores = model.vocabulary_head()(states[places]).float().softmax(dim=-1)
    return list(scores.split(places.sum(dim=1).tolist()))


def best_choices(scores: torch.Tensor, top_k: int) -> list[tuple[int, float]]:
    """Return the numbers of the best of some scores (choices,), the best first, with these; of equal ones the first."""
    order = scores.argsort(descending=True, stable=True)[:top_k]
    return list(zip(order.tolist(), scores[order].tolist(), strict=True))
