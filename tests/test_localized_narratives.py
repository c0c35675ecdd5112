"""Reader of Localized Narratives: narratives of several parts, images and annotators, whole and damaged."""

import functools
import json

import pytest
from datasets import load_dataset
from preparing import complaints, jpeg, make_coco, make_narratives, narrative, stored_images, write_narratives

from renaissance.tasks.data import schemas
from renaissance.tasks.data.localized_narratives import read_localized_narratives


pytestmark = pytest.mark.usefixtures("dataset_cache")


def captions(rows) -> dict[str, list[str]]:
    return {row["image_id"]: row["captions"] for row in rows}


def test_all_narratives_of_an_image_are_its_captions(prepare, tmp_path):
    """Those of several annotators too, and in several files; the words are kept as they are."""
    make_narratives(tmp_path / "source")
    prepare("localized_narratives", "--source", tmp_path / "source", "--output", tmp_path / "out")
    data = load_dataset(str(tmp_path / "out"))
    assert list(data) == ["train", "validation", "test"] and data["train"].features == schemas.CAPTIONS
    assert captions(data["train"]) == {
        "coco-9": ["In this image there is a cup.", "A cup on a table."],
        "coco-25": ["Two giraffes."],
        "flickr30k-36979": ["A man."],
    }
    assert list(captions(data["validation"])) == ["coco-139", "coco-285", "flickr30k-65567"]
    assert captions(data["test"]) == {"flickr30k-7": ["A man."]}
    assert stored_images(tmp_path / "out", "test") == [(jpeg(), "7.jpg")]
    assert [path for _, path in stored_images(tmp_path / "out", "train")] == [
        "000000000009.jpg",
        "000000000025.jpg",
        "36979.jpg",
    ]


def test_parts_are_chosen_and_files_of_captions_alone_are_read(prepare, refuse, tmp_path):
    make_narratives(tmp_path)
    only = read_localized_narratives(tmp_path, parts=["flickr30k"], splits=["train"])
    assert list(only) == ["train"] and list(captions(only["train"])) == ["flickr30k-36979"]
    write_narratives(tmp_path, "flickr30k_train_captions", [narrative("36979", "Captions alone.")])
    only = read_localized_narratives(tmp_path, parts=["flickr30k"], splits=["train"])
    assert captions(only["train"]) == {"flickr30k-36979": ["Captions alone."]}
    options = ["localized_narratives", "--source", tmp_path, "--check"]
    assert "splits: coco have no split test" in refuse(*options, "--parts", "coco", "--splits", "test")
    message = refuse(*options, "--parts", "open_images")
    assert "open_images_train_v6_localized_narratives.jsonl" in message and "open_images/test/ do not exist" in message
    assert "invalid choice: 'vg'" in refuse(*options, "--parts", "vg")
    (tmp_path / "narratives" / "coco_train_localized_narratives-00001-of-00002.jsonl").unlink()
    message = refuse(*options, "--parts", "coco")
    assert "coco_train_localized_narratives-00001-of-00002.jsonl does not exist" in message
    assert "--splits validation prepares what is complete" in message
    assert "has no file of narratives, such as coco_val" in refuse(*options[:2], tmp_path / "train2017", "--check")


def test_images_that_coco_is_evaluated_on_can_be_left_out(refuse, tmp_path):
    make_narratives(tmp_path)
    make_coco(tmp_path / "coco", num_train=9)  # image 9 is restval's, 10 validation's, 11 the test's
    karpathy = tmp_path / "coco" / "karpathy" / "dataset_coco.json"
    content = json.loads(karpathy.read_text())
    content["images"][-1]["cocoid"] = 25
    karpathy.write_text(json.dumps(content))
    rows = read_localized_narratives(tmp_path, without_coco=karpathy)["train"]
    assert list(captions(rows)) == ["coco-9", "flickr30k-36979"]
    assert rows.left_out.by_rule == {"image of COCO's validation and test splits": 1}
    options = ["localized_narratives", "--source", tmp_path, "--check", "--without_coco"]
    assert "without_coco: without effect on flickr30k" in refuse(*options, karpathy, "--parts", "flickr30k")
    assert "is not Karpathy's dataset_coco.json" in refuse(
        *options, tmp_path / "narratives/coco_val_localized_narratives.jsonl"
    )


