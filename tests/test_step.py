"""A step of pretraining: what it calls, what it never does, and that it weighs every token and every pair alike."""

import contextlib
from pathlib import Path

import pytest
import torch
from conftest import pretraining_batch, tiny_batch, tiny_model, without
from launching import Launcher
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

from renaissance import Objective, Scores
from renaissance.benchmarks.measure import OperationCounter
from renaissance.benchmarks.models import BatchSettings, build_model, draw_batches
from renaissance.modeling.objectives import OBJECTIVES, register_objective
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.trainer import RenaissanceTrainer


SCRIPT = Path(__file__).parent / "distributed_step.py"
ALL = {"mlm": 1.0, "itm": 1.0, "contrastive": 1.0}

#: Operations whose result the host has to wait for.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.default", "unique", "item")


class Refuse(TorchDispatchMode):
    """Fails at an operation that asks a device for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in WAITS), func
        return func(*args, **(kwargs or {}))


def make_batch(processor, itm_text: str = "clean", shared: bool = False) -> dict[str, torch.Tensor]:
    """A batch as pretraining makes it, with padding."""
    texts = ["a red circle", "two green squares and a yellow star", "blue", "a large star left of a circle"]
    rows = [
        {"image": Image.new("RGB", (40, 32), (50 * number, 9, 9)), "text": text, "sample_id": number, "epoch": 0}
        | {"image_id": str(number // 2 if shared else number)}
        for number, text in enumerate(texts)
    ]
    return PretrainingCollator(processor, [MaskedTextData(), MatchingData(itm_text), ContrastiveData()])(rows)


def run_script(launch: Launcher, processes: int, what: str, output: Path, tokenizer: Path, *batch_sizes: int):
    """What distributed_step.py saves; of steps, those of each batch size."""
    launch(processes, SCRIPT, what, output, tokenizer, output.with_suffix(""), *batch_sizes)
    return torch.load(output, weights_only=False)


@pytest.fixture(scope="module")
def steps(launch, tokenizer_folder, tmp_path_factory) -> dict:
    """The results of one batch of eight rows, and of two accumulated ones of four."""
    output = tmp_path_factory.mktemp("steps") / "one.pt"
    one, accumulated = run_script(launch, 1, "steps", output, tokenizer_folder, 8, 4)
    return {"one": one, "accumulated": accumulated}


@pytest.fixture(scope="module")
def two_processes(launch, tokenizer_folder, tmp_path_factory) -> dict:
    """The results of two processes with four rows each."""
    (two,) = run_script(launch, 2, "steps", tmp_path_factory.mktemp("steps") / "two.pt", tokenizer_folder, 4)
    return two


def relative_error(one: dict, other: dict) -> float:
    """How far the gradients of two runs are from each other; those of the first are not 0."""
    gradient, found = (torch.cat([value.flatten() for value in run["gradients"].values()]) for run in (one, other))
    assert gradient.norm() > 0.01
    return float((gradient - found).norm() / gradient.norm())


@pytest.mark.parametrize("objective", [pytest.param("contrastive", marks=pytest.mark.slow), "all"])
@pytest.mark.parametrize("kind", ["two-tower", "one-tower-text"])
def test_accumulated_batches_have_fewer_false_images(steps, kind, objective):
    """The rows of a batch are each other's false images."""
    one, other = steps["one"][kind, objective], steps["accumulated"][kind, objective]
    assert relative_error(one, other) > 1e-2
    assert other["log"]["contrastive_loss"] < one["log"]["contrastive_loss"]


def assert_same_step(one: dict, other: dict) -> None:
    """Numbers of masked tokens differ between the parts, so that a mean of means would be another loss."""
    assert relative_error(one, other) <= 1e-5
    assert other["log"].keys() == one["log"].keys() >= {"loss"}
    for name, loss in one["log"].items():
        assert other["log"][name] == pytest.approx(loss, abs=1e-5), name


