"""
Recorded towers: which calls are replayed, what that changes, and what cannot be recorded. There is no GPU here: `recorder` stands in
for the one function of torch that records, and keeps inputs, outputs and gradients in memory that each replay writes over, as it does.
"""

import contextlib
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_BERT, TINY_VIT, TWO_TOWER
from torch.utils._pytree import tree_flatten, tree_unflatten

from renaissance.tasks.cuda_graphs import RecordedTower, buckets_of, check_graphs, record_towers, same_buffers
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


def recorded(module, sample, allow_unused_input, pool):
    """What `torch.cuda.make_graphed_callables` does, computed anew in each replay."""
    # As torch's function, whose backward pass would else be cast too.
    assert not torch.is_autocast_enabled("cpu")
    parameters, plain, state = tuple(module.parameters()), module.forward, {}
    trained = [each for each in parameters if each.requires_grad]
    leaves, form = tree_flatten(plain(*sample))
    outputs, gradients = [each.detach().clone() for each in leaves], [torch.zeros_like(each) for each in trained]
    pool.append(tuple(tuple(each.shape) for each in sample))

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            for kept, given in zip(sample, inputs, strict=False):
                assert kept.shape == given.shape and kept.dtype == given.dtype
                kept.copy_(given)
            with torch.enable_grad():
                state["leaves"] = tree_flatten(plain(*sample))[0]
            for kept, made in zip(outputs, state["leaves"], strict=True):
                kept.copy_(made.detach())
            return tuple(each.detach() for each in outputs)

        @staticmethod
        def backward(ctx, *given):
            asked = [(leaf, grad) for leaf, grad in zip(state["leaves"], given, strict=True) if leaf.requires_grad]
            from_leaves, from_given = zip(*asked, strict=True)
            for kept, made in zip(
                gradients, torch.autograd.grad(from_leaves, trained, from_given, allow_unused=True), strict=True
            ):
                kept.copy_(0 if made is None else made)
            own = iter(gradients)
            return (
                *[None] * len(sample),
                *(next(own).detach() if each.requires_grad else None for each in parameters),
            )

    def replay(*inputs):
        return tree_unflatten(Replay.apply(*inputs, *parameters), form)

    return replay


@pytest.fixture
def recorder(monkeypatch) -> list:
    """Puts `recorded` in the place of torch's function; returns the shapes of what was recorded, of all towers."""
    shapes: list = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: shapes)
    return shapes


BUCKETS = [8, 12, 16]
TWO_LAYERS = TINY_VIT.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')


def trained(
    task, argv: list[str], folder: Path, records: bool
) -> tuple[list, dict[str, torch.Tensor], dict[str, RecordedTower]]:
    """Train with or without recordings; return the losses, the weights, and the towers."""
    trainer, *_ = prepare(task, "", [*argv, "--output_dir", str(folder)])
    towers = {}
    if records:
        trainer.processing_class.text_buckets = BUCKETS
        towers = record_towers(trainer, BUCKETS)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer.model.state_dict(), towers


@pytest.fixture
def argv(options) -> list[str]:
    # Dropout stays on: recording must leave the random numbers of the run as they are.
    still = ["--optim", "sgd", "--learning_rate", "0.1", "--logging_steps", "1", "--max_steps", "6", "--bf16", "false"]
    return [*TWO_TOWER, *options, *still, "--do_train", "--max_length", "16"]


def pretraining(shapes: Path) -> list[str]:
    return [
        "--train_datasets",
        str(shapes / "captions"),
        "--per_device_train_batch_size",
        "12",
        "--max_train_samples",
        "30",
    ]


VARIANTS = {
    "plain": [],
    "frozen": ["--freeze", "text", "vision"],
    "last layers": ["--freeze", "vision:-1", "--vision_overrides", TWO_LAYERS],
    "accumulated": ["--gradient_accumulation_steps", "2"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "accumulated" else pytest.mark.slow) for name in VARIANTS]
)
def test_replayed_steps_are_those_of_a_run_without(recorder, shapes, argv, tmp_path, name):
    argv = [*argv, *pretraining(shapes), *VARIANTS[name]]
    plain, weights, _ = trained(Pretraining, argv, tmp_path / "plain", False)
    losses, found, towers = trained(Pretraining, argv, tmp_path / "replayed", True)
    # Two texts of each row are stacked.
    assert sorted(recorder) == sorted([*(((24, length),) * 2 for length in BUCKETS), ((12, 3, 32, 32),)])
    assert losses == pytest.approx(plain, abs=1e-5) and len(set(losses)) > 1
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5, msg=key)
    # Two whole batches of each epoch, and not the third, which has six rows.
    counts = (6, 9) if name == "accumulated" else (4, 6)
    assert {part: (each.replayed, each.calls) for part, each in towers.items()} == dict.fromkeys(towers, counts)


