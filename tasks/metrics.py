"""Metrics that need no download. Each result comes with that of an answer that ignores its input, and with the number of rows."""

from typing import ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

from ..modeling.answers import LEAST_PROBABILITY
from ..processing.vqa_answers import answer_accuracy, best_constant_accuracy


#: What a baseline does without looking at its input: say the most frequent answer, draw one at random, or say any one thing.
#: The name of a baseline is that of its metric with its kind before it, such as majority_accuracy.
BASELINES = ("majority", "chance", "constant")


class Score(float):
    """
    The result of a metric: a number that knows its baseline and the number of rows that it is over.

    Args:
        value: The number. 1 is the best one.
        rows: Number of rows, or of what else the metric counts.
        baseline: The result of an answer that ignores its input; `None` if there is none.
        kind: What the baseline does, one of `BASELINES`.
        lower_is_better: Whether a lower number is better, as it is for ranks.
    """

    def __new__(
        cls,
        value: float,
        rows: int,
        baseline: float | None = None,
        kind: str = "majority",
        lower_is_better: bool = False,
    ):
        score = super().__new__(cls, value)
        score.rows, score.baseline, score.kind, score.lower_is_better = rows, baseline, kind, lower_is_better
        return score

    def __getnewargs__(self) -> tuple:
        return float(self), self.rows, self.baseline, self.kind, self.lower_is_better

    @property
    def beats_baseline(self) -> bool:
        """Whether the number is better than its baseline. Without a baseline it is."""
        if self.baseline is None:
            return True
        # Both may be sums of the same numbers in another order.
        margin = (self.baseline - self) if self.lower_is_better else (self - self.baseline)
        return margin > 1e-9


def with_baselines(scores: dict[str, Score], **counts: int) -> dict[str, float]:
    """Return the scores, each followed by its baseline, and then the counts."""
    figures = {}
    for name, score in scores.items():
        figures[name] = score
        if score.baseline is not None:
            figures[f"{score.kind}_{name}"] = score.baseline
    return figures | counts


def with_scores(figures: dict[str, float], rows: int) -> dict[str, float]:
    """Return the figures with a `Score` over `rows` for each that has its baseline among them, by the name that that has."""
    baselines = {f"{kind}_{name}": (kind, name) for kind in BASELINES for name in figures}
    baselines = {key: baselines[key] for key in figures if key in baselines}
    scores = {name: Score(figures[name], rows, figures[key], kind) for key, (kind, name) in baselines.items()}
    found = {}
    for name, value in figures.items():
        if name not in baselines:
            found |= with_baselines({name: scores[name]}) if name in scores else {name: value}
    return found


class Metric(evaluate.Metric):
    """
    A metric over all rows of a split. `compute` returns a dictionary: each `Score` that `scores` returns by its name,
    after it its baseline, such as `majority_accuracy` after `accuracy`, and at the end the number of rows.

    Class attributes:
        columns: Types of the arguments of `compute`: of predictions, labels (`references`), and further ones.
        counted: What the rows are called in the result.
    """

    columns: ClassVar[dict[str, Value | List]] = {"predictions": Value("int64"), "references": Value("int64")}
    counted: ClassVar[str] = "rows"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=Features(self.columns))

    def _compute(self, **columns) -> dict[str, float]:
        scores = self.scores(**columns)
        return with_baselines(scores, **{self.counted: next(iter(scores.values())).rows})

    def scores(self, **columns) -> dict[str, Score]:
        """Return the results by name, of all rows; the arguments are `columns`, a list each."""
        raise NotImplementedError


def most_frequent(references: np.ndarray) -> int:
    """Return the most frequent of the labels (N,), the lowest of several."""
    values, counts = np.unique(references, return_counts=True)
    return values[counts.argmax()]


class Accuracy(Metric):
    """Share of correct predictions. Baseline: always answering the most frequent label."""

    def scores(self, predictions: list[int], references: list[int]) -> dict[str, Score]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        majority = (references == most_frequent(references)).mean()
        return {"accuracy": Score((predictions == references).mean(), len(references), float(majority))}


class Matthews(Accuracy):
    """Matthews correlation (Matthews 1975) of two classes, which is 0 for a constant answer; and accuracy."""

    def scores(self, predictions: list[int], references: list[int]) -> dict[str, Score]:
        correlation = matthews_corrcoef(references, predictions)
        score = Score(correlation, len(references), 0.0, "constant")
        return {"matthews_correlation": score, **super().scores(predictions, references)}


