"""
Recorded models: which calls are replayed, what that changes, and what cannot be recorded. There is no GPU here: `recorder` stands in
for the one function that records, and keeps outputs and gradients in memory that each replay writes over, as it does.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_BERT, TINY_VIT, TWO_TOWER
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers.utils import ModelOutput

from renaissance.tasks import cuda_graphs
from renaissance.tasks.cuda_graphs import RecordedModel, buckets_of, check_graphs, record_model, same_buffers
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


def replayed(passes, pool):
    """What `capture` does, computed anew in each replay."""
    # As in a graph, whose backward pass would else be cast too.
    assert not torch.is_autocast_enabled("cpu")
    recordings = []
    for each in passes:
        made = tree_map_only(torch.Tensor, torch.clone, each())

        def replay(each=each, made=made):
            kept, given = tree_leaves(made), tree_leaves(each())
            with torch.no_grad():
                for place, value in zip(kept, given, strict=True):
                    assert (place is None) == (value is None)
                    if place is not None:
                        place.copy_(value)

        recordings.append((replay, made))
    pool.append(shapes_of(passes[0].__self__._call.args))
    return recordings


def shapes_of(inputs) -> dict[str, tuple[int, ...]]:
    """The shapes of texts and images that a recording is of."""
    return {
        name: tuple(value.shape)
        for name, value in inputs[0].items()
        if name in ("input_ids", "pixel_values", "states")
    }


@pytest.fixture
def recorder(monkeypatch) -> list:
    """Replace `capture` by `replayed`, and return the shapes that are recorded."""
    shapes: list = []
    monkeypatch.setattr(cuda_graphs, "capture", replayed)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: shapes)
    return shapes


BUCKETS = [8, 12, 16]
TWO_LAYERS = TINY_VIT.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')


def trained(
    task, argv: list[str], folder: Path, records: bool
) -> tuple[list, dict[str, torch.Tensor], RecordedModel | None]:
    """Train with or without recordings; return the losses, the weights, and the recorded model."""
    trainer, *_ = prepare(task, "", [*argv, "--output_dir", str(folder)])
    # Dropout draws as many numbers as there are tokens, with padding.
    trainer.processing_class.text_buckets = BUCKETS
    model = record_model(trainer, BUCKETS) if records else None
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer.model.state_dict(), model


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
    "compiled": ["--torch_compile", "--torch_compile_backend", "aot_eager"],
    "bf16 weights": ["--bf16_weights", "--gradient_accumulation_steps", "2"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "accumulated" else pytest.mark.slow) for name in VARIANTS]
)
def test_replayed_steps_are_those_of_a_run_without(recorder, shapes, argv, tmp_path, name):
    argv = [*argv, *pretraining(shapes), *VARIANTS[name]]
    plain, weights, _ = trained(Pretraining, argv, tmp_path / "plain", False)
    losses, found, model = trained(Pretraining, argv, tmp_path / "replayed", True)
    assert recorder == [{"input_ids": (12, length), "pixel_values": (12, 3, 32, 32)} for length in BUCKETS]
    assert losses == pytest.approx(plain, abs=1e-5) and len(set(losses)) > 1
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5, msg=key)
    # Two whole batches of each epoch, and not the third, which has six rows.
    accumulates = "--gradient_accumulation_steps" in argv
    assert (model.replayed, model.calls) == ((6, 9) if accumulates else (4, 6))


def test_a_task_is_replayed_and_the_user_is_told(recorder, shapes, argv, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    argv = [*argv, "--dataset", str(shapes / "snli_ve"), "--max_steps", "5"]
    plain, *_ = trained(SNLIVE, argv, tmp_path / "plain", False)
    losses, _, model = trained(SNLIVE, argv, tmp_path / "replayed", True)
    assert losses == pytest.approx(plain, abs=1e-5)
    assert 0 < model.replayed <= model.calls == 5
    assert f"CUDA graphs: replayed {model.replayed} of 5 calls of the model" in caplog.text
    assert "recorded, shapes: 3; memory: 0.00 GiB" in caplog.text


@pytest.mark.slow
def test_one_tower_is_replayed(recorder, shapes, argv, tmp_path):
    one_tower = ["--architecture", "one-tower", "--encoder", "bert", "--random_init", "--encoder_overrides", TINY_BERT]
    one_tower += [*argv[len(TWO_TOWER) :], *pretraining(shapes)]
    plain, *_ = trained(Pretraining, one_tower, tmp_path / "plain", False)
    losses, _, model = trained(Pretraining, one_tower, tmp_path / "replayed", True)
    assert losses == pytest.approx(plain, abs=1e-5) and model.replayed == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objectives", "sources"),
    [
        (("mlm", "mim"), ("captions",)),
        (("vqa", "mlm"), ("vqav2",)),
        (("grounding",), ("refcoco",)),
        (("mlm", "itm", "vqa", "grounding"), ("captions", "vqav2", "refcoco")),
    ],
    ids=" ".join,
)
def test_all_objectives_are_replayed(recorder, shapes, scenes, argv, tmp_path, objectives, sources):
    """Also if some rows of a batch serve some of them."""
    folders = [str(shapes / name if name == "captions" else scenes / name) for name in sources]
    argv = [*argv, "--train_datasets", *folders, "--objectives", *objectives, "--max_train_samples", "13"]
    argv += ["--per_device_train_batch_size", "6", *(["--vqa_min_answer_count", "1"] if "vqa" in objectives else [])]
    plain, weights, _ = trained(Pretraining, argv, tmp_path / "plain", False)
    losses, found, model = trained(Pretraining, argv, tmp_path / "replayed", True)
    assert losses == pytest.approx(plain, abs=1e-5) and len(set(losses)) > 1
    for key, value in weights.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5, msg=key)
    # The number of regions of a batch is not always one of those that are recorded.
    assert model.replayed >= 3


class Squares(torch.nn.Module):
    """A model with a loss of two parts, and a weight that neither of them reads."""

    def __init__(self):
        super().__init__()
        self.linear, self.unread = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, states, scale=1.0, counts=None):
        squares = self.linear(states) ** 2 * scale
        parts = {
            "first": squares[:, 0].mean(),
            "others": squares[:, 1:].mean() / (1 if counts is None else counts["n"]),
        }
        return ModelOutput(loss=sum(parts.values()), losses=parts, logits=squares)


def a_model(recorder, **options) -> RecordedModel:
    torch.manual_seed(0)
    model = RecordedModel(Squares(), **options)
    model.record({"states": torch.ones(2, 3)})
    return model


def test_which_calls_are_replayed(recorder):
    model = a_model(recorder)
    call = model.model
    counts = {"n": torch.tensor(2)}
    others = (
        {"states": torch.ones(3, 3)},
        {"states": torch.ones(2, 3), "scale": 2.0},
        {"states": torch.ones(2, 3), "counts": counts},
    )
    for inputs in others:
        call(**inputs)
    with torch.no_grad():
        call(states=torch.ones(2, 3))
    call.eval()(states=torch.ones(2, 3))
    call.train()(torch.ones(2, 3))
    assert (model.calls, model.replayed) == (3, 0)
    call(states=torch.ones(2, 3)).loss.backward()
    assert (model.calls, model.replayed) == (4, 1)
    model.forget()
    call(states=torch.ones(2, 3))
    assert (model.calls, model.replayed) == (5, 1)


def test_a_replayed_call_returns_its_losses_alone(recorder):
    model = a_model(recorder)
    states = torch.randn(2, 3)
    first = model.model(states=states)
    plain = Squares()
    plain.load_state_dict(model.model.state_dict())
    expected = plain(states)
    assert set(first) == {"loss", "losses"} and list(first.losses) == ["first", "others"]
    kept = first.loss.item()
    (3 * first.loss).backward()
    (3 * expected.loss).backward()
    torch.testing.assert_close(model.model.linear.weight.grad, plain.linear.weight.grad)
    assert model.model.unread.weight.grad is None
    model.model(states=10 * states)
    # What was returned stays as it is when the next call writes over the recording's memory.
    assert first.loss.item() == kept == pytest.approx(expected.loss.item())
    torch.testing.assert_close(dict(first.losses), {name: each.detach() for name, each in expected.losses.items()})


def test_inputs_in_dictionaries_are_copied_too(recorder):
    model = RecordedModel(Squares())
    model.record({"states": torch.ones(2, 3), "counts": {"n": torch.tensor(1)}})
    losses = []
    for number in (1, 2, 4):
        model.begin_step()
        losses.append(model.model(states=torch.ones(2, 3), counts={"n": torch.tensor(number)}).losses["others"].item())
    assert model.replayed == 3
    assert losses == pytest.approx([losses[0], losses[0] / 2, losses[0] / 4])


class Sums(torch.nn.Module):
    """A model of weights that are added, and so have one gradient: that of the loss, for two of them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
        self.shift, self.unread = torch.nn.Parameter(torch.ones(())), torch.nn.Parameter(torch.ones(()))

    def forward(self, states):
        return ModelOutput(loss=((self.first + self.second) * states).sum() + self.shift)


