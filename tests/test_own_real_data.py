"""The table of one's own data in docs/tasks.md, cell by cell, on real photos and texts: each is trained on and predicted."""

import csv
import io
import json
from pathlib import Path

import own_files
import pytest
from conftest import TWO_TOWER
from datasets import load_dataset
from own_files import served, with_paths, write_pictures, write_separated
from own_tasks import MORE_OPTIONS, TASKS
from test_own_data import FORMS, OF_IMAGES

from renaissance.tasks.runner import run_task


pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.usefixtures("dataset_cache")]

#: The prepared data set that each task's rows are of, and the columns that they are in.
SOURCES = {
    "pretraining": ("coco", {"picture": "image", "words": "captions"}),
    "image_and_text": ("snli_ve", {"picture": "image", "words": "text", "kind": "label"}),
    "entailments": ("snli_ve", {"picture": "image", "words": "text", "kind": "label"}),
    "vqa": ("easy_vqa", {"picture": "image", "words": "text", "answer": "answers"}),
    "retrieval": ("coco", {"picture": "image", "words": "captions"}),
    "images": ("cifar10", {"picture": "image", "kind": "label"}),
    "texts": ("snli_ve", {"words": "text", "kind": "label"}),
    "pairs": ("nlvr2", {"left": "images", "right": "images", "words": "text", "kind": "label"}),
    "boxes": ("refcoco", {"picture": "image", "words": "text", "frames": "boxes", "which": "label"}),
}
ROWS = 6
WEB = "on_the_web"


@pytest.fixture(scope="module")
def prepared(real_data, prepare, tmp_path_factory):
    """A function to the first rows of a public data set as prepare_data.py makes it, prepared once."""
    folder = tmp_path_factory.mktemp("prepared")
    done = {}

    def rows(name: str):
        if name not in done:
            source = real_data / name
            if name == "snli_ve":
                source = folder / "snli_ve_source"
                (source / "Flickr30K").mkdir(parents=True)
                for file in (real_data / name).glob("*.jsonl"):
                    (source / file.name).symlink_to(file)
                (source / "Flickr30K" / "images").symlink_to(real_data / "f30k" / "flickr30k-images")
            prepare(name, "--source", source, "--output", folder / name)
            data = load_dataset("parquet", data_files=str(folder / name / "train-*.parquet"), split="train")
            done[name] = data.select(range(ROWS)), getattr(data.features.get("label"), "names", None)
        return done[name]

    return rows


def png(image) -> bytes:
    """A prepared image without loss."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def own_rows(name: str, prepared, monkeypatch) -> list[dict]:
    """The rows of a task under the user's names of columns, with the numbers of pictures that `own_files` writes."""
    source, columns = SOURCES[name]
    data, names = prepared(source)
    photos, rows = [], []
    for row in data:
        own = {}
        for column, theirs in columns.items():
            value = row[theirs]
            if column in own_files.PICTURES:
                image = value[["left", "right"].index(column)] if isinstance(value, list) else value
                photos.append(png(image))
                own[column] = len(photos) - 1
            elif theirs == "captions":
                own[column] = value[0]
            elif theirs == "answers":
                own[column] = list(value)[:1]
            elif theirs == "label" and column == "kind":
                own[column] = str(bool(value)) if name == "pairs" else names[value]
            else:
                own[column] = value
        rows.append(own)
    monkeypatch.setattr(own_files, "png", lambda number: photos[number])
    monkeypatch.setattr(own_files, "COLOURS", photos)
    return rows


def predictions_of(folder: Path) -> int:
    """How many rows were predicted; of retrieval, captions."""
    (file,) = folder.glob("predictions.*")
    if file.suffix == ".json":
        found = json.loads(file.read_text())
        return len(found["images_for_captions"] if isinstance(found, dict) else found)
    with file.open(newline="") as lines:
        return len(list(csv.reader(lines)))


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in TASKS for form in [*FORMS, WEB] if name != "texts" or form not in (*OF_IMAGES, WEB)],
)
def test_a_cell_of_the_table(name, form, prepared, options, tmp_path, monkeypatch):
    rows = own_rows(name, prepared, monkeypatch)
    write_pictures(tmp_path)
    kind, columns = TASKS[name]
    argv = ["--do_train", "--do_eval", "--max_steps", "1"]
    for column, own in columns.items():
        argv += [
            f"--{column}_column",
            *(own_files.column_in(form, part) for part in ([own] if isinstance(own, str) else own)),
        ]
    for option, value in MORE_OPTIONS.get(name, {}).items():
        argv += [f"--{option}", str(value)]
    with served(tmp_path / "photos") as server:
        if form == WEB:
            file = write_separated(tmp_path / "own.csv", with_paths(rows, f"{server.address}/"))
            argv += ["--download_images", "--download_folder", str(tmp_path / "kept")]
        else:
            file = FORMS[form](tmp_path, rows)
        argv += ["--train_file", str(file), "--validation_file", str(file)]
        if name != "pretraining":
            argv += ["--test_file", str(file), "--do_predict"]
        metrics = run_task(kind, "", [*TWO_TOWER, *options, *argv])
    assert metrics["train_rows"] == ROWS
    assert metrics.get("eval_rows", metrics.get("eval_captions")) == ROWS
    if name != "pretraining":
        assert predictions_of(tmp_path / "run") == ROWS


def test_folders_by_class(prepared, options, tmp_path, monkeypatch):
    rows = own_rows("images", prepared, monkeypatch)
    for row in rows:
        (tmp_path / "photos" / row["kind"]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / row["kind"] / f"{row['picture']}.png").write_bytes(own_files.png(row["picture"]))
    folder = str(tmp_path / "photos")
    argv = ["--train_file", folder, "--validation_file", folder, "--do_train", "--do_eval", "--max_steps", "1"]
    metrics = run_task(TASKS["images"][0], "", [*TWO_TOWER, *options, *argv])
    assert metrics["train_rows"] == metrics["eval_rows"] == ROWS
