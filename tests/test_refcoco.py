"""RefCOCO: boxes to regions, the reader of its files, and runs of the task."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER, tiny_model
from datasets import Dataset
from PIL import Image
from preparing import complaints
from transformers import AutoProcessor

from renaissance import AutoModelForReferenceResolution
from renaissance.processing.collators import RegionCollator
from renaissance.processing.regions import crop_boxes
from renaissance.tasks.data import schemas
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.readers import counts_of
from renaissance.tasks.data.refcoco import read_refcoco
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.runner import run_task


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def make_rows(count: int, boxes_of=lambda row: row % 3 + 1) -> list[dict]:
    """Rows with 1 to 3 boxes each, of which another one is meant each time."""
    places = [[0.0, 0.0, 20.0, 15.0], [20.0, 15.0, 20.0, 15.0], [5.5, 3.2, 9.0, 12.0]]
    return [
        {
            "id": f"s{row}",
            "image": picture(row),
            "text": f"the {('red', 'green', 'blue')[row % 3]} one" + " on the left" * (row % 2),
            "boxes": places[: boxes_of(row)],
            "label": row % boxes_of(row),
        }
        for row in range(count)
    ]


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "refcoco"
    folder.mkdir()
    for split, count in (("train", 16), ("validation", 10), ("testA", 7), ("testB", 5)):
        data = Dataset.from_list(make_rows(count), features=schemas.REFCOCO)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_a_region_is_the_pixels_that_its_box_touches():
    image = picture()
    pixels = np.asarray(image)
    whole, part, edge = crop_boxes(image, [[0, 0, 40, 30], [3.2, 4.7, 5.1, 0.6], [-0.4, 20, 40.9, 10.3]])
    assert np.array_equal(whole, pixels)
    assert np.array_equal(part, pixels[4:6, 3:9])
    assert np.array_equal(edge, pixels[20:30])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 1, 0, 5], "expected a width and a height above 0"),
        ([1, 1, 5, -1], "expected a width and a height above 0"),
        ([1, 1, float("nan"), 5], "expected four numbers"),
        ([1, 1, 5], "expected four numbers"),
        ([30, 1, 12, 5], "expected a box inside the image of 40x30 pixels, got"),
        ([40, 1, 0.5, 5], "expected a box inside"),
        ([1, -2, 5, 5], "expected a box inside"),
    ],
)
def test_boxes_that_are_none(box, message):
    with pytest.raises(ValueError, match=f"box 1: {message}"):
        crop_boxes(picture(), [[0, 0, 5, 5], box])


def test_the_processor_crops(processor):
    images, boxes = [picture(0), picture(1)], [[[0, 0, 20, 30]], [[0, 0, 40, 15], [20, 15, 20, 15]]]
    inputs = processor(images=images, text=["a", "b"], boxes=boxes, return_tensors="pt")
    assert inputs["region_mask"].tolist() == [[1, 0], [1, 1]]
    crops = [images[0].crop((0, 0, 20, 30)), images[1].crop((0, 0, 40, 15)), images[1].crop((20, 15, 40, 30))]
    alone = processor(images=crops, return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs["pixel_values"][inputs["region_mask"].bool()], alone)
    assert not inputs["pixel_values"][0, 1].any()
    with pytest.raises(ValueError, match="boxes: expected a list of boxes for each image"):
        processor(images=images, boxes=boxes[:1])
    with pytest.raises(ValueError, match="boxes: expected a list of boxes for each image"):
        processor(images=images[0], boxes=boxes[0])
    with pytest.raises(ValueError, match="image 1: expected at least one box"):
        processor(images=images, boxes=[boxes[0], []])


def test_many_boxes_are_all_there_and_change_nothing_for_others(processor, architecture):
    """No cut at 20; a row's scores are the same alone and padded to the 33 regions of its neighbour."""
    few, many = make_rows(2, lambda row: 2)
    many["boxes"] = [[float(n), 0.0, 6.0, 20.0] for n in range(33)]
    few, many = few | {"sample_id": 0}, many | {"sample_id": 1, "label": 32}
    model = tiny_model(architecture, "ForReferenceResolution")
    collator = RegionCollator(processor)
    with torch.no_grad():
        batch, alone = model(**collator([few, many])), model(**collator([few]))
    assert batch.logits.shape == (2, 33)
    torch.testing.assert_close(batch.logits[0, :2], alone.logits[0], atol=1e-5, rtol=1e-5)
    assert batch.logits[0, 2:].max() < -1e30 and batch.logits[1].min() > -1e30


