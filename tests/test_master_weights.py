"""Weights in bfloat16, of which the optimizer trains float32 copies: nothing that float32 weights would learn, or keep, is lost."""

import copy
import shutil

import pytest
import torch
from broken_runs import same_weights
from conftest import tiny_model, training_batch
from planted import planted_run
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from renaissance.modeling.architectures import HEADS
from renaissance.modeling.layers import ScoreLinear
from renaissance.tasks.master_weights import MasterWeights
from renaissance.tasks.precision_trainer import clip, total_norm
from renaissance.tasks.preparation import prepare
from renaissance.tasks.snli_ve import SNLIVE


def nothing_bad(row: dict) -> bool:
    return False


@pytest.mark.parametrize("kind", HEADS)
def test_a_step_moves_the_copies_and_the_weights_follow(architecture, kind):
    """Of every head: forward and backward run, every copy that trains moves, and each weight is its copy, rounded."""
    model = tiny_model(architecture, kind).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    masters = MasterWeights(model)
    trained = [masters.of(value) for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6)
    masters.attach(optimizer)
    model(**training_batch(kind)).loss.backward()
    masters.take_gradients()
    assert all(each.grad.dtype == torch.float32 for each in trained)
    gradients = {
        name: None if (grad := masters.of(value).grad) is None else grad.clone()
        for name, value in model.named_parameters()
    }
    optimizer.step()
    for name, value in model.named_parameters():
        master = masters.of(value)
        expected = before[name] if gradients[name] is None else before[name] - 1e-6 * gradients[name]
        torch.testing.assert_close(master.detach(), expected, rtol=0, atol=1e-9)
        assert torch.equal(value.detach(), master.detach().to(value.dtype)), name
        assert value.grad is None or value is master


def test_what_scores_and_counts_stays_in_single_precision():
    """Last layers, batch norms and the temperature; the vocabulary, tied or not, does not."""
    model = tiny_model(
        "two-tower", "ForPreTraining", objectives=["mlm", "itm", "contrastive"], tie_word_embeddings=False
    )
    model.norm = nn.BatchNorm2d(3)
    MasterWeights(model)
    kept = {name for name, value in model.state_dict().items() if value.dtype == torch.float32}
    scoring = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, ScoreLinear)
        for part in ("weight", "bias")
    }
    running = {f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert kept == scoring - {"mlm_head.decoder.weight", "mlm_head.decoder.bias"} | running | {
        "contrastive_head.log_scale"
    }


def test_whole_weights_come_and_go_bit_for_bit(architecture):
    """Those that are frozen too, tied ones, and buffers; what is loaded meanwhile becomes the copies."""
    model = tiny_model(architecture, "ForPreTraining", frozen=["text"])
    original = copy.deepcopy(model.state_dict())
    masters = MasterWeights(model)
    places = [value.data_ptr() for value in model.parameters()]
    with masters.whole():
        assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())
        model.load_state_dict(
            {name: value * 1.001 if value.is_floating_point() else value for name, value in original.items()}
        )
    assert places == [value.data_ptr() for value in model.parameters()], "graphs of a GPU keep the addresses"
    for name, value in model.named_parameters():
        assert torch.equal(masters.of(value).detach(), original[name] * 1.001), name
        assert torch.equal(value.detach(), (original[name] * 1.001).to(value.dtype)), name


def test_weights_that_are_rounded_already_are_trained_in_float32():
    """Encoders may come in half precision."""
    model = tiny_model("two-tower", "ForMaskedLM").half()
    masters = MasterWeights(model)
    assert {masters.of(value).dtype for value in model.parameters()} == {torch.float32}


def test_gradients_of_batches_add_up_in_float32():
    weight = nn.Linear(1, 3, bias=False)
    masters = MasterWeights(weight)
    total, (parameter,) = torch.zeros(3, 1), weight.parameters()
    for value in (1.0, 2.0**-9, 2.0**-10, 3 * 2.0**-11):
        parameter.grad = torch.full((3, 1), value, dtype=torch.bfloat16)
        total += value
        masters.take_gradients()
        assert parameter.grad is None
    assert torch.equal(masters.of(parameter).grad, total) and not torch.equal(total, total.bfloat16().float())
    masters.give_gradients()
    assert masters.of(parameter).grad is None and torch.equal(parameter.grad, total.bfloat16())


def test_a_change_below_the_precision_of_the_weights_is_kept():
    """A hundred steps of a thousandth of what bfloat16 shows are a tenth of it."""
    layer = nn.Linear(2, 2, bias=False)
    nn.init.ones_(layer.weight)
    masters = MasterWeights(layer)
    optimizer = torch.optim.SGD([masters.of(layer.weight)], lr=1.0)
    masters.attach(optimizer)
    for _ in range(1000):
        layer.weight.grad = torch.full((2, 2), 1e-4, dtype=torch.bfloat16)
        masters.take_gradients()
        optimizer.step()
    torch.testing.assert_close(masters.of(layer.weight).detach(), torch.full((2, 2), 0.9), rtol=0, atol=1e-3)
    assert torch.equal(layer.weight.detach(), masters.of(layer.weight).detach().bfloat16())


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,), (torch.bfloat16, torch.float32), (torch.float64,), (torch.float16,)]
)
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping(dtypes, limit):
    """As torch's own, in single precision or better whatever the gradients are in; squares don't overflow."""
    generator = torch.Generator().manual_seed(0)
    gradients = [
        torch.randn(5, 7, generator=generator).mul(100).to(dtypes[number % len(dtypes)]) for number in range(4)
    ]
    exact = torch.cat([each.double().flatten() for each in gradients])
    norm = clip(gradients, limit)
    assert norm.dtype == torch.promote_types(dtypes[0], torch.float32)
    assert float(norm) == pytest.approx(float(exact.norm()), rel=1e-6)
    found = torch.cat([each.double().flatten() for each in gradients])
    torch.testing.assert_close(found, exact * min(1.0, limit / float(exact.norm())), rtol=1e-2, atol=1e-6)
    assert float(total_norm([torch.full((9,), 6e4, dtype=torch.float16)])) == pytest.approx(18e4, rel=1e-3)
    assert float(total_norm([])) == float(clip([], 1.0)) == 0


