"""Runs functions of tests in another process, in which everything that is installed here can be imported but this package."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def link_all_but_renaissance(folder: Path) -> None:
    """Make `folder` a site-packages folder with everything that is installed here but this package."""
    # Those that a .pth file adds are there too.
    folders = ("site-packages", "dist-packages")
    installed = [path for path in dict.fromkeys(sys.path) if Path(path).name in folders]
    own = {
        Path(file).parts[0]
        for distribution in metadata.distributions(name="renaissance", path=installed)
        for file in distribution.files or ()
    }
    folder.mkdir()
    for entry in (entry for path in installed for entry in Path(path).iterdir()):
        if entry.name not in own and not (folder / entry.name).exists():
            (folder / entry.name).symlink_to(entry)


def run_elsewhere(
    root: Path, function: Callable[[str], None], argument: Path, **variables: str
) -> subprocess.CompletedProcess:
    """
    Call a function, which imports all that it needs, with a path in a process without this package. Its home of the Hub is
    under `root`; of this process's variables it has all but those of the Hub, and `variables`.
    """
    if not (root / "site-packages").exists():
        link_all_but_renaissance(root / "site-packages")
    (root / "empty").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": str(root / "site-packages"), "HF_HOME": str(root / "elsewhere"), **variables}
    nowhere = "import importlib.util\nassert importlib.util.find_spec('renaissance') is None"
    code = f"{nowhere}\n{inspect.getsource(function)}\n{function.__name__}({str(argument)!r})"
    # -S: without it the interpreter adds the site-packages that this package is in.
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=root / "empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done
