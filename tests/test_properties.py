"""Properties of the processor, the collators and the readers, on inputs that hypothesis draws. The slow tests draw thousands."""

import itertools
import shutil
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from own_files import (
    as_csv,
    as_jsonl,
    as_tsv,
    folder_with_csv,
    folder_with_metadata,
    parquet_of_bytes,
    parquet_of_images,
    png,
    tar_file,
    write_pictures,
)
from own_tasks import rows_of, task_of
from PIL import Image
from test_broken_images import NOISE, saved

from renaissance.processing.collators import PretrainingCollator, RegionCollator, RowCollator
from renaissance.processing.decoding import decode
from renaissance.processing.objectives import MaskedTextData
from renaissance.tasks.data.bad_rows import BadRows
from renaissance.tasks.data.image_checks import ImageCheck, check_image
from renaissance.tasks.data.streaming import CaptionSource


pytestmark = pytest.mark.usefixtures("dataset_cache")

#: Seconds that reading a file of a few KB must not take.
LONGEST = 60

#: The fixtures are read alone; what a test writes is written anew for each example.
COMMON = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


def examples(quick: int, many: int) -> Callable:
    """Marks a test as two: a quick one of few examples, and a slow one of many."""
    return pytest.mark.parametrize("count", [quick, pytest.param(many, marks=pytest.mark.slow)])


def check(count: int, test: Callable) -> None:
    """Run a test that hypothesis gives its arguments on a number of examples."""
    phases = [Phase.generate] if count < 200 else [Phase.generate, Phase.shrink]
    settings(max_examples=count, phases=phases, **COMMON)(test)()


@contextmanager
def in_time():
    """Fails what takes too long."""

    def stop(*_):
        raise AssertionError(f"it took more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Of all of Unicode: halves of pairs, control characters, marks of direction, and words of the vocabulary.
WORDS = st.sampled_from(
    ["a", "red", "circle", "\0", "\r\n", "\u202e", "\ud83d", "\ude00", "\ufeff", "[MASK]", "[SEP]"]
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=40),
    st.lists(WORDS, max_size=60).map(" ".join),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Mn"]), max_size=20),
)
MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "I;16", "I", "F"]
SIZES = st.one_of(st.integers(1, 90), st.sampled_from([1, 2, 31, 32, 33, 400]))


@st.composite
def images(draw) -> Image.Image:
    """Images of all modes and of any size, also lines, with pixels of all values."""
    mode, width, height, seed = draw(st.sampled_from(MODES)), draw(SIZES), draw(SIZES), draw(st.integers(0, 9))
    rng = np.random.default_rng(seed)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(rng.integers(0, 256, (height, width)).astype(kind))
    if mode == "La":
        return Image.fromarray(rng.integers(0, 256, (height, width, 2), dtype=np.uint8), "LA").convert("La")
    bands = len(Image.new(mode, (1, 1)).getbands())
    content = rng.integers(0, 256, height * width * bands, dtype=np.uint8).tobytes()
    if mode == "1":
        return Image.frombytes("L", (width, height), content).convert("1")
    return Image.frombytes(mode, (width, height), content)


@examples(40, 2000)
def test_texts_become_tokens_and_a_batch_those_of_each(count, processor):
    tokenizer = processor.tokenizer

    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def test(texts):
        batch = processor(text=texts, return_tensors="np")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape and len(ids) == len(texts)
        assert 2 <= ids.shape[1] <= tokenizer.model_max_length and mask.sum(axis=1).max() == ids.shape[1]
        assert ((ids >= 0) & (ids < len(tokenizer))).all() and np.isin(mask, (0, 1)).all()
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()
        for row, text in enumerate(texts):
            alone = processor(text=text)
            assert alone["input_ids"] == ids[row][mask[row] == 1].tolist()

    check(count, test)


