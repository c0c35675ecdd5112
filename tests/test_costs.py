"""What a training costs: its floating-point operations, and its energy where the machine tells it."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_batch, tiny_model
from task_runs import ROWS, run_argv
from torch.utils.flop_counter import FlopCounterMode

from renaissance.tasks import recording
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.energy import EnergyMeter
from renaissance.tasks.flops import FlopCount
from renaissance.tasks.preparation import prepare
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


CPU = torch.device("cpu")


def classifier(attention: str, **options):
    model = tiny_model(
        "two-tower", "ForImageTextClassification", num_labels=3, attn_implementation=attention, **options
    )
    batch = tiny_batch(4) | {"labels": torch.zeros(4, dtype=torch.long)}
    return model.train(), batch


def flops_of(model, batch: dict, backward: bool = True) -> int:
    with FlopCount() as count, torch.set_grad_enabled(backward):
        loss = model(**batch)["loss"]
        if backward:
            loss.backward()
    return count.total


def test_operations_are_those_that_torch_counts():
    """Where it has a formula for all of them; of attention on a CPU, for which it has none, those of the plain products."""
    plain, batch = classifier("eager")
    with FlopCounterMode(display=False) as counter:
        plain(**batch)["loss"].backward()
    assert flops_of(plain, batch) == counter.get_total_flops() > 0
    fused = classifier("sdpa")[0]
    assert flops_of(fused, batch, backward=False) == flops_of(plain, batch, backward=False)
    # Its backward pass makes the scores again.
    assert flops_of(fused, batch) > flops_of(plain, batch)


def test_operations_of_what_is_frozen_are_those_of_its_forward_pass():
    """Of a linear layer (B tokens, in, out), 2 x B x in x out each for outputs, gradients of inputs and of weights."""
    layer = torch.nn.Linear(5, 7)
    inputs = torch.randn(3, 5)
    with FlopCount() as count:
        layer(inputs).sum().backward()
    assert count.total == 2 * (2 * 3 * 5 * 7)
    with FlopCount() as count:
        layer(inputs.requires_grad_()).sum().backward()
    assert count.total == 3 * (2 * 3 * 5 * 7)
    whole, batch = classifier("eager")
    frozen = classifier("eager", frozen=["vision"])[0]
    assert flops_of(frozen, batch, False) == flops_of(whole, batch, False)
    assert flops_of(frozen, batch) < flops_of(whole, batch)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_what_was_counted_unless_it_computes_otherwise(scenes, tokenizer_folder, tmp_path):
    """Its first batch may have other lengths of texts. With checkpoints of activations, it computes more."""
    usual = run_argv("snli_ve", scenes, tokenizer_folder, tmp_path / "run")
    usual = [word for word in usual if word not in ("--do_eval", "--do_predict")]
    usual += ["--do_train", "--per_device_train_batch_size", "4", "--save_steps", "1"]
    run_task(SNLIVE, "", [*usual, "--max_steps", "1"])
    state = json.loads((tmp_path / "run" / "checkpoint-1" / "trainer_state.json").read_text())
    of_step = state["total_flos"]
    run_task(SNLIVE, "", [*usual, "--max_steps", "2"])
    assert RunRecord.read(tmp_path / "run").flops == 2 * of_step
    run_task(SNLIVE, "", [*usual, "--max_steps", "3", "--gradient_checkpointing"])
    assert RunRecord.read(tmp_path / "run").flops > 3 * of_step


@pytest.fixture
def argv(scenes, tokenizer_folder, tmp_path) -> list[str]:
    """A training on images of one size: 13 rows in batches of 3, two of which make a step."""
    usual = run_argv("cifar10", scenes, tokenizer_folder, tmp_path / "whole")
    usual[usual.index("--dataloader_drop_last") + 1] = "false"
    kept = [word for word in usual if word not in ("--do_eval", "--do_predict")]
    own = ["--do_train", "--per_device_train_batch_size", "3", "--save_steps", "2"]
    return [*kept, *own, "--gradient_accumulation_steps", "2", "--max_steps", "5"]


def test_a_run_counts_one_batch_for_all_its_rows_and_a_resumed_one_the_same(argv, tmp_path):
    run_task(CIFAR10, "", argv)
    whole = RunRecord.read(tmp_path / "whole")
    trainer = prepare(CIFAR10, "", [*argv, "--output_dir", str(tmp_path / "unused")])[0]
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(6)])
    assert whole.steps == 5 and whole.samples == ROWS + 12
    assert whole.flops == pytest.approx(flops_of(trainer.model.train(), batch) / 6 * whole.samples)
    # That is what reports read.
    assert json.loads((tmp_path / "whole" / "trainer_state.json").read_text())["total_flos"] == whole.flops
    assert trainer.flops_without_values(batch) == flops_of(trainer.model, batch)
    # As if it had been cut off behind the second step.
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", resumed / "checkpoint-2")
    earlier = RunRecord.read(tmp_path / "whole")
    earlier.status, earlier.steps, earlier.energy_joules = "running", 2, 5.0
    earlier.write(resumed)
    run_task(CIFAR10, "", [*argv, "--output_dir", str(resumed)])
    found = RunRecord.read(resumed)
    assert found.resumed_at == [2] and found.flops == whole.flops
    # No counter can be read here, or what it has counted is added to what was.
    assert found.energy_joules is None or found.energy_joules >= 5.0


def test_an_evaluation_leaves_the_costs_of_its_training_as_they_are(argv, tmp_path, monkeypatch):
    counters(tmp_path / "powercap", 1_000_000)
    meter = functools.partial(EnergyMeter, powercap=tmp_path / "powercap")
    monkeypatch.setattr(recording, "EnergyMeter", meter)
    run_task(CIFAR10, "", [*argv, "--max_steps", "1"])
    trained = RunRecord.read(tmp_path / "whole")
    assert trained.flops > 0 and trained.energy_joules == 0.0
    run_task(CIFAR10, "", [*argv, "--do_train", "false", "--do_eval"])
    found = RunRecord.read(tmp_path / "whole")
    assert found.did == ["train", "eval"] and (found.flops, found.energy_joules) == (trained.flops, 0.0)


def counters(folder: Path, *values: int, wrap: int = 10_000_000) -> list[Path]:
    """The counters of a machine's processors, each with one of its cores, which is a part of it."""
    found = []
    for number, value in enumerate(values):
        for name in (f"intel-rapl:{number}", f"intel-rapl:{number}:0"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "energy_uj").write_text(f"{value}\n")
            (folder / name / "max_energy_range_uj").write_text(f"{wrap}\n")
        found.append(folder / f"intel-rapl:{number}" / "energy_uj")
    return found


