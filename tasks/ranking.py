"""Ranks, recalls, and the choice of the pairs of a large set that are worth an exact score."""

from collections.abc import Callable

import numpy as np
import torch


RECALLS = (1, 5, 10)

#: Scores of queries and items, given by number.
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rank_of_truth(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """
    Return the rank (Q,), from 1 on, of the best true candidate of each query, by `scores` (Q, C), higher for better.
    `truth` (Q, C) marks the true candidates, at least one for each query. A false candidate with the same score ranks
    before a true one, so that a constant scorer gets zero.
    """
    best = np.where(truth, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best) & ~truth).sum(axis=1)


def recall_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Return the share of the ranks (Q,) that are at most 1, 5 and 10, and the median rank."""
    return {f"r{k}": float((ranks <= k).mean()) for k in RECALLS} | {"median_rank": float(np.median(ranks))}


def chance_recalls(truth: np.ndarray) -> np.ndarray:
    """Return the expected recall at k = 1, 2, ... (C,) of random orders, if `truth` (Q, C) marks the true candidates."""
    candidates, drawn = truth.shape[1], np.arange(truth.shape[1])
    counts, queries = np.unique(truth.sum(axis=1), return_counts=True)
    all_false = np.clip(candidates - counts[:, None] - drawn, 0, None) / (candidates - drawn)
    return 1 - queries / queries.sum() @ all_false.cumprod(axis=1)


def chance_recall(truth: np.ndarray, k: int) -> float:
    """Return the expected recall at k of random orders, if `truth` (Q, C) marks the true candidates."""
    return float(chance_recalls(truth)[min(k, truth.shape[1]) - 1])


def chance_metrics(truth: np.ndarray) -> dict[str, float]:
    """Return what `recall_metrics` gives for random orders, if `truth` (Q, C) marks the true candidates."""
    median = 1 + int((chance_recalls(truth) < 0.5).sum())
    return {f"r{k}": chance_recall(truth, k) for k in RECALLS} | {"median_rank": float(median)}


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the numbers (Q, k) of each query's best candidates, best first, by `scores` (Q, C)."""
    return torch.from_numpy(scores).topk(min(k, scores.shape[1]), dim=1).indices.numpy()


def first_stage_recall(approximated: np.ndarray, truth: np.ndarray, k: int) -> float:
    """
    Return the share of the queries with a true candidate (`truth`, (Q, C)) among the k best by `approximated` (Q, C):
    the highest recall at k or below that re-ranking these k can reach.
    """
    return float(np.take_along_axis(truth, top(approximated, k), axis=1).any(axis=1).mean())


def approximate(score: Score, queries: np.ndarray, items: np.ndarray, num_anchors: int) -> np.ndarray:
    """
    Return all scores (Q, I), approximated from few exact ones: those of some queries with all items and of all queries
    with some items (Yadav et al. 2022, "Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix
    Factorization", section 3: a CUR decomposition).

    Args:
        score: Returns exact scores (q, i) of queries (q,) with items (i,).
        queries, items: Numbers of the queries (Q,) and of the items (I,).
        num_anchors: Number of queries, and of items, to score exactly.
    """
    rows = np.linspace(0, len(queries) - 1, min(num_anchors, len(queries))).round().astype(int)
    columns = np.linspace(0, len(items) - 1, min(num_anchors, len(items))).round().astype(int)
    of_rows = score(queries[rows], items).astype(np.float64)
    of_columns = score(queries, items[columns]).astype(np.float64)
    # The inverse would blow up directions as weak as the rounding of single precision.
    return of_columns @ np.linalg.pinv(of_rows[:, columns], rcond=1e-4) @ of_rows


def candidates_first(exact: np.ndarray, approximated: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return scores (Q, C) that order `candidates` (bool) like `exact`, then all others like `approximated`."""
    shift = approximated.max() - exact[candidates].min() + 1
    return np.where(candidates, exact, approximated - shift)


def reranked(
    score: Score, approximated: np.ndarray, queries: np.ndarray, items: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return scores of two stages, both (Q, I): one ranks the items of each query, the other the queries of each item.
    The k best of the first stage, on either side, are scored exactly and come first.

    Args:
        score: Returns exact scores (P,) of pairs, given as queries (P,) and items (P,).
        approximated: Scores (Q, I) of the first stage.
        queries, items: Numbers of the queries (Q,) and of the items (I,).
    """
    of_queries, of_items = (np.zeros(approximated.shape, dtype=bool) for _ in range(2))
    np.put_along_axis(of_queries, top(approximated, k), True, axis=1)
    np.put_along_axis(of_items, top(approximated.T, k).T, True, axis=0)
    row, column = np.nonzero(of_queries | of_items)
    exact = np.zeros(approximated.shape)
    exact[row, column] = score(queries[row], items[column])
    return candidates_first(exact, approximated, of_queries), candidates_first(exact, approximated, of_items)