@examples(20, 1000)
def test_images_become_pixels_and_a_batch_those_of_each(count, processor):
    @given(st.lists(images(), min_size=1, max_size=3))
    def test(pictures):
        pixels = processor(images=pictures, return_tensors="np")["pixel_values"]
        levels = processor(images=pictures, as_uint8=True, return_tensors="np")["pixel_values"]
        assert pixels.shape == levels.shape == (len(pictures), 3, 32, 32)
        assert pixels.dtype == np.float32 and np.isfinite(pixels).all() and levels.dtype == np.uint8
        for row, picture in enumerate(pictures):
            np.testing.assert_array_equal(
                processor(images=picture, return_tensors="np")["pixel_values"][0], pixels[row]
            )
            alone = processor(images=picture, as_uint8=True, return_tensors="np")["pixel_values"][0]
            np.testing.assert_array_equal(alone, levels[row])

    check(count, test)


ROWS = st.lists(st.tuples(TEXTS, images()), min_size=2, max_size=5)


def own_part(batch: dict, row: int) -> dict[str, list]:
    """What a batch has of a row, without padding."""
    mask = batch["attention_mask"][row].bool()
    names = [name for name in batch if name.startswith(("input_ids", "mlm_input", "mlm_labels"))]
    return {name: batch[name][row][mask].tolist() for name in names} | {"pixels": batch["pixel_values"][row].tolist()}


@examples(8, 1000)
def test_a_row_of_a_batch_does_not_depend_on_the_others(count, processor):
    """On their number, their order, or the padding."""
    collators = [RowCollator(processor), PretrainingCollator(processor, [MaskedTextData()], seed=5)]

    @given(ROWS, st.permutations(range(5)), st.sampled_from(collators))
    def test(drawn, order, collator):
        rows = [
            {"text": text, "image": picture, "image_id": str(n), "sample_id": n, "epoch": 2}
            for n, (text, picture) in enumerate(drawn)
        ]
        if isinstance(collator, RowCollator):
            rows = [{"text": row["text"], "image": row["image"], "label": row["sample_id"]} for row in rows]
        whole = collator(rows)
        order = [number for number in order if number < len(rows)]
        mixed = collator([rows[number] for number in order])
        for place, number in enumerate(order):
            assert own_part(mixed, place) == own_part(whole, number)
            assert own_part(collator([rows[number]]), 0) == own_part(whole, number)

    check(count, test)


@st.composite
def boxes_in(draw, picture: Image.Image) -> list[float]:
    """A box inside an image."""
    sides = []
    for side in picture.size:
        start = draw(st.floats(0, side - 1))
        sides.append((start, draw(st.floats(0.5, max(side - start, 0.5)))))
    (left, width), (top, height) = sides
    return [left, top, width, height]


@examples(8, 1000)
def test_regions_do_not_depend_on_the_other_rows(count, processor):
    @given(st.data())
    def test(data):
        rows = []
        for number in range(data.draw(st.integers(1, 3))):
            picture = data.draw(images())
            boxes = data.draw(st.lists(boxes_in(picture), min_size=1, max_size=3))
            rows.append({"image": picture, "text": data.draw(TEXTS), "boxes": boxes, "sample_id": number})
        batch = RegionCollator(processor)(rows)
        assert batch["pixel_values"].shape[:2] == batch["region_mask"].shape
        for number, row in enumerate(rows):
            alone, mask = RegionCollator(processor)([row]), batch["region_mask"][number].bool()
            assert mask.tolist() == [place < len(row["boxes"]) for place in range(len(mask))]
            assert torch.equal(alone["pixel_values"][0], batch["pixel_values"][number][mask])
            assert not batch["pixel_values"][number][~mask].any()

    check(count, test)


#: Bytes that mean something to one of the formats.
TOKENS = [
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
    b"\0" * 600,
]


