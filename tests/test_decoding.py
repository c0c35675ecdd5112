"""Pixels of 8 bits: those of the image processor, from every kind of file, and what a model makes of them."""

import io

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, TWO_TOWER, tiny_model
from datasets import Dataset, load_dataset
from PIL import Image
from transformers import CLIPImageProcessorPil, DeiTImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import PretrainingCollator, RowCollator
from renaissance.processing.decoding import Resizing, decode, named, to_rgb
from renaissance.tasks.data import schemas
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")

SQUARE = {"height": 32, "width": 32}
IMAGE_PROCESSORS = {
    "stretched": ViTImageProcessorPil(size={"height": 24, "width": 32}),
    "shorter side and middle": CLIPImageProcessorPil(
        size={"shortest_edge": 34}, crop_size={"height": 32, "width": 29}
    ),
    "stretched and middle": DeiTImageProcessorPil(size={"height": 37, "width": 36}, crop_size=SQUARE),
    "bicubic": SiglipImageProcessorPil(size=SQUARE),
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured blots with sharp edges, and some noise."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(blots).resize((width, height), Image.Resampling.NEAREST))
    return Image.fromarray(np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8))


def turned(image: Image.Image) -> Image.Exif:
    exif = image.getexif()
    exif[0x0112] = 6
    return exif


def file_of(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


#: Less than twice as large as any image processor here makes it: decoded in full.
PHOTO = picture(63, 45)
CLEAR = PHOTO.copy()
CLEAR.putalpha(Image.fromarray(np.arange(63 * 45, dtype=np.uint32).reshape(45, 63).astype(np.uint8)))
DEEP = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (45, 63), dtype=np.uint16))
FILES = {
    "JPEG": file_of(PHOTO, quality=90),
    "PNG": file_of(PHOTO, "PNG"),
    "WebP": file_of(PHOTO, "WEBP"),
    "grey": file_of(PHOTO.convert("L")),
    "CMYK": file_of(PHOTO.convert("CMYK")),
    "palette": file_of(PHOTO.quantize(16), "PNG"),
    "transparent": file_of(CLEAR, "PNG"),
    "16 bits": file_of(DEEP, "PNG"),
    "turned": file_of(PHOTO, exif=turned(PHOTO)),
    "tiny": file_of(picture(5, 3)),
    "narrow": file_of(picture(300, 11), "PNG"),
}


@pytest.mark.parametrize("image_processor", IMAGE_PROCESSORS.values(), ids=IMAGE_PROCESSORS)
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_pixels_are_those_of_the_image_processor(file, image_processor):
    image = to_rgb(Image.open(io.BytesIO(file)))
    expected = image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    assert expected.dtype == np.uint8
    resizing = Resizing.of(image_processor)
    for given in (file, {"bytes": file, "path": None}, image):
        pixels = resizing(given)
        assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
        difference = np.abs(pixels.astype(int) - expected)
        # By rounding, of the result and between height and width, which come in either order.
        assert difference.max() <= 3 and difference.mean() < 0.3


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size():
    resizing = Resizing((64, 96), None, "bilinear")
    image = picture(512, 384)
    assert decode(file_of(image)).size == (512, 384)
    assert decode(file_of(image), resizing).size == (128, 96)
    assert decode(file_of(image, progressive=True), resizing).size == (128, 96)
    # Turned, it is 384 by 512, a quarter of which is 96 by 128.
    assert decode(file_of(image, exif=turned(image)), resizing).size == (96, 128)
    assert decode(file_of(image, exif=turned(image)), Resizing((96, 128), None, "bilinear")).size == (192, 256)
    # The last column of pixels would be a part of one.
    assert decode(file_of(image.crop((0, 0, 511, 384))), resizing).size == (511, 384)
    assert decode(file_of(image, "PNG"), resizing).size == (512, 384)
    assert decode(file_of(image), Resizing((96, 128), None, "bilinear")).size == (128, 96)
    # What counts is the size before the middle is cut out, here 100 by 133.
    cropping = Resizing(100, (32, 32), "bicubic")
    assert decode(file_of(image), cropping).size == (256, 192)
    assert decode(file_of(image, exif=turned(image)), cropping).size == (192, 256)
    assert decode(file_of(image), Resizing(193, (32, 32), "bicubic")).size == (512, 384)


