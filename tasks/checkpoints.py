"""Checkpoints that can be trusted: written aside, with a manifest of their files, and renamed when they are on the disk."""

import contextlib
import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .finite import fault_in_files
from .folder_files import made_of, read_mapping


#: Lists the files of a checkpoint, with the size and the SHA-256 of each.
MANIFEST = "manifest.json"

#: The folder, in that of the run, in which a checkpoint is written, and from which one is deleted.
STAGING = ".saving"

#: Patterns of the names of all files that a run saves in its folder.
SAVED = ("*.json", "*.jsonl", "*.yaml", "*.safetensors", "README.md", "training_args.bin", "predictions*", ".*.new")

logger = logging.getLogger(__name__)


@dataclass
class Manifest:
    """
    What a checkpoint holds.

    Attributes:
        step: Steps of training so far.
        engine: What made it: `"torch"`, `"deepspeed"` or `"fsdp"`.
        processes: Number of processes, each of which saved the state of its random generators.
        scaled: Whether a loss scaler (fp16) is part of the training's state.
        weights_only: Whether only the weights were saved, so that training can't go on exactly.
        files: Size in bytes and SHA-256 of each file, by its path in the folder.
    """

    step: int
    engine: str
    processes: int
    scaled: bool
    weights_only: bool
    files: dict[str, dict[str, int | str]]

    @classmethod
    def read(cls, checkpoint: Path) -> "Manifest":
        """Return the manifest of a checkpoint; raise `ValueError` if there is none, or it can't be read."""
        try:
            manifest = made_of(cls, read_mapping(checkpoint / MANIFEST))
        except FileNotFoundError:
            raise ValueError(f"it has no {MANIFEST}, so that it was not saved to its end") from None
        except ValueError as error:
            raise ValueError(f"its {MANIFEST} is broken ({error})") from error
        if not all({"bytes", "sha256"} <= entry.keys() for entry in manifest.files.values()):
            raise ValueError(f"its {MANIFEST} is broken (a file without size or checksum)")
        return manifest

    def write(self, checkpoint: Path) -> None:
        """Write the manifest into a checkpoint."""
        text = json.dumps(vars(self), indent=2)
        (checkpoint / MANIFEST).write_text(text + "\n", encoding="utf-8")


def commit(staged: Path, final: Path, **facts: int | str | bool) -> None:
    """
    Make a checkpoint of what is written in the folder `staged`: put every byte on the disk, and only then give it its name.

    Whoever finds the folder `final` finds it whole, also after the machine lost power. A folder that has the name already
    is replaced.

    Args:
        facts: The attributes of the `Manifest` but for its files.
    """
    Manifest(**facts, files=entries_of(staged)).write(staged)
    for path in [*files_in(staged), *(each for each in staged.rglob("*") if each.is_dir()), staged]:
        sync(path)
    if final.exists():
        replaced = staged.with_name(f"replaced-{final.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    staged.rename(final)
    sync(final.parent)
    clear_staging(final.parent)


def renew_manifest(checkpoint: Path) -> None:
    """Write the manifest of a copy of a checkpoint whose files were changed on purpose."""
    manifest = Manifest.read(checkpoint)
    manifest.files = entries_of(checkpoint)
    manifest.write(checkpoint)


def move_files(staged: Path, output_dir: Path) -> None:
    """Put the files of a folder, when they are on the disk, in place of those of the same names in another, one by one."""
    for path in files_in(staged):
        sync(path)
    for path in files_in(staged):
        target = output_dir / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    sync(output_dir)
    clear_staging(output_dir)


def check_places(output_dir: Path) -> None:
    """Raise `ValueError` if what is in the folder of a run stands in the way of files that it saves, hours later."""
    if os.path.lexists(output_dir / STAGING):
        fault = f"{STAGING}, in which a run saves, is there and cannot be deleted"
        raise ValueError(f"output_dir {output_dir}: {fault}; delete it, or choose another output_dir")
    for path in sorted(output_dir.iterdir()):
        if path.is_dir() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in SAVED):
            fault = f"{path.name} is a folder, and has a name that a file of a run may get"
            raise ValueError(f"output_dir {output_dir}: {fault}; move it elsewhere, or choose another output_dir")


