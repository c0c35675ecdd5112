"""What a run says about its metrics: a table of results beside their baselines, and warnings."""

from .metrics import Score


#: How the names of metrics end that say how fast a run was, or how far, and nothing of its model.
NO_RESULTS = ("_runtime", "_per_second", "_preparation_time", "_rows", "total_flos", "epoch")

#: The columns of `result_table`.
COLUMNS = ("metric", "value", "baseline", "rows")


def result_table(metrics: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Return the lines of a table of metrics, as `COLUMNS` says, in their order. A baseline has no line of its own."""
    baselines = {baseline_name(name, metrics) for name, value in metrics.items() if isinstance(value, Score)}
    lines = []
    for name, value in metrics.items():
        if isinstance(value, Score):
            baseline = "" if value.baseline is None else f"{value.baseline:.4f} ({value.kind})"
            lines.append((name, f"{value:.4f}", baseline, str(value.rows)))
        elif name not in baselines:
            lines.append((name, str(value) if isinstance(value, int) else f"{value:.4f}", "", ""))
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
    results = {name: value for name, value in logs.items() if is_result(name, value)}
    phrases = []
    for name, value, baseline, _ in result_table(results):
        shown = value if baseline else f"{logs[name]:.4g}"
        kind, number = (logs[name].kind, f"{logs[name].baseline:.4f}") if baseline else ("", "")
        phrases.append(f"{name} {shown}" + (f" ({kind} {number})" if baseline else ""))
    for name, value in logs.items():
        if name.endswith("_rows"):
            phrases.append(f"{value:,} rows")
        elif name.endswith("_runtime"):
            phrases.append(f"{value:.1f} s")
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
    Return a line for each answer that all rows got, by the prefix of its metrics in `same_answers`, and for each score
    among `metrics` that does not beat its baseline.
    """
    lines = [f"{prefix}: the model says {answer}, whatever the input is" for prefix, answer in same_answers.items()]
    for name, value in metrics.items():
        if isinstance(value, Score) and not value.beats_baseline:
            side = "below" if value.lower_is_better else "above"
            lines.append(
                f"{name}: {value:.4f} over {value.rows} rows is not {side} the baseline {value.baseline:.4f} ({value.kind}), "
                "which takes no input"
            )
    return lines