def test_a_box_outside_its_image_is_named(processor):
    rows = [row | {"sample_id": 40 + number} for number, row in enumerate(make_rows(2))]
    rows[1]["boxes"] = [[0.0, 0.0, 5.0, 5.0], [39.0, 0.0, 9.0, 9.0]]
    with pytest.raises(ValueError, match="row 41: box 1: expected a box inside the image of 40x30 pixels"):
        RegionCollator(processor)(rows)


def test_a_run_trains_evaluates_and_predicts(dataset, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--dataset", str(dataset), "--do_train", "--do_eval", "--do_predict"]
    argv += ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps"]
    argv += ["--save_steps", "1", "--load_best_model_at_end"]
    metrics = run_task(RefCOCO, "", argv)
    # 10 rows of 1, 2, 3, 1, ... boxes; 7 in testA.
    assert metrics["eval_chance_accuracy"] == pytest.approx((4 * 1 + 3 / 2 + 3 / 3) / 10)
    assert metrics["test_testA_chance_accuracy"] == pytest.approx((3 * 1 + 2 / 2 + 2 / 3) / 7)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(e["eval_accuracy"] for e in state["log_history"] if "eval_accuracy" in e)

    # What was saved answers the same, row by row, through the processor.
    model = AutoModelForReferenceResolution.from_pretrained(tmp_path / "run").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "run")
    for split in ("testA", "testB"):
        lines = (tmp_path / "run" / f"predictions_{split}.jsonl").read_text().splitlines()
        rows = Dataset.from_parquet(str(dataset / f"{split}-00000-of-00001.parquet"))
        correct = 0
        for line, row in zip(lines, rows, strict=True):
            inputs = processor(images=[row["image"]], text=row["text"], boxes=[row["boxes"]], return_tensors="pt")
            with torch.no_grad():
                choice = model(**inputs).logits.argmax().item()
            assert json.loads(line) == {"id": row["id"], "choice": choice, "box": row["boxes"][choice]}
            correct += choice == row["label"]
        assert metrics[f"test_{split}_accuracy"] == pytest.approx(correct / len(rows))


def own_data(folder: Path, change=lambda row: None) -> list[str]:
    """A JSONL file of the user's, with paths of images and names of its own for the columns."""
    lines = []
    for number, row in enumerate(make_rows(6)):
        row.pop("image").save(folder / f"{number}.png")
        row = {"picture": f"{number}.png", "sentence": row["text"], "rectangles": row["boxes"], "target": row["label"]}
        row["number"] = number
        if number == 4:
            change(row)
        lines.append(json.dumps(row))
    (folder / "own.jsonl").write_text("\n".join(lines))
    names = ["--image_column", "picture", "--text_column", "sentence", "--boxes_column", "rectangles"]
    return [*names, "--label_column", "target", "--id_column", "number"]


