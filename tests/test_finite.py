"""NaN and infinity: steps that are left out, runs that stop, and weights and features that are refused."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from broken_runs import same_weights
from conftest import TWO_TOWER, tiny_bert
from planted import planted_run
from safetensors.torch import load_file, save_file
from test_step import Refuse
from transformers import AutoModel, BertModel, TrainerCallback

from renaissance.tasks.bad_steps import Counts
from renaissance.tasks.checkpoints import fault_of, newest_first, renew_manifest
from renaissance.tasks.feature_cache import refuse_not_finite
from renaissance.tasks.finite import fault_in_files
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.run_state import RunState
from renaissance.tasks.runner import run_task
from renaissance.tasks.saving import RunStopped
from renaissance.tasks.snli_ve import SNLIVE


SCRIPT = Path(__file__).parent / "planted.py"
NAN, INF = float("nan"), float("inf")

#: With the options of `finished`, sample 14 is in the fourth step, the last of its epoch.
STEP = 4


def in_first_epoch(row: dict) -> bool:
    return row["sample_id"] == 14 and row["epoch"] == 0 and row["training"]


class Snapshots(TrainerCallback):
    """Keeps weights and the optimizer's state before and after each step."""

    def __init__(self):
        self.before, self.after = {}, {}

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.before[state.global_step + 1] = snapshot(model, optimizer)

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.after[state.global_step + 1] = snapshot(model, optimizer)

    def changed(self) -> list[int]:
        """The steps that changed a weight or the optimizer's state."""
        return [step for step in self.before if not same(self.before[step], self.after[step])]


def snapshot(model, optimizer) -> tuple:
    return copy.deepcopy((dict(model.state_dict()), optimizer.state_dict()["state"]))


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return one == other


