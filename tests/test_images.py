"""Each kind of image file has the same pixels on every route: prepared, trained on, evaluated, streamed, given."""

import io
import json
import logging
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset
from picture_files import KINDS, RGB, array_file, chunk, png
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import AugmentingCollator, PretrainingCollator, RowCollator
from renaissance.processing.decoding import MAX_PIXELS, decode, size_upright, to_rgb
from renaissance.tasks.data import schemas, writer
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.data.streaming import CaptionSource
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")

GOOD = {name: kind for name, kind in KINDS.items() if kind.pixels is not None}
REFUSED = {name: kind for name, kind in KINDS.items() if kind.pixels is None}
#: Kinds whose shorter side has more than 12 pixels, and those that are the same as arrays.
LARGE = [name for name, kind in GOOD.items() if min(kind.pixels.shape[:2]) > 12]
AS_ARRAYS = [name for name, kind in GOOD.items() if kind.as_array]
REFUSED_AS_ARRAYS = [name for name, kind in REFUSED.items() if kind.as_array]
COLUMNS = {"image": "image", "captions": "captions", "image_id": "image_id"}


def rows_of(kinds):
    for name, kind in kinds.items():
        image = {"bytes": kind.file, "path": f"{name}.{kind.suffix}"}
        yield {"image": image, "image_id": name, "captions": ["a circle"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All kinds, prepared as they are (`whole`), and with images of more than 12 pixels shrunk (`shrunk`)."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, shorter_side in (("whole", None), ("shrunk", 12)):
        writer.write_split(
            rows_of(KINDS), schemas.CAPTIONS, folder / name, "train", len(KINDS), shorter_side, max_bad_fraction=1
        )
    return folder


@pytest.fixture
def by_size(processor):
    """A function from the shape of a picture to a processor that leaves it at its size."""

    def made(pixels):
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        return RenaissanceProcessor(ViTImageProcessorPil(size=size), processor.tokenizer)

    return made


def assert_shows(found, kind):
    """Compare pixels (H, W, 3) with those of a kind."""
    assert found.shape == kind.pixels.shape
    assert np.abs(found.astype(int) - kind.pixels).max() <= kind.tolerance


def first_image(batch) -> np.ndarray:
    """The pixels (H, W, 3) of 8 bits of a batch's first image, whether or not they are normalised to [-1, 1]."""
    values = np.asarray(batch["pixel_values"][0]).transpose(1, 2, 0)
    return values if values.dtype == np.uint8 else np.rint((values * 0.5 + 0.5) * 255).astype(int)


def report_of(folder):
    return json.loads((folder / "report.json").read_text())["train"]["broken"]


def stored(folder) -> dict[str, dict]:
    return {row["image_id"]: row["image"] for row in open_split(str(folder), "train")}


#: The examples of the table in docs/data.md: an image of one pixel, and what it becomes.
EXAMPLES = {
    "| 77: (77, 77, 77) |": (np.uint8([[77]]), (77, 77, 77)),
    "| 1: (255, 255, 255) |": (np.array([[True]]), (255, 255, 255)),
    "| 32639: (127, 127, 127) |": (np.uint16([[32639]]), (127, 127, 127)),
    "| largest 65535: 32639 is (127, 127, 127) |": (np.int32([[32639, 65535]]), (127, 127, 127)),
    "| largest 1: 0.5 is (128, 128, 128) |": (np.float32([[0.5, 1]]), (128, 128, 128)),
    "| red at alpha 0: (255, 255, 255) |": (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), (255, 255, 255)),
    "| CMYK (0, 255, 255, 0): (255, 0, 0) |": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_documentation_hold(example):
    image, pixel = EXAMPLES[example]
    assert example in (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    assert to_rgb(image).getpixel((0, 0)) == pixel


@pytest.mark.parametrize("example", [name for name, (image, _) in EXAMPLES.items() if isinstance(image, np.ndarray)])
def test_examples_of_the_documentation_hold_for_files(example):
    array, pixel = EXAMPLES[example]
    assert decode(array_file(array, "TIFF")).getpixel((0, 0)) == pixel


def test_preparing_keeps_good_files_and_reports_the_others(prepared):
    for name in ("whole", "shrunk"):
        assert stored(prepared / name).keys() == GOOD.keys()
        reported = {entry["file"]: entry["reason"] for entry in report_of(prepared / name)}
        assert reported.keys() == {f"{name}.{kind.suffix}" for name, kind in REFUSED.items()}
        assert all(kind.fault in reported[f"{name}.{kind.suffix}"] for name, kind in REFUSED.items())
    assert all(image["bytes"] == GOOD[name].file for name, image in stored(prepared / "whole").items())


@pytest.mark.parametrize("name", LARGE)
def test_shrinking_shows_what_decoding_shows(prepared, name):
    kind, image = GOOD[name], stored(prepared / "shrunk")[name]
    found = np.asarray(decode(image)).astype(int)
    height, width = (side // 2 for side in kind.pixels.shape[:2])
    expected = Image.fromarray(np.ascontiguousarray(kind.pixels)).resize((width, height), Image.Resampling.BICUBIC)
    assert image["path"].endswith(".jpg") and found.shape == (height, width, 3)
    # JPEG keeps the grey of blocks, and of their colours about as much.
    assert np.abs(found.mean(axis=2) - np.asarray(expected).mean(axis=2)).mean() < 6


def test_what_is_small_enough_is_not_shrunk(prepared):
    small = GOOD.keys() - LARGE
    assert small == {"1 pixel wide", "1 pixel high"}
    assert all(stored(prepared / "shrunk")[name]["bytes"] == GOOD[name].file for name in small)


@pytest.mark.parametrize("name", GOOD)
def test_training_and_evaluation_see_the_pixels(prepared, by_size, name):
    kind = GOOD[name]
    processor = by_size(kind.pixels)
    data = open_split(str(prepared / "whole"), "train")
    row = data["image_id"].index(name)
    for training in (True, False):
        rows = KeyedRows(data.select([row]), training)
        rows.begin_epoch(0)
        keyed = rows[0] | {"text": "a circle"}
        for collator in (PretrainingCollator(processor), RowCollator(processor)):
            unchanged = AugmentingCollator(collator, [lambda image, rng: image], ("image",))
            assert_shows(first_image(collator([keyed])), kind)
            assert_shows(first_image(unchanged([keyed])), kind)


def test_streams_see_the_pixels_and_leave_out_what_training_refuses(tmp_path, caplog):
    data = Dataset.from_list(list(rows_of(KINDS)), features=schemas.CAPTIONS)
    data.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    with caplog.at_level(logging.WARNING):
        streamed = {
            row["image_id"].removeprefix(f"{tmp_path}/").rpartition("/")[0]: (row["image"]["bytes"], image)
            for row, image in CaptionSource.open(str(tmp_path), "train", COLUMNS).rows()
        }
    assert streamed.keys() == GOOD.keys()
    for name, (content, image) in streamed.items():
        assert content == GOOD[name].file
        assert_shows(np.asarray(image), GOOD[name])
    assert next(iter(REFUSED.values())).fault in caplog.text


@pytest.mark.parametrize("name", GOOD)
def test_the_processor_sees_the_pixels(by_size, tmp_path, name):
    kind = GOOD[name]
    processor, path = by_size(kind.pixels), tmp_path / f"picture.{kind.suffix}"
    path.write_bytes(kind.file)
    given = [kind.file, path, str(path), {"bytes": kind.file, "path": None}, {"bytes": None, "path": str(path)}]
    for image in (*given, Image.open(path)):
        for as_uint8 in (False, True):
            assert_shows(first_image(processor(images=image, as_uint8=as_uint8)), kind)


@pytest.mark.parametrize("name", AS_ARRAYS)
def test_the_processor_sees_the_pixels_of_arrays(by_size, name):
    kind = GOOD[name]
    processor, array = by_size(kind.pixels), np.asarray(Image.open(io.BytesIO(kind.file)))
    # Torch has no numbers in another order of bytes; a picture may be as thin as an image has channels.
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    for as_uint8 in (False, True):
        assert_shows(first_image(processor(images=array, as_uint8=as_uint8)), kind)
        found = processor(images=tensor, as_uint8=as_uint8, input_data_format="channels_last")
        assert_shows(first_image(found), kind)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_on_every_route(processor, tmp_path, name):
    kind, path = REFUSED[name], tmp_path / f"picture.{REFUSED[name].suffix}"
    path.write_bytes(kind.file)
    fault = re.escape(kind.fault)
    row = {
        "image": {"bytes": kind.file, "path": "photos/7"},
        "text": "a circle",
        "image_id": "0",
        "sample_id": 0,
        "epoch": 0,
    }
    for collator in (PretrainingCollator(processor), RowCollator(processor)):
        with pytest.raises(ValueError, match=f"photos/7: the image cannot be read .*{fault}"):
            collator([row])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: the image cannot be read .*{fault}"):
        processor(images=str(path))
    with pytest.raises(ValueError, match=f"image 1: the image cannot be read .*{fault}"):
        processor(images=[RGB, kind.file])


@pytest.mark.parametrize("name", REFUSED_AS_ARRAYS)
def test_what_is_refused_is_refused_as_an_image_or_an_array(processor, name):
    image = Image.open(io.BytesIO(REFUSED[name].file))
    for given in (image, np.asarray(image)):
        with pytest.raises(ValueError, match=f"an image: the image cannot be read .*{re.escape(REFUSED[name].fault)}"):
            processor(images=given)


@pytest.mark.parametrize("name", [name for name in GOOD if "turned" in name or "EXIF" in name])
def test_the_size_of_an_upright_image_is_in_its_header(name):
    kind = GOOD[name]
    assert size_upright({"bytes": kind.file, "path": None}) == kind.pixels.shape[1::-1]


def test_an_upright_image_is_not_turned_again(by_size):
    """What was decoded once may pass the decoder again, as augmented images and streams do."""
    kind = KINDS["turned, JPEG"]
    assert_shows(first_image(by_size(kind.pixels)(images=decode(kind.file))), kind)


def test_the_limit_of_pixels_is_read_before_anything_is_decoded(processor, tmp_path):
    """The data of these files are broken: decoding them would be another error."""
    for size in ((8001, 8000), (1, MAX_PIXELS + 1)):
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} are .* more than max_image_pixels, 64,000,000"):
            processor(images=png(size, 8, b"none"))
    with pytest.raises(ValueError, match=r"truncated|broken"):
        processor(images=png((8000, 8000), 8, b"none"))


def test_the_limit_of_pixels_can_be_set_on_every_route(processor, prepare, refuse, tmp_path):
    made = RenaissanceProcessor(processor.image_processor, processor.tokenizer)
    made.max_image_pixels = 959
    file = KINDS["JPEG"].file
    for image in (file, RGB, Image.fromarray(RGB), torch.from_numpy(RGB)):
        assert processor(images=image)["pixel_values"][0].shape == (3, 32, 32)
        with pytest.raises(ValueError, match="40 x 24 are 960 pixels, more than max_image_pixels, 959"):
            made(images=image)
    with pytest.raises(ValueError, match="more than max_image_pixels, 959"):
        AugmentingCollator(RowCollator(made), [], ("image",), 0, 959).augment(file, np.random.default_rng(0))
    with pytest.raises(ValueError, match="more than max_image_pixels, 959"):
        made.process_regions([file], [[[0, 0, 2, 2]]])
    rows = list(rows_of({"JPEG": KINDS["JPEG"], "thin": KINDS["1 pixel wide"]}))
    summary = writer.write_split(
        rows, schemas.CAPTIONS, tmp_path, "train", 2, max_bad_fraction=0.5, max_image_pixels=959
    )
    assert summary.rows == 1 and "more than max_image_pixels, 959" in summary.broken[0]["reason"]
    data = Dataset.from_list(rows, features=schemas.CAPTIONS)
    data.to_parquet(str(tmp_path / "all" / "train-00000-of-00001.parquet"))
    source = CaptionSource.open(str(tmp_path / "all"), "train", COLUMNS, 959)
    assert [row["image_id"].rpartition("/")[0] for row, _ in source.rows()] == [f"{tmp_path}/all/thin"]
    stored_file = {"bytes": file, "path": "1.jpg"}
    assert size_upright(stored_file, 960) == (40, 24)
    with pytest.raises(ValueError, match=r"1\.jpg: .* more than max_image_pixels, 959"):
        size_upright(stored_file, 959)
    made.save_pretrained(tmp_path / "processor")
    assert RenaissanceProcessor.from_pretrained(tmp_path / "processor").max_image_pixels == MAX_PIXELS


@pytest.mark.parametrize("wanted", [0, -5, 178956971])
def test_a_limit_that_pillow_does_not_keep_is_refused(tmp_path, wanted):
    with pytest.raises(ValueError, match="max_image_pixels: expected 1 to 178,956,970"):
        writer.write_split([], schemas.CAPTIONS, tmp_path, "train", 0, max_image_pixels=wanted)


def test_a_run_keeps_the_limit_of_pixels(shapes, options, tmp_path, refused, capsys):
    """Pictures of 32 by 32 pixels, in training, in evaluation and in a stream."""
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--max_steps", "1"]
    for action in (["--do_train"], ["--do_eval"], ["--do_train", "--augmentation", "randaugment"]):
        fault = "the image cannot be read (32 x 32 are 1,024 pixels, more than max_image_pixels, 1,023"
        assert fault in refused(run_task, Pretraining, "", [*argv, *action, "--max_image_pixels", "1023"])
        argv += ["--output_dir", str(tmp_path / action[-1])]
    stream = [*argv, "--do_train", "--streaming", "--max_image_pixels", "1023"]
    assert "32 of 32 rows cannot be used" in refused(run_task, Pretraining, "", stream)
    argv += ["--output_dir", str(tmp_path / "evaluation")]
    assert run_task(Pretraining, "", [*argv, "--do_eval", "--max_image_pixels", "1024"])["eval_loss"] > 0
    with pytest.raises(SystemExit):
        run_task(Pretraining, "", [*argv, "--do_eval", "--max_image_pixels", "0"])
    assert "max_image_pixels: expected at least 1, got 0" in capsys.readouterr().err


THIN = {"high": (4000, 1), "wide": (1, 4001)}


@pytest.mark.parametrize("shape", THIN.values(), ids=THIN)
@pytest.mark.parametrize(
    "image_processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        ViTImageProcessorPil(size={"height": 32, "width": 32}),
        ViltImageProcessorPil(size={"shortest_edge": 384}),
    ],
    ids=["shorter side", "stretched", "padded"],
)
def test_thin_images_become_pixels_without_billions_between(processor, image_processor, shape):
    """Red ends with blue between them: an image processor that takes the middle sees blue alone."""
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    length = max(shape)
    lengthwise = pixels.reshape(length, 3)
    lengthwise[:, 0], lengthwise[length // 4 : -length // 4] = 255, (0, 0, 255)
    made = RenaissanceProcessor(image_processor, processor.tokenizer)
    for as_uint8 in (False, True):
        values = np.asarray(made(images=Image.fromarray(pixels), as_uint8=as_uint8)["pixel_values"][0]).astype(float)
        values = values / 255 if as_uint8 and values.max() > 1 else values * 0.5 + 0.5
        assert min(values.shape[1:]) >= 16
        assert values[2].max() > 0.9
        assert (values[0].max() > 0.9) == isinstance(image_processor, ViTImageProcessorPil)


def test_a_bomb_of_text_does_not_pass(processor):
    """Pillow's own limits stay in force."""
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)))
    file = KINDS["grey"].file
    with pytest.raises(ValueError, match="the image cannot be read"):
        processor(images=file[:33] + bomb * 2 + file[33:])
