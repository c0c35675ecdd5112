"""
A library that is loaded before libc, counts the operations that change files below a folder, and lets the k-th one fail.

It sees open for writing, write (of any kind, truncation included), rename, link, mkdir, unlink, rmdir and fsync, in the order of their
calls, whether Python, Rust (safetensors) or C++ (torch, Arrow) makes them. It does not see writes through a memory map,
calls inside libc (fwrite, mkstemp), and system calls that pass libc by: safetensors renames its temporary file by such a
one. A process that is killed just before that call has the same files as one that is killed in the last write before it.
"""

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


SOURCE = Path(__file__).with_name("shim.c")

#: The kinds of faults. KILL: SIGKILL; of a write, half is done before. ENOSPC: from this operation on the disk is full, but files can be deleted.
#: EROFS: from it on the file system is read-only, as after an error. EIO, EACCES: this operation alone fails.
KINDS = ("KILL", "ENOSPC", "EROFS", "EIO", "EACCES")


def build(folder: Path) -> Path:
    """Compile the library into a folder; return its file. Raise `FileNotFoundError` if there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (gcc or cc) on the path")
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass
class Fault:
    """
    What is to go wrong.

    Attributes:
        folder: The folder whose operations count, and those of all below it.
        at: The number of the operation that fails, from 1 on; 0: none.
        kind: One of `KINDS`.
        log: A file that gets a line for each operation: its name, and the path in the folder.
        rank: Of several processes, the one that counts and fails; all do by default.
    """

    folder: Path
    at: int = 0
    kind: str = "KILL"
    log: Path | None = None
    rank: int | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the library reads."""
        return {
            "FAULTS_FOLDER": str(self.folder.resolve()),
            "FAULTS_AT": str(self.at),
            "FAULTS_KIND": self.kind,
            "FAULTS_LOG": str(self.log or ""),
            "FAULTS_RANK": "" if self.rank is None else str(self.rank),
        }

    def preload(self, library: Path) -> dict[str, str]:
        """Return the environment of a new process that meets the fault."""
        return os.environ | self.environment() | {"LD_PRELOAD": str(library)}

    @staticmethod
    def arm_from_environment() -> None:
        """Count from 1 again in this process, which was started with the library, and meet the fault of its environment now."""
        ctypes.CDLL(None).faults_arm()


def operations(log: Path) -> list[tuple[str, str]]:
    """Return the operations in a log: the name of each, and the path in the folder."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [tuple(line.split(" ", 1)) for line in lines]
