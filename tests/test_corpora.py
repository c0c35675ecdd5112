"""Readers of the pretraining corpora: Visual Genome, Conceptual Captions, SBU."""

import hashlib
import json
from pathlib import Path

import pytest
from datasets import DatasetDict, load_dataset
from preparing import jpeg, make_coco, stored_images

from renaissance.tasks.data import schemas
from renaissance.tasks.data.visual_genome import read_visual_genome
from renaissance.tasks.data.web_captions import read_web_captions


pytestmark = pytest.mark.usefixtures("dataset_cache")


def make_vg(folder, phrases=(("a red car", "car"), ("a dog on a lawn", "dog "), ("sky",))):
    """A Visual Genome with an image for each list of phrases; ids from 1 on, in the two folders by turns."""
    entries = []
    for number, texts in enumerate(phrases, start=1):
        image = folder / "images" / ("VG_100K", "VG_100K_2")[number % 2] / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(jpeg(colour=(number, 0, 0)))
        box = {"x": 0, "y": 0, "width": 5, "height": 5, "image_id": number}
        regions = [{"region_id": 10 * number + index, "phrase": text, **box} for index, text in enumerate(texts)]
        entries.append({"id": number, "regions": regions})
    write_regions(folder, entries)
    return entries


def write_regions(folder, entries):
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "region_descriptions.json").write_text(json.dumps(entries))


def make_web(folder, name, pairs, layout="list"):
    """Pairs of (image file under the folder, caption), with images unless the caption is marked as gone."""
    folder.mkdir(exist_ok=True)
    for image, _ in pairs:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(jpeg())
    if layout == "list":
        (folder / {"gcc": "train_annot.json", "sbu": "annot.json"}[name]).write_text(json.dumps(pairs))


def test_visual_genome_images_have_their_phrases(prepare, tmp_path):
    make_vg(tmp_path / "vg")
    prepare("vg", "--source", tmp_path / "vg", "--output", tmp_path / "out", "--validation_share", 0)
    data = load_dataset(str(tmp_path / "out"))
    assert list(data) == ["train"] and data["train"].features == schemas.CAPTIONS
    assert data["train"]["image_id"] == ["vg-1", "vg-2", "vg-3"]
    assert data["train"]["captions"] == [["a red car", "car"], ["a dog on a lawn", "dog"], ["sky"]]
    expected = [(jpeg(colour=(number, 0, 0)), f"{number}.jpg") for number in (1, 2, 3)]
    assert stored_images(tmp_path / "out", "train") == expected


def test_short_phrases_can_be_left_out(tmp_path):
    make_vg(tmp_path, [("a red car", "car", " "), ("sky",), ("", "two words")])
    rows = read_visual_genome(tmp_path, min_words=2, validation_share=0)["train"]
    assert [(row["image_id"], row["captions"]) for row in rows] == [("vg-1", ["a red car"]), ("vg-3", ["two words"])]
    assert rows.left_out.by_rule == {"blank phrase": 2, "phrase of fewer than 2 words": 2, "image without a phrase": 1}


def test_an_image_stays_in_its_split_when_others_come(tmp_path):
    make_vg(tmp_path, [("a phrase",)] * 300)
    splits = read_visual_genome(tmp_path, validation_share=0.1)
    ids = {split: {row["image_id"] for row in rows} for split, rows in splits.items()}
    assert not ids["train"] & ids["validation"] and len(ids["train"] | ids["validation"]) == 300
    # A binomial variable with a standard deviation of 5.
    assert 10 <= len(ids["validation"]) <= 50
    make_vg(tmp_path, [("a phrase",)] * 100)
    fewer = {row["image_id"] for row in read_visual_genome(tmp_path, validation_share=0.1)["validation"]}
    assert fewer == {image_id for image_id in ids["validation"] if int(image_id.removeprefix("vg-")) <= 100}


def test_images_that_coco_is_evaluated_on_can_be_left_out(prepare, refuse, tmp_path):
    make_vg(tmp_path / "vg", [("a phrase",)] * 4)
    make_coco(tmp_path / "coco")  # images 0 to 4 are trained on, 5 is validation's, 6 the test's
    karpathy = tmp_path / "coco" / "karpathy" / "dataset_coco.json"
    options = ["--source", tmp_path / "vg", "--output", tmp_path / "out", "--validation_share", 0]
    assert "image_data.json" in refuse("vg", *options, "--without_coco", karpathy)
    image_data = [{"image_id": vg, "coco_id": coco} for vg, coco in ((1, 5), (2, None), (3, 4), (4, 6))]
    (tmp_path / "vg" / "annotations" / "image_data.json").write_text(json.dumps(image_data))
    prepare("vg", *options, "--without_coco", karpathy)
    assert load_dataset(str(tmp_path / "out"), split="train")["image_id"] == ["vg-2", "vg-3"]
    assert "without_coco" in refuse("vg", *options, "--without_coco", tmp_path / "vg/annotations/image_data.json")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda entries: entries[1].pop("id"), "entry 1 has no key 'id'"),
        (lambda entries: entries[1].pop("regions"), "entry 1 has no key 'regions'"),
        (lambda entries: entries[1]["regions"][0].pop("phrase"), "entry 1 has no key 'phrase'"),
        (lambda entries: entries[1]["regions"][0].update(phrase=3), "entry 1 is not an entry"),
        (lambda entries: entries[1]["regions"][1].update(image_id=7), "of the image 2, has a region of the image 7"),
        (lambda entries: entries.append(entries[0]), "entry 3 repeats the image 1"),
        (lambda entries: entries.clear(), "region_descriptions.json is empty"),
    ],
)
def test_bad_region_descriptions_are_named(refuse, tmp_path, change, expected):
    entries = make_vg(tmp_path)
    change(entries)
    write_regions(tmp_path, entries)
    assert expected in refuse("vg", "--source", tmp_path, "--check")


