"""Data of pretraining: mixtures, folders in other formats, streams."""

import io
import itertools
import json
import re
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset, Image
from own_files import tar_of
from preparing import jpeg
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.decoding import decode
from renaissance.tasks.data import schemas
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.mixing import MixedRows
from renaissance.tasks.data.streaming import CaptionSource, CaptionStream
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """`datasets` sleeps for five seconds behind each shuffled pass over Parquet files."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


COLUMNS = {"image": "image", "captions": "captions", "image_id": "image_id"}
WEB_COLUMNS = {"image": "jpg", "captions": "txt", "image_id": "__key__"}


def mixture(*sizes, weights, seed=0):
    return MixedRows([[(part, row) for row in range(size)] for part, size in enumerate(sizes)], weights, seed)


def epoch_of(mix, epoch):
    mix.begin_epoch(epoch)
    return [mix[index] for index in range(len(mix))]


def test_an_epoch_has_the_shares_and_the_length_that_it_should():
    mix = mixture(70, 30, 100, weights=[5, 4, 1])
    rows = epoch_of(mix, 3)
    assert len(rows) == 200
    assert Counter(part for part, _ in rows) == {0: 100, 1: 80, 2: 20}


def test_no_row_comes_again_before_all_others_have_come():
    mix = mixture(23, 10, 40, weights=[0.3, 0.6, 0.1])
    for part, size in enumerate((23, 10, 40)):
        drawn = [row for epoch in range(12) for owner, row in epoch_of(mix, epoch) if owner == part]
        for start in range(0, len(drawn) - size + 1, size):
            assert sorted(drawn[start : start + size]) == list(range(size))


def test_the_mixture_is_a_function_of_seed_and_epoch():
    mix = mixture(50, 300, weights=[1, 1])
    first, second = epoch_of(mix, 0), epoch_of(mix, 1)
    assert set(first) != set(second)
    assert epoch_of(mixture(50, 300, weights=[1, 1]), 1) == second
    assert set(epoch_of(mixture(50, 300, weights=[1, 1], seed=1), 0)) != set(first)


def test_rows_of_a_mixture_have_ids_of_their_own_and_follow_the_epoch():
    parts = [[{"text": f"{part}-{row}"} for row in range(size)] for part, size in enumerate((4, 60))]
    rows = KeyedRows(MixedRows(parts, [1, 1], 0), training=True)
    loader = DataLoader(rows, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in range(2):
        rows.begin_epoch(epoch)
        seen = [row for batch in loader for row in batch]
        assert [row["sample_id"] for row in seen] == list(range(64))
        assert [row["text"] for row in seen] == [row["text"] for row in epoch_of(rows.data, epoch)]


def test_a_share_of_less_than_a_row_is_refused():
    with pytest.raises(ValueError, match="train_weights: 1e-05 comes to less than one row"):
        mixture(10, 10, weights=[1, 1e-5])


def copy_captions(shapes, folder, name="other", shards=1, rows=32):
    """The captioned scenes under other ids, in so many files."""
    data = Dataset.from_parquet(str(shapes / "captions" / "train-00000-of-00001.parquet")).select(range(rows))
    ids = [f"{name}-{number}" for number in range(rows)]
    data = data.remove_columns("image_id").add_column("image_id", ids).select_columns(list(schemas.CAPTIONS))
    for shard in range(shards):
        (folder / name).mkdir(exist_ok=True)
        part = data.shard(shards, shard, contiguous=True)
        part.to_parquet(str(folder / name / f"train-{shard:05d}-of-{shards:05d}.parquet"))
    shutil.copy(shapes / "captions" / "validation-00000-of-00001.parquet", folder / name)
    return str(folder / name)


def resumed_and_whole(options, tmp_path, *argv):
    """The weights of a run of 18 steps, and of one that went on from its step 14."""
    argv = [*TWO_TOWER, *options, *argv, "--do_train", "--learning_rate", "1e-2"]
    argv += ["--max_steps", "18", "--save_steps", "14"]
    run_task(Pretraining, "", argv)
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-14", tmp_path / "part" / "checkpoint-14")
    run_task(Pretraining, "", [*argv, "--output_dir", str(tmp_path / "part")])
    return [load_file(tmp_path / name / "model.safetensors") for name in ("run", "part")]


def test_a_run_on_a_mixture_resumes_inside_an_epoch(shapes, options, tmp_path):
    sources = [str(shapes / "captions"), copy_captions(shapes, tmp_path, rows=3)]
    whole, part = resumed_and_whole(options, tmp_path, "--train_datasets", *sources, "--train_weights", "0.4", "0.6")
    torch.testing.assert_close(whole, part, atol=1e-6, rtol=1e-5)


def web_tar(path, samples):
    """A file of WebDataset: {key: (image, caption)}, or {key: {ending: content}}."""
    with tarfile.open(path, "w") as archive:
        for key, members in samples.items():
            if not isinstance(members, dict):
                members = {"jpg": members[0], "txt": members[1].encode()}
            for suffix, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def web(tmp_path):
    """A folder of three .tar files with six images each, one broken and one without a caption."""
    folder = tmp_path / "web"
    folder.mkdir()
    for file in range(3):
        samples = {f"{file}{row:03d}": (jpeg(colour=(file, row, 0)), f"caption {file} {row}") for row in range(6)}
        if file == 1:
            samples["1002"] = (b"<html>gone</html>", "gone")
            samples["1004"] = (jpeg(), " ")
        web_tar(folder / f"{file:05d}.tar", samples)
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    """A folder of images with a metadata file."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    lines = []
    for row in range(5):
        (folder / f"{row}.jpg").write_bytes(jpeg(colour=(40 * row, 0, 0)))
        lines.append(json.dumps({"file_name": f"{row}.jpg", "text": f"caption {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder.parent)


def take(stream, count, workers=0):
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    return list(itertools.islice(loader, count))


def test_a_stream_gives_every_usable_pair_once_a_pass(web, caplog):
    stream = CaptionStream([CaptionSource.open(web, "train", WEB_COLUMNS)], [1], seed=0, buffer_size=4)
    pairs = take(stream, 32)
    left_out = ["unreadable image, now 1002 of 00001.tar", "blank caption, now 1004 of 00001.tar"]
    assert all(f"web: left out 1 with {text}" in caplog.text for text in left_out)
    assert "a pass of 16 rows, without 2 that were left out: " in caplog.text
    expected = {f"caption {file} {row}" for file in range(3) for row in range(6)} - {"caption 1 2", "caption 1 4"}
    for epoch in range(2):
        seen = pairs[16 * epoch : 16 * (epoch + 1)]
        assert {pair["text"] for pair in seen} == expected
        assert {pair["epoch"] for pair in seen} == {epoch}
        for pair in seen:
            assert pair["image_id"].startswith(f"{web}/" + "{}00{}/".format(*pair["text"].split()[1:]))
    assert [pair["text"] for pair in pairs[:16]] != [pair["text"] for pair in pairs[16:]]


def numbered(number: int) -> bytes:
    return jpeg(colour=(25 * number, 0, 0))


@pytest.mark.parametrize("named", ["by key", "by a member", "by no column"])
def test_files_that_number_their_samples_anew_show_each_caption_its_own_image(named, tmp_path, processor):
    for file in range(2):
        samples = {
            f"{row:03d}": {
                "jpg": numbered(4 * file + row),
                "txt": f"caption {file} {row}".encode(),
                "id": f"{row}".encode(),
            }
            for row in range(4)
        }
        # One image with a caption in each of two files: it is one image.
        samples["shared"] = {"jpg": numbered(8), "txt": f"caption {file} 4".encode(), "id": b"shared"}
        tar_of(tmp_path / f"{file}.tar", samples)
    ids = {"by key": {"image_id": "__key__"}, "by a member": {"image_id": "id"}, "by no column": {}}
    columns = {"image": "jpg", "captions": "txt"} | ids[named]
    stream = CaptionStream([CaptionSource.open(str(tmp_path), "train", columns)], [1], seed=0, buffer_size=16)
    pairs = take(stream, 10)
    batch = PretrainingCollator(processor)(pairs)
    assert len(batch["pixel_values"]) == len({pair["image_id"] for pair in pairs}) == 9
    shown = batch["pixel_values"][batch["image_index"]]
    for pair, pixels in zip(pairs, shown, strict=True):
        file, row = map(int, pair["text"].split()[1:])
        own = decode({"bytes": numbered(8 if row == 4 else 4 * file + row), "path": None})
        expected = processor.process_images([own], as_uint8=True)["pixel_values"][0]
        np.testing.assert_array_equal(pixels.numpy(), expected)


def captions_of(folder, columns=WEB_COLUMNS):
    source = CaptionSource.open(str(folder), "train", columns)
    return [row["captions"][0] for row, _ in source.rows()]


def test_a_caption_in_another_encoding_is_left_out_and_named(tmp_path, caplog):
    samples = {f"{row:03d}": (jpeg(), f"caption {row}") for row in range(6)}
    samples["002"] = {"jpg": jpeg(), "txt": "un café".encode("latin-1")}
    web_tar(tmp_path / "0.tar", samples)
    assert captions_of(tmp_path) == [f"caption {row}" for row in (0, 1, 3, 4, 5)]
    assert "left out 1 with text that is not UTF-8, now 002 of 0.tar" in caplog.text
    assert "a pass of 5 rows, without 1 that were left out: text that is not UTF-8 (1)" in caplog.text


def test_photos_of_several_formats_are_all_read(tmp_path, caplog):
    endings = ["jpg", "jpeg", "JPG", "png", "webp", "JPEG", "jpg", "jpeg"]
    samples = {f"{row:03d}": {ending: jpeg(), "txt": f"{row}".encode()} for row, ending in enumerate(endings)}
    samples["008"] = {"mp4": b"film", "txt": b"8"}
    samples["009"] = {"jpg": jpeg(), "TXT": b"\xef\xbb\xbf9\r\n"}
    web_tar(tmp_path / "0.tar", samples)
    assert captions_of(tmp_path) == ["0", "1", "2", "3", "4", "5", "6", "7", "9"]
    assert "left out 1 with no member jpg, now 008 of 0.tar (no member jpg (mp4, txt))" in caplog.text


def test_every_sample_counts_whatever_its_name(tmp_path, caplog):
    """Two of one name, and files that macOS leaves."""
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (
            ("a/._0.jpg", b"finder"), ("a/0.jpg", jpeg()), ("a/0.txt", b"one"), ("a/0.jpg", jpeg()), ("a/0.txt", b"two"),
            ("b/0.txt", b"three"), ("b/0.jpg", jpeg()), ("b/1.jpg", jpeg()),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert captions_of(tmp_path) == ["one", "two", "three"]
    assert "no member txt, now b/1 of 0.tar" in caplog.text


def test_a_file_that_breaks_off_loses_no_other(tmp_path, caplog):
    for file in range(3):
        web_tar(tmp_path / f"{file}.tar", {f"{file}{row}": (jpeg(), f"{file} {row}") for row in range(4)})
    content = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[: content.index(b"12.jpg") + 600])
    assert captions_of(tmp_path) == [f"{file} {row}" for file in range(3) for row in range(4) if file != 1 or row < 2]
    assert f"left out 1 with damaged file, now {tmp_path}/1.tar" in caplog.text


def test_one_tar_file_is_a_data_set(tmp_path):
    web_tar(tmp_path / "0.tar", {"0": (jpeg(), "one"), "1": (jpeg(), "two")})
    assert captions_of(tmp_path / "0.tar") == ["one", "two"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "png.left"}, "no column png.left, only jpg, txt"),
        ({"captions": "caption"}, "no column caption, only jpg, txt"),
        ({"image": "txt", "captions": "json"}, "no column json, only jpg, txt"),
    ],
)
def test_members_that_no_sample_has_are_named(columns, message, tmp_path):
    web_tar(tmp_path / "0.tar", {"0": (jpeg(), "one")})
    with pytest.raises(ValueError, match=message):
        CaptionSource.open(str(tmp_path), "train", WEB_COLUMNS | columns)