def stopped(argv: list[str], capsys, task=SNLIVE) -> tuple[int, str]:
    """Run; return the exit code and the last line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_task(task, "", argv)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return end.value.code, errors.splitlines()[-1]


def strict_json(path: Path) -> dict:
    """What a file holds, which must be JSON without the words NaN and Infinity."""

    def refuse(word: str):
        raise AssertionError(f"{path} has {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (["--optim", "adamw_torch_fused", "--gradient_accumulation_steps", "2"], NAN),
        (["--optim", "sgd", "--optim_args", "momentum=0.9", "--weight_decay", "0.1", "--max_grad_norm", "0"], INF),
        *(
            pytest.param(options, value, marks=pytest.mark.slow)
            for options in (
                ["--optim", "adamw_torch_fused", "--weight_decay", "0.1", "--max_grad_norm", "0"],
                ["--optim", "adamw_torch", "--gradient_accumulation_steps", "2"],
                ["--optim", "adamw_torch_fused", "--adam_coupled_decay", "--weight_decay", "0.1", "--freeze", "text"],
                ["--optim", "adamw_torch", "--adam_coupled_decay", "--weight_decay", "0.1"],
                ["--optim", "adafactor"],
                ["--optim", "rmsprop"],
                ["--optim", "adagrad"],
                ["--bf16"],
                ["--lr_scheduler_type", "reduce_lr_on_plateau", "--do_eval", "--eval_strategy", "steps", "--eval_steps", "2"],
            )
            for value in (NAN, INF)
        ),
    ],
)  # fmt: skip
def test_a_step_that_is_not_finite_is_not_applied(finished, tmp_path, caplog, options, value):
    argv = [*finished[1], *options, "--save_strategy", "no", "--output_dir", str(tmp_path), "--logging_steps", "2"]
    argv += ["--do_eval", "false"] if "--do_eval" not in options else []
    if "--gradient_accumulation_steps" in options:
        argv += ["--per_device_train_batch_size", "4"]
    snapshots = Snapshots()
    trainer = planted_run(argv, in_first_epoch, value, snapshots)
    assert snapshots.changed() == [1, 2, 3, 5, 6]
    assert (trainer.counts.skipped, trainer.counts.in_a_row, trainer.counts.last_good) == (1, 0, 6)
    told = next(line for line in caplog.messages if "not applied (1 in a row" in line)
    assert told.startswith(f"step {STEP}: loss and gradient norm not finite (loss nan)")
    logs = strict_json(tmp_path / "trainer_state.json")["log_history"]
    assert [entry.get("skipped_steps") for entry in logs if "loss" in entry] == [None, 1, 1]
    assert all(0.1 < entry["loss"] < 10 for entry in logs if "loss" in entry)
    assert 0.1 < strict_json(tmp_path / "train_results.json")["train_loss"] < 10
    assert strict_json(tmp_path / "run.json")["skipped_steps"] == 1


@pytest.mark.slow
def test_losses_are_means_over_the_steps_that_were_applied(finished, tmp_path, capsys):
    """A step that is left out changes neither the mean in the log nor that of the run; the summary says how many there were."""
    options = ["--save_strategy", "no", "--learning_rate", "1e-12", "--logging_steps"]
    means = {}
    for steps in ("1", "6"):
        argv = [*finished[1], *options, steps, "--output_dir", str(tmp_path / steps)]
        trainer = planted_run(argv, in_first_epoch)
        means[steps] = [entry.get("loss") for entry in trainer.state.log_history[:-1]]
        total = strict_json(tmp_path / steps / "train_results.json")["train_loss"]
    assert (
        "6 steps of 8, 1 of them not applied (not finite)" not in capsys.readouterr().out
    )  # the summary is of `run_task`
    known = [loss for loss in means["1"] if loss is not None]
    assert len(known) == 5 and means["1"][STEP - 1] is None
    assert means["6"] == [pytest.approx(sum(known) / 5, rel=1e-5)] == [pytest.approx(total, rel=1e-5)]


@pytest.mark.parametrize("optim", ["adamw_torch_fused", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_run_resumed_after_a_skipped_step_ends_the_same(finished, tmp_path, optim):
    """From a checkpoint right after it, in which the row of bad steps goes on; counts go on too."""
    argv = [*finished[1], "--optim", optim, "--output_dir", str(tmp_path / "run")]
    planted_run(argv, in_first_epoch)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for name in ("run_state.json", "model.safetensors"):
        (tmp_path / "again" / name).unlink()
    shutil.rmtree(tmp_path / "again" / "checkpoint-6")
    state = strict_json(tmp_path / "again" / "checkpoint-4" / "trainer_state.json")["stateful_callbacks"]["BadSteps"]
    assert state["attributes"] == {"skipped": 1, "in_a_row": 1, "last_good": 3}
    trainer = planted_run([*argv, "--output_dir", str(tmp_path / "again")], in_first_epoch)
    assert same_weights(tmp_path / "run", tmp_path / "again")
    assert trainer.counts == Counts(1, 0, 6)
    losses = [strict_json(tmp_path / name / "train_results.json")["train_loss"] for name in ("run", "again")]
    assert losses[0] == pytest.approx(losses[1])


def test_a_run_that_diverges_stops_and_goes_on_from_its_last_good_checkpoint(finished, tmp_path, capsys):
    """Not from a later one, whose weights are finite and lead nowhere, though only one is to be kept."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "checkpoint-2")
    argv = [
        *finished[1],
        "--output_dir",
        str(folder),
        "--save_total_limit",
        "1",
        "--max_steps",
        "14",
        "--override_run",
    ]
    code, line = stopped([*argv, "--learning_rate", "1e7", "--max_grad_norm", "0"], capsys)
    assert code == 1
    assert "loss and gradient norm not finite in 3 steps in a row (max_bad_steps 3), none of which was applied" in line
    assert "with loss nan, learning rate" in line and "the weights are the reason" in line and "sample ids " in line
    assert len(line.partition("sample ids ")[2].partition(";")[0].split(", ")) == 8
    assert f"the last good checkpoint is {folder / 'checkpoint-6'}, from which the same command goes on" in line
    assert not RunState.find(folder).trained and RunRecord.read(folder).skipped_steps == 3
    assert newest_first(folder)[0].name == "checkpoint-6" and (folder / "diverged-checkpoint-8").is_dir()
    run_task(SNLIVE, "", [*argv, "--learning_rate", "1e-3"])
    record, state = RunRecord.read(folder), strict_json(folder / "trainer_state.json")
    assert record.resumed_at[-1] == 6 and record.steps == 14 and record.skipped_steps == 0
    assert [path.name for path in newest_first(folder)] == ["checkpoint-14"]
    optimizer = torch.load(folder / "checkpoint-14" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {group["initial_lr"] for group in optimizer} == {1e-3} and RunState.find(folder).trained
    assert fault_in_files(folder) is None and state["global_step"] == 14


@pytest.mark.slow
def test_a_run_that_diverges_before_its_first_checkpoint(finished, tmp_path, capsys):
    argv = [
        *finished[1],
        "--output_dir",
        str(tmp_path),
        "--max_bad_steps",
        "1",
        "--save_steps",
        "1",
        "--max_grad_norm",
        "0",
    ]
    code, line = stopped([*argv, "--learning_rate", "1e7"], capsys)
    assert code == 1 and "not finite in a step (max_bad_steps 1)" in line and "there is no good checkpoint" in line
    assert not newest_first(tmp_path) and not (tmp_path / "model.safetensors").exists()
    run_task(SNLIVE, "", argv)
    assert RunState.find(tmp_path).trained and fault_in_files(tmp_path) is None


@pytest.mark.slow
def test_data_that_is_not_finite_stops_a_run_and_keeps_its_checkpoints(finished, tmp_path, caplog):
    """The weights are fine: the newest checkpoint is the last good one."""
    argv = [*finished[1], "--max_bad_steps", "2", "--output_dir", str(tmp_path), "--save_total_limit", "1"]
    with pytest.raises(RunStopped, match="not finite in 2 steps in a row") as stop:
        planted_run([*argv, "--max_steps", "9"], lambda row: row["epoch"] == 1)
    message = str(stop.value)
    assert "the last is step 6, with loss nan" in message and "reason" not in message
    # The one before it is kept too, for no step has shown that its weights are good.
    assert f"the last good checkpoint is {tmp_path / 'checkpoint-4'}" in message and stop.value.code == 1
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-4", "checkpoint-2"]


@pytest.mark.parametrize(("optim", "waits"), [("adamw_torch_fused", False), ("sgd", True)])
def test_nobody_waits_for_the_device(finished, tmp_path, optim, waits):
    """From the loss to the step of the optimizer, and when the host learns of the step before; but SGD cannot leave out a step."""
    argv = [
        *finished[1],
        "--optim",
        optim,
        "--save_strategy",
        "no",
        "--logging_steps",
        "50",
        "--output_dir",
        str(tmp_path),
    ]
    trainer = prepare(SNLIVE, "", [*argv, "--max_steps", "5"])[0]
    looked = dict.fromkeys(("watched", "_get_grad_norm", "learn"), 0)

    def without_waiting(name):
        method = getattr(trainer, name)

        def call(*args, **kwargs):
            looked[name] += 1
            with Refuse():
                return method(*args, **kwargs)

        return call

    for name in looked:
        setattr(trainer, name, without_waiting(name))

    class Optimizing(TrainerCallback):
        def on_pre_optimizer_step(self, *args, **kwargs):
            self.mode = Refuse()
            self.mode.__enter__()

        def on_optimizer_step(self, *args, **kwargs):
            self.mode.__exit__(None, None, None)

    trainer.add_callback(Optimizing())
    if waits:
        with pytest.raises(AssertionError, match=r"_local_scalar_dense|is_nonzero"):
            trainer.train()
    else:
        trainer.train()
        assert looked["watched"] == looked["_get_grad_norm"] == 5 and looked["learn"] > 5


@pytest.mark.parametrize("value", [NAN, pytest.param(INF, marks=pytest.mark.slow)])
def test_weights_that_are_not_finite_are_not_saved(finished, tmp_path, value):
    """Whether they are parameters or what else the file has; the run stops."""

    class Spoil(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                next(model.parameters()).data[0, 0] = value

    argv = [*finished[1], "--output_dir", str(tmp_path)]
    with pytest.raises(RunStopped, match="parameters not finite after step 4") as stop:
        planted_run(argv, lambda row: False, NAN, Spoil())
    assert f"the last good checkpoint is {tmp_path / 'checkpoint-2'}" in str(stop.value)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-2"]
    assert not (tmp_path / "model.safetensors").exists() and not RunState.find(tmp_path).trained


@pytest.mark.slow
def test_parameters_that_are_not_finite_stop_a_run_without_checkpoints(finished, tmp_path):
    """A row of a table of embeddings that no text of the run has, so that losses are finite."""

    class Spoil(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.get_input_embeddings().weight.data[3] = INF

    argv = [*finished[1], "--save_strategy", "no", "--output_dir", str(tmp_path)]
    with pytest.raises(RunStopped, match="parameters not finite in 3 steps in a row"):
        planted_run(argv, lambda row: False, NAN, Spoil())


def spoil(file: Path, value: float = NAN, name: str | None = None) -> str:
    """Put a value into a tensor of a file; return the tensor's name."""
    tensors = load_file(file)
    name = name or max(key for key in tensors if tensors[key].is_floating_point())
    tensors[name].view(-1)[-1] = value
    save_file(tensors, file, {"format": "pt"})
    return name


@pytest.mark.parametrize("value", [NAN, pytest.param(INF, marks=pytest.mark.slow)])
def test_a_starting_checkpoint_that_is_not_finite_is_refused(finished, tmp_path, capsys, value):
    folder = tmp_path / "start"
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    name = spoil(folder / "model.safetensors", value)
    data = finished[1].index("--dataset")
    argv = [
        word for number, word in enumerate(finished[1][data:]) if "tokenizer" not in finished[1][data:][number - 1]
    ]
    argv = [word for word in argv if word != "--tokenizer"]
    for part in ([], ["--do_train", "false", "--do_eval"]):
        out = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "run"), *part]
        code, line = stopped([*argv, *out], capsys)
        assert (
            code == 2
            and f"model_name_or_path {folder}: its file model.safetensors has values" in line
            and name in line
        )


@pytest.mark.parametrize("form", [pytest.param("safetensors", marks=pytest.mark.slow), "bin"])
def test_an_encoder_that_is_not_finite_is_refused(finished, tmp_path, capsys, form):
    """Also in the older format; a weight that the model does not read may be anything."""
    encoder = tmp_path / "encoder"
    BertModel(tiny_bert(vocab_size=200)).save_pretrained(encoder)
    argv = [*finished[1], "--text_encoder", str(encoder), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    first = argv.index("--random_init_text")
    argv = [*argv[:first], *argv[first + 3 :]]
    if form == "bin":
        AutoModel.from_pretrained(encoder)
        tensors = load_file(encoder / "model.safetensors")
        (encoder / "model.safetensors").unlink()
        tensors["encoder.layer.0.attention.self.key.weight"][0, 0] = NAN
        torch.save(tensors, encoder / "pytorch_model.bin")
    else:
        spoil(encoder / "model.safetensors", NAN, "encoder.layer.0.attention.self.key.weight")
    code, line = stopped(argv, capsys)
    file = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
    assert code == 2 and f"text_encoder {encoder}: its file {file} has" in line
    assert "the first in encoder.layer.0.attention.self.key.weight" in line


@pytest.mark.parametrize("file", [pytest.param("model.safetensors", marks=pytest.mark.slow), "optimizer.pt"])
def test_a_checkpoint_that_is_not_finite_is_passed_over(finished, tmp_path, capsys, caplog, file):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for name in ("run_state.json", "model.safetensors"):
        (folder / name).unlink()

    def spoil_step(step: int) -> str:
        path = folder / f"checkpoint-{step}" / file
        if file == "optimizer.pt":
            state = torch.load(path, weights_only=True)
            state["state"][1]["exp_avg"].view(-1)[0] = NAN
            torch.save(state, path)
            renew_manifest(path.parent)
            return "state.1.exp_avg"
        name = spoil(path)
        renew_manifest(path.parent)
        return name

    name = spoil_step(6)
    assert (
        fault_of(folder / "checkpoint-6")
        == f"its file {file} has values that are not finite (NaN or inf), the first in {name}"
    )
    argv = [*finished[1], "--output_dir", str(folder)]
    code, line = stopped([*argv, "--resume_from_checkpoint", str(folder / "checkpoint-6")], capsys)
    assert code == 2 and f"its file {file} has values that are not finite" in line
    if file == "model.safetensors":
        run_task(SNLIVE, "", argv)
        assert any("checkpoint-6 is passed over: its file" in message for message in caplog.messages)
        assert same_weights(folder, finished[0])


def test_cached_features_that_are_not_finite_are_refused(tmp_path):
    features = torch.ones(3, 2, 4, dtype=torch.float16)
    path = tmp_path / "features-0.safetensors"
    save_file({"features": features, "hashes": torch.arange(3).to(torch.uint64)}, path)
    refuse_not_finite(tmp_path)
    features[1, 1, 3] = NAN
    save_file({"features": features, "hashes": torch.arange(3).to(torch.uint64)}, path)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"features-0.safetensors has values .* the first in features, image 1; delete"
        ):
            refuse_not_finite(tmp_path)


@pytest.mark.slow
def test_an_evaluation_that_is_not_finite_is_told(finished, tmp_path, caplog):
    """Files are JSON, the card has no nan, and no checkpoint is the best one by it."""
    argv = [*finished[1], "--do_eval", "--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end"]
    argv += ["--metric_for_best_model", "loss", "--greater_is_better", "false", "--output_dir", str(tmp_path)]
    trainer = planted_run(argv, lambda row: not row["training"])
    assert strict_json(tmp_path / "eval_results.json")["eval_loss"] is None
    assert strict_json(tmp_path / "trainer_state.json")["best_metric"] is None
    assert any("eval_loss: nan is not a finite number" in line for line in caplog.messages)
    card = (tmp_path / "README.md").read_text()
    assert "| eval_loss | not finite |" in card and "nan" not in card.lower().replace("finance", "")
    assert trainer.state.best_model_checkpoint is None and strict_json(tmp_path / "run.json")["skipped_steps"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_bad_steps", "0"], "max_bad_steps: expected at least 1, got 0"),
        (["--optim", "lomo"], "optim lomo: it changes weights while gradients are made"),
        (["--optim", "galore_adamw_layerwise", "--optim_target_modules", "all-linear"], "optim galore_adamw_layerwise: it changes"),
    ],
)  # fmt: skip
def test_options_that_are_refused(finished, tmp_path, capsys, options, message):
    code, line = stopped([*finished[1], *options, "--output_dir", str(tmp_path)], capsys)
    assert code == 2 and message in line


