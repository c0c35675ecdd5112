"""The processor: every kind of image, several images a text, truncation, saving."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers
from conftest import IMAGE_SIZE
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.utils import is_torchvision_available

from renaissance import RenaissanceProcessor, TwoTowerForPreTraining
from renaissance.processing.collators import PretrainingCollator


def pixels_of(processor, image) -> np.ndarray:
    """The 8-bit RGB pixels (H, W, 3) that the processor made of an image."""
    values = processor(images=image, return_tensors="np")["pixel_values"][0]
    return np.rint((values * 0.5 + 0.5) * 255).astype(int).transpose(1, 2, 0)


def test_text_images_and_both(processor):
    image = Image.new("RGB", (50, 40))
    text = processor(text=["a red circle", "a star"], return_tensors="pt")
    assert set(text) == {"input_ids", "attention_mask"}
    tokens = [processor.tokenizer.convert_ids_to_tokens(row) for row in text["input_ids"].tolist()]
    assert tokens == [["[CLS]", "a", "red", "circle", "[SEP]"], ["[CLS]", "a", "star", "[SEP]", "[PAD]"]]
    assert text["attention_mask"].tolist() == [[1] * 5, [1] * 4 + [0]]
    other = Image.new("RGB", (50, 40), (255, 0, 51))
    pixels = processor(images=[image, other, image], return_tensors="pt")["pixel_values"]
    # From -1, of black, to 1.
    colours = torch.tensor([[-1.0, -1, -1], [1, -1, -0.6], [-1, -1, -1]])
    torch.testing.assert_close(pixels, colours[:, :, None, None].expand(3, 3, 32, 32))
    both = processor(images=other, text="a star", return_tensors="pt")
    assert torch.equal(both["input_ids"], text["input_ids"][1:, :4]) and torch.equal(both["pixel_values"], pixels[1:2])
    with pytest.raises(ValueError, match="got neither"):
        processor()


def test_output_fits_the_model(processor):
    from conftest import tiny_model

    inputs = processor(images=[Image.new("RGB", (50, 40))] * 2, text=["a red circle", "a star"], return_tensors="pt")
    assert torch.isfinite(tiny_model("two-tower")(**inputs).pooled).all()


def test_several_images_a_text(processor):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    values = processor(images=[[red, blue], [blue, red]], text=["a", "b"], return_tensors="pt")["pixel_values"]
    assert values.shape == (2, 2, 3, 32, 32)
    assert torch.equal(values[0, 0], values[1, 1]) and not torch.equal(values[0, 0], values[0, 1])
    with pytest.raises(ValueError, match=r"rows of \[1, 2\] images"):
        processor(images=[[red, blue], [blue]])


def test_modes_become_rgb(processor):
    colour = (200, 30, 90)
    rgb = Image.new("RGB", (32, 32), colour)
    np.testing.assert_array_equal(pixels_of(processor, rgb)[0, 0], colour)
    np.testing.assert_array_equal(pixels_of(processor, Image.new("L", (32, 32), 77))[0, 0], (77, 77, 77))
    np.testing.assert_allclose(pixels_of(processor, rgb.quantize(4))[0, 0], colour, atol=2)
    np.testing.assert_allclose(pixels_of(processor, rgb.convert("CMYK"))[0, 0], colour, atol=2)
    np.testing.assert_array_equal(pixels_of(processor, Image.new("RGBA", (32, 32), (*colour, 255)))[0, 0], colour)
    clear = Image.new("RGBA", (32, 32), (*colour, 0))
    np.testing.assert_array_equal(pixels_of(processor, clear)[0, 0], (255, 255, 255))
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([*colour, 0, 0, 0])
    palette.info["transparency"] = 0
    np.testing.assert_array_equal(pixels_of(processor, palette)[0, 0], (255, 255, 255))
    deep = Image.fromarray(np.full((32, 32), 77 * 256 + 5, dtype=np.uint16))
    np.testing.assert_array_equal(pixels_of(processor, deep)[0, 0], (77, 77, 77))


def test_exif_rotation(processor, tmp_path):
    """A picture taken with the camera turned: stored lying, to be shown upright."""
    stored = Image.new("RGB", (32, 16), "white")
    stored.paste("red", (0, 0, 16, 16))  # the left half, which is the top one once turned
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    pixels = pixels_of(processor, Image.open(tmp_path / "turned.png"))
    np.testing.assert_array_equal(pixels[2, 16], (255, 0, 0))
    np.testing.assert_array_equal(pixels[29, 16], (255, 255, 255))
    np.testing.assert_array_equal(pixels, pixels_of(processor, str(tmp_path / "turned.png")))


def test_long_text_is_truncated_and_said_once(tokenizer_folder, caplog):
    processor = RenaissanceProcessor.from_encoders(str(tokenizer_folder), max_length=6)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    ours = logging.getLogger("renaissance.processing.processing_renaissance")
    ours.addHandler(caplog.handler)
    try:
        for _ in range(3):
            ids = processor(text=["a red circle left of a blue square", "a star"])["input_ids"]
    finally:
        logger.removeHandler(caplog.handler)
        ours.removeHandler(caplog.handler)
    assert len(ids[0]) == 6 and ids[0][-1] == processor.tokenizer.sep_token_id
    assert len({r.message for r in caplog.records if "truncated" in r.message}) == 1
    assert "more than 6 tokens" in caplog.text


def test_saved_and_loaded(processor, tmp_path):
    from conftest import tiny_model

    tiny_model("two-tower", "ForPreTraining").save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, RenaissanceProcessor)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8))
    before, after = (p(images=image, text="two green squares", return_tensors="pt") for p in (processor, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert TwoTowerForPreTraining.from_pretrained(tmp_path)(**after).logits["itm"].shape == (1, 2)


class OfTensors(ViTImageProcessorPil):
    """Gives tensors, as image processors do if torchvision is installed."""

    def __call__(self, images, **options):
        made = super().__call__(images, **options)
        made["pixel_values"] = [torch.as_tensor(value) for value in made["pixel_values"]]
        return made


def test_several_images_a_text_of_an_image_processor_that_gives_tensors(processor):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8))
    tensors = RenaissanceProcessor(OfTensors(**processor.image_processor.to_dict()), processor.tokenizer)
    for given in ({"images": [[image, image]]}, {"images": [image], "boxes": [[[0, 0, 20, 20], [5, 5, 30, 30]]]}):
        found, expected = (p(**given, return_tensors="pt")["pixel_values"] for p in (tensors, processor))
        assert torch.equal(found, expected) and found.shape[:2] == (1, 2)


class WithTorchvision(OfTensors):
    """As of transformers beside torchvision: tensors, and other pixels."""

    backend = "torchvision"

    def __call__(self, images, **options):
        made = super().__call__(images, **options)
        made["pixel_values"] = [value + 0.01 for value in made["pixel_values"]]
        return made


def test_pixels_are_those_of_pillow_beside_torchvision(processor):
    settings = processor.image_processor.to_dict() | {"image_mean": [0.1, 0.2, 0.3], "resample": 3}
    expected = RenaissanceProcessor(ViTImageProcessorPil(**settings), processor.tokenizer)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8))
    # One of another package is left as it is.
    own = RenaissanceProcessor(WithTorchvision(**settings), processor.tokenizer).image_processor
    assert type(own) is WithTorchvision
    of_transformers = {"__module__": "transformers.models.vit.image_processing_vit"}
    given = type("ViTImageProcessor", (WithTorchvision,), of_transformers)(**settings)
    for made in (
        RenaissanceProcessor(given, processor.tokenizer),
        RenaissanceProcessor.from_encoders(processor.tokenizer, given),
    ):
        assert type(made.image_processor) is ViTImageProcessorPil
        found, wanted = (p(images=image, return_tensors="pt")["pixel_values"] for p in (made, expected))
        assert torch.equal(found, wanted)
        assert made.image_processor.to_dict() == expected.image_processor.to_dict()


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not installed")
@pytest.mark.parametrize("kind", ["ViT", "CLIP", "Siglip", "ConvNext", "Beit", "DeiT", "Vilt", "Bit", "LayoutLMv3"])
def test_pixels_beside_the_real_torchvision(kind, processor, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8))
    # transformers prefers this backend.
    given, pillow = (
        getattr(transformers, f"{kind}ImageProcessor")(),
        getattr(transformers, f"{kind}ImageProcessorPil")(),
    )
    if kind == "LayoutLMv3":
        given.apply_ocr = pillow.apply_ocr = False
    made, expected = (RenaissanceProcessor(each, processor.tokenizer) for each in (given, pillow))
    made.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    for each in (made, loaded):
        found, wanted = (p(images=image, return_tensors="pt")["pixel_values"] for p in (each, expected))
        assert torch.equal(found, wanted)
        assert each.image_processor.to_dict().keys() - {"auto_map"} == pillow.to_dict().keys()
    assert given.backend == "torchvision"


@pytest.mark.parametrize("kind", ["DINOv3ViTImageProcessorFast", "DINOv3ViTImageProcessor", "Tipsv2ImageProcessor"])
def test_image_processors_that_transformers_has_with_torchvision_only(kind, tokenizer_folder, tmp_path):
    """With and without torchvision they become one that resizes and normalises alike, with Pillow."""
    written = {
        "image_processor_type": kind, "do_resize": True, "size": {"height": 48, "width": 48}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
        "crop_size": None, "do_center_crop": None, "device": None, "data_format": "channels_first",
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    made = RenaissanceProcessor.from_encoders(str(tokenizer_folder), str(tmp_path))
    assert type(made.image_processor) is ViTImageProcessorPil and made.image_shape == (48, 48)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 60, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)) / 255
    expected = (expected - written["image_mean"]) / written["image_std"]
    found = made(images=image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_image_size_of_a_processor_that_crops(processor):
    cropping = RenaissanceProcessor(CLIPImageProcessorPil(), processor.tokenizer)
    assert cropping.image_shape == (224, 224)
    cropping.configure(image_size=64)
    assert cropping.image_shape == (64, 64)
    assert cropping(images=Image.new("RGB", (90, 70)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


def test_images_of_several_sizes_in_one_batch(processor):
    """ViLT's image processor keeps the sides' ratio and pads; the model computes for each image as for it alone."""
    from conftest import tiny_model

    padding = RenaissanceProcessor(ViltImageProcessorPil(size_divisor=8), processor.tokenizer)
    padding.configure(image_size=32)
    assert padding.image_shape is None
    noise = np.random.default_rng(0)
    wide, high = (Image.fromarray(noise.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((40, 60), (60, 40)))
    inputs = padding(images=[wide, high], text=["a red circle", "a star"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 48, 48) and inputs["pixel_mask"].shape == (2, 48, 48)
    model = tiny_model("one-tower-text")
    with torch.no_grad():
        together = model(**inputs).pooled
        alone = [model(**padding(images=wide, text="a red circle", return_tensors="pt")).pooled]
        alone += [model(**padding(images=high, text="a star", return_tensors="pt")).pooled]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    pairs = padding(images=[[wide, high], [high, wide]], text=["a", "b"], return_tensors="pt")
    assert pairs["pixel_values"].shape == (2, 2, 3, 48, 48) and pairs["pixel_mask"].shape == (2, 2, 48, 48)
    rows = [{"image": wide, "text": "a star", "image_id": "0", "sample_id": 0, "epoch": 0}]
    rows += [{"image": high, "text": "a star", "image_id": "1", "sample_id": 1, "epoch": 0}]
    batch = PretrainingCollator(padding)(rows)
    assert torch.equal(batch["pixel_mask"], inputs["pixel_mask"])
    assert torch.isfinite(tiny_model("one-tower-text", "ForPreTraining")(**batch).loss)


def test_a_model_normalises_each_channel_as_the_image_processor_does(processor):
    """Mean and deviation differ from channel to channel, which those of the usual test images do not."""
    from conftest import tiny_model

    statistics = {"image_mean": [0.1, 0.4, 0.7], "image_std": [0.2, 0.3, 0.6]}
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    made = RenaissanceProcessor(ViTImageProcessorPil(size=size, **statistics), processor.tokenizer)
    model = tiny_model("two-tower")
    made.fit(model)
    np.testing.assert_allclose(model.config.pixel_mean, np.array(statistics["image_mean"]) * 255)
    np.testing.assert_allclose(model.config.pixel_deviation, np.array(statistics["image_std"]) * 255)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8))
    with torch.no_grad():
        states = [
            model.encode_image(made(images=image, return_tensors="pt", as_uint8=as_uint8)["pixel_values"]).states
            for as_uint8 in (True, False)
        ]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)


def test_missing_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer at"):
        RenaissanceProcessor.from_encoders(str(tmp_path))


def test_an_image_processor_that_makes_other_sizes_is_replaced(tokenizer_folder, tmp_path):
    """DETR's keep the shape of an image: a batch of two would be no array. Mean and standard deviation stay."""
    DetrImageProcessorPil(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    made = RenaissanceProcessor.from_encoders(str(tokenizer_folder), str(tmp_path), image_size=IMAGE_SIZE)
    pixels = made(images=[Image.new("RGB", (40, 20)), Image.new("RGB", (20, 90))], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert list(made.image_processor.image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("kind", [ConvNextImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil])
def test_image_processors_of_other_encoders_take_an_image_size(kind, tokenizer_folder, tmp_path):
    kind().save_pretrained(tmp_path)
    made = RenaissanceProcessor.from_encoders(str(tokenizer_folder), str(tmp_path), image_size=64)
    assert type(made.image_processor) is kind
    pixels = made(images=[Image.new("RGB", (90, 70)), Image.new("RGB", (50, 120))], return_tensors="pt")[
        "pixel_values"
    ]
    assert pixels.shape == (2, 3, 64, 64)


def test_tokenizers_of_generating_models_pad_on_the_right(tokenizer_folder, processor, tmp_path, caplog):
    """They pad on the left, or have no padding token: the end-of-text token then is used, and masked."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.padding_side, tokenizer.pad_token, tokenizer.eos_token = "left", None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with caplog.at_level(logging.INFO, logger="renaissance.processing"):
        made = RenaissanceProcessor.from_encoders(str(tmp_path / "tokenizer"), image_size=IMAGE_SIZE)
    assert "no padding token: [SEP] is used" in caplog.text
    made.save_pretrained(tmp_path / "processor")
    for used in (made, AutoProcessor.from_pretrained(tmp_path / "processor")):
        found = used(text=["a red circle", "a star"], return_tensors="pt")
        expected = processor(text=["a red circle", "a star"], return_tensors="pt")
        assert torch.equal(found["attention_mask"], expected["attention_mask"])
        assert found["input_ids"][1, -1] == tokenizer.eos_token_id


def test_a_tokenizer_that_cannot_pad_is_refused(tokenizer_folder, processor):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has neither a padding token nor an end-of-text token to pad with"):
        RenaissanceProcessor(processor.image_processor, tokenizer)


def test_a_tokenizer_without_a_mask_token_cannot_mask(tokenizer_folder, processor):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask token, which masked language modelling needs"):
        PretrainingCollator(RenaissanceProcessor(processor.image_processor, tokenizer))


def test_one_text_has_no_batch_dimension_unless_tensors_are_asked_for(processor):
    """As from tokenizers and CLIP's processor: tools that mask words one by one read plain lists."""
    extra = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    one, several = processor(text="a red circle", **extra), processor(text=["a red circle"], **extra)
    assert processor.tokenizer.convert_ids_to_tokens(one["input_ids"]) == ["[CLS]", "a", "red", "circle", "[SEP]"]
    assert one["attention_mask"] == [1] * 5 and one["special_tokens_mask"] == [1, 0, 0, 0, 1]
    assert one["offset_mapping"] == [(0, 0), (0, 1), (2, 5), (6, 12), (0, 0)]
    assert {name: [value] for name, value in one.items()} == dict(several)
    for kind in ("pt", "np"):
        assert processor(text="a red circle", return_tensors=kind, **extra)["offset_mapping"].shape == (1, 5, 2)
    pair = processor(text="a red circle", text_pair="a star")
    assert pair["input_ids"] == processor.tokenizer("a red circle", "a star")["input_ids"]
    both = processor(images=Image.new("RGB", (50, 40)), text="a red circle")
    assert both["input_ids"] == one["input_ids"] and len(both["pixel_values"]) == 1


def test_options_in_groups_are_those_by_name(processor):
    """As sentence-transformers and other tools give them to any processor of transformers."""
    texts, picture = ["a red circle", "a"], Image.new("RGB", (40, 30), "red")
    groups = {"text_kwargs": {"padding": "max_length", "max_length": 9}, "images_kwargs": {"do_normalize": False}}
    nothing = {"audio_kwargs": {}, "videos_kwargs": None}
    found = processor(images=[picture] * 2, text=texts, **groups, **nothing, common_kwargs={"return_tensors": "pt"})
    by_name = {"padding": "max_length", "max_length": 9, "do_normalize": False, "return_tensors": "pt"}
    expected = processor(images=[picture] * 2, text=texts, **by_name)
    assert found["input_ids"].shape == (2, 9) and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("lost", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]])
def test_a_tokenizer_that_has_lost_its_vocabulary_is_refused(processor, tmp_path, lost):
    """transformers makes an empty one, to which all texts are the same."""
    processor.save_pretrained(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    with pytest.raises((ValueError, OSError)):
        RenaissanceProcessor.from_pretrained(tmp_path)
