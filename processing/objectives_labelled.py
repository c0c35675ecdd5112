"""The data of objectives of pretraining on rows with labels of tasks: answers, boxes, classes of images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..modeling.fields import check_bounds, option
from .batch_draft import BatchDraft, name_of
from .decoding import UnusableRow, is_feature
from .masking import IGNORED
from .objectives import ObjectiveData, register_objective_data
from .regions import crop_boxes
from .vqa_answers import AnswerTargets, answer_vocabulary


def answers_of(row: dict) -> list[str]:
    """Return the answers to the question of a row, which may be a single one; raise `ValueError` if they are something else."""
    answers = [row["answers"]] if isinstance(row["answers"], str) else list(row["answers"])
    if wrong := [answer for answer in answers if not isinstance(answer, str)]:
        raise ValueError(f"{name_of(row)}: answers: expected texts, got {wrong[0]!r}")
    return answers


@register_objective_data
@dataclass
class AnswersData(ObjectiveData):
    """
    Visual question answering: `vqa_labels` (R, answers of the vocabulary), how right each answer is to the question of a row, as in
    finetuning. An answer that is not in the vocabulary has no place there: a question that has no other is all 0. Training leaves out
    such rows (`knows`).
    """

    name = "vqa"
    #: The second is VQA's accuracy, the third that of the first answer of the vocabulary.
    sums = ("loss", "accuracy", "constant_accuracy")
    columns = ("text", "image", "answers")
    vocabulary_column, vocabulary_option = "answers", "vqa_answers"
    of_vocabulary = ("vqa_min_answer_count",)

    vqa_min_answer_count: int = option(
        9,
        "Minimum number of questions for which an answer of the objective vqa must be the most frequent one. A checkpoint with that "
        "objective keeps its answers.",
        within="[1, inf)",
    )

    def __post_init__(self):
        check_bounds(self)
        self._targets = AnswerTargets([])

    def vocabulary(self, values: Iterable[list[str]]) -> list[str]:
        values = list(values)
        names = answer_vocabulary(values, self.vqa_min_answer_count)
        if not names:
            fault = (
                f"no answer is the most frequent one of {self.vqa_min_answer_count} or more of {len(values)} questions"
            )
            raise ValueError(f"vqa_min_answer_count: {fault}; lower it")
        return names

    def fit(self, config):
        self._targets = AnswerTargets(config.vqa_answers or [])

    def knows(self, value):
        return self._targets.knows(value)

    def add(self, draft, draw):
        rows = draft.rows_of(self.name)
        draft.read_clean_text(rows)
        self.require_fit(self._targets.size)
        answers = [answers_of(draft.rows[number]) for number in rows]
        unknown = np.full(self._targets.size, IGNORED, dtype=np.float32)
        labels = np.stack([self._targets(given) if given else unknown for given in answers])
        return {"vqa_labels": labels} | draft.paired(self.name)

    def row_sums(self, logits, inputs):
        labels = inputs["vqa_labels"].float()
        known = labels != IGNORED
        labels = labels * known
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
        chosen = labels.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
        # The vocabulary begins with the answer of most questions.
        return torch.stack([(losses * known).sum(dim=1), chosen, labels[:, 0]], dim=1)


@register_objective_data
@dataclass
class RegionsData(ObjectiveData):
    """
    Reference resolution: the regions of a row's boxes become images of the batch, `grounding_image_index` and `grounding_mask` (R, K) say
    which they are, and `grounding_labels` (R,) which is meant. K is the largest number of boxes of a row in the batch or, if shapes are
    to repeat, `grounding_boxes`.
    """

    name = "grounding"
    sums = ("loss", "accuracy", "chance_accuracy")
    columns = ("text", "image", "boxes", "label")
    augmentable = cacheable = False

    grounding_boxes: int = option(
        8,
        "Maximum number of boxes that a text of the objective grounding is compared with. If its image has more, the one that is meant "
        "and others that are drawn, in training anew in each epoch.",
        within="[2, 256]",
    )

    def __post_init__(self):
        check_bounds(self)

    def add(self, draft, draw):
        rows = draft.rows_of(self.name)
        draft.read_clean_text(rows)
        chosen = [self.chosen(draft, number) for number in rows]
        width = self.grounding_boxes if draft.repeats_shapes else max(map(len, chosen))
        index, mask = np.zeros((2, len(rows), width), dtype=np.int64)
        labels = np.zeros(len(rows), dtype=np.int64)
        for place, (number, boxes) in enumerate(zip(rows, chosen, strict=True)):
            shown = self.regions(draft, draft.rows[number], boxes)
            # Places without a region show the first, which nothing reads.
            index[place] = shown[0]
            index[place, : len(shown)], mask[place, : len(shown)] = shown, 1
            labels[place] = boxes.index(draft.rows[number]["label"])
        return {"grounding_image_index": index, "grounding_mask": mask, "grounding_labels": labels}

    def chosen(self, draft: BatchDraft, number: int) -> list[int]:
        """Return the numbers of the boxes of a row that its text is compared with, in order, the one that is meant among them."""
        row = draft.rows[number]
        count, label = len(row["boxes"]), row["label"]
        if not 0 <= label < count:
            fault = f"label: expected the number of one of {count} boxes, from 0 on, got {label}"
            raise UnusableRow.of(f"{name_of(row)}: {fault}", fault, row["image"])
        others = [box for box in range(count) if box != label]
        if count > self.grounding_boxes:
            rng = draft.row_rng(number, self.name)
            others = rng.choice(others, self.grounding_boxes - 1, replace=False).tolist()
        return sorted([label, *others])

    def regions(self, draft: BatchDraft, row: dict, boxes: list[int]) -> list[int]:
        """Return the numbers in `draft.shown` of the regions of a row's boxes, each once in the batch."""
        if is_feature(row["image"]):
            raise ValueError("grounding: reads parts of images, which cached features lack; leave out the cache")
        image = draft.decoded(row)
        try:
            crops = crop_boxes(image, [row["boxes"][box] for box in boxes])
        except ValueError as error:
            raise UnusableRow.of(f"{name_of(row)}: {error}", str(error), row["image"]) from error
        places = [tuple(row["boxes"][box]) for box in boxes]
        return [draft.show(row | {"image": crop}, place) for crop, place in zip(crops, places, strict=True)]

    def row_sums(self, logits, inputs):
        """The chance is that of drawing one of the boxes."""
        labels = inputs["grounding_labels"]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        correct, chance = (logits.argmax(dim=1) == labels).float(), 1 / inputs["grounding_mask"].sum(dim=1).float()
        return torch.stack([loss, correct, chance], dim=1)