@st.composite
def mutations(draw, content: bytes) -> bytes:
    """The content with one to three changes: a bit flipped, bytes cut out, put in, written over, or the end lost."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "cut", "insert", "write", "end"]))
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        added = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(TOKENS)))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "insert":
            content[place:place] = added
        elif kind == "write":
            content[place : place + len(added)] = added
        elif kind == "end":
            del content[place:]
    return bytes(content)


def reads_or_says_why(read: Callable[[], None], file: Path) -> None:
    """Checks that a file is read, or refused in one line that names it, in time."""
    try:
        with in_time():
            read()
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and message, message
        assert file.name in message or str(file) in message, message


KINDS = {name: saved(NOISE, name) for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")}


@pytest.mark.parametrize("kind", KINDS)
@examples(8, 2000)
def test_mutated_images(count, kind, tmp_path, processor):
    """Whatever decodes in full passes the look at headers too."""
    file = tmp_path / "picture"

    @given(mutations(KINDS[kind]))
    def test(content):
        file.write_bytes(content)
        stored, decoded = {"bytes": None, "path": str(file)}, []

        def read():
            decoded.append(decode(stored, max_pixels=10**6))
            pixels = processor(images=stored, return_tensors="np")["pixel_values"]
            assert pixels.shape == (1, 3, 32, 32) and np.isfinite(pixels).all()

        reads_or_says_why(read, file)
        if decoded:
            check_image(stored, 10**6, ImageCheck.HEADERS)

    check(count, test)


def read_rows(task) -> None:
    """Read all rows of training data, and decode their images."""
    data = task.load("train")
    for row in map(data.__getitem__, range(len(data))):
        if "image" in row:
            decode(row["image"], max_pixels=10**6)


FORMS = {
    "csv": (as_csv, "image_and_text"),
    "tsv": (as_tsv, "texts"),
    "json lines": (as_jsonl, "boxes"),
    "parquet of bytes": (parquet_of_bytes, "vqa"),
    "parquet of images": (parquet_of_images, "pretraining"),
    "tar": (tar_file, "pretraining"),
    "metadata": (folder_with_metadata, "image_and_text"),
    "metadata in csv": (folder_with_csv, "image_and_text"),
}


@pytest.mark.parametrize("form", FORMS)
@examples(5, 500)
def test_mutated_files_of_own(count, form, tmp_path):
    write, name = FORMS[form]
    write_pictures(tmp_path)
    own = write(tmp_path, rows_of(name))
    file = own if own.is_file() else next(own.glob("metadata.*"))
    layout = {"tar": "tar_file", "metadata": "folder_with_metadata", "metadata in csv": "folder_with_csv"}.get(
        form, ""
    )
    whole = file.read_bytes()
    read_rows(task_of(name, layout, train_file=own))

    @given(mutations(whole), st.booleans())
    def test(content, skip):
        file.write_bytes(content)
        options = {"on_bad_row": "skip", "max_bad_fraction": 0.9} if skip else {}
        reads_or_says_why(lambda: read_rows(task_of(name, layout, train_file=own, **options)), own)
        shutil.rmtree(tmp_path / ".cache", ignore_errors=True)

    check(count, test)


@pytest.mark.parametrize("form", ["parquet", "tar"])
@examples(5, 200)
def test_mutated_data_sets_that_are_streamed(count, form, tmp_path):
    """Each in a folder of its own name, as nothing of it is remembered."""
    write_pictures(tmp_path)
    write = {"parquet": parquet_of_images, "tar": tar_file}[form]
    whole = write(tmp_path, rows_of("pretraining")).read_bytes()
    columns = {"image": "picture", "captions": "words"}
    if form == "tar":
        columns = {"image": "picture.png", "captions": "words.txt"}
    numbers = itertools.count()

    @given(mutations(whole), st.booleans())
    def test(content, skip):
        folder = tmp_path / f"set{next(numbers)}"
        folder.mkdir()
        (folder / f"train-00000-of-00001.{form}").write_bytes(content)

        def read():
            source = CaptionSource.open(str(folder), "train", columns, 10**6, BadRows(skip, 0.9))
            for row, image in source.rows(seed=1, buffer_size=2):
                assert row["captions"] and image.mode == "RGB"

        reads_or_says_why(read, folder)
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / ".cache", ignore_errors=True)

    check(count, test)


def test_the_files_before_the_mutations_are_whole(tmp_path):
    """So that reading, not refusing, is what most of the formats are tested on."""
    assert all(decode({"bytes": content, "path": None}).size == (64, 48) for content in KINDS.values())
    write_pictures(tmp_path)
    assert pq.read_table(parquet_of_images(tmp_path, rows_of("pretraining"))).num_rows == 6
    assert decode({"bytes": png(1), "path": None}).size == (24, 16)
