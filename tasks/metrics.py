"""Metrics that need no download."""

import datasets
import evaluate
import numpy as np


class Accuracy(evaluate.Metric):
    """Share of correct predictions, and the share that always answering the most frequent label would get."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy beside the majority baseline.",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        return {
            "accuracy": float((predictions == references).mean()),
            "majority_accuracy": float(np.unique(references, return_counts=True)[1].max() / len(references)),
        }
