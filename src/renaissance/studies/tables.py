"""Tables of runs: one row a variant, one column a metric, with intervals and what each variant cost."""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from .intervals import Interval
from .results import Column, Entry


#: What a variant costs, by the title of its column: the sum over its runs, or the largest, as the mean over seeds.
COSTS: dict[str, tuple[Callable[[list[Entry]], float | None], str]] = {
    "parameters": (lambda runs: max((run.record.parameters for run in runs), default=None), ",.0f"),
    "trainable": (lambda runs: max((run.record.trainable_parameters for run in runs), default=None), ",.0f"),
    "samples": (lambda runs: total(run.record.samples for run in runs), ",.0f"),
    "FLOPs": (lambda runs: total(run.record.flops for run in runs), ".3g"),
    "device-hours": (
        lambda runs: total(run.record.train_seconds * run.record.num_processes / 3600 for run in runs),
        ".3f",
    ),
    "peak MB": (lambda runs: largest(peak_bytes(run) for run in runs), ",.0f"),
    "Wh": (lambda runs: watt_hours(total(run.record.energy_joules for run in runs)), ".3g"),
}


#: Those that are summed over the stages of a variant.
SUMS = ("samples", "FLOPs", "device-hours", "Wh")


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum of the values that are known; `None` if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def watt_hours(joules: float | None) -> float | None:
    """Return an energy in watt hours."""
    return None if joules is None else joules / 3600


def largest(values: Iterable[float | None]) -> float | None:
    """Return the largest of the values that are known, in megabytes; `None` if none is."""
    known = [value for value in values if value is not None]
    return max(known) / 1e6 if known else None


def peak_bytes(run: Entry) -> int | None:
    """Return the most memory that a run took, on its GPU if it had one."""
    return run.record.peak_gpu_memory_bytes or run.record.peak_memory_bytes


def costs_of(entries: list[Entry], variant: str) -> dict[str, float | None]:
    """
    Return what a variant costs for one seed: the sum over its stages of their means over seeds, or the largest of these. A sum is over runs
    that train, and is not known if that of one of them is not.
    """
    own = [entry for entry in entries if entry.variant == variant]
    by_stage: dict[str, list[Entry]] = {}
    for entry in own:
        by_stage.setdefault(entry.stage, []).append(entry)
    found: dict[str, float | None] = {}
    for title, (of_runs, _) in COSTS.items():
        summed = title in SUMS
        parts = [
            [of_runs([entry]) for entry in runs if "train" in entry.record.did or not summed]
            for runs in by_stage.values()
        ]
        known = [[value for value in part if value is not None] for part in parts]
        means = [fmean(part) for part in known if part]
        incomplete = summed and known != parts
        found[title] = None if incomplete or not means else sum(means) if summed else max(means)
    return found


def cell(column: Column, variant: str) -> str:
    """Return a metric of a variant with its interval as text, and of how many seeds it is if some have no value."""
    interval, runs = column.values.get(variant), column.runs.get(variant, 0)
    if interval is None:
        return "no value" if runs else ""
    text = f"{interval.mean:.4g}"
    if interval.low is not None:
        text += f" [{interval.low:.4g}, {interval.high:.4g}]"
    have = column.have_value(variant)
    return text if have == runs else f"{text} ({have} of {runs} seeds)"


def wide(entries: list[Entry], columns: list[Column]) -> list[list[str]]:
    """Return the rows of a table for people, the first one with the titles."""
    # Baselines last, beside that of an answer which reads nothing.
    ordered = sorted(entries, key=lambda entry: entry.baseline is not None)
    variants = list(dict.fromkeys(entry.variant for entry in ordered))
    rows = [["variant", *(column.title for column in columns), *COSTS]]
    for variant in variants:
        costs = costs_of(entries, variant)
        told = [format(value, COSTS[title][1]) if value is not None else "" for title, value in costs.items()]
        rows.append([variant, *(cell(column, variant) for column in columns), *told])
    if any(column.baseline is not None for column in columns):
        told = ["" if column.baseline is None else f"{column.baseline:.4g}" for column in columns]
        rows.append([f"({', '.join(kinds_of(columns))})", *told, *[""] * len(COSTS)])
    return rows


