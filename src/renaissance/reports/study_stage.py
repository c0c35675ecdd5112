"""The part of a study's page on one stage: its table, bars, curves, results against cost, comparisons, examples."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from ..studies.intervals import Interval
from ..studies.paired import as_rows, compared
from ..studies.results import Column
from ..studies.tables import intervals_of, legend, wide
from .markup import Markup, element, figure, note, table
from .pictures import Point, Span, bars, can_be_drawn, curves, pareto
from .predictions import spread
from .run_page import flops_unit, in_words, predictions
from .runs import Run
from .several_page import MOST_CURVES, MOST_PICTURES, of_different_data
from .study_runs import StudyRuns


#: Metrics that have bars, that have curves, and that are shown against cost: the first ones, those of tests before others.
MOST_BARS, MOST_SCORES, MOST_COSTS = 4, 3, 2
#: Costs that differ by less than this share are the same: batches have a little more or less padding.
SAME_COST = 0.05
#: Variants of which examples are shown; with more, a part of them from the whole.
MOST_EXAMPLES = 6
OVER_SEEDS = "mean over seeds, with the range from the lowest to the highest"


def stage_content(found: StudyRuns, stage: str, page_file: Path, examples: int) -> Markup:
    """Return what a study's page shows of a stage. With 0 `examples` no data are read."""
    runs, titles = found.by_variant(stage), found.titles(stage)
    columns = [column for column in found.columns if column.stage == stage]
    drawn = [*curves_of({titles[name]: its for name, its in runs.items() if name in titles}, columns)]
    parts = [
        variants_table(found, [stage]),
        of_different_data([run for its in runs.values() for run in its]),
        element("div", *bars_of(found, columns), *costs_of(found, columns), class_="figures"),
        element("h3", "Training") + element("div", *drawn, class_="figures") if drawn else "",
        comparisons(found, stage, examples),
        examples_of(found, stage, page_file, examples),
    ]
    return Markup("".join(parts))


def variants_table(found: StudyRuns, stages: list[str]) -> Markup:
    """Return the table of variants that `renaissance study table` makes of some stages, with how many runs of each are done."""
    entries = [entry for entry in found.entries if entry.stage in stages]
    columns = [column for column in found.columns if column.stage in stages]
    titles, *rows = wide(entries, columns)
    by_name = {row[0]: row for row in rows}
    planned = {name: [each for stage in stages for each in found.planned(stage, name)] for name in found.variants}
    planned = {name: its for name, its in planned.items() if its}
    told = [
        [*by_name.get(name, [name, *[""] * (len(titles) - 1)]), f"{sum(each.is_done for each in its)} of {len(its)}"]
        for name, its in planned.items()
    ]
    told += [[*row, ""] for row in rows if row[0] not in planned]
    titles = [title.removeprefix(f"{stages[0]} ") for title in titles] if len(stages) == 1 else titles
    shown = table([*titles, "runs done"], told, numeric=range(1, len(titles) + 1))
    return Markup(shown + element("p", legend(columns), class_="lead"))


def bars_of(found: StudyRuns, columns: list[Column]) -> Iterator[Markup]:
    """Yield a picture with a bar for each variant and each baseline of one, for each metric, those of tests first."""
    for column in by_importance(columns)[:MOST_BARS]:
        values = shown_once(found, column)
        rows = [(title, each.mean, each.low, each.high) for title, each in values.items()]
        rows = [row for row in rows if can_be_drawn(row[1])]
        levels = {} if column.baseline is None else {column.metric.baseline_kind or "baseline": column.baseline}
        if rows:
            told = intervals_of([column])
            caption = f"{label_of(column)}; {told}" if told else label_of(column)
            yield figure(bars(rows, label_of(column), levels), caption)


