"""Masked image modelling: what is covered, what is predicted, and of which encoders."""

import copy

import pytest
import torch
from conftest import CLASSES, TWO_TOWER, tiny_bert, tiny_model, tiny_vit
from PIL import Image
from test_labelled_objectives import classes, fit
from test_rows_of_any_kind import captions, exact_model, fitting_model, shuffled, weighed
from test_step import Refuse
from transformers import ResNetConfig, SwinConfig

from renaissance import OneTowerForPreTraining
from renaissance.modeling.objectives_masked_images import cell_of, cells_of
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData
from renaissance.processing.objectives_masked_images import MaskedImagesData
from renaissance.processing.transforms import make_transform
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining


def collated(processor, model, rows, **options) -> dict[str, torch.Tensor]:
    return PretrainingCollator(processor, fit(model.config, MaskedImagesData(**options)), seed=2)(rows)


@pytest.mark.parametrize(
    ("size", "states", "found"),
    [
        ((224, 224), 197, (16, 1)),
        ((224, 224), 198, (16, 2)),
        ((224, 224), 49, (32, 0)),
        ((224, 224), 261, (14, 5)),
        ((64, 64), 17, (16, 1)),
        ((32, 64), 9, (16, 1)),
        ((32, 32), 2, None),
        ((225, 225), 1, None),
    ],
)
def test_states_that_form_a_grid(size, states, found):
    assert cell_of(*size, states) == found


def test_the_loss_is_the_error_on_covered_pixels(processor, quick_architecture):
    """Of images with a text and without one, by hand, and by the metrics; the covered pixels are not seen."""
    model = exact_model(quick_architecture, processor, ["mim"])
    assert model.config.mim_cell == 8
    batch = collated(processor, model, shuffled(captions(2), classes(3)))
    assert batch["mim_masked"].shape == (5, 10) and len(batch["pixel_values"]) == 5
    output = model(**batch)
    index, masked = batch["mim_image_index"], batch["mim_masked"]
    pixels = (batch["pixel_values"][index].double() - 127.5) / 127.5
    losses = []
    for row in range(5):
        for place, cell in enumerate(masked[row].tolist()):
            true = pixels[row, :, cell // 4 * 8 : cell // 4 * 8 + 8, cell % 4 * 8 : cell % 4 * 8 + 8]
            losses.append((output.logits["mim"][row, place] - true.flatten()).abs().mean().item())
    assert output.loss.item() == pytest.approx(sum(losses) / 50, abs=1e-6)
    data = fit(model.config, MaskedImagesData())[0]
    sums, _ = data.collected(output.logits["mim"], batch)
    assert sums[:, 0].mean().item() == pytest.approx(output.loss.item(), abs=1e-6) and sums[:, 1].tolist() == [1] * 5

    changed = dict(batch, pixel_values=batch["pixel_values"].clone())
    cells = cells_of(torch.arange(32 * 32).view(1, 1, 32, 32), 8)[0]
    changed["pixel_values"].flatten(2)[index[0], :, cells[masked[0]].flatten()] = 0
    torch.testing.assert_close(model(**changed).logits["mim"], output.logits["mim"])
    seen = torch.tensor([cell for cell in range(16) if cell not in masked[0].tolist()])
    changed["pixel_values"].flatten(2)[index[0], :, cells[seen[0]]] += 100
    assert (model(**changed).logits["mim"][0] - output.logits["mim"][0]).abs().max() > 1e-3
    # The first images see their texts, the others none.
    others = dict(batch, input_ids=batch["input_ids"].roll(1, 1))
    differences = (model(**others).logits["mim"] - output.logits["mim"]).abs().amax(dim=(1, 2)) > 1e-6
    assert differences.tolist() == [True, True, False, False, False]


def test_a_mixed_batch_covers_as_its_parts_do(processor):
    model = exact_model("two-tower", processor, ["mlm", "mim"])
    data = [MaskedTextData(), *fit(model.config, MaskedImagesData(mim_square=2, mim_probability=0.3))]
    collator = PretrainingCollator(processor, data, seed=2)
    kinds = captions(3), [row | {"objectives": ("mlm",)} for row in captions(2, 30)], classes(3)
    mixed, counts = weighed(model, [collator(shuffled(*kinds))])
    parts, of_parts = weighed(model, [collator(rows) for rows in kinds])
    assert counts == of_parts and counts["mim"] == 6 * 4 and mixed == pytest.approx(parts, abs=1e-6)
    batch = collator(kinds[0])
    # The same images as they are, which masked words see, and with one square of 2x2 cells covered.
    assert len(batch["pixel_values"]) == 6 and torch.equal(batch["pixel_values"][:3], batch["pixel_values"][3:])
    corners = batch["mim_masked"][:, 0]
    assert torch.equal(batch["mim_masked"], corners[:, None] + torch.tensor([0, 1, 4, 5]))
    again, later = collator(kinds[0]), collator([row | {"epoch": 1} for row in kinds[0]])
    assert torch.equal(again["mim_masked"], batch["mim_masked"]) and not torch.equal(
        later["mim_masked"], batch["mim_masked"]
    )


def test_its_step_looks_at_no_value(processor, quick_architecture):
    model = fitting_model(quick_architecture, processor, ["mim"]).train()
    batch = collated(processor, model, shuffled(captions(2), classes(2)))
    with Refuse():
        model.to("meta")(**{name: value.to("meta") for name, value in batch.items()}).loss.backward()
    assert all((value.grad is not None) == value.requires_grad for value in model.parameters())


@pytest.mark.slow
def test_cells_of_a_hierarchical_encoder_are_predicted(processor):
    """Whose states are of squares of several patches. Of images of one colour each, the covered part follows from the rest."""
    swin = SwinConfig(image_size=32, patch_size=4, depths=[1, 1], num_heads=[1, 2], embed_dim=8, window_size=2)
    sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2, "pixel_mean": [127.5] * 3}
    model = CLASSES["two-tower", "ForPreTraining"].from_encoders(
        tiny_bert(), swin, objectives=["mim"], pixel_deviation=[127.5] * 3, **sizes
    )
    assert model.config.mim_cell == 8
    model.train()
    rows = [row | {"image": Image.new("RGB", (32, 32), (80 * row["sample_id"] % 256, 99, 9))} for row in classes(4)]
    batch = collated(processor, model, rows)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("side", "cell"), [(64, 32), (128, 32), (70, None), (400, None)])