def test_weights_with_one_gradient_are_clipped_once(recorder, monkeypatch):
    # A graph returns the very tensors, whose memory may be shared.
    monkeypatch.setattr(cuda_graphs, "capture", lambda passes, pool: [(list, each()) for each in passes])
    model, plain, states = RecordedModel(Sums()), Sums(), torch.tensor([1.0, 2.0, 3.0])
    model.record({"states": states})
    for each in (model.model, plain):
        each(states=states).loss.backward()
        torch.nn.utils.clip_grad_norm_(each.parameters(), 0.5)
    assert model.replayed == 1 and model.model.unread.grad is None
    for name in ("first", "second", "shift"):
        torch.testing.assert_close(model.model.get_parameter(name).grad, plain.get_parameter(name).grad)


@pytest.mark.parametrize("copies", [True, False])
def test_gradients_of_two_passes_add_up_if_they_are_copied(recorder, copies):
    model = a_model(recorder, copies_gradients=copies)
    batches = [torch.randn(2, 3) for _ in range(2)]
    plain = Squares()
    plain.load_state_dict(model.model.state_dict())
    for states in batches:
        model.model(states=states).loss.backward()
        plain(states).loss.backward()
    assert model.replayed == 2
    # Without, the weight has taken over the memory that the second pass has written to.
    assert torch.allclose(model.model.linear.weight.grad, plain.linear.weight.grad) == copies


