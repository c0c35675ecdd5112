"""Preparing data: readers of the public layouts, and the command line."""

import json
import subprocess
import sys

import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image
from preparing import make_coco, stored_images, write_karpathy
from transformers import AutoTokenizer

from renaissance.tasks.data import schemas, shapes
from renaissance.tasks.data.karpathy import read_karpathy
from renaissance.tasks.data.nlvr2 import read_nlvr2


pytestmark = pytest.mark.usefixtures("dataset_cache")


def make_nlvr2(folder):
    """Three sentences, one a split, on pairs of a red and a blue image."""
    for name, directory in {"train": "images/train/7", "dev": "dev", "test1": "test1"}.items():
        (folder / directory).mkdir(parents=True)
        for side, colour in enumerate(("red", "blue")):
            Image.new("RGB", (20, 20), colour).save(folder / directory / f"{name}-5-0-img{side}.png")
        entry = {"identifier": f"{name}-5-0-1", "sentence": "One is red.", "label": "True"}
        entry |= {"directory": 7} if name == "train" else {}
        (folder / "nlvr2" / "data").mkdir(parents=True, exist_ok=True)
        (folder / "nlvr2" / "data" / f"{name}.json").write_text(json.dumps(entry) + "\n")


def test_shapes_are_written_for_load_dataset(prepare, capsys, tmp_path):
    sizes = ["--num_train", 30, "--num_validation", 4, "--num_test", 6]
    prepare("shapes", "--output", tmp_path / "a", *sizes, "--image_size", 48)
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:3] == ["captions/train", "30", "120"]
    assert ["nlvr2/test", "6", "6"] in [line.split()[:3] for line in table]
    assert ["refcoco/testB", "6", "6"] in [line.split()[:3] for line in table]
    for name, made in shapes.DATA_SETS.items():
        read = load_dataset(
            "parquet", data_files={s: str(tmp_path / "a" / name / f"{s}-*.parquet") for s in made.splits}
        )
        assert [len(rows) for rows in read.values()] == [30, 4, 6, 6][: len(made.splits)]
        assert read["train"].features == made.features

    captions = load_dataset(str(tmp_path / "a" / "captions"))
    pairs = load_dataset(str(tmp_path / "a" / "nlvr2"))
    for data, features in ((captions, schemas.CAPTIONS), (pairs, schemas.NLVR2)):
        assert {split: len(rows) for split, rows in data.items()} == {"train": 30, "validation": 4, "test": 6}
        assert data["train"].features == features
    assert captions["test"][2]["captions"] == shapes.describe(shapes.make_scene(0, "test", 2))
    assert captions["test"][2]["image"].size == (48, 48)
    pair = shapes.make_pair(0, "train", 9)
    assert pairs["train"][9]["text"] == pair.statement.text
    assert pairs["train"][9]["label"] == int(pair.label)
    assert pairs["train"][9]["images"][1].tobytes() == shapes.draw_scene(pair.right, 48).tobytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "tokenizer").model_max_length == 64

    few = ["captions", "refcoco"]
    prepare("shapes", "--output", tmp_path / "b", *sizes, "--image_size", 48, "--only", *few)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {*few, "tokenizer"}
    for path in (tmp_path / "b").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes(), path


def test_karpathy_splits_ids_and_captions(tmp_path):
    make_coco(tmp_path)
    rows = read_karpathy(tmp_path, "coco")
    assert {split: [row["image_id"] for row in rows[split]] for split in rows} == {
        "train": ["coco-0", "coco-1", "coco-2", "coco-3", "coco-4"],
        "validation": ["coco-5"],
        "test": ["coco-6"],
    }
    assert rows["test"][0]["captions"] == ["Caption 0 of 6.", "Caption 1 of 6."]