def test_tar_files_without_samples_are_refused(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"no samples in 1 \.tar files, the first .*0\.tar"):
        CaptionSource.open(str(tmp_path), "train", WEB_COLUMNS)


def test_streamed_pairs_keep_their_keys_whatever_the_order(web):
    streams = [CaptionStream([CaptionSource.open(web, "train", WEB_COLUMNS)], [1], seed, 4) for seed in (0, 0, 1)]
    first, again, other = ([(pair["text"], pair["sample_id"]) for pair in take(stream, 16)] for stream in streams)
    assert first == again and first != other and set(first) == set(other)
    assert len({sample_id for _, sample_id in first}) == 16
    by_workers = [(pair["text"], pair["sample_id"]) for pair in take(streams[0], 16, workers=2)]
    assert set(by_workers) <= set(first)


def test_each_pass_takes_a_caption_of_each_image(shapes):
    source = CaptionSource.open(str(shapes / "captions"), "train", COLUMNS)
    pairs = take(CaptionStream([source], [1], seed=0, buffer_size=100), 32 * 20)
    captions = {row["image_id"]: row["captions"] for row, _ in source.rows()}
    drawn = {image_id: [] for image_id in captions}
    for pair in pairs:
        assert pair["text"] in captions[pair["image_id"]]
        drawn[pair["image_id"]].append(pair["text"])
    assert all(len(texts) == 20 and len(set(texts)) > 1 for texts in drawn.values())


