"""Writing prepared data: shards, broken images, interruptions."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Features, List, Value, load_dataset
from PIL import Image
from preparing import caption_rows, everything_in, jpeg, make_coco, stored_images

from renaissance.tasks.data import schemas, shapes, shards, writer
from renaissance.tasks.data.karpathy import read_karpathy
from renaissance.tasks.data.opening import open_split


pytestmark = pytest.mark.usefixtures("dataset_cache")


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
    writer.write_split(caption_rows(images), schemas.CAPTIONS, tmp_path, "train", 4, shorter_side=20)
    stored = stored_images(tmp_path, "train")
    sizes = [Image.open(io.BytesIO(data)).size for data, _ in stored]
    assert sizes == [(40, 20), (20, 60), (20, 50), (20, 40)]
    assert stored[2][0] == images[2]
    assert Image.open(io.BytesIO(stored[3][0])).getexif().get(0x0112, 1) == 1


def test_rows_are_spread_over_shards_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    images = [jpeg(colour=(index, 0, 0)) for index in range(250)]
    writer.write_split(caption_rows(images), schemas.CAPTIONS, tmp_path, "train", 250)
    assert everything_in(tmp_path) == ["report.json"] + [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert load_dataset(str(tmp_path), split="train")["image_id"] == [str(index) for index in range(250)]

    monkeypatch.undo()
    with pytest.raises(ValueError, match="already holds"):
        writer.write_split(caption_rows(images), schemas.CAPTIONS, tmp_path, "train", 250)
    writer.write_split(caption_rows(images), schemas.CAPTIONS, tmp_path, "train", 250, overwrite=True)
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
    prepare("coco", "--source", source, "--output", output, "--max_bad_fraction", 0.3)
    assert load_dataset(str(output), split="train")["image_id"] == [f"coco-{n}" for n in (1, 4, 5, 6, 7, 8, 9)]
    report = json.loads((output / "report.json").read_text())
    assert [entry["file"] for entry in report["train"]["broken"]] == [str(images[n]) for n in (0, 2, 3)]
    assert "FileNotFoundError" in report["train"]["broken"][0]["reason"]
    assert "image file is truncated" in report["train"]["broken"][1]["reason"]
    assert (report["validation"]["rows"], report["validation"]["broken"]) == (1, [])
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["train", "7", "14", "3"]


def test_too_many_broken_images_are_refused(refuse, tmp_path):
    make_coco(tmp_path / "source", num_train=9)
    broken = tmp_path / "source" / "val2014" / "COCO_val2014_000000000003.jpg"
    broken.write_bytes(b"")
    message = refuse("coco", "--source", tmp_path / "source", "--output", tmp_path / "out", "--max_bad_fraction", 0.05)
    assert str(broken) in message and "report.json" in message and "5.00%" in message
    assert everything_in(tmp_path / "out") == ["report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["train"]["rows"] == 0
    assert report["train"]["broken"][0]["file"] == str(broken)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing_to_load(tmp_path, monkeypatch, interruption):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)

    def rows():
        yield from caption_rows([jpeg()] * 250)
        raise interruption

    with pytest.raises(interruption):
        writer.write_split(rows(), schemas.CAPTIONS, tmp_path, "train", 300)
    assert everything_in(tmp_path) == []


def test_an_image_file_of_the_same_name_in_the_working_folder_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("0.jpg").write_bytes(jpeg(colour="blue"))
    image = jpeg(colour="red")
    writer.write_split(caption_rows([image]), schemas.CAPTIONS, "out", "train", 1)
    assert stored_images(tmp_path / "out", "train") == [(image, "0.jpg")]


def test_a_pair_with_one_broken_image_is_left_out_as_a_whole(tmp_path):
    rows = list(shapes.DATA_SETS["nlvr2"].rows("train", 3))
    rows[1]["images"][1] = {"bytes": None, "path": str(tmp_path / "missing.png")}
    summary = writer.write_split(rows, schemas.NLVR2, tmp_path, "train", 3, max_bad_fraction=0.5)
    assert (summary.rows, summary.rows_left_out, len(summary.broken)) == (2, 1, 1)
    assert load_dataset(str(tmp_path), split="train")["text"] == [rows[0]["text"], rows[2]["text"]]


def test_a_row_with_other_columns_is_refused(tmp_path):
    row = next(caption_rows([jpeg()]))
    del row["image_id"]
    with pytest.raises(ValueError, match="image_id"):
        writer.write_split([row], schemas.CAPTIONS, tmp_path, "train", 1)


KILLED_ON_THE_WAY = """if True:
    import os, runpy, sys
    from renaissance.tasks.data import images, shards
    shards.SHARD_BYTES = 1
    prepare_image, done = images.prepare_image, []
    def dying(*arguments):
        done.append(1)
        if len(done) > 360:
            os._exit(9)
        return prepare_image(*arguments)
    images.prepare_image = dying
    script, *sys.argv[1:] = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def killed_once(prepare_script, tmp_path_factory):
    """A COCO of 450 training images, one of them broken; its preparation killed with row groups of 100 rows as shards."""
    folder = tmp_path_factory.mktemp("killed")
    source, output = folder / "source", folder / "out"
    make_coco(source, num_train=449)
    (source / "val2014" / "COCO_val2014_000000000050.jpg").write_bytes(b"")
    command = [sys.executable, "-c", KILLED_ON_THE_WAY, prepare_script, "coco", "--source", source, "--output", output]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert process.returncode == 9, process.stderr
    with pytest.raises(FileNotFoundError):
        load_dataset(str(output))
    return source, output