def test_nlvr2_pairs_are_left_then_right(prepare, tmp_path):
    make_nlvr2(tmp_path / "source")
    prepare("nlvr2", "--source", tmp_path / "source", "--output", tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"))
    assert data["train"].features == schemas.PUBLIC_NLVR2
    assert {split: rows["id"] for split, rows in data.items()} == {
        "train": ["train-5-0-1"],
        "validation": ["dev-5-0-1"],
        "test": ["test1-5-0-1"],
    }
    for rows in data.values():
        left, right = rows[0]["images"]
        assert (left.getpixel((0, 0)), right.getpixel((0, 0))) == ((255, 0, 0), (0, 0, 255))
        assert (rows[0]["text"], rows.features["label"].int2str(rows[0]["label"])) == ("One is red.", "True")


def test_missing_sources_are_named(refuse, tmp_path):
    source, output = tmp_path / "source", tmp_path / "out"
    message = refuse("coco", "--source", source, "--output", output)
    assert f"the folder {source} does not exist" in message
    source.mkdir()
    assert str(source / "karpathy" / "dataset_coco.json") in refuse("coco", "--source", source, "--output", output)
    message = refuse("flickr30k", "--source", source, "--output", output)
    assert str(source / "karpathy" / "dataset_flickr30k.json") in message
    message = refuse("nlvr2", "--source", source, "--output", output)
    assert str(source / "nlvr2" / "data" / "train.json") in message
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda entries: entries[2].pop("cocoid"), "images[2] has no key 'cocoid'"),
        (lambda entries: entries[1].pop("split"), "images[1] has no key 'split'"),
        (lambda entries: entries[1]["sentences"][1].pop("raw"), "images[1] has no key 'raw'"),
        (lambda entries: entries[3].update(sentences=None), "images[3] is not a Karpathy entry"),
        (lambda entries: entries[3].update(sentences=[{"raw": " "}]), "images[3] has no caption"),
        (lambda entries: entries[4].update(split="dev"), "images[4] has the split 'dev'"),
        (lambda entries: entries[4].update(cocoid=1), "images[4] repeats the image coco-1"),
        (lambda entries: entries[6].update(split="val"), "no entry of the split 'test'"),
    ],
)
def test_bad_karpathy_entries_are_named(refuse, tmp_path, change, expected):
    entries = make_coco(tmp_path)
    change(entries)
    write_karpathy(tmp_path, entries)
    message = refuse("coco", "--source", tmp_path, "--output", tmp_path / "out")
    assert expected in message and "dataset_coco.json" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "expected a dictionary with a list of images under 'images', got an empty list"),
        ('{"annotations": []}', "has no key 'images'"),
        ('{"images": []}', "images is empty: expected a list of images"),
        ('{"images": {}}', "images: expected a list of images, got dict"),
    ],
)
def test_a_file_that_is_not_karpathys_is_named(refuse, tmp_path, content, expected):
    make_coco(tmp_path)
    (tmp_path / "karpathy" / "dataset_coco.json").write_text(content)
    assert expected in refuse("coco", "--source", tmp_path, "--output", tmp_path / "out")


def test_blank_captions_are_left_out_and_counted(tmp_path):
    entries = make_coco(tmp_path)
    entries[0]["sentences"][0]["raw"] = " \n"
    write_karpathy(tmp_path, entries)
    rows = read_karpathy(tmp_path, "coco")["train"]
    assert rows[0]["captions"] == ["Caption 1 of 0."]
    assert rows.left_out.by_rule["blank caption"] == 1 and not rows.left_out.bad


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"identifier": "dev-1-0-0", "label": "True"}', "line 2 has no key 'sentence'"),
        ('{"identifier": "dev-1-0-0", "sentence": "x", "label": "true"}', "line 2 has the label 'true'"),
        ('{"identifier": "dev-1-0-0", "sentence": 3, "label": "True"}', "line 2 is not an NLVR2 example"),
        ("dev-1-0-0", "line 2 is not JSON"),
    ],
)
def test_bad_nlvr2_lines_are_named(refuse, tmp_path, line, expected):
    make_nlvr2(tmp_path)
    with (tmp_path / "nlvr2" / "data" / "dev.json").open("a") as file:
        file.write(line + "\n")
    message = refuse("nlvr2", "--source", tmp_path, "--output", tmp_path / "out")
    assert expected in message and "dev.json" in message


def test_a_prepared_folder_is_replaced_only_when_asked(prepare, refuse, tmp_path):
    few = ["--num_train", 3, "--num_validation", 2, "--num_test", 2]
    prepare("shapes", "--output", tmp_path, *few)
    before = stored_images(tmp_path / "captions", "train")
    message = refuse("shapes", "--output", tmp_path, *few, "--seed", 1)
    assert "'train'" in message and "--overwrite" in message
    assert stored_images(tmp_path / "captions", "train") == before
    prepare("shapes", "--output", tmp_path, *few, "--seed", 1, "--overwrite")
    assert stored_images(tmp_path / "captions", "train") != before


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--seed", -1, "--seed: expected from 0 to"),
        ("--image_size", 5, "--image_size: expected from 32 to"),
        ("--num_train", 0, "--num_train: expected from 1 to"),
        ("--num_train", "many", "invalid int value"),
    ],
)
def test_bad_options_are_named(refuse, tmp_path, option, value, expected):
    assert expected in refuse("shapes", "--output", tmp_path / "out", option, value)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(("option", "value"), [("--max_bad_fraction", 1.5), ("--shorter_side", 0)])
