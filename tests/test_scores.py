"""Scores are in single precision, computed in single precision, whatever the precision of the model: rounded ones tie."""

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER, pair_batch, tiny_batch, tiny_model, without

from renaissance.modeling.layers import ScoreLinear
from renaissance.tasks.preparation import prepare
from renaissance.tasks.scoring import cast_but_scores
from renaissance.tasks.snli_ve import SNLIVE


CLASSES = 200
HEADS = {
    "ForImageTextClassification": tiny_batch,
    "ForVisualQuestionAnswering": tiny_batch,
    "ForSequenceClassification": lambda: without(tiny_batch(), "pixel_values"),
    "ForImageClassification": lambda: {"pixel_values": tiny_batch()["pixel_values"]},
    "ForImagesAndTextClassification": pair_batch,
    "ForMaskedLM": tiny_batch,
}


def halved(batch: dict) -> dict:
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.items()}


def scores_of(model, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def ties(scores: torch.Tensor) -> int:
    """The number of scores of each row that another score of the row equals."""
    return sum(len(row) - len(row.unique()) for row in scores.flatten(0, -2))


@pytest.mark.parametrize("kind", HEADS)
def test_classes_of_a_model_in_half_precision_do_not_tie(kind, architecture):
    model, batch = tiny_model(architecture, kind, num_labels=CLASSES), HEADS[kind]()
    single = scores_of(model, batch)
    assert ties(single.bfloat16()) > 10 * max(1, ties(single))
    scores = scores_of(model.bfloat16(), halved(batch))
    assert scores.dtype == torch.float32 and ties(scores) <= ties(single)
    assert (scores - single).abs().max() < 0.1 * np.ptp(single.numpy())


@pytest.mark.parametrize("kind", HEADS)
def test_autocast_leaves_scores_alone(kind):
    model, batch = tiny_model("two-tower", kind, num_labels=CLASSES), HEADS[kind]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scores_of(model, batch)
    assert scores.dtype == torch.float32 and ties(scores) <= ties(scores_of(model, batch))


def nearly_equal(count: int) -> torch.Tensor:
    """Pixels (count, 3, 32, 32) that differ by a few thousandths."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 32, 32, generator=generator).expand(count, -1, -1, -1)
    return pixels + 0.02 * torch.randn(count, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("kind", ["ForReferenceResolution", "ForImageTextRetrieval", "ForPreTraining"])
def test_many_regions_or_images_of_a_text_do_not_tie(kind, architecture):
    model, texts = tiny_model(architecture, kind), without(tiny_batch(batch=1), "pixel_values")
    pixels = nearly_equal(CLASSES)
    if kind == "ForReferenceResolution":
        batch = texts | {"pixel_values": pixels[None]}
    elif kind == "ForImageTextRetrieval":
        batch = texts | {"pixel_values": pixels}
    else:
        batch = {name: value.expand(CLASSES, -1) for name, value in texts.items()} | {"pixel_values": pixels}

    def scores(batch):
        found = scores_of(model, batch)
        return (found["itm"][:, 1] if kind == "ForPreTraining" else found).reshape(1, -1)

    single = scores(batch)
    rounded = ties(single.bfloat16())
    model.bfloat16()
    half = scores(halved(batch))
    assert half.dtype == torch.float32 and rounded > 8 and ties(half) <= rounded / 4


def test_the_last_layer_keeps_its_weights_in_full_evaluation():
    """200 classes whose weights differ by less than half precision shows."""
    model, batch = tiny_model("two-tower", "ForImageTextClassification", num_labels=CLASSES), tiny_batch()
    out = model.classifier.out
    assert isinstance(out, ScoreLinear)
    with torch.no_grad():
        out.weight.copy_(out.weight[:1] + 1e-5 * torch.randn(out.weight.shape, generator=torch.manual_seed(0)))
        out.bias.zero_()
    single = scores_of(model, batch)
    cast_but_scores(model, torch.bfloat16)
    assert model.model.dtype == torch.bfloat16 and out.weight.dtype == torch.float32
    assert ties(scores_of(model, batch)) <= 2 * max(1, ties(single))
    assert ties(scores_of(model.bfloat16(), halved(batch))) > CLASSES


@pytest.mark.usefixtures("dataset_cache")
def test_a_run_casts_all_but_the_last_layers(shapes, options):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_eval", "--bf16_full_eval"]
    trainer = prepare(SNLIVE, "", argv)[0]
    assert trainer.args.bf16_full_eval
    output = trainer.predict(trainer.eval_dataset)
    types = {module: {own.dtype for own in module.parameters(recurse=False)} for module in trainer.model.modules()}
    last = [kinds for module, kinds in types.items() if isinstance(module, ScoreLinear)]
    others = [kinds for module, kinds in types.items() if kinds and not isinstance(module, ScoreLinear)]
    assert last == [{torch.float32}] and len(others) > 10 and all(kinds == {torch.bfloat16} for kinds in others)
    assert trainer.args.bf16_full_eval and output.metrics["test_rows"] == 10


def test_training_of_a_vocabulary_stays_in_half_precision():
    layer = ScoreLinear(4, 5, only_in_evaluation=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16
        assert layer.eval()(torch.ones(2, 4)).dtype == torch.float32
    assert ScoreLinear(4, 5).double()(torch.ones(2, 4)).dtype == torch.float64