def clear_staging(output_dir: Path) -> None:
    """Delete what a save that was cut off has left in the folder of a run."""
    shutil.rmtree(output_dir / STAGING, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """Write a small file so that at any moment it holds either its old text or the new one, whole."""
    aside = path.with_name(f".{path.name}.new")
    try:
        # A file of its own: a link that somebody put there would lead the text elsewhere.
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        # A failed write does not say of which file.
        raise OSError(error.errno, error.strerror, str(path)) from error


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def entry_of(path: Path) -> dict[str, int | str]:
    """Return the size and checksum of a file, as a manifest has them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def entries_of(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return the size and checksum of each file of a checkpoint but its manifest, by its path in the folder."""
    files = [path for path in files_in(folder) if path != folder / MANIFEST]
    return {path.relative_to(folder).as_posix(): entry_of(path) for path in files}


def fault_of(checkpoint: Path, may_lack: tuple[str, ...] = ()) -> str | None:
    """
    Return in words what is wrong with a checkpoint; `None` if each of its files is as it was saved, and all values in it are
    finite. Files whose names fit a pattern in `may_lack` may be missing.
    """
    try:
        manifest = Manifest.read(checkpoint)
    except ValueError as error:
        return str(error)
    if step_of(checkpoint) not in (None, manifest.step):
        return f"it is of step {manifest.step}, says its {MANIFEST}, and was given another name"
    if TRAINER_STATE_NAME not in manifest.files:
        return f"its {MANIFEST} is broken (it does not list {TRAINER_STATE_NAME})"
    for name, saved in manifest.files.items():
        try:
            fault = fault_of_file(checkpoint, name, saved, may_lack)
        # A disk that fails, a name that no file can have, or links in a circle (RuntimeError).
        except (OSError, ValueError, RuntimeError) as error:
            return f"its file {name!r:.80} cannot be read ({getattr(error, 'strerror', None) or error})"
        if fault:
            return fault
    return fault_in_files(checkpoint)


def fault_of_file(checkpoint: Path, name: str, saved: dict[str, int | str], may_lack: tuple[str, ...]) -> str | None:
    """Return in words what is wrong with a file of a checkpoint, whose manifest has `saved` of it; `None` if it is as it was saved."""
    path = checkpoint / name
    if not path.resolve().is_relative_to(checkpoint.resolve()):
        return f"its {MANIFEST} names {name}, which is outside of it"
    if not path.exists() and any(fnmatch.fnmatchcase(name, pattern) for pattern in may_lack):
        return None
    if not path.is_file():
        return f"its file {name} is missing"
    if path.stat().st_size != saved["bytes"]:
        return f"its file {name} has {path.stat().st_size:,} bytes, and had {saved['bytes']}"
    if entry_of(path)["sha256"] != saved["sha256"]:
        return f"its file {name} is not as it was saved (SHA-256 differs)"
    return None


def newest_first(output_dir: Path) -> list[Path]:
    """Return the checkpoints in the folder of a run, whole or not, those of the last step first."""
    found = [folder for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if folder.is_dir()]
    return sorted((folder for folder in found if step_of(folder) is not None), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int | None:
    """Return the step that a checkpoint has in its name; `None` if the name is not that of a checkpoint."""
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(0|[1-9][0-9]*)", checkpoint.name)
    return int(match[1]) if match else None


def delete_older(newest: Path, limit: int | None, kept: Path | None = None) -> None:
    """
    Delete checkpoints of a run so that `limit` are left, if there is a limit.

    The last ones to go are `newest`, which was just saved, and `kept`; the first are those of later steps, which come from an earlier
    attempt, and then those of the earliest steps. A checkpoint loses its name before its files, so that none is found half.
    """
    if not limit:
        return
    step, folders = step_of(newest), newest_first(newest.parent)
    # By name, for a folder may be written in several ways.
    spared = {each.name for each in (newest, kept) if each is not None}
    others = [folder for folder in folders if folder.name not in spared]
    others.sort(key=lambda folder: (step_of(folder) <= step, step_of(folder)), reverse=True)
    for folder in others[max(limit - (len(folders) - len(others)), 0) :]:
        if not os.access(folder, os.W_OK):
            # Its owner wants to keep it.
            logger.warning(f"save_total_limit: {folder} is read-only, and is kept")
            continue
        discarded = folder.parent / STAGING / f"deleted-{folder.name}"
        discarded.parent.mkdir(exist_ok=True)
        folder.rename(discarded)
    clear_staging(newest.parent)


def passed_over(output_dir: Path, may_lack: tuple[str, ...] = ()) -> Iterator[tuple[Path, str | None]]:
    """Yield the checkpoints of a run, newest first, with what is wrong with each, up to the first that is whole."""
    for checkpoint in newest_first(output_dir):
        fault = fault_of(checkpoint, may_lack)
        yield checkpoint, fault
        if fault is None:
            return


def newest_whole(output_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run whose files are all as they were saved; `None` if there is none."""
    return next((checkpoint for checkpoint, fault in passed_over(output_dir) if fault is None), None)
