"""What makes a training step cheaper leaves its results as they are, or is an option that does what it says."""

import copy
import json
import re
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from conftest import TWO_TOWER, padded, pretraining_batch, tiny_batch, tiny_model, training_batch, without
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerState

from renaissance import TwoTowerConfig
from renaissance.modeling.layers import FeedForward
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData, MatchingData
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.mixing import MixedRows
from renaissance.tasks.data.sampling import GroupedSampler
from renaissance.tasks.pretraining import Pretraining, image_numbers
from renaissance.tasks.runner import prepare, run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.trainer import EpochCallback


def assert_same(got: dict, expected: dict, names: tuple[str, ...]) -> None:
    for name in names:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-5)


def assert_same_step(got: dict, expected: dict) -> None:
    for kind in ("losses", "logits"):
        assert got[kind].keys() == expected[kind].keys() == {"mlm", "itm"}
        for name in expected[kind]:
            torch.testing.assert_close(got[kind][name], expected[kind][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooler", ["single", "double"])
@pytest.mark.parametrize(
    "reads",
    [("text_states",), ("image_states",), ("pooled",), ("text_states", "pooled"), ("text_states", "image_states")],
)
def test_what_is_read_does_not_depend_on_what_else_is_made(architecture, reads, pooler):
    model = tiny_model(architecture, pooler=pooler)
    batch = padded(tiny_batch(), extra=4)
    with torch.no_grad():
        whole, part = model(**batch), model(**batch, reads=reads)
    assert_same(part, whole, reads)
    assert all(getattr(part, name) is None for name in ("text_states", "image_states", "pooled") if name not in reads)
    for alone in ("input_ids", "pixel_values"):
        rows = {name: batch[name] for name in ("input_ids", "attention_mask") if alone == "input_ids"}
        rows |= {"pixel_values": batch["pixel_values"]} if alone == "pixel_values" else {}
        with torch.no_grad():
            torch.testing.assert_close(model(**rows, reads=("pooled",)).pooled, model(**rows).pooled)


@pytest.mark.parametrize("pooler", ["single", "double"])
@pytest.mark.parametrize("left_out", ["", "mlm", "itm"])
def test_without_cross_modal_layers_what_no_loss_reads_does_not_train(pooler, left_out):
    names = [name for name in ("mlm", "itm") if name != left_out]
    model = tiny_model("two-tower", "ForPreTraining", pooler=pooler, cross_modal_layers=0, objectives=names).train()
    batch = pretraining_batch()
    # The clean text is matched, the corrupted one is not.
    unused = {"mlm": ("mlm_",), "itm": ("itm_", "input_ids")}.get(left_out, ())
    model(**{name: value for name, value in batch.items() if not name.startswith(unused)}).loss.backward()
    without_gradient = [n for n, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without_gradient
    sees = pooler == "double" and left_out != "itm"
    assert all(value.requires_grad == sees for value in model.model.image_projection.parameters())


def test_what_is_not_read_costs_nothing():
    model = tiny_model("two-tower")
    layer, runs = model.cross_modal_layers[-1], []
    layer.image_mlp.register_forward_hook(lambda module, inputs, output: runs.append(output.shape[1]))
    for reads in (("text_states",), ("pooled",), ("image_states",)):
        model(**tiny_batch(), reads=reads)
    assert runs == [1, 17], "none for the text, the first patch to pool, all 1 + 4 x 4 patches"


def test_gradients_are_those_of_a_pass_that_makes_everything():
    gradients = []
    for everything in (False, True):
        model = tiny_model("two-tower", "ForPreTraining")
        model(**pretraining_batch(), output_hidden_states=everything).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def kept_of(modules):
    """Watch the outputs of modules by name; return a function that names those whose latest output is still in memory."""
    outputs = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: StorageWeakRef(output.untyped_storage())})
        )
    return lambda: {name for name, reference in outputs.items() if not reference.expired()}


