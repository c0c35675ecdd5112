"""The page of several runs, such as those of a study: one table, their curves in one picture, bars, and results against compute."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ..studies.intervals import interval_of
from ..tasks.run_record import MetricValue
from .markup import Markup, duration, element, figure, link, note, number, page, section, table
from .pictures import bars, can_be_drawn, curves, pareto
from .predictions import spread
from .run_page import compute_of, flops_unit, footer, in_words, navigation, sections, status, verdict
from .runs import Point, Run


#: Curves in a picture and pictures of a kind; with more, a part of them from the whole is shown.
MOST_CURVES, MOST_BARS, MOST_PICTURES = 12, 40, 6


def several_page(title: str, runs: list[Run], faults: list[str], page_file: Path, examples: int) -> str:
    """
    Return the page of several runs.

    Args:
        title: Its title.
        runs: The runs, whose names differ.
        faults: Lines on the runs that could not be read.
        page_file: Where the page will lie; its links start there.
        examples: Number of right and of wrong predictions to show of each run and split; with 0, no data are read.

    Raises:
        ValueError: If matplotlib is missing.
    """
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.record.task or "unknown task", []).append(run)
    numbers = {run.name: place for place, run in enumerate(runs, 1)}
    parts = {("Overview", "overview"): section("Overview", "overview", overview(runs, numbers))}
    for place, (task, its) in enumerate(by_task.items(), 1):
        parts[task, f"task-{place}"] = section(task, f"task-{place}", results(its, numbers), comparison(its))
    details = [whole(run, numbers[run.name], page_file, examples) for run in runs]
    open_runs = sum(not run.is_finished for run in runs)
    lead = f"{len(runs):,} runs of {len(by_task):,} task{'s' if len(by_task) > 1 else ''}{f', {open_runs:,} of them not finished' if open_runs else ''}."
    start = [element("h1", title), element("p", lead, class_="lead"), *map(note, faults)]
    links = navigation(parts | {("Runs", "run-1"): ""})
    return page(f"{title}: report", *start, links, *parts.values(), *details, footer())


def anchor(run: Run, numbers: dict[str, int]) -> Markup:
    """Return the name of a run, as a link to its section."""
    return link(f"#run-{numbers[run.name]}", run.name)


def overview(runs: list[Run], numbers: dict[str, int]) -> Markup:
    """Return the table of all runs: what they were, and what they cost."""
    columns = ("run", "task", "status", "started from", "parameters", "trained", "samples", "seed", "time", "compute")
    rows = []
    for run in runs:
        record = run.record
        state = element("span", record.status, class_=verdict(run.is_finished))
        sizes = (number(record.parameters), number(record.trainable_parameters), number(record.samples))
        compute = (compute_of(run) or "—").partition(",")[0]
        cost = (duration(record.duration_seconds), compute)
        rows.append(
            (anchor(run, numbers), record.task, state, record.started_from or "", *sizes, number(record.seed), *cost)
        )
    return table(columns, rows, numeric=range(4, 10))


def results(runs: list[Run], numbers: dict[str, int]) -> Markup:
    """Return the table of the metrics of a task's runs, without losses of training; the best value of a column is bold."""
    columns = metrics_of(runs)
    if not columns:
        return note("None of these runs has metrics yet.")
    best = {key: max(values_of(runs, key), key=better, default=None) for key in columns}
    heads = [f"{metric}, {split}" for split, metric in columns]
    baselines: list[object] = ["baseline"]
    for key in columns:
        known = {(each.baseline_kind, each.baseline) for each in values_of(runs, key) if each.baseline is not None}
        baselines.append(", ".join(f"{number(value)} ({kind})" for kind, value in sorted(known, key=str)))
    rows: list[list[object]] = []
    for run in runs:
        cells: list[object] = [anchor(run, numbers)]
        for key in columns:
            found = value_of(run, key)
            value = number(found.value) if found else "—"
            top = best[key]
            bold = found and top and found.value == top.value and len(runs) > 1
            cells.append(element("b", value) if bold else value)
        rows.append(cells)
    rows += [baselines] if any(baselines[1:]) else []
    return Markup(table(("run", *heads), rows, numeric=range(1, len(columns) + 1)) + of_different_data(runs))


def of_different_data(runs: list[Run]) -> Markup:
    """Return a line on each split of which the runs had different data, which no table should mix."""
    lines = []
    for split in dict.fromkeys(each.split for run in runs for each in run.record.data if each.split != "train"):
        known: dict[str, list[str]] = {}
        for run in runs:
            found = run.record.of_split(split)
            if found and found.fingerprint:
                known.setdefault(found.fingerprint, []).append(run.name)
        if len(known) > 1:
            groups = "; ".join(f"{print_}: {', '.join(names[:4])}" for print_, names in known.items())
            lines.append(
                note(f"The runs had different data for {split}, so that their values do not compare. {groups}")
            )
    return Markup("".join(lines))


def metrics_of(runs: list[Run]) -> list[tuple[str, str]]:
    """Return the splits and names of the metrics that any run has a value of, but for those of training."""
    found = [(each.split, each.metric) for run in runs for each in run.record.metrics if each.value is not None]
    return [key for key in dict.fromkeys(found) if key[0] != "train"]


