"""What a checkpoint came from: the runs before it, as far as its files tell."""

import logging
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from transformers.utils import cached_file

from ..modeling.encoders import source_name
from ..tasks.run_record import FILE_NAME, Ancestor, RunRecord


logger = logging.getLogger(__name__)

#: How Trainer calls the folders of checkpoints, before the step.
CHECKPOINT = "checkpoint-"


def history_of(start: str, revision: str | None = None, local_files_only: bool = False) -> list[Ancestor]:
    """
    Return the run that made a checkpoint, and those before it, the last one first: from its `run.json`, or, if it has none, from
    the metadata of its card.

    Args:
        start: Hub id or folder of the checkpoint.
        revision: Its commit on the Hub.
        local_files_only: Whether to leave out what is on the Hub and has not been downloaded.
    """
    name, options = source_name(start), {"revision": revision, "local_files_only": local_files_only}
    if file := file_of(start, FILE_NAME, options):
        try:
            record = RunRecord.read(file.parent)
            ancestor = record.as_ancestor(name, revision)
            step = Path(start).name.removeprefix(CHECKPOINT)
            if Path(start).name.startswith(CHECKPOINT) and step.isdecimal() and int(step) != ancestor.steps:
                ancestor.steps, ancestor.samples, ancestor.epochs = int(step), None, None
            return [ancestor, *record.history]
        except ValueError as error:
            logger.warning(f"What {name} was trained on stays unknown: {error}")
    file = file_of(start, "README.md", options)
    return [Ancestor(name, revision, sources=card_list(file, "datasets") if file else [])]


def licence_of(start: str, revision: str | None = None) -> str | None:
    """Return the licence that the card of a checkpoint names; `None` if it has none."""
    file = file_of(start, "README.md", {"revision": revision, "local_files_only": True})
    found = card_list(file, "license") if file else []
    return found[0] if found else None


def file_of(start: str, name: str, options: dict) -> Path | None:
    """Return a file of a checkpoint, which in a folder of Trainer's may lie beside the checkpoints; `None` if there is none."""
    folder = Path(start)
    if folder.is_dir():
        places = [folder, folder.parent] if folder.name.startswith(CHECKPOINT) else [folder]
        return next((place / name for place in places if (place / name).is_file()), None)
    try:
        found = cached_file(
            start,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **options,
        )
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def card_list(file: Path, name: str) -> list[str]:
    """Return an entry of a card's metadata as a list of strings; an empty one if there is none, or it cannot be read."""
    if not file.is_file():
        return []
    try:
        value = ModelCard.load(file, ignore_metadata_errors=True).data.get(name)
    except (ValueError, OSError, yaml.YAMLError):
        return []
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str)]