@pytest.mark.parametrize("objective", ["mlm", "itm"])
@pytest.mark.parametrize("kind", ["two-tower", "one-tower-text"])
def test_accumulated_batches_are_one_step(steps, kind, objective):
    assert_same_step(steps["one"][kind, objective], steps["accumulated"][kind, objective])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "itm", "contrastive", "all"])
@pytest.mark.parametrize("kind", ["two-tower", "one-tower-text"])
def test_two_processes_are_one_step(steps, two_processes, kind, objective):
    assert_same_step(steps["one"][kind, objective], two_processes[kind, objective])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_processes_of_a_dual_encoder_are_one_step(steps, two_processes, loss):
    assert_same_step(steps["one"]["dual-encoder", loss], two_processes["dual-encoder", loss])


@pytest.mark.slow
def test_weights_in_bfloat16_take_the_same_step(launch, tokenizer_folder, steps, tmp_path):
    """As float32 ones, but for rounding: on one process, with accumulated batches, and on two processes that accumulate as well."""
    one, accumulated = run_script(launch, 1, "rounded", tmp_path / "one.pt", tokenizer_folder, 8, 2)
    (two,) = run_script(launch, 2, "rounded", tmp_path / "two.pt", tokenizer_folder, 2)
    exact = steps["one"]["two-tower", "mlm"]
    for found in (one, accumulated, two):
        assert 0 < relative_error(exact, found["mlm"]) < 0.05
        assert found["mlm"]["log"]["loss"] == pytest.approx(exact["log"]["loss"], rel=1e-2)
    # What processes sum is rounded once more.
    assert relative_error(accumulated["mlm"], two["mlm"]) < 0.01


@pytest.mark.slow
def test_ddp_misses_no_gradient(launch, tokenizer_folder, tmp_path):
    """Of no head, set of objectives, pooler or frozen part."""
    assert run_script(launch, 2, "unused", tmp_path / "unused.pt", tokenizer_folder) == {}