def test_streams_mix_in_the_given_shares(web, photos):
    sources = [
        CaptionSource.open(web, "train", WEB_COLUMNS),
        CaptionSource.open(photos, "train", {"image": "image", "captions": "text", "image_id": "image_id"}),
    ]
    pairs = take(CaptionStream(sources, [1, 3], seed=0, buffer_size=1), 400)
    share = sum(pair["image_id"].startswith(photos) for pair in pairs) / 400
    assert 0.69 < share < 0.81  # a standard deviation of 0.022
    # Images without an id are told apart by their bytes.
    assert len({pair["image_id"] for pair in pairs if pair["image_id"].startswith(photos)}) == 5


def test_images_may_lie_in_an_archive(photos, tmp_path):
    (tmp_path / "zipped").mkdir()
    shutil.make_archive(str(tmp_path / "zipped" / "train"), "zip", f"{photos}/train")
    columns = {"image": "image", "captions": "text", "image_id": "image_id"}
    rows = [row for row, _ in CaptionSource.open(str(tmp_path / "zipped"), "train", columns).rows()]
    expected = {f"caption {row}": jpeg(colour=(40 * row, 0, 0)) for row in range(5)}
    assert {row["captions"][0]: row["image"]["bytes"] for row in rows} == expected


@pytest.mark.parametrize("processes", [2, 3])
def test_each_process_reads_a_part_of_its_own(web, processes):
    """Three files: one a process of three, and every other row of each of two."""
    source = CaptionSource.open(web, "train", WEB_COLUMNS)
    seen = []
    for rank in range(processes):
        stream = CaptionStream([source], [1], 0, 4, rank, processes)
        # Far enough that a process with more rows than others has finished a pass.
        seen.append({pair["text"] for pair in take(stream, 20) if pair["epoch"] == 0})
    assert sum(map(len, seen)) == 16 and len(set.union(*seen)) == 16


