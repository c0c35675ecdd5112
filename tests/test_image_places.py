"""Where images may lie: which protocols are opened, and which files a data set's rows may name."""

import io
import json
import logging
import shutil
import tarfile
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value
from preparing import jpeg, make_coco, write_karpathy

from renaissance.processing.decoding import decode, to_rgb
from renaissance.processing.image_files import fault_of_protocol
from renaissance.tasks.data import schemas
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.image_paths import lies_in
from renaissance.tasks.data.loading import read_columns
from renaissance.tasks.data.opening import open_file, open_split
from renaissance.tasks.data.streaming import CaptionSource


pytestmark = pytest.mark.usefixtures("dataset_cache")

COLUMNS = {"image": "image", "captions": "captions", "image_id": "image_id"}
RED = jpeg(colour="red")


@pytest.fixture
def opened(monkeypatch):
    """The places that fsspec is asked to open."""
    asked, real = [], fsspec.open
    monkeypatch.setattr(fsspec, "open", lambda path, *rest: asked.append(path) or real(path, *rest))
    return asked


REFUSED = [
    "file:///{folder}/1.jpg",
    "FILE:///{folder}/1.jpg",
    "local://{folder}/1.jpg",
    "http://localhost:9/1.jpg",
    "https://localhost:9/1.jpg",
    "ftp://localhost/1.jpg",
    "s3://bucket/1.jpg",
    "memory://1.jpg",
    "data:///1.jpg",
    "simplecache::file://{folder}/1.jpg",
    "filecache::{folder}/1.jpg::file://x",
    "blockcache::http://localhost:9/1.jpg",
    "reference://1.jpg::{folder}/refs.json",
    "zip://1.jpg::file://{folder}/photos.zip",
    "zip://1.jpg::http://localhost:9/photos.zip",
    "zip://1.jpg::reference://x::{folder}/refs.json",
    "dir://1.jpg::{folder}",
    "rar://1.jpg::{folder}/photos.rar",
    "libarchive://1.jpg::{folder}/photos.zip",
    "zip://1.jpg",
    "hf://1.jpg::{folder}/photos.zip",
]


@pytest.mark.parametrize("path", REFUSED)
def test_other_protocols_are_refused_unopened(processor, opened, tmp_path, path):
    (tmp_path / "1.jpg").write_bytes(RED)
    path = path.format(folder=tmp_path)
    for given in (path, {"bytes": None, "path": path}):
        with pytest.raises(ValueError, match=r"has the protocol|is a URL, which is not fetched here: download"):
            processor(images=given)
    assert not opened


def test_plain_paths_and_members_of_archives_are_opened(tmp_path):
    odd = tmp_path / "a::b.jpg"
    odd.write_bytes(RED)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("in/1.jpg", RED)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        entry = tarfile.TarInfo("in/1.jpg")
        entry.size = len(RED)
        archive.addfile(entry, io.BytesIO(RED))
    expected = np.asarray(decode(RED))
    places = [odd, str(odd), f"zip://in/1.jpg::{tmp_path}/photos.zip", f"tar://in/1.jpg::{tmp_path}/photos.tar"]
    for place in places:
        np.testing.assert_array_equal(np.asarray(to_rgb(place)), expected)
    assert fault_of_protocol("zip://in/1.jpg::hf://datasets/org/photos@main/photos.zip") is None
    assert fault_of_protocol("hf://datasets/org/photos@main/1.jpg") is None
    assert fault_of_protocol("gzip://1.jpg::hf://datasets/org/photos@main/1.jpg.gz") is None


def test_a_missing_file_and_nothing_at_all_are_named(processor, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jpg: the image cannot be read .*No such file"):
        processor(images=str(tmp_path / "gone.jpg"))
    with pytest.raises(ValueError, match=r"an image: the image cannot be read .it has neither bytes nor a path"):
        processor(images={"bytes": None, "path": None})


def write_rows(folder, path, several=False):
    """A folder of one Parquet file whose second row has an image that is only a path."""
    images = [{"bytes": RED, "path": "0.jpg"}, {"bytes": None, "path": str(path)}]
    if several:
        rows = [{"images": [images[0]] * 2, "text": "a"}, {"images": images, "text": "b"}]
        features = Features({"images": List(Image()), "text": Value("string")})
    else:
        rows = [{"image": image, "image_id": image["path"], "captions": ["a"]} for image in images]
        features = schemas.CAPTIONS
    folder.mkdir(exist_ok=True)
    # Not by `datasets`, which would open the image.
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "path", ["{outside}/1.jpg", "{inside}/../1.jpg", "1.jpg", "../1.jpg", "zip://1.jpg::{outside}/1.zip"]
)
def test_a_data_set_names_no_file_outside_of_it(tmp_path, monkeypatch, path, several):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.jpg").write_bytes(RED)
    inside = tmp_path / "data"
    source = write_rows(inside, path.format(outside=tmp_path, inside=inside), several)
    with pytest.raises(ValueError, match=r"data, row 1: the image .*1\.(jpg|zip) lies outside of the data set"):
        open_split(source, "train")


