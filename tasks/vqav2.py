"""VQAv2 (Goyal et al. 2017) and other questions about images, whose answers are chosen from those of the training data."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from ..modeling.fields import option
from ..processing.collators import RowCollator
from ..processing.masking import IGNORED
from ..processing.processing_renaissance import RenaissanceProcessor
from ..processing.vqa_answers import ANSWER_SCORES, AnswerTargets, answer_vocabulary
from .data import schemas
from .data.answer_lists import answer_lists
from .data.bad_rows import file_of
from .data.columns import replace_column
from .data.faults import FILE_ROW, Faults
from .metrics import VQAAccuracy
from .own_data import with_columns
from .supervised import SupervisedTask, TextAndImageArguments, row_ids, warn_of_no_answer


logger = logging.getLogger(__name__)

MIN_ANSWER_COUNT = 9


@with_columns(schemas.VQAV2, text="questions", answers="answers: one or a list of them for each question")
@dataclass
class VQAv2Arguments(TextAndImageArguments):
    """Data of VQAv2."""

    min_answer_count: int | None = option(
        None,
        "Minimum number of questions for which an answer of the vocabulary must be the most frequent one; "
        f"{MIN_ANSWER_COUNT}. A checkpoint for questions keeps its vocabulary.",
        within="[1, inf)",
    )
    train_splits: list[str] = option(
        ["train"],
        "Splits to train on: train, or train validation, as published for the test splits. Metrics of validation rows then say "
        "nothing about new questions.",
    )
    answer_splits: list[str] = option(
        [],
        "Splits whose answers are counted for the vocabulary; by default train_splits. The 3,129 answers of published models are those "
        "of train and validation together.",
    )
    answer_score: str = option(
        "leave_one_out",
        "Training target of an answer. leave_one_out: the accuracy that it would have, which is 0.3, 0.6, 0.9, 1 if "
        "1, 2, 3, or more of ten people gave it. count: the number of people who gave it, over three, at most 1.",
        choices=list(ANSWER_SCORES),
    )

    def __post_init__(self):
        super().__post_init__()
        if sorted(self.train_splits) not in (["train"], ["train", "validation"]):
            fault = f"expected train, or train and validation, got {', '.join(self.train_splits) or 'no split'}"
            raise ValueError(f"train_splits: {fault}")
        if self.held_out and len(self.train_splits) > 1:
            raise ValueError(
                "held_out: makes the validation rows from those of train, on which train_splits trains too; leave out one of them"
            )
        if unknown := sorted(set(self.answer_splits) - {"train", "validation"}):
            raise ValueError(f"answer_splits: expected train, validation or both, got {', '.join(unknown)}")
        if self.answer_score not in ANSWER_SCORES:
            raise ValueError(f"answer_score: expected one of {', '.join(ANSWER_SCORES)}, got {self.answer_score!r}")


@dataclass
class AnswerCollator:
    """
    Makes batches of questions with their images, and `labels` (B, answers of the vocabulary) of `answers`: how right
    each is, from 0 to 1, by `answer_score`, one of `ANSWER_SCORES`; -100 in rows without answers. `names` is the vocabulary.
    """

    processor: RenaissanceProcessor
    names: list[str]
    answer_score: str

    def __post_init__(self):
        self._collate = RowCollator(self.processor)
        self.targets = AnswerTargets(self.names, self.answer_score)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        labelled = (row | {"label": self.labels(row["answers"])} if "answers" in row else row for row in rows)
        return self._collate(list(labelled))

    def labels(self, answers: list[str]) -> np.ndarray:
        """Return how right each answer of the vocabulary is (answers,), float32; `IGNORED` if nobody has answered."""
        return self.targets(answers) if answers else np.full(len(self.names), IGNORED, dtype=np.float32)


class VQAv2(SupervisedTask):
    """
    Answers to questions about images, chosen from the most frequent answers of the training data (Teney et al. 2018).
    As published, training leaves out questions that none of them answers; evaluation counts these as wrong.
    """

    kind = "ForVisualQuestionAnswering"
    arguments = VQAv2Arguments
    augmentable = ("image",)
    features = schemas.VQAV2
    target = "answers"
    problem_types = (None, "multi_label_classification")
    optional = ("id",)

    def __init__(self, data_arguments: VQAv2Arguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        #: The rows of several `train_splits`, from when they are first asked for.
        self._training_rows: Dataset | None = None
        if names and (data_arguments.min_answer_count or data_arguments.answer_splits):
            logger.warning("min_answer_count, answer_splits: without effect, the checkpoint's vocabulary is kept")

    def parts_of(self, split: str) -> list[str]:
        return self.data_arguments.train_splits if split == "train" else [split]

    def source(self, split: str) -> str:
        return " and ".join(map(self.data_arguments.source, self.parts_of(split)))

    def sources(self, split: str) -> list[str]:
        return list(dict.fromkeys(name for part in self.parts_of(split) for name in super(VQAv2, self).sources(part)))

    def read(self, split: str) -> Dataset:
        data = self.training_rows() if split == "train" else super().read(split)
        if self.names is None:
            self.names = self.vocabulary()
        return self.answerable(data, split)

    def training_rows(self) -> Dataset:
        """Return the rows of all `train_splits`, numbered in messages from the first of the first file to the last of the last."""
        splits = self.parts_of("train")
        if len(splits) == 1:
            return super().read("train")
        if self._training_rows is None:
            read = [self.read_whole(split, for_training=True) for split in splits]
            sizes = [self.bad_rows.totals[file_of(self.data_arguments.source(split))] for split in splits]
            self.bad_rows.totals[self.source("train")] = sum(sizes)
            columns = [name for name in read[0].column_names if all(name in data.column_names for data in read)]
            starts = [0, *np.cumsum(sizes)[:-1].tolist()]
            moved = [
                replace_column(data, FILE_ROW, np.asarray(data[FILE_ROW]) + start, data.features[FILE_ROW])
                for data, start in zip(read, starts, strict=True)
            ]
            self._training_rows = concatenate_datasets([data.select_columns(columns) for data in moved])
        return self._training_rows

    def vocabulary(self) -> list[str]:
        """
        Return the answers that the model chooses from, most frequent first. Raise `ValueError` if no answer is
        frequent enough, or a question has none.
        """
        arguments = self.data_arguments
        least = arguments.min_answer_count or MIN_ANSWER_COUNT
        answers = []
        for split in arguments.answer_splits:
            answers += super().read(split)["answers"]
        answers = answers or self.training_rows()["answers"]
        names = answer_vocabulary(answers, least)
        if not names:
            fault = f"no answer is the most frequent one of {least} or more of {len(answers)} questions"
            raise ValueError(f"min_answer_count: {fault}; lower it")
        logger.info(f"{len(names)} answers are the most frequent of {least} or more of {len(answers)} questions each")
        return names

    def with_labels(self, data: Dataset, split: str, faults: Faults) -> Dataset:
        return answer_lists(data, split in self.test_splits, faults)

    def answerable(self, data: Dataset, split: str) -> Dataset:
        """Return of training data the rows with an answer in the vocabulary, of other data all; log how many there are."""
        if "answers" not in data.column_names:
            return data
        source, vocabulary = self.source(split), AnswerTargets(self.names)
        # Of a test split, questions may have no answers.
        answered = [row for row, answers in enumerate(data["answers"]) if not answers or vocabulary.knows(answers)]
        if unanswered := len(data) - len(answered):
            counts = f"{unanswered} of {len(data)} questions have no answer in the vocabulary of {vocabulary.size}"
            logger.info(f"{source}: {counts}; {'left out' if split == 'train' else 'they count as wrong'}")
        if split == "train" and not answered:
            raise ValueError(f"{source}: no question has an answer in the vocabulary ({', '.join(self.names[:8])})")
        return data.select(answered) if split == "train" else data

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        super().check(args, config, processor)
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor: without effect on answers, which have soft labels; leave it out")
        for split in self.data_arguments.answer_splits if self.names is None else ():
            # Which raises if there is no data for it.
            self.sources(split)

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> AnswerCollator:
        return AnswerCollator(processor, self.names, self.data_arguments.answer_score)

    def collect(self, logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Keep the highest of the labels, which are as wide as the vocabulary: the metrics read the answers."""
        answers, labels = super().collect(logits, inputs)
        return answers, None if labels is None else labels.amax(dim=1)

    def metrics(self, prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
        """Return VQA's official accuracy, that of the best constant answer, and the number of questions, which are those with
        answers."""
        warn_of_no_answer(prediction.predictions)
        rows = [pair for pair in zip(prediction.predictions, data["answers"], strict=True) if pair[1]]
        answers = [self.written(number) for number, _ in rows]
        return VQAAccuracy().compute(predictions=answers, references=[given for _, given in rows])

    def write_predictions(self, predictions: Any, data: Dataset, path: Path) -> Path:
        """Write the JSON file that the evaluation server takes: `question_id` and `answer` of each question. Return it."""
        # The server knows its questions by number.
        ids = [int(row) if str(row).isdecimal() and str(int(row)) == row else row for row in row_ids(data)]
        rows = zip(ids, predictions, strict=True)
        results = [{"question_id": row, "answer": self.written(number)} for row, number in rows]
        path = path.with_suffix(".json")
        path.write_text(json.dumps(results), encoding="utf-8")
        return path
