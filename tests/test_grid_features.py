"""Grid features: the last feature map of a convolutional encoder as the image part of a one-tower model's sequence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    IMAGE_SIZE,
    TINY_BERT,
    TINY_VIT,
    pretraining_batch,
    tiny_batch,
    tiny_bert,
    tiny_model,
    tiny_resnet,
    tiny_vit,
    training_batch,
)
from families import tiny_config
from safetensors.numpy import save_file
from safetensors.torch import load_file
from strangers import run_elsewhere
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from renaissance import OneTowerConfig, OneTowerForPreTraining, OneTowerModel
from renaissance.modeling.encoders import build_encoder
from renaissance.tasks.image_cache import arrays_of
from renaissance.tasks.optimization import CROSS_MODAL, TOWERS, parameter_places
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


TINY_RESNET = '{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}'
#: Options of a run that builds a tiny one-tower model on grid features.
GRID = [
    "--architecture", "one-tower", "--encoder", "bert", "--random_init", "--encoder_overrides", TINY_BERT,
    "--vision_encoder", "resnet", "--random_init_vision", "--vision_overrides", TINY_RESNET, "--image_size", "32",
]  # fmt: skip


def saved_encoder(config: PreTrainedConfig, folder: Path) -> str:
    """A folder with a random encoder, whose batch norms have seen something."""
    torch.manual_seed(1)
    encoder = build_encoder(config).train()
    encoder(pixel_values=torch.randn(4, 3, 64, 64))
    encoder.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    [
        "resnet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("convnext", "efficientnet", "mobilenet_v2", "regnet")
        ),
    ],
)
def test_cells_are_those_of_the_encoder_alone(family, tmp_path):
    """Of transformers' own model of the same checkpoint, row by row; behind them come a layer norm, a projection and positions."""
    folder = saved_encoder(tiny_config(family, text=False), tmp_path)
    model = OneTowerModel.from_encoder(tiny_bert(), vision=folder, image_size=96)
    pixels = torch.randn(2, 3, 96, 96)
    expected = AutoModel.from_pretrained(folder)(pixels).last_hidden_state
    cells = torch.stack([expected[:, :, row, column] for row in range(3) for column in range(3)], dim=1)
    torch.testing.assert_close(model.vision_features(pixels), cells)
    torch.nn.init.normal_(model.image_embeddings.position_embeddings)
    embedded = model.image_embeddings
    normed = torch.nn.functional.layer_norm(cells, cells.shape[-1:])
    states = normed @ embedded.patch_embeddings.weight.flatten(1).T + embedded.patch_embeddings.bias
    states = states + embedded.position_embeddings[:, 1:]
    torch.testing.assert_close(model.encode_image(pixels).states[:, 1:], states, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_stand_in_for_pixels():
    model, batch = tiny_model("one-tower-grid"), tiny_batch()
    features = model.vision_features(batch["pixel_values"])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**text, image_features=features).pooled, model(**batch).pooled)
    mask = torch.ones(3, IMAGE_SIZE, IMAGE_SIZE)
    for inputs, message in (
        ({"image_features": features, "pixel_values": batch["pixel_values"]}, "expected one of them"),
        ({"image_features": features[..., :3]}, "the width of the vision encoder"),
        ({"image_features": features[:, :15]}, "15 cells are not those of a square image"),
        ({"image_features": features, "pixel_mask": mask}, "images without padding"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**text, **inputs)
    with pytest.raises(ValueError, match="8 cells are not those of a square image"):
        model.vision_features(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ValueError, match="this one-tower model has no vision encoder"):
        tiny_model("one-tower-text")(**text, image_features=features)


def test_a_frozen_encoder_stands_still_and_its_embeddings_train(tmp_path):
    """Also the statistics of its batch norms."""
    model = tiny_model("one-tower-grid", "ForPreTraining").train()
    model.freeze("vision")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model(**pretraining_batch()).loss.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if "vision_encoder" in name]
    assert {"model.image_embeddings.patch_embeddings.weight", "model.image_embeddings.layer_norm.weight"} <= moved
    model.unfreeze()
    model.freeze("vision:-1")
    last = model.model.layers("vision")[-1]
    assert all(each.requires_grad for each in last.parameters())
    assert not any(each.requires_grad for each in model.model.layers("vision")[0].parameters())
    model.save_pretrained(tmp_path)
    assert OneTowerForPreTraining.from_pretrained(tmp_path).config.frozen == ["vision:-1"]


def test_learning_rates_of_its_parts():
    """The encoder's stages are layers, and what embeds its cells joins two encoders."""
    model = tiny_model("one-tower-grid", "ForPreTraining")
    places = {name: parameter_places(model)[each] for name, each in model.named_parameters()}
    vision = {place for name, place in places.items() if "vision_encoder" in name}
    assert vision == {(TOWERS["vision"], above) for above in (0, 1, 2)}
    assert {place for name, place in places.items() if "image_embeddings" in name} == {(CROSS_MODAL, 0)}
    assert {place for name, place in places.items() if "text_embeddings" in name} == {(TOWERS["cross_modal"], 2)}


