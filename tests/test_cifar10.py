"""CIFAR-10: its batches, which are pickles, and images of one's own."""

import io
import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_TOWER
from PIL import Image

from renaissance.tasks.cifar10 import CIFAR10, CIFAR10Arguments
from renaissance.tasks.data import schemas
from renaissance.tasks.data.cifar10 import CLASSES, SPLITS, read_cifar10
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.runner import run_task


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, which made the public batches."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def write_batch(path: Path, batch: object) -> None:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def make_batch(rows: int = 4, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
    return {
        b"batch_label": b"a batch",
        b"labels": [row % 10 for row in range(rows)],
        b"data": pixels,
        b"filenames": [],
    }


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder in the public layout, with four images a batch."""
    folder = tmp_path / "cifar-10-batches-py"
    write_batch(folder / "batches.meta", {b"num_vis": 3072, b"label_names": [name.encode() for name in CLASSES]})
    for number, name in enumerate([*SPLITS["train"], *SPLITS["test"]]):
        write_batch(folder / name, make_batch(seed=number))
    return tmp_path


def decode(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def test_images_are_those_of_the_batches(source):
    splits = read_cifar10(source)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 20, "test": 4}
    row = splits["train"][5]
    assert (row["id"], row["label"]) == ("data_batch_2-1", 1)
    # 1,024 bytes of red, row by row, then green, then blue.
    planes = make_batch(seed=1)[b"data"][1]
    image = decode(row)
    assert image.shape == (32, 32, 3)
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (31, 2, 2), (7, 30, 0)):
        assert image[y, x, channel] == planes[channel * 1024 + y * 32 + x]
    assert write_split(splits["test"], schemas.CIFAR10, source / "out", "test", 4).rows == 4


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_cannot_run_anything(source):
    batch = source / "cifar-10-batches-py" / "data_batch_3"
    write_batch(batch, make_batch() | {b"labels": Harmful(source / "harm")})
    with pytest.raises(ValueError, match=r"data_batch_3 cannot be read .* it names posix.mkdir"):
        read_cifar10(source)
    assert not (source / "harm").exists()
    # Nor anything of numpy but what makes arrays.
    batch.write_bytes(b"\x80\x02cnumpy\nload\n.")
    with pytest.raises(ValueError, match=r"it names numpy.load"):
        read_cifar10(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_batch", b"\x80\x02}q\x00(U", "test_batch cannot be read"),
        ("test_batch", [1], "test_batch: expected a dictionary, got list"),
        ("test_batch", make_batch() | {b"labels": [0, 1, 2]}, "test_batch: expected 4 labels"),
        ("data_batch_2", make_batch() | {b"labels": [0, 1, 10, 3]}, "data_batch_2: image 2 has the label 10: expected 0 to 9"),
        ("data_batch_2", make_batch() | {b"data": np.zeros((4, 3000), np.uint8)}, "expected rows of 3072 bytes"),
        ("batches.meta", {b"label_names": [b"apple"]}, "batches.meta: expected the classes airplane"),
    ],
)  # fmt: skip
def test_broken_batches_are_named(source, name, content, message):
    path = source / "cifar-10-batches-py" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_batch(path, content)
    with pytest.raises(ValueError, match=message):
        read_cifar10(source)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} does not exist"):
        read_cifar10(source)


def test_rows_held_out_are_always_the_same_and_not_trained_on(source):
    for split, rows in read_cifar10(source).items():
        write_split(rows, schemas.CIFAR10, source / "out", split, len(rows))
    everything = CIFAR10(CIFAR10Arguments(dataset=str(source / "out"))).load("train")
    labels = dict(zip(everything["id"], everything["label"], strict=True))
    task = CIFAR10(CIFAR10Arguments(dataset=str(source / "out"), held_out=6))
    train, held_out = task.load("train"), task.load("validation")
    assert (len(train), len(held_out)) == (14, 6)
    assert {*train["id"], *held_out["id"]} == set(labels)
    assert all(labels[row["id"]] == row["label"] for part in (train, held_out) for row in part)
    limited = CIFAR10(CIFAR10Arguments(dataset=str(source / "out"), held_out=6, max_train_samples=3))
    assert limited.load("validation")["id"][:] == held_out["id"][:]
    assert limited.load("train")["id"][:] == train["id"][:3]
    assert len(task.load("test")) == 4  # is left alone


def make_images(folder: Path, count: int) -> Path:
    """An image folder of two classes, sorted by class as such folders are."""
    rng = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (20, 20, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_of_ones_own_images(options, tmp_path):
    argv = [*TWO_TOWER, *options, "--train_file", str(make_images(tmp_path / "train", 20)), "--held_out", "10"]
    argv += ["--test_file", str(make_images(tmp_path / "test", 3)), "--initializer_range", "0.3"]
    argv += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "40", "--learning_rate", "1e-3"]
    metrics = run_task(CIFAR10, "", argv)
    assert metrics["eval_accuracy"] == metrics["test_accuracy"] == 1
    assert 0.5 <= metrics["eval_majority_accuracy"] < 1  # drawn from both classes
    lines = (tmp_path / "run" / "predictions.csv").read_text().split()
    assert [line.split(",")[1] for line in lines] == ["blue"] * 3 + ["red"] * 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--held_out", "0"], "held_out: expected a share below 1, or a whole number from 1 on, got 0"),
        (["--held_out", "6"], "held_out: expected fewer than the 6 groups of rows .* got 6"),
        (["--held_out", "2", "--validation_file", "x.csv"], "held_out: without effect if validation_file is given"),
        (["--image_column", "img"], "no column img, only image, file_name, label"),
    ],
)
def test_bad_options(argv, message, options, tmp_path, capsys):
    folder = make_images(tmp_path / "train", 3)
    with pytest.raises(SystemExit) as error:
        run_task(CIFAR10, "", [*TWO_TOWER, *options, "--train_file", str(folder), "--do_train", *argv])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.real_data
def test_real_batches(real_data):
    splits = read_cifar10(real_data / "cifar10")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1000, "test": 300}
    # The sample's file names hold the class.
    path = real_data / "cifar10" / "cifar-10-batches-py" / "test_batch"
    names = pickle.loads(path.read_bytes(), encoding="bytes")[b"filenames"]
    for row, name in zip(splits["test"], names, strict=True):
        assert CLASSES[row["label"]] == name.decode().split("_")[1]
