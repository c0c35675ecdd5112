"""The page of a study: its variants in one table, a section a stage, what is missing and why, and where each run came from."""

from collections import Counter
from pathlib import Path

from ..studies.notes import log_of, place_of
from ..studies.plan import is_task
from ..studies.spec import Point, Study
from ..studies.standing import Standing
from ..tasks.run_record import public
from .markup import Markup, duration, element, link, note, number, page, section, table
from .run_page import as_option, footer, navigation, provenance_table, target, tile
from .study_runs import StudyRuns
from .study_stage import by_importance, device_hours, label_of, stage_content, variants_table


#: The most stages whose best results stand on top of the page.
MOST_TILES = 4


def study_page(study: Study, page_file: Path, examples: int, metrics: list[str] | None = None) -> str:
    """
    Return the page of a study, also of one that is not done.

    Args:
        study: The study.
        page_file: Where the page will lie; its links start there.
        examples: Number of right and of wrong predictions to show of each variant and split; with 0, no data are read.
        metrics: The metrics of its tables, as `eval_accuracy` or `nlvr2.eval_accuracy`; the main ones by default.

    Raises:
        ValueError: If no run with results is done, no run has one of the metrics, or matplotlib is missing.
    """
    found = StudyRuns.read(study, metrics)
    parts = {("Results", "results"): section("Results", "results", variants_table(found, found.stages))}
    for place, stage in enumerate(found.stages, 1):
        name = f"stage-{place}"
        parts[stage, name] = section(stage, name, stage_content(found, stage, page_file, examples))
    parts["Runs", "runs"] = section("Runs", "runs", runs_table(found, page_file))
    parts["Provenance", "provenance"] = section("Provenance", "provenance", provenance(found))
    parts["Configuration", "configuration"] = section("Configuration", "configuration", configuration(study))
    return page(f"{study.name}: report", head(found), navigation(parts), *parts.values(), footer())


def head(found: StudyRuns) -> Markup:
    """Return the name of a study, a sentence on it, what is missing, and its main figures."""
    done, all_runs = sum(each.is_done for each in found.standings), len(found.standings)
    badge = "finished" if done == all_runs else "not finished"
    title = element(
        "h1", found.study.name, element("span", badge, class_=f"status {'good' if done == all_runs else 'bad'}")
    )
    counts = [
        (len(found.variants), "variant"),
        (sum(not each.of for each in found.study.stages.values()), "stage"),
        (len(found.study.seeds) or 1, "seed"),
    ]
    told = ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts)
    lead = element("p", f"{told}; {done} of {all_runs} runs are done.", class_="lead")
    faults = [note(fault) for run in found.runs.values() for fault in run.faults]
    return Markup("".join([title, lead, missing(found), *faults, element("div", *tiles(found), class_="tiles")]))


def missing(found: StudyRuns) -> Markup:
    """Return a line on the runs that are not done, if there are some."""
    left = Counter(each.status for each in found.standings if not each.is_done)
    if not left:
        return Markup("")
    told = ", ".join(f"{count} {status}" for status, count in left.items())
    return note(f"Not done: {told}. Tables and pictures have the others.", Markup(" "), link("#runs", "Reasons"))


def tiles(found: StudyRuns) -> list[Markup]:
    """Return the best result of each stage, the last stages first, and the time of all trainings."""
    made = []
    for stage in reversed(found.stages):
        column = next(iter(by_importance([each for each in found.columns if each.stage == stage])), None)
        if column is None or len(made) == MOST_TILES:
            continue
        lower = column.metric.lower_is_better
        values = {name: column.values[name] for name in found.variants if name in column.values} or column.values
        name = (min if lower else max)(values, key=lambda variant: values[variant].mean)
        against = "" if column.baseline is None else f"; {column.metric.baseline_kind}: {number(column.baseline)}"
        best = f"{'lowest' if lower else 'highest'} mean: {name}{against}"
        made.append(tile(number(column.values[name].mean), f"{stage} {label_of(column)}", best))
    hours = sum(map(device_hours, found.runs.values()))
    made.append(tile(duration(3600 * hours), f"training of {len(found.runs)} runs, summed over devices"))
    return made


