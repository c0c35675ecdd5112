"""Training for a number of floating-point operations (`max_flops`)."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from broken_runs import same_weights
from task_runs import ROWS, pretraining_argv, run_argv

from renaissance.tasks import compute_budget
from renaissance.tasks.bad_steps import IDS
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.flops import count_without_values
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


SCRIPTS = Path(__file__).parents[1] / "run_scripts"
#: Rows of a step of `argv`.
STEP = 4


@pytest.fixture
def argv(scenes, tokenizer_folder, tmp_path) -> list[str]:
    """A training on images of one size: 13 rows in steps of two batches of 2, the last of one row."""
    usual = run_argv("cifar10", scenes, tokenizer_folder, tmp_path / "run")
    usual[usual.index("--dataloader_drop_last") + 1] = "false"
    kept = [word for word in usual if word not in ("--do_eval", "--do_predict")]
    own = ["--do_train", "--per_device_train_batch_size", "2", "--total_batch_size", str(STEP)]
    return [*kept, *own, "--save_steps", "2", "--learning_rate", "1e-2"]


@pytest.fixture
def of_row(argv, tmp_path) -> float:
    """The operations of a row, as a run counts them in its first step."""
    run_task(CIFAR10, "", [*argv, "--max_steps", "1", "--output_dir", str(tmp_path / "counted")])
    record = RunRecord.read(tmp_path / "counted")
    return record.flops / record.samples


def steps_for(argv: list[str], flops: float, *more: str) -> int:
    return prepare(CIFAR10, "", [*argv, "--max_flops", repr(flops), *more])[-1].max_steps


def test_steps_are_as_many_as_the_operations_last_for(argv, of_row, caplog):
    """Over all accumulated batches; an epoch of 13 rows ends with a step of one."""
    flops = (2 * ROWS + STEP + 0.5) * of_row
    assert steps_for(argv, flops) == 2 * math.ceil(ROWS / STEP) + 1
    assert f"max_flops {flops:g}: {STEP * of_row:.3g} operations a step make 9 steps" in caplog.text


@pytest.mark.slow
def test_steps_follow_the_options(argv, of_row, tmp_path, refused):
    flops = 3.2 * STEP * of_row
    assert steps_for(argv, flops) == 3
    # What is left of an epoch is dropped: 12 rows of 13.
    assert steps_for(argv, (2 * ROWS - 1.5) * of_row, "--dataloader_drop_last") == 2 * ROWS // STEP
    assert steps_for(argv, flops, "--total_batch_size", "8") == 1
    # What is frozen has no backward pass, and what is cached is not computed at all.
    frozen = steps_for(argv, 100 * flops, "--freeze", "vision")
    cached = steps_for(argv, 100 * flops, "--freeze", "vision", "--cache_frozen_features", str(tmp_path / "cache"))
    assert 300 < frozen < cached
    compiled = ["--torch_compile", "--torch_compile_backend", "eager"]
    assert steps_for(argv, flops, *compiled) == 3
    # `warmup_steps` must end before training does, and there is no training without a step.
    line = refused(run_task, CIFAR10, "", [*argv, "--max_flops", repr(flops), "--warmup_steps", "4"])
    assert "warmup_steps: training has 3 steps" in line
    line = refused(run_task, CIFAR10, "", [*argv, "--max_flops", repr(0.9 * STEP * of_row)])
    assert f"is less than one step, which takes {STEP * of_row:.3g}" in line


@pytest.mark.slow
def test_a_run_is_that_of_as_many_steps_and_goes_on_with_them(argv, of_row, tmp_path, caplog, capsys):
    """To the last bit, though the same command might count otherwise by then. More operations train it on."""
    budget = ["--max_flops", repr((ROWS + 2 * STEP + 0.5) * of_row)]
    run_task(CIFAR10, "", [*argv, *budget])
    run_task(CIFAR10, "", [*argv, "--max_steps", "6", "--output_dir", str(tmp_path / "same")])
    assert same_weights(tmp_path / "run", tmp_path / "same")
    record = RunRecord.read(tmp_path / "run")
    assert (record.steps, record.options["max_steps"], record.options["max_flops"]) == (6, 6, float(budget[1]))
    assert record.flops == pytest.approx((ROWS + 2 * STEP) * of_row) and record.flops <= record.options["max_flops"]
    options = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert options["max_flops"] == float(budget[1]) and options["max_steps"] == -1

    # As if it had been cut off behind the second step.
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "run" / "checkpoint-2", cut / "checkpoint-2")
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(compute_budget, "flops_of_row", lambda *_: of_row / 2)
        run_task(CIFAR10, "", [*argv, *budget, "--output_dir", str(cut)])
    assert "6 steps, as when the run began" in caplog.text
    assert same_weights(cut, tmp_path / "run") and RunRecord.read(cut).flops == record.flops

    run_task(CIFAR10, "", [*argv, *budget])
    assert "holds the finished run of 6 steps" in capsys.readouterr().out
    run_task(CIFAR10, "", [*argv, "--max_flops", repr((ROWS + 3 * STEP + 0.5) * of_row)])
    assert "of which" in caplog.text
    assert RunRecord.read(tmp_path / "run").steps == 7


@pytest.mark.slow
def test_what_is_left_is_divided_anew_if_a_step_takes_another_number(argv, of_row, tmp_path):
    budget = ["--max_flops", repr(6.5 * STEP * of_row), "--dataloader_drop_last"]
    run_task(CIFAR10, "", [*argv, *budget])
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "run" / "checkpoint-2", cut / "checkpoint-2")
    changed = ["--total_batch_size", "8", "--override_run", "--output_dir", str(cut)]
    assert prepare(CIFAR10, "", [*argv, *budget, *changed])[-1].max_steps == 2 + 2


@pytest.fixture
def pretraining(shapes, tokenizer_folder, tmp_path) -> list[str]:
    """Captions of different lengths, several of which may have one image."""
    argv = pretraining_argv(shapes / "captions", tokenizer_folder, tmp_path / "run")
    return [*argv, "--objectives", "mlm", "itm", "contrastive", "--per_device_train_batch_size", "8"]


@pytest.mark.slow
@pytest.mark.parametrize("per_image", ["1", "4"])
def test_batches_are_counted_as_training_draws_them(pretraining, per_image):
    trainer = prepare(Pretraining, "", [*pretraining, "--captions_per_image", per_image, "--max_flops", "1e9"])[0]
    flops = rows = 0
    for batch in trainer.get_train_dataloader():
        rows += len(batch.pop(IDS))
        flops += count_without_values(trainer.model, batch, trainer.args)
    assert trainer.flops_a_row == pytest.approx(flops / rows, rel=0.05)


@pytest.mark.slow
def test_two_processes_take_as_many_steps_as_one(pretraining, tmp_path, launch):
    argv = [*pretraining, "--total_batch_size", "16", "--do_eval", "false"]
    alone = prepare(Pretraining, "", [*argv, "--max_steps", "1"])
    of_row = compute_budget.flops_of_row(alone[0].step_trial, alone[-1])
    budget = ["--max_flops", repr(2.5 * 16 * of_row)]
    launch(2, SCRIPTS / "run_pretrain.py", *argv, *budget)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["max_steps"] == state["global_step"] == 2
    # The contrastive loss compares a row with those of all processes, 16 rather than 8.
    assert 2 * 16 * of_row < state["total_flos"] == pytest.approx(2 * 16 * of_row, rel=0.01)


def test_operations_that_cannot_be_counted(argv):
    """Of an encoder whose code looks at values."""
    trainer, *_, args = prepare(CIFAR10, "", [*argv, "--max_steps", "1"])
    trainer.model.register_forward_pre_hook(
        lambda module, _, inputs: inputs["pixel_values"].sum().item(), with_kwargs=True
    )
    with pytest.raises(ValueError, match=r"max_flops: the operations of a step are not known .* give max_steps"):
        compute_budget.flops_of_row(trainer.step_trial, args)
