"""The page of a folder: of its one run, or of all that lie in and below it."""

from pathlib import Path

from .run_page import run_page
from .runs import Run, folders_of_runs


def folder_page(folder: Path, page_file: Path, examples: int) -> str:
    """
    Return the page of the runs in and below a folder.

    Args:
        folder: The folder.
        page_file: Where the page will lie; its links start there.
        examples: Number of right and of wrong predictions to show of each split; with 0, no data are read.

    Raises:
        ValueError: If there is no run, or the only one has a broken record, or matplotlib is missing.
    """
    folders = list(folders_of_runs(folder))
    if not folders:
        raise ValueError(f"{folder}: no run in or below it; expected a folder with the record of a run, run.json")
    return run_page(Run.read(folders[0]), page_file, examples)