def test_a_second_call_before_the_backward_pass_of_the_first_runs_as_it_is(recorder):
    model = a_model(recorder)
    first, second = torch.randn(2, 3), torch.randn(2, 3)
    sum(model.model(states=each).loss for each in (first, second)).backward()
    plain = Squares()
    plain.load_state_dict(model.model.state_dict())
    sum(plain(each).loss for each in (first, second)).backward()
    torch.testing.assert_close(model.model.linear.weight.grad, plain.linear.weight.grad)
    assert model.replayed == 1
    # Now it has come, and a pass that never comes holds up no later step.
    model.model(states=first)
    model.model(states=first)
    model.begin_step()
    model.model(states=first)
    assert model.replayed == 3 and model.calls == 5


def test_a_model_without_a_loss_is_refused(recorder):
    model = RecordedModel(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"^cuda_graphs: expected a model that returns a loss; leave it out$"):
        model.record({"input": torch.ones(2, 3)})


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
    trainer.processing_class.text_buckets = BUCKETS
    model = record_model(trainer, BUCKETS)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trainer.train()
    assert model.replayed


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, AttributeError])
def test_what_cannot_be_recorded(recorder, shapes, argv, tmp_path, monkeypatch, kind):
    """Those of the device, and torch's words for outputs and buffers that it cannot record."""

    def fail(*args):
        raise kind("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graphs, "capture", fail)
    message = r"^cuda_graphs: TwoTowerForPreTraining cannot be recorded \(operation not permitted [a-z ]*\); leave"
    with pytest.raises(ValueError, match=message):
        trained(Pretraining, [*argv, *pretraining(shapes)], tmp_path, True)


def test_too_little_memory_for_recordings_is_told_as_such(recorder, shapes, argv, tmp_path, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graphs, "capture", fail)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"^cuda_graphs: CUDA out of memory; name fewer lengths by text_b"
    ):
        trained(Pretraining, [*argv, *pretraining(shapes)], tmp_path, True)


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
GPU |= {"neftune_noise_alpha": None, "label_smoothing_factor": 0.0}


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
        ({"neftune_noise_alpha": 5.0}, "cuda_graphs: does not work with neftune_noise_alpha; leave out one of them"),
        ({"label_smoothing_factor": 0.1}, "cuda_graphs: does not work with label_smoothing_factor; leave out one of them"),
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