def value_of(run: Run, key: tuple[str, str]) -> MetricValue | None:
    """Return a metric of a run by its split and name, if it has a value."""
    return next(
        (each for each in run.record.metrics if (each.split, each.metric) == key and each.value is not None), None
    )


def values_of(runs: list[Run], key: tuple[str, str]) -> list[MetricValue]:
    """Return a metric of all runs that have a value of it."""
    return [found for run in runs if (found := value_of(run, key))]


def better(each: MetricValue) -> float:
    """Return a number that is higher for a better value."""
    return -each.value if each.lower_is_better else each.value


def comparison(runs: list[Run]) -> Markup:
    """Return the pictures of a task's runs."""
    pictures = [*bars_of(runs), *curves_of(runs), *costs_of(runs)]
    return element("div", *pictures, class_="figures") if pictures else Markup("")


def scores_of(runs: list[Run]) -> list[tuple[str, str]]:
    """Return the metrics to compare by: those with a baseline, of tests first; without any, the losses of evaluation."""
    names = {(each.split, each.metric): each for run in runs for each in run.best_scores() if each.value is not None}
    return [key for key in names if len(values_of(runs, key)) > 1][:MOST_PICTURES]


def bars_of(runs: list[Run]) -> Iterator[Markup]:
    """Yield a picture with a bar for each run, for each metric."""
    for key in scores_of(runs):
        found = [(run.name, each) for run in runs if (each := value_of(run, key)) and can_be_drawn(each.value)]
        if not found:
            continue
        found.sort(key=lambda pair: -better(pair[1]))
        shown = found[:MOST_BARS]
        intervals = [interval_of([each]) for _, each in shown]
        rows = [(name, each.mean, each.low, each.high) for (name, _), each in zip(shown, intervals, strict=True)]
        levels = {each.baseline_kind: each.baseline for _, each in shown if each.baseline is not None}
        caption = f"{key[1]}, {key[0]}"
        caption += "; lines are 95 % intervals of the bootstrap over rows" if rows[0][2] is not None else ""
        caption += f"; the best {len(shown)} of {len(found)} runs" if len(shown) < len(found) else ""
        yield figure(bars(rows, f"{key[1]}, {key[0]}", levels), caption)


def curves_of(runs: list[Run]) -> Iterator[Markup]:
    """Yield pictures of the runs' losses and metrics in training, by step and by compute."""
    names = dict.fromkeys(name for run in runs for name in run.names())
    chosen = [
        name for name in names if name in ("loss", "eval_loss") or (name.startswith("eval_") and "loss" not in name)
    ]
    for name in chosen[:MOST_PICTURES]:
        label = in_words(name)
        yield from overlaid(runs, label, "step", lambda run, name=name: run.curve(name))
        known = [run for run in runs if run.flops_a_step and run.curve(name)]
        if name == "loss" or not known:
            continue
        factor, unit = flops_unit(max(run.flops_a_step * run.curve(name)[-1][0] for run in known))

        def by_compute(run: Run, name: str = name, factor: float = factor) -> list[Point]:
            return [(step * run.flops_a_step / factor, value) for step, value in run.curve(name)]

        yield from overlaid(known, label, f"training compute ({unit})", by_compute)


def overlaid(runs: list[Run], label: str, x_label: str, curve: Callable[[Run], list[Point]]) -> Iterator[Markup]:
    """Yield a picture of the curves of runs, if at least two have finite values."""
    drawn = {run.name: curve(run) for run in runs}
    found = {name: points for name, points in drawn.items() if any(can_be_drawn(y) for _, y in points)}
    if len(found) < 2:
        return
    names = list(found)
    shown = [names[place] for place in spread(list(range(len(names))), MOST_CURVES)]
    caption = f"{label} by {x_label}" + (f"; {len(shown)} of {len(found)} runs" if len(shown) < len(found) else "")
    yield figure(curves({name: found[name] for name in shown}, x_label, label), caption)


def costs_of(runs: list[Run]) -> Iterator[Markup]:
    """Yield pictures of metrics against the compute of training."""
    for key in scores_of(runs):
        found = [
            (run, each) for run in runs if (each := value_of(run, key)) and can_be_drawn(each.value) and run.flops
        ]
        # With the same cost, there is nothing to weigh up.
        if len({f"{run.flops:.3g}" for run, _ in found}) < 2:
            continue
        factor, unit = flops_unit(max(run.flops for run, _ in found))
        points = [(run.name, run.flops / factor, each.value) for run, each in found]
        lower = found[0][1].lower_is_better
        svg = pareto(points, f"compute of this training ({unit})", f"{key[1]}, {key[0]}", lower)
        yield figure(svg, f"{key[1]}, {key[0]}, against compute; no run on the front is beaten by a cheaper one")


def whole(run: Run, place: int, page_file: Path, examples: int) -> Markup:
    """Return all sections of one run, as a section of the page."""
    parts = sections(run, page_file, examples, prefix=f"run-{place}-")
    faults = [note(fault) for fault in run.faults]
    top = element("p", link("#overview", "to the overview"), class_="lead")
    content = [element("h2", run.name, status(run)), top, *faults, *parts.values()]
    return element("section", *content, id=f"run-{place}")