def test_own_files(options, tmp_path):
    names = own_data(tmp_path)
    files = [f"--{split}_file={tmp_path / 'own.jsonl'}" for split in ("train", "validation", "test")]
    metrics = run_task(
        RefCOCO,
        "",
        [*TWO_TOWER, *options, *names, *files, "--do_train", "--do_eval", "--do_predict", "--max_steps", "1"],
    )
    assert metrics["eval_accuracy"] == metrics["test_accuracy"]
    first = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert first["id"] == "0" and len(first["box"]) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.update(target=2),
            "row 4: expected the number of one of 2 boxes, from 0 on, as label in column 'target', got 2",
        ),
        (lambda row: row.update(target=None), "row 4: expected the number of one of 2 boxes, .* got None"),
        (lambda row: row.update(rectangles=[]), "row 4: expected "),
        (lambda row: row["rectangles"][1].pop(), r"row 4: box 1: expected left, top, and a width"),
        (lambda row: row["rectangles"][1].__setitem__(3, 0.0), "row 4: box 1: expected left, top, and a width"),
        (
            lambda row: row["rectangles"][1].__setitem__(0, 39.5),
            "row 4: box 1: expected a box inside the image of 40x30",
        ),
        (lambda row: row.update(number=1), "row 4: column 'number' has '1', as row 1 does"),
        (lambda row: row.update(sentence=" "), "row 4: the text in column 'sentence' is blank"),
        (lambda row: row.update(picture="x.png"), "row 4: no image file"),
    ],
)
def test_bad_rows_are_named_before_training(change, message, options, tmp_path, capsys):
    names = own_data(tmp_path, change)
    with pytest.raises(SystemExit):
        run_task(
            RefCOCO, "", [*TWO_TOWER, *options, *names, "--train_file", str(tmp_path / "own.jsonl"), "--do_train"]
        )
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--augmentation", "randaugment"], "augmentation: this task has no images that could be augmented"),
        (["--boxes_column", "text", "--text_column", "id", "--id_column", "x"], "expected lists of boxes"),
        (["--test_splits", "test", "--do_predict"], r"no test-\*.parquet"),
    ],
)
def test_options_that_do_not_fit(option, message, dataset, options, capsys):
    with pytest.raises(SystemExit):
        run_task(RefCOCO, "", [*TWO_TOWER, *options, "--dataset", str(dataset), "--do_train", *option])
    assert re.search(message, capsys.readouterr().err)


