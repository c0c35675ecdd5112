"""The choice of the image transform: what each does to size, crop, mean and deviation; it is saved with the processor."""

import numpy as np
import pytest
from conftest import TINY_BERT, TWO_TOWER
from PIL import Image

from renaissance import RenaissanceProcessor
from renaissance.processing.transforms import TRANSFORMS
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


#: Mean and deviation of the channels, as the sources of each name have published them.
STATISTICS = {
    "vit": ([0.5] * 3, [0.5] * 3),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(256, size=(height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def with_transform(processor, name: str, size: int = 64) -> RenaissanceProcessor:
    tokenizer, vision = processor.tokenizer, processor.image_processor
    return RenaissanceProcessor.from_encoders(tokenizer, vision, image_size=size, image_transform=name)


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (96, 96), (40, 30)])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_middle_of_the_resized_image_is_normalised(processor, name, size):
    image, (mean, std) = picture(*size), STATISTICS[name]
    ours = with_transform(processor, name)
    shorter = min(size)
    resized = image.resize([int(64 * side / shorter) for side in size], Image.Resampling.BICUBIC)
    left, top = (resized.width - 64) // 2, (resized.height - 64) // 2
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64))) / 255
    expected = ((expected - mean) / std).transpose(2, 0, 1)
    found = ours(images=image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Collators leave it to the model to normalise, by the same numbers.
    raw = ours.process_images([image], as_uint8=True)["pixel_values"][0]
    shift, scale = (np.array(values)[:, None, None] for values in ours.pixel_statistics)
    assert raw.dtype == np.uint8 and abs((raw - shift) / scale - expected).max() < 2.5 / 255 / min(std)
    assert ours.image_shape == (64, 64)


def test_pixelbert_keeps_the_aspect_ratio(processor):
    """The shorter side has the size asked for and the longer one at most 1333 / 800 of it; both become multiples of 32."""
    ours = with_transform(processor, "pixelbert")
    for size, expected in (
        ((200, 100), (32, 96)),
        ((100, 125), (64, 64)),
        ((90, 200), (96, 32)),
        ((64, 64), (64, 64)),
    ):
        pixels = ours(images=picture(*size), return_tensors="np")["pixel_values"]
        assert pixels.shape == (1, 3, *expected), size
    both = ours(images=[picture(200, 100), picture(64, 64)], return_tensors="np")
    assert both["pixel_values"].shape == (2, 3, 64, 96)
    assert both["pixel_mask"][0].sum() == 32 * 96 and both["pixel_mask"][1].sum() == 64 * 64
    image = picture(64, 64)
    expected = (np.asarray(image) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(both["pixel_values"][1, :, :, :64], expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_it_is_saved_and_changed(processor, name, tmp_path):
    ours = with_transform(processor, name)
    ours.save_pretrained(tmp_path)
    again = RenaissanceProcessor.from_pretrained(tmp_path)
    image = picture(200, 120)
    expected = ours(images=image, return_tensors="np")["pixel_values"]
    assert np.array_equal(again(images=image, return_tensors="np")["pixel_values"], expected)
    again.configure(image_transform="clip")
    clip = with_transform(processor, "clip")(images=image, return_tensors="np")["pixel_values"]
    assert np.array_equal(again(images=image, return_tensors="np")["pixel_values"], clip)
    with pytest.raises(
        ValueError, match="image_transform: expected one of pixelbert, vit, imagenet, clip, got 'vilt'"
    ):
        again.configure(image_transform="vilt")


def test_a_checkpoint_keeps_its_transform(shapes, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train"]
    trainer, *_ = prepare(Pretraining, "", [*argv, "--image_transform", "clip"])
    mean, std = STATISTICS["clip"]
    assert trainer.model.config.pixel_mean == pytest.approx([255 * each for each in mean])
    assert trainer.model.config.pixel_deviation == pytest.approx([255 * each for each in std])
    trainer.save_model(str(tmp_path / "saved"))
    trainer.processing_class.save_pretrained(tmp_path / "saved")
    argv = [
        "--model_name_or_path",
        str(tmp_path / "saved"),
        *options[2:-2],
        "--dataset",
        str(shapes / "nlvr2"),
        "--do_train",
    ]
    for chosen, expected in (([], "clip"), (["--image_transform", "imagenet"], "imagenet")):
        again, *_ = prepare(NLVR2, "", [*argv, *chosen, "--output_dir", str(tmp_path / expected)])
        assert again.model.config.pixel_mean == pytest.approx([255 * each for each in STATISTICS[expected][0]])
        assert again.processing_class.image_shape == (32, 32)


ONE_TOWER = [
    "--architecture",
    "one-tower",
    "--encoder",
    "bert",
    "--random_init",
    "--encoder_overrides",
    TINY_BERT,
    "--patch_size",
]
PIXELBERT = ["--image_transform", "pixelbert", "--image_size"]


@pytest.mark.slow
def test_one_tower_takes_images_of_their_own_shapes(shapes, options):
    argv = [*ONE_TOWER, "8", *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--do_eval"]
    metrics = run_task(Pretraining, "", [*argv, *PIXELBERT, "64", "--max_steps", "2"])
    assert np.isfinite(metrics["eval_loss"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [*TWO_TOWER, *PIXELBERT, "64"],
            "image_transform: .*pads images, which a two-tower model cannot take; choose vit, imagenet or clip",
        ),
        (
            [*ONE_TOWER, "8", *PIXELBERT, "16"],
            "image_size: sides of images are multiples of 32 pixels, .* choose at least 32",
        ),
        (
            [*ONE_TOWER, "12", *PIXELBERT, "48"],
            "image_transform: sides of images are multiples of 32 pixels, .* patches of 12x12",
        ),
    ],
)
def test_models_that_cannot_take_such_images(argv, message, options):
    """It is said before data is read."""
    with pytest.raises(ValueError, match=message):
        prepare(Pretraining, "", [*argv, *options, "--train_datasets", "nowhere", "--do_train"])
