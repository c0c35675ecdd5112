"""What came out of runs: the metrics of each variant over its seeds, with intervals."""

import fnmatch
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..tasks.run_record import FILE_NAME, MetricValue, RunRecord
from .baselines import Baseline, baseline_of
from .intervals import Interval, interval_of
from .notes import BROKEN
from .plan import Run, is_task, row_title, title_of
from .spec import Study
from .standing import Standing, standings_of
from .variants import Variants


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A run in a table: the variant and the stage that it is of, its folder, its record, and the kind of baseline if it is one."""

    variant: str
    stage: str
    folder: Path
    record: RunRecord
    baseline: Baseline | None = None

    @classmethod
    def of_study(cls, run: Run, labels: dict[str, str], record: RunRecord) -> "Entry":
        """Return a run of a study for one of its variants. A baseline stands in the columns of its stage, in a row of its own."""
        baseline, variant = run.stage.baseline, title_of(labels) or "all"
        return cls(row_title(variant, baseline), run.stage.of or run.stage.name, run.folder, record, baseline)


@dataclass
class Column:
    """
    A metric of a stage.

    Attributes:
        stage: The stage.
        metric: The metric, as one of the runs has it.
        values: Its values by variant. Without the variants that have no finite value in any run.
        baseline: The value of an answer that ignores its input.
        runs: The number of runs of each variant that was measured, also of those without a finite value.
    """

    stage: str
    metric: MetricValue
    values: dict[str, Interval] = field(default_factory=dict)
    baseline: float | None = None
    runs: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How a table calls it."""
        return f"{self.stage} {self.metric.split} {self.metric.metric}"

    def have_value(self, variant: str) -> int:
        """Return how many runs of a variant have a finite value."""
        return len(self.values[variant].values) if variant in self.values else 0


def entries_of_study(study: Study) -> tuple[list[Entry], list[str]]:
    """
    Return the runs of a study that are done, once for each variant that has them, and the titles of those that are not. Warn of those
    whose files are broken.
    """
    standings = [each for each in standings_of(study) if is_task(each.run)]
    for each in standings:
        if each.status == BROKEN:
            logger.warning(f"{each.run.title} is left out: {each.reason}")
    return done_entries(standings), [each.run.title for each in standings if not each.is_done]


def done_entries(standings: Iterable[Standing]) -> list[Entry]:
    """Return the runs that are done and have a record, once for each variant that has them."""
    return [
        Entry.of_study(each.run, labels, each.record)
        for each in standings
        if each.is_done and each.record is not None and is_task(each.run)
        for labels in each.run.variants
    ]


def entries_in(folder: Path) -> tuple[list[Entry], list[str]]:
    """
    Return the finished runs below a folder, and the names of those that are not finished. Runs that differ in nothing but seeds, their own
    or those of the runs before, are one variant (see `Variants`), which has the name of the first one's folder; runs without an input are
    marked as baselines. Warn of records that are broken, which are left out.

    Raises:
        ValueError: If no run is left.
    """
    found, broken = records_in(folder)
    variants = Variants(found.values())
    entries, unfinished = [], []
    for place, record in found.items():
        name = str(place.relative_to(folder)) if place != folder else folder.resolve().name
        if record.status != "finished":
            unfinished.append(name)
        elif not record.is_conversion:
            baseline = baseline_of(record)
            variant = variants.name(row_title(name, baseline), place, record)
            entries.append(Entry(variant, record.task, place, record, baseline))
    if not entries:
        told = [f"{len(unfinished)} not finished: {', '.join(unfinished)}"] if unfinished else []
        told += [f"{len(broken)} cannot be read, the first: {broken[0]}"] if broken else []
        raise ValueError(f"{folder}: there is no run in it or below it ({'; '.join(told) or f'no {FILE_NAME}'})")
    for fault in broken:
        logger.warning(f"left out: {fault}")
    return entries, unfinished


def records_in(folder: Path) -> tuple[dict[Path, RunRecord], list[str]]:
    """Return the records in and below a folder by their folders, and a line for each that cannot be read."""
    found, broken = {}, []
    for path in sorted(folder.rglob(FILE_NAME)):
        if any(part.startswith((".", "checkpoint-")) for part in path.relative_to(folder).parts[:-1]):
            continue
        try:
            found[path.parent] = RunRecord.read(path.parent)
        except ValueError as error:
            broken.append(str(error))
    return found, broken


