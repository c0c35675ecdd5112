"""Augmentation: what it keeps, what it depends on, and that evaluation has none of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, TWO_TOWER
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from renaissance.processing.augmentation import OPERATIONS, RandAugment, RandomResizedCrop
from renaissance.processing.collators import AugmentingCollator, RowCollator
from renaissance.tasks.arguments import AugmentationArguments, RunArguments, model_arguments_class
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.parsing import parse_arguments, recipe_of, save_arguments
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


#: The basic colour terms of English, as CSS has them.
COLOURS = {
    name: np.array(rgb)
    for name, rgb in {
        "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "orange": (255, 165, 0),
        "pink": (255, 192, 203), "purple": (128, 0, 128), "brown": (150, 75, 0), "black": (0, 0, 0),
        "grey": (128, 128, 128), "white": (255, 255, 255),
    }.items()
}  # fmt: skip
#: All operations, one after the other, at full strength.
EVERYTHING = RandAugment(num_ops=len(OPERATIONS), magnitude=10)
BOTH = ["--augmentation", "randaugment", "random_resized_crop"]


def noise(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def centroid(image: Image.Image, colour: str) -> np.ndarray:
    """The mean place (x, y) of the pixels that are near a colour."""
    far = np.abs(np.asarray(image).astype(int) - COLOURS[colour]).max(axis=-1) > 60
    return np.argwhere(~far).mean(axis=0)[::-1]


# What the operations do


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_nothing_at_strength_0_and_something_at_1(name):
    image = noise()
    assert OPERATIONS[name](image, 0.0).tobytes() == image.tobytes()
    for strength in (-1.0, 1.0):
        changed = OPERATIONS[name](image, strength)
        assert (changed.tobytes() == image.tobytes()) == (name == "identity")
        assert changed.size == image.size and changed.mode == "RGB"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_treats_all_channels_alike(name):
    """So it has no colour of its own: it commutes with a change of channels, and greys stay grey."""
    pixels = np.asarray(noise())
    for strength in (-1.0, 0.7, 1.0):
        result = np.asarray(OPERATIONS[name](Image.fromarray(pixels), strength))
        rolled = np.asarray(OPERATIONS[name](Image.fromarray(np.roll(pixels, 1, axis=-1)), strength))
        assert (rolled == np.roll(result, 1, axis=-1)).all()
        grey = OPERATIONS[name](Image.fromarray(pixels[..., :1].repeat(3, axis=-1)), strength)
        assert (np.ptp(np.asarray(grey), axis=-1) == 0).all()


def test_geometric_operations_against_pil():
    image = noise(64, 40)
    turned = image.rotate(15, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    difference = np.asarray(OPERATIONS["rotate"](image, 1.0)).astype(int) - np.asarray(turned)
    assert np.abs(difference).max() <= 2
    left = np.asarray(OPERATIONS["translate_x"](noise(60, 30), 1.0))
    assert (left[:, :54] == np.asarray(noise(60, 30))[:, 6:]).all() and (left[:, 54:] == 128).all()
    up = np.asarray(OPERATIONS["translate_y"](noise(60, 30), 1.0))
    assert (up[:27] == np.asarray(noise(60, 30))[3:]).all() and (up[27:] == 128).all()
    # Shearing there and back, all but the edges: once to the right at the bottom, once to the left.
    smooth = Image.fromarray(np.linspace(0, 255, 60 * 60 * 3).reshape(60, 60, 3).astype(np.uint8)).convert("RGB")
    for name in ("shear_x", "shear_y"):
        back = OPERATIONS[name](OPERATIONS[name](smooth, 1.0), -1.0)
        difference = np.asarray(back).astype(int) - np.asarray(smooth)
        assert np.abs(difference[10:-10, 10:-10]).max() <= 3


def test_most_of_the_picture_stays_in_sight():
    for name, operation in OPERATIONS.items():
        for strength in (-1.0, 1.0):
            black = np.asarray(operation(Image.new("RGB", (200, 200)), strength))[..., 0] < 64
            assert black.mean() > 0.89, name


def test_tones_go_the_way_their_names_say():
    pixels = np.asarray(noise()).astype(float)
    results = {
        (name, strength): np.asarray(OPERATIONS[name](noise(), strength)).astype(float)
        for name in ("brightness", "contrast", "sharpness")
        for strength in (-1.0, 1.0)
    }
    assert (
        results["brightness", -1.0].mean() < pixels.mean() - 15 and results["brightness", 1.0].mean() > pixels.mean()
    )
    assert results["contrast", -1.0].std() < pixels.std() - 5 and results["contrast", 1.0].std() > pixels.std() + 5
    edges = {key: np.abs(np.diff(value, axis=1)).mean() for key, value in results.items()}
    assert edges["sharpness", -1.0] < np.abs(np.diff(pixels, axis=1)).mean() < edges["sharpness", 1.0]


@pytest.mark.parametrize("background", ["white", "black", "grey", "red", "green"])
def test_colours_keep_their_names(background):
    names, values = list(COLOURS), np.array(list(COLOURS.values()))
    for colour, rgb in COLOURS.items():
        image = Image.new("RGB", (40, 40), tuple(COLOURS[background]))
        image.paste(tuple(rgb), (10, 10, 30, 30))
        for seed in range(40):
            seen = np.array(EVERYTHING(image, np.random.default_rng(seed)).getpixel((20, 20)))
            nearest = names[np.linalg.norm(values - seen, axis=1).argmin()]
            assert nearest == colour, (seed, seen)


@pytest.mark.parametrize("augmentation", [EVERYTHING, RandomResizedCrop()], ids=["randaugment", "random_resized_crop"])
def test_nothing_is_flipped_or_changes_sides(augmentation):
    """Red is left of green and above blue, whatever happens to the picture."""
    image = Image.new("RGB", (120, 90), "white")
    for colour, box in (("red", (25, 20, 45, 40)), ("green", (75, 20, 95, 40)), ("blue", (25, 50, 45, 70))):
        image.paste(tuple(COLOURS[colour]), box)
    for seed in range(200):
        seen = augmentation(image, np.random.default_rng(seed))
        red, green, blue = (centroid(seen, colour) for colour in ("red", "green", "blue"))
        assert green[0] - red[0] > 20 and blue[1] - red[1] > 10


def test_randaugment_draws_every_operation_in_both_directions():
    image, rng = noise(), np.random.default_rng(0)
    draws = [RandAugment(num_ops=1, magnitude=5)(image, rng).tobytes() for _ in range(900)]
    for name, operation in OPERATIONS.items():
        shares = [draws.count(operation(image, strength).tobytes()) / len(draws) for strength in (-0.5, 0.5)]
        expected = 1 / 9 if name == "identity" else 1 / 18
        np.testing.assert_allclose(shares, expected, atol=0.035)


# What the crop keeps


def draw_crops(width: int, height: int) -> np.ndarray:
    """Left, top, right and bottom of a thousand crops (4, 1000) of 0.4 to 0.9 of the area, 3:4 to 4:3 in ratio."""
    crop, rng = RandomResizedCrop(scale=(0.4, 0.9), ratio=(3 / 4, 4 / 3)), np.random.default_rng(0)
    return np.array([crop.box(width, height, rng) for _ in range(1000)]).T


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 100)])
def test_the_crop_has_a_ratio_that_is_asked_for(size):
    left, top, right, bottom = draw_crops(*size)
    ratios = (right - left) / (bottom - top)
    assert ratios.min() > 0.73 and ratios.max() < 1.36


def test_the_crop_of_a_panorama_has_its_whole_short_side():
    _, top, _, bottom = draw_crops(900, 100)
    assert (top == 0).all() and (bottom == 100).all()
    left, _, right, _ = draw_crops(100, 900)
    assert (left == 0).all() and (right == 100).all()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 100), (900, 100), (100, 900)])
def test_the_crop_is_inside_and_as_large_as_asked(size):
    width, height = size
    left, top, right, bottom = draw_crops(width, height)
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    shares = (right - left) * (bottom - top) / (width * height)
    assert shares.min() > 0.39 and shares.max() < 0.91 and abs(shares.mean() - 0.65) < 0.02
    # Wherever it can be: at both ends and in the middle.
    free = (left + 0.5) / (width - (right - left) + 1)
    assert abs(free.mean() - 0.5) < 0.03


def test_the_crop_is_a_part_of_the_image():
    y, x = np.mgrid[:60, :80].astype(np.uint8)
    part = np.asarray(RandomResizedCrop()(Image.fromarray(np.stack([x, y, 0 * x], axis=-1)), np.random.default_rng(3)))
    left, top, _ = part[0, 0].astype(int)
    assert (part[..., 0] == np.arange(left, left + part.shape[1])).all()
    assert (part[..., 1] == np.arange(top, top + part.shape[0])[:, None]).all()
    assert part.shape[:2] != (60, 80)


def test_the_smallest_images(processor):
    for size in ((1, 1), (1, 50), (3, 2)):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            image = RandomResizedCrop()(EVERYTHING(noise(*size), rng), rng)
            assert processor(images=image)["pixel_values"][0].shape == (3, IMAGE_SIZE, IMAGE_SIZE)


# What the randomness depends on


def make_rows(count: int, training: bool = True, epoch: int = 0) -> list[dict]:
    """Rows of three images, which are all the same picture."""
    data = [{"images": [noise()] * 3, "text": "a red circle"} for _ in range(count)]
    rows = KeyedRows(data, training)
    rows.begin_epoch(epoch)
    return [rows[index] for index in range(count)]


@pytest.fixture
def collator(processor) -> AugmentingCollator:
    augmentations = [RandAugment(), RandomResizedCrop()]
    return AugmentingCollator(RowCollator(processor), augmentations, ("images",), seed=3)


def test_an_image_is_augmented_alike_whatever_the_batch(collator):
    pixels = collator(make_rows(4))["pixel_values"]
    assert torch.equal(collator(make_rows(4)[::-1])["pixel_values"].flip(0), pixels)
    assert torch.equal(collator(make_rows(4)[2:3])["pixel_values"][0], pixels[2])
    collator.seed = 4
    assert not torch.equal(collator(make_rows(4))["pixel_values"], pixels)
    collator.seed = 3
    assert not torch.equal(collator(make_rows(4, epoch=1))["pixel_values"], pixels)


def test_loader_processes_that_outlive_an_epoch_see_the_next():
    rows = KeyedRows([{}] * 3, training=True)
    loader = DataLoader(rows, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in range(3):
        rows.begin_epoch(epoch)
        seen = [row for batch in loader for row in batch]
        assert seen == [{"sample_id": i, "epoch": epoch, "training": True} for i in range(3)]


def test_every_image_has_its_own_draw(collator):
    pixels = collator(make_rows(4))["pixel_values"].flatten(0, 1)
    assert len({image.numpy().tobytes() for image in pixels}) == 12


def test_rows_and_their_images_are_not_changed(collator):
    rows = make_rows(2)
    collator(rows)
    assert all(image.tobytes() == noise().tobytes() for row in rows for image in row["images"])


def test_only_training_rows_are_augmented(collator):
    plain = collator.collator(make_rows(2))["pixel_values"]
    assert torch.equal(collator(make_rows(2, training=False))["pixel_values"], plain)
    mixed = collator([make_rows(2)[0], make_rows(2, training=False)[1]])["pixel_values"]
    assert not torch.equal(mixed[0], plain[0]) and torch.equal(mixed[1], plain[1])


def test_images_of_all_modes(collator):
    for mode in ("L", "RGBA", "P", "CMYK", "I;16"):
        image = Image.new(mode, (40, 30))
        assert collator.augment(image, np.random.default_rng(0)).mode == "RGB"


# Options


def parse(*argv: str) -> AugmentationArguments:
    groups = (model_arguments_class(), AugmentationArguments, RunArguments)
    return parse_arguments(groups, [*TWO_TOWER, "--do_train", *argv], "")[1]


def test_options_say_what_is_built():
    assert parse().build() == [] == parse("--augmentation", "none").build()
    assert parse("--augmentation", "randaugment").build() == [RandAugment(2, 9)]
    argv = ["--augmentation", "random_resized_crop", "randaugment", "--randaugment_num_ops", "3"]
    argv += ["--random_resized_crop_scale", "0.3", "0.8", "--randaugment_magnitude", "4.5"]
    assert parse(*argv).build() == [RandomResizedCrop([0.3, 0.8], [3 / 4, 4 / 3]), RandAugment(3, 4.5)]


def test_a_saved_run_has_what_was_used_and_repeats_it(tmp_path):
    arguments = parse("--augmentation", "random_resized_crop", "--random_resized_crop_ratio", "0.9", "1.1")
    assert arguments.random_resized_crop_scale == [0.5, 1.0] and arguments.randaugment_num_ops is None
    save_arguments(recipe_of((arguments,)), tmp_path / "run.yaml")
    recipe = (tmp_path / "run.yaml").read_text()
    assert "scale" in recipe and "randaugment" not in recipe
    assert parse_arguments((AugmentationArguments,), [str(tmp_path / "run.yaml")], "")[0] == arguments
    (tmp_path / "run.yaml").write_text("augmentation: randaugment\nrandaugment_magnitude: 5\n")
    assert parse_arguments((AugmentationArguments,), [str(tmp_path / "run.yaml")], "")[0].build() == [
        RandAugment(2, 5)
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--augmentation", "flip"], "augmentation: expected none, or some of randaugment, .* got flip"),
        (["--augmentation", "none", "randaugment"], "expected none alone, or each name once, got none randaugment"),
        (["--augmentation", "randaugment", "randaugment"], "each name once"),
        (["--randaugment_magnitude", "9"], "randaugment_magnitude: without effect if augmentation is none; leave"),
        (
            ["--augmentation", "randaugment", "--random_resized_crop_scale", "0.5", "1"],
            "random_resized_crop_scale: without effect if augmentation is randaugment; .* add random_resized_crop",
        ),
        ([*BOTH, "--randaugment_num_ops", "0"], "randaugment_num_ops: expected from 1 to 9, got 0"),
        ([*BOTH, "--randaugment_num_ops", "10"], "randaugment_num_ops: expected from 1 to 9"),
        ([*BOTH, "--randaugment_magnitude", "0"], "randaugment_magnitude: expected more than 0 and at most 10, got 0"),
        ([*BOTH, "--randaugment_magnitude", "11"], "randaugment_magnitude: .* got 11"),
        ([*BOTH, "--randaugment_magnitude", "nan"], "randaugment_magnitude: .* got nan"),
        ([*BOTH, "--random_resized_crop_scale", "0.5"], r"random_resized_crop_scale: expected .* got \[0.5\]"),
        ([*BOTH, "--random_resized_crop_scale", "0", "1"], "random_resized_crop_scale: expected"),
        ([*BOTH, "--random_resized_crop_scale", "0.5", "1.2"], "random_resized_crop_scale: expected"),
        ([*BOTH, "--random_resized_crop_scale", "0.9", "0.5"], "random_resized_crop_scale: expected"),
        ([*BOTH, "--random_resized_crop_scale", "1", "1"], "random_resized_crop_scale: .* not both 1"),
        ([*BOTH, "--random_resized_crop_ratio", "2", "1"], "random_resized_crop_ratio: expected"),
        ([*BOTH, "--random_resized_crop_ratio", "1", "inf"], "random_resized_crop_ratio: expected"),
    ],
)
def test_mistakes(argv, message):
    with pytest.raises(ValueError, match=message):
        parse(*argv)


# Whole runs


def task_argv(task: type, shapes: Path, options: list[str], *extra: str) -> list[str]:
    data = (
        ["--train_datasets", str(shapes / "captions")] if task is Pretraining else ["--dataset", str(shapes / "nlvr2")]
    )
    return [*TWO_TOWER, *options, *data, "--do_train", "--learning_rate", "1e-2", *extra]


@pytest.mark.parametrize("task", [Pretraining, pytest.param(NLVR2, marks=pytest.mark.slow)])
def test_a_resumed_run_repeats_the_augmentation(task, shapes, options, tmp_path):
    """Bit for bit, interrupted in its second epoch, with and without loader processes."""
    steps = {Pretraining: ("18", "17"), NLVR2: ("7", "6")}[task]
    whole = task_argv(task, shapes, options, "--max_steps", steps[0], "--save_steps", steps[1])

    def weights(folder: str, *extra: str) -> dict[str, torch.Tensor]:
        run_task(task, "", [*whole, "--output_dir", str(tmp_path / folder), *extra])
        return load_file(tmp_path / folder / "model.safetensors")

    checkpoint = f"checkpoint-{steps[1]}"
    expected = weights("whole", *BOTH)
    assert "randaugment_magnitude: 9" in (tmp_path / "whole" / "run.yaml").read_text()
    for folder, extra in (("resumed", BOTH), ("resumed-workers", [*BOTH, "--dataloader_num_workers", "2"])):
        shutil.copytree(tmp_path / "whole" / checkpoint, tmp_path / folder / checkpoint)
        again = weights(folder, *extra)
        assert again.keys() == expected.keys()
        assert all(torch.equal(again[name], expected[name]) for name in expected), folder
    shutil.copytree(tmp_path / "whole" / checkpoint, tmp_path / "plain" / checkpoint)
    plain = weights("plain", "--override_run")
    assert not all(torch.equal(plain[name], expected[name]) for name in expected)


def test_rows_carry_the_epoch_that_training_is_in(shapes, options):
    """4 steps an epoch; evaluation in between does not count."""
    argv = task_argv(NLVR2, shapes, options, "--max_steps", "10", "--eval_strategy", "epoch")
    trainer, *_ = prepare(NLVR2, "", argv)
    seen, collator = {True: [], False: []}, trainer.data_collator

    def recording(rows: list[dict]) -> dict[str, torch.Tensor]:
        for row in rows:
            seen[row["training"]].append((row["epoch"], row["sample_id"]))
        return collator(rows)

    trainer.data_collator = recording
    trainer.train()
    assert sorted(seen[True][:64]) == [(epoch, sample) for epoch in (0, 1) for sample in range(32)]
    assert {epoch for epoch, _ in seen[True][64:]} == {2}
    assert sorted(set(seen[False])) == [(0, sample) for sample in range(10)]


@pytest.mark.parametrize("task", [Pretraining, NLVR2])
def test_evaluation_is_not_augmented(task, shapes, options):
    batches = []
    for extra in ([], BOTH):
        trainer, _, data, _ = prepare(task, "", task_argv(task, shapes, options, "--do_eval", "--do_predict", *extra))
        loaders = (
            trainer.get_train_dataloader(),
            trainer.get_eval_dataloader(),
            trainer.get_test_dataloader(data["test"]),
        )
        batches.append([next(iter(loader)) for loader in loaders])
    (train, *plain), (augmented, *evaluated) = batches
    assert not torch.equal(train["pixel_values"], augmented["pixel_values"])
    assert torch.equal(train["input_ids"], augmented["input_ids"])
    for batch, expected in zip(evaluated, plain, strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_task_without_images_to_augment(shapes, options):
    class TextTask(NLVR2):
        augmentable = ()

    with pytest.raises(ValueError, match="augmentation: this task has no images that could be augmented"):
        prepare(TextTask, "", task_argv(TextTask, shapes, options, *BOTH))