@pytest.fixture
def killed(killed_once, monkeypatch, tmp_path):
    """The source, and a copy of what was left."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    source, output = killed_once
    return source, shutil.copytree(output, tmp_path / "out")


@pytest.fixture
def prepared_rows(monkeypatch):
    """The ids of the rows whose images the writer reads from now on."""
    seen = []
    prepare_row = writer.prepare_row
    monkeypatch.setattr(
        writer, "prepare_row", lambda row, **options: seen.append(row["image_id"]) or prepare_row(row, **options)
    )
    return seen


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on_to_the_files_of_an_uninterrupted_one(prepare, killed, prepared_rows, tmp_path):
    source, output = killed
    finished = len(list((output / ".unfinished-train").glob("[0-9]*.json")))
    assert 0 < finished < 5
    prepare("coco", "--source", source, "--output", output)
    assert len(prepared_rows) == 452 - 100 * finished
    prepare("coco", "--source", source, "--output", tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")
    assert len(load_dataset(str(output), split="train")) == 449


def test_a_damaged_shard_is_made_anew_and_all_behind_it(prepare, killed, prepared_rows, tmp_path):
    source, output = killed
    shard = output / ".unfinished-train" / "00000"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    prepare("coco", "--source", source, "--output", output)
    assert len(prepared_rows) == 452
    prepare("coco", "--source", source, "--output", tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_a_shard_that_lacks_a_repaired_image_is_made_anew(prepare, killed, prepared_rows, tmp_path):
    source, output = killed
    broken = source / "val2014" / "COCO_val2014_000000000050.jpg"
    broken.write_bytes(jpeg())
    prepare("coco", "--source", source, "--output", output)
    assert len(prepared_rows) == 452
    assert len(load_dataset(str(output), split="train")) == 450
    broken.write_bytes(b"")


def test_a_refused_run_goes_on_when_more_may_be_broken(prepare, refuse, prepared_rows, monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    source, output = tmp_path / "source", tmp_path / "out"
    make_coco(source, num_train=299)
    for index in (3, 250, 251):
        (source / "val2014" / f"COCO_val2014_{index:012d}.jpg").unlink()
    assert "more than 0.50% of 300" in refuse(
        "coco", "--source", source, "--output", output, "--max_bad_fraction", 0.005
    )
    prepared_rows.clear()
    prepare("coco", "--source", source, "--output", output, "--max_bad_fraction", 0.01)
    assert len(prepared_rows) == 102
    prepare("coco", "--source", source, "--output", tmp_path / "whole", "--max_bad_fraction", 0.01)
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize("options", [["--shorter_side", 20], ["--overwrite"]])
def test_what_was_begun_another_way_is_begun_anew(prepare, killed, prepared_rows, options):
    source, output = killed
    prepare("coco", "--source", source, "--output", output, *options)
    assert len(prepared_rows) == 452


def test_a_plan_is_of_the_rows_and_the_options(tmp_path):
    rows = list(caption_rows([jpeg(), jpeg()]))
    plan = writer.plan_of(rows, schemas.CAPTIONS)
    assert plan == writer.plan_of(list(caption_rows([jpeg(), jpeg()])), schemas.CAPTIONS)
    assert plan != writer.plan_of(rows, schemas.CAPTIONS, shorter_side=20)
    assert plan != writer.plan_of(rows[:1], schemas.CAPTIONS)
    rows[1]["captions"] = ["a", "c"]
    assert plan != writer.plan_of(rows, schemas.CAPTIONS)


def test_finished_splits_are_kept_and_the_rest_is_made(prepare, refuse, capsys, monkeypatch, tmp_path):
    source, output = tmp_path / "source", tmp_path / "out"
    make_coco(source)
    prepare_row, seen = writer.prepare_row, []

    def interrupted(row, **options):
        seen.append(row["image_id"])
        if row["image_id"] == "coco-5":
            raise KeyboardInterrupt
        return prepare_row(row, **options)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "prepare_row", interrupted)
        with pytest.raises(SystemExit) as stopped:
            prepare("coco", "--source", source, "--output", output)
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not list(output.glob("validation-*"))
    assert "already holds" in refuse("coco", "--source", source, "--output", output, "--shorter_side", 9)
    prepare("coco", "--source", source, "--output", output)
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["train", "5", "10"]
    assert {split: len(rows) for split, rows in load_dataset(str(output)).items()} == {
        "train": 5, "validation": 1, "test": 1,
    }  # fmt: skip
    assert len(seen) == 6


def test_workers_change_nothing(prepare, tmp_path):
    make_coco(tmp_path / "source", num_train=230)
    for workers in (1, 5):
        prepare("coco", "--source", tmp_path / "source", "--output", tmp_path / str(workers), "--num_workers", workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_a_check_tells_what_is_missing(prepare, refuse, capsys, tmp_path):
    make_coco(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        prepare("coco", "--source", tmp_path, "--check")
    assert stopped.value.code == 0
    missing = tmp_path / "val2014" / "COCO_val2014_000000000003.jpg"
    missing.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        prepare("coco", "--source", tmp_path, "--check")
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["train", "5", "0", "5", "1"]
    assert lines[2].split() == ["missing:", str(missing)]
    assert lines[3].split() == ["validation", "1", "0", "1", "0"]
    (tmp_path / "karpathy" / "dataset_coco.json").unlink()
    assert "dataset_coco.json" in refuse("coco", "--source", tmp_path, "--check")


def test_shards_that_got_their_names_in_part_are_refused_and_replaced(prepare, monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    source, output = tmp_path / "source", tmp_path / "out"
    make_coco(source, num_train=299)
    replace = shards.os.replace

    def killed_at_the_second(old, new):
        if Path(new).name == "train-00001-of-00003.parquet":
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "replace", killed_at_the_second)
        with pytest.raises(SystemExit):
            prepare("coco", "--source", source, "--output", output)
    assert [path.name for path in output.glob("*.parquet")] == ["train-00000-of-00003.parquet"]
    with pytest.raises(ValueError, match=r"1 files such as train-00000-of-00003\.parquet, expected 3"):
        open_split(str(output), "train")
    prepare("coco", "--source", source, "--output", output)
    prepare("coco", "--source", source, "--output", tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_images_that_boxes_lie_in_are_not_shrunk(tmp_path):
    features = Features(schemas.CAPTIONS | {"boxes": List(List(Value("float32")))})
    with pytest.raises(ValueError, match="shorter_side: the boxes"):
        writer.write_split([], features, tmp_path, "train", 0, shorter_side=20)


def written(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def write_planned(folder) -> None:
    images = [jpeg(colour=(index, 0, 0)) for index in range(250)]
    writer.write_split(caption_rows(images), schemas.CAPTIONS, folder, "train", 250, plan="a plan")


@pytest.mark.parametrize("damage", ["gone", "cut", "one too many", "all gone", "its report is of another version"])
def test_a_finished_split_that_is_damaged_is_written_anew(damage, tmp_path, monkeypatch):
    """The report alone does not tell that its files are still there."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    write_planned(tmp_path)
    whole, shard = written(tmp_path), tmp_path / "train-00001-of-00003.parquet"
    if damage == "one too many":
        shutil.copy(shard, tmp_path / "train-00003-of-00004.parquet")
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage.startswith("its report"):
        report = json.loads((tmp_path / "report.json").read_text())
        report["train"]["rows_seen"] = report["train"].pop("rows")
        (tmp_path / "report.json").write_text(json.dumps(report))
    else:
        for path in tmp_path.glob("train-*") if damage == "all gone" else [shard]:
            path.unlink()
    write_planned(tmp_path)
    assert written(tmp_path) == whole


