"""Intervals of metrics: over the seeds of a variant, or over the rows of one run."""

import statistics
from dataclasses import dataclass

from scipy import stats

from ..tasks.run_record import MetricValue


#: The share of intervals that hold the true value.
CONFIDENCE = 0.95
#: How the names of metrics end that are a share of rows.
SHARES = ("accuracy", "consistency")
#: How the names of metrics end that lie between 0 and 1.
BOUNDED = (*SHARES, "f1", "f1_macro", "f1_micro", "auroc", "_r1", "_r5", "_r10", "mean_recall")


@dataclass
class Interval:
    """
    A metric of a variant.

    Attributes:
        values: Its value for each run, of different seeds.
        mean: Their mean; `None` if there is none.
        low, high: The ends of the interval of `CONFIDENCE`; `None` if there is none.
        kind: What it is over: `seeds` (Student's t), `rows` (bootstrap of one run's rows), or empty.
        rows: Rows that each value was computed on, if the runs agree.
    """

    values: list[float]
    mean: float | None
    low: float | None = None
    high: float | None = None
    kind: str = ""
    rows: int | None = None


def interval_of(metrics: list[MetricValue]) -> Interval:
    """
    Return the mean of a metric over runs, with its interval: that of Student's t over the runs, if there are several, cut at 0 and 1 if
    the metric cannot lie beyond. Of one run, that of the bootstrap over its rows, if the metric is a share of rows that are right: the mean of a sample, drawn with replacement, of
    `rows` rows of which `value * rows` are right is binomial, so that nothing has to be drawn (Efron and Tibshirani 1993, ch. 13.3).
    """
    values = [each.value for each in metrics]
    mean, rows = statistics.fmean(values), {each.rows for each in metrics}
    found = Interval(values, mean, rows=rows.pop() if len(rows) == 1 else None)
    if len(values) > 1:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
        found.low, found.high, found.kind = mean - half, mean + half, "seeds"
        if metrics[0].metric.endswith(BOUNDED):
            found.low, found.high = max(found.low, 0.0), min(found.high, 1.0)
    elif found.rows and is_share(metrics[0]):
        low, high = stats.binom.interval(CONFIDENCE, found.rows, min(max(mean, 0.0), 1.0))
        found.low, found.high, found.kind = float(low) / found.rows, float(high) / found.rows, "rows"
    return found


def is_share(metric: MetricValue) -> bool:
    """Return whether a metric is a share of rows."""
    return metric.metric.endswith(SHARES)