def test_a_stream_of_nothing_usable_ends(tmp_path):
    web_tar(tmp_path / "0.tar", {"0": (b"no image", "caption")})
    stream = CaptionStream([CaptionSource.open(str(tmp_path), "train", WEB_COLUMNS)], [1], seed=0, buffer_size=1)
    with pytest.raises(ValueError, match="no row with a readable image and a caption"):
        next(iter(stream))


def test_a_streamed_run_resumes_in_its_second_pass(shapes, options, tmp_path):
    source = copy_captions(shapes, tmp_path, shards=4)
    argv = ["--train_datasets", source, "--streaming", "--shuffle_buffer_size", "7"]
    whole, part = resumed_and_whole(options, tmp_path, *argv)
    torch.testing.assert_close(whole, part, atol=1e-6, rtol=1e-5)


def test_a_run_on_tar_files_resumes_in_its_second_pass(tmp_path, options):
    """With two loader processes, samples of several formats, and one that cannot be read."""
    (tmp_path / "tars").mkdir()
    for file in range(2):
        samples = {f"{file}{row:02d}": (jpeg(colour=(9 * row, 99 * file, 0)), f"a circle {row}") for row in range(40)}
        samples[f"{file}07"] = {"png": jpeg(), "txt": b"\xe9"}
        samples[f"{file}09"] = {"PNG": jpeg(colour="blue"), "txt": b"a blue square"}
        web_tar(tmp_path / "tars" / f"{file}.tar", samples)
    argv = ["--train_datasets", str(tmp_path / "tars"), "--streaming", "--shuffle_buffer_size", "5"]
    argv += ["--image_column", "jpg", "--captions_column", "txt", "--dataloader_num_workers", "2"]
    whole, part = resumed_and_whole(options, tmp_path, *argv)
    torch.testing.assert_close(whole, part, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("streaming", [[], ["--streaming", "--max_steps", "2"]])
def test_folders_in_other_formats_are_trained_on(photos, shapes, options, streaming):
    argv = ["--train_datasets", photos, "--captions_column", "text", "--do_train"]
    metrics = run_task(Pretraining, "", [*TWO_TOWER, *options, *argv, *streaming])
    assert 0 < metrics["train_loss"] < 20


def test_a_broken_image_of_a_folder_is_named_before_training(photos, options, tmp_path, capsys):
    (tmp_path / "photos" / "train" / "3.jpg").write_bytes(jpeg()[:300])
    argv = [*TWO_TOWER, *options, "--train_datasets", photos, "--captions_column", "text", "--do_train"]
    with pytest.raises(SystemExit):
        run_task(Pretraining, "", argv)
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"photos, split 'train': 1 of \d+ rows .* row 3: .*/train/3\.jpg .*the image cannot be read", error
    )
    assert run_task(Pretraining, "", [*argv, "--max_bad_fraction", "0.5"])["train_loss"] > 0