def shown_once(found: StudyRuns, column: Column) -> dict[str, Interval]:
    """Return the values of a column by what pictures call their variants, once for those that share their runs."""
    titles, variants = found.titles(column.stage), set(found.variants)
    return {
        titles.get(name, name): value
        for name, value in column.values.items()
        if name in titles or name not in variants
    }


def by_importance(columns: list[Column]) -> list[Column]:
    """Return columns, those of tests first."""
    return sorted(columns, key=lambda column: not column.metric.name.startswith("test"))


def label_of(column: Column) -> str:
    """Return how pictures call a metric."""
    return f"{column.metric.metric}, {column.metric.split}"


def costs_of(found: StudyRuns, columns: list[Column]) -> Iterator[Markup]:
    """
    Yield pictures of metrics against what a variant costs, with all trainings before: in floating-point operations, or in hours on all
    devices if operations are not known or are the same for all.
    """
    for column in by_importance(columns)[:MOST_COSTS]:
        titles, values = found.titles(column.stage), shown_once(found, column)
        for of, unit_of, label in (
            (lambda run: run.flops, flops_unit, "compute of training"),
            (device_hours, lambda largest: (1.0, "device-hours"), "time of training"),
        ):
            costs = {titles[name]: found.cost(column.stage, name, of) for name in column.values if name in titles}
            known = {title: cost for title, cost in costs.items() if cost and can_be_drawn(values[title].mean)}
            # With the same cost, there is nothing to weigh up.
            if not known or max(known.values()) < (1 + SAME_COST) * min(known.values()):
                continue
            size, unit = unit_of(max(known.values()))
            points = [(title, cost / size, values[title].mean) for title, cost in known.items()]
            svg = pareto(points, f"{label} ({unit})", label_of(column), column.metric.lower_is_better)
            caption = f"{label_of(column)}, against the {label} of one seed, that of the stages before it included"
            yield figure(svg, f"{caption}; no variant on the front is beaten by a cheaper one")
            break


def device_hours(run: Run) -> float:
    """Return the hours that the training of a run took on all its devices."""
    return run.record.train_seconds * run.record.num_processes / 3600


def curves_of(runs: dict[str, list[Run]], columns: list[Column]) -> Iterator[Markup]:
    """
    Yield pictures with a line a variant: of losses and learning rates by step, and of the metrics of some columns by step and by compute.
    """
    names = list(dict.fromkeys(name for its in runs.values() for run in its for name in run.names()))
    trained = [name for name in names if name.split("_")[-1] == "loss" and not name.startswith("eval_")]
    measured = [column.metric.name for column in columns if column.metric.name != "eval_loss"]
    scores = [*[name for name in measured if name in names][:MOST_SCORES], *["eval_loss"][: "eval_loss" in names]]
    for name in sorted(trained, key=lambda name: name != "loss")[:MOST_PICTURES]:
        yield from overlaid(runs, name, by_compute=False)
    for name in scores:
        yield from overlaid(runs, name, by_compute=False)
        yield from overlaid(runs, name, by_compute=True)
    for name in [name for name in names if name.startswith("learning_rate")][:1]:
        yield from overlaid(runs, name, by_compute=False)


def overlaid(runs: dict[str, list[Run]], name: str, by_compute: bool) -> Iterator[Markup]:
    """Yield a picture of a name in the log with a line for each variant, unless none has two points."""
    drawn: dict[str, tuple[list[Point], list[Span]]] = {}
    for variant, its in runs.items():
        found = [run for run in its if run.curve(name) and (run.flops_a_step or not by_compute)]
        points, band = over_seeds([run.curve(name) for run in found])
        if len(points) > 1:
            scale = fmean(run.flops_a_step for run in found) if by_compute else 1.0
            drawn[variant] = [(x * scale, y) for x, y in points], [(x * scale, *ends) for x, *ends in band]
    if not drawn:
        return
    shown = {label: drawn[label] for label in [list(drawn)[at] for at in spread(list(range(len(drawn))), MOST_CURVES)]}
    size, unit = flops_unit(max(points[-1][0] for points, _ in shown.values())) if by_compute else (1.0, "")
    series = {label: [(x / size, y) for x, y in points] for label, (points, _) in shown.items()}
    bands = {label: [(x / size, *ends) for x, *ends in band] for label, (_, band) in shown.items()}
    x_label = f"compute of this training ({unit})" if by_compute else "step"
    baselines = [level for its in runs.values() for run in its if (level := run.baseline(name))]
    caption = f"{in_words(name)} by {'compute' if by_compute else 'step'}"
    caption += f"; {OVER_SEEDS}" if any(low < high for band in bands.values() for _, low, high in band) else ""
    caption += f"; {len(shown)} of {len(drawn)} variants" if len(shown) < len(drawn) else ""
    yield figure(curves(series, x_label, in_words(name), dict(baselines[:1]), bands), caption)