@pytest.mark.parametrize("architecture", ["one-tower", "two-tower"])
def test_a_map_that_was_rounded_up_is_no_grid(architecture, side, cell):
    """The map of a stride of 32 has 3x3 cells of an image of 70 pixels, and 13x13 of one of 400: not those of 35 and of 40 pixels."""
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    make = {
        "one-tower": lambda: OneTowerForPreTraining.from_encoder(
            tiny_bert(), vision=resnet, image_size=side, objectives=["mim"]
        ),
        "two-tower": lambda: CLASSES["two-tower", "ForPreTraining"].from_encoders(
            tiny_bert(),
            copy_of(resnet, image_size=side),
            cross_modal_hidden_size=16,
            cross_modal_heads=2,
            objectives=["mim"],
        ),
    }[architecture]
    if cell:
        assert make().config.mim_cell == cell
    else:
        with pytest.raises(
            ValueError, match=f"of an image of {side}x{side} pixels, which form no grid of square cells"
        ):
            make()


def copy_of(config, **fields):
    """A configuration with other fields."""
    return type(config)(**config.to_dict() | fields)


def test_a_run_covers_squares_of_the_size_that_its_images_have(scenes, options):
    """The size follows from the encoder: the processor's own does not count."""
    vision = '{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 60, "patch_size": 20}'
    argv = [
        *TWO_TOWER,
        *options,
        "--vision_overrides",
        vision,
        "--objectives",
        "mim",
        "--do_train",
        "--max_steps",
        "1",
    ]
    trainer, *_ = prepare(Pretraining, "", [*argv, "--train_datasets", str(scenes / "cifar10")])
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.model.config.mim_cell == 20 and int(batch["mim_masked"].max()) < 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny_model("two-tower", "ForPreTraining", objectives=["mim"], frozen=["vision", "cross_modal"]).config, "frozen: vision and cross_modal"),
        (lambda: tiny_model("dual-encoder", "ForPreTraining", objectives=["mim"]), "objectives: mim needs texts that are fused"),
        (
            lambda: CLASSES["two-tower", "ForPreTraining"].from_encoders(tiny_bert(), tiny_vit(patch_size=32), objectives=["mim"]),
            "mim reads a grid of states, and the model has 2 states of an image of 32x32 pixels, which form no grid of square cells; choose",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        MaskedImagesData().fit(make())


def test_features_and_images_of_several_sizes_are_refused(processor):
    model = tiny_model("two-tower", "ForPreTraining", objectives=["mim"])
    batch = collated(processor, model, captions(2))
    features = model.model.vision_features(batch["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values: masked image modelling needs pixels, got features"):
        model(**{name: value for name, value in batch.items() if name != "pixel_values"}, image_features=features)
    with pytest.raises(ValueError, match="needs sides that are multiples of 8, got 32x28"):
        model(**batch | {"pixel_values": batch["pixel_values"][:, :, :, :28]})
    for side in (3, 4):
        fault = f"mim_square: squares of {side} cells of 8 pixels do not divide images of 32x32 pixels into several"
        with pytest.raises(ValueError, match=fault):
            collated(processor, model, captions(2), mim_square=side)
    padding = copy.copy(processor)
    padding.image_processor = make_transform("pixelbert", 32)
    with pytest.raises(ValueError, match="image_transform: masked image modelling needs images of one size"):
        collated(padding, model, captions(2))
    cached = [row | {"image": features[0].detach().half().numpy()} for row in captions(2)]
    with pytest.raises(ValueError, match="objectives: mim needs pixels, which cached features lack"):
        collated(processor, model, cached)