@register_objective_data
@dataclass
class ImageClassesData(ObjectiveData):
    """Classification of images: `classification_image_index` and `classification_labels` (R,), the images and their classes."""

    name = "classification"
    sums = ("loss", "accuracy")
    label_input = "classification_labels"
    columns = ("image", "class_name")
    vocabulary_column, vocabulary_option = "class_name", "image_classes"

    def __post_init__(self):
        self._numbers: dict[str, int] = {}

    def vocabulary(self, values: Iterable[str]) -> list[str]:
        names = sorted(set(values))
        if len(names) < 2:
            fault = f"expected at least two classes in the training data, got {' '.join(names) or 'none'}"
            raise ValueError(f"label_column: {fault}")
        return names

    def fit(self, config):
        self._numbers = {name: number for number, name in enumerate(config.image_classes or [])}

    def knows(self, value):
        return value in self._numbers

    def add(self, draft, draw):
        rows = draft.rows_of(self.name)
        self.require_fit(self._numbers)
        names = [draft.rows[number]["class_name"] for number in rows]
        for number, name in zip(rows, names, strict=True):
            if name not in self._numbers:
                known = ", ".join([*self._numbers][:8])
                fault = f"the class {name!r} is none of the model's ({known})"
                raise ValueError(f"{name_of(draft.rows[number])}: {fault}; leave out such rows")
        labels = np.array([self._numbers[name] for name in names])
        return {"classification_image_index": draft.images_of(rows), "classification_labels": labels}

    def row_sums(self, logits, inputs):
        labels = inputs["classification_labels"]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return torch.stack([loss, (logits.argmax(dim=1) == labels).float()], dim=1)
