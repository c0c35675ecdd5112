"""Whether a step fits into memory: what it needs, the batch that fits, and runs that are out of memory."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from conftest import ARCHITECTURES, pretraining_batch, tiny_model
from task_runs import pretraining_argv

from renaissance.benchmarks.measure import in_fresh_process
from renaissance.benchmarks.memory import peak, told_before
from renaissance.tasks import batch_fitting, machine
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.checkpoints import fault_of
from renaissance.tasks.master_weights import MasterWeights
from renaissance.tasks.memory_needs import LiveBytes, nbytes, step_needs
from renaissance.tasks.out_of_memory import is_out_of_memory
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


def arguments(folder: Path, **options) -> RunArguments:
    return RunArguments(output_dir=str(folder), do_train=True, use_cpu=True, report_to="none", **options)


def collated_batch() -> dict:
    """A batch as the collator makes it, with the places of masked tokens."""
    batch = pretraining_batch()
    return batch | {"mlm_positions": (batch["mlm_labels"].flatten() != -100).nonzero()[:, 0]}


def needs(model, folder: Path, freeze: tuple[str, ...] = (), **options):
    return step_needs(model, collated_batch(), arguments(folder, **options), 3, freeze)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_without_values_counts_what_a_real_one_takes(architecture, tmp_path):
    model = tiny_model(architecture, "ForPreTraining").train()
    parameters = sum(map(nbytes, model.parameters()))
    found = needs(model, tmp_path)
    with LiveBytes() as real:
        model(**collated_batch())["loss"].backward()
    assert found.weights == parameters + sum(map(nbytes, model.buffers()))
    assert found.gradients == parameters and found.exchanged == 0
    # AdamW's two moments.
    assert found.optimizer == 2 * parameters
    assert found.working == pytest.approx(real.peak, rel=0.05)


def test_weights_in_bfloat16_need_their_copies_too(tmp_path):
    model = tiny_model("two-tower", "ForPreTraining").train()
    found, plain = needs(model, tmp_path, bf16_weights=True), needs(model, tmp_path)
    # Gradients add up in float32, as those of the master copies, which the optimizer trains.
    assert (found.gradients, found.optimizer) == (plain.gradients, plain.optimizer)
    masters = MasterWeights(model)
    held = sum(map(nbytes, [*model.parameters(), *model.buffers()]))
    copies = sum(nbytes(masters.of(value)) for value in model.parameters() if masters.of(value) is not value)
    with LiveBytes() as real:
        model(**collated_batch())["loss"].backward()
    assert held < plain.weights < found.weights == held + copies
    assert found.working == pytest.approx(real.peak, rel=0.05)


def test_a_step_without_values_leaves_everything_as_it_is(tmp_path):
    model = tiny_model("two-tower", "ForPreTraining").train()
    model.freeze("vision")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, frozen, config = torch.get_rng_state(), model.config.frozen, model.config.to_json_string()
    needs(model, tmp_path, freeze=("text",), activation_checkpointing=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert model.config.frozen == frozen and model.config.to_json_string() == config
    assert not model.is_activation_checkpointing


@pytest.mark.slow
def test_needs_follow_the_options(tmp_path):
    model = tiny_model("two-tower", "ForPreTraining").train()
    plain = needs(model, tmp_path)
    assert needs(model, tmp_path, optim="sgd").optimizer == 0
    assert needs(model, tmp_path, optim_args="", optim="adafactor").optimizer < plain.gradients / 10
    assert needs(model, tmp_path, bf16=True).working < plain.working
    frozen = needs(model, tmp_path, freeze=("vision", "text"))
    trained = sum(
        nbytes(value)
        for part in ("text_encoder", "vision_encoder")
        for value in getattr(model.base_model, part).parameters()
    )
    assert plain.gradients - frozen.gradients == trained and plain.weights == frozen.weights
    assert plain.optimizer - frozen.optimizer == 2 * trained
    accumulating = needs(model, tmp_path, gradient_accumulation_steps=2)
    # The gradients of the first batch are there all the time.
    assert accumulating.total == plain.fixed + plain.working
    assert plain.of_rows(6, False).working == 2 * plain.working
    # Each recorded shape keeps the gradients of what trains.
    recorded = step_needs(model, collated_batch(), arguments(tmp_path), 3, ("vision", "text"), recordings=7)
    assert recorded.fixed - frozen.fixed == 7 * frozen.gradients and recorded.working == frozen.working


def test_activation_checkpointing_needs_less(tmp_path):
    model = tiny_model("one-tower-text", "ForPreTraining").train()
    batch = {name: value.repeat(16, *[1] * (value.ndim - 1)) for name, value in collated_batch().items()}
    plain, less = (
        step_needs(model, batch, arguments(tmp_path, activation_checkpointing=on), 48) for on in (False, True)
    )
    assert less.working < 0.8 * plain.working


@pytest.mark.slow
def test_what_is_told_is_what_a_process_takes(monkeypatch):
    """Within a quarter, of the model of Experiment 1 with AdamW."""
    # Freed memory goes back to the system at once.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    measured = in_fresh_process(peak, "ours", "small", True, 8, 0)[1]
    assert 0.8 < measured / told_before("small", True, 8, 0) < 1.25


@pytest.mark.slow
def test_layers_that_are_compiled_need_what_they_did(tmp_path):
    from renaissance.tasks.compilation import compile_layers

    model = tiny_model("two-tower", "ForPreTraining").train()
    before = needs(model, tmp_path)
    compile_layers(model, "eager")
    assert needs(model, tmp_path) == before


def test_memory_left_is_that_of_the_tightest_limit(tmp_path, monkeypatch):
    args, own = arguments(tmp_path), "/job/step"
    assert 0 < machine.memory_left(args) <= psutil.virtual_memory().available
    job = tmp_path / "groups" / "job"
    (job / "step").mkdir(parents=True)
    for folder, most in ((job, "5000000000"), (job / "step", "max")):
        (folder / "memory.max").write_text(most)
        (folder / "memory.current").write_text("4000000000")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 7000000\n")
    assert machine.group_left(job, *machine.CGROUPS[0][2:]) == 1_007_000_000
    assert machine.group_left(job / "step", *machine.CGROUPS[0][2:]) is None
    assert machine.group_left(tmp_path / "none", *machine.CGROUPS[0][2:]) is None
    read = Path.read_text
    monkeypatch.setattr(machine, "CGROUPS", [("0::", tmp_path / "groups", *machine.CGROUPS[0][2:])])
    monkeypatch.setattr(
        Path, "read_text", lambda self, **kw: f"0::{own}\n" if str(self) == "/proc/self/cgroup" else read(self, **kw)
    )
    assert machine.memory_left(args) == 1_007_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert machine.memory_left(args) == 503_500_000


def test_memory_left_heeds_a_limit_on_the_process(tmp_path):
    resource = pytest.importorskip("resource", reason="only Unix limits the memory of a process")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 300_000_000, limits[1]))
        assert 0 < machine.memory_left(arguments(tmp_path)) <= 300_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def pretraining(shapes, tokenizer_folder, tmp_path) -> list[str]:
    argv = pretraining_argv(shapes / "captions", tokenizer_folder, tmp_path / "run")
    return [*argv, "--max_steps", "2", "--save_steps", "1", "--total_batch_size", "24"]


AUTO = ["--per_device_train_batch_size", "auto"]


def room_for(rows: int, argv: list[str], monkeypatch) -> None:
    """Let the machine have as much memory as a batch of so many rows needs, and half a row more."""
    trainer, *_, args = prepare(
        Pretraining, "", [*argv, "--per_device_train_batch_size", "24", "--output_dir", "unused"]
    )
    needed = trainer.step_trial.needs(args).of_rows(1, True)
    size = batch_fitting.with_margin(needed.fixed + (rows + 0.5) * needed.working) - needed.weights
    monkeypatch.setattr(machine, "available_memory", lambda: round(size))


@pytest.mark.slow
def test_the_largest_batch_that_fits_is_found_and_kept(pretraining, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    room_for(7, pretraining, monkeypatch)
    run_task(Pretraining, "", [*pretraining, *AUTO])
    run = tmp_path / "run"
    # 24 = 6 x 4; 7 divides nothing.
    assert "per_device_train_batch_size auto: batches of 6 rows, 4 a step" in caplog.text
    assert yaml.safe_load((run / "run.yaml").read_text())["per_device_train_batch_size"] == 6
    record = json.loads((run / "run.json").read_text())
    assert record["batch_size"] == 24 and record["options"]["per_device_train_batch_size"] == 6
    assert record["samples"] == 48

    # The same command goes on with it, whatever memory there is now; and so does its recipe.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (run / "checkpoint-2").rename(tmp_path / "gone")
    state = json.loads((run / "run_state.json").read_text())
    (run / "run_state.json").write_text(json.dumps(state | {"trained": False}))
    *_, args = prepare(Pretraining, "", [*pretraining, *AUTO])
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (6, 4)
    assert args.resume_from_checkpoint.endswith("checkpoint-1")
    elsewhere = ["--resume_from_checkpoint", str(run / "checkpoint-1"), "--output_dir", str(tmp_path / "other")]
    assert prepare(Pretraining, "", [*pretraining, *AUTO, *elsewhere])[-1].per_device_train_batch_size == 6
    # A run of its own finds its own.
    assert (
        prepare(Pretraining, "", [*pretraining, *AUTO, "--output_dir", str(tmp_path / "new")])[
            -1
        ].per_device_train_batch_size
        == 24
    )


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(pretraining, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    room_for(7, pretraining, monkeypatch)
    run_task(Pretraining, "", [*pretraining, *AUTO, "--max_steps", "1"])
    monkeypatch.setattr(machine, "available_memory", lambda: 10**12)
    run_task(Pretraining, "", [*pretraining, *AUTO, "--max_steps", "1"])
    assert "holds the finished run of 1 steps" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["per_device_train_batch_size"] == 6


@pytest.mark.slow
def test_no_batch_fits(pretraining, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    room_for(1, pretraining, monkeypatch)
    # In image-text matching a row needs another one, whose image is false of it.
    line = refused(run_task, Pretraining, "", [*pretraining, *AUTO])
    assert "per_device_train_batch_size auto: even a batch of 2 needs " in line
    assert "--activation_checkpointing true saves " in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per_device_train_batch_size", "many"], "expected a whole number, or auto, got many"),
        (["--per_device_train_batch_size", "2.5"], "expected a whole number, or auto, got 2.5"),
        (["--per_device_train_batch_size", "-1"], "expected from 1 to 16777216, got -1"),
        ([*AUTO, "--total_batch_size", "0"], "total_batch_size: expected at least 1, got 0"),
        ([*AUTO, "--gradient_accumulation_steps", "2"], "gradient_accumulation_steps: 2 is given"),
        ([*AUTO, "--deepspeed", "zero2"], "not with DeepSpeed or FSDP"),
    ],
)
def test_batches_that_are_refused(options, message, pretraining, refused):
    assert message in refused(run_task, Pretraining, "", [*pretraining, *options])


def test_auto_needs_the_rows_of_a_step(pretraining, refused):
    line = refused(run_task, Pretraining, "", [*pretraining[:-2], *AUTO])
    assert "per_device_train_batch_size auto: needs total_batch_size" in line


@pytest.mark.slow
def test_what_a_run_needs_is_told_where_it_matters(pretraining, tmp_path, monkeypatch, caplog, refused):
    pretraining += ["--per_device_train_batch_size", "24"]
    trainer, *_, args = prepare(Pretraining, "", pretraining)
    found = trainer.step_trial.needs(args)
    assert "memory" not in caplog.text
    # Enough, but not plenty.
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * found.total)
    prepare(Pretraining, "", pretraining)
    assert "memory: a batch of 24 rows needs about" in caplog.text and "may not suffice" not in caplog.text
    monkeypatch.setattr(machine, "available_memory", lambda: found.total - found.weights)
    prepare(Pretraining, "", pretraining)
    assert "memory may not suffice: a batch of 24 rows needs about" in caplog.text
    assert "--per_device_train_batch_size 12 saves" in caplog.text and "cuda_graphs" not in caplog.text
    args.cuda_graphs, trainer.processing_class.text_buckets = True, [8, 16]
    saved = batch_fitting.remedies(trainer.step_trial, args)
    assert ("leaving out --cuda_graphs", 2 * found.gradients) in [(each.words, each.saves) for each in saved]
    monkeypatch.setattr(machine, "available_memory", lambda: found.gradients)
    monkeypatch.setattr(machine, "free_swap", lambda: 0)
    line = refused(run_task, Pretraining, "", pretraining)
    assert (
        "out of memory before the first step: the model needs without any batch" in line and "What helps: --" in line
    )


def of_numpy() -> None:
    np.zeros(2**58)


def of_torch() -> None:
    torch.empty(2**58)


def raises(error: BaseException):
    def function() -> None:
        raise error

    return function


KINDS = {
    "numpy": of_numpy,
    "torch on a CPU": of_torch,
    "Python": lambda: b" " * 2**62,
    "CUDA": raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")),
    "a CUDA library": raises(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    ),
    "a CUDA call": raises(
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
    ),
    "Apple": raises(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")),
    "C++": raises(RuntimeError("std::bad_alloc")),
    "the system": raises(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    "a loader that was killed": raises(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
    "shared memory": raises(RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_errors_that_say_so(kind):
    with pytest.raises((MemoryError, OSError, RuntimeError)) as error:
        KINDS[kind]()
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "),
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("out of memory"),
        KeyError("out of memory"),
    ],
    ids=str,
)
def test_errors_that_say_something_else(error):
    assert not is_out_of_memory(error)


class Hungry(SNLIVE):
    """Allocates more than there is for the fourth batch of training, which is made before the third step."""

    kind_of_error = staticmethod(of_torch)

    def collator(self, *args):
        plain, batches = super().collator(*args), []

        def collate(rows: list[dict]) -> dict:
            batches.append(rows)
            if len(batches) == 4:
                self.kind_of_error()
            return plain(rows)

        return collate


@pytest.mark.parametrize(
    "kind", ["torch on a CPU", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("numpy", "CUDA"))]
)
def test_a_run_out_of_memory_ends_in_one_line_and_goes_on(kind, finished, tmp_path, capsys, monkeypatch):
    argv = [*finished[1], "--output_dir", str(tmp_path), "--save_steps", "1", "--max_steps", "4"]
    monkeypatch.setattr(Hungry, "kind_of_error", staticmethod(KINDS[kind]))
    with pytest.raises(SystemExit) as stopped:
        run_task(Hungry, "", argv)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "error: " in line]
    assert stopped.value.code == 1 and len(lines) == 1 and "Traceback" not in said
    assert "out of memory (" in lines[0] and "at step 3 with 8 rows a batch" in lines[0]
    assert f"{tmp_path / 'checkpoint-2'} is whole, and the same command goes on from there" in lines[0]
    assert "--activation_checkpointing true saves" in lines[0] and "--freeze vision saves" in lines[0]
    assert fault_of(tmp_path / "checkpoint-2") is None
    run_task(SNLIVE, "", argv)
    assert (tmp_path / "checkpoint-4").is_dir()


class HungryInEvaluation(SNLIVE):
    def collect(self, logits, inputs):
        of_torch()


def test_an_evaluation_out_of_memory_says_what_helps(finished, tmp_path, capsys):
    argv = [*finished[1], "--output_dir", str(tmp_path), "--max_steps", "1", "--do_eval", "--save_strategy", "no"]
    with pytest.raises(SystemExit) as stopped:
        run_task(HungryInEvaluation, "", argv)
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1 and "in evaluation. The trained model is whole in" in line
    assert "--per_device_eval_batch_size below 8" in line
