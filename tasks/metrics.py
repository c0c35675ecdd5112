"""Metrics that need no download. Each stands beside what an answer that looks at nothing would get."""

from collections import defaultdict

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from .vqa_answers import answer_accuracies, normalize_answer


class Metric(evaluate.Metric):
    """
    A metric over all rows of a split.

    Class attributes:
        kind: Type of a prediction and of a label, `"int64"` for classes or `"float64"` for numbers.
    """

    kind = "int64"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value(self.kind), "references": datasets.Value(self.kind)}
            ),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return self.score(np.asarray(predictions), np.asarray(references))

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """The figures by name, for predictions (N,) and labels (N,)."""
        raise NotImplementedError


class Accuracy(Metric):
    """Share of correct predictions, and the share that always answering the most frequent label would get."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {
            "accuracy": float((predictions == references).mean()),
            "majority_accuracy": float(np.unique(references, return_counts=True)[1].max() / len(references)),
        }


class Matthews(Accuracy):
    """Accuracy and Matthews correlation (Matthews 1975) of two classes. Any constant answer correlates by 0."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        correlation = float(matthews_corrcoef(references, predictions))
        return {"matthews_correlation": correlation, **super().score(predictions, references)}


class AccuracyAndF1(Accuracy):
    """
    Accuracy, and F1 of class 1, of two classes; their mean, which GLUE (Wang et al. 2019) counts as the task's score; F1 of
    always answering the most frequent label.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        figures = super().score(predictions, references)
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
    Pearson and Spearman correlation of predicted numbers with the true ones; their mean, which GLUE (Wang et al. 2019)
    counts as the task's score. They are undefined, and 0 here, where all predictions or all labels are alike.
    """

    kind = "float64"

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        constant = np.ptp(predictions) == 0 or np.ptp(references) == 0
        pearson = 0.0 if constant else float(pearsonr(predictions, references).statistic)
        spearman = 0.0 if constant else float(spearmanr(predictions, references).statistic)
        return {"pearson_and_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


class Consistency(evaluate.Metric):
    """
    Share of the groups of rows whose predictions are all correct, such as those of one sentence in NLVR2 (Suhr et al. 2019).
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "groups": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions: list[int], references: list[int], groups: list[str]) -> dict[str, float]:
        rows = zip(predictions, references, groups, strict=True)
        wrong = {group for prediction, reference, group in rows if prediction != reference}
        count = len(set(groups))
        return {"consistency": (count - len(wrong)) / count}


class ClassAccuracy(Metric):
    """
    Accuracy on the rows of each class (its recall), under the class's name; none for a class without rows.

    Args:
        names: The names of the classes, as an option of `compute`.
    """

    def _compute(self, predictions: np.ndarray, references: np.ndarray, names: list[str]) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        return {
            f"accuracy_{names[number]}": float((predictions[references == number] == number).mean())
            for number in np.unique(references)
        }


class VQAAccuracy(evaluate.Metric):
    """
    VQA's official accuracy of answers, given those of several people to each question, as shares of 1; and the accuracy of
    the best answer to give to every question (`vqa_answers.py` says how both are computed).
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        correct, totals = 0.0, defaultdict(float)
        for prediction, answers in zip(predictions, references, strict=True):
            accuracies = answer_accuracies(answers)
            correct += accuracies.get(normalize_answer(prediction), 0.0)
            for answer, accuracy in accuracies.items():
                totals[answer] += accuracy
        return {
            "accuracy": correct / len(references),
            "majority_accuracy": max(totals.values()) / len(references),
        }