class AccuracyAndF1(Accuracy):
    """
    Accuracy, and F1 of class 1, of two classes; their mean, which is the task's score in GLUE (Wang et al. 2019).
    Baseline: always answering the most frequent label.
    """

    def scores(self, predictions: list[int], references: list[int]) -> dict[str, Score]:
        figures, rows = super().scores(predictions, references), len(references)
        accuracy = figures["accuracy"]
        constant = np.full(rows, most_frequent(np.asarray(references)))
        truth = np.asarray(references) == 1
        f1, constant_f1 = (
            float(f1_score(truth, np.asarray(given) == 1, zero_division=0)) for given in (predictions, constant)
        )
        mean = Score((accuracy + f1) / 2, rows, (accuracy.baseline + constant_f1) / 2)
        return {"accuracy_and_f1": mean, "f1": Score(f1, rows, constant_f1), **figures}


class Correlations(Metric):
    """
    Pearson and Spearman correlation of predicted numbers with the true ones, and their mean, which is the task's score
    in GLUE (Wang et al. 2019). If all predictions or all labels are equal, or a prediction is no number (NaN), they are undefined,
    and 0 here.
    """

    columns = {"predictions": Value("float64"), "references": Value("float64")}

    def scores(self, predictions: list[float], references: list[float]) -> dict[str, Score]:
        constant = not np.ptp(predictions) > 0 or np.ptp(references) == 0
        pearson = 0.0 if constant else float(pearsonr(predictions, references).statistic)
        spearman = 0.0 if constant else float(spearmanr(predictions, references).statistic)
        figures = {"pearson_and_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
        return {name: Score(value, len(references), 0.0, "constant") for name, value in figures.items()}


class Consistency(Metric):
    """
    Share of the groups of rows, such as those of a sentence in NLVR2 (Suhr et al. 2019), that are all correct.
    Baseline: always answering the most frequent label.
    """

    columns = Metric.columns | {"groups": Value("string")}
    counted = "sentences"

    def scores(self, predictions: list[int], references: list[int], groups: list[str]) -> dict[str, Score]:
        constant = [most_frequent(np.asarray(references))] * len(references)
        count = len(set(groups))

        def consistent(given: list[int]) -> float:
            rows = zip(given, references, groups, strict=True)
            wrong = {group for answer, reference, group in rows if answer != reference}
            return (count - len(wrong)) / count

        return {"consistency": Score(consistent(predictions), count, consistent(constant))}


class ClassAccuracy(Metric):
    """
    Accuracy on the rows of each class (its recall), by its name in `names`, such as `accuracy_cat`, with its number of
    rows, `rows_cat`; nothing for a class without rows. Baseline: drawing one of the classes at random.
    """

    def _compute(self, **columns) -> dict[str, float]:
        figures = {}
        for name, score in self.scores(**columns).items():
            figures |= with_baselines({f"accuracy_{name}": score}, **{f"rows_{name}": score.rows})
        return figures

    def scores(self, predictions: list[int], references: list[int], names: list[str]) -> dict[str, Score]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        found = {}
        for number in np.unique(references):
            right = predictions[references == number] == number
            found[names[number]] = Score(right.mean(), len(right), 1 / len(names), "chance")
        return found


class ChoiceAccuracy(Metric):
    """Share of the rows whose right candidate is chosen. Baseline: drawing one of the row's candidates, `counts`, at random."""

    columns = Metric.columns | {"counts": Value("int64")}

    def scores(self, predictions: list[int], references: list[int], counts: list[int]) -> dict[str, Score]:
        right = np.asarray(predictions) == np.asarray(references)
        chance = float((1 / np.asarray(counts)).mean())
        return {"accuracy": Score(right.mean(), len(right), chance, "chance")}


class Classification(Metric):
    """
    Accuracy, F1 and area under the ROC curve of classes that have probabilities, of which each row has one.

    - `accuracy`: the share of rows whose most probable class is right, the first one of several.
    - `f1_macro`: the mean over classes of their F1; `f1_micro`: F1 of all answers together, which is the accuracy here.
    - `auroc`: the mean over classes of the area under the ROC curve of the class against all others, of which equal
      probabilities count half (Hand and Till 2001).

    Macro means are over the classes that have rows here, `classes`; for `auroc` there must be other rows too, and without
    any such class it is left out. A row whose probabilities are not numbers (NaN) is wrong. Baselines: always answering the most frequent class, and for `auroc` one probability for
    all rows, which gives 0.5.
    """

    columns = {"predictions": List(Value("float64")), "references": Value("int64")}

    def _compute(self, **columns) -> dict[str, float]:
        figures = super()._compute(**columns)
        return figures | {"classes": int(self.indicators(**columns).any(axis=0).sum())}

    def scores(self, predictions: list[list[float]], references: list[int]) -> dict[str, Score]:
        probabilities, truth = np.asarray(predictions), self.indicators(predictions, references)
        answers, rows = self.answers(probabilities), len(truth)
        baselines = self.baselines(truth)
        found = {name: Score(metric(answers, truth), rows, *baselines[name]) for name, metric in OF_ANSWERS.items()}
        mixed = truth.any(axis=0) & ~truth.all(axis=0)
        if mixed.any():
            # A row without probabilities says of each class the opposite of what it is.
            known = ~np.isnan(probabilities)
            ranked = np.where(known, probabilities, np.where(truth, -1.0, 2.0))
            areas = [roc_auc_score(truth[:, number], ranked[:, number]) for number in np.flatnonzero(mixed)]
            found["auroc"] = Score(float(np.mean(areas)), rows, 0.5, "constant")
        return found

    def indicators(self, predictions: list[list[float]], references: list[int]) -> np.ndarray:
        """Return whether each row (N, classes) has each class."""
        return np.asarray(references)[:, None] == np.arange(np.shape(predictions)[1])

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """Return whether each row (N, classes) is said to have each class; one without probabilities (NaN) has none."""
        best = np.where(np.isnan(probabilities).any(axis=1), -1, probabilities.argmax(axis=1))
        return best[:, None] == np.arange(probabilities.shape[1])

    def baselines(self, truth: np.ndarray) -> dict[str, tuple[float, str]]:
        """Return the baseline and its kind for each metric of answers, given the classes of each row (N, classes)."""
        constant = np.broadcast_to(np.arange(truth.shape[1]) == truth.sum(axis=0).argmax(), truth.shape)
        return {name: (metric(constant, truth), "majority") for name, metric in OF_ANSWERS.items()}


class MultiLabelClassification(Classification):
    """
    `Classification` of which a row has any number of classes: those with a probability of at least 0.5 are the answer.

    `accuracy` is the share of rows whose classes are all right, and no other is said. `f1_micro` is F1 of all pairs of a
    row and a class. Baselines: the set of classes that, said of all rows, reaches most: for the accuracy the most frequent
    set (`majority_`); for macro F1 all classes, and for micro F1 the best number of the most frequent ones (`constant_`).
    """

    columns = {"predictions": List(Value("float64")), "references": List(Value("int64"))}

    def indicators(self, predictions: list[list[float]], references: list[list[int]]) -> np.ndarray:
        return np.asarray(references).astype(bool)

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= LEAST_PROBABILITY

    def baselines(self, truth: np.ndarray) -> dict[str, tuple[float, str]]:
        rows, classes = truth.shape
        majority = float(np.unique(truth, axis=0, return_counts=True)[1].max() / rows)
        # F1 of the set of each size that has the most frequent classes.
        counts = np.sort(truth.sum(axis=0))[::-1]
        micro = 2 * counts.cumsum() / (rows * np.arange(1, classes + 1) + counts.sum())
        macro = f1_macro(np.ones_like(truth), truth)
        return {
            "accuracy": (majority, "majority"),
            "f1_macro": (macro, "constant"),
            "f1_micro": (float(micro.max()), "constant"),
        }


def row_accuracy(answers: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of rows whose answer (N, classes) is the true one."""
    return float((answers == truth).all(axis=1).mean())


def f1_macro(answers: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean F1 of the classes that have rows; 0 if none has."""
    present = truth.any(axis=0)
    right = (answers & truth).sum(axis=0)[present]
    said = (answers.sum(axis=0) + truth.sum(axis=0))[present]
    return float((2 * right / said).mean()) if present.any() else 0.0


def f1_micro(answers: np.ndarray, truth: np.ndarray) -> float:
    """Return F1 of all pairs of a row and a class; 0 if there is none, said or true."""
    said = int(answers.sum()) + int(truth.sum())
    return 2 * int((answers & truth).sum()) / said if said else 0.0


#: The metrics of `Classification` that read answers, not probabilities.
OF_ANSWERS = {"accuracy": row_accuracy, "f1_macro": f1_macro, "f1_micro": f1_micro}


class VQAAccuracy(Metric):
    """
    VQA's official accuracy of answers, given those of several people to each question, as a share of 1;
    `vqa_answers.py` has the formula. Baseline: the best constant answer.
    """

    columns = {"predictions": Value("string"), "references": List(Value("string"))}

    def scores(self, predictions: list[str], references: list[list[str]]) -> dict[str, Score]:
        right = [answer_accuracy(*pair) for pair in zip(predictions, references, strict=True)]
        return {"accuracy": Score(np.mean(right), len(right), best_constant_accuracy(references))}