def kinds_of(columns: list[Column]) -> list[str]:
    """Return what the baselines of columns are: majority, chance, constant."""
    return list(dict.fromkeys(column.metric.baseline_kind for column in columns if column.metric.baseline_kind))


def long(entries: list[Entry], columns: list[Column]) -> list[dict[str, Any]]:
    """Return a row for each variant and metric, for programs."""
    costs = {variant: costs_of(entries, variant) for variant in dict.fromkeys(entry.variant for entry in entries)}
    baselines = {entry.variant: entry.baseline.title for entry in entries if entry.baseline}
    rows = []
    for column in columns:
        for variant, runs in column.runs.items():
            interval = column.values.get(variant, Interval([], None))
            rows.append(
                {
                    "variant": variant,
                    "input_removed": baselines.get(variant),
                    "stage": column.stage,
                    "split": column.metric.split,
                    "metric": column.metric.metric,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "interval": interval.kind,
                    "runs": len(interval.values),
                    "runs_without_value": runs - len(interval.values),
                    "values": " ".join(f"{value:.6g}" for value in interval.values),
                    "rows": interval.rows,
                    "baseline": column.baseline,
                    "baseline_kind": column.metric.baseline_kind,
                    **costs[variant],
                }
            )
    return rows


def markdown(entries: list[Entry], columns: list[Column]) -> str:
    """Return a table in Markdown, with a line on its intervals."""
    return f"{markdown_table(wide(entries, columns))}\n\n{legend(columns)}\n"


def markdown_table(rows: list[list[str]], texts: int = 1) -> str:
    """Return a table in Markdown, the first row of which has the titles; the first `texts` columns are flushed left."""
    titles, *escaped = [[value.replace("|", r"\|") for value in row] for row in rows]
    lines = [titles, [*["---"] * texts, *["---:"] * (len(titles) - texts)], *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def legend(columns: list[Column]) -> str:
    """Return what the intervals of a table are, as a sentence."""
    told = intervals_of(columns)
    return f"In brackets, {told}." if told else "One run each, without an interval."


def intervals_of(columns: list[Column]) -> str:
    """Return what the intervals of columns are; nothing if there are none."""
    kinds = {interval.kind for column in columns for interval in column.values.values()}
    told = []
    if "seeds" in kinds:
        told.append("over several seeds: mean and 95 % interval of Student's t")
    if "rows" in kinds:
        told.append("of one seed: 95 % interval of the bootstrap over rows")
    return "; ".join(told)


#: What TeX reads as something else, and how it is written.
TEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex(entries: list[Entry], columns: list[Column]) -> str:
    """Return a table in LaTeX, for the package booktabs."""
    titles, *rows = [[value.translate(TEX) for value in row] for row in wide(entries, columns)]
    body = [
        r"\toprule",
        f"{' & '.join(titles)} \\\\",
        r"\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows),
        r"\bottomrule",
    ]
    spec = "l" + "r" * (len(titles) - 1)
    return "\n".join([f"% {legend(columns)}", rf"\begin{{tabular}}{{{spec}}}", *body, r"\end{tabular}", ""])


def as_csv(entries: list[Entry], columns: list[Column]) -> str:
    """Return the rows for programs as CSV."""
    rows, text = long(entries, columns), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def write_parquet(entries: list[Entry], columns: list[Column], path: Path) -> None:
    """Write the rows for programs as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("variant", "input_removed", "stage", "split", "metric", "interval", "values", "baseline_kind")
    counts = ("runs", "runs_without_value", "rows")
    names = long(entries, columns)[0]
    # Not what a first row happens to have: a column without values would have no type.
    kinds = {**dict.fromkeys(texts, pa.string()), **dict.fromkeys(counts, pa.int64())}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    pq.write_table(pa.Table.from_pylist(long(entries, columns), schema), path)


#: The forms of a table that are text.
FORMS = {"markdown": markdown, "csv": as_csv, "latex": latex}
