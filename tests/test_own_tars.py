"""The user's own .tar files: each sample is a row, texts are what they are in other files, and what is wrong is named."""

import io
import logging
import tarfile
from pathlib import Path

import pytest
from own_files import COLOURS, png
from own_tasks import colour, fault, task_of
from PIL import Image as Picture

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.retrieval import Retrieval


pytestmark = pytest.mark.usefixtures("dataset_cache")


def picture(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Picture.new("RGB", (24, 16), COLOURS[number]).save(
        buffer, format=kind, **{"quality": 100} if kind == "JPEG" else {}
    )
    return buffer.getvalue()


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pairs(numbers: range = range(4)) -> list[tuple[str, bytes]]:
    return [member for n in numbers for member in ((f"{n}.png", png(n)), (f"{n}.txt", f"caption {n}".encode()))]


def captions(file: Path, image: str = "png", text: str = "txt", **options):
    """A task of captions on a file, without rows of one image."""
    options = {"train_file": str(file), "image_column": image, "captions_column": text} | options
    return Retrieval(Retrieval.arguments(num_negative_texts=1, **options))


def read(task) -> list[tuple[str, tuple[int, ...]]]:
    """The captions of each row with the colours of their images."""
    data = task.load("train")
    return [(row["text"], colour(row["image"])) for row in map(data.__getitem__, range(len(data)))]


CAPTIONS = [(f"caption {n}", COLOURS[n]) for n in range(4)]


def test_texts_have_no_mark_and_no_line_ends(tmp_path):
    texts = [b"caption 0\n", b"\xef\xbb\xbfcaption 1\r\n", " caption 2 ".encode("utf-16"), b"caption 3"]
    members = [member for n, text in enumerate(texts) for member in ((f"{n}.png", png(n)), (f"{n}.TXT", text))]
    assert read(captions(tar_of(tmp_path / "own.tar", members))) == CAPTIONS


@pytest.mark.parametrize("ending", ["cls", "txt", "label.txt", "kind"])
def test_labels_are_names(ending, tmp_path):
    labels = [b"07", b"7\n", b"07\n", b"\xef\xbb\xbfcat", b"cat\r\n", b"cat"]
    members = [member for n, text in enumerate(labels) for member in ((f"{n}.png", png(n)), (f"{n}.{ending}", text))]
    file = tar_of(tmp_path / "own.tar", members)
    task = task_of("images", train_file=file, image_column="png", label_column=ending)
    data = task.load("train")
    assert [task.names[label] for label in data["label"]] == ["07", "7", "07", "cat", "cat", "cat"]


def test_photos_of_several_formats_are_one_column(tmp_path):
    kinds = [("jpg", "PNG"), ("JPEG", "PNG"), ("png", "PNG"), ("jpeg", "PNG")]
    members = [
        member for n, (ending, kind) in enumerate(kinds)
        for member in ((f"{n}.{ending}", picture(n, kind)), (f"{n}.txt", f"caption {n}".encode()))
    ]  # fmt: skip
    assert read(captions(tar_of(tmp_path / "own.tar", members), "jpg")) == CAPTIONS


def test_a_mask_is_not_taken_for_a_photo(tmp_path):
    """An image beside the photo in other samples does not stand for it."""
    members = [*pairs(), *((f"{n}.webp", png(5)) for n in range(4)), ("4.webp", png(5)), ("4.txt", b"caption 4")]
    message = fault(captions(tar_of(tmp_path / "own.tar", members)))
    assert (
        "1 of 5 rows cannot be used: row 4 (4 of own.tar, which has only webp, txt): column 'png' is empty" in message
    )


@pytest.mark.parametrize("order", [[0, 2, 4, 6, 1, 3, 5, 7], [1, 0, 2, 4, 3, 5, 7, 6], [7, 6, 5, 4, 3, 2, 1, 0]])
def test_members_of_a_sample_need_not_lie_together(order, tmp_path):
    members = pairs()
    task = captions(tar_of(tmp_path / "own.tar", [members[place] for place in order]))
    assert sorted(read(task)) == CAPTIONS


def test_samples_of_one_name_are_each_a_row(tmp_path):
    members = [(f"a/0.{name.partition('.')[2]}", content) for name, content in pairs()]
    assert read(captions(tar_of(tmp_path / "own.tar", members))) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("2.txt", b"caf\xe9", "row 2 (2 of own.tar): member txt is text that is not UTF-8 (byte 0xe9)"),
        ("2.txt", b" \n", "row 2 (2 of own.tar): the text in column 'txt' is blank"),
        ("2.txt", None, "row 2 (2 of own.tar, which has only png): column 'txt' is empty (null)"),
        ("2.png", None, "row 2 (2 of own.tar, which has only txt): column 'png' is empty (null)"),
    ],
)
def test_a_bad_sample_is_named_and_may_be_left_out(name, content, message, tmp_path):
    members = [(own, content if own == name else data) for own, data in pairs()]
    file = tar_of(tmp_path / "own.tar", [member for member in members if member[1] is not None])
    assert f"1 of 4 rows cannot be used: {message}" in fault(captions(file))
    expected = [CAPTIONS[n] for n in (0, 1, 3)]
    assert read(captions(file, max_bad_fraction=0.25)) == expected
    # The second time from the cache.
    assert read(captions(file, max_bad_fraction=0.25)) == expected
    assert "(max_bad_fraction is 0.2)" in fault(captions(file, max_bad_fraction=0.2))


