"""Names of files, classes and keys as other systems and programs write them."""

import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from own_files import COLOURS, png
from own_tasks import colour, fault, task_of

from renaissance.tasks.data.streaming import CaptionSource


pytestmark = pytest.mark.usefixtures("dataset_cache")

#: The same word in the two normal forms of Unicode.
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
ROWS = [{"picture": f"photos/{n}.png", "words": f"text {n}", "kind": "xy"[n % 2]} for n in range(3)]


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))


def colours(data, column: str = "image") -> list[tuple[int, ...]]:
    return [colour(image) for image in data[column]]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("stored", "named"),
    [
        (f"{DECOMPOSED}.png", f"{COMPOSED}.png"),
        (f"{COMPOSED}.png", f"{DECOMPOSED}.png"),
        (f"{DECOMPOSED}/{DECOMPOSED} 1.png", f"{COMPOSED}\\{COMPOSED} 1.png"),
        ("in/1.png", "in\\1.png"),
        ("in/1.PNG", ".\\in\\1.PNG"),
        ("in/1.png", "./in/../in/1.png"),
        ("in/1.png", " in/1.png "),
        (" a b.png", " a b.png"),
        ("a\\b.png", "a\\b.png"),
        ("in/1#2%20?.jfif", "in/1#2%20?.jfif"),
    ],
)
def test_files_are_found_however_a_table_writes_their_path(stored, named, ending, tmp_path):
    if ending == "csv" and stored.startswith(" "):
        named = f"./{named}"
    write_images(tmp_path / "photos", ["0.png", stored])
    rows = [{"file_name": name, "words": name, "kind": kind} for name, kind in (("0.png", "x"), (named, "y"))]
    for place, column in (("own", "file_name"), ("metadata", "image")):
        file = tmp_path / "photos" / f"{place}.{ending}"
        pd.DataFrame(rows).to_csv(file, index=False)
        if ending == "jsonl":
            file.write_text("\n".join(map(json.dumps, rows)))
        task = task_of("image_and_text", train_file=file.parent if place == "metadata" else file, image_column=column)
        assert colours(task.load("train")) == COLOURS[:2]


@pytest.mark.parametrize(
    "path", ["data:image/png;base64," + "A" * 5000, "a" * 300, "a\0b.png", "photos", "photos/0.png/", "~/0.png"]
)
def test_texts_that_are_no_files_are_told_in_a_short_line(path, tmp_path):
    write_images(tmp_path / "photos", ["0.png"])
    rows = [ROWS[0], ROWS[0] | {"picture": path, "kind": "y"}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = fault(task_of("image_and_text", train_file=tmp_path / "own.jsonl"))
    assert "1 of 2 rows cannot be used: row 1: no image file" in message and len(message) < 500


def test_classes_in_two_normal_forms_are_one(tmp_path):
    write_images(tmp_path / "photos", [f"{COMPOSED}/1.png", f"{DECOMPOSED}/2.png", "bar/3.png"])
    task = task_of("images", train_file=tmp_path / "photos", image_column="image", label_column="label")
    assert [task.names[label] for label in task.load("train")["label"]] == ["bar", COMPOSED, COMPOSED]
    names = [f"{COMPOSED}/1.png", f"{DECOMPOSED}/2.png", "bar/3.png"]
    rows = [{"picture": f"photos/{name}", "words": "a", "kind": name.partition("/")[0]} for name in names]
    for file, content in (("own.csv", None), ("own.jsonl", "\n".join(map(json.dumps, rows)))):
        pd.DataFrame(rows).to_csv(tmp_path / file, index=False) if content is None else (tmp_path / file).write_text(
            content
        )
        task = task_of("image_and_text", train_file=tmp_path / file)
        assert task.load("train")["label"][:] == [1, 1, 0] and task.names == ["bar", COMPOSED]
    # Those of a checkpoint may be in either form.
    task = task_of("image_and_text", validation_file=tmp_path / "own.csv")
    task.names = [DECOMPOSED, "bar"]
    assert task.load("validation")["label"][:] == [0, 0, 1]


def tar_of(path: Path, members: list[tuple[str, bytes]], encoding: str = "utf-8") -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding=encoding) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        ([(f"{COMPOSED}.png", f"{COMPOSED}.txt")], "latin-1"),
        ([(f"{DECOMPOSED}.png", f"{COMPOSED}.txt")], "utf-8"),
        ([("./v1.0/1.PNG", "./v1.0/1.TXT"), ("v1.0/2.png", "v1.0/2.txt")], "utf-8"),
        ([("/data/1.png", "/data/1.txt"), ("../2.png", "../2.txt")], "utf-8"),
    ],
)
def test_members_of_tar_files_of_any_program(names, encoding, tmp_path):
    members = [own for n, pair in enumerate(names) for own in zip(pair, (png(n), f"text {n}".encode()), strict=True)]
    members += [("z.png", png(len(names))), ("z.txt", b"last")]
    file = tar_of(tmp_path / "own.tar", members, encoding)
    expected = [f"text {n}" for n in range(len(names))] + ["last"]
    task = task_of("retrieval", train_file=file, image_column="png", captions_column="txt", image_id_column="__key__")
    data = task.load("train")
    assert [row["text"] for row in map(data.__getitem__, range(len(data)))] == expected
    columns = {"image": "png", "captions": "txt", "image_id": "__key__"}
    rows = [row for row, _ in CaptionSource.open(str(file), "train", columns).rows()]
    assert [row["captions"] for row in rows] == [[text] for text in expected]
    assert len({row["image_id"].encode() for row in rows}) == len(expected)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_as_pandas_writes_it(indent, tmp_path):
    write_images(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    file, table = tmp_path / "own.json", pd.DataFrame(ROWS)
    table.to_json(file, orient="records", indent=indent)
    assert list(task_of("image_and_text", train_file=file).load("train")["text"]) == ["text 0", "text 1", "text 2"]
    for orient, message in (
        ("columns", "expected images in column 'picture', found records (0: "),
        ("split", "no column picture, words, kind, only columns, index, data"),
        ("index", "no column picture, words, kind, only 0, 1, 2"),
        ("table", "no column picture, words, kind, only schema, data"),
    ):
        table.to_json(file, orient=orient, indent=indent)
        assert message in fault(task_of("image_and_text", train_file=file))


def test_nan_of_json_is_a_missing_value(tmp_path):
    write_images(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    rows = [ROWS[0], ROWS[1] | {"words": float("nan")}, ROWS[2]]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = fault(task_of("image_and_text", train_file=tmp_path / "own.jsonl"))
    assert "1 of 3 rows cannot be used: row 1: column 'words' is empty (null)" in message
