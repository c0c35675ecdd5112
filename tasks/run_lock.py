"""A lock that keeps a second process out of the folder of a run."""

import contextlib
import errno
import json
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


logger = logging.getLogger(__name__)

#: The lock, and what tells of the process that holds it. Both are in the folder while the run goes on.
LOCK_FILE, OWNER_FILE = ".lock", ".lock.json"

#: Errors of a file system that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def exclusive(folder: Path, called: str = "output_dir") -> Iterator[None]:
    """
    Keep other processes out of the folder of a run, which messages name by the option `called`. The lock of a process that died is
    free again.

    Raises:
        ValueError: If another process has the folder (it says which), or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        fault = "it is a file" if is_file(folder) else getattr(error, "strerror", None) or error
        raise ValueError(f"{called} {folder}: cannot be made a folder ({fault}); choose another") from error
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{called} {folder} is in use{owner_of(folder)}; wait for it, or choose another") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise unusable(folder, error, called) from error
        logger.warning(f"{called} {folder} cannot be locked ({error}): start no second run in it")
        yield
        return
    try:
        note_owner(folder, called)
        yield
    finally:
        # While it is held, so that nobody gets a lock on a file that is gone. On a disk that fails they stay, and lock nobody out.
        with contextlib.suppress(OSError):
            for name in (OWNER_FILE, LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            if not any(folder.iterdir()):
                # Nothing came of the run.
                folder.rmdir()


def is_held(folder: Path) -> bool:
    """Return whether a process has the folder of a run at this moment."""
    if not is_file(folder / LOCK_FILE):
        return False
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        # There are no locks here, or the run itself will say what is wrong with the folder.
        return False
    lock.release()
    return False


def is_file(path: Path) -> bool:
    """Return whether a path is that of a file; of one that no file can have, it is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def note_owner(folder: Path, called: str) -> None:
    """Write down which process has the folder; raise `ValueError` if nothing can be written there."""
    try:
        owner = {"process": os.getpid(), "host": platform.node()}
        # A file of its own: a link, or a pipe, that somebody put there would lead the words elsewhere.
        (folder / OWNER_FILE).unlink(missing_ok=True)
        with (folder / OWNER_FILE).open("x", encoding="utf-8") as file:
            file.write(json.dumps(owner))
    except OSError as error:
        raise unusable(folder, error, called) from error


def unusable(folder: Path, error: OSError, called: str) -> ValueError:
    """Return the error of a folder in which nothing can be written."""
    named = Path(error.filename).name if isinstance(error.filename, str) else ""
    if error.errno in (errno.EISDIR, errno.ELOOP):
        return ValueError(
            f"{called} {folder}: its {named} is no file ({error.strerror}); delete it, or choose another"
        )
    return ValueError(f"{called} {folder}: nothing can be written there ({error.strerror}); choose another")


def owner_of(folder: Path) -> str:
    """Return a phrase on the process that has a folder; an empty one if it is not known."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f" by process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