class Copies(TrainerCallback):
    """Keeps what the optimizer trains, and its state, before and after each step."""

    def __init__(self):
        self.before, self.after = {}, {}

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.before[state.global_step + 1] = (
            copy.deepcopy(optimizer.optimizer.state_dict()["state"]),
            weights_of(optimizer),
        )

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.after[state.global_step + 1] = (
            copy.deepcopy(optimizer.optimizer.state_dict()["state"]),
            weights_of(optimizer),
        )


def weights_of(optimizer) -> list[torch.Tensor]:
    return [value.detach().clone() for group in optimizer.param_groups for value in group["params"]]


@pytest.mark.parametrize(
    "extra",
    [
        ["--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "4", "--freeze", "vision"],
        pytest.param(["--optim", "sgd", "--max_grad_norm", "0"], marks=pytest.mark.slow),
        pytest.param(["--optim", "adamw_torch", "--weight_decay", "0.1", "--layer_decay", "0.9"], marks=pytest.mark.slow),
        pytest.param(["--gradient_checkpointing", "true"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_that_is_resumed_ends_bit_for_bit_the_same(finished, tmp_path, extra):
    """With a step that is not finite, which changes neither copies nor the optimizer's state; weights are saved in float32."""

    def is_bad(row: dict) -> bool:
        return row["sample_id"] == 14 and row["epoch"] == 0 and row["training"]

    argv = [*finished[1], "--bf16_weights", *extra]
    copies = Copies()
    trainer = planted_run([*argv, "--output_dir", str(tmp_path / "run")], is_bad, float("nan"), copies)
    assert trainer.args.precision == "bf16_weights" and trainer.counts.skipped == 1
    assert {value.dtype for value in copies.after[6][1]} == {torch.float32}
    unchanged = [
        step for step, (_, weights) in copies.before.items() if all(map(torch.equal, weights, copies.after[step][1]))
    ]
    assert len(unchanged) == 1 and repr(copies.before[unchanged[0]][0]) == repr(copies.after[unchanged[0]][0])
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    trained = [value for value in saved.values() if not torch.equal(value, value.bfloat16().float())]
    assert len(trained) > len(saved) / 2
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for name in ("run_state.json", "model.safetensors"):
        (tmp_path / "again" / name).unlink()
    shutil.rmtree(tmp_path / "again" / "checkpoint-6")
    planted_run([*argv, "--output_dir", str(tmp_path / "again")], is_bad)
    assert same_weights(tmp_path / "run", tmp_path / "again")


def test_frozen_weights_are_saved_as_they_came(finished, tmp_path):
    """Not rounded, though the model computes with rounded ones."""
    start, options = finished
    argv = [
        "--model_name_or_path",
        str(start),
        "--dataset",
        options[options.index("--dataset") + 1],
        "--use_cpu",
        "--do_train",
    ]
    argv += ["--freeze", "vision", "--max_steps", "1", "--per_device_train_batch_size", "8", "--bf16_weights"]
    trainer = planted_run([*argv, "--output_dir", str(tmp_path)], nothing_bad)
    before, after = load_file(start / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    frozen = [name for name in before if name.startswith("model.vision_encoder.")]
    assert len(frozen) > 5 and all(torch.equal(before[name], after[name]) for name in frozen)
    assert trainer.model.model.vision_encoder.dtype == torch.bfloat16
    assert any(not torch.equal(value, value.bfloat16().float()) for value in (before[name] for name in frozen))


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_whole(finished, tmp_path):
    argv = [
        *finished[1],
        "--bf16_weights",
        "--load_best_model_at_end",
        "true",
        "--do_eval",
        "--eval_strategy",
        "steps",
    ]
    argv += ["--eval_steps", "2", "--learning_rate", "0.1", "--output_dir", str(tmp_path)]
    trainer = planted_run(argv, nothing_bad)
    assert same_weights(
        tmp_path, trainer.state.best_model_checkpoint and tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    )
    masters = {name: trainer.masters.of(value) for name, value in trainer.model.named_parameters()}
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(masters[name].detach(), saved[name]) for name in masters if name in saved)


def test_an_evaluation_computes_as_the_training_did(finished, tmp_path):
    """The model that a run has trained and the one that is read again give the same metrics."""
    argv = [*finished[1], "--bf16_weights", "--do_eval", "--output_dir", str(tmp_path), "--max_steps", "1"]
    trainer = planted_run(argv, nothing_bad)
    metrics = [each for each in trainer.state.log_history if "eval_loss" in each][-1]
    again = [
        "--model_name_or_path",
        str(tmp_path),
        "--do_eval",
        "--bf16_weights",
        "--use_cpu",
        "--output_dir",
        str(tmp_path / "again"),
    ]
    again += ["--dataset", finished[1][finished[1].index("--dataset") + 1]]
    evaluated = prepare(SNLIVE, "", again)[0]
    assert evaluated.model.dtype == torch.bfloat16
    assert evaluated.evaluate()["eval_loss"] == metrics["eval_loss"]
