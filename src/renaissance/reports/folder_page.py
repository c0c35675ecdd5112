"""The page of a folder: of its one run, or of all that lie in and below it."""

from pathlib import Path

from .run_page import run_page
from .runs import Run, folders_of_runs
from .several_page import several_page


def folder_page(folder: Path, page_file: Path, examples: int) -> str:
    """
    Return the page of the runs in and below a folder. A run whose record is broken is a line on the page of the others.

    Args:
        folder: The folder.
        page_file: Where the page will lie; its links start there.
        examples: Number of right and of wrong predictions to show of each split; with 0, no data are read.

    Raises:
        ValueError: If there is no run that can be read, or matplotlib is missing.
    """
    places = list(folders_of_runs(folder))
    if not places:
        raise ValueError(f"{folder}: no run in or below it (no run.json), and no study (no study.yaml)")
    if len(places) == 1:
        return run_page(Run.read(places[0]), page_file, examples)
    runs, faults = [], []
    for place in places:
        try:
            runs.append(Run.read(place, str(place.relative_to(folder)) if place != folder else folder.resolve().name))
        except ValueError as error:
            faults.append(str(error))
    # There is nothing to compare in a conversion.
    runs = [run for run in runs if not run.record.is_conversion] or runs
    if len(runs) == 1 and not faults:
        return run_page(runs[0], page_file, examples)
    if not runs:
        raise ValueError(f"{folder}: none of {len(places)} runs can be read, the first: {faults[0]}")
    return several_page(folder.resolve().name, runs, faults, page_file, examples)
