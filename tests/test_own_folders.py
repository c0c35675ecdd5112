"""The user's own folders: every image is a row whatever its name, metadata files are read as tables are, splits stay apart."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from own_files import COLOURS, png, write_separated
from own_tasks import WORDS, colour, fault, task_of

from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.opening import open_file


pytestmark = pytest.mark.usefixtures("dataset_cache")


def images_of(folder: Path, names: list[str]) -> Path:
    """A folder with these images, the n-th of the n-th colour."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number % len(COLOURS)))
    return folder


def opened(folder: Path) -> Dataset:
    return open_file(folder, Faults(str(folder)))


def classes_in(folder: Path) -> list[tuple[str, tuple[int, ...]]]:
    """The class and the colour of each row."""
    task = CIFAR10(CIFAR10.arguments(train_file=str(folder)))
    return [(task.names[row["label"]], colour(row["image"])) for row in task.load("train")]


@pytest.mark.parametrize(
    "names",
    [
        ["cat/COCO_val2014_1.jpg", "cat/COCO_train2014_2.jpg", "dog/COCO_val2014_3.jpg", "dog/test_4.jpg"],
        ["cat/train_1.png", "cat/2.png", "dog/train-3.png", "dog/4-dev.png"],
        ["test/1.png", "test/2.png", "train/3.png", "validation/4.png"],
        ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "train/dog/4.png"],
        ["train/cat/1.png", "more/cat/2.png", "more/dog/test.png", "train/dog/4.png"],
        ["eval/1.JPG", "evaluation/2.Jpeg", "evaluation/3.webp", "evaluation/train.webp"],
    ],
)
def test_every_image_is_a_row_of_its_class_whatever_it_is_called(names, tmp_path):
    found = classes_in(images_of(tmp_path / "photos", names))
    assert sorted(found) == sorted((name.split("/")[-2], COLOURS[number]) for number, name in enumerate(names))


def test_a_folder_for_each_split_is_no_split(tmp_path):
    folder = images_of(tmp_path / "photos", ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png"])
    message = fault(CIFAR10(CIFAR10.arguments(train_file=str(folder))))
    assert "a folder for each split (train, val), expected one split; name its folder, such as" in message
    assert [name for name, _ in classes_in(folder / "train")] == ["cat", "dog"]


def test_a_flat_folder_is_predicted_as_a_whole(tmp_path):
    names = ["COCO_val2014_1.jpg", "a::b.jpg", "test.png", "test_2.png", "train_1.jpg", "é #%.jpg"]
    folder = images_of(tmp_path / "photos", names)
    task = CIFAR10(CIFAR10.arguments(test_file=str(folder), id_column="file_name"), ["cat", "dog"])
    data = task.load("test")
    assert list(data["id"]) == names and [colour(image) for image in data["image"]] == COLOURS


def test_hidden_files_are_no_images_and_others_are_told(tmp_path, caplog):
    names = [
        "cat/1.png",
        "cat/._1.png",
        ".git/x.png",
        "__MACOSX/cat/1.png",
        "dog/2.avif",
        "dog/notes.txt",
        "dog/3.heic",
    ]
    folder = images_of(tmp_path / ".photos", names)
    with caplog.at_level(logging.WARNING):
        assert classes_in(folder) == [("cat", COLOURS[0]), ("dog", COLOURS[4])]
    assert "left out 2 files that are neither images nor metadata: dog/3.heic, dog/notes.txt" in caplog.text


def test_folders_without_images(tmp_path):
    (tmp_path / "photos").mkdir()
    assert "image files (JPEG, PNG," in fault(CIFAR10(CIFAR10.arguments(train_file=str(tmp_path / "photos"))))
    (tmp_path / "photos" / "photos.zip").write_bytes(b"PK")
    message = fault(CIFAR10(CIFAR10.arguments(train_file=str(tmp_path / "photos"))))
    assert "found only photos.zip; unpack archives first" in message


def test_images_at_several_depths_have_no_class(tmp_path, caplog):
    folder = images_of(tmp_path / "photos", ["cat/black/1.png", "dog/2.png"])
    assert "no column label, only image, file_name" in fault(CIFAR10(CIFAR10.arguments(train_file=str(folder))))
    assert "its folders are no classes, for images lie at several depths" in caplog.text


def test_links_are_followed_once(tmp_path):
    folder = images_of(tmp_path / "photos", ["cat/1.png"])
    images_of(tmp_path / "elsewhere", ["1.png"])
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "again").symlink_to(folder)
    assert [name for name, _ in classes_in(folder)] == ["cat", "dog"]