def test_the_user_is_told_what_was_recorded_and_replayed(recorder, shapes, argv, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    *_, towers = trained(SNLIVE, [*argv, "--dataset", str(shapes / "snli_ve"), "--max_steps", "5"], tmp_path, True)
    text = towers["text"]
    assert 0 < text.replayed <= text.calls == 5
    told = f"CUDA graphs: replayed {text.replayed} of 5 calls of the text tower, {towers['vision'].replayed} of 5 calls of the vision"
    assert told in caplog.text and "text tower recorded, shapes: 3; memory so far" in caplog.text


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, pixel_values, scale=1.0):
        return {"states": self.linear(pixel_values) ** 2 * scale}


def a_tower(recorder, freeze: bool = False) -> RecordedTower:
    torch.manual_seed(0)
    tower = RecordedTower(Tower().requires_grad_(not freeze))
    tower.observe(True)
    with torch.no_grad():
        tower.tower(pixel_values=torch.ones(2, 3))
    tower.observe(False)
    tower.record([8], accumulates=True, autocast=contextlib.nullcontext)
    return tower


def test_which_calls_are_replayed(recorder):
    tower = a_tower(recorder)
    call = tower.tower
    for inputs in ({"pixel_values": torch.ones(3, 3)}, {"pixel_values": torch.ones(2, 3), "scale": 2.0}):
        call(**inputs)
    with torch.no_grad():
        call(pixel_values=torch.ones(2, 3))
    assert (tower.calls, tower.replayed) == (2, 0)
    call(pixel_values=torch.ones(2, 3))
    assert (tower.calls, tower.replayed) == (3, 1)


def test_a_second_call_before_the_backward_pass_of_the_first_runs_as_it_is(recorder):
    tower = a_tower(recorder)
    first, second = torch.randn(2, 3), torch.randn(2, 3)
    sum(tower.tower(pixel_values=each)["states"].sum() for each in (first, second)).backward()
    gradient = tower.tower.linear.weight.grad.clone()
    plain = Tower()
    plain.load_state_dict(tower.tower.state_dict())
    sum(plain(each)["states"].sum() for each in (first, second)).backward()
    torch.testing.assert_close(gradient, plain.linear.weight.grad)
    assert tower.replayed == 1
    # Now it has come, and a pass that never comes holds up no later step.
    tower.tower(pixel_values=first)
    tower.tower(pixel_values=first)
    tower.begin_step()
    tower.tower(pixel_values=first)
    assert tower.replayed == 3 and tower.calls == 5


def test_a_frozen_tower_may_be_called_again_and_again(recorder):
    tower = a_tower(recorder, freeze=True)
    inputs = [torch.randn(2, 3) for _ in range(3)]
    outputs = [tower.tower(pixel_values=each)["states"] for each in inputs]
    assert tower.replayed == 3
    for each, output in zip(inputs, outputs, strict=True):
        torch.testing.assert_close(output, tower.tower.linear(each) ** 2)


