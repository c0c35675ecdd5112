"""
The tests that transformers runs on every model of its own. They are not in its wheel, so they come from the source
distribution of the installed version, which is downloaded on first use and kept in `.cache/`; nothing of it is part of
this repository.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType
from unittest import mock

import pytest
import transformers


#: What the tests are imported as; `tests`, their own name, belongs to whoever runs them.
PACKAGE = "transformers_tests"
CACHE = Path(__file__).parent.parent / ".cache"
#: Set where these tests must not be skipped, as in continuous integration.
REQUIRE = "RENAISSANCE_REQUIRE_SUITE"
#: Modules that the tests import and the source distribution lacks, with what is asked of them.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


class SuiteUnavailable(Exception):
    """The tests of the installed transformers cannot be had here."""


class IgnoredMarks:
    """Stands for `pytest.mark` while transformers' tests are imported: their markers are not registered here."""

    def __getattr__(self, name: str) -> Callable:
        return lambda test: test


def suite_or_skip(name: str) -> ModuleType:
    """A module of transformers' tests, such as `"test_modeling_common"`; skips the calling module where there is none."""
    try:
        folder = suite_folder()
    except SuiteUnavailable as reason:
        if os.environ.get(REQUIRE):
            raise
        pytest.skip(str(reason), allow_module_level=True)
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACKAGE, folder / "__init__.py")
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    with mock.patch.object(pytest, "mark", IgnoredMarks()):
        return importlib.import_module(f"{PACKAGE}.{name}")


def suite_folder() -> Path:
    """The folder of the tests of the installed transformers, downloaded where they are not yet in the cache."""
    folder = CACHE / f"transformers-{transformers.__version__}" / PACKAGE
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        unpacked = Path(work) / PACKAGE
        unpack_tests(download_source(Path(work)), unpacked)
        for path, text in {"__init__.py": "", **STUBS}.items():
            (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / path).write_text(text)
        try:
            # In one step, so that an interrupted run leaves no half of it.
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was quicker
                raise
    return folder


def download_source(folder: Path) -> Path:
    """Downloads the source distribution of the installed transformers into `folder`; returns the archive's path."""
    requirement = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "transformers", "--dest", str(folder), requirement]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_DEFAULT_TIMEOUT": "30"})
    archives = list(folder.glob("transformers-*.tar.gz"))
    if run.returncode or not archives:
        last = (run.stderr.strip() or "no output").splitlines()[-1]
        raise SuiteUnavailable(f"the source distribution of {requirement} could not be downloaded: {last}")
    return archives[0]


def unpack_tests(archive: Path, folder: Path) -> None:
    """Unpacks the `tests` folder of a source distribution, and nothing else of it, as `folder`."""
    folder.mkdir()
    with tarfile.open(archive) as source:
        for member in source:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and parts[1:2] == ("tests",) and ".." not in parts:
                target = folder.joinpath(*parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.extractfile(member).read())