def metadata(folder: Path, name: str, rows: list[dict], separator: str = ",", encoding: str = "utf-8") -> Path:
    if name.endswith(("json", "jsonl")):
        text = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
        (folder / name).write_text(text)
    elif name.endswith("parquet"):
        Dataset.from_list(rows).to_parquet(str(folder / name))
    else:
        write_separated(folder / name, rows, separator, encoding)
    return folder


@pytest.mark.parametrize(
    ("name", "separator", "encoding"),
    [
        ("metadata.csv", ",", "utf-8"),
        ("metadata.csv", ";", "utf-8-sig"),
        ("metadata.csv", "\t", "utf-16"),
        ("metadata.tsv", "\t", "utf-8"),
        ("Metadata.CSV", "|", "utf-8"),
        ("metadata.json", "", ""),
        ("metadata.jsonl", "", ""),
        ("metadata.parquet", "", ""),
    ],
)
def test_values_of_metadata_files_stay_what_they_are(name, separator, encoding, tmp_path):
    texts = ["NA", "None", "null", "12", "1.0", "é, é"]
    labels = ["01", "1", "01", "1.5", "True", "NA"]
    names = ["train_1.png", "in/COCO_val2014_1.png", "test/1.png", "in/3.png", "4.png", "5.png"]
    folder = images_of(tmp_path / "photos", names)
    rows = [
        dict(zip(("file_name", "say", "kind"), row, strict=True)) for row in zip(names, texts, labels, strict=True)
    ]
    metadata(folder, name, rows, separator, encoding)
    options = {"text_column": "say", "label_column": "kind", "id_column": "file_name"}
    task = task_of("image_and_text", train_file=folder, image_column="image", **options)
    data = task.load("train")
    assert list(data["text"]) == texts and list(data["id"]) == names
    assert [task.names[label] for label in data["label"]] == labels
    assert [colour(image) for image in data["image"]] == COLOURS


def test_answers_in_metadata_files_stay_what_they_are(tmp_path):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    rows = [
        {"file_name": f"{n}.png", "words": "how many?", "answer": value} for n, value in enumerate(("1", "2", "1.5"))
    ]
    task = task_of("vqa", "folder_with_csv", train_file=metadata(folder, "metadata.csv", rows))
    assert list(task.load("train")["answers"]) == [["1"], ["2"], ["1.5"]]


def test_images_without_a_line_are_told(tmp_path, caplog):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png", "2.png", "in/3.png"])
    metadata(folder, "metadata.csv", [{"file_name": f"./{n}.png", "words": f"a {n}"} for n in (2, 0, 0)])
    with caplog.at_level(logging.WARNING):
        assert opened(folder)["file_name"][:] == ["2.png", "0.png", "0.png"]
    assert "left out 2 of 4 images, which the metadata file does not list: 1.png, in/3.png" in caplog.text


def test_metadata_files_of_several_folders(tmp_path):
    """Paths start from the file's own folder; rows are counted through all files, and messages name the file."""
    folder = images_of(tmp_path / "photos", ["a/train.png", "b/in/1.png", "c/2.png"])
    metadata(folder / "a", "metadata.csv", [{"file_name": "train.png", "words": "one"}])
    metadata(folder / "b", "metadata.tsv", [{"file_name": "in\\1.png", "words": "two"}], "\t")
    (folder / "c" / "metadata.csv").write_text("file_name,words\n../c/2.png,three\n2.png,four,five\n")
    message = fault(task_of("retrieval", "folder_with_csv", train_file=folder))
    assert "1 of 4 rows cannot be used: row 3: c/metadata.csv: 3 values for 2 names" in message
    task = task_of("retrieval", "folder_with_csv", train_file=folder, max_bad_fraction=0.5)
    data = task.load("train")
    assert [(row["text"], colour(row["image"])) for row in map(data.__getitem__, range(3))] == [
        ("one", COLOURS[0]), ("two", COLOURS[1]), ("three", COLOURS[2])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file_name,words\n0.png,sch\xf6n\n", r"metadata.csv is not UTF-8: line 2 has the byte 0xf6 (Latin-1?); save"),
        (b"file,words\n0.png,a\n", "no column file_name, left_file_name or such, only file, words"),
        (b"file_name,words\n", "no row after the line with the names of the columns"),
        (b"file_name,image,words\n0.png,b,a\n", "'file_name' becomes 'image', which is there too; rename one"),
        (b"file_name,words\n0.png,a\n9.png,a\n", "row 1: no image file {folder}/9.png (column 'image')"),
        (b"file_name,words\n0.png,a\n,a\n", "row 1: the path of the image is blank"),
        (b"file_name,words\n../1.png,a\n", "row 0: expected a path inside the folder in column 'file_name', got ../1.png"),
        (b"file_name,words\n/etc/passwd,a\n", "row 0: expected a path inside the folder"),
        (b"file_name,words\nfile:///etc/passwd,a\n", "row 0: expected a path inside the folder"),
        (b"file_name,words\nhttp://localhost:9/1.png,a\n", "row 0: an image on the web"),
        (b"file_name,words\n0.png,a,b\n1.png,c\n", "row 0: 3 values for 2 names in the first line"),
    ],
)  # fmt: skip
def test_faults_of_metadata_files(content, message, tmp_path):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png"])
    images_of(tmp_path, ["1.png"])
    (folder / "metadata.csv").write_bytes(content)
    found = fault(task_of("pretraining", "folder_with_csv", train_file=folder))
    assert message.format(folder=folder) in found