@pytest.mark.parametrize("content", [b'{"caption": "a"', b"\xff", b"[" * 100_000])
def test_a_broken_json_member_is_named(content, tmp_path):
    members = [
        member for n in range(3)
        for member in ((f"{n}.png", png(n)), (f"{n}.json", b'\xef\xbb\xbf{"caption": "caption %d"}\n' % n))
    ]  # fmt: skip
    members[3] = ("1.json", content)
    file = tar_of(tmp_path / "own.tar", members)
    message = fault(captions(file, text="json.caption"))
    assert "1 of 3 rows cannot be used: row 1 (1 of own.tar): member json is " in message
    options = {"text": "json.caption", "max_bad_fraction": 0.4}
    assert read(captions(file, **options)) == [CAPTIONS[0], CAPTIONS[2]]


def test_members_that_the_task_does_not_need_may_be_anything(tmp_path):
    members = [*pairs(), ("0.json", b"{"), ("1.json", b"[]"), ("2.npy", b"\xff\xfe\xfa"), ("3.mp4", b"\xff")]
    file = tar_of(tmp_path / "own.tar", members)
    assert read(captions(file)) == CAPTIONS
    assert "no column text, only __key__, png, txt, json, npy, mp4" in fault(captions(file, text="text")).replace(
        "'", ""
    )


def test_names_of_samples_may_be_ids(tmp_path):
    file = tar_of(tmp_path / "own.tar", [(f"in/{name}", content) for name, content in pairs()])
    task = task_of("images", train_file=file, image_column="png", label_column="txt", id_column="__key__")
    assert list(task.load("train")["id"]) == ["in/0", "in/1", "in/2", "in/3"]


CUTS = {
    "in the data of an image": lambda content: content[: content.index(b"2.png") + 550],
    "in a header": lambda content: content[: content.index(b"3.png") + 100],
    "between two members": lambda content: content[: content.index(b"3.png")],
    "before the mark of the end": lambda content: content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512),
    "a damaged header": lambda content: content.replace(b"3.png", b"x.png", 1),
    "joined files": lambda content: content + content,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("task", [Retrieval, Pretraining])
def test_a_damaged_file_is_not_taken_for_a_shorter_one(cut, task, tmp_path):
    file = tar_of(tmp_path / "own.tar", pairs())
    file.write_bytes(CUTS[cut](file.read_bytes()))
    options = {"train_file": str(file), "image_column": "png", "captions_column": "txt"}
    rows = {"in the data of an image": 2, "before the mark of the end": 4, "joined files": 3}.get(cut, 3)
    message = fault(task(task.argument_class()(**options)))
    assert f"1 of {rows + 1} rows cannot be used: row {rows} ({file}): the file is damaged: " in message


def test_of_a_damaged_file_the_samples_before_the_damage_may_be_used(tmp_path, caplog):
    for number in range(3):
        tar_of(tmp_path / "tars" / f"{number}.tar", pairs(range(2 * number, 2 * number + 2)))
    damaged = tmp_path / "tars" / "1.tar"
    damaged.write_bytes(damaged.read_bytes()[: damaged.read_bytes().index(b"3.png") + 20])
    with caplog.at_level(logging.WARNING):
        found = read(captions(tmp_path / "tars", max_bad_fraction=0.2))
    assert found == [(f"caption {n}", COLOURS[n]) for n in (0, 1, 2, 4, 5)]
    assert "left out 1 of 6 rows" in caplog.text and "is cut off, or damaged, at byte" in caplog.text


def test_what_is_no_archive_is_refused_in_one_line(tmp_path):
    (tmp_path / "own.tar").write_bytes(b"<html>gone</html>" * 100)
    assert "own.tar: no samples in WebDataset's layout (damaged: " in fault(captions(tmp_path / "own.tar"))
    tar_of(tmp_path / "empty.tar", [])
    assert "empty.tar: no samples in WebDataset's layout (nothing in it)" in fault(captions(tmp_path / "empty.tar"))


def test_files_of_any_case_are_read_and_hidden_ones_are_not(tmp_path):
    folder = tmp_path / "tars"
    for number, name in enumerate(("0.tar", "1.TAR", "2.Tar")):
        tar_of(folder / name, pairs(range(number, number + 1)))
    (folder / "._0.tar").write_bytes(b"finder")
    assert read(captions(folder)) == CAPTIONS[:3]
    assert read(captions(tar_of(tmp_path / "MORE.TAR", pairs()))) == CAPTIONS


def test_a_file_that_changes_is_read_anew(tmp_path):
    file = tar_of(tmp_path / "own.tar", pairs(range(2)))
    assert read(captions(file)) == CAPTIONS[:2]
    tar_of(file, pairs(range(2, 4)))
    assert read(captions(file)) == CAPTIONS[2:]