@pytest.mark.parametrize(
    ("act", "of_activation"),
    [("gelu", {"up"}), ("silu", {"up"}), ("relu", {"act"}), ("tanh", {"act"}), ("linear", {"up", "act"})],
)
def test_what_is_made_again_leaves_gradients_as_they_are(act, of_activation):
    """Of the states before and after the activation one is kept, which may be both ("linear"); none after the first norm."""
    torch.manual_seed(0)
    config = TwoTowerConfig(cross_modal_hidden_size=16, cross_modal_act=act, cross_modal_dropout=0.0)
    layer, norm = FeedForward(config).train(), torch.nn.LayerNorm(16)
    states = torch.randn(3, 5, 16, requires_grad=True)
    modules = {"norm": norm, "up": layer.up, "act": layer.act}
    kept = kept_of(modules)
    gradients = []
    for keeps_all in (False, True):
        layer.gradient_checkpointing = keeps_all
        output = layer(states, norm)
        everything = {"norm", *of_activation, *({"up", "act"} if layer.makes_again else ())}
        assert kept() == (everything if keeps_all else of_activation)
        gradients.append(torch.autograd.grad(output.square().sum(), [states, *norm.parameters(), *layer.parameters()]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


class LowRankAdapter(torch.nn.Module):
    """LoRA with dropout (Hu et al. 2022) around a linear layer."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.linear = linear
        self.low_rank = torch.nn.Sequential(
            torch.nn.Dropout(0.5), torch.nn.Linear(linear.in_features, 4), torch.nn.Linear(4, linear.out_features)
        )

    def forward(self, states):
        return self.linear(states) + self.low_rank(states)


def test_an_adapter_with_dropout_keeps_its_gradients():
    """Recomputed layers draw the same random numbers as in the forward pass."""
    torch.manual_seed(0)
    layer, norm = FeedForward(TwoTowerConfig(cross_modal_hidden_size=16)).train(), torch.nn.LayerNorm(16)
    layer.up, layer.down = LowRankAdapter(layer.up), LowRankAdapter(layer.down)
    states = torch.randn(3, 5, 16, requires_grad=True)
    weights = list(layer.parameters())
    gradients = []
    for keeps_all in (False, True):
        layer.gradient_checkpointing = keeps_all
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(layer(states, norm).square().sum(), [states, *weights]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_what_is_made_again_elsewhere():
    """Without real storage, in torch.func, in a compiled graph, for a second derivative."""
    torch.manual_seed(0)
    config = TwoTowerConfig(cross_modal_hidden_size=16, cross_modal_dropout=0.0)
    layer, norm = FeedForward(config).train(), torch.nn.LayerNorm(16)
    states = torch.randn(3, 5, 16, requires_grad=True)
    parameters = dict(layer.named_parameters())
    expected = torch.autograd.grad(layer(states, norm).square().sum(), list(parameters.values()))
    functional = torch.func.grad(
        lambda weights: torch.func.functional_call(plain, weights, (states, norm)).square().sum()
    )
    # torch.func has no hooks, which are for training.
    plain = copy.deepcopy(layer).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    of_compiled = torch.autograd.grad(compiled(states, norm).square().sum(), list(parameters.values()))
    for one, two, three in zip(expected, functional(parameters).values(), of_compiled, strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)
    abstract = FeedForward(config).to("meta")
    abstract(torch.empty(3, 5, 16, device="meta"), copy.deepcopy(norm).to("meta")).sum().backward()
    assert abstract.up.weight.grad.shape == layer.up.weight.shape
    with torch.no_grad():
        output = layer(states, norm)
    assert not output.requires_grad
    double, states = layer.double().eval(), torch.randn(1, 2, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda states: double(states, norm.double()), (states,))


def test_checkpointed_layers_keep_nothing_inside():
    model = tiny_model("two-tower").train()
    model.gradient_checkpointing_enable()
    inner = []
    model.cross_modal_layers[0].image_mlp.up.register_forward_hook(
        lambda module, inputs, output: inner.append(StorageWeakRef(output.untyped_storage()))
    )
    output = model(**tiny_batch()).pooled
    assert inner[0].expired()
    output.sum().backward()
    assert len(inner) == 2


def test_matching_the_masked_text_fuses_pairs_once(architecture):
    model = tiny_model(architecture, "ForPreTraining")
    batch = pretraining_batch()
    expected = model(**(batch | {"input_ids": batch["mlm_input_ids"]}))
    rows = []
    fuse = model.model.fuse
    model.model.fuse = lambda text, *args, **kwargs: rows.append(len(text.states)) or fuse(text, *args, **kwargs)
    masked = without(batch, "input_ids")
    again = model(**masked)
    distinct = {"itm_false_rows": torch.tensor([0, 1]), "itm_pair_index": torch.tensor([3, 4, 2])}
    got = model(**masked, **distinct)
    assert rows == [3 + 3, 3 + 2], "all texts twice, or with their own images, and two of them with others"
    assert_same_step(again, expected)
    assert_same_step(got, expected)


def test_texts_that_share_an_image(architecture):
    model = tiny_model(architecture, "ForPreTraining")
    batch = pretraining_batch()
    own = torch.tensor([0, 1, 0])
    repeated = batch | {"pixel_values": batch["pixel_values"][own]}
    shared = batch | {"pixel_values": batch["pixel_values"][:2], "image_index": own}
    shared["itm_image_index"] = own[batch["itm_image_index"]]
    for change in ({}, {"input_ids": None}):
        assert_same_step(model(**(shared | change)), model(**(repeated | change)))


def test_pixels_of_8_bits_are_normalised_in_the_model(architecture):
    model = tiny_model(architecture, pixel_mean=[120.0, 110.0, 100.0], pixel_deviation=[60.0, 65.0, 70.0])
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([120.0, 110.0, 100.0], [60.0, 65.0, 70.0]))
    batch = tiny_batch()
    expected = model(**(batch | {"pixel_values": (pixels.float() - mean) / std}))
    torch.testing.assert_close(model(**(batch | {"pixel_values": pixels})).pooled, expected.pooled)
    model.config.pixel_mean = None
    with pytest.raises(ValueError, match=r"uint8 pixels need config\.pixel_mean"):
        model(**(batch | {"pixel_values": pixels}))
    with pytest.raises(ValueError, match="pixel_deviation: expected a number"):
        tiny_model(architecture, pixel_mean=[1.0], pixel_deviation=[0.0])


@pytest.mark.parametrize(
    "kind",
    ["ForPreTraining", "ForImageTextRetrieval", "ForVisualQuestionAnswering", "ForImagesAndTextClassification",
     "ForReferenceResolution", "ForImageClassification"],
)  # fmt: skip
def test_features_take_the_place_of_pixels(kind):
    model = tiny_model("two-tower", kind)
    batch = training_batch(kind)
    pixels = batch["pixel_values"]
    with torch.no_grad():
        features = model.model.vision_features(pixels.flatten(0, -4))
        features = features.unflatten(0, pixels.shape[:-3])
        got = model(**without(batch, "pixel_values"), image_features=features)
        torch.testing.assert_close(got.loss, model(**batch).loss)
        half = model(**without(batch, "pixel_values"), image_features=features.half())
        torch.testing.assert_close(half.loss, got.loss, atol=1e-2, rtol=1e-2)
    with pytest.raises(ValueError, match="image_features"):
        model(**batch, image_features=features)
    with pytest.raises(ValueError, match="image_features"):
        model(**without(batch, "pixel_values"), image_features=features[..., :-1])


def test_a_one_tower_model_takes_no_features():
    with pytest.raises(ValueError, match="a one-tower model has no vision encoder"):
        tiny_model("one-tower-text")(**without(tiny_batch(), "pixel_values"), image_features=torch.zeros(3, 17, 32))


def rows_of_images(image_ids: list[str]) -> list[dict]:
    images = {
        name: Image.new("RGB", (40, 40), (40 * number, 90, 10)) for number, name in enumerate(sorted(set(image_ids)))
    }
    return [
        {"image": images[name], "text": f"a circle left of a square {'red ' * row}", "image_id": name, "sample_id": row,
         "epoch": 0}
        for row, name in enumerate(image_ids)
    ]  # fmt: skip


def test_the_collator_has_each_image_once(processor):
    ids = ["b", "a", "b", "c", "a", "d"]
    rows = rows_of_images(ids)
    batch = PretrainingCollator(processor, seed=3)(rows)
    own, paired = batch["image_index"], batch["itm_image_index"]
    assert len(batch["pixel_values"]) == 4
    alone = [PretrainingCollator(processor)(rows_of_images(ids)[row : row + 1])["pixel_values"][0] for row in range(6)]
    for row, image in enumerate(own.tolist()):
        assert torch.equal(batch["pixel_values"][image], alone[row])
    assert ((own == paired).long() == batch["itm_labels"]).all() and batch["itm_labels"].sum() == 3
    assert "image_index" not in PretrainingCollator(processor)(rows_of_images(["a", "b"]))


def test_the_collator_can_leave_matching_the_masked_text(processor):
    rows = rows_of_images(["a", "b", "c", "d"])
    clean, masked = (
        PretrainingCollator(processor, [MaskedTextData(), MatchingData(itm_text=text)])(rows)
        for text in ("clean", "masked")
    )
    assert set(clean) - set(masked) == {"input_ids"}
    assert set(masked) - set(clean) == {"itm_false_rows", "itm_pair_index"}
    assert all(torch.equal(masked[name], clean[name]) for name in set(masked) & set(clean))
    # What Trainer counts rows by.
    assert next(iter(masked.values())).shape[0] == 4
    with pytest.raises(ValueError, match="itm_text: expected one of clean, masked, got 'both'"):
        MatchingData(itm_text="both")
    with pytest.raises(ValueError, match="itm_text: masked needs the objective mlm too; expected clean"):
        PretrainingCollator(processor, [MatchingData(itm_text="masked")])


LENGTHS = np.random.default_rng(0).integers(5, 51, 1003)
IMAGES = np.random.default_rng(1).integers(0, 300, 1003)


def batches(order: list[int], size: int = 8) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def sampler(per_image: int, by_length: bool, seed: int = 0) -> GroupedSampler:
    lengths = (lambda epoch: LENGTHS) if by_length else None
    return GroupedSampler(1003, 8, 2, seed, lengths, lambda epoch: IMAGES, per_image)


@pytest.mark.parametrize("per_image", [1, 2])
@pytest.mark.parametrize("by_length", [True, False])
def test_the_sampler_has_every_row_once_in_an_order_of_seed_and_epoch(per_image, by_length):
    first, order = sampler(per_image, by_length), list(sampler(per_image, by_length))
    assert sorted(order) == list(range(1003)) and len(first) == 1003
    assert list(first) == order
    first.set_epoch(1)
    assert list(first) != order != list(sampler(per_image, by_length, seed=1))
    assert sorted(first) == sorted(order)


@pytest.mark.parametrize(("per_image", "share"), [(1, 0.65), (2, 0.8)])
def test_the_sampler_brings_texts_of_one_length_together(per_image, share):
    order, random = list(sampler(per_image, True)), np.random.default_rng(2).permutation(1003).tolist()
    padded_to, usual = (np.mean([LENGTHS[rows].max() for rows in batches(rows_)]) for rows_ in (order, random))
    assert padded_to < usual * share
    # Batches of all lengths come at all times.
    tenths = np.array([LENGTHS[rows].mean() for rows in batches(order)[:120]]).reshape(10, 12).mean(axis=1)
    assert np.ptp(tenths) < 20


def test_the_batch_that_is_left_over_comes_last():
    """Elsewhere it would shift the batches behind it, whose texts would then be of two lengths."""
    together = [LENGTHS[rows] for rows in batches(list(sampler(1, True)), 16)]
    assert len(together[-1]) == 1003 % 16
    # The 203 rows of the last pool have texts of 5 to 50 characters, in 13 batches.
    assert max(map(np.ptp, together)) < 10


@pytest.mark.parametrize("by_length", [True, False])
def test_the_sampler_brings_rows_of_one_image_together(by_length):
    order = list(sampler(2, by_length))
    assert sum(IMAGES[a] == IMAGES[b] for a, b in pairwise(order)) > 300
    longest_run = max(
        len(run) for run in "".join("1" if IMAGES[a] == IMAGES[b] else " " for a, b in pairwise(order)).split()
    )
    assert longest_run <= 3, "two pairs of one image may meet by chance, no more"


def test_the_processes_of_a_step_have_texts_of_about_one_length():
    order = list(GroupedSampler(960, 8, 4, 0, lambda epoch: LENGTHS[:960]))
    longest = np.array([LENGTHS[rows].max() for rows in batches(order)]).reshape(-1, 4)
    assert np.ptp(longest, axis=1).mean() < np.ptp(longest) / 8


def test_rows_of_a_mixture_are_found_at_once():
    mixed = MixedRows([list(range(7)), list(range(100, 150))], [0.6, 0.4], seed=3)
    for epoch in range(4):
        at_once = [(part, row) for part in (0, 1) for row in mixed.rows_of(part, epoch).tolist()]
        assert at_once == [mixed.locate(index, epoch) for index in range(len(mixed))]


def test_the_sampler_is_told_the_epoch_where_accelerate_does_not_reach_it():
    """As in a run that is resumed inside an epoch on one of two processes."""
    sampler = GroupedSampler(64, 4, 2, 0, lambda epoch: LENGTHS[:64])
    rows = KeyedRows([{"text": "a"}] * 64, training=True)
    rows.begin_epoch(0)
    loader = prepare_data_loader(
        DataLoader(rows, batch_sampler=BatchSampler(sampler, 4, drop_last=False), collate_fn=list),
        num_processes=2,
        process_index=1,
        put_on_device=False,
    )
    loader.set_epoch(1)
    whole = [[row["sample_id"] for row in batch] for batch in loader]
    sampler.set_epoch(0)
    EpochCallback(rows, sampler).on_epoch_begin(None, TrainerState(epoch=1.25), None)
    resumed = [[row["sample_id"] for row in batch] for batch in skip_first_batches(loader, 2)]
    assert len(whole) == 8 and resumed == whole[2:]


def test_captions_of_one_image_id_come_together(shapes, options, tmp_path):
    """Where data has a row a caption, as where it has a row an image."""
    source = CaptionedImages(load_dataset("parquet", data_dir=str(shapes / "captions"), split="train"), "shapes")
    rows = [row | {"captions": row["text"]} for row in (source[index] for index in range(len(source)))]
    features = Features({"image": ImageFeature(), "image_id": Value("string"), "captions": Value("string")})
    (tmp_path / "rows").mkdir()
    table = Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features)
    table.to_parquet(str(tmp_path / "rows" / "train-00000-of-00001.parquet"))
    shares = []
    for folder in (shapes / "captions", tmp_path / "rows"):
        argv = [*TWO_TOWER, *options, "--do_train", "--captions_per_image", "2", "--train_datasets", str(folder)]
        loader = prepare(Pretraining, "", argv)[0].get_train_dataloader()
        shares.append(np.mean([len(batch["pixel_values"]) / len(batch["mlm_labels"]) for batch in loader]))
    assert shares[1] == pytest.approx(shares[0], abs=0.02) and shares[0] < 0.7


CHEAP = ["--captions_per_image", "2", "--train_sampling_strategy", "group_by_length", "--itm_text", "masked"]


def run_options(shapes, options, *extra) -> list[str]:
    return [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", *extra]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_with_all_of_it(shapes, options, mixed):
    data = [str(shapes / "captions"), str(shapes / "captions"), "--train_weights", "0.7", "0.3"] if mixed else []
    argv = [*TWO_TOWER, *options, "--do_train", *CHEAP, "--train_datasets", *(data or [str(shapes / "captions")])]
    trainer, task, data, _ = prepare(Pretraining, "", argv)
    loader = trainer.get_train_dataloader()
    fewest = [len(batch["pixel_values"]) / len(batch["mlm_labels"]) for batch in loader]
    assert np.mean(fewest) < 0.8 and all("input_ids" not in batch for batch in loader)
    rows = data["train"].data
    numbers, lengths = image_numbers(rows, 0), task.text_lengths(rows, 0)
    for index in (0, 5, len(rows) - 1):
        assert len(rows[index]["text"]) == lengths[index]
        assert (rows[index]["image_id"] == rows[0]["image_id"]) == (numbers[index] == numbers[0])


def test_its_resumed_run_repeats_the_order(shapes, options, tmp_path):
    """An epoch of 16 steps; the run is cut off in its second, inside a pool."""
    argv = run_options(shapes, options, *CHEAP, "--max_steps", "20", "--save_steps", "18", "--logging_steps", "1")
    argv += ["--itm_negatives", "random"]
    run_task(Pretraining, "", argv)
    whole = json.loads((tmp_path / "run" / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    again = [
        *argv,
        "--output_dir",
        str(tmp_path / "again"),
        "--resume_from_checkpoint",
        str(tmp_path / "run" / "checkpoint-18"),
    ]
    run_task(Pretraining, "", again)
    resumed = json.loads((tmp_path / "again" / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    for one, other in zip(whole[18:20], resumed[18:20], strict=True):
        assert one["step"] == other["step"]
        assert one["mlm_loss"] == pytest.approx(other["mlm_loss"], rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_with_false_images_of_all_data(shapes, options, mixed):
    data = [str(shapes / "captions"), str(shapes / "captions"), "--train_weights", "0.7", "0.3"] if mixed else []
    extra = ["--itm_negatives", "random", *(["--train_datasets", *data] if mixed else [])]
    trainer, _, data, _ = prepare(Pretraining, "", run_options(shapes, options, *extra, "--max_steps", "2"))
    foreign = 0
    for batch in trainer.get_train_dataloader():
        own, matched = batch["image_index"], batch["itm_image_index"]
        foreign += len(batch["pixel_values"]) - len(own.unique())
        assert torch.equal(own == matched, batch["itm_labels"].bool())
    # Of the half of the rows that have a false image; few images are in the batch by chance.
    assert foreign > len(data["train"]) / 4
    trainer.train()


def test_options_of_training_alone_warn_in_evaluation(shapes, options, caplog):
    argv = [*TWO_TOWER, *options, "--eval_datasets", str(shapes / "captions"), "--do_eval"]
    prepare(Pretraining, "", argv)
    assert "without effect" not in caplog.text
    prepare(Pretraining, "", [*argv, "--itm_negatives", "random"])
    assert "false images of all data: without effect, for nothing is trained" in caplog.text


def test_the_order_has_the_seed_of_the_data(shapes, options):
    def order(*extra) -> list[int]:
        trainer, *_ = prepare(Pretraining, "", run_options(shapes, options, *CHEAP, *extra))
        return list(trainer.train_sampler)

    assert order("--seed", "3") == order("--data_seed", "3") != order()
    assert order("--seed", "3", "--data_seed", "0") == order("--seed", "0")


@pytest.mark.slow
def test_streams_and_mixtures_have_the_seed_of_the_data(shapes, options):
    folder = str(shapes / "captions")
    streamed = ["--streaming", "--max_steps", "2"]
    mixed = ["--train_datasets", folder, folder, "--train_weights", "0.7", "0.3"]

    def ids(kind: list[str], *extra: str) -> list[str]:
        rows = prepare(Pretraining, "", run_options(shapes, options, *kind, *extra))[2]["train"]
        return [row["image_id"] + row["text"] for row in islice(iter(rows), 40)]

    for kind in (streamed, mixed):
        assert ids(kind, "--seed", "3") == ids(kind, "--data_seed", "3") != ids(kind)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--captions_per_image", "8"], "captions_per_image: .* expected fewer than its 8 rows"),
        (["--captions_per_image", "0"], "captions_per_image: expected at least 1"),
        (["--train_sampling_strategy", "batch_rebalance"], "expected random, sequential or group_by_length"),
        (["--itm_text", "masked", "--objectives", "itm"], "itm_text: masked needs the objective mlm too"),
        (["--itm_negatives", "random", "--objectives", "mlm"], "itm_negatives: without effect on the objectives mlm;"),
        (["--itm_negatives", "random", "--augmentation", "randaugment"], "draws false ones from all of its data"),
        (["--streaming", "--max_steps", "2", "--itm_negatives", "random"], "random rows, from which itm is to draw false images"),
        (["--streaming", "--max_steps", "2", "--captions_per_image", "2"], "captions_per_image: without effect with"),
        (["--streaming", "--max_steps", "2", "--train_sampling_strategy", "group_by_length"], "group_by_length is without"),
        (["--streaming", "--max_steps", "2", "--train_sampling_strategy", "sequential"], "sequential is without"),
        (["--captions_per_image", "2", "--train_sampling_strategy", "sequential"], "sequential leaves rows where they are"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(shapes, options, extra, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", run_options(shapes, options, *extra))
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_pretraining_by_length_is_evaluated_in_order(shapes, options):
    results = []
    for strategy in ("group_by_length", "random"):
        extra = ["--eval_datasets", str(shapes / "captions"), "--do_eval", "--train_sampling_strategy", strategy]
        results.append(prepare(Pretraining, "", run_options(shapes, options, *extra))[0].evaluate())
    timing = ("time", "per_second")
    by_length, usual = ({k: v for k, v in found.items() if not k.endswith(timing)} for found in results)
    assert by_length == pytest.approx(usual)


def test_other_tasks_group_by_length_too(tmp_path, options):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    lines = [
        {"image": "1.png", "text": "a circle " * (1 + row % 9), "label": ["neutral", "entailment"][row % 2]}
        for row in range(64)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    argv = [
        *TWO_TOWER,
        *options,
        "--train_file",
        str(file),
        "--do_train",
        "--train_sampling_strategy",
        "group_by_length",
    ]
    trainer, *_ = prepare(SNLIVE, "", argv)
    lengths = [batch["attention_mask"].sum(dim=1) for batch in trainer.get_train_dataloader()]
    assert np.mean([float(rows.max() - rows.min()) for rows in lengths]) <= 4