class Averaging(torch.nn.Module):
    """A tower with running means, as convolutional ones have."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, pixel_values):
        return {"states": self.norm(pixel_values)}


def test_running_means_are_those_of_training_alone():
    model = Averaging()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in model.named_buffers()}
    with pytest.raises(RuntimeError, match="capturing"), same_buffers(model):
        model(torch.randn(2, 3))
        assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
        raise RuntimeError("capturing")
    assert len(places) == 3 and places == {name: value.data_ptr() for name, value in model.named_buffers()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_recording_changes_no_weight_and_no_buffer(recorder, shapes, argv, tmp_path):
    """Under autocast, with running means in the vision tower."""
    sizes = '{"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}'
    options = [
        "--vision_encoder",
        "resnet",
        "--vision_overrides",
        sizes,
        "--image_size",
        "32",
        "--bf16",
        "true",
        "--max_steps",
        "2",
    ]
    trainer, *_ = prepare(Pretraining, "", [*argv, *pretraining(shapes), *options, "--output_dir", str(tmp_path)])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    towers = record_towers(trainer, BUCKETS)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer.train()
    assert all(each.replayed for each in towers.values())


def test_what_has_no_tower_to_record(recorder, shapes, argv, tmp_path, monkeypatch):
    one_tower = ["--architecture", "one-tower", "--encoder", "bert", "--random_init", "--encoder_overrides", TINY_BERT]
    one_tower += [*argv[len(TWO_TOWER) :], *pretraining(shapes)]
    with pytest.raises(ValueError, match=r"^cuda_graphs: this model has no tower that runs in a step by itself"):
        trained(Pretraining, one_tower, tmp_path, True)

    # Those of the device, and torch's words for outputs and buffers that it cannot record.
    for kind in (RuntimeError, AssertionError, AttributeError):

        def fail(*args, kind=kind, **kwargs):
            raise kind("operation not permitted when stream is capturing\nand more")

        monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
        message = (
            r"^cuda_graphs: the text encoder, BertModel, cannot be recorded \(operation not permitted [a-z ]*\); leave"
        )
        with pytest.raises(ValueError, match=message):
            trained(Pretraining, [*argv, *pretraining(shapes)], tmp_path / kind.__name__, True)


def processor_of(limit: int) -> SimpleNamespace:
    return SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=limit))


def test_buckets():
    assert buckets_of(processor_of(50), None) == [8, 16, 24, 32, 40, 48, 50]
    assert buckets_of(processor_of(8), None) == [8] and buckets_of(processor_of(128), None)[-1] == 128
    assert buckets_of(processor_of(50), [20, 50]) == [20, 50] and buckets_of(processor_of(50), [64]) == [64]


@pytest.mark.parametrize(
    ("limit", "named", "message"),
    [
        (50, [16, 32], r"text_buckets: the largest holds 32 tokens, and texts have up to 50 \(max_length\); add 50, or"),
        (50, [16, 50, 64], r"text_buckets: no text has more than 50 tokens \(max_length\); leave out 64"),
        (512, None, r"cuda_graphs: texts of up to 512 tokens \(max_length\) have 64 lengths, .* set it to 128 or less"),
        (int(1e30), None, r"cuda_graphs: texts of up to 1,000,000,"),
    ],
)  # fmt: skip
def test_lengths_that_no_bucket_holds_or_that_are_too_many(limit, named, message):
    with pytest.raises(ValueError, match=message):
        buckets_of(processor_of(limit), named)


GPU = {
    "cuda_graphs": True,
    "text_buckets": None,
    "do_train": True,
    "device": torch.device("cuda"),
    "deepspeed": None,
    "fsdp": [],
}
GPU |= {"gradient_checkpointing": False, "activation_checkpointing": False, "auto_find_batch_size": False}
GPU |= {"torch_compile_mode": None, "torch_compile_backend": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": torch.device("cpu")}, "cuda_graphs: needs a CUDA GPU, and this run is on the device cpu; leave it out"),
        ({"device": torch.device("mps")}, "cuda_graphs: needs a CUDA GPU, and this run is on the device mps"),
        ({"cuda_graphs": False, "text_buckets": [8]}, "text_buckets: without effect without cuda_graphs"),
        ({"do_train": False}, "cuda_graphs: without effect without do_train"),
        ({"text_buckets": [16, 8]}, "text_buckets: expected rising numbers of tokens, got 16 8"),
        ({"text_buckets": [8, 8]}, "text_buckets: expected rising numbers"),
        ({"text_buckets": [0, 8]}, "text_buckets: expected rising numbers"),
        ({"gradient_checkpointing": True}, "cuda_graphs: does not work with gradient_checkpointing; leave out one"),
        ({"activation_checkpointing": True}, "cuda_graphs: does not work with gradient_checkpointing"),
        ({"auto_find_batch_size": True}, "cuda_graphs: does not work with auto_find_batch_size"),
        ({"deepspeed": "zero2", "fsdp": ["full_shard"]}, "cuda_graphs: does not work with deepspeed, fsdp"),
        ({"torch_compile_mode": "reduce-overhead"}, "cuda_graphs: does not work with torch_compile_mode reduce-overhead"),
        ({"torch_compile_backend": "cudagraphs"}, "cuda_graphs: does not work with torch_compile_backend cudagraphs"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(given, message):
    check_graphs(SimpleNamespace(**GPU))
    with pytest.raises(ValueError, match=f"^{message}"):
        check_graphs(SimpleNamespace(**(GPU | given)))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--cuda_graphs"], "error: cuda_graphs: needs a CUDA GPU, and this run is on the device cpu; leave it out"),
        (["--cuda_graphs", "--text_buckets", "8", "16"], "error: cuda_graphs: needs a CUDA GPU"),
        (["--text_buckets", "8", "16"], "error: text_buckets: without effect without cuda_graphs"),
        (["--cuda_graphs", "--text_buckets", "wide"], "error: "),
    ],
)
def test_a_run_on_a_cpu_is_refused(refused, shapes, argv, extra, message):
    assert message in refused(run_task, SNLIVE, "", [*argv, "--dataset", str(shapes / "snli_ve"), *extra])