BAD = {
    "not JSON": ('{"image_id": "139"', "is not JSON that can be read"),
    "not UTF-8": (b'{"image_id": "139", "caption": "caf\xe9"}', "is not UTF-8"),
    "not a dictionary": ("[1]", "is not a narrative"),
    "a number alone": ("1", "is not a narrative"),
    "too many brackets": ("[" * 100_000, "is not JSON that can be read"),
    "half of a character": (r'{"image_id": "139", "caption": "\ud800"}', "is not JSON that can be read"),
    "no caption": ('{"image_id": "139"}', "has no key 'caption'"),
    "no image": ('{"caption": "A cat."}', "has no key 'image_id'"),
    "a caption that is no text": ('{"image_id": "139", "caption": ["A cat."]}', "is not a narrative"),
    "null for a caption": ('{"image_id": "139", "caption": null}', "is not a narrative"),
    "a blank caption": ('{"image_id": "139", "caption": " \u200b"}', "has a blank caption"),
    "an id that is no number": ('{"image_id": "x139", "caption": "A cat."}', "expected a number"),
    "an id below zero": ('{"image_id": -139, "caption": "A cat."}', "expected a number"),
    "an id that is true": ('{"image_id": true, "caption": "A cat."}', "expected a number"),
    "an id of many digits": (json.dumps(narrative("1" * 5000, "A cat.")), "expected a number"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_left_out_and_counted(line, message, tmp_path):
    make_narratives(tmp_path)
    path = tmp_path / "narratives" / "coco_val_localized_narratives.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(line + b"\n" + path.read_bytes())
    rows = read_localized_narratives(tmp_path, splits=["validation"], parts=["coco"])["validation"]
    assert list(captions(rows)) == ["coco-139", "coco-285"]
    (bad,) = rows.left_out.bad
    assert bad["where"] == f"{path}: line 1" and message in bad["reason"]


def test_numbers_as_ids_long_lines_and_repeated_narratives(tmp_path):
    """An annotator may describe an image twice, but the same words count once."""
    make_narratives(tmp_path)
    lines = [
        narrative(285, "A bear."),
        narrative("285", " A bear. "),
        narrative("285", "A brown bear."),
        narrative("285", "word " * 200_000),
        narrative("139", "A room.") | {"traces": [[{"x": 0.1, "y": 0.2, "t": 0.3}] * 100_000]},
    ]
    write_narratives(tmp_path, "coco_val_localized_narratives", lines)
    rows = read_localized_narratives(tmp_path, splits=["validation"], parts=["coco"])["validation"]
    assert captions(rows) == {
        "coco-285": ["A bear.", "A brown bear.", ("word " * 200_000).strip()],
        "coco-139": ["A room."],
    }
    assert rows.left_out.by_rule == {"repeated narrative": 1} and not rows.left_out.bad


def test_images_that_are_missing_are_counted_and_names_stay_inside(prepare, refuse, tmp_path, capsys):
    make_narratives(tmp_path / "source")
    (tmp_path / "source" / "val2017" / "000000000139.jpg").unlink()
    options = ["localized_narratives", "--source", tmp_path / "source", "--output", tmp_path / "out"]
    assert "missing image (1)" in refuse(*options, "--splits", "validation")
    prepare(*options, "--splits", "validation", "--max_bad_fraction", 0.5)
    assert load_dataset(str(tmp_path / "out"))["validation"]["image_id"] == ["coco-285", "flickr30k-65567"]
    for name in ("../secret", "../../etc/secret"):
        write_narratives(tmp_path / "source", "flickr30k_test_localized_narratives", [narrative(name, "A man.")])
        read = functools.partial(read_localized_narratives, tmp_path / "source", splits=["test"])
        assert "which is outside of the source folder" in complaints(read)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (narrative.__name__.encode("utf-16-le"), "is not UTF-8 but UTF-16, or is not text"),
        (b"\xff\xfea", "is not utf-16, as its first bytes say"),
    ],
)
def test_files_that_are_no_narratives(content, message, tmp_path):
    make_narratives(tmp_path)
    (tmp_path / "narratives" / "flickr30k_test_localized_narratives.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_localized_narratives(tmp_path, splits=["test"])
