"""What a run says about its metrics: a table of results beside their baselines, and warnings."""

import math
from collections.abc import Iterable

from .metrics import Score
from .run_record import MetricValue


#: How the names of metrics end that say how fast a run was, or how far, and nothing of its model.
NO_RESULTS = ("_runtime", "_per_second", "_preparation_time", "_rows", "total_flos", "epoch")

#: The columns of `result_table`.
COLUMNS = ("metric", "value", "baseline", "rows")


def metric_values(metrics: dict[str, float], prefix: str = "", split: str = "") -> list[MetricValue]:
    """
    Return the metrics of a `split`, whose names begin with `prefix`, in their order. Those that say nothing of the model are
    left out, and baselines, which scores have.
    """
    left_out = {baseline_name(name, metrics) for name, value in metrics.items() if isinstance(value, Score)}
    rows, found = metrics.get(f"{prefix}rows"), []
    for name, value in metrics.items():
        if not name.startswith(prefix) or name in left_out or not is_result(name, value):
            continue
        known = MetricValue(name, split, name.removeprefix(prefix), float(value))
        if isinstance(value, Score):
            known.rows, known.lower_is_better = value.rows, value.lower_is_better
            if value.baseline is not None:
                known.baseline, known.baseline_kind = float(value.baseline), value.kind
                known.beats_baseline = bool(value.beats_baseline)
        else:
            known.lower_is_better = name.endswith("loss")
            # A loss beside the whole one, such as that of masked words, is a mean over something else than rows.
            known.rows = None if name.endswith("_loss") and known.metric != "loss" else rows
        found.append(known)
    return found


def result_table(values: Iterable[MetricValue]) -> list[tuple[str, str, str, str]]:
    """Return the lines of a table of metrics, below `COLUMNS`."""
    lines = [COLUMNS]
    for each in values:
        baseline = "" if each.baseline is None else f"{each.baseline:.4f} ({each.baseline_kind})"
        lines.append((each.name, f"{each.value:.4f}", baseline, "" if each.rows is None else f"{each.rows:,}"))
    return lines


def aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def is_result(name: str, value: float) -> bool:
    """Return whether a metric says something of the model, as times, speeds and counts do not."""
    return not (name.endswith(NO_RESULTS) or isinstance(value, int))


def figures(logs: dict[str, float]) -> list[str]:
    """Return phrases on what a log holds, such as `loss 0.6931`, a score with its baseline, and the time and the speed last."""
    phrases = []
    for each in metric_values(logs):
        baseline = "" if each.baseline is None else f" ({each.baseline_kind} {each.baseline:.4f})"
        phrases.append(f"{each.name} {each.value:.4f}{baseline}" if baseline else f"{each.name} {each.value:.4g}")
    for name, value in logs.items():
        if name.endswith("_rows"):
            phrases.append(f"{value:,} rows")
        elif name.endswith("_runtime"):
            phrases.append(f"{value:.1f} s")
        elif name == "skipped_steps":
            phrases.append(f"{value:,} steps not applied")
        elif name == "samples_per_second":
            phrases.append(f"{value:.4g} samples/s")
    return phrases


def baseline_name(name: str, metrics: dict[str, float]) -> str | None:
    """
    Return the name of the baseline of a score among `metrics`; `None` if it has none. It is that of the score with the
    kind before it, but after a prefix that both have, such as `eval_`.
    """
    words = name.split("_")
    marked = ("_".join([*words[:place], metrics[name].kind, *words[place:]]) for place in range(len(words)))
    return next((other for other in marked if other in metrics), None)


def warnings_of(metrics: dict[str, float], same_answers: dict[str, str]) -> list[str]:
    """
    Return a line for each answer that all rows got, by the prefix of its metrics in `same_answers`, and for each of `metrics`
    that is not finite, or is a score that does not beat its baseline.
    """
    lines = [f"{prefix}: the model says {answer}, whatever the input is" for prefix, answer in same_answers.items()]
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            lines.append(
                f"{name}: {value} is not a finite number, as with weights or data that are not; files have null for it"
            )
        elif isinstance(value, Score) and not value.beats_baseline:
            side = "below" if value.lower_is_better else "above"
            lines.append(
                f"{name}: {value:.4f} over {value.rows} rows is not {side} the baseline {value.baseline:.4f} ({value.kind}), "
                "which takes no input"
            )
    return lines
