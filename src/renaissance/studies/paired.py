"""Tests of variants against each other on the same rows: what one gets right and the other does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..reports.examples import JudgedSplit
from ..reports.runs import Run
from .intervals import CONFIDENCE
from .results import Entry
from .tables import markdown_table
from .variants import seeds_of


#: Samples of the bootstrap.
DRAWS = 10_000


@dataclass(frozen=True)
class Comparison:
    """
    Two runs on the same rows.

    Attributes:
        rows: Number of rows.
        only_first, only_other: Rows that only the first, or only the other, got right.
        difference: Accuracy of the first minus that of the other.
        low, high: Its 95 % interval, of the paired bootstrap over rows (Efron and Tibshirani 1993, section 13.3).
        p: The two-sided p-value of McNemar's test in its exact form (1947): the rows on which the two differ, against a coin.
    """

    rows: int
    only_first: int
    only_other: int
    difference: float
    low: float
    high: float
    p: float


def compare(first: np.ndarray, other: np.ndarray, seed: int = 0) -> Comparison:
    """
    Compare two runs.

    Args:
        first, other: Whether each run got each row right (rows,), bool.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the runs have different numbers of rows, or none.
    """
    if first.shape != other.shape or not len(first):
        raise ValueError(f"runs of {len(first)} and {len(other)} rows cannot be compared row by row")
    rows, only_first, only_other = len(first), int((first & ~other).sum()), int((other & ~first).sum())
    # The rows of a sample that is drawn with replacement are of three kinds.
    shares = np.array([only_first, only_other, rows - only_first - only_other]) / rows
    counts = np.random.default_rng(seed).multinomial(rows, shares, DRAWS)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / rows, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    differing = only_first + only_other
    p = stats.binomtest(only_first, differing).pvalue if differing else 1.0
    return Comparison(
        rows, only_first, only_other, (only_first - only_other) / rows, float(low), float(high), float(p)
    )


def compared(
    entries: list[Entry], against: str | None, faults: list[str]
) -> Iterator[tuple[str, str, str, int, Comparison]]:
    """
    Compare each variant with one of them, the first by default, on what both predicted, for each stage and seed.

    Args:
        entries: The runs.
        against: The variant that the others are compared with.
        faults: A list to which a line is added for each pair of runs, or file of predictions, that is left out: of other data, or
            one that cannot be read.

    Yields:
        The stage, the split, the variant, the seed, and the comparison.

    Raises:
        ValueError: If there is no such variant.
    """
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    against = variants[0] if against is None else against
    if against not in variants:
        raise ValueError(f"against: no variant {against}; expected one of {', '.join(variants)}")
    known: dict[Path, dict[str, np.ndarray]] = {}
    for entry in entries:
        base = None if entry.variant == against else partner_of(entry, entries, against)
        if base is None or entry.folder == base.folder:
            continue
        for each in (entry, base):
            if each.folder not in known:
                known[each.folder] = right_rows(each, faults)
        own, other = known[entry.folder], known[base.folder]
        for split in [name for name in own if name in other]:
            prints = {data.fingerprint for each in (entry, base) if (data := each.record.of_split(split))}
            pair = f"{entry.folder} and {base.folder}"
            if len(prints - {None}) > 1:
                faults.append(f"{pair}: not compared, for their {split!r} are different data")
                continue
            try:
                found = compare(own[split], other[split])
            except ValueError as error:
                faults.append(f"{pair}: not compared: {error}")
                continue
            yield entry.stage, split, entry.variant, entry.record.seed, found


def partner_of(entry: Entry, entries: list[Entry], against: str) -> Entry | None:
    """
    Return the run of a variant that another run is compared with: that of its stage and seed. Of several, as of evaluations, which may all
    have one seed, the one whose models were trained with the same seeds. `None` if there is none.
    """
    bases = [
        each
        for each in entries
        if (each.variant, each.stage, each.record.seed) == (against, entry.stage, entry.record.seed)
    ]
    same = [each for each in bases if seeds_of(each.record) == seeds_of(entry.record)]
    if same or len(bases) == 1:
        return (same or bases)[0]
    return None


def right_rows(entry: Entry, faults: list[str]) -> dict[str, np.ndarray]:
    """
    Return whether a run got each row right, of each split that it predicted and whose labels are known. A file that cannot be read, or
    whose data cannot, is a line among `faults`.
    """
    found = {}
    for path in sorted(entry.folder.glob("predictions*")):
        try:
            judged = JudgedSplit(Run.read(entry.folder), path)
        except ValueError as error:
            faults.append(f"{path}: not compared: {error}")
            continue
        if judged.rows and all(row.right is not None for row in judged.rows):
            found[judged.split] = np.array([row.right for row in judged.rows])
    return found


def as_rows(rows: list[tuple[str, str, str, int, Comparison]], against: str) -> list[list[str]]:
    """Return the rows of a table of comparisons, the first one with the titles."""
    titles = ["stage", "split", "variant", "seed", "rows", f"accuracy minus that of {against}"]
    titles += ["only it is right", f"only {against} is right", "p (McNemar)"]
    lines = [titles]
    for stage, split, variant, seed, each in rows:
        told = f"{each.difference:+.4g} [{each.low:+.4g}, {each.high:+.4g}]"
        counts = [str(each.only_first), str(each.only_other), f"{each.p:.3g}"]
        lines.append([stage, split, variant, str(seed), str(each.rows), told, *counts])
    return lines


def as_markdown(rows: list[tuple[str, str, str, int, Comparison]], against: str) -> str:
    """Return comparisons as a table in Markdown."""
    table = markdown_table(as_rows(rows, against), texts=3)
    return f"{table}\n\nIn brackets, the 95 % interval of the paired bootstrap over rows.\n"
