"""The page of one run: what it was, its curves, its metrics, and examples of what its model says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..studies.provenance import EXPLAINED, for_people, links_of
from ..tasks.run_record import MetricValue, RunRecord
from .examples import Judged, JudgedSplit
from .markup import (
    Markup,
    duration,
    element,
    facts,
    figure,
    link,
    note,
    number,
    page,
    section,
    table,
    thumbnail,
)
from .pictures import can_be_drawn, curves
from .predictions import spread
from .runs import Run


#: Classes of a confusion matrix; with more, the most frequent labels are shown.
MOST_CLASSES = 20
#: Units of floating-point operations, the largest that is not larger than the value is taken.
UNITS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1.0, "FLOPs"))
GIGABYTE = 1e9


def run_page(run: Run, page_file: Path, examples: int) -> str:
    """
    Return the page of a run.

    Args:
        run: The run.
        page_file: Where the page will lie; its links start there.
        examples: Number of right and of wrong predictions to show of each split; with 0, no data are read.

    Raises:
        ValueError: If matplotlib is missing.
    """
    parts = sections(run, page_file, examples)
    return page(f"{run.name}: report", head(run), navigation(parts), *parts.values(), footer())


def sections(run: Run, page_file: Path, examples: int, prefix: str = "") -> dict[tuple[str, str], Markup]:
    """Return the sections of a run's page by their titles and names; the names begin with `prefix`."""
    made = {
        ("Metrics", "metrics"): metrics(run),
        ("Curves", "curves"): training_curves(run),
        ("Predictions", "predictions"): predictions(run, page_file, examples),
        ("Run", "run"): about(run, page_file),
        ("Configuration", "configuration"): configuration(run),
    }
    return {(title, prefix + name): section(title, prefix + name, each) for (title, name), each in made.items()}


def navigation(parts: dict[tuple[str, str], Any]) -> Markup:
    """Return links to the sections of a page."""
    return element("nav", *(link(f"#{name}", title) for title, name in parts))


def head(run: Run) -> Markup:
    """Return the name of a run, a sentence on it, and its main figures."""
    record = run.record
    title = element("h1", run.name, status(run))
    model = f"{record.model_class or 'A model'} with {record.parameters / 1e6:,.2f} million parameters"
    did = {"train": "trained", "eval": "evaluated", "predict": "asked for predictions", "convert": "converted"}
    done = " and ".join(did.get(each, each) for each in record.did) or "prepared"
    lead = element("p", f"{model}, {done} by {record.script or 'a script'}.", class_="lead")
    warning = [] if run.is_finished else [note("This run is not finished: it goes on, or was interrupted.")]
    below = [tile(number(each.value), *labels(each)) for each in run.best_scores()[:4]]
    if record.steps:
        below.append(tile(number(record.steps), f"steps, {number(record.samples)} samples"))
    if record.train_seconds:
        below.append(tile(duration(record.train_seconds), f"training on {record.hardware}"))
    return Markup("".join([title, lead, *warning, *map(note, run.faults), element("div", *below, class_="tiles")]))


def status(run: Run) -> Markup:
    """Return whether a run is finished, as a badge."""
    return element(
        "span", "finished" if run.is_finished else "not finished", class_=f"status {verdict(run.is_finished)}"
    )


def verdict(good: bool) -> str:
    """Return the class of what is good or bad."""
    return "good" if good else "bad"


def tile(value: str, *lines: Any) -> Markup:
    """Return a figure with what it is."""
    return element("div", element("b", value), *(element("span", line) for line in lines), class_="tile")


def labels(each: MetricValue) -> list[str]:
    """Return what a metric is, and its baseline."""
    against = [] if each.baseline is None else [f"{each.baseline_kind}: {number(each.baseline)}"]
    return [f"{each.metric}, {each.split}", *against]