def test_an_image_that_is_in_neither_folder_is_missing(prepare, capsys, tmp_path):
    make_vg(tmp_path)
    (tmp_path / "images" / "VG_100K" / "2.jpg").unlink()
    with pytest.raises(SystemExit) as stopped:
        prepare("vg", "--source", tmp_path, "--check", "--validation_share", 0)
    assert stopped.value.code == 1
    assert str(tmp_path / "images" / "VG_100K" / "2.jpg") in capsys.readouterr().out


def test_web_captions_in_lists(prepare, tmp_path):
    make_web(tmp_path / "sbu", "sbu", [[f"images_train/0000/{n:07d}", f" Caption {n}.\n"] for n in range(5)])
    prepare("sbu", "--source", tmp_path / "sbu", "--output", tmp_path / "out", "--validation_share", 0)
    data = load_dataset(str(tmp_path / "out"), split="train")
    assert data.features == schemas.CAPTIONS
    assert data["captions"] == [[f"Caption {n}."] for n in range(5)]
    assert data[4]["image_id"] == "sbu-images_train/0000/0000004"


def test_unusable_pairs_are_skipped_and_reported(prepare, refuse, capsys, tmp_path):
    pairs = [[f"images_train/{n}", f"Caption {n}."] for n in range(8)]
    make_web(tmp_path / "sbu", "sbu", [*pairs, ["images_train/8", " "], ["images_train/3", "Again."]])
    options = ["--source", tmp_path / "sbu", "--output", tmp_path / "out", "--validation_share", 0]
    assert "blank caption (1), repeated image (1)" in refuse("sbu", *options, "--max_bad_fraction", 0.1)
    prepare("sbu", *options, "--max_bad_fraction", 0.2)
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["train", "8", "8", "2"]
    skipped = json.loads((tmp_path / "out" / "report.json").read_text())["train"]["skipped"]
    assert [entry["where"].rpartition(": ")[2] for entry in skipped] == ["entry 8", "entry 9"]
    assert skipped[1]["reason"] == "has the image images_train/3, which an earlier line has"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[["a", "b"], ["c"]]', "entry 1 is not [image, caption]: ['c']"),
        ('[["a", "b"], ["c", null]]', "entry 1 is not [image, caption]"),
        ('{"a": "b"}', "expected a list of [image, caption]"),
        ('[["a", "b"]', "is not JSON"),
        ("[]", "is empty"),
        ('[["a", " "]]', "entry 0 has a blank caption"),
    ],
)
def test_bad_lists_are_named(refuse, tmp_path, content, expected):
    (tmp_path / "annot.json").write_text(content)
    assert expected in refuse("sbu", "--source", tmp_path, "--check")


def test_all_missing_files_are_named_at_once(refuse, tmp_path):
    message = refuse("gcc", "--source", tmp_path, "--check")
    assert "train_annot.json" in message and "val_annot.json" in message


def make_public(folder, lines, header=False):
    """Conceptual Captions as published, with the images that img2dataset would have made of its lines."""
    folder.mkdir()
    first = [b"caption\turl"] if header else []
    for file in ("Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"):
        (folder / file).write_bytes(b"".join(line + b"\n" for line in [*first, *lines]))


@pytest.mark.parametrize("header", [False, True])
def test_published_lines_are_taken_literally(header, tmp_path):
    lines = [
        b'a "quoted word\thttp://x/0',
        b'"a caption with an open quote\thttp://x/1',
        b"no URL",
        "caf\u00e9 \u2028 with a line end of Unicode's\thttp://x/3".encode(),
        b"\thttp://x/4",
        b"not UTF-8 \xff\thttp://x/5",
        b"three\tfields\thttp://x/6",
        b"the last\thttp://x/7",
    ]
    make_public(tmp_path / "gcc", lines, header)
    rows = read_web_captions(tmp_path / "gcc", "gcc", layout="public")["train"]
    assert [(row["captions"][0], row["image"]["path"]) for row in rows] == [
        (caption, str(tmp_path / "gcc" / "train" / "00000" / f"{number:09d}.jpg"))
        for number, caption in (
            (0, 'a "quoted word'),
            (1, '"a caption with an open quote'),
            (3, "caf\u00e9 \u2028 with a line end of Unicode's"),
            (7, "the last"),
        )
    ]
    assert [entry["where"].rpartition(" ")[2] for entry in rows.left_out.bad] == [
        str(n + 1 + header) for n in (2, 4, 5, 6)
    ]
    assert "got 1 fields" in rows.left_out.bad[0]["reason"] and "blank" in rows.left_out.bad[1]["reason"]
    assert "not UTF-8" in rows.left_out.bad[2]["reason"] and "got 3 fields" in rows.left_out.bad[3]["reason"]


