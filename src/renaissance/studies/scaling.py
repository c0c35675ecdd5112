"""Power laws: how a loss falls with the size of the model, of the data, or of the compute."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from .intervals import CONFIDENCE, SHARES, is_share
from .results import Entry, has_value
from .tables import COSTS


logger = logging.getLogger(__name__)

#: Samples of the bootstrap.
DRAWS = 500
#: The largest exponent of a law.
STEEPEST = 10.0
#: The least share of a size's variance, in logarithms, that the other sizes must not explain.
OWN_VARIANCE = 0.01


@dataclass(frozen=True)
class PowerLaw:
    """
    The law `offset + sum over i of scale_i * (x_i / middle_i) ** -exponent_i`.

    Attributes:
        offset: What no size goes below.
        scales, exponents: Of each term.
        middles: The geometric means of the sizes that it was fitted to.
    """

    offset: float
    scales: tuple[float, ...]
    exponents: tuple[float, ...]
    middles: tuple[float, ...]

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """Return the value (N,) at sizes (N, terms)."""
        shares = (sizes / np.array(self.middles)) ** -np.array(self.exponents)
        return self.offset + shares @ np.array(self.scales)

    @property
    def numbers(self) -> np.ndarray:
        """The offset, the scales and the exponents, in one row."""
        return np.array([self.offset, *self.scales, *self.exponents])


@dataclass(frozen=True)
class FittedLaw:
    """
    A law with its interval.

    Attributes:
        law: The one with the least sum of squares of the logarithms' differences.
        low, high: The ends of the intervals of `CONFIDENCE` of its `numbers`.
        error: The root mean square of the logarithms' differences, of which 0.01 is one percent.
    """

    law: PowerLaw
    low: np.ndarray
    high: np.ndarray
    error: float


def fit(
    sizes: np.ndarray, values: np.ndarray, names: Sequence[str], offset: float | None = None, draws: int = DRAWS
) -> FittedLaw:
    """
    Fit a power law. Its intervals are those of the bootstrap over residuals (Efron and Tibshirani 1993, section 9.4): each sample is the
    law's values times residuals that are drawn with replacement, and is fitted again. Residuals are scaled up for the parameters that
    were fitted to them. The sizes stay as they are, for an experiment chose them.

    Args:
        sizes: What each run had of each size (N, terms), above 0.
        values: The loss of each run (N,), above 0.
        names: The names of the sizes, for messages.
        offset: The law's offset, if it is known.
        draws: Samples of the bootstrap.

    Raises:
        ValueError: If a size or a value is not above 0, a size does not differ, or follows from the others, there are too few runs, or a
            loss is below the offset.
    """
    sizes, values = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if not (np.isfinite(sizes).all() and np.isfinite(values).all() and (sizes > 0).all() and (values > 0).all()):
        raise ValueError("expected sizes and values above 0")
    if offset is not None and offset >= values.min():
        raise ValueError(f"offset {offset:g}: expected less than the least loss, {values.min():.4g}")
    unknown = 2 * sizes.shape[1] + (offset is None)
    if len(values) <= unknown:
        raise ValueError(
            f"{len(values)} runs do not say what {unknown} numbers of a law are; expected more than {unknown}"
        )
    refuse_sizes(sizes, names, 2 + (offset is None and sizes.shape[1] == 1))
    law = best(sizes, values, offset)
    fitted = law.at(sizes)
    residuals = np.log(values / fitted)
    scaled = (residuals - residuals.mean()) * (len(values) / (len(values) - unknown)) ** 0.5
    rng = np.random.default_rng(0)
    drawn = [
        solve(sizes, fitted * np.exp(rng.choice(scaled, size=len(values))), law, offset).numbers for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return FittedLaw(law, low, high, float(np.sqrt(np.mean(residuals**2))))


def refuse_sizes(sizes: np.ndarray, names: Sequence[str], least: int) -> None:
    """
    Raise `ValueError` if one of the sizes (N, terms) has less than the `least` number of values, or rises with the others, so that no
    exponents of their own can be told.
    """
    for name, column in zip(names, sizes.T, strict=True):
        if (count := len(np.unique(column))) < least:
            told = f"{count} value{'s' * (count != 1)} in these runs; expected {least} or more"
            raise ValueError(f"by: {name} has {told}")
    logs = np.log(sizes) - np.log(sizes).mean(axis=0)
    for place, name in enumerate(names):
        others = np.delete(logs, place, axis=1)
        rest = logs[:, place] - others @ np.linalg.lstsq(others, logs[:, place])[0]
        if np.sum(rest**2) < OWN_VARIANCE * np.sum(logs[:, place] ** 2):
            beside = " and ".join(other for other in names if other != name)
            raise ValueError(
                f"by: {name} rises with {beside} in these runs, so that their exponents cannot be told apart; leave one out"
            )


def best(sizes: np.ndarray, values: np.ndarray, offset: float | None) -> PowerLaw:
    """Return the law that fits best, of those that are found from several starts."""
    terms, lowest = sizes.shape[1], values.min()
    middles = tuple(np.exp(np.log(sizes).mean(axis=0)))
    starts = [
        PowerLaw(
            share * lowest,
            (max(np.median(values) - share * lowest, 1e-9) / terms,) * terms,
            (exponent,) * terms,
            middles,
        )
        for share in (0.0, 0.5, 0.9)
        for exponent in (0.1, 0.5, 2.0)
    ]
    found = [solve(sizes, values, start, offset) for start in starts]
    return min(found, key=lambda law: np.sum(np.log(values / law.at(sizes)) ** 2))


def solve(sizes: np.ndarray, values: np.ndarray, start: PowerLaw, offset: float | None) -> PowerLaw:
    """Return the law that least squares of logarithms find from a start."""
    terms, logs = sizes.shape[1], np.log(values)

    def law_of(numbers: np.ndarray) -> PowerLaw:
        if offset is not None:
            numbers = np.r_[offset, numbers]
        return PowerLaw(numbers[0], tuple(numbers[1 : terms + 1]), tuple(numbers[terms + 1 :]), start.middles)

    lower = np.r_[0.0, np.full(terms, 1e-12), np.zeros(terms)]
    upper = np.r_[values.min(), np.full(terms, np.inf), np.full(terms, STEEPEST)]
    known = slice(offset is not None, None)
    begin = np.clip(start.numbers, lower + 1e-9, upper - 1e-9)[known]
    result = optimize.least_squares(
        lambda numbers: np.log(law_of(numbers).at(sizes)) - logs,
        begin,
        bounds=(lower[known], upper[known]),
        x_scale="jac",
    )
    return law_of(result.x)


def points(entries: list[Entry], metric: str, by: list[str]) -> Iterator[tuple[Entry, list[float], float]]:
    """
    Yield the runs that have a metric, once, with their sizes and its value; of a share of rows that are right, what is missing to 1.

    Args:
        metric: As `eval_loss`, or `pretraining.eval_loss` of one stage.
        by: The sizes: titles of columns of a table that say what a run costs.

    Raises:
        ValueError: If there is no such size, no run has the metric, or runs of several stages have it.
    """
    if unknown := [name for name in by if name not in COSTS]:
        raise ValueError(f"by: no size {unknown[0]}; expected any of {', '.join(COSTS)}")
    stage, _, name = metric.rpartition(".")
    found = {
        entry.folder: (entry, each)
        for entry in entries
        for each in entry.record.metrics
        if each.name == name and stage in ("", entry.stage)
    }
    for entry, each in found.values():
        if not has_value(each):
            logger.warning(f"{entry.folder} is left out: its {name} is not finite (diverged?)")
    found = {folder: (entry, each) for folder, (entry, each) in found.items() if has_value(each)}
    if not found:
        known = sorted({f"{entry.stage}.{each.name}" for entry in entries for each in entry.record.metrics})
        raise ValueError(f"metric: no run has {metric}; expected any of {', '.join(known)}")
    if len(stages := sorted({entry.stage for entry, _ in found.values()})) > 1:
        raise ValueError(f"metric: the stages {', '.join(stages)} have {name}; expected one, as in {stages[0]}.{name}")
    for entry, each in found.values():
        sizes = [COSTS[size][0]([entry]) for size in by]
        if None in sizes:
            raise ValueError(f"by: {entry.folder} has no {by[sizes.index(None)]}")
        yield entry, sizes, 1 - each.value if is_share(each) else each.value


def as_markdown(metric: str, by: list[str], found: list[tuple[Entry, list[float], float]], fitted: FittedLaw) -> str:
    """Return the law, and its runs with what it says of each, in Markdown."""
    called = f"1 - {metric}" if metric.endswith(SHARES) else metric
    law, terms = fitted.law, len(by)
    parts = [f"{law.offset:.4g}"] + [
        f"{scale:.4g} ({name} / {middle:,.4g})^-{exponent:.4g}"
        for name, scale, middle, exponent in zip(by, law.scales, law.middles, law.exponents, strict=True)
    ]
    names = ["offset", *(f"scale of {name}" for name in by), *(f"exponent of {name}" for name in by)]
    lines = [f"{called} = {' + '.join(parts)}", "", "| number | value | 95 % interval |", "|---|---:|---:|"]
    for name, value, low, high in zip(names, law.numbers, fitted.low, fitted.high, strict=True):
        lines.append(f"| {name} | {value:.4g} | {low:.4g} to {high:.4g} |")
    lines += [
        "",
        f"| variant | seed | {' | '.join(by)} | {called} | the law's |",
        f"|---|---:|{'---:|' * (terms + 2)}",
    ]
    expected = law.at(np.array([sizes for _, sizes, _ in found]))
    for (entry, sizes, value), own in zip(found, expected, strict=True):
        shown = " | ".join(f"{size:,.4g}" for size in sizes)
        lines.append(f"| {entry.variant} | {entry.record.seed} | {shown} | {value:.4g} | {own:.4g} |")
    told = f"{len(found)} runs; root mean square error {fitted.error:.2%}; intervals of the bootstrap over residuals."
    return "\n".join([*lines, "", told, ""])