def runs_table(found: StudyRuns, page_file: Path) -> Markup:
    """Return the tables of the runs that are missing, with the reasons, and of all."""
    absent = [each for each in found.standings if not each.is_done]
    parts = []
    if absent:
        rows = [
            (linked(each, page_file), status(each), without_place(each.reason, found), log_link(each, page_file))
            for each in absent
        ]
        parts.append(element("h3", "Not done") + table(("run", "status", "reason", "log"), rows))
    rows = []
    for each in [each for each in found.standings if each.is_done]:
        record = each.record
        kind = "task" if is_task(each.run) else "preparation"
        known = (number(record.steps), number(record.samples)) if record else ("", "")
        seed = str(each.run.seed) if each.run.stage.seeds and each.run.seed is not None else ""
        cells = (linked(each, page_file), kind, seed, *known)
        rows.append((*cells, duration(each.seconds), log_link(each, page_file)))
    columns = ("run", "kind", "seed", "steps", "samples", "time", "log")
    parts.append(element("h3", "Done") + table(columns, rows, numeric=(2, 3, 4, 5)))
    if others := of_other_files(found):
        parts.append(
            note(f"Not shown: {others} in the folder that the file does not ask for now, as before it was changed.")
        )
    lead = "A name leads to the page of the run, if it has one, or to its folder; renaissance report FOLDER writes its page."
    return Markup(element("p", lead, class_="lead") + "".join(parts))


def of_other_files(found: StudyRuns) -> str:
    """Return how many runs the folder of a study has that the file does not ask for; nothing if there are none."""
    known = {place_of(each.run) for each in found.standings}
    notes = [path for stage in found.study.stages for path in (found.study.output_dir / stage).glob("*.json")]
    left = sum(path not in known for path in notes)
    return f"{left} run{'s' * (left != 1)}" if left else ""


def status(standing: Standing) -> Markup:
    """Return how a run stands."""
    return element("span", standing.status, class_="good" if standing.is_done else "bad")


def without_place(reason: str, found: StudyRuns) -> str:
    """Return a reason without the folder of the study: a page may be shared, and says nothing of where folders lie."""
    folder = found.study.output_dir
    return reason.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")


def linked(standing: Standing, page_file: Path) -> Markup | str:
    """Return the name of a run, as a link to its page or its folder if there is one."""
    folder = standing.run.folder
    its_page = folder / "report.html"
    place = its_page if its_page.is_file() else folder
    return link(target(place, page_file), standing.run.title) if place.exists() else standing.run.title


def log_link(standing: Standing, page_file: Path) -> Markup | str:
    """Return a link to the output of a run, if it has one."""
    path = log_of(standing.run)
    return link(target(path, page_file), "log") if path.is_file() else ""


def provenance(found: StudyRuns) -> Markup:
    """Return the table of where the runs of a study came from."""
    folder = found.study.output_dir
    records = [
        (str(each.run.folder.relative_to(folder)), each.record) for each in found.standings if each.record is not None
    ]
    return provenance_table(records)


def configuration(study: Study) -> Markup:
    """Return the stages with their options, and what the variants differ in."""
    stages = [
        (stage.name, " ".join(stage.command), stage.recipe or "", options_of(stage.options))
        for stage in study.stages.values()
    ]
    parts = [element("h3", "Stages"), table(("stage", "command", "recipe", "options"), stages)]
    axes = [(axis, label, changes(point)) for axis, points in study.axes.items() for label, point in points.items()]
    if axes:
        parts += [element("h3", "Axes"), table(("axis", "value", "options"), axes)]
    seeds = ", ".join(map(str, study.seeds)) or "those of the recipes"
    return Markup("".join([*parts, element("p", f"Seeds: {seeds}.", class_="lead")]))


def options_of(options: dict) -> str:
    """Return options as one writes them; of folders and files their last names."""
    return ", ".join(f"{name}: {as_option(public(value))}" for name, value in options.items())


def changes(point: Point) -> str:
    """Return what a value of an axis changes."""
    told = [
        f"without {stage}" if options is None else f"{stage}: {options_of(options) or 'nothing'}"
        for stage, options in point.items()
    ]
    return "; ".join(told) or "nothing"
