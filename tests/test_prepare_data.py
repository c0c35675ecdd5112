"""Preparing data: readers of the public layouts, the writer, and the command line."""

import io
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Image as ImageFeature
from datasets import load_dataset
from PIL import Image
from transformers import AutoTokenizer

from renaissance.tasks import nlvr2, pretraining
from renaissance.tasks.data import shapes, writer
from renaissance.tasks.data.karpathy import read_karpathy
from renaissance.tasks.data.nlvr2 import read_nlvr2


SCRIPT = Path(__file__).parents[1] / "run_scripts" / "prepare_data.py"


@pytest.fixture(scope="module")
def prepare():
    """The script's `main`, called in this process because starting another takes seconds."""
    spec = spec_from_file_location("prepare_data", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture
def refuse(prepare, capsys):
    """Run the script, expecting exit code 2 and one line on stderr; return that line."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            prepare(*arguments)
        assert stopped.value.code == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and errors.endswith("\n"), errors
        return errors

    return run


@pytest.fixture(autouse=True)
def dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".cache")


def jpeg(size=(40, 30), colour="red", **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def make_coco(folder, num_train=4):
    """A COCO in Karpathy's layout, with an image more of each other split."""
    splits = ["train"] * num_train + ["restval", "val", "test"]
    entries = []
    for index, split in enumerate(splits):
        name = f"COCO_val2014_{index:012d}.jpg"
        (folder / "val2014").mkdir(parents=True, exist_ok=True)
        (folder / "val2014" / name).write_bytes(jpeg(colour=(index * 20, 100, 100)))
        entries.append(
            {
                "filepath": "val2014",
                "filename": name,
                "cocoid": index,
                "split": split,
                "sentences": [{"raw": f" Caption {n} of {index}.\n"} for n in range(2)],
            }
        )
    write_json(folder, entries)
    return entries


def write_json(folder, entries):
    (folder / "karpathy").mkdir(exist_ok=True)
    (folder / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))


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


def caption_rows(images):
    for index, data in enumerate(images):
        yield {"image": {"bytes": data, "path": f"{index}.jpg"}, "image_id": str(index), "captions": ["a", "b"]}


def stored_images(folder, split):
    """The (bytes, path) of a split as stored, without decoding them."""
    rows = load_dataset(str(folder), split=split).cast_column("image", ImageFeature(decode=False))
    return [(image["bytes"], image["path"]) for image in rows["image"]]


def everything_in(folder):
    return sorted(path.name for path in folder.rglob("*") if ".cache" not in path.parts)


def test_shapes_are_written_for_load_dataset(prepare, capsys, tmp_path):
    sizes = ["--num_train", 30, "--num_validation", 4, "--num_test", 6]
    prepare("shapes", "--output", tmp_path / "a", *sizes, "--image_size", 48)
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:3] == ["captions/train", "30", "120"]
    assert table[6].split()[:3] == ["nlvr2/test", "6", "6"]

    captions = load_dataset(str(tmp_path / "a" / "captions"))
    pairs = load_dataset(str(tmp_path / "a" / "nlvr2"))
    for data, features in ((captions, pretraining.FEATURES), (pairs, nlvr2.FEATURES)):
        assert {split: len(rows) for split, rows in data.items()} == {"train": 30, "validation": 4, "test": 6}
        assert data["train"].features == features
    assert captions["test"][2]["captions"] == shapes.describe(shapes.make_scene(0, "test", 2))
    assert captions["test"][2]["image"].size == (48, 48)
    pair = shapes.make_pair(0, "train", 9)
    assert pairs["train"][9]["text"] == pair.statement.text
    assert pairs["train"][9]["label"] == int(pair.label)
    assert pairs["train"][9]["images"][1].tobytes() == shapes.draw_scene(pair.right, 48).tobytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "tokenizer").model_max_length == 64

    prepare("shapes", "--output", tmp_path / "b", *sizes, "--image_size", 48)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_karpathy_splits_ids_and_captions(tmp_path):
    make_coco(tmp_path)
    rows = read_karpathy(tmp_path, "coco")
    assert {split: [row["image_id"] for row in rows[split]] for split in rows} == {
        "train": ["coco-0", "coco-1", "coco-2", "coco-3", "coco-4"],
        "validation": ["coco-5"],
        "test": ["coco-6"],
    }
    assert rows["test"][0]["captions"] == ["Caption 0 of 6.", "Caption 1 of 6."]


def test_images_are_kept_bit_for_bit(prepare, tmp_path):
    make_coco(tmp_path / "source")
    prepare("coco", "--source", tmp_path / "source", "--output", tmp_path / "out")
    for split, rows in read_karpathy(tmp_path / "source", "coco").items():
        paths = [Path(row["image"]["path"]) for row in rows]
        assert stored_images(tmp_path / "out", split) == [(path.read_bytes(), path.name) for path in paths]


