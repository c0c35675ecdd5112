"""What a checkpoint came from: the runs before it, as far as its files tell."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from transformers.utils import SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from ..modeling.configuration_renaissance import RenaissanceConfig
from ..modeling.encoders import at_revision, source_name
from ..tasks.folder_files import read_mapping
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
    return [Ancestor(name, revision=revision, sources=card_list(file, "datasets") if file else [])]


def read_history(start: str, revision: str | None = None) -> list[Ancestor]:
    """Return the history of a checkpoint that a run reads, as `history_of` does, with a digest of its weights."""
    checkpoint, *earlier = history_of(start, revision)
    return [replace(checkpoint, digest=digest_of_weights(start, revision)), *earlier]


def encoder_history(config: RenaissanceConfig, sources: Mapping[str, str | None]) -> list[Ancestor]:
    """
    Return the encoders whose weights are in a new model, as the runs that led to it. What is on the Hub and has not been downloaded is
    left out.

    Args:
        config: The configuration of the model.
        sources: The Hub id, also with a revision, or the folder of each encoder, by the name of its place in the configuration.
    """
    found = []
    for part in (slot.name for slot in config.encoder_slots()):
        if part not in config.weights_from or not sources.get(part):
            continue
        name, chosen = at_revision(sources[part])
        revision = commit_of(name, chosen.get("revision"))
        encoder = history_of(name, revision, local_files_only=True)[0]
        found.append(replace(encoder, part=part, digest=digest_of_weights(name, revision)))
    return found


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a checkpoint of the Hub that has been downloaded; `None` if it has not, or of a folder."""
    if Path(name).is_dir():
        return None
    file = file_of(name, "config.json", {"revision": revision, "local_files_only": True})
    return extract_commit_hash(str(file), None) if file else None


def digest_of_weights(start: str, revision: str | None = None) -> str | None:
    """
    Return the SHA-256 of the weights of a checkpoint, in hexadecimal digits; of several files, that of the lines that `sha256sum` prints of
    them. `None` if there are none here.
    """

    def local(name: str) -> Path | None:
        if Path(start).is_dir():
            return Path(start, name) if Path(start, name).is_file() else None
        return file_of(start, name, {"revision": revision, "local_files_only": True})

    for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
        if file := local(name):
            return sha256_of(file)
        if index := local(f"{name}.index.json"):
            try:
                parts = sorted(set(read_mapping(index).get("weight_map", {}).values()))
            except (ValueError, TypeError, AttributeError):
                return None
            lines = [f"{sha256_of(file)}  {part}\n" for part in parts if (file := local(part))]
            return hashlib.sha256("".join(lines).encode()).hexdigest()
    return None


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
