"""The shim sees the file operations of all that writes here, and lets each of them fail."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faults.shim import Fault, operations


WRITES = """
import errno, os, shutil, sys
from pathlib import Path
folder = Path(sys.argv[1])
try:
    (folder / "a").write_text("some text")
    descriptor = os.open(folder / "a", os.O_RDONLY)
    os.fsync(descriptor)
    (folder / "b").mkdir()
    shutil.copy(folder / "a", folder / "b" / "c")
    os.chdir(folder)
    os.replace("a", "d")
    shutil.rmtree("b")
except OSError as error:
    sys.exit(errno.errorcode[error.errno])
"""

SEEN = [
    "open a", "write a", "fsync a", "mkdir b", "open b/c", "write b/c", "write b/c", "rename d", "unlink b/c", "rmdir b",
]  # fmt: skip
#: The number of the write that shutil does in another way if it fails.
COPIED = SEEN.index("write b/c") + 1


def run(program: str, fault: Fault, library: Path) -> subprocess.CompletedProcess:
    fault.folder.mkdir()
    command = [sys.executable, *(["-I", "-S"] if program is WRITES else []), "-c", program, str(fault.folder)]
    return subprocess.run(command, env=fault.preload(library), capture_output=True, text=True)


def test_operations_are_counted(library, tmp_path):
    fault = Fault(tmp_path / "run", log=tmp_path / "log")
    assert run(WRITES, fault, library).returncode == 0
    assert [" ".join(each) for each in operations(fault.log)] == SEEN


@pytest.mark.parametrize("kind", ["KILL", "ENOSPC", "EROFS", "EIO"])
def test_each_operation_meets_its_fault(library, tmp_path, kind):
    for number, operation in enumerate(SEEN, start=1):
        fault = Fault(tmp_path / f"{kind}{number}", number, kind)
        ended = run(WRITES, fault, library)
        if kind == "KILL":
            assert ended.returncode == -signal.SIGKILL, operation
        elif (kind == "ENOSPC" and operation.startswith(("unlink", "rmdir"))) or (kind == "EIO" and number == COPIED):
            assert ended.returncode == 0
        else:
            assert (ended.returncode, ended.stderr.strip()) == (1, kind), operation
    assert (tmp_path / f"{kind}10" / "d").exists()


def test_a_killed_write_is_half_done(library, tmp_path):
    run(WRITES, Fault(tmp_path / "run", SEEN.index("write a") + 1), library)
    assert (tmp_path / "run" / "a").read_text() == "some"


@pytest.mark.slow
def test_torch_safetensors_and_arrow_are_seen(library, tmp_path):
    program = """
import sys
from pathlib import Path
import pyarrow, pyarrow.parquet, torch
from safetensors.torch import save_file
folder, tensors = Path(sys.argv[1]), {"a": torch.zeros(100_000)}
torch.save(tensors, folder / "torch")
save_file(tensors, folder / "safetensors")
pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), folder / "arrow")
"""
    fault = Fault(tmp_path / "run", log=tmp_path / "log")
    assert run(program, fault, library).returncode == 0
    written = [path for operation, path in operations(fault.log) if operation == "write"]
    # safetensors writes to a file of another name, which it then renames.
    assert {"torch", "arrow"} < set(written) and any(path.startswith(".tmp") for path in written)