def metrics(run: Run) -> Markup:
    """Return the table of metrics."""
    if not run.record.metrics:
        return note("The run has no metrics yet.")
    rows = []
    for each in run.record.metrics:
        against = "" if each.baseline is None else f"{number(each.baseline)} ({each.baseline_kind})"
        beats = Markup("")
        if each.beats_baseline is not None:
            word = "better" if each.beats_baseline else "not better"
            beats = element("span", word, class_=verdict(each.beats_baseline))
        value = number(each.value) if each.value is not None else "not finite"
        rows.append((each.split, each.metric, value, against, beats, number(each.rows) if each.rows else ""))
    explained = element("p", "A baseline is the result of an answer that ignores its input.", class_="lead")
    columns = ("split", "metric", "value", "baseline", "than baseline", "rows")
    return Markup(explained + table(columns, rows, numeric=(2, 3, 5)))


def training_curves(run: Run) -> Markup:
    """Return the curves of losses, metrics and learning rates."""
    if not run.log:
        return note("No log of training lies in the folder, so that there are no curves.")
    shown = element("div", *figures_of(run), class_="figures")
    gaps = sum(not can_be_drawn(value) for name in run.names() for _, value in run.curve(name))
    warning = (
        [note(f"{gaps:,} logged values are no finite numbers, or too large to draw; the curves have gaps there.")]
        if gaps
        else []
    )
    return Markup("".join([*warning, shown]))


def figures_of(run: Run) -> Iterator[Markup]:
    """Yield the pictures of a run's log."""
    names = run.names()
    losses = [name for name in names if name.split("_")[-1] == "loss"]
    by_objective = [name for name in losses if name.removeprefix("eval_") != "loss"]
    whole = [name for name in losses if name not in by_objective]
    rates = [name for name in names if name.startswith("learning_rate")]
    scores = [name for name in names if name.startswith("eval_") and name not in losses]
    if whole:
        yield figure(curves({in_words(name): run.curve(name) for name in whole}, "step", "loss"), "Loss")
    if by_objective:
        found = {in_words(name): run.curve(name) for name in by_objective}
        yield figure(curves(found, "step", "loss"), "Loss by objective")
    for name in scores:
        label, level = in_words(name), run.baseline(name)
        levels = {level[0]: level[1]} if level else {}
        yield figure(curves({label: run.curve(name)}, "step", label, levels), f"{label} by step")
        if run.flops_a_step:
            factor, unit = flops_unit(run.flops_a_step * run.curve(name)[-1][0])
            points = [(step * run.flops_a_step / factor, value) for step, value in run.curve(name)]
            yield figure(curves({label: points}, f"training compute ({unit})", label, levels), f"{label} by compute")
    if rates:
        yield figure(
            curves({in_words(name): run.curve(name) for name in rates}, "step", "learning rate"), "Learning rate"
        )
    if "grad_norm" in names:
        yield figure(curves({"norm": run.curve("grad_norm")}, "step", "norm of gradients"), "Norm of the gradients")


def in_words(name: str) -> str:
    """Return the name of a value in the log for readers."""
    words = name.replace("_", " ")
    return f"{words.removeprefix('eval ')} (evaluation)" if name.startswith("eval_") else words


def flops_unit(flops: float) -> tuple[float, str]:
    """Return the unit for a number of floating-point operations: its size and its name."""
    return next(((size, name) for size, name in UNITS if flops >= size), UNITS[-1])