def test_only_larger_images_are_shrunk(tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    images = [jpeg((80, 40)), jpeg((30, 90)), jpeg((20, 50)), jpeg((80, 40), exif=rotated)]
    writer.write_split(caption_rows(images), pretraining.FEATURES, tmp_path, "train", 4, shorter_side=20)
    stored = stored_images(tmp_path, "train")
    sizes = [Image.open(io.BytesIO(data)).size for data, _ in stored]
    assert sizes == [(40, 20), (20, 60), (20, 50), (20, 40)]
    assert stored[2][0] == images[2]
    assert Image.open(io.BytesIO(stored[3][0])).getexif().get(0x0112, 1) == 1


def test_rows_are_spread_over_shards_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)
    images = [jpeg(colour=(index, 0, 0)) for index in range(250)]
    writer.write_split(caption_rows(images), pretraining.FEATURES, tmp_path, "train", 250)
    assert everything_in(tmp_path) == ["report.json"] + [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert load_dataset(str(tmp_path), split="train")["image_id"] == [str(index) for index in range(250)]

    monkeypatch.undo()
    with pytest.raises(ValueError, match="already holds"):
        writer.write_split(caption_rows(images), pretraining.FEATURES, tmp_path, "train", 250)
    writer.write_split(caption_rows(images), pretraining.FEATURES, tmp_path, "train", 250, overwrite=True)
    assert everything_in(tmp_path) == ["report.json", "train-00000-of-00001.parquet"]
    layout = pq.ParquetFile(tmp_path / "train-00000-of-00001.parquet").metadata
    assert [layout.row_group(n).num_rows for n in range(layout.num_row_groups)] == [100, 100, 50]


def test_broken_images_are_left_out_and_reported(prepare, capsys, tmp_path):
    source, output = tmp_path / "source", tmp_path / "out"
    make_coco(source, num_train=9)
    images = sorted((source / "val2014").iterdir())
    images[0].unlink()
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, format="JPEG")
    images[2].write_bytes(noise.getvalue()[: len(noise.getvalue()) * 2 // 3])
    images[3].write_bytes(b"<html>Not found</html>")
    prepare("coco", "--source", source, "--output", output, "--max_broken", 0.3)
    assert load_dataset(str(output), split="train")["image_id"] == [f"coco-{n}" for n in (1, 4, 5, 6, 7, 8, 9)]
    report = json.loads((output / "report.json").read_text())
    assert [entry["file"] for entry in report["train"]["broken"]] == [str(images[n]) for n in (0, 2, 3)]
    assert "FileNotFoundError" in report["train"]["broken"][0]["reason"]
    assert "image file is truncated" in report["train"]["broken"][1]["reason"]
    assert report["validation"] == {"rows": 1, "rows_left_out": 0, "broken": []}
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["train", "7", "14", "3"]


def test_too_many_broken_images_are_refused(refuse, tmp_path):
    make_coco(tmp_path / "source", num_train=9)
    broken = tmp_path / "source" / "val2014" / "COCO_val2014_000000000003.jpg"
    broken.write_bytes(b"")
    message = refuse("coco", "--source", tmp_path / "source", "--output", tmp_path / "out", "--max_broken", 0.05)
    assert str(broken) in message and "report.json" in message and "5.00%" in message
    assert everything_in(tmp_path / "out") == ["report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["train"]["rows"] == 0
    assert report["train"]["broken"][0]["file"] == str(broken)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing_to_load(tmp_path, monkeypatch, interruption):
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)

    def rows():
        yield from caption_rows([jpeg()] * 250)
        raise interruption

    with pytest.raises(interruption):
        writer.write_split(rows(), pretraining.FEATURES, tmp_path, "train", 300)
    assert everything_in(tmp_path) == []


def test_a_killed_write_leaves_nothing_to_load_and_can_be_repeated(tmp_path):
    unfinished = """if True:
        import os, sys
        from renaissance.tasks.data import shapes, writer
        from renaissance.tasks.pretraining import FEATURES
        def rows():
            yield from shapes.caption_rows("train", 120)
            os._exit(9)
        writer.write_split(rows(), FEATURES, sys.argv[1], "train", 200)
    """
    killed = subprocess.run([sys.executable, "-c", unfinished, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert any(path.is_file() for path in tmp_path.rglob("*")), "the test killed the write before its first bytes"
    with pytest.raises(FileNotFoundError):
        load_dataset(str(tmp_path))
    writer.write_split(shapes.caption_rows("train", 7), pretraining.FEATURES, tmp_path, "train", 7)
    assert everything_in(tmp_path) == ["report.json", "train-00000-of-00001.parquet"]
    assert len(load_dataset(str(tmp_path), split="train")) == 7


def test_an_image_file_of_the_same_name_in_the_working_folder_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("0.jpg").write_bytes(jpeg(colour="blue"))
    image = jpeg(colour="red")
    writer.write_split(caption_rows([image]), pretraining.FEATURES, "out", "train", 1)
    assert stored_images(tmp_path / "out", "train") == [(image, "0.jpg")]


def test_nlvr2_pairs_are_left_then_right(prepare, tmp_path):
    make_nlvr2(tmp_path / "source")
    prepare("nlvr2", "--source", tmp_path / "source", "--output", tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"))
    assert data["train"].features == nlvr2.FEATURES
    assert {split: rows["id"] for split, rows in data.items()} == {
        "train": ["train-5-0-1"],
        "validation": ["dev-5-0-1"],
        "test": ["test1-5-0-1"],
    }
    for rows in data.values():
        left, right = rows[0]["images"]
        assert (left.getpixel((0, 0)), right.getpixel((0, 0))) == ((255, 0, 0), (0, 0, 255))
        assert (rows[0]["text"], rows.features["label"].int2str(rows[0]["label"])) == ("One is red.", "True")


def test_a_pair_with_one_broken_image_is_left_out_as_a_whole(tmp_path):
    rows = list(shapes.pair_rows("train", 3))
    rows[1]["images"][1] = {"bytes": None, "path": str(tmp_path / "missing.png")}
    summary = writer.write_split(rows, nlvr2.FEATURES, tmp_path, "train", 3, max_broken=0.5)
    assert (summary.rows, summary.rows_left_out, len(summary.broken)) == (2, 1, 1)
    assert load_dataset(str(tmp_path), split="train")["text"] == [rows[0]["text"], rows[2]["text"]]


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
        (lambda entries: entries[6].update(split="val"), "no image of the split 'test'"),
    ],
)
def test_bad_karpathy_entries_are_named(refuse, tmp_path, change, expected):
    entries = make_coco(tmp_path)
    change(entries)
    write_json(tmp_path, entries)
    message = refuse("coco", "--source", tmp_path, "--output", tmp_path / "out")
    assert expected in message and "dataset_coco.json" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "is not JSON"), ("[]", "has no key 'images'"), ('{"annotations": []}', "has no key 'images'")],
)
def test_a_file_that_is_not_karpathys_is_named(refuse, tmp_path, content, expected):
    make_coco(tmp_path)
    (tmp_path / "karpathy" / "dataset_coco.json").write_text(content)
    assert expected in refuse("coco", "--source", tmp_path, "--output", tmp_path / "out")