def columns_of(entries: Iterable[Entry], wanted: list[str] | None = None) -> list[Column]:
    """
    Return a column for each metric of each stage: those that are `wanted`, as `eval_accuracy`, `nlvr2.eval_accuracy` or a pattern of such
    names, `snli_ve.*`; else the main ones (see `main_metrics`). Warn of runs of different data in one column.

    Raises:
        ValueError: If no run has a metric that is wanted.
    """
    entries = [*entries]
    columns: list[Column] = []
    for stage in dict.fromkeys(entry.stage for entry in entries):
        of_stage = [entry for entry in entries if entry.stage == stage]
        warn_of_other_data(stage, of_stage)
        found: dict[str, dict[str, list[MetricValue]]] = {}
        measured: dict[str, set[str]] = {}
        for entry in of_stage:
            for metric in entry.record.metrics:
                measured.setdefault(metric.name, set()).add(entry.variant)
                if has_value(metric):
                    found.setdefault(metric.name, {}).setdefault(entry.variant, []).append(metric)
        kinds = {name: next(iter(by_variant.values()))[0] for name, by_variant in found.items()}
        objectives = {name for entry in of_stage for name in entry.record.objectives}
        for name in names_wanted(found, stage, wanted) if wanted else main_metrics(kinds, objectives):
            column = Column(stage, next(iter(found[name].values()))[0])
            column.values = {variant: interval_of(metrics) for variant, metrics in found[name].items()}
            baselines = [each.baseline for metrics in found[name].values() for each in metrics]
            column.baseline = baselines[0]
            in_table = [entry.variant for entry in of_stage if entry.variant in measured[name]]
            column.runs = dict(Counter(in_table))
            warn_of_lost_values(column)
            columns.append(column)
    if wanted:
        have = {name for column in columns for name in (column.metric.name, f"{column.stage}.{column.metric.name}")}
        if absent := [pattern for pattern in wanted if not fnmatch.filter(have, pattern)]:
            known = sorted({each.name for entry in entries for each in entry.record.metrics if has_value(each)})
            raise ValueError(f"metrics: no run has {', '.join(absent)}; expected any of {', '.join(known)}")
    return columns


def has_value(metric: MetricValue) -> bool:
    """Return whether a metric has a finite value: that of a run which diverged has none."""
    return metric.value is not None and math.isfinite(metric.value)


def warn_of_lost_values(column: Column) -> None:
    """Warn of variants of which the mean is not over all runs."""
    for variant, runs in column.runs.items():
        if (have := column.have_value(variant)) < runs:
            logger.warning(
                f"{column.title}: of {variant}, {runs - have} of {runs} runs have no finite value (diverged?), and are in no mean"
            )


def names_wanted(names: Iterable[str], stage: str, wanted: list[str]) -> list[str]:
    """Return the names of the metrics of a stage that are wanted, by themselves or with the stage before them, or fit a pattern."""
    return [
        name
        for name in names
        if any(fnmatch.fnmatchcase(each, pattern) for pattern in wanted for each in (name, f"{stage}.{name}"))
    ]


def main_metrics(metrics: dict[str, MetricValue], objectives: Collection[str]) -> list[str]:
    """
    Return the names of the main metrics of a stage, of all that it has by name: of each split, and of each of `objectives`, the first that
    has a baseline, which tasks report first; the loss if none has one.
    """
    measured = {name: each for name, each in metrics.items() if each.split != "train"}
    first: dict[tuple[str, str], str] = {}
    for name, each in measured.items():
        if each.baseline is not None:
            objective = next((known for known in objectives if each.metric.startswith(f"{known}_")), "")
            first.setdefault((each.split, objective), name)
    return [*first.values()] or [name for name, each in measured.items() if each.metric == "loss"]


def warn_of_other_data(stage: str, entries: list[Entry]) -> None:
    """Warn if the runs of a stage were measured on different data."""
    by_split: dict[str, dict[str | None, Entry]] = {}
    for entry in entries:
        for data in entry.record.data:
            if data.split != "train":
                by_split.setdefault(data.split, {}).setdefault(data.fingerprint, entry)
    for split, different in by_split.items():
        if len(different) > 1:
            places = ", ".join(str(entry.folder) for entry in different.values())
            logger.warning(f"{stage}: runs of different data (split {split}) are in one column: {places}")