def about(run: Run, page_file: Path) -> Markup:
    """Return the facts of a run: time, memory, machine, model, data, origin, files."""
    record = run.record
    peaks = {
        "peak memory": record.peak_memory_bytes,
        "peak memory of tensors on the GPU": record.peak_gpu_memory_bytes,
    }
    frozen = f", frozen: {', '.join(record.frozen)}" if record.frozen else ""
    entries = [
        ("task", record.task),
        ("command", record.script),
        ("started", record.started),
        ("finished", record.finished or "not yet"),
        ("time", duration(record.duration_seconds)),
        ("time of training", duration(record.train_seconds) if record.train_seconds else None),
        *((name, f"{peak / GIGABYTE:.2f} GB" if peak else None) for name, peak in peaks.items()),
        ("hardware", f"{record.hardware}, {record.num_processes} process(es), {record.precision}"),
        ("model", f"{record.model_class} ({record.model_type})"),
        ("trainable parameters", f"{record.trainable_parameters:,} of {record.parameters:,}{frozen}"),
        *((f"weights of {part}", source) for part, source in record.weights_from.items()),
        ("training compute", compute_of(run)),
        ("steps", f"{record.steps:,} of {number(record.batch_size)} rows" if record.steps else None),
        ("epochs", number(record.epochs, 2) if record.epochs else None),
        ("highest learning rate", number(record.learning_rate) if record.learning_rate else None),
        ("seed", record.seed),
        ("saved weights", record.checkpoint),
        ("resumed at steps", ", ".join(map(str, record.resumed_at)) or None),
        ("steps not applied", record.skipped_steps or None),
        *((f"version of {name}", version) for name, version in record.versions.items()),
        (
            "commit",
            f"{record.commit}{' with changes' if record.uncommitted_changes else ''}" if record.commit else None,
        ),
        ("run", record.run_id),
    ]
    known = facts((name, value) for name, value in entries if value not in (None, ""))
    return Markup(known + data(run) + history(run) + files(run, page_file))


def compute_of(run: Run) -> str | None:
    """Return the floating-point operations of a run's training for readers; `None` if they are not known."""
    if not run.flops:
        return None
    factor, unit = flops_unit(run.flops)
    return f"{run.flops / factor:,.3g} {unit}, as counted in its first batches"


def data(run: Run) -> Markup:
    """Return the table of a run's data."""
    columns = ("split", "source", "rows", "skipped", "fingerprint")
    rows = [
        (each.split, ", ".join(each.sources), number(each.rows), number(each.bad_rows), each.fingerprint or "")
        for each in run.record.data
    ]
    return Markup(element("h3", "Data") + table(columns, rows, numeric=(2, 3))) if rows else Markup("")


def history(run: Run) -> Markup:
    """Return the table of the runs that led to a run."""
    if not run.record.history:
        return Markup("")
    return Markup(element("h3", "What came before") + provenance_table([(run.name, run.record)]))


def provenance_table(records: list[tuple[str, RunRecord]]) -> Markup:
    """Return the table of where runs came from, given with their names."""
    titles, *rows = for_people(links_of(records))
    numeric = [titles.index(name) for name in ("seed", "samples", "began")]
    return Markup(
        element("div", table(titles, rows, numeric), element("p", EXPLAINED, class_="lead"), class_="chains")
    )


def files(run: Run, page_file: Path) -> Markup:
    """Return links to the small files that a run has left."""
    names = ("run.json", "run.yaml", "run_evaluation.yaml", "README.md", "all_results.json", "bad_rows.jsonl")
    found = [path for path in map(run.folder.joinpath, names) if path.is_file()]
    links = [link(target(path, page_file), path.name) for path in found]
    return Markup(element("h3", "Files") + element("nav", *links)) if links else Markup("")


def target(path: Path, page_file: Path) -> str:
    """Return the link from a page to a file."""
    relative = os.path.relpath(path.resolve(), page_file.resolve().parent)
    return "./" + quote(os.fsencode(relative).replace(os.sep.encode(), b"/"))


def configuration(run: Run) -> Markup:
    """Return the options of a run that differ from their defaults, and what was changed on the way."""
    options = facts((name, as_option(value)) for name, value in sorted(run.record.options.items()))
    lead = element("p", "The options that differ from their defaults; run.yaml has all.", class_="lead")
    columns = ("step", "option", "before", "after")
    changes = [
        tuple(as_option(each.get(name)) for name in ("step", "option", "old", "new")) for each in run.record.changes
    ]
    changed = element("h3", "Changed when training was taken up again") + table(columns, changes) if changes else ""
    return Markup(lead + options + changed)


