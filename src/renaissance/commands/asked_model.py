"""A finetuned or pretrained model that is asked about examples: what it reads, and its answers in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from textwrap import shorten
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints import CheckpointArguments, load_config, load_model, load_processor, task_model
from ..modeling.answers import (
    CHOOSING,
    COMPARING,
    FILLING,
    LEAST_PROBABILITY,
    MATCHING,
    OF_TEXTS,
    best_choices,
    score_choices,
    score_words,
)
from ..modeling.architectures import HEADS
from ..processing.collators import RegionCollator, RowCollator, require_tokens


#: Rows of a batch.
BATCH = 16


Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass
class Answer:
    """The answer to an example in words, and the scores of the choices, best first: from 0 to 1, or a plain number."""

    text: str
    scores: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


class AskedModel:
    """
    A finetuned model and its processor, and what it reads and says.

    Args:
        checkpoint: Where it is.
        top_k: Number of choices of an answer.
        objective: Of a pretrained model, the objective whose head answers: by default matching or missing words, if it has that.

    Raises:
        ValueError: If there is no such checkpoint, or its model gives no answers.
    """

    def __init__(self, checkpoint: CheckpointArguments, top_k: int, objective: str | None = None):
        config = load_config(checkpoint)
        saved = (config.architectures or [""])[0]
        kind = next((kind for kind in HEADS if saved.endswith(kind)), None)
        if not config.fuses and kind in (None, "ForPreTraining"):
            # Its vectors are those of the base model.
            kind = "ForImageTextRetrieval"
        name = checkpoint.model_name_or_path
        if kind is None:
            raise ValueError(
                f"{name} is a {saved or 'model without a head'}, which gives no answers; finetune it first"
            )
        self.model = load_model(kind, checkpoint).eval()
        if objective is not None and kind != "ForPreTraining":
            raise ValueError(f"objective: without effect on {name}, a {saved}, which has one head; leave it out")
        if kind == "ForPreTraining":
            kind, self.model = asked_head(self.model, kind, objective)
        self.task = self.model.pipeline_task
        if self.task is None:
            objectives = ", ".join(self.model.config.objectives)
            fault = (
                f"was pretrained with {objectives} alone, and gives no answers" if objectives else "gives no answers"
            )
            raise ValueError(f"{name}, a {saved}, {fault}; finetune it first")
        self.processor = load_processor(checkpoint)
        if self.model.config.pixel_mean is None:
            # Only a processor that was fit to a model has told it how to normalise pixels.
            self.processor.fit(self.model, keep_image_size=True)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.kind, self.top_k = kind, top_k
        #: The token that stands for a missing word, if the model can say which.
        head = getattr(self.model, "vocabulary_head", lambda: None)()
        self.mask = self.processor.tokenizer.mask_token if head is not None else None
        #: Whether it is asked for missing words; known once it has seen the first text.
        self.fills: bool | None = None
        #: The last texts that were compared with images, and their vectors.
        self._texts: list[str] = []
        self._vectors: torch.Tensor | None = None

    @property
    def of_pairs(self) -> bool:
        """Whether it has a score for an image and a text, by which one can rank others."""
        return self.task in (MATCHING, COMPARING) and self.fills is not True

    def ranks(self, given: Row) -> bool:
        """Whether images are ranked for a text, or texts for an image, that is `given` on the command line and the same in all rows."""
        return self.of_pairs and bool(given) and not isinstance(given.get("text"), list)

    @property
    def columns(self) -> dict[str, bool]:
        """The columns that the model reads, and whether a row must have each."""
        images = "images" if self.model.images_a_text else "image"
        columns = {images: self.mask is None} if "image" in self.model.needs or self.mask else {}
        columns |= {"text": True} if "text" in self.model.needs else {}
        pairs = self.model.config.text_pairs
        # Of older checkpoints it is not known.
        columns |= {"text_pair": bool(pairs)} if pairs or (pairs is None and self.task == OF_TEXTS) else {}
        return columns | ({"boxes": True} if self.task == CHOOSING else {})

    def answers(self, rows: Rows) -> Iterator[tuple[Any, Answer]]:
        """Yield the id of each row, or its number, and the model's answer; raise `ValueError` if a row cannot be used."""
        collator = RegionCollator(self.processor) if self.task == CHOOSING else RowCollator(self.processor)
        for start in range(0, len(rows), BATCH):
            numbers = range(start, min(start + BATCH, len(rows)))
            batch = [{"sample_id": number} | rows[number] for number in numbers]
            self.check_masks(batch)
            with torch.inference_mode():
                if self.task == COMPARING:
                    answers = self.compare(batch)
                else:
                    inputs = {name: value.to(self.model.device) for name, value in collator(batch).items()}
                    answers = self.fill(batch, inputs) if self.fills else self.choose(batch, inputs)
            for row, answer in zip(batch, answers, strict=True):
                yield row.get("id", row.get("file_row", row["sample_id"])), answer

    def check_masks(self, batch: list[Row]) -> None:
        """Find out whether the model is asked for missing words; raise `ValueError` if only some rows ask for that."""
        if self.fills is None:
            self.fills = self.task == FILLING or (self.mask is not None and self.mask in batch[0]["text"])
        if self.task == FILLING and self.mask is None:
            raise ValueError("the tokenizer of this model has no token for missing words, so that it gives no answers")
        for row in batch if self.mask else ():
            if (self.mask in row["text"]) != self.fills:
                expected = f"{self.mask} in it, for each missing word" if self.fills else f"no {self.mask} in it"
                raise ValueError(f"text {shorten(row['text'], 60)!r}: expected {expected}, as in all texts of a call")
            if not self.fills and "image" not in row:
                raise ValueError(f"a model {self.kind} needs --image, or a text with {self.mask}")

    def fill(self, batch: list[Row], inputs: Row) -> list[Answer]:
        """Return each text with the best word for each mask, and the scores of the best words."""
        tokenizer, answers = self.processor.tokenizer, []
        for row, masks in zip(batch, score_words(self.model, inputs, tokenizer.mask_token_id), strict=True):
            start, *rest = row["text"].split(self.mask)
            if len(masks) != len(rest):
                limit = tokenizer.model_max_length
                raise ValueError(
                    f"text {shorten(row['text'], 60)!r}: {self.mask} lies beyond the {limit} tokens that the model reads"
                )
            words: list[dict[str, float]] = []
            for scores in masks:
                words.append({})
                for number, score in best_choices(scores.cpu(), self.top_k):
                    words[-1].setdefault(tokenizer.decode([number]).strip(), score)
            filled = start + "".join(next(iter(found)) + part for found, part in zip(words, rest, strict=True))
            answers.append(Answer(filled, words[0], {"masks": words} if len(words) > 1 else {}))
        return answers

    def choose(self, batch: list[Row], inputs: Row) -> list[Answer]:
        """Return the best choice of each row, and the scores of the best ones."""
        return [
            self.answer_of(scores, row)
            for row, scores in zip(batch, score_choices(self.model, inputs).cpu(), strict=True)
        ]

    def compare(self, batch: list[Row]) -> list[Answer]:
        """
        Return the cosine of each row's image and text or, if rows have a list of texts, the text that fits each image best, and the
        probabilities of all of them.
        """
        images = {id(row["image"]): row["image"] for row in batch}
        inputs = self.processor(images=list(images.values()), as_uint8=True, return_tensors="pt")
        found = self.model.get_image_features(**inputs.to(self.model.device)).pooler_output
        found = found[[list(images).index(id(row["image"])) for row in batch]]
        if isinstance(batch[0]["text"], list):
            texts = batch[0]["text"]
            scores = self.model.contrastive_head.probabilities(found, self.vectors_of(texts)).cpu()
            named = [{texts[number]: score for number, score in best_choices(row, self.top_k)} for row in scores]
            return [Answer(next(iter(best)), best) for best in named]
        cosines = (found * self.vectors_of([row["text"] for row in batch])).sum(dim=-1).tolist()
        return [Answer(f"{cosine:.3f}", {"cosine": cosine}) for cosine in cosines]

    def vectors_of(self, texts: list[str]) -> torch.Tensor:
        """Return the vectors (T, size) of texts, those of the call before if they are the same."""
        if texts != self._texts:
            distinct = list(dict.fromkeys(texts))
            inputs = self.processor(text=distinct, return_tensors="pt")
            require_tokens([], distinct, inputs["attention_mask"])
            found = self.model.get_text_features(**inputs.to(self.model.device)).pooler_output
            self._texts, self._vectors = texts, found[[distinct.index(text) for text in texts]]
        return self._vectors

    def answer_of(self, scores: torch.Tensor, row: Row) -> Answer:
        """Return the answer to a row by the scores (choices,) of `score_choices`."""
        if self.task == MATCHING:
            match = scores.item()
            return Answer("match" if match > 0.5 else "no match", {"match": match})
        if self.task == CHOOSING:
            best = best_choices(scores[: len(row["boxes"])], self.top_k)
            choice = best[0][0]
            box = [round(value, 2) for value in row["boxes"][choice]]
            text = f"box {choice}: {', '.join(f'{value:g}' for value in box)}"
            return Answer(text, {f"box {number}": score for number, score in best}, {"box": box, "choice": choice})
        config = self.model.config
        if config.problem_type == "regression":
            return Answer(f"{scores.item():.3f}", {"score": scores.item()})
        named = {config.id2label[number]: score for number, score in best_choices(scores, len(scores))}
        if config.problem_type != "multi_label_classification":
            return Answer(next(iter(named)), dict(islice(named.items(), self.top_k)))
        chosen = [name for name, score in named.items() if score >= LEAST_PROBABILITY]
        shown = dict(islice(named.items(), max(self.top_k, len(chosen))))
        return Answer(", ".join(chosen) or "none", shown, {"answers": chosen})


def asked_head(model: PreTrainedModel, kind: str, objective: str | None) -> tuple[str, PreTrainedModel]:
    """Return the kind of model that answers for a pretrained one, and that model: of an `objective`, or by default of the first that is a
    task if neither matching nor missing words are its answers. Raise `ValueError` if the model has no such objective."""
    if objective is None and model.pipeline_task is None:
        objective = next((name for name, each in model.objectives.items() if each.task_kind), None)
    if objective is None:
        return kind, model
    made = task_model(model, objective)
    return model.objectives[objective].task_kind, made