def test_the_energy_of_processors_is_that_of_their_packages(tmp_path, monkeypatch):
    """Though a counter begins anew, and whoever else has a part in it: the machine has it once, whatever the number of processes."""
    first, second = counters(tmp_path, 4_000_000, 9_000_000)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert meter.joules() == 0.0
    first.write_text("4500000")
    assert meter.joules() == pytest.approx(0.5)
    second.write_text("1000000")
    assert meter.joules() == pytest.approx(0.5 + 2.0) == meter.joules()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    two = [EnergyMeter(CPU, processes, tmp_path) for processes in (4, 8)]
    first.write_text("5500000")
    assert [each.joules() for each in two] == pytest.approx([1.0, 2.0])
    second.unlink()
    assert meter.joules() is None is meter.joules()


def test_energy_that_cannot_be_read_is_not_known(tmp_path):
    assert EnergyMeter(CPU, powercap=tmp_path / "nothing").joules() is None
    (path,) = counters(tmp_path, 1)
    path.write_text("not a number")
    assert EnergyMeter(CPU, powercap=tmp_path).joules() is None
    assert EnergyMeter(torch.device("meta"), powercap=tmp_path).joules() is None


def test_counters_are_read_before_they_can_begin_anew_twice(tmp_path, monkeypatch):
    (path,) = counters(tmp_path, 0)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    monkeypatch.setattr("renaissance.tasks.energy.INTERVAL", 0.0)
    for value in (9_000_000, 1_000_000, 500_000):
        path.write_text(str(value))
        meter.watch()
    assert meter.joules() == pytest.approx(9 + 2 + 9.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, whose energy its driver counts")
def test_the_energy_of_a_gpu():
    meter = EnergyMeter(torch.device("cuda", 0), processes=2)
    values = torch.randn(4096, 4096, device="cuda")
    for _ in range(2000):
        values = torch.nn.functional.normalize(values @ values)
    torch.cuda.synchronize()
    found = meter.joules()
    assert found is not None and 2 < found < 20_000