def test_more_faults_of_metadata_files(tmp_path):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png"])
    metadata(folder, "metadata.jsonl", [{"file_name": 3, "words": "a"}])
    assert "expected paths in column 'file_name', found int64" in fault(task_of("pretraining", train_file=folder))
    metadata(folder, "metadata.csv", [{"file_name": "0.png", "words": "a"}])
    message = fault(task_of("pretraining", train_file=folder))
    assert "several metadata files, metadata.csv, metadata.jsonl; expected one in a folder" in message


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_lists_of_paths_in_metadata_files(name, tmp_path):
    folder = images_of(tmp_path / "photos", ["0.png", "1.png", "2.png"])
    rows = [{"file_names": [f"{n}.png", f"{n + 1}.png"], "words": WORDS[n], "kind": str(bool(n))} for n in range(2)]
    metadata(folder, name, rows)
    options = {"images_column": ["images"]}
    data = task_of("pairs", train_file=folder, **options).load("train")
    assert [list(map(colour, images)) for images in data["images"]] == [COLOURS[0:2], COLOURS[1:3]]
    text = (folder / name).read_text().replace("[", "", 1)
    if name.endswith("csv"):
        (folder / name).write_text(text)
        assert "row 0: expected a list of paths in column 'file_names'" in fault(
            task_of("pairs", train_file=folder, **options)
        )


@pytest.mark.parametrize("ending", ["parquet", "tar"])
@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00001", "validation-00000-of-00001"],
        ["train-00000-of-00001", "testA-00000-of-00001"],
        ["train", "test"],
        ["photos_val-01", "photos_train-01"],
    ],
)
def test_files_of_several_splits_are_no_split(names, ending, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).to_parquet(str(folder / f"{name}.{ending}"))
    message = fault(task_of("texts", train_file=folder))
    assert (
        f"{folder}: its files are of several splits (" in message
        and "--dataset, in pretraining --train_datasets" in message
    )


def test_files_of_one_split_are_all_read(tmp_path):
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002")):
        rows = {"words": [f"{number}a", f"{number}b"], "kind": ["x", "y"]}
        Dataset.from_dict(rows).to_parquet(str(tmp_path / f"{name}.parquet"))
    (tmp_path / "._train-00000-of-00002.parquet").write_bytes(b"finder")
    assert list(task_of("texts", train_file=tmp_path).load("train")["text"]) == ["0a", "0b", "1a", "1b"]
    (tmp_path / "train-00001-of-00002.parquet").rename(tmp_path / "MORE.PARQUET")
    assert "expected 2; prepare the data set again" in fault(task_of("texts", train_file=tmp_path))
    (tmp_path / "train-00000-of-00002.parquet").rename(tmp_path / "some.parquet")
    assert list(task_of("texts", train_file=tmp_path).load("train")["text"]) == ["1a", "1b", "0a", "0b"]


@pytest.mark.real_data
def test_real_photos_keep_the_names_of_coco(real_data, tmp_path):
    """12 photos in two classes, half of them of the validation set."""
    photos = sorted((real_data / "coco").rglob("COCO_*.jpg"))[:12]
    assert len(photos) == 12
    for number, photo in enumerate(photos):
        place = tmp_path / "c" / ("cat", "dog")[number % 2] / (photo.name if number % 4 < 2 else f"{number}.jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    task = CIFAR10(CIFAR10.arguments(train_file=str(tmp_path / "c")))
    assert sorted(task.names[row["label"]] for row in task.load("train")) == ["cat"] * 6 + ["dog"] * 6
