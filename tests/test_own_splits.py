"""Local folders as data sets: which images, .tar files and tables are those of a split, read as the user's own files are."""

import csv
import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from own_files import COLOURS, png, tar_of
from own_tasks import colour, fault, task_of

from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.opening import open_file, open_split
from renaissance.tasks.data.streaming import CaptionSource


pytestmark = pytest.mark.usefixtures("dataset_cache")

NOT_THERE = r"nothing else that is called after the split|call each after its split"

WEB_COLUMNS = {"image": "png", "captions": "txt", "image_id": "__key__"}


def images_of(folder: Path, names: list[str]) -> Path:
    """A folder with these images, the n-th of the n-th colour."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number % len(COLOURS)))
    return folder


def write_metadata(folder: Path, rows: list[dict], name: str = "metadata.csv", separator: str = ",", encoding="utf-8"):
    if name.endswith(".jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding=encoding)
        return
    with (folder / name).open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    "names",
    [
        ["train2017/1.png", "val2014/2.png", "photos/test_3.png", "photos/train/4.png"],
        ["cat/train.png", "cat/test.png", "validation_3.png", "dog/val-4.png"],
        ["train/1.png", "test/2.png", "4.png", "boat/3.png"],
        ["images/train/1.png", "images/test/2.png", "images/cat/3.png", "images/4.png"],
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_images_are_rows_of_training_whatever_they_are_called(names, streaming, tmp_path):
    folder = images_of(tmp_path / "photos", names)
    rows = list(open_split(str(folder), "train", streaming=streaming))
    assert {row["file_name"]: colour(row["image"]) for row in rows} == dict(zip(names, COLOURS, strict=False))
    with pytest.raises(ValueError, match=r"nothing else that is called after the split 'test', only train"):
        open_split(str(folder), "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train2017/1.png", "val2017/2.png", "unlabeled2017/3.png"], "but others are not (unlabeled2017)"),
        (["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"], "but others are not (cat, dog)"),
        (["train/1.png", "val/2.png", "3.png"], "but images lie beside them"),
        (["train/1.png", "cat/2.png"], ""),
    ],
)
def test_folders_that_could_be_splits_are_warned_of(names, message, tmp_path, caplog):
    folder = images_of(tmp_path / "photos", names)
    with caplog.at_level(logging.WARNING):
        assert len(open_split(str(folder), "train")) == len(names)
    assert message in caplog.text and ("images are training data" in caplog.text) == bool(message)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train2017/1.png", "val2017/2.png", "test2017/3.png"], {"train": [0], "validation": [1], "test": [2]}),
        (["train/a/1.png", "train/b/2.png", "dev/a/3.png"], {"train": [0, 1], "validation": [2], "test": None}),
        (["images/training/1.png", "images/Valid/2.png"], {"train": [0], "validation": [1], "test": None}),
        (["train/1.png", "train/test_2.png"], {"train": [0, 1], "validation": None, "test": None}),
        (["test/1.png", "testA/2.png", "train/3.png"], {"train": [0, 1, 2], "testA": None}),
        (["train2014/1.png", "train2017/2.png"], {"train": None}),
    ],
)
def test_folders_called_after_splits_are_splits(names, splits, tmp_path):
    folder = images_of(tmp_path / "photos", names)
    for split, numbers in splits.items():
        if numbers is None:
            with pytest.raises(ValueError, match=r"photos: (no |several for the split 'train', train2014, train2017)"):
                open_split(str(folder), split)
        else:
            found = [colour(image) for image in open_split(str(folder), split)["image"]]
            assert found == [COLOURS[number] for number in numbers]


@pytest.mark.parametrize(
    ("name", "separator", "encoding"),
    [
        ("metadata.csv", ",", "utf-8"),
        ("metadata.csv", ";", "utf-8-sig"),
        ("metadata.tsv", "\t", "utf-16"),
        ("Metadata.csv", "|", "utf-8"),
        ("metadata.jsonl", "", "utf-8-sig"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_metadata_of_a_data_set_is_read_as_ones_own(name, separator, encoding, streaming, tmp_path):
    """pandas makes missing values of "NA" and "null", and numbers of "007"."""
    texts = ["NA", "007", "null", "1.0", "é, é", "None"]
    folder = images_of(tmp_path / "photos", [f"train/in/COCO_val2014_{number}.png" for number in range(6)])
    rows = [{"file_name": f"in/COCO_val2014_{number}.png", "say": text} for number, text in enumerate(texts)]
    write_metadata(folder / "train", rows, name, separator, encoding)
    found = [(row["say"], colour(row["image"])) for row in open_split(str(folder), "train", streaming=streaming)]
    assert found == list(zip(texts, COLOURS, strict=True))


def test_classes_and_answers_of_a_data_set_stay_what_they_are(tmp_path):
    folder = tmp_path / "photos"
    for split, labels in (("train", ["007", "7", "NA"]), ("validation", ["NA", "7", "007"])):
        images_of(folder / split, [f"{number}.png" for number in range(3)])
        rows = [{"file_name": f"{n}.png", "words": "n/a", "kind": label} for n, label in enumerate(labels)]
        write_metadata(folder / split, rows)
    task = task_of("image_and_text", "folder_with_csv", dataset=folder)
    assert [task.names[label] for label in task.load("train")["label"]] == ["007", "7", "NA"]
    data = task.load("validation")
    assert [task.names[label] for label in data["label"]] == ["NA", "7", "007"] and set(data["text"]) == {"n/a"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_an_image_of_a_data_set_has_several_captions(name, tmp_path):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png"])
    texts = [["a red dog", "NA"], ["007"]]
    rows = [{"file_name": f"{n}.png", "words": own} for n, own in enumerate(texts)]
    if name.endswith("csv"):
        rows = [row | {"words": json.dumps(row["words"])} for row in rows]
    write_metadata(folder, rows, name)
    task = task_of("pretraining", "folder_with_csv", train_datasets=[str(folder)])
    pairs = task.load("train")
    found = [(pairs[n]["text"], colour(pairs[n]["image"])) for n in range(3)]
    assert found == [("a red dog", COLOURS[0]), ("007", COLOURS[1]), ("NA", COLOURS[0])]


def test_bad_rows_of_a_data_set_are_told_as_of_ones_own(tmp_path, caplog):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png"])
    (folder / "metadata.csv").write_text("file_name,words\n0.png,a dog\n1.png,two,three\n../2.png,out\n9.png,gone\n")
    task = task_of("pretraining", "folder_with_csv", train_datasets=[str(folder)])
    message = fault(task)
    assert "3 of 4 rows cannot be used" in message and "row 1: 3 values for 2 names" in message
    assert "row 2: expected a path inside the folder" in message and "row 3: no image file" in message
    task = task_of("pretraining", "folder_with_csv", train_datasets=[str(folder)], max_bad_fraction=0.8)
    assert [task.load("train")[0]["text"]] == ["a dog"]
    with caplog.at_level(logging.WARNING):
        source = CaptionSource.open(
            str(folder), "train", {"image": "image", "captions": "words", "image_id": "image_id"}
        )
        assert [row["captions"] for row, _ in source.rows()] == [["a dog"]]
    assert "left out 2 of 4 rows that cannot be used" in caplog.text
    assert "left out 1 with unreadable image" in caplog.text


def test_folders_of_classes_in_splits(tmp_path):
    names = ["train/cat/1.PNG", "train/dog/train.png", "train/dog/3.png", "val/dog/4.png", "val/cat/5.png"]
    folder = images_of(tmp_path / "photos", names)
    task = CIFAR10(CIFAR10.arguments(dataset=str(folder)))
    assert [task.names[label] for label in task.load("train")["label"]] == ["cat", "dog", "dog"]
    assert [task.names[label] for label in task.load("validation")["label"]] == ["cat", "dog"]


def test_one_metadata_file_beside_folders_of_splits_is_no_split(tmp_path):
    folder = images_of(tmp_path / "photos", ["train2017/1.png", "val2017/2.png"])
    write_metadata(
        folder, [{"file_name": "train2017/1.png", "words": "a"}, {"file_name": "val2017/2.png", "words": "b"}]
    )
    with pytest.raises(
        ValueError, match=r"\(train2017, val2017\), but one metadata file \(metadata.csv\) for all; put one"
    ):
        open_split(str(folder), "train")
    assert open_file(folder, Faults(""))["words"][:] == ["a", "b"]


def test_metadata_files_in_folders_of_splits_are_no_one_split(tmp_path):
    folder = images_of(tmp_path / "photos", ["train/1.png", "test/2.png"])
    for split in ("train", "test"):
        write_metadata(folder / split, [{"file_name": f"{1 + (split == 'test')}.png", "words": split}])
    assert "a folder for each split (test, train), expected one split" in fault(
        task_of("pretraining", "folder_with_csv", train_file=folder)
    )
    assert open_split(str(folder), "test")["words"][:] == ["test"]


def samples(texts: list[str]) -> dict:
    return {f"{n}{text[0]}": {"png": png(n), "txt": text.encode()} for n, text in enumerate(texts)}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["00000.tar", "test_drive.tar", "train_station.tar"], {"train": ValueError}),
        (["00000.tar", "test_drive.TAR"], {"train": [0, 1], "test": ValueError}),
        (["cc-train-0.tar", "cc-train-1.tar", "cc-val-0.tar"], {"train": [0, 1], "validation": [2]}),
        (["train2017/0.tar", "val2017/1.tar"], {"train": [0], "validation": [1], "test": ValueError}),
        (["shards/0.tar", "shards/more/1.tar"], {"train": [0, 1]}),
        (["data/train/0.tar", "data/validation/1.tar"], {"train": [0], "validation": [1]}),
    ],
)
def test_tar_files_of_splits(names, splits, tmp_path):
    folder = tmp_path / "tars"
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tar_of(folder / name, samples([f"{number}a", f"{number}b"]))
    for split, numbers in splits.items():
        task = task_of("pretraining", train_datasets=[str(folder)], image_column="png", captions_column="txt")
        if numbers is ValueError:
            with pytest.raises(ValueError, match=NOT_THERE):
                task.load(split)
            with pytest.raises(ValueError, match=NOT_THERE):
                CaptionSource.open(str(folder), split, WEB_COLUMNS)
            continue
        expected = [f"{number}{letter}" for number in numbers for letter in "ab"]
        found = task.load(split)
        assert [found[number]["text"] for number in range(len(found))] == expected
        source = CaptionSource.open(str(folder), split, WEB_COLUMNS)
        assert [row["captions"] for row, _ in source.rows()] == [[text] for text in expected]


def test_folders_as_img2dataset_writes_them(tmp_path):
    """A .parquet file and a .json file beside each .tar file."""
    for number in range(2):
        tar_of(tmp_path / f"0000{number}.tar", samples([f"{number}a"]))
        (tmp_path / f"0000{number}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"0000{number}_stats.json").write_text("{}")
    columns = {"image_column": "png", "captions_column": "txt"}
    for options in ({"train_file": str(tmp_path)}, {"train_datasets": [str(tmp_path)]}):
        found = task_of("pretraining", **options, **columns).load("train")
        assert [found[number]["text"] for number in range(2)] == ["0a", "1a"]
    source = CaptionSource.open(str(tmp_path), "train", WEB_COLUMNS)
    assert [row["captions"] for row, _ in source.rows()] == [["0a"], ["1a"]]


@pytest.mark.parametrize(("name", "kind"), [("more.parquet", ".parquet"), ("photos/1.png", "image")])
def test_tar_files_beside_others_are_refused(name, kind, tmp_path):
    tar_of(tmp_path / "0.tar", samples(["a"]))
    (tmp_path / "photos").mkdir()
    (tmp_path / name).write_bytes(png(0))
    for option in ("train_file", "train_datasets"):
        given = str(tmp_path) if option == "train_file" else [str(tmp_path)]
        assert f"a folder of {kind} and .tar files ({name}; 0.tar), expected one kind" in fault(
            task_of("pretraining", **{option: given})
        )


def test_tables_of_splits_are_read_as_ones_own(tmp_path):
    images_of(tmp_path, ["photos/1.png", "photos/2.png"])
    (tmp_path / "train.csv").write_text("\ufeffpicture;words;kind\nphotos/1.png;NA;007\nphotos/2.png;null;7\n")
    (tmp_path / "val.tsv").write_text("picture\twords\tkind\nphotos/2.png\t007\t7\n")
    task = task_of("image_and_text", dataset=tmp_path)
    train, validation = task.load("train"), task.load("validation")
    assert list(train["text"]) == ["NA", "null"] and [task.names[label] for label in train["label"]] == ["007", "7"]
    assert list(validation["text"]) == ["007"] and colour(validation["image"][0]) == COLOURS[1]


def test_a_data_set_with_rules_of_its_own_is_read_by_them(tmp_path):
    images_of(tmp_path, ["a/1.png", "b/2.png"])
    rules = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: b/*\n"
    (tmp_path / "README.md").write_text(f"---\n{rules}---\n")
    assert [colour(image) for image in open_split(str(tmp_path), "train")["image"]] == [COLOURS[1]]


def test_boxes_of_a_folder_are_checked_as_of_ones_own(tmp_path):
    for split, width in (("train", 40), ("validation", 20)):
        images_of(tmp_path / split, ["0.png", "1.png"])
        boxes = [[[0, 0, 10, 10], [4, 4, width, 8]]] * 2
        rows = [{"file_name": f"{n}.png", "words": "a", "frames": own, "which": n} for n, own in enumerate(boxes)]
        write_metadata(tmp_path / split, rows, "metadata.jsonl")
    task = task_of("boxes", "folder_with_csv", dataset=tmp_path)
    assert "2 of 2 rows cannot be used: row 0: box 1" in fault(task)
    assert len(task.load("validation")) == 2


@pytest.mark.parametrize("path", ["{outside}/1.png", "../1.png", "in/../../1.png"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_of_a_data_set_names_no_image_outside_of_it(form, path, tmp_path):
    """As a table of one's own may."""
    images_of(tmp_path, ["1.png", "data/in/0.png"])
    path = path.format(outside=tmp_path)
    rows = {
        "picture": ["in/0.png", f"{tmp_path}/data/in/0.png", path],
        "words": ["a", "b", "c"],
        "kind": ["x", "y", "x"],
    }
    file = tmp_path / "data" / f"train.{form}"
    table = Dataset.from_dict(rows)
    table.to_csv(file, index=False) if form == "csv" else table.to_parquet(file)
    for name, option in (
        ("image_and_text", {"dataset": str(file.parent)}),
        ("pretraining", {"train_datasets": [str(file.parent)]}),
    ):
        message = fault(task_of(name, **option))
        assert "1 of 3 rows cannot be used: row 2: the image" in message and "lies outside of the data set" in message
        assert len(task_of(name, train_file=file).load("train")) == 3


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["captions.csv"], {"train": 0, "validation": None}),
        (["test_drive.tsv"], {"train": None, "test": 0}),
        (["my_train.csv", "my_val.csv"], {"train": 0, "validation": 1, "test": None}),
        (["train/a.csv", "val2017/b.csv"], {"train": 0, "validation": 1}),
        (["data/train.csv", "data/dev.csv"], {"train": 0, "validation": 1}),
        (["a.csv", "b.csv"], {"train": None}),
        (["train.csv", "train.tsv"], {"train": None}),
    ],
)
def test_folders_of_tables_are_read_as_ones_own(names, splits, tmp_path):
    for number, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        mark = "\t" if name.endswith("tsv") else ","
        rows = [["words", "kind"], [f"NA {number}", "007"], ["null", "7"]]
        (tmp_path / "data" / name).write_text("".join(mark.join(row) + "\n" for row in rows))
    (tmp_path / "data" / "README.md").write_text("# My data")
    for split, number in splits.items():
        if number is None:
            with pytest.raises(ValueError, match=r"data: (no |several for the split 'train', )"):
                open_split(str(tmp_path / "data"), split)
        else:
            data = open_split(str(tmp_path / "data"), split)
            assert data["words"][:] == [f"NA {number}", "null"] and data["kind"][:] == ["007", "7"]


def test_parquet_tables_of_splits_beside_images(tmp_path):
    images_of(tmp_path, ["photos/0.png", "photos/1.png"])
    for number, split in enumerate(("train", "val")):
        rows = {"picture": [f"photos/{number}.png"], "words": [split]}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    task = task_of("pretraining", train_datasets=[str(tmp_path)])
    for number, (split, word) in enumerate((("train", "train"), ("validation", "val"))):
        row = task.load(split)[0]
        assert row["text"] == word and colour(row["image"]) == COLOURS[number]


def test_what_datasets_saved_is_read_by_it(tmp_path):
    DatasetDict(train=Dataset.from_dict({"words": ["a", "b"]})).save_to_disk(tmp_path)
    assert open_split(str(tmp_path), "train")["words"][:] == ["a", "b"]
