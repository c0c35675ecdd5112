"""How the runs of a study stand: done, or why not."""

from dataclasses import dataclass

from ..tasks.run_record import FILE_NAME, RunRecord
from .notes import BROKEN, DONE, FAILED, RUNNING, STOPPED, Note
from .plan import Run, is_task, runs_of
from .spec import Study


#: How a run stands that has no note: it never began, or waits for one that is not done.
ABSENT, WAITING = "not begun", "waiting"
#: What there is to say of a run that is not done, unless more is known.
REASONS = {
    RUNNING: "it runs, or was cut off; the same command goes on",
    STOPPED: "it was stopped; the same command goes on",
    ABSENT: "it has not been run yet",
}


@dataclass(frozen=True)
class Standing:
    """
    How a run stands.

    Attributes:
        run: The run.
        status: done, running, failed, stopped, not begun, waiting or broken.
        reason: Why it is not done, in a line; empty if it is done.
        seconds: How long its processes ran.
        record: Its record, also of a run that is not done; `None` if it has none, as preparations of data.
    """

    run: Run
    status: str
    reason: str = ""
    seconds: float = 0.0
    record: RunRecord | None = None

    @property
    def is_done(self) -> bool:
        """Whether the run is done, and what it made is there."""
        return self.status == DONE


def standings_of(study: Study) -> list[Standing]:
    """Return how each run of a study stands, those first that others start from. Raise `ValueError` as `runs_of` does."""
    known: dict[str, Standing] = {}
    for run in runs_of(study):
        known[run.key] = standing_of(run, known)
    return [*known.values()]


def standing_of(run: Run, known: dict[str, Standing]) -> Standing:
    """Return how a run stands, if it is `known` of those that it starts from, by their keys."""
    note = Note.find(run)
    try:
        record = RunRecord.find(run.folder)
    except ValueError as error:
        return Standing(run, BROKEN, str(error))
    if note is None:
        before = next((each for each in map(known.get, (one.key for one in run.before)) if not each.is_done), None)
        if before is not None:
            return Standing(run, WAITING, f"it starts from {before.run.title} ({before.status})")
        return Standing(run, ABSENT, REASONS[ABSENT])
    if note.status == DONE and not run.folder.is_dir():
        return Standing(run, ABSENT, f"its folder {run.folder} is gone; the same command runs it again", note.seconds)
    if note.status == DONE and is_task(run) and record is None:
        return Standing(run, BROKEN, f"{run.folder}: the record of the run ({FILE_NAME}) is gone", note.seconds)
    reason = note.error if note.status in (FAILED, BROKEN) else REASONS.get(note.status, "")
    return Standing(run, note.status, reason, note.seconds, record)