@pytest.mark.slow
def test_losses_by_objective_are_told(shapes, options, tmp_path, capsys):
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--max_steps", "9"]
    code, line = stopped([*argv, "--learning_rate", "1e7", "--max_grad_norm", "0"], capsys, Pretraining)
    assert code == 1 and re.search(
        r"the last is step \d, with mlm loss nan, itm loss nan, learning rate .*, sample ids \d", line
    )
    assert RunRecord.read(tmp_path / "run").skipped_steps == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixels", "loss"])
def test_two_processes_leave_out_the_same_steps(finished, tmp_path, kind):
    """If one sample of one of them is not finite; or one's loss is, though no gradient."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        str(SCRIPT),
        kind,
    ]
    argv = [*finished[1], "--output_dir", str(tmp_path), "--per_device_train_batch_size", "4", "--save_strategy", "no"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *argv], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [strict_json(tmp_path / f"found-{rank}.json") for rank in range(2)]
    assert found[0] == found[1] and found[0]["skipped"] == 1 and found[0]["finite"]


@pytest.mark.slow
def test_two_processes_stop_together(finished, tmp_path):
    argv = [*finished[1], "--output_dir", str(tmp_path), "--per_device_train_batch_size", "4", "--max_grad_norm", "0"]
    script = Path(__file__).parents[1] / "run_scripts" / "run_snli_ve.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *argv, "--learning_rate", "1e7", "--max_steps", "9"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "error: training stopped at step" in line]
    assert done.returncode == 1 and len(told) == 1, done.stderr[-3000:]
    assert len(told[0].partition("sample ids ")[2].partition(";")[0].split(", ")) == 8
