"""Arrays and tensors as images: every shape, type and range of values, and those that are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import RowCollator


#: (H, W): 3 pixels high, 50 wide, as thin as an image has channels.
HIGH, WIDE = 3, 50
DRAW = np.random.default_rng(0)
RGB = DRAW.integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], RGB[..., 1]
CLEAR = np.dstack([RGB, ALPHA])


def grey3(grey):
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=2)


def on_white(colours):
    return np.rint(colours * (ALPHA / 255)[..., None] + 255 * (1 - (ALPHA / 255)[..., None])).astype(np.uint8)


@pytest.fixture
def at_size(processor):
    """A processor that leaves images of `HIGH` by `WIDE` pixels as they are."""
    return RenaissanceProcessor(ViTImageProcessorPil(size={"height": HIGH, "width": WIDE}), processor.tokenizer)


def shown(processor, image, **options) -> np.ndarray:
    """The pixels (H, W, 3) that the processor makes of one image, normalised and as 8 bits, which must agree."""
    values = np.asarray(processor(images=image, **options)["pixel_values"])
    assert len(values) == 1
    pixels = np.asarray(processor(images=image, as_uint8=True, **options)["pixel_values"])
    np.testing.assert_array_equal(np.rint((values * 0.5 + 0.5) * 255), pixels)
    return pixels[0].transpose(1, 2, 0)


SHAPES = {
    "(H, W)": (GREY, grey3(GREY)),
    "(H, W, 1)": (GREY[..., None], grey3(GREY)),
    "(H, W, 2)": (np.dstack([GREY, ALPHA]), on_white(grey3(GREY))),
    "(H, W, 3)": (RGB, RGB),
    "(H, W, 4)": (CLEAR, on_white(RGB)),
    "not contiguous": (RGB[:, ::-1], RGB[:, ::-1]),
}


@pytest.mark.parametrize("array, pixels", SHAPES.values(), ids=SHAPES)
def test_an_array_of_each_shape_shows_its_image(at_size, array, pixels):
    """Three pixels high: (3, 50, C) could have three channels first, and does not in an array."""
    assert np.abs(shown(at_size, array).astype(int) - pixels).max() <= 1
    assert np.abs(shown(at_size, [array]).astype(int) - pixels).max() <= 1
    assert np.abs(shown(at_size, array, input_data_format="channels_last").astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("name", ["(H, W, 1)", "(H, W, 2)", "(H, W, 3)", "(H, W, 4)"])
def test_channels_are_first_in_tensors_and_if_asked_for(at_size, name):
    array, pixels = SHAPES[name]
    first = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    tensor = torch.from_numpy(first)
    for given in (tensor, tensor.float() / 255):
        assert np.abs(shown(at_size, given).astype(int) - pixels).max() <= 1
    for given in (first, tensor):
        found = shown(at_size, given, input_data_format="channels_first")
        assert np.abs(found.astype(int) - pixels).max() <= 1


def test_channels_may_be_first_if_the_shape_says_so(processor):
    made = RenaissanceProcessor(ViTImageProcessorPil(size={"height": 20, "width": 30}), processor.tokenizer)
    picture = DRAW.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for given in (picture, picture.transpose(2, 0, 1)):
        np.testing.assert_array_equal(shown(made, given), picture)
        np.testing.assert_array_equal(shown(made, torch.from_numpy(given.copy())), picture)
        # A batch of one.
        np.testing.assert_array_equal(shown(made, given[None]), picture)


RANGES = {
    "truth values": (GREY > 127, (GREY > 127) * 255),
    "uint8": (GREY, GREY),
    "uint16": (GREY.astype(np.uint16) * 257, GREY),
    "uint16, dark": (GREY.astype(np.uint16), GREY * 0),
    "uint16, other byte order": (GREY.astype(">u2") * 257, GREY),
    "int64 of 8 bits": (GREY.astype(np.int64), GREY),
    "int32 of 16 bits": (GREY.astype(np.int32) * 257, GREY),
    "int16": (GREY.astype(np.int16), GREY),
    "float64 to 1": (GREY / 255, GREY),
    "float32 to 1": ((GREY / 255).astype(np.float32), GREY),
    "float32 to 255": (GREY.astype(np.float32), GREY),
    "float64 to 65535": (GREY * 257.0, GREY),
    "halves": (np.full((HIGH, WIDE), 0.5), np.full((HIGH, WIDE), 128)),
    "black": (np.zeros((HIGH, WIDE)), GREY * 0),
    "white": (np.ones((HIGH, WIDE)), GREY * 0 + 255),
}


@pytest.mark.parametrize("values, levels", RANGES.values(), ids=RANGES)
def test_values_of_each_type_become_levels(at_size, values, levels):
    np.testing.assert_array_equal(shown(at_size, values), grey3(levels))
    np.testing.assert_array_equal(shown(at_size, np.dstack([values] * 3)), grey3(levels))


@pytest.mark.parametrize(
    "dtype, white", [(torch.float16, 1), (torch.bfloat16, 1), (torch.float64, 1), (torch.int64, 255), (torch.bool, 1)]
)
def test_tensors_of_each_type_become_levels(at_size, dtype, white):
    bits = GREY > 127
    tensor = (torch.from_numpy(bits) * white).to(dtype).expand(3, HIGH, WIDE)
    np.testing.assert_array_equal(shown(at_size, tensor), grey3(bits * 255))


def test_a_tensor_with_a_gradient_is_an_image(at_size):
    tensor = (torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_()
    np.testing.assert_array_equal(shown(at_size, tensor), RGB)


@pytest.mark.parametrize(
    "array, fault",
    [
        (RGB[0, 0], r"its shape is \(3,\): expected \(H, W\), \(H, W, C\) or \(C, H, W\)"),
        (np.zeros((7, 8, 9)), r"its shape is \(7, 8, 9\)"),
        (np.zeros((0, 8, 3)), r"its shape is \(0, 8, 3\)"),
        (np.zeros((0, 8)), r"its shape is \(0, 8\)"),
        (np.zeros((1, 2, 3, 4, 5)), r"its shape is \(1, 2, 3, 4, 5\)"),
        (
            GREY / 255 - 0.5,
            r"its values go from -0\.\d+ to 0\.\d+: expected 0 to 1 \(floats\), 0 to 255 or 0 to 65535",
        ),
        (GREY / 255 * 1.02, r"its largest value is 1\.\d+: expected up to 1, or levels up to 255"),
        (
            GREY / GREY.max() * 255.4,
            r"its largest value is 255\.4: expected up to 255, or 16 bits up to 65535; clip the values",
        ),
        ((GREY / GREY.max() * 256).astype(np.float32), r"its largest value is 256: expected up to 255"),
        (torch.full((3, HIGH, WIDE), 258.0, dtype=torch.bfloat16), "its largest value is 258: expected up to 255"),
        (np.full((HIGH, WIDE), 509, dtype=np.int16), "its largest value is 509: expected up to 255"),
        (np.where(GREY > 3, np.nan, 0.5), "go from nan to nan"),
        (np.where(GREY > 3, np.inf, 0.5), "to inf"),
        (GREY.astype(np.int64) * 1000, "to 255000|to 25[0-9]000"),
        (GREY.astype(complex), "of type complex128: expected numbers"),
        (GREY.astype(str), "of type <U3: expected numbers"),
    ],
)
def test_what_is_no_image_is_refused(at_size, array, fault):
    for as_uint8 in (False, True):
        with pytest.raises(ValueError, match=f"an image: the image cannot be read .*({fault})"):
            at_size(images=array, as_uint8=as_uint8)
    with pytest.raises(ValueError, match=f"image 1: the image cannot be read .*({fault})"):
        at_size(images=[RGB, array])


def test_the_layout_that_is_asked_for_must_fit(at_size):
    with pytest.raises(ValueError, match=r"its shape is \(3, 50, 5\): expected \(H, W, C\)"):
        at_size(images=np.zeros((3, 50, 5)), input_data_format="channels_last")
    with pytest.raises(ValueError, match=r"its shape is \(5, 50, 3\): expected \(C, H, W\)"):
        at_size(images=np.zeros((5, 50, 3)), input_data_format="channels_first")
    with pytest.raises(
        ValueError, match="input_data_format: expected channels_first or channels_last, got 'sideways'"
    ):
        at_size(images=RGB, input_data_format="sideways")


@pytest.mark.parametrize("thing", [7, None, {"bytes": b"no path"}, object()])
def test_other_things_are_no_images(at_size, thing):
    with pytest.raises(ValueError, match="image 1: expected a PIL image, an array, a tensor, a path or the bytes"):
        at_size(images=[RGB, thing])


def test_batches_of_arrays_and_several_a_text(at_size):
    """Four dimensions are a list of images; rows of images stay rows."""
    batch = np.stack([RGB, RGB[::-1], RGB[:, ::-1]])
    expected = at_size(images=[Image.fromarray(image) for image in batch], return_tensors="np")["pixel_values"]
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    for given in (batch, tensors, list(batch), list(tensors)):
        np.testing.assert_array_equal(at_size(images=given, return_tensors="np")["pixel_values"], expected)
    rows = at_size(images=[[batch[0], batch[1]], [tensors[2], batch[0]]], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(rows, expected[[[0, 1], [2, 0]]])


def test_floats_are_not_scaled_twice(processor):
    """What other processors ask for, `do_rescale=False` for floats up to 1, would leave levels as they are."""
    with pytest.raises(ValueError, match="do_rescale: floats from 0 to 1 become levels"):
        processor(images=GREY / 255, do_rescale=False)
    with pytest.raises(ValueError, match="do_rescale: floats from 0 to 1 become levels"):
        processor(images=torch.rand(3, 8, 8), do_rescale=False)
    assert processor(images=RGB, do_rescale=False, do_normalize=False)["pixel_values"][0].max() > 200


def test_regions_and_rows_of_arrays(at_size):
    """Collators take rows of arrays, and boxes lie in arrays as in images."""
    rows = [{"image": image, "text": "a circle"} for image in (RGB, torch.from_numpy(RGB).permute(2, 0, 1))]
    batch = RowCollator(at_size)(rows)
    np.testing.assert_array_equal(batch["pixel_values"].numpy(), np.stack([RGB.transpose(2, 0, 1)] * 2))
    boxes = [[[0, 0, 50, 3]]]
    found = at_size(images=[RGB.transpose(2, 0, 1)], boxes=boxes, input_data_format="channels_first", as_uint8=True)
    np.testing.assert_array_equal(found["pixel_values"][0, 0], RGB.transpose(2, 0, 1))


def test_arrays_are_resized_as_images_are(processor):
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    made = RenaissanceProcessor(cropping, processor.tokenizer)
    picture = DRAW.integers(0, 256, (45, 60, 3), dtype=np.uint8)
    expected = cropping(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    for given in (picture, picture.transpose(2, 0, 1), torch.from_numpy(picture), picture / 255):
        np.testing.assert_array_equal(made(images=given, return_tensors="np")["pixel_values"], expected)