def test_blank_captions_are_left_out_with_a_warning(tmp_path, caplog):
    entries = make_coco(tmp_path)
    entries[0]["sentences"][0]["raw"] = " \n"
    write_json(tmp_path, entries)
    assert read_karpathy(tmp_path, "coco")["train"][0]["captions"] == ["Caption 1 of 0."]
    assert "left out 1 blank captions" in caplog.text


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
        ("--seed", -1, "seed is -1"),
        ("--image_size", 5, "image_size is 5"),
        ("--num_train", 0, "no rows"),
        ("--num_train", "many", "invalid int value"),
    ],
)
def test_bad_options_are_named(refuse, tmp_path, option, value, expected):
    assert expected in refuse("shapes", "--output", tmp_path / "out", option, value)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(("option", "value"), [("--max_broken", 1.5), ("--shorter_side", 0)])
def test_bad_image_options_are_named(refuse, tmp_path, option, value):
    make_coco(tmp_path)
    assert f"{option[2:]} is {value}" in refuse(
        "coco", "--source", tmp_path, "--output", tmp_path / "out", option, value
    )


def test_a_row_with_other_columns_is_refused(tmp_path):
    row = next(caption_rows([jpeg()]))
    del row["image_id"]
    with pytest.raises(ValueError, match="image_id"):
        writer.write_split([row], pretraining.FEATURES, tmp_path, "train", 1)


def test_the_script_runs_on_its_own(tmp_path):
    command = [sys.executable, str(SCRIPT), "coco", "--source", str(tmp_path), "--output", str(tmp_path / "out")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1 and "dataset_coco.json" in refused.stderr


def test_help_tells_where_the_files_come_from(prepare, capsys):
    for dataset, words in {
        "coco": ["train2014.zip", "karpathy/dataset_coco.json"],
        "flickr30k": ["flickr30k-images", "karpathy/dataset_flickr30k.json"],
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
    prepare(name, "--source", real_data / folder, "--output", tmp_path, "--max_broken", 0)
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
    prepare("nlvr2", "--source", real_data / "nlvr2", "--output", tmp_path, "--max_broken", 0)
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
    return rows.cast_column("images", nlvr2.FEATURES["images"].__class__(ImageFeature(decode=False)))["images"]
