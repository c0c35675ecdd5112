"""The runs of a study as its page shows them: how each stands, which variants have it, and what it cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

from ..studies.plan import Run as Planned
from ..studies.plan import is_task, title_of
from ..studies.results import Column, Entry, columns_of, done_entries
from ..studies.spec import Study
from ..studies.standing import FAILED, Standing, standings_of
from .runs import Run


#: Names of variants that share their runs, in pictures.
MOST_NAMES = 2


@dataclass
class StudyRuns:
    """
    A study, with all that its runs have left.

    Attributes:
        study: The study.
        standings: How its runs stand, those first that others start from.
        entries: The runs that are done, once for each variant that has them.
        columns: The metrics of its tables.
        runs: The runs that have a record, also those that are not done, by their keys.
    """

    study: Study
    standings: list[Standing]
    entries: list[Entry]
    columns: list[Column]
    runs: dict[str, Run] = field(default_factory=dict)

    @classmethod
    def read(cls, study: Study, metrics: list[str] | None = None) -> "StudyRuns":
        """
        Return the runs of a study, with columns for the `metrics`, or for those that a table has by itself.

        Raises:
            ValueError: If no run with results is done, or no run has a metric that is wanted.
        """
        standings = standings_of(study)
        entries = done_entries(standings)
        if not entries:
            failed = [each for each in standings if each.status == FAILED]
            told = f" ({len(failed)} failed, the first: {failed[0].run.title}: {failed[0].reason})" if failed else ""
            raise ValueError(
                f"study {study.path}: no run with results is done yet{told}; `renaissance study run {study.path}` runs what is left"
            )
        # Preparations have no records; those of encoders are shown by their own pages.
        kept = [each for each in standings if each.record is not None and is_task(each.run)]
        runs = {each.run.key: Run.read(each.run.folder, each.run.title) for each in kept}
        return cls(study, standings, entries, columns_of(entries, metrics), runs)

    @property
    def variants(self) -> list[str]:
        """The names of all variants, in the order of the file."""
        return [title_of(labels) or "all" for labels in self.study.variants()]

    @property
    def stages(self) -> list[str]:
        """The stages that have results, in the order of the file."""
        having = {entry.stage for entry in self.entries}
        return [name for name in self.study.stages if name in having]

    def of_stage(self, stage: str) -> list[Entry]:
        """Return the runs of a stage that are done."""
        return [entry for entry in self.entries if entry.stage == stage]

    def planned(self, stage: str, variant: str) -> list[Standing]:
        """Return the runs, of all seeds, that a variant has or should have of a stage."""
        return [
            each
            for each in self.standings
            if each.run.stage.name == stage and variant in (title_of(labels) or "all" for labels in each.run.variants)
        ]

    def by_variant(self, stage: str) -> dict[str, list[Run]]:
        """Return the runs of a stage that have a record, also those that are not done, by variant."""
        found = {name: self.planned(stage, name) for name in self.variants}
        known = {
            name: [self.runs[each.run.key] for each in its if each.run.key in self.runs] for name, its in found.items()
        }
        return {name: runs for name, runs in known.items() if runs}

    def titles(self, stage: str) -> dict[str, str]:
        """
        Return what pictures of a stage call the variants that have runs of it. Of variants that share their runs, only the first has a
        title, which stands for all of them.
        """
        sharing: dict[tuple[str, ...], list[str]] = {}
        for name in self.variants:
            if keys := tuple(each.run.key for each in self.planned(stage, name)):
                sharing.setdefault(keys, []).append(name)
        return {
            names[0]: "all variants" if 1 < len(names) == len(self.variants) else in_short(names)
            for names in sharing.values()
        }

    def behind(self, planned: Planned) -> list[Run] | None:
        """Return a run and the trainings that it starts from, each once; `None` if one of them has no record."""
        chain = {each.key: each for each in (*planned.ancestors(), planned) if is_task(each)}
        return [self.runs[key] for key in chain] if all(key in self.runs for key in chain) else None

    def cost(self, stage: str, variant: str, of: Callable[[Run], float | None]) -> float | None:
        """
        Return what a variant costs up to a stage, for one seed: the mean over its seeds of the sum over the trainings that its run starts
        from and the run itself. `None` if it is not known of all.
        """
        chains = [self.behind(each.run) for each in self.planned(stage, variant) if each.is_done]
        sums = [[of(run) for run in chain] for chain in chains if chain]
        return fmean(map(sum, sums)) if sums and all(None not in costs for costs in sums) else None


def in_short(names: list[str]) -> str:
    """Return names of variants as pictures have them: the first ones, and how many more there are."""
    more = len(names) - MOST_NAMES
    return "; ".join([*names[:MOST_NAMES], *([f"{more} more"] if more > 0 else [])])
