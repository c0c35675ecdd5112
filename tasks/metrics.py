"""Metrics that need no download, each beside the result of an answer that ignores its input."""

from collections import defaultdict
from typing import ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from .vqa_answers import answer_accuracies, normalize_answer


class Metric(evaluate.Metric):
    """
    A metric over all rows of a split.

    Class attributes:
        columns: Types of the arguments of `compute`: of predictions, labels (`references`), and further ones.
    """

    columns: ClassVar[dict[str, Value | List]] = {"predictions": Value("int64"), "references": Value("int64")}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=Features(self.columns))


class Accuracy(Metric):
    """Share of correct predictions, and the share that always answering the most frequent label would get."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        return {
            "accuracy": float((predictions == references).mean()),
            "majority_accuracy": float(np.unique(references, return_counts=True)[1].max() / len(references)),
        }


class Matthews(Accuracy):
    """Accuracy and Matthews correlation (Matthews 1975) of two classes. The correlation of a constant answer is 0."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        correlation = float(matthews_corrcoef(references, predictions))
        return {"matthews_correlation": correlation, **super()._compute(predictions, references)}


class AccuracyAndF1(Accuracy):
    """
    Accuracy, and F1 of class 1, of two classes; their mean, which is the task's score in GLUE (Wang et al. 2019); F1
    of always answering the most frequent label.
    """

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        figures = super()._compute(predictions, references)
        f1 = float(f1_score(references, predictions, zero_division=0))
        majority = np.full_like(references, np.bincount(references).argmax())
        return {
            "accuracy_and_f1": (figures["accuracy"] + f1) / 2,
            "f1": f1,
            "majority_f1": float(f1_score(references, majority, zero_division=0)),
            **figures,
        }


class Correlations(Metric):
    """
    Pearson and Spearman correlation of predicted numbers with the true ones, and their mean, which is the task's score
    in GLUE (Wang et al. 2019). If all predictions or all labels are equal, they are undefined, and 0 here.
    """

    columns = {"predictions": Value("float64"), "references": Value("float64")}

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        pearson = 0.0 if constant else float(pearsonr(predictions, references).statistic)
        spearman = 0.0 if constant else float(spearmanr(predictions, references).statistic)
        return {"pearson_and_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


class Consistency(Metric):
    """Share of the groups of rows, such as those of a sentence in NLVR2 (Suhr et al. 2019), that are all correct."""

    columns = Metric.columns | {"groups": Value("string")}

    def _compute(self, predictions: list[int], references: list[int], groups: list[str]) -> dict[str, float]:
        rows = zip(predictions, references, groups, strict=True)
        wrong = {group for prediction, reference, group in rows if prediction != reference}
        count = len(set(groups))
        return {"consistency": (count - len(wrong)) / count}


class ClassAccuracy(Metric):
    """Accuracy on the rows of each class (its recall), by its name in `names`; none for a class without rows."""

    def _compute(self, predictions: list[int], references: list[int], names: list[str]) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        return {
            f"accuracy_{names[number]}": float((predictions[references == number] == number).mean())
            for number in np.unique(references)
        }


class VQAAccuracy(Metric):
    """
    VQA's official accuracy of answers, given those of several people to each question, as shares of 1; and the accuracy of
    the best constant answer. `vqa_answers.py` has the formula.
    """

    columns = {"predictions": Value("string"), "references": List(Value("string"))}

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        correct, totals = 0.0, defaultdict(float)
        for prediction, answers in zip(predictions, references, strict=True):
            accuracies = answer_accuracies(answers)
            correct += accuracies.get(normalize_answer(prediction), 0.0)
            for answer, accuracy in accuracies.items():
                totals[answer] += accuracy
        return {"accuracy": correct / len(references), "majority_accuracy": max(totals.values()) / len(references)}
