"""Broken images in the user's own data: found before training, with the row in the file, also after rows are left out."""

import io
import json
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import own_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TWO_TOWER
from datasets import Dataset, Image
from own_files import cut_photo, png, served, with_paths, write_pictures, write_separated
from own_tasks import TASKS, colour, fault, rows_of, task_of
from PIL import Image as Picture
from preparing import jpeg

from renaissance.processing.collators import RegionCollator
from renaissance.processing.decoding import decode
from renaissance.tasks.data.image_cache import stored_images
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")

OF_IMAGES = [name for name in TASKS if name != "texts"]


def saved(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
#: Files with the name of an image, and what is wrong with them.
BROKEN = {
    "page": (b"<html>gone</html>", "not an image file of the formats"),
    "nothing": (b"", "an empty file"),
    "garbage": (b"garbage", "not an image file of the formats"),
    "half-a-jpeg": (saved(NOISE, "JPEG")[:-900], "truncated"),
    "half-a-png": (saved(NOISE, "PNG")[:-900], "truncated"),
    "half-a-webp": (saved(NOISE, "WEBP")[:-900], "decoder|decode|WebP|not an image"),
    "half-a-gif": (saved(NOISE, "GIF")[:-900], "truncated"),
    "half-a-tiff": (saved(NOISE, "TIFF")[:-900], "truncated|not enough"),
    "not-a-number": (saved(np.full((4, 4), np.nan, np.float32), "TIFF"), "NaN|nan|not finite|number"),
    "vector": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image file of the formats"),
}


def lines_about(message: str) -> dict[int, str]:
    """The phrases of a message by their first rows."""
    return {int(row): rest for row, rest in re.findall(r"row (\d+)(?: \(.*?\))?: (.*?)(?=; row \d+|$)", message)}


def rows_with(message: str) -> set[int]:
    """All rows that a message names."""
    others = [
        int(row) for found in re.findall(r"such rows: ([\d, ]+)", message) for row in found.split(",") if row.strip()
    ]
    return {*lines_about(message), *others}


@pytest.mark.parametrize("form", ["csv", "bytes", "images", "tar", "folder"])
def test_every_kind_of_broken_image_is_found_in_every_form(form, tmp_path):
    """All of them in one message, which an error of another kind is part of too."""
    write_pictures(tmp_path)
    files = [content for pair in BROKEN.values() for content in (png(0), pair[0])]
    names = [f"{number:02d}.png" for number in range(len(files))]
    for name, content in zip(names, files, strict=True):
        (tmp_path / "photos" / name).write_bytes(content)
    rows = [{"picture": n, "words": " " if n == 0 else "a"} for n in range(len(files))]
    form_of = {"tar": "tar_file", "folder": "folder_with_metadata"}.get(form, "")
    if form == "csv":
        file = write_separated(
            tmp_path / "own.csv", [row | {"picture": f"photos/{names[n]}"} for n, row in enumerate(rows)]
        )
    elif form == "folder":
        lines = [{"file_name": names[n], "words": row["words"]} for n, row in enumerate(rows)]
        (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        for number in range(6):
            (tmp_path / "photos" / f"{number}.png").unlink()
        file = tmp_path / "photos"
    elif form == "tar":
        samples = {
            f"{n:02d}": {"picture.png": files[n], "words.txt": row["words"].encode()} for n, row in enumerate(rows)
        }
        file = own_files.tar_of(tmp_path / "own.tar", samples)
    else:
        table = [{"picture": files[n], "words": row["words"]} for n, row in enumerate(rows)]
        file = tmp_path / "own.parquet"
        if form == "images":
            records = [row | {"picture": {"bytes": row["picture"], "path": names[n]}} for n, row in enumerate(table)]
            Dataset.from_list(records).cast_column("picture", Image(decode=False)).to_parquet(str(file))
        else:
            pq.write_table(pa.Table.from_pylist(table), file)
    message = fault(task_of("pretraining", form_of, train_file=file))
    bad = set(range(1, len(files), 2))
    assert f"{len(bad) + 1} of {len(files)} rows cannot be used" in message
    assert rows_with(message) == {0, *bad}, message
    column = {"tar": "picture.png", "folder": "image"}.get(form, "picture")
    phrases = lines_about(message)
    assert "the text in column" in phrases.pop(0)
    for row, phrase in phrases.items():
        assert f"column '{column}'" in phrase and "the image cannot be read" in phrase
        assert re.search(list(BROKEN.values())[row // 2][1], phrase), phrase
        if form in ("csv", "folder"):
            assert phrase.startswith(f"{tmp_path}/photos/{names[row]} ")
    share = (len(bad) + 1) / len(files)
    data = task_of("pretraining", form_of, train_file=file, max_bad_fraction=share).load("train")
    assert [colour(data[number]["image"]) for number in range(len(data))] == [own_files.COLOURS[0]] * (
        len(files) // 2 - 1
    )


def with_two_broken(folder: Path, name: str, content: bytes = b"garbage") -> Path:
    """20 rows, two of them with a broken image."""
    write_pictures(folder)
    (folder / "photos" / "77.png").write_bytes(content)
    rows = [row for _ in range(4) for row in rows_of(name)][:20]
    for row in rows[3], rows[11]:
        row.update({column: 77 for column in ("picture", "left") if column in row})
    return own_files.as_csv(folder, rows)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_broken_images_are_left_out_up_to_a_share_in_every_task(name, tmp_path, caplog):
    file = with_two_broken(tmp_path, name)
    message = fault(task_of(name, train_file=file))
    assert "2 of 20 rows cannot be used" in message and "(2 such rows: 3, 11)" in message
    columns = "'left', 'right'" if name == "pairs" else "'picture'"
    assert (
        f"row 3: {tmp_path}/photos/77.png (column {columns}): the image cannot be read (it starts with garbage"
        in message
    )
    with caplog.at_level(logging.WARNING):
        data = task_of(name, train_file=file, max_bad_fraction=0.1).load("train")
    assert len(data) == 18 and caplog.text.count("left out 2 of 20 rows") == 1
    # A prediction file has every row: of test data none is left out.
    message = fault(task_of(name, train_file=file, test_file=file, max_bad_fraction=0.1), "test")
    assert "split 'test': 2 of 20 rows cannot be used: row 3" in message


@pytest.mark.parametrize("name", OF_IMAGES)
def test_later_messages_name_the_row_in_the_file_and_the_path(name, tmp_path):
    """Here of images that break after the data was read; rows are left out first, and then held out."""
    file = with_two_broken(tmp_path, name)
    if name == "retrieval":
        task = task_of(name, train_file=file, max_bad_fraction=0.1, held_out=2, num_negative_texts=1)
    else:
        task = task_of(name, train_file=file, max_bad_fraction=0.1, held_out=1 if name == "pairs" else 2)
    if name == "pairs":
        # All pairs of the file hang together by their images.
        task = task_of(name, train_file=file, max_bad_fraction=0.1)
    splits = ("train",) if name == "pairs" else ("train", "validation")
    data = {split: KeyedRows(task.load(split), False, task.source(split)) for split in splits}
    numbers = {"train": [], "validation": []}
    for picture in (tmp_path / "photos").iterdir():
        picture.write_bytes(b"garbage")
    with file.open() as lines:
        named = [
            dict(zip(("left", "right") if name == "pairs" else ("picture",), line, strict=False))
            for line in [re.findall(r"photos/\d\d?\.png", line) for line in lines if "photos/" in line]
        ]
    for split, rows in data.items():
        for row in rows:
            images = row["images"] if name == "pairs" else [row["image"]]
            for image in images:
                with pytest.raises(ValueError, match="the image cannot be read") as error:
                    decode(image)
                found = re.match(r"(.*), row (\d+) \((.*)\): the image", str(error.value))
                source, number, path = found[1], int(found[2]), found[3]
                assert str(file) in source, source
                assert Path(path).relative_to(tmp_path).as_posix() in named[number].values()
                numbers[split].append(number)
    kept = set(range(20)) - {3, 11}
    if name == "pairs":
        assert set(numbers["train"]) == kept
    else:
        assert {*numbers["train"], *numbers["validation"]} == kept and numbers["validation"]
        assert not {*numbers["train"]} & {*numbers["validation"]}
    # Those of the feature cache too.
    for split, rows in data.items():
        for images in stored_images(rows):
            assert [int(re.search(r", row (\d+) \(", images[n]["name"])[1]) for n in range(len(images))] == sorted(
                numbers[split]
            )


def test_the_regions_of_an_image_are_of_a_row_in_the_file(tmp_path, processor):
    write_pictures(tmp_path)
    rows = rows_of("boxes")
    rows[1]["picture"] = 99
    task = task_of("boxes", train_file=own_files.as_csv(tmp_path, rows), max_bad_fraction=0.5)
    data = KeyedRows(task.load("train"), False, task.source("train"))
    Picture.new("RGB", (3, 3)).save(tmp_path / "photos" / "2.png")
    with pytest.raises(ValueError, match=r"own\.csv, split 'train', row 2 \(.*/photos/2\.png\).*box 0"):
        RegionCollator(processor)([data[1]])


@pytest.mark.parametrize("held_out", [False, True])
def test_a_broken_image_of_a_prepared_folder_is_named_with_its_row(held_out, tmp_path):
    """If nobody looks at its images before training."""
    contents = [jpeg(colour=(0, 40 * number, 0)) for number in range(6)]
    contents[4] = contents[5] = cut_photo()
    rows = [
        {"image": {"bytes": content, "path": f"{n}.jpg"}, "captions": ["a"], "image_id": str(n)}
        for n, content in enumerate(contents)
    ]
    data = Dataset.from_list(rows).cast_column("image", Image(decode=False))
    for split in ("train", "validation"):
        data.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    options = {"check_images": False} | ({"held_out": 3} if held_out else {})
    task = Pretraining(Pretraining.argument_class()(train_datasets=[str(tmp_path)], **options))
    found = set()
    for split in ("train", "validation") if held_out else ("train",):
        for row in KeyedRows(task.load(split), False):
            try:
                decode(row["image"])
            except ValueError as error:
                found.add(re.match(rf"{tmp_path}, row (\d \(\d\.jpg\)): the image cannot be read", str(error))[1])
    assert found == {"4 (4.jpg)", "5 (5.jpg)"}


def test_the_limit_of_pixels_holds_before_training(tmp_path):
    write_pictures(tmp_path)
    task = task_of("images", train_file=own_files.as_csv(tmp_path, rows_of("images")))
    task.max_image_pixels = 383
    assert (
        "row 0: " in (message := fault(task)) and "24 x 16 are 384 pixels, more than max_image_pixels, 383" in message
    )
    assert "(6 such rows: 0, 1, 2, 3, 4, ...)" in message


def test_what_is_found_is_remembered_until_a_file_changes(tmp_path):
    """Also of files in an archive that is not there yet, is damaged, and is mended."""
    rows = [
        {"picture": {"bytes": None, "path": f"zip://{n}.png::{tmp_path}/own.zip"}, "kind": str(n)} for n in range(3)
    ]
    data = Dataset.from_list(rows).cast_column("picture", Image(decode=False))
    # Not `to_parquet`, which stores the bytes of the files.
    pq.write_table(data.data.table.cast(data.features.arrow_schema), tmp_path / "own.parquet")

    def loaded() -> str | int:
        try:
            return len(task_of("images", train_file=tmp_path / "own.parquet").load("train"))
        except ValueError as error:
            return str(error)

    assert "3 of 3 rows cannot be used" in loaded() and "No such file" in loaded()
    for content, expected in (([png(0), b"", png(2)], "row 1"), ([png(0), png(1), png(2)], 3), ([b""] * 3, "row 0")):
        with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
            for number, part in enumerate(content):
                archive.writestr(f"{number}.png", part)
        for found in (loaded(), loaded()):
            assert found == expected if isinstance(expected, int) else f"{expected}: zip://" in found
    remembered = [path.stat().st_mtime_ns for path in (tmp_path / ".cache" / "checked_images").iterdir()]
    loaded()
    assert len(remembered) == 3
    assert remembered == [path.stat().st_mtime_ns for path in (tmp_path / ".cache" / "checked_images").iterdir()]


def test_a_run_ends_before_training_with_one_line(options, tmp_path, capsys):
    file = with_two_broken(tmp_path, "pretraining", cut_photo())
    argv = ["--train_file", str(file), "--image_column", "picture", "--captions_column", "words", "--do_train"]
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", [*TWO_TOWER, *options, *argv, "--max_steps", "2"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "row 3: " in error and "truncated" in error and "3, 11" in error


def test_all_missing_files_are_named_before_anything_is_read(options, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("")
    argv = ["--train_file", "gone.csv", "--validation_file", str(tmp_path / "bad.csv"), "--test_file", "lost"]
    argv += ["--image_folder", "nowhere", "--do_train", "--do_eval", "--do_predict"]
    for name in ("image_and_text", "vqa", "retrieval"):
        with pytest.raises(SystemExit) as stopped:
            run_task(TASKS[name][0], "", [*TWO_TOWER, *options, *argv, "--max_steps", "2"])
        error = capsys.readouterr().err.splitlines()[-1]
        expected = "train_file: no such file or folder gone.csv; test_file: no such file or folder lost"
        assert stopped.value.code == 2 and error.endswith(f"{expected}; image_folder: no such folder nowhere")


def test_files_of_splits_that_the_run_does_not_need_may_be_missing(options, tmp_path, capsys):
    argv = ["--train_file", "gone.csv", "--test_file", "lost.csv", "--do_predict"]
    with pytest.raises(SystemExit):
        run_task(TASKS["images"][0], "", [*TWO_TOWER, *options, *argv])
    error = capsys.readouterr().err.splitlines()[-1]
    assert "test_file: no such file or folder lost.csv" in error and "gone.csv" not in error
    # Rows that are held out are of the training file.
    argv = ["--train_file", "gone.csv", "--held_out", "0.5", "--do_eval"]
    with pytest.raises(SystemExit):
        run_task(TASKS["images"][0], "", [*TWO_TOWER, *options, *argv])
    assert "train_file: no such file or folder gone.csv" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "pairs"])
def test_own_data_is_read_once_and_split_once(name, tmp_path, caplog, monkeypatch):
    """An image whose server fails only at first is on neither side, and a dead one is asked for once."""
    monkeypatch.setattr("renaissance.tasks.data.downloading.PAUSE", 0.0)
    write_pictures(tmp_path)
    rows = [dict(row) for _ in range(2) for row in rows_of(name)]
    with served(tmp_path / "photos") as server:
        lines = with_paths(rows, f"{server.address}/")
        lines[5]["picture"], lines[8]["picture"] = (f"{server.address}/{path}.png" for path in ("second-try", "lost"))
        options = {"download_images": True, "download_folder": tmp_path / "kept", "download_retries": 0}
        file = write_separated(tmp_path / "own.csv", lines)
        task = task_of(name, train_file=file, held_out=2, max_bad_fraction=0.2, **options)
        with caplog.at_level(logging.INFO):
            parts = [KeyedRows(task.load(split), False, task.source(split)) for split in ("train", "validation")]
        assert server.requests["/second-try.png"] == server.requests["/lost.png"] == 1
    numbers = [{int(re.search(r"row (\d+) ", row["image"]["name"])[1]) for row in part} for part in parts]
    assert numbers[0] | numbers[1] == set(range(12)) - {5, 8} and not numbers[0] & numbers[1]
    pictures = [{row["image"]["path"] for row in part} for part in parts]
    assert not pictures[0] & pictures[1]
    assert caplog.text.count("left out 2 of 12 rows") == 1 and caplog.text.count("held out") == 1


def test_a_question_file_is_read_once_for_its_vocabulary(tmp_path, caplog):
    write_pictures(tmp_path)
    rows = rows_of("vqa")
    rows[2]["picture"] = 99
    options = {"train_file": own_files.as_csv(tmp_path, rows), "max_bad_fraction": 0.2}
    task = task_of("vqa", **options)
    assert len(task.load("train")) == 5 and caplog.text.count("left out 1 of 6 rows") == 1
    caplog.clear()
    others = {
        "validation_file": own_files.as_jsonl(tmp_path, rows_of("vqa")),
        "answer_splits": ["train", "validation"],
    }
    both = task_of("vqa", **options, **others)
    assert [len(both.load(split)) for split in ("train", "validation")] == [5, 6]
    assert caplog.text.count("left out 1 of 6 rows") == 1