@pytest.mark.parametrize("options", [{}, {"exif": turned(PHOTO)}], ids=["upright", "turned"])
def test_a_fraction_shows_the_same(options):
    resizing = Resizing((24, 40), None, "bilinear")
    file = file_of(picture(512, 384), quality=95, **options)
    fraction, whole = resizing(file), resizing(decode(file))
    assert not np.array_equal(fraction, whole)
    assert np.abs(fraction.astype(int) - whole).mean() < 2


@pytest.mark.real_data
def test_a_fraction_of_photos_is_close(real_data):
    """The image processor's pixels and those of JPEGs at half their size, in levels of 255."""
    files = sorted((real_data / "coco" / "val2014").glob("*.jpg"))
    files = [file for file in files if Image.open(file).size == (320, 240)][:40]
    image_processor = ViTImageProcessorPil(size={"height": 112, "width": 112})
    resizing = Resizing.of(image_processor)
    assert decode(files[0].read_bytes(), resizing).size == (160, 120)
    means = []
    for file in files:
        stock = image_processor(to_rgb(str(file)), do_rescale=False, do_normalize=False)["pixel_values"][0]
        means.append(np.abs(resizing(file.read_bytes()).astype(int) - stock).mean())
    assert len(means) > 10 and np.mean(means) < 2 and max(means) < 3.5


STATISTICS = {
    "as published": {},
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False, "image_mean": [120.0, 110, 100], "image_std": [50.0, 60, 70]},
    "as they are": {"do_rescale": False, "do_normalize": False},
    "other range": {"rescale_factor": 1 / 127.5},
}


@pytest.mark.parametrize("options", STATISTICS.values(), ids=STATISTICS)
def test_a_model_normalises_as_the_image_processor_does(options, processor):
    made = RenaissanceProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, **options), processor.tokenizer
    )
    images = [picture(IMAGE_SIZE, IMAGE_SIZE, seed) for seed in range(3)]
    floats = torch.from_numpy(np.stack(made.process_images(images)["pixel_values"])).float()
    pixels = torch.from_numpy(np.stack(made.process_images(images, as_uint8=True)["pixel_values"]))
    assert pixels.dtype == torch.uint8
    mean, std = made.pixel_statistics
    for architecture in ("two-tower", "one-tower-vision"):
        base = tiny_model(architecture, pixel_mean=mean, pixel_deviation=std).base_model
        torch.testing.assert_close(base.normalised(pixels, torch.float32), floats, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            outputs = [base.encode_image(values).states for values in (pixels, floats)]
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


OTHERS = {
    "pads": ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8),
    "in its own way": ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    "another filter": ViTImageProcessorPil(size=SQUARE, resample=Image.Resampling.LANCZOS),
    "black margins": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=SQUARE),
}


@pytest.mark.parametrize("image_processor", OTHERS.values(), ids=OTHERS)
def test_other_image_processors_do_it_themselves(image_processor, processor):
    made = RenaissanceProcessor(image_processor, processor.tokenizer)
    assert made.pixel_statistics is None
    images = [Image.open(io.BytesIO(FILES[name])) for name in ("JPEG", "grey")]
    expected = made.process_images(images)
    assert expected["pixel_values"][0].dtype == np.float32
    for given in (images, [{"bytes": FILES[name], "path": None} for name in ("JPEG", "grey")]):
        found = made.process_images(given, as_uint8=True)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(np.stack(found[name]), np.stack(values))


def test_users_get_what_the_image_processor_makes(processor, tmp_path):
    """Bytes, paths and images are the same picture, normalised, decoded in full."""
    file = file_of(picture(512, 384))
    (tmp_path / "photo.jpg").write_bytes(file)
    image = Image.open(io.BytesIO(file))
    expected = np.stack(processor.image_processor(image)["pixel_values"])
    path = tmp_path / "photo.jpg"
    stored = {"bytes": file, "path": None}, {"bytes": None, "path": str(path)}
    for given in (image, np.asarray(image), file, path, str(path), *stored):
        np.testing.assert_array_equal(processor(images=given, return_tensors="np")["pixel_values"], expected)


