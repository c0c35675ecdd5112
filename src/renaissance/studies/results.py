"""What came out of runs: the metrics of each variant over its seeds, with intervals."""

import fnmatch
import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..tasks.run_record import FILE_NAME, MetricValue, RunRecord
from .baselines import Baseline, baseline_of
from .intervals import Interval, interval_of
from .plan import Run, is_task, title_of
from .spec import Study
from .standing import BROKEN, Standing, standings_of


logger = logging.getLogger(__name__)

#: Options in which runs that are seeds of one variant differ.
OF_ONE_RUN = ("seed", "data_seed", "output_dir", "model_name_or_path")


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


def row_title(variant: str, baseline: Baseline | None) -> str:
    """Return how a table calls a variant, or a baseline of it."""
    return variant if baseline is None else f"{variant} ({baseline.title})"


@dataclass
class Column:
    """A metric of a stage: its values by variant, and that of an answer which ignores its input."""

    stage: str
    metric: MetricValue
    values: dict[str, Interval] = field(default_factory=dict)
    baseline: float | None = None

    @property
    def title(self) -> str:
        """How a table calls it."""
        return f"{self.stage} {self.metric.split} {self.metric.metric}"


def entries_of_study(study: Study) -> tuple[list[Entry], list[str]]:
    """
    Return the runs of a study that are done, once for each variant that has them, and the titles of those that are not. Raise `ValueError`
    if what one has left is broken.
    """
    standings = [each for each in standings_of(study) if is_task(each.run)]
    if broken := [each for each in standings if each.status == BROKEN]:
        raise ValueError(f"{broken[0].run.title}: {broken[0].reason}")
    return done_entries(standings), [each.run.title for each in standings if not each.is_done]


def done_entries(standings: Iterable[Standing]) -> list[Entry]:
    """Return the runs that are done and have a record, once for each variant that has them."""
    return [
        Entry.of_study(each.run, labels, each.record)
        for each in standings
        if each.is_done and each.record is not None and is_task(each.run)
        for labels in each.run.variants
    ]


def entries_in(folder: Path) -> list[Entry]:
    """
    Return the runs below a folder. Those that differ in nothing but their seed, and what they started from, are one variant, which has
    the name of the first one's folder; runs without an input are marked as baselines. Raise `ValueError` if there are none, or a record is broken.
    """
    entries, variants = [], {}
    for path in sorted(folder.rglob(FILE_NAME)):
        if any(part.startswith((".", "checkpoint-")) for part in path.relative_to(folder).parts[:-1]):
            continue
        record, place = RunRecord.read(path.parent), path.parent.relative_to(folder)
        if record.is_conversion:
            continue
        options = {name: value for name, value in record.options.items() if name not in OF_ONE_RUN}
        # The options of an evaluation are those of the recipe too.
        key = json.dumps([record.task, "train" in record.did, options], sort_keys=True, default=str)
        name, baseline = str(place) if place.name else path.parent.resolve().name, baseline_of(record)
        variant = variants.setdefault(key, row_title(name, baseline))
        entries.append(Entry(variant, record.task, path.parent, record, baseline))
    if not entries:
        raise ValueError(f"{folder}: there is no run in it or below it (no {FILE_NAME})")
    return entries


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
        for entry in of_stage:
            for metric in entry.record.metrics:
                if metric.value is not None:
                    found.setdefault(metric.name, {}).setdefault(entry.variant, []).append(metric)
        kinds = {name: next(iter(by_variant.values()))[0] for name, by_variant in found.items()}
        objectives = {name for entry in of_stage for name in entry.record.objectives}
        for name in names_wanted(found, stage, wanted) if wanted else main_metrics(kinds, objectives):
            column = Column(stage, next(iter(found[name].values()))[0])
            column.values = {variant: interval_of(metrics) for variant, metrics in found[name].items()}
            baselines = [each.baseline for metrics in found[name].values() for each in metrics]
            column.baseline = baselines[0]
            columns.append(column)
    if wanted:
        have = {name for column in columns for name in (column.metric.name, f"{column.stage}.{column.metric.name}")}
        if absent := [pattern for pattern in wanted if not fnmatch.filter(have, pattern)]:
            known = sorted({each.name for entry in entries for each in entry.record.metrics if each.value is not None})
            raise ValueError(f"metrics: no run has {', '.join(absent)}; expected any of {', '.join(known)}")
    return columns


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