def test_weights_of_both_encoders_are_taken_over(tmp_path):
    vision = saved_encoder(tiny_resnet(), tmp_path / "resnet")
    torch.manual_seed(2)
    build_encoder(tiny_bert()).save_pretrained(tmp_path / "bert")
    model = OneTowerModel.from_encoder(str(tmp_path / "bert"), vision=vision, image_size=IMAGE_SIZE)
    of_vision, of_text = (load_file(tmp_path / name / "model.safetensors") for name in ("resnet", "bert"))
    for name, value in model.vision_encoder.state_dict().items():
        assert torch.equal(value, of_vision[name]), name
    assert torch.equal(model.text_embeddings.word_embeddings.weight, of_text["embeddings.word_embeddings.weight"])
    assert model.config.weights_from.keys() == {"encoder", "vision"}
    random = OneTowerModel.from_encoder(
        tiny_bert(), vision=vision, random_init_vision=True, vision_overrides={"depths": [2, 1]}, image_size=32
    )
    assert random.config.vision_config.depths == [2, 1] and random.config.weights_from == {}


@pytest.mark.parametrize(
    ("encoder", "arguments", "message"),
    [
        ("bert", {"vision": tiny_resnet(), "image_size": 8}, "on images of 8x8 pixels: its last feature map has one cell"),
        ("bert", {"vision": tiny_vit()}, "vit cannot be a grid encoder .*sequence of states, not a feature map"),
        ("bert", {"vision": tiny_bert()}, "bert cannot be a grid encoder .*does not take pixel_values"),
        ("vit", {"vision": tiny_resnet()}, "vision_encoder: the encoder, vit, is one of images itself"),
        ("bert", {"vision": tiny_resnet(), "patch_size": 8}, "patch_size: without effect with a vision_encoder"),
        ("bert", {"vision_overrides": {"depths": [1]}}, "vision_overrides: without effect without vision_encoder"),
        ("bert", {"random_init_vision": True}, "random_init_vision: without effect without vision_encoder"),
        ("bert", {"vision": "resnet"}, "vision encoder 'resnet' has no pretrained weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(encoder, arguments, message):
    config = {"bert": tiny_bert, "vit": tiny_vit}[encoder]()
    with pytest.raises(ValueError, match=message):
        OneTowerModel.from_encoder(config, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--image_size", "8"], "its last feature map has one cell; choose a larger image_size"),
        (["--vision_encoder", "vit", "--vision_overrides", TINY_VIT], "sequence of states, not a feature map"),
        (["--encoder", "vit", "--encoder_overrides", "{}"], "vision_encoder: the encoder, vit, is one of images itself"),
        (["--patch_size", "8"], "patch_size: without effect with a vision_encoder"),
        (["--cache_frozen_features", "cache"], "freeze all of it with freeze: [vision]"),
        (["--cache_frozen_features", "cache", "--freeze", "vision", "--image_transform", "pixelbert"], "images of many sizes"),
        (["--vision_overrides", '{"hidden_size": 3}'], "vision encoder overrides: a resnet configuration has no field hidden_size"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_runs(
    changes, message, shapes, options, refused, tmp_path
):
    argv = [*GRID, *options, "--train_datasets", str(shapes / "captions"), "--do_train", *changes]
    assert message in refused(run_task, Pretraining, "", argv)
    assert not (tmp_path / "run").exists()


def test_options_of_an_encoder_that_is_not_there(shapes, options, refused):
    argv = ["--architecture", "one-tower", "--encoder", "bert", "--random_init", "--random_init_vision"]
    argv += [*options, "--train_datasets", str(shapes / "captions"), "--do_train"]
    assert "random_init_vision: without effect without vision_encoder" in refused(run_task, Pretraining, "", argv)


@pytest.mark.slow
def test_pretraining_finetuning_and_prediction(shapes, options, tmp_path):
    """Images may have another size in finetuning, and keep their aspect ratio in pretraining."""
    argv = [*GRID, "--image_transform", "pixelbert", "--train_datasets", str(shapes / "captions"), "--do_train"]
    metrics = run_task(Pretraining, "", [*argv, *options, "--max_steps", "3", "--do_eval", "--image_size", "64"])
    assert metrics["eval_loss"] > 0
    pretrained, final = tmp_path / "run", tmp_path / "final"
    argv = ["--model_name_or_path", str(pretrained), "--dataset", str(shapes / "snli_ve"), "--image_size", "96"]
    argv += [
        *options[: options.index("--tokenizer")],
        "--output_dir",
        str(final),
        "--do_train",
        "--do_predict",
        "--max_steps",
        "2",
    ]
    run_task(SNLIVE, "", argv)
    assert len((final / "predictions.csv").read_text().splitlines()) == 10
    card = (final / "README.md").read_text()
    assert "| vision encoder | random (resnet) |" in card and "cross-modal layers" not in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ForPreTraining", "ForImagesAndTextClassification", "ForImageTextClassification"])
def test_training_reduces_the_loss(kind):
    model, batch = tiny_model("one-tower-grid", kind).train(), training_batch(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_features_are_written_cell_by_cell(tmp_path):
    """In the memory of a feature map, all cells of a channel come first."""
    model, pixels = tiny_model("one-tower-grid"), tiny_batch()["pixel_values"]
    expected = model.vision_features(pixels).numpy()
    made = arrays_of([pixels], lambda batch: model.vision_features(batch).numpy(), tqdm(disable=True))
    save_file({"features": made}, tmp_path / "features.safetensors")
    assert np.array_equal(load_file(tmp_path / "features.safetensors")["features"].numpy(), expected)


@pytest.mark.slow
def test_a_cache_changes_nothing_in_training(shapes, options, tmp_path):
    argv = [
        *GRID,
        *options,
        "--train_datasets",
        str(shapes / "captions"),
        "--freeze",
        "vision",
        "--do_train",
        "--do_eval",
    ]
    argv += ["--max_steps", "3", "--learning_rate", "1e-2", "--initializer_range", "0.3"]
    cache = ["--cache_frozen_features", str(tmp_path / "cache")]
    plain, first, second = (
        run_task(Pretraining, "", [*argv, *more, "--output_dir", str(tmp_path / name)])
        for name, more in (("plain", []), ("first", cache), ("second", cache))
    )
    for name in ("train_loss", "eval_loss", "eval_mlm_loss", "eval_itm_loss"):
        assert second[name] == first[name] == pytest.approx(plain[name], rel=5e-4)


@pytest.mark.slow
def test_a_resumed_run_repeats_the_whole_one(shapes, options, tmp_path):
    """With its batch norms, which are no parameters."""
    argv = [*GRID, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--learning_rate", "1e-2"]
    argv += ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]
    run_task(SNLIVE, "", [*argv, "--output_dir", str(tmp_path / "whole")])
    (tmp_path / "part").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "part" / "checkpoint-2")
    run_task(SNLIVE, "", [*argv, "--output_dir", str(tmp_path / "part")])
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert any("running_mean" in name for name in whole)
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def load_elsewhere(folder: str) -> None:
    """What a process does that cannot import renaissance."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")
    inputs = torch.load(f"{folder}/inputs.pt")
    with torch.no_grad():
        torch.save(model(**inputs).pooled, f"{folder}/pooled.pt")


@pytest.mark.slow
def test_it_loads_where_the_package_is_not_installed(tmp_path):
    model, batch = tiny_model("one-tower-grid"), tiny_batch()
    folder = tmp_path / "model"
    (tmp_path / "process").mkdir()
    model.save_pretrained(folder)
    torch.save(batch, folder / "inputs.pt")
    run_elsewhere(tmp_path / "process", load_elsewhere, folder)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(folder / "pooled.pt"), model(**batch).pooled)


@torch.no_grad()
def test_padding_of_images_changes_neither_features_nor_batches():
    """What the image processor of Pixel-BERT's layout pads."""
    model = tiny_model("one-tower-grid", pixel_mean=None, pixel_deviation=None)
    processor = ViltImageProcessorPil(size={"shortest_edge": 64}, size_divisor=32)
    images = [
        torch.randint(0, 256, size, dtype=torch.uint8).numpy() for size in ((64, 96, 3), (64, 64, 3), (96, 64, 3))
    ]
    together = processor(images, return_tensors="pt")
    assert together["pixel_mask"].min() == 0
    found = model(**together)
    for row, image in enumerate(images):
        alone = processor([image], return_tensors="pt")
        torch.testing.assert_close(model(**alone).pooled[0], found.pooled[row], atol=1e-5, rtol=1e-5)
        without = model(pixel_values=alone["pixel_values"])
        torch.testing.assert_close(without.pooled[0], found.pooled[row], atol=1e-5, rtol=1e-5)


def test_a_cell_of_zeros_keeps_gradients_small():
    """Such as a ReLU gives: divided by BERT's epsilon they would be a thousand times as large."""
    model = tiny_model("one-tower-grid")
    features = torch.zeros(1, 16, 16, requires_grad=True)
    model(input_ids=torch.ones(1, 3, dtype=torch.long), image_features=features).pooled.sum().backward()
    assert 0 < features.grad.abs().max() < 1e3


def test_the_configuration_says_what_images_it_takes():
    config = OneTowerConfig.from_encoder(tiny_bert(), vision=tiny_config("convnext", text=False), image_size=64)
    assert (config.image_size, config.patch_size, config.num_channels) == (64, None, 3)
    again = OneTowerConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict() and again.vision_config.model_type == "convnext"
    assert OneTowerConfig.from_encoder(tiny_bert(), vision=tiny_config("efficientnet", text=False)).image_size == 32
    assert [slot.name for slot in config.encoders()] == ["encoder", "vision"]
    assert [slot.name for slot in OneTowerConfig.from_encoder(tiny_bert()).encoders()] == ["encoder"]