@pytest.mark.parametrize(
    "objectives", [["mlm"], ["itm"], ["contrastive"], ["mlm", "itm"], ["mlm", "contrastive"], list(ALL)]
)
def test_a_step_calls_each_part_once(processor, architecture, objectives):
    model = tiny_model(architecture, "ForPreTraining", objectives=objectives)
    calls = dict.fromkeys(("encode_text", "encode_image", "fuse"), 0)

    def counting(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for name in calls:
        setattr(model.model, name, counting(name, getattr(model.model, name)))
    batch = make_batch(processor)
    names = ("attention_mask", "pixel_values", *(["input_ids"] if objectives != ["mlm"] else []))
    model(**{name: value for name, value in batch.items() if name in names or name.startswith(tuple(objectives))})
    assert calls["encode_text"] == calls["encode_image"] == 1
    # Streams of a one-tower model that see only themselves take a call each.
    alone = 2 * ("contrastive" in objectives and architecture != "two-tower")
    assert calls["fuse"] == ("mlm" in objectives or "itm" in objectives) + alone


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("itm_text", ["clean", "masked"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_step_looks_at_no_value(processor, architecture, attention, itm_text, shared):
    """It runs without values, and asks for none, backward too."""
    batch = {name: value.to("meta") for name, value in make_batch(processor, itm_text, shared).items()}
    model = (
        tiny_model(architecture, "ForPreTraining", objectives=ALL, attn_implementation=attention).train().to("meta")
    )
    with Refuse():
        output = model(**batch)
        output.loss.backward()
    assert output.logits["mlm"].shape == (len(batch["mlm_positions"]), model.get_input_embeddings().num_embeddings)
    assert all((value.grad is not None) == value.requires_grad for value in model.parameters())


class AsOnGPU(TorchFunctionMode):
    """Runs the two functions that are several operations on a CPU alone as the one operation that they are on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            # There is no kernel with dropout on a CPU; those of a GPU have it inside.
            kwargs = kwargs | {"dropout_p": 0.0}
        elif func is torch.nn.functional.dropout:
            return torch.native_dropout(*args, kwargs["p"], True)[0] if kwargs["training"] else args[0]
        return func(*args, **kwargs)


class CountedTrainer(RenaissanceTrainer):
    """Counts the operations of a step, from its first batch to its log."""

    def __init__(self, *args, number: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.number, self.counter = number, OperationCounter()

    def get_batch_samples(self, *args, **kwargs):
        found = super().get_batch_samples(*args, **kwargs)
        if self.state.global_step == self.number:
            self.modes = contextlib.ExitStack()
            self.modes.enter_context(self.counter)
            self.modes.enter_context(AsOnGPU())
        return found

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.state.global_step == self.number + 1:
            self.modes.close()


def count_step(folder: Path, accumulated: int = 1, **precision) -> OperationCounter:
    """Return the count of the second step of training the model of Experiment 1, in batches of two."""
    batches, _ = draw_batches(BatchSettings(2), 1)
    args = RunArguments(
        output_dir=str(folder), do_train=True, max_steps=3, per_device_train_batch_size=1, logging_steps=3, use_cpu=True,
        save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=accumulated, **precision,
    )  # fmt: skip
    model = build_model("small", dropout=0.1)
    data = {"train_dataset": range(3 * accumulated), "data_collator": lambda rows: dict(batches[0])}
    trainer = CountedTrainer(model=model, args=args, **data, number=1)
    trainer.train()
    assert trainer.counts.skipped == 0 and trainer.state.global_step == 3
    return trainer.counter


@pytest.mark.parametrize(
    ("precision", "accumulated", "limit"),
    [
        ({"bf16_weights": True}, 1, 2000),
        pytest.param({"bf16_weights": False}, 1, 2000, marks=pytest.mark.slow),
        pytest.param({"bf16": True}, 1, 3200, marks=pytest.mark.slow),
        pytest.param({"bf16_weights": True}, 2, 4000, marks=pytest.mark.slow),
    ],
)
def test_a_whole_step_has_few_operations_and_waits_for_none(tmp_path, precision, accumulated, limit):
    """Forward, backward, clipping, the watch for bad steps, the optimizer and the log, of the model of Experiment 1."""
    counted = count_step(tmp_path, accumulated, **precision)
    assert limit / 2 < counted.operations <= limit and counted.synchronisations == 0


def test_masked_text_is_matched_whatever_else_is_read(processor, architecture):
    """The contrastive objective reads the clean text of the same batch."""
    batch = make_batch(processor, "masked")
    model = tiny_model(architecture, "ForPreTraining", objectives=ALL)
    found = model(**batch).logits["itm"]
    without_clean = {name: value for name, value in batch.items() if name not in ("input_ids", "contrastive_ids")}
    torch.testing.assert_close(found, model(**without_clean).logits["itm"])
    clean = {name: value for name, value in batch.items() if name not in ("itm_false_rows", "itm_pair_index")}
    assert (found - model(**clean).logits["itm"]).abs().max() > 1e-3


def test_an_objective_may_read_images_alone(architecture):
    class Brightness(Objective):
        name, title, inputs = "brightness", "brightness", ("brightness_labels",)

        def make_head(self, config, model):
            return torch.nn.Linear(config.hidden_size, 1)

        def score(self, head, step):
            scores = head(step.model.alone(step.image).mean(dim=1)).squeeze(1)
            return Scores(scores, (scores - step.batch["brightness_labels"]).pow(2).sum())

        def count(self, batch):
            return len(batch["brightness_labels"])

        def dummy_inputs(self, input_ids, config):
            return {"brightness_labels": torch.zeros(len(input_ids))}

    register_objective(Brightness)
    try:
        model = tiny_model(architecture, "ForPreTraining", objectives=["brightness"])
        inputs = {"pixel_values": tiny_batch()["pixel_values"], "brightness_labels": torch.ones(3)}
        model(**inputs).loss.backward()
        assert all((value.grad is not None) == value.requires_grad for value in model.parameters())
        assert model.brightness_head.weight.requires_grad
    finally:
        del OBJECTIVES["brightness"]


def test_token_types_are_ignored(architecture):
    types = {"token_type_ids": torch.ones(3, 7, dtype=torch.long)}
    for kind, batch in (("ForPreTraining", pretraining_batch()), ("ForImageTextClassification", tiny_batch())):
        model = tiny_model(architecture, kind)
        found, expected = model(**batch, **types), model(**batch)
        torch.testing.assert_close(found.logits, expected.logits)


def test_positions_may_be_padded(architecture):
    """With places that have no label, and without positions at all, the loss is the same."""
    model, batch = tiny_model(architecture, "ForPreTraining"), pretraining_batch()
    places = (batch["mlm_labels"].flatten() != -100).nonzero().squeeze(1)
    padded = torch.cat([places, torch.tensor([3, 3])])
    assert batch["mlm_labels"].flatten()[3] == -100
    losses = [
        model(**batch, **given).losses["mlm"] for given in ({}, {"mlm_positions": places}, {"mlm_positions": padded})
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: without(batch, "mlm_labels"), "mlm: expected the input mlm_labels too, got .*mlm_input_ids"),
        (lambda batch: without(batch, "pixel_values"), "pixel_values: expected one image a row, got none"),
        (lambda batch: batch | {"mlm_input_ids": batch["mlm_input_ids"][:, :-1]}, r"one shape, got .*'mlm_input_ids': \(3, "),
        (lambda batch: batch | {"image_index": torch.arange(2)}, "image_index: expected an entry for each of 3 texts, got 2"),
        (lambda batch: batch | {"itm_labels": batch["itm_labels"][:2]}, "itm_labels: expected an entry for each of 3 texts, got 2"),
        (lambda batch: batch | {"mlm_labels": batch["mlm_labels"][:, 1:]}, r"one shape, got .*'mlm_labels': \(3, "),
        (lambda batch: batch | {"num_items_in_batch": 3}, "num_items_in_batch: expected what loss_counts returns, got 3"),
        (lambda batch: batch | {"mlm_weights": batch["mlm_labels"]}, r"mlm_weights: no input of this model's objectives \(mlm, itm\)"),
        (lambda batch: batch | {"vqa_labels": batch["itm_labels"]}, r"vqa_labels: no input of .* \(mlm, itm\)"),
        (lambda batch: {"pixel_values": batch["pixel_values"]}, r"expected inputs of at least one objective \(mlm, itm\), got none"),
        (lambda batch: batch | {"pixel_values": batch["pixel_values"][:2]}, "got 2 images and 3 texts; image_index says"),
        (lambda batch: without(without(batch, "input_ids"), "mlm_input_ids"), "mlm: expected the input mlm_input_ids too"),
    ],
)  # fmt: skip
def test_a_batch_that_lacks_something(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model("two-tower", "ForPreTraining")(**change(pretraining_batch()))


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["mlm", "captioning"], "objectives: unknown captioning; expected some of mlm, itm, contrastive"),
        ({"mlm": -0.5}, "objectives: expected a weight of at least 0 for mlm, got -0.5"),
        ({"mlm": float("nan")}, "objectives: expected a weight of at least 0 for mlm, got nan"),
        ({"mlm": 0, "itm": 0}, "objectives: expected a weight above 0 for at least one objective"),
        ([], "objectives: expected a weight above 0 for at least one objective, got no objective"),
    ],
)
def test_objectives_that_cannot_be(objectives, message):
    with pytest.raises(ValueError, match=message):
        tiny_model("two-tower", "ForPreTraining", objectives=objectives)


def test_contrastive_scores_come_without_labels_too(architecture):
    """What `processor` gives is enough to compare each text with each image."""
    model = tiny_model(architecture, "ForPreTraining", objectives=["contrastive", "itm"])
    batch = tiny_batch()
    logits = model(**batch).logits
    assert logits["contrastive"].shape == (3, 3) and logits["itm"].shape == (3, 2)


def test_plain_training_arguments_are_refused(tmp_path):
    """They lack the options that it reads."""
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"^args: expected RunArguments, .* got TrainingArguments$"):
        RenaissanceTrainer(model=tiny_model("two-tower"), args=args)