def over_seeds(found: list[list[Point]]) -> tuple[list[Point], list[Span]]:
    """
    Return the mean of curves and the range that they cover, at the places that all of them have: the runs of a variant, of which one may
    still go on. Of a single curve there is no range.
    """
    tables = [dict(points) for points in found]
    places = sorted(set.intersection(*map(set, tables))) if tables else []
    values = {x: [each[x] for each in tables] for x in places}
    known = {x: ys for x, ys in values.items() if all(map(can_be_drawn, ys))}
    band = [(x, min(ys), max(ys)) for x, ys in known.items()] if len(found) > 1 else []
    return [(x, fmean(ys)) for x, ys in known.items()], band


def comparisons(found: StudyRuns, stage: str, examples: int) -> Markup:
    """Return the table of variants compared row by row; if predictions or their data cannot be read, a line that says so."""
    entries = [entry for entry in found.of_stage(stage) if found_predictions(entry.folder)]
    if len({entry.variant for entry in entries}) < 2:
        return Markup("")
    heading, faults = element("h3", "Compared row by row"), []
    if not examples:
        return Markup(heading + note("Not done, because no data were to be read (--examples 0)."))
    rows = list(compared(entries, None, faults))
    # A page may be shared, and says nothing of where folders lie.
    place = f"{found.study.output_dir}/"
    fault = "".join(note(f"Not all are compared: {each.replace(place, '')}") for each in faults)
    if not rows:
        return Markup(heading + fault) if fault else Markup("")
    titles, *told = as_rows(rows, entries[0].variant)
    lead = "In brackets, the 95 % interval of the paired bootstrap over rows; p is that of McNemar's exact test."
    # The stage is that of the section, and the variant is what a reader looks for.
    order = [2, 1, *range(3, len(titles))]
    cells = [[row[place] for place in order] for row in (titles, *told)]
    shown = table(cells[0], cells[1:], numeric=range(2, len(order)))
    return Markup(heading + element("p", lead, class_="lead") + shown + fault)


def found_predictions(folder: Path) -> bool:
    """Return whether a folder has files of predictions."""
    return any(folder.glob("predictions*"))


def examples_of(found: StudyRuns, stage: str, page_file: Path, examples: int) -> Markup:
    """Return examples of each variant's first run that has made predictions, folded away."""
    titles = found.titles(stage)
    firsts = {
        titles[variant]: run
        for variant, its in found.by_variant(stage).items()
        for run in its[:1]
        if variant in titles and run.prediction_files()
    }
    if not firsts:
        return Markup("")
    names = list(firsts)
    chosen = [names[place] for place in spread(list(range(len(names))), MOST_EXAMPLES)]
    more = f", of {len(chosen)} of {len(names)} variants" if len(chosen) < len(names) else ""
    parts = [
        element(
            "details",
            element("summary", f"{name}, seed {firsts[name].record.seed}"),
            predictions(firsts[name], page_file, examples),
        )
        for name in chosen
    ]
    return Markup(element("h3", f"Predictions{more}") + "".join(parts))