def test_a_data_set_may_name_files_inside_of_it(tmp_path):
    inside = tmp_path / "data"
    source = write_rows(inside, inside / "more" / "1.jpg")
    (inside / "more").mkdir()
    (inside / "more" / "1.jpg").write_bytes(RED)
    np.testing.assert_array_equal(np.asarray(to_rgb(open_split(source, "train")[1]["image"])), np.asarray(decode(RED)))
    streamed = list(CaptionSource.open(source, "train", COLUMNS).rows())
    assert [row["image"]["bytes"] for row, _ in streamed] == [RED, RED]


def own_file(source: str):
    """The images of a Parquet file as one of the user's own."""
    path = Path(source) / "train-00000-of-00001.parquet"
    faults = Faults(str(path))
    data = read_columns(
        open_file(path, faults), {"image": Image()}, {"image": "image"}, ["image"], faults, path.parent
    )
    return faults.leave_out(data, 0.0)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(
    "path", ["reference://1.jpg::{folder}/refs.json", "file://{folder}/1.jpg", "http://localhost:9/1.jpg"]
)
def test_protocols_are_refused_when_data_is_opened(tmp_path, opened, path, is_file):
    source = write_rows(tmp_path / "data", path.format(folder=tmp_path / "data"))
    with pytest.raises(ValueError, match=r"row 1: .*(has the protocol|is a URL|--download_images fetches them)"):
        own_file(source) if is_file else open_split(source, "train")
    assert not opened


def test_of_many_paths_in_a_folder_the_one_that_leads_out_is_found(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    names = [f"{folder}/in/{number}.jpg" for number in range(50)] + [f"{folder}/in/../../1.jpg"]
    rows = [{"image": {"bytes": None, "path": name}, "image_id": name, "captions": ["a"]} for name in names]
    table = pa.Table.from_pylist(rows, schema=schemas.CAPTIONS.arrow_schema)
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"data, row 50: the image .*\.\./\.\./1\.jpg lies outside"):
        open_split(str(folder), "train")


def test_a_stream_leaves_out_files_outside_of_it(tmp_path, caplog):
    (tmp_path / "1.jpg").write_bytes(RED)
    source = write_rows(tmp_path / "data", tmp_path / "1.jpg")
    with caplog.at_level(logging.WARNING):
        streamed = list(CaptionSource.open(source, "train", COLUMNS).rows())
    assert len(streamed) == 1
    assert "left out 1 with unreadable image" in caplog.text and "1.jpg lies outside of the data set" in caplog.text


def test_folders_of_images_and_archives_are_read_as_before(tmp_path):
    """What `datasets` makes of them: paths in the folder, and members of an archive."""
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(RED)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.jpg", "text": "a"}))
    (tmp_path / "zipped").mkdir()
    shutil.make_archive(str(tmp_path / "zipped" / "train"), "zip", folder)
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    for source in ("photos", "zipped", "linked"):
        data = open_split(str(tmp_path / source), "train")
        assert data[0]["image"]["bytes"] is None
        np.testing.assert_array_equal(np.asarray(to_rgb(data[0]["image"])), np.asarray(decode(RED)))
    data = open_file(folder, Faults(str(folder)))
    np.testing.assert_array_equal(np.asarray(to_rgb(data[0]["image"])), np.asarray(decode(RED)))


def test_a_file_of_ones_own_names_images_anywhere(tmp_path):
    (tmp_path / "1.jpg").write_bytes(RED)
    source = write_rows(tmp_path / "data", tmp_path / "1.jpg")
    data = own_file(source)
    np.testing.assert_array_equal(np.asarray(to_rgb(data[1]["image"])), np.asarray(decode(RED)))


def test_a_folder_does_not_contain_its_namesakes(tmp_path):
    folders = [str(tmp_path / "data")]
    assert lies_in(str(tmp_path / "data" / "1.jpg"), folders)
    assert lies_in(str(tmp_path / "data" / "a" / ".." / "1.jpg"), folders)
    assert not lies_in(str(tmp_path / "database" / "1.jpg"), folders)
    assert not lies_in(str(tmp_path / "data" / ".." / "1.jpg"), folders)


@pytest.mark.parametrize("name", ["../outside.jpg", "a/../../../outside.jpg"])
@pytest.mark.parametrize("arguments", [["--check"], ["--output", "out"]])
def test_preparing_reads_nothing_outside_of_its_source(refuse, tmp_path, monkeypatch, name, arguments):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    entries = make_coco(source)
    (tmp_path / "outside.jpg").write_bytes(RED)
    entries[2] |= {"filepath": ".", "filename": name}
    write_karpathy(source, entries)
    message = refuse("coco", "--source", source, *arguments)
    assert f"outside.jpg, which is outside of the source folder {source}" in message
    assert not (tmp_path / "out").exists()
