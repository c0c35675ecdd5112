"""Runs on two processes: they are that of one, and a mistake or a death on one ends both."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.utils.data import BatchSampler

from renaissance.tasks.data.sampling import ShareOfBatches
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.data.streaming import CaptionSource, CaptionStream


HERE = Path(__file__).parent


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
    assert steps == {6} and len(one) == 13
    for name, run in one.items():
        assert len(two[name]["losses"]) == len(run["losses"]), name
        for step, (expected, losses) in enumerate(zip(run["losses"], two[name]["losses"], strict=True), start=1):
            assert losses == pytest.approx(expected, abs=1e-5), (name, step)
        assert len({losses["loss"] for losses in run["losses"]}) > 1
        for weight, value in run["weights"].items():
            torch.testing.assert_close(two[name]["weights"][weight], value, atol=1e-5, rtol=1e-5)