def test_images_may_be_named_by_their_url(tmp_path):
    url = "http://x/photo.png"
    make_public(tmp_path / "gcc", [f"one\t{url}".encode(), b"two\thttp://x/y", f"three\t{url}".encode()])
    rows = read_web_captions(tmp_path / "gcc", "gcc", layout="public", image_name="{md5}")["train"]
    digest = hashlib.md5(url.encode()).hexdigest()
    assert rows[0]["image"]["path"] == str(tmp_path / "gcc" / "train" / digest)
    assert rows[0]["image_id"] == f"gcc-train/{digest}"
    assert [row["captions"] for row in rows] == [["one"], ["two"]]


def test_folders_of_img2dataset_have_10000_rows(tmp_path):
    make_public(tmp_path / "gcc", [f"caption\thttp://x/{n}".encode() for n in range(10_002)])
    rows = read_web_captions(tmp_path / "gcc", "gcc", layout="public")["validation"]
    assert rows[9_999]["image"]["path"].endswith("validation/00000/000009999.jpg")
    assert rows[10_000]["image"]["path"].endswith("validation/00001/000010000.jpg")


@pytest.mark.parametrize(
    ("image_name", "expected"), [("{line}.jpg", "line"), ("{row", "'}'"), ("x.jpg", "the same for all")]
)
def test_bad_image_names_are_refused(refuse, tmp_path, image_name, expected):
    make_public(tmp_path / "gcc", [b"caption\thttp://x/0"])
    options = ["--source", tmp_path / "gcc", "--check", "--layout", "public"]
    message = refuse("gcc", *options, "--image_name", image_name)
    assert "image_name" in message and expected in message


def test_sbu_has_captions_and_urls_in_two_files(refuse, tmp_path):
    names = [f"SBU_captioned_photo_dataset_{kind}.txt" for kind in ("captions", "urls")]
    (tmp_path / names[0]).write_text("one\ntwo\n")
    (tmp_path / names[1]).write_text("http://x/1\nhttp://x/2\n")
    rows = read_web_captions(tmp_path, "sbu", layout="public")["train"]
    assert [row["captions"] for row in rows] == [["one"], ["two"]]
    (tmp_path / names[1]).write_text("http://x/1\n")
    assert "[2, 1] lines" in refuse("sbu", "--source", tmp_path, "--check", "--layout", "public")


@pytest.mark.parametrize(
    ("dataset", "option", "value"),
    [("vg", "--min_words", 0), ("vg", "--validation_share", 1), ("sbu", "--validation_share", -1)],
)
def test_options_out_of_range_are_refused(refuse, tmp_path, dataset, option, value):
    assert f"{option[2:]} is {value}" in refuse(dataset, "--source", tmp_path, "--check", option, value)


def prepare_real(name: str, real_data: Path, prepare, folder: Path) -> DatasetDict:
    """Check the real sample of a corpus, prepare it in `folder` without leaving anything out, and load it."""
    with pytest.raises(SystemExit) as stopped:
        prepare(name, "--source", real_data / name, "--check")
    assert stopped.value.code == 0
    prepare(name, "--source", real_data / name, "--output", folder, "--max_bad_fraction", 0)
    return load_dataset(str(folder))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "file", "counts"),
    [
        ("gcc", "train_annot.json", {"train": 240, "validation": 60}),
        ("sbu", "annot.json", {"train": 198, "validation": 2}),
    ],
)
def test_real_captions_of_the_web(real_data, prepare, tmp_path, name, file, counts):
    data, source = prepare_real(name, real_data, prepare, tmp_path), real_data / name
    assert {split: len(rows) for split, rows in data.items()} == counts
    captions = {f"{name}-{image}": caption for image, caption in json.loads((source / file).read_text())}
    row = data["train"][7]
    assert row["captions"] == [captions[row["image_id"]]]
    assert stored_images(tmp_path, "train")[7][0] == (source / row["image_id"].removeprefix(f"{name}-")).read_bytes()


@pytest.mark.real_data
def test_real_regions(real_data, prepare, tmp_path):
    data = prepare_real("vg", real_data, prepare, tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 17}
    regions = json.loads((real_data / "vg" / "annotations" / "region_descriptions.json").read_text())
    assert data["train"]["captions"] == [
        [region["phrase"].strip() for region in entry["regions"]] for entry in regions
    ]