def test_regions_are_of_the_whole_image(processor):
    """Boxes are in pixels of the image as it is stored, however little of it is left."""
    image = picture(512, 384)
    boxes = [[[10, 20, 300, 200], [400, 300, 20, 30]]]
    options = {"boxes": boxes, "as_uint8": True, "return_tensors": "np"}
    of_file = processor(images=[{"bytes": file_of(image, "PNG"), "path": None}], **options)
    of_image = processor(images=[image], **options)
    assert of_file["pixel_values"].dtype == np.uint8
    np.testing.assert_array_equal(of_file["pixel_values"], of_image["pixel_values"])


def test_a_broken_image_is_named(processor):
    broken = {"bytes": FILES["JPEG"][:300], "path": "photos/7.jpg"}
    rows = [{"image": image, "text": "a star"} for image in (FILES["JPEG"], broken)]
    with pytest.raises(ValueError, match=r"photos/7\.jpg: the image cannot be read \(Truncated"):
        RowCollator(processor)(rows)
    rows[1]["image"] = named(broken, "row 1")
    with pytest.raises(ValueError, match=r"row 1 \(photos/7\.jpg\): the image cannot be read"):
        RowCollator(processor)(rows)
    # A data set that has named it knows better.
    assert named(rows[1]["image"], "another")["name"] == "row 1 (photos/7.jpg)"
    with pytest.raises(ValueError, match="an image: the image cannot be read"):
        processor(images=b"no image", text="a star")


def test_data_sets_hand_out_files(shapes):
    pairs, captions = (open_split(str(shapes / name), "train") for name in ("nlvr2", "captions"))
    files = [str(shapes / "nlvr2" / "train-00000-of-00001.parquet")]
    stored = load_dataset("parquet", split="train", data_files=files)
    left, right = pairs.select([3])[0]["images"]
    assert left.keys() == right.keys() == {"bytes", "path"}
    assert np.array_equal(to_rgb(left), stored[3]["images"][0]) and np.array_equal(
        to_rgb(right), stored[3]["images"][1]
    )
    assert captions[0]["image"].keys() == {"bytes", "path"}
    # Where they were, not written anew.
    assert pairs.cache_files == stored.cache_files


def test_a_run_names_the_row_of_a_broken_image(shapes, options, tmp_path, refused):
    for split, rows in (("train", 16), ("validation", 10)):
        data = open_split(str(shapes / "nlvr2"), split).to_list()[:rows]
        if split == "train":
            data[11]["images"][1]["bytes"] = data[11]["images"][1]["bytes"][:200]
        Dataset.from_list(data, features=schemas.NLVR2).to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    argv = [*TWO_TOWER, *options, "--dataset", str(tmp_path), "--do_train", "--max_steps", "2"]
    assert "row 11: column 'images': the image cannot be read" in refused(run_task, NLVR2, "", argv)


def test_the_model_of_a_run_normalises_as_its_processor_does(shapes, options, processor):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "nlvr2"), "--do_eval"]
    trainer, *_ = prepare(NLVR2, "", argv)
    config = trainer.model.config
    assert (config.pixel_mean, config.pixel_deviation) == trainer.processing_class.pixel_statistics
    batch = next(iter(trainer.get_eval_dataloader()))
    assert batch["pixel_values"].dtype == torch.uint8
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_pretraining_batches_normalise_in_the_model(processor):
    model = tiny_model("two-tower", "ForPreTraining")
    images = [picture(IMAGE_SIZE, IMAGE_SIZE, seed) for seed in range(4)]
    rows = [
        {"image": image, "text": "a red circle", "image_id": str(row), "sample_id": row, "epoch": 0}
        for row, image in enumerate(images)
    ]
    batch = PretrainingCollator(processor)(rows)
    floats = batch | {"pixel_values": processor(images=images, return_tensors="pt")["pixel_values"]}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, model(**floats).loss, atol=1e-5, rtol=1e-5)
