"""Fixtures of the fault harness: the library that makes operations fail, a warm process, and an unbroken run to compare with."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import TWO_TOWER

from faults.shim import Fault, build, operations
from faults.warm import Ended, Warm


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """The compiled shim; skips the test if there is no C compiler."""
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@dataclass
class Job:
    """
    A training, with evaluation and prediction, that tests break off.

    Attributes:
        argv: Its options but for its folder.
        folder: Its folder.
        whole: The folder of an unbroken run.
        operations: The file operations of the unbroken run in its folder: the name of each, and the path.
    """

    warm: Warm
    argv: list[str]
    folder: Path
    whole: Path
    operations: list[tuple[str, str]]

    def run(self, fault: Fault | None = None, *more: str, before: str = "") -> Ended:
        """Run it, or go on with it."""
        return self.warm.run([*self.argv, "--output_dir", str(self.folder), *more], fault, before=before)

    def start(self, *more: str) -> int:
        """Start it, or go on with it; return the number of its process. `warm.end` waits for its end."""
        return self.warm.start([*self.argv, "--output_dir", str(self.folder), *more])

    def begin_anew(self) -> None:
        """Delete its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def warm_argv(shapes, tokenizer_folder) -> list[str]:
    """Options of a run of four steps in the middle of an epoch, with two checkpoints of which one is kept."""
    argv = [*TWO_TOWER, "--dataset", str(shapes / "snli_ve"), "--tokenizer", str(tokenizer_folder), "--use_cpu"]
    argv += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "4", "--per_device_train_batch_size", "4"]
    argv += ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1", "--logging_steps", "3"]
    return [*argv, "--learning_rate", "1e-2", "--seed", "1", "--report_to", "none", "--disable_tqdm", "true"]


@pytest.fixture(scope="session")
def warm(library, warm_argv, tmp_path_factory) -> Iterator[Warm]:
    folder = tmp_path_factory.mktemp("warm")
    process = Warm(folder, library, warm_argv)
    process.wait()
    yield process
    process.close()


@pytest.fixture(scope="session")
def job(warm, warm_argv, tmp_path_factory) -> Job:
    """The job, whose unbroken run is the first of the warm process."""
    return Job(warm, warm_argv, tmp_path_factory.mktemp("job") / "run", warm.first, operations(warm.log))
