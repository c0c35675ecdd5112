"""Runs on two processes: they are that of one, and a mistake or a death on one ends both."""

import errno
from pathlib import Path

import pytest
import torch
from broken_runs import same_weights
from conftest import TWO_TOWER, tiny_model
from datasets import Dataset
from launching import torchrun
from torch.utils.data import BatchSampler

from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.checkpoints import STAGING
from renaissance.tasks.data.sampling import ShareOfBatches
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.data.streaming import CaptionSource, CaptionStream
from renaissance.tasks.saving import RunStopped
from renaissance.tasks.trainer import RenaissanceTrainer


HERE = Path(__file__).parent
SCRIPTS = HERE.parent / "run_scripts"


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 12, 19, 24, 25, 29])
def test_processes_share_the_rows_of_an_epoch(rows, processes, drop_last):
    """Each step has the rows that one process has in it, and only what does not divide by the processes is filled up."""
    order = torch.randperm(rows).tolist()
    of_one = list(BatchSampler(order, 4 * processes, drop_last))
    shares = [ShareOfBatches(BatchSampler(order, 4, drop_last), processes, rank) for rank in range(processes)]
    steps = list(zip(*shares, strict=True))
    assert all(len(share) == len(of_one) for share in shares) and len(steps) == len(of_one)
    for together, parts in zip(of_one, steps, strict=True):
        assert len({len(part) for part in parts}) == 1
        found = [row for part in parts for row in part]
        extra = -len(together) % processes
        assert found[: len(together)] == together
        assert found[len(together) :] == (order * processes)[:extra]


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Path:
    """Captioned scenes in four files, of which each process reads two."""
    folder = tmp_path_factory.mktemp("captions")
    rows = list(DATA_SETS["captions"].rows("train", 20, 0, 32))
    for number in range(4):
        data = Dataset.from_list(rows[5 * number : 5 * number + 5], features=DATA_SETS["captions"].features)
        data.to_parquet(str(folder / f"train-{number:05}-of-00004.parquet"))
    return folder


COLUMNS = {"image": "image", "captions": "captions", "image_id": "image_id"}


@pytest.mark.parametrize(
    ("processes", "workers", "readers"),
    [(1, 0, 1), (1, 4, 4), (1, 5, 5), (2, 0, 2), (2, 2, 4), (2, 3, 6), (3, 1, 3), (4, 1, 4), (5, 0, 5), (3, 2, 6)],
)
def test_a_stream_needs_a_file_for_each_that_reads(captions, shapes, processes, workers, readers):
    """Of each data set, whether or not the processes divide its files."""
    several, single = (CaptionSource.open(str(data), "train", COLUMNS) for data in (captions, shapes / "captions"))
    stream = CaptionStream([several], [1.0], 0, 8, processes - 1, processes)
    if readers <= 4:
        stream.check_files(workers)
    else:
        with pytest.raises(ValueError, match=rf"{captions}.* has 4 files, .* {workers} need at least {readers}, one"):
            stream.check_files(workers)
    both = CaptionStream([several, single], [1.0, 1.0], 0, 8, processes - 1, processes)
    if readers > 1:
        fault = rf"{shapes}.* has 1 file, and {processes} process.* dataloader_num_workers {workers} need at least {readers}"
        with pytest.raises(ValueError, match=fault if readers <= 4 else "has 4 files"):
            both.check_files(workers)


def test_a_process_that_does_not_save_leaves_what_another_writes(processor, tmp_path, monkeypatch):
    """All processes of a run come to `save_model`, and not at the same moment."""
    args = RunArguments(output_dir=str(tmp_path), do_eval=True, use_cpu=True, report_to="none")
    trainer = RenaissanceTrainer(model=tiny_model("two-tower"), args=args, processing_class=processor)
    half = tmp_path / STAGING / "model" / "config.json"
    half.parent.mkdir(parents=True)
    half.write_text("{")
    monkeypatch.setattr(args.distributed_state, "process_index", 1)
    trainer.save_model()
    trainer.save_state()
    with pytest.raises(RunStopped), trainer.told_if_it_fails(half):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [half]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_train_as_one(launch, captions, tokenizer_folder, tmp_path, accumulation):
    """With the same pairs and masks: each loss of each step, and the weights after all of them."""
    found = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.pt"
        words = [output, tokenizer_folder, tmp_path / "run", captions, accumulation]
        launch(processes, HERE / "distributed_training.py", *words)
        found.append(torch.load(output))
    one, two = found
    # Twice 3 or 2 steps of 8 rows with 22 rows, which one process and two count alike.
    steps = {len(run["losses"]) for name, run in one.items() if "drop_last False" in name}
    assert steps == {6} and len(one) == 15
    for name, run in one.items():
        assert len(two[name]["losses"]) == len(run["losses"]), name
        for step, (expected, losses) in enumerate(zip(run["losses"], two[name]["losses"], strict=True), start=1):
            assert losses == pytest.approx(expected, abs=1e-5), (name, step)
        assert len({losses["loss"] for losses in run["losses"]}) > 1
        for weight, value in run["weights"].items():
            torch.testing.assert_close(two[name]["weights"][weight], value, atol=1e-5, rtol=1e-5)


def said(errors: str) -> list[str]:
    """What the processes of a job have said of its end, without the report of their launcher."""
    own = errors.partition("torch/distributed/elastic")[0]
    assert "Traceback" not in own.partition(" failed (exitcode")[0], errors
    return [line for line in errors.splitlines() if ": error: " in line]


@pytest.mark.parametrize(
    "argv",
    [pytest.param(["nlvr", "recipe.yaml"], marks=pytest.mark.slow), ["nlvr2", "--max_step", "3"]],
    ids=["command", "option"],
)
def test_a_wrong_command_line_is_told_once(launch, argv):
    (line,) = said(launch(2, "-m", "renaissance_cli", *argv, code=1).errors)
    assert line.startswith("renaissance") and "did you mean" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--layer_decay", "2"], "layer_decay: expected more than 0 and at most 1"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--freeze", "left"], "left"),
    ],
    ids=["option", "data", "model"],
)
@pytest.mark.parametrize("rank", ["all", "0", "1"])
def test_a_mistake_is_told_once(launch, shapes, options, tmp_path, wrong, message, rank):
    """Of all processes or of one: the other ends too, and the launcher names the exit code."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\nfrom renaissance.tasks.nlvr2 import NLVR2\nfrom renaissance.tasks.runner import run_task\n"
        f"run_task(NLVR2, '', sys.argv[1:] + {wrong} * (os.environ['RANK'] in {[rank, *'01' * (rank == 'all')]}))\n"
    )
    argv = [*TWO_TOWER, *options, "--dataset", shapes / "nlvr2", "--do_train", "--max_steps", "400"]
    job = launch(2, script, *argv, code=1)
    (line,) = said(job.errors)
    assert line.startswith("run.py: error: ") and message in line
    assert "exitcode  : 2" in job.errors


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other(launch, finished, tmp_path, rank):
    """Which says how to go on; that ends as a run that was not broken off."""
    argv = [SCRIPTS / "run_snli_ve.py", *finished[1], "--max_steps", "40", "--logging_steps", "1", "--save_steps", "4"]
    broken = [*argv, "--output_dir", tmp_path / "broken"]
    with launch.start([*torchrun(2), *broken]) as job:
        job.wait_for(" step 9/")
        job.rank(rank).kill()
        assert job.wait(60) == 1
    (line,) = said(job.errors)
    assert "error: another process of the run has ended" in line and "the same command goes on from where" in line
    launch(2, *broken)
    launch(2, *argv, "--output_dir", tmp_path / "whole")
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