def make_source(folder: Path, change=lambda refs, instances: None, name="refcoco", partition="unc") -> Path:
    """A source folder in the public layout: two images with two boxes each, a reference in each split."""
    images = folder / "images" / "mscoco" / "train2014"
    images.mkdir(parents=True)
    instances = {"images": [], "annotations": []}
    for number in (1, 2):
        picture(number).save(images / f"{number}.jpg")
        instances["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        for box in (0, 1):
            bbox = [10.0 * box, 0, 10, 10]
            instances["annotations"].append({"id": 10 * number + box, "image_id": number, "bbox": bbox})
    refs = [
        {
            "split": split,
            "image_id": 1 + row % 2,
            "ann_id": 10 * (1 + row % 2) + row // 2,
            "sentences": [{"sent_id": 2 * row + n, "sent": f"thing {row} {n}"} for n in (0, 1)],
        }
        for row, split in enumerate(("train", "val", "testA", "testB") if name != "refcocog" else ("train", "val"))
    ]
    change(refs, instances)
    (folder / name).mkdir()
    (folder / name / "instances.json").write_text(json.dumps(instances))
    (folder / name / f"refs({partition}).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def test_references_become_rows_by_sentence(tmp_path):
    splits = read_refcoco(make_source(tmp_path), "refcoco")
    assert list(splits) == ["train", "validation", "testA", "testB"]
    assert [(row["id"], row["text"], row["label"]) for row in splits["testA"]] == [
        ("4", "thing 2 0", 1),
        ("5", "thing 2 1", 1),
    ]
    assert splits["validation"][0]["image"]["path"].endswith("images/mscoco/train2014/2.jpg")
    assert splits["train"][0]["boxes"] == [[0, 0, 10, 10], [10, 0, 10, 10]]


def test_both_partitions_of_refcocog(tmp_path):
    entry = CATALOGUE["refcocog"]
    for partition in ("umd", "google"):
        source = make_source(tmp_path / partition, name="refcocog", partition=partition)
        assert list(entry.read(source, partition=partition)) == ["train", "validation"]
        other = "google" if partition == "umd" else "umd"
        with pytest.raises(ValueError, match=rf"refs\({other}\).p does not exist"):
            entry.read(source, partition=other)


def test_faulty_boxes_and_blank_sentences_are_left_out_and_counted(tmp_path):
    def change(refs, instances):
        instances["annotations"][0]["bbox"] = [0, 0, 0, 5]
        refs[0].update(ann_id=11)
        refs[0]["sentences"][1]["sent"] = " "

    rows = read_refcoco(make_source(tmp_path, change), "refcoco")["train"]
    row, *others = rows
    assert not others and row["boxes"] == [[10, 0, 10, 10]] and row["label"] == 0
    assert counts_of(rows.left_out.bad) == "blank sentence (1), box without area (1)"
    assert "annotations[0] has a box without area in its image: expected a width" in complaints(lambda: {"": rows})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda refs, _: refs[1].pop("ann_id"), r"refs\(unc\).p: reference 1 has no key 'ann_id'"),
        (lambda refs, _: refs[1].update(split="dev"), "reference 1 has the split 'dev'"),
        (lambda refs, _: refs[1].update(ann_id=99), "reference 1 names the box 99 of an image 2: not in"),
        (lambda refs, _: refs[1].update(ann_id=11), "reference 1 names the box 11 of an image 2: not in"),
        (lambda refs, _: refs[1].update(image_id=7), "reference 1 names the box 20 of an image 7: not in"),
        (lambda refs, _: refs[1]["sentences"][0].update(sent_id=0), "reference 1 repeats the sentence 0"),
        (lambda refs, _: refs.pop(1), "no entry of the split 'validation'"),
        (lambda refs, _: (refs.pop(1), refs.pop(0)), "no entry of the splits 'train', 'validation'"),
        (
            lambda _, data: data["annotations"][2].update(bbox=[35, 0, 0, 9]),
            "reference 1 means the box 20, which has no area",
        ),
        (lambda _, data: data["annotations"][1].update(id=10), r"annotations\[1\] repeats the annotation 10"),
        (lambda _, data: data["annotations"][1].update(image_id=5), r"annotations\[1\] is of an image 5 that is not"),
        (lambda _, data: data["images"][0].pop("width"), r"instances.json: images\[0\] has no key 'width'"),
        (lambda _, data: data.pop("images"), "expected a dictionary with lists under 'images' and 'annotations'"),
    ],
)
def test_bad_sources_are_named(change, message, tmp_path):
    source = make_source(tmp_path, change)
    assert re.search(message, complaints(lambda: read_refcoco(source, "refcoco")))


class Harmful:
    """What a pickle can do to those who load it."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_cannot_run_code(tmp_path):
    source = make_source(tmp_path, lambda refs, _: refs.append(Harmful(tmp_path / "harm")))
    with pytest.raises(ValueError, match=r"refs\(unc\).p cannot be read .*it names .*mkdir"):
        read_refcoco(source, "refcoco")
    assert not (tmp_path / "harm").exists()
    (source / "refcoco" / "refs(unc).p").write_bytes(b"\x80\x02]q")
    with pytest.raises(ValueError, match="cannot be read"):
        read_refcoco(source, "refcoco")


def test_images_with_boxes_are_not_shrunk(tmp_path):
    with pytest.raises(ValueError, match="shorter_side: the boxes"):
        write_split([], schemas.REFCOCO, tmp_path, "train", 0, shorter_side=20)


@pytest.mark.real_data
def test_the_real_layout(real_data, tmp_path):
    """Prepared bit for bit, and each box lies in its photo."""
    splits = read_refcoco(real_data / "refcoco", "refcoco")
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 14, "validation": 3, "testA": 1, "testB": 1,
    }  # fmt: skip
    for split, rows in splits.items():
        write_split(rows, schemas.REFCOCO, tmp_path, split, len(rows), max_bad_fraction=0)
        for row in Dataset.from_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet")):
            crops = crop_boxes(row["image"], row["boxes"])
            width, height = row["boxes"][row["label"]][2:]
            size = crops[row["label"]].size
            assert size[0] - 2 < width <= size[0] + 1e-3 and size[1] - 2 < height <= size[1] + 1e-3
