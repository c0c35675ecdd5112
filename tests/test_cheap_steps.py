"""What makes a training step cheaper leaves its results as they are."""

import copy

import pytest
import torch
from conftest import padded, pretraining_batch, tiny_batch, tiny_model, training_batch, without
from PIL import Image
from torch.multiprocessing.reductions import StorageWeakRef

from renaissance import TwoTowerConfig
from renaissance.modeling.layers import FeedForward
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData, MatchingData


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
    with pytest.raises(ValueError, match="this one-tower model has no vision encoder"):
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