def as_option(value: Any) -> str:
    """Return the value of an option as one writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def predictions(run: Run, page_file: Path, examples: int) -> Markup:
    """Return the files of predictions, with examples and a confusion matrix of each."""
    paths = run.prediction_files()
    if not paths:
        return element("p", "The run has made no predictions.", class_="lead")
    return Markup("".join(predicted(run, path, page_file, examples) for path in paths))


def predicted(run: Run, path: Path, page_file: Path, examples: int) -> Markup:
    """Return what there is to say on a file of predictions; if it or the data cannot be read, a line that says so."""
    to_file = element("p", "All predictions:", Markup(" "), link(target(path, page_file), path.name))
    if not examples:
        return to_file
    try:
        split = JudgedSplit(run, path)
    except ValueError as error:
        return Markup(to_file + note(f"No examples: {error}"))
    judged = [row for row in split.rows if row.right is not None]
    right = sum(row.right for row in judged)
    count = f"{right:,} of {len(judged):,} rows are right." if judged else f"{len(split.rows):,} rows."
    parts = [
        element(
            "p",
            f"Split {split.split}: {count} All predictions:",
            Markup(" "),
            link(target(path, page_file), path.name),
        )
    ]
    for title, verdicts in (("Right", True), ("Wrong", False), ("Not judged", None)):
        numbers = [place for place, row in enumerate(split.rows) if row.right is verdicts]
        if not numbers or (verdicts is None and judged):
            continue
        cards = [card(split, split.rows[place]) for place in spread(numbers, examples)]
        parts.append(
            element("h3", f"{title}, {len(cards)} of {len(numbers):,}") + element("div", *cards, class_="cards")
        )
    if split.has_boxes:
        parts.insert(
            1, element("p", "Of the boxes, the right one is green, and a wrong answer orange.", class_="lead")
        )
    if (found := split.confusion()) is not None:
        parts.append(element("h3", "Confusion matrix") + confusion(*found))
    return Markup("".join(parts))


def card(split: JudgedSplit, row: Judged) -> Markup:
    """Return an example: its images, its texts, the answer and the label."""
    parts = []
    try:
        images = split.images(row)
        shown = [thumbnail(each, f"image {place} of row {row.number}") for place, each in enumerate(images, 1)]
        parts += [element("div", *shown, class_="images")] if shown else []
    except (ValueError, OSError) as error:
        parts.append(note(f"The image cannot be read: {error}"))
    parts += [element("p", each) for each in split.texts(row)]
    mark = {True: Markup("✓ "), False: Markup("✗ "), None: ""}[row.right]
    answer = element("b", mark, as_answer(row.answer), class_="" if row.right is None else verdict(row.right))
    entries = [
        ("answer", answer),
        ("label", as_answer(row.label) if row.label is not None else None),
        *row.remarks.items(),
    ]
    return element("div", *parts, facts((name, value) for name, value in entries if value is not None), class_="card")


def as_answer(answer: Any) -> str:
    """Return an answer or a label for readers."""
    return (", ".join(answer) or "none") if isinstance(answer, list) else str(answer) if answer else "nothing"


def confusion(names: list[str], counts: list[list[int]]) -> Markup:
    """Return a confusion matrix, in which darker cells are larger shares of their label."""
    chosen, left_out = list(range(len(names))), ""
    if len(names) > MOST_CLASSES:
        chosen = sorted(sorted(chosen, key=lambda place: -sum(counts[place]))[:MOST_CLASSES])
        left_out = f" Of {len(names):,} classes, the {MOST_CLASSES} most frequent labels are shown."
    rows = []
    for place in chosen:
        total = sum(counts[place]) or 1
        cells = [shaded(counts[place][other], counts[place][other] / total) for other in chosen]
        rows.append((names[place], *cells))
    lead = element(
        "p", f"Rows are labels, columns answers; a darker cell is a larger share of its row.{left_out}", class_="lead"
    )
    return Markup(lead + element("div", table(("", *(names[place] for place in chosen)), rows), class_="matrix"))


def shaded(count: int, share: float) -> Markup:
    """Return a cell of a confusion matrix, with the share of its row as the strength of its colour."""
    return element("span", f"{count:,}", class_="cell", style=f"background: rgba(var(--heat), {0.6 * share:.2f})")


def footer() -> Markup:
    """Return the end of a page."""
    return element("footer", "Made by renaissance report. The page is one file that loads nothing.")
