"""Training for a number of floating-point operations (`max_flops`)."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TWO_TOWER
from safetensors.torch import load_file
from task_runs import ROWS, run_argv

from renaissance.tasks.batch_fitting import StepTrial
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


#: Rows of a step, and operations of a row and a step, of `run`, whose images are of one size.
STEP = 4


@pytest.fixture
def argv(scenes, tokenizer_folder, tmp_path) -> list[str]:
    """A training on images of one size: 13 rows in steps of 4, and a last one of 1."""
    usual = run_argv("cifar10", scenes, tokenizer_folder, tmp_path / "run")
    usual[usual.index("--dataloader_drop_last") + 1] = "false"
    kept = [word for word in usual if word not in ("--do_eval", "--do_predict")]
    return [*kept, "--do_train", "--per_device_train_batch_size", "2", "--total_batch_size", str(STEP)]


@pytest.fixture
def of_row(argv, tmp_path) -> float:
    """The operations of a row, as a run counts them that has none to keep to."""
    run_task(CIFAR10, "", [*argv, "--max_steps", "1", "--output_dir", str(tmp_path / "counted")])
    record = RunRecord.read(tmp_path / "counted")
    return record.flops / record.samples


def steps_for(argv: list[str], flops: float, *more: str) -> int:
    return prepare(CIFAR10, "", [*argv, "--max_flops", str(flops), *more])[-1].max_steps


def test_steps_are_as_many_as_the_operations_last_for(argv, of_row, tmp_path, caplog):
    """Over all accumulated batches; an epoch of 13 rows ends with a step of one."""
    assert steps_for(argv, 2.5 * STEP * of_row) == 2
    assert f"{STEP * of_row:.3g} operations a step make 2 steps" in caplog.text
    assert steps_for(argv, (2 * ROWS + STEP + 0.5) * of_row) == 2 * math.ceil(ROWS / STEP) + 1
    assert steps_for(argv, (ROWS + 0.5) * of_row, "--dataloader_drop_last") == ROWS // STEP
    # What is frozen has no backward pass.
    assert steps_for(argv, 2.5 * STEP * of_row, "--freeze", "vision") > 2