def test_a_split_with_a_lost_file_is_refused(shapes, options, tmp_path, capsys):
    source = copy_captions(shapes, tmp_path, shards=3)
    (tmp_path / "other" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(SystemExit):
        run_task(Pretraining, "", [*TWO_TOWER, *options, "--train_datasets", source, "--do_train"])
    assert "2 files such as train-00000-of-00003.parquet, expected 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train_weights", "1"], "train_weights: without effect on fewer than two train_datasets"),
        (["--train_datasets", "a", "b", "--train_weights", "1"], "train_weights: expected 2 numbers"),
        (
            ["--train_datasets", "a", "b", "--train_weights", "1", "0"],
            "train_weights: expected numbers above 0, got 1.0 0.0",
        ),
        (["--train_datasets", "a", "b", "--streaming"], "train_weights: needed to stream several"),
        (["--shuffle_buffer_size", "9"], "shuffle_buffer_size: without effect without streaming"),
        (["--streaming", "--shuffle_buffer_size", "0"], "shuffle_buffer_size: expected at least 1"),
        (["--streaming", "--max_train_samples", "9"], "max_train_samples: without effect with streaming"),
        (["--streaming"], "max_steps: needed with streaming"),
        (
            ["--streaming", "--max_steps", "2", "--captions_column", "text"],
            "no column text, only image, image_id, captions",
        ),
        (
            ["--streaming", "--max_steps", "2", "--image_column", "image_id"],
            "expected images in column 'image_id', found",
        ),
        (
            ["--streaming", "--max_steps", "2", "--dataloader_num_workers", "2"],
            "has 1 file, and 1 process with dataloader_num_workers 2 need at least 2, one for each that reads",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(argv, message, shapes, options, capsys):
    data = ["--train_datasets", str(shapes / "captions")] if "--train_datasets" not in argv else []
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", [*TWO_TOWER, *options, *data, *argv, "--do_train"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_evaluation_of_a_hub_set_that_is_streamed_takes_its_first_rows(shapes, options, monkeypatch):
    """As of a Hub data set, which has no folder here."""
    opened = CaptionSource.open(str(shapes / "captions"), "validation", COLUMNS)
    monkeypatch.setattr(CaptionSource, "open", lambda *arguments: opened)
    argv = [*TWO_TOWER, *options, "--eval_datasets", "org/captions", "--streaming", "--do_eval"]
    trainer, *_ = prepare(Pretraining, "", [*argv, "--max_eval_samples", "6"])
    first = Dataset.from_parquet(str(shapes / "captions" / "validation-00000-of-00001.parquet"))[:6]
    rows = [trainer.eval_dataset[index] for index in range(len(trainer.eval_dataset))]
    assert [row["text"] for row in rows] == [captions[0] for captions in first["captions"]]
    assert isinstance(trainer.eval_dataset.data.datasets[0].data.features["image"], Image)