def test_bad_image_options_are_named(refuse, tmp_path, option, value):
    make_coco(tmp_path)
    assert f"{option}: expected from" in refuse(
        "coco", "--source", tmp_path, "--output", tmp_path / "out", option, value
    )


def test_the_script_runs_on_its_own(prepare_script, tmp_path):
    command = [
        sys.executable,
        str(prepare_script),
        "coco",
        "--source",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "dataset_coco.json" in refused.stderr


@pytest.mark.parametrize("dataset", ["coco", "shapes"])
def test_an_output_folder_is_needed(refuse, tmp_path, dataset):
    source = ["--source", tmp_path] if dataset == "coco" else []
    assert "--output is needed" in refuse(dataset, *source)


def test_help_tells_where_the_files_come_from(prepare, capsys):
    for dataset, words in {
        "coco": ["train2014.zip", "karpathy/dataset_coco.json"],
        "flickr30k": ["flickr30k-images", "karpathy/dataset_flickr30k.json"],
        "vg": ["region_descriptions.json", "VG_100K_2", "--without_coco"],
        "gcc": ["Train_GCC-training.tsv", "images_train", "{shard:05d}/{row:09d}.jpg"],
        "sbu": ["annot.json", "SBU_captioned_photo_dataset_urls.txt", "--validation_share"],
        "localized_narratives": ["coco_train_captions.jsonl", "000000000009.jpg", "--parts", "--without_coco"],
        "nlvr2": ["lil-lab/nlvr", "images/train"],
        "shapes": ["tokenizer", "--num_train"],
    }.items():
        with pytest.raises(SystemExit) as stopped:
            prepare(dataset, "--help")
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [
        ("coco", "coco", {"train": 130 + 52, "validation": 52, "test": 104}),
        ("f30k", "flickr30k", {"train": 1312, "validation": 247, "test": 285}),
    ],
)
def test_real_captions(real_data, prepare, tmp_path, folder, name, counts):
    prepare(name, "--source", real_data / folder, "--output", tmp_path, "--max_bad_fraction", 0)
    data = load_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == counts

    karpathy_splits = {"train": {"train", "restval"}, "validation": {"val"}, "test": {"test"}}
    entries = json.loads((real_data / folder / "karpathy" / f"dataset_{name}.json").read_text())["images"]
    for split, names in karpathy_splits.items():
        originals = [entry for entry in entries if entry["split"] in names]
        stored = stored_images(tmp_path, split)
        assert [path for _, path in stored] == [entry["filename"] for entry in originals]
        assert data[split]["captions"] == [[s["raw"].strip() for s in entry["sentences"]] for entry in originals]
        for (content, _), entry in list(zip(stored, originals, strict=True))[::20]:
            source = real_data / folder / entry.get("filepath", "flickr30k-images") / entry["filename"]
            assert content == source.read_bytes()
    ids = {image_id for rows in data.values() for image_id in rows["image_id"]}
    assert len(ids) == sum(counts.values())
    assert ("coco-139" if name == "coco" else "flickr30k-1015118661") in ids


@pytest.mark.real_data
def test_real_nlvr2(real_data, prepare, tmp_path):
    prepare("nlvr2", "--source", real_data / "nlvr2", "--output", tmp_path, "--max_bad_fraction", 0)
    data = load_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 1000, "validation": 400, "test": 300}
    row = data["test"][0]
    assert row["id"] == "test1-3776-0-0"
    for image, name in zip(row["images"], ("img0", "img1"), strict=True):
        original = Image.open(real_data / "nlvr2" / "test1" / f"test1-3776-0-{name}.png")
        assert image.tobytes() == original.tobytes()
    assert all(len(pair) == 2 for pair in read_images(data["train"]))
    assert row["label"] == 1


@pytest.mark.real_data
def test_real_nlvr2_rows_follow_the_files(real_data):
    rows = read_nlvr2(real_data / "nlvr2")["train"]
    lines = (real_data / "nlvr2" / "nlvr2" / "data" / "train.json").read_text().splitlines()
    for row, line in zip(rows, lines, strict=True):
        entry = json.loads(line)
        assert (row["text"], str(bool(row["label"]))) == (entry["sentence"].strip(), entry["label"])


def read_images(rows):
    return rows.cast_column("images", schemas.NLVR2["images"].__class__(ImageFeature(decode=False)))["images"]