@pytest.mark.parametrize("name", ["plan.json", "00000.json"])
@pytest.mark.parametrize("content", [b"[1]", b"3", b"\xff", b"[" * 100_000, b'{"sha256": "x"}', b"{}", None])
def test_a_damaged_file_of_an_unfinished_split_begins_it_anew(name, content, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    write_planned(tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shards.UnfinishedSplit, "publish", interrupt)
        write_planned(tmp_path / "out")
    file = tmp_path / "out" / ".unfinished-train" / name
    if content is None:
        record = json.loads(file.read_text())
        content = json.dumps(record | {"counts": {"rows": "all"}, "broken": [3], "plan": 3}).encode()
    file.write_bytes(content)
    write_planned(tmp_path / "out")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def interrupt(*args) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["[]", '{"train": 3}', "[" * 100_000, "\ud800"])
def test_a_damaged_report_ends_in_one_line(content, refuse, prepare, tmp_path):
    make_coco(tmp_path / "source")
    prepare("coco", "--source", tmp_path / "source", "--output", tmp_path / "out")
    (tmp_path / "out" / "report.json").write_text(content, errors="surrogatepass")
    said = refuse("coco", "--source", tmp_path / "source", "--output", tmp_path / "out")
    assert "already holds a prepared split 'train'" in said
