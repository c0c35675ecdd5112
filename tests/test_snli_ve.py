"""SNLI-VE: its files, its labels, its pairs of texts, its metrics."""

import csv
import json
import logging
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from preparing import complaints

from renaissance.tasks.data import schemas
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.snli_ve import read_snli_ve
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.metrics import ClassAccuracy
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE, SNLIVEArguments


CLASSES = schemas.classes_of(schemas.SNLI_VE)
SIZES = {"train": 24, "dev": 10, "test": 7}


def pair(number: int, **changes) -> dict:
    """A line of the public files."""
    label = CLASSES[number % 3]
    line = {"Flickr30K_ID": str(number % 3), "captionID": f"{number}.jpg#0", "pairID": f"{number}.jpg#0r1{label[0]}"}
    line |= {"gold_label": label, "annotator_labels": [label]}
    return line | {"sentence1": f"a red circle {number}", "sentence2": f"a {label} circle"} | changes


def write_source(folder: Path, **changes: dict[int, dict]) -> Path:
    """The public layout in a folder; `changes` are of lines, by split and number."""
    images = folder / "Flickr30K" / "images"
    images.mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "blue")):
        PILImage.new("RGB", (20, 30), colour).save(images / f"{number}.jpg")
    for name, size in SIZES.items():
        lines = [pair(number, **changes.get(name, {}).get(number, {})) for number in range(size)]
        (folder / f"snli_ve_{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snli_ve")
    entry = CATALOGUE["snli_ve"]
    for split, rows in entry.read(write_source(folder / "source")).items():
        write_split(rows, entry.features, folder / "prepared", split, len(rows))
    return folder / "prepared"


def own_file(folder: Path, rows: list[dict]) -> str:
    """A user's CSV file, beside its one image."""
    PILImage.new("RGB", (8, 8), "red").save(folder / "a.jpg")
    with (folder / "own.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / "own.csv")


def test_rows_of_the_public_files(tmp_path):
    source = write_source(
        tmp_path, train={4: {"gold_label": "-"}, 9: {"pairID": "3.jpg#0r1c"}, 11: {"gold_label": "-"}}
    )
    splits = read_snli_ve(source)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 21, "validation": 10, "test": 7}
    counts = {"pair without a gold label": 2, "pair whose pairID was there before": 1}
    assert splits["train"].left_out.by_rule == counts and not splits["train"].left_out.bad
    assert splits["train"][4] == {
        "id": "5.jpg#0r1e",
        "image": {"bytes": None, "path": str(source / "Flickr30K" / "images" / "2.jpg")},
        "text": "a entailment circle",
        "premise": "a red circle 5",
        "label": 2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold_label": "maybe"}, "line 3 has the label 'maybe': expected contradiction, neutral, entailment"),
        ({"sentence2": "  "}, "line 3 has blank text"),
        ({"sentence1": None}, "line 3 is not an SNLI-VE pair"),
        ({"gold_label": None}, "line 3 has the label None"),
    ],
)
def test_bad_lines(change, message, tmp_path):
    source = write_source(tmp_path, dev={2: change})
    assert message in complaints(lambda: read_snli_ve(source))
    rows = read_snli_ve(source)["validation"]
    assert [row["text"] for row in rows] == [pair(number)["sentence2"] for number in range(10) if number != 2]


def test_bad_files(tmp_path):
    source = write_source(tmp_path)
    path = source / "snli_ve_test.jsonl"
    for content, message in (
        ("{}\n", "line 1 has no key 'gold_label'"),
        ("[1]\n", "line 1 is not an SNLI-VE pair"),
        ("{\n", "line 1 is not JSON"),
        ("", "is empty"),
    ):
        path.write_text(content)
        assert message in complaints(lambda: read_snli_ve(source))
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        read_snli_ve(source)


def test_accuracy_of_each_class():
    metrics = ClassAccuracy().compute(predictions=[0, 0, 2, 2, 0], references=[0, 2, 2, 2, 0], names=CLASSES)
    chance = pytest.approx(1 / 3)
    assert metrics == {
        "accuracy_contradiction": 1.0, "chance_accuracy_contradiction": chance, "rows_contradiction": 2,
        "accuracy_entailment": pytest.approx(2 / 3), "chance_accuracy_entailment": chance, "rows_entailment": 3,
    }  # fmt: skip


@pytest.mark.parametrize("premise", [False, True])
def test_train_evaluate_predict(premise, prepared, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--dataset", str(prepared), "--do_train", "--do_eval", "--do_predict"]
    metrics = run_task(SNLIVE, "", [*argv, "--max_steps", "3", *(["--use_premise"] if premise else [])])
    with (tmp_path / "run" / "predictions.csv").open() as file:
        predicted = {identifier: label for identifier, label, probability in csv.reader(file)}
    test = Dataset.from_parquet(str(prepared / "test-00000-of-00001.parquet"))
    right = {name: [] for name in CLASSES}
    for identifier, label in zip(test["id"], test["label"], strict=True):
        right[CLASSES[label]].append(predicted[identifier] == CLASSES[label])
    assert metrics["test_accuracy"] == pytest.approx(sum(map(sum, right.values())) / 7)
    assert metrics["test_majority_accuracy"] == pytest.approx(3 / 7)
    assert metrics["eval_majority_accuracy"] == pytest.approx(4 / 10)
    for name, correct in right.items():
        assert metrics[f"test_accuracy_{name}"] == pytest.approx(sum(correct) / len(correct))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(config["id2label"].values()) == CLASSES


def test_the_premise_comes_before_the_hypothesis(prepared, options, processor):
    for premise in ([], ["--use_premise"]):
        argv = [*TWO_TOWER, *options, "--dataset", str(prepared), "--do_eval", *premise]
        trainer, *_ = prepare(SNLIVE, "", argv)
        batch = next(iter(trainer.get_eval_dataloader()))
        texts = ["a red circle 0", "a contradiction circle"] if premise else ["a contradiction circle"]
        length = int(batch["attention_mask"][0].sum())
        assert batch["input_ids"][0, :length].tolist() == processor.tokenizer(*texts)["input_ids"]
        assert batch["labels"].tolist() == [0, 1, 2, 0]


def load_own(rows: list[dict], folder: Path, split: str = "train", **options) -> Dataset:
    return SNLIVE(SNLIVEArguments(**{f"{split}_file": own_file(folder, rows)}, **options)).load(split)


def own_rows(*labels, **columns) -> list[dict]:
    return [{"image": "a.jpg", "text": f"text {n}", "label": label, **columns} for n, label in enumerate(labels)]


def test_rows_without_a_gold_label_are_skipped_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        data = load_own(own_rows("neutral", "-", "entailment", "-", "contradiction"), tmp_path)
    assert "skipped 2 of 5 rows, which have no label" in caplog.text
    assert [(row["id"], row["text"], row["label"]) for row in data] == [
        ("0", "text 0", 1),
        ("2", "text 2", 2),
        ("4", "text 4", 0),
    ]
    with pytest.raises(ValueError, match=r"row 3: expected one of the labels contradiction, neutral, .*, got 'no'"):
        load_own(own_rows("neutral", "-", "entailment", "no"), tmp_path)
    with pytest.raises(ValueError, match="no row has a label"):
        load_own(own_rows("-", "-"), tmp_path)
    assert "label" not in load_own(own_rows("-", "-"), tmp_path, split="test").column_names


def test_test_rows_without_a_gold_label_are_predicted_and_not_counted(options, tmp_path, caplog):
    labels = ["neutral", "-", "entailment", "-", "contradiction", "neutral", "neutral"]
    file = own_file(tmp_path, own_rows(*labels))
    argv = [*TWO_TOWER, *options, "--test_file", file, "--do_predict"]
    with caplog.at_level(logging.WARNING):
        metrics = run_task(SNLIVE, "", argv)
    assert "2 of 7 rows have no label; metrics are over the others" in caplog.text
    written = (tmp_path / "run" / "predictions.csv").read_text().split()
    assert [line.split(",")[0] for line in written] == [str(row) for row in range(7)]
    right = [line.split(",")[1] == label for line, label in zip(written, labels, strict=True) if label != "-"]
    assert metrics["test_rows"] == 5 and metrics["test_accuracy"] == pytest.approx(sum(right) / 5)
    assert metrics["test_majority_accuracy"] == pytest.approx(3 / 5)


def test_labels_of_another_order_keep_their_meaning(prepared, tmp_path):
    """Data sets on the Hub count from entailment on, with -1 for no agreement."""
    images = Dataset.from_parquet(str(prepared / "validation-00000-of-00001.parquet"))
    names = ["entailment", "neutral", "contradiction"]
    features = Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=names)})
    rows = [
        {"image": images[0]["image"], "text": f"text {n}", "label": label} for n, label in enumerate((0, -1, 1, 2))
    ]
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    data = SNLIVE(SNLIVEArguments(dataset=str(tmp_path))).load("train")
    assert list(data["label"]) == [2, 1, 0] and list(data["text"]) == ["text 0", "text 2", "text 3"]


def test_ids_of_own_files(tmp_path):
    rows = [row | {"number": 10 + n} for n, row in enumerate(own_rows("neutral", "entailment"))]
    assert list(load_own(rows, tmp_path, id_column="number")["id"]) == ["10", "11"]
    rows[1]["number"] = 10
    with pytest.raises(ValueError, match="row 1: column 'number' has '10', as row 0 does"):
        load_own(rows, tmp_path, id_column="number")


def test_premise_options(tmp_path):
    rows = own_rows("neutral", "entailment", caption="red")
    assert load_own(rows, tmp_path, use_premise=True, premise_column="caption")[0]["text_pair"] == "text 0"
    with pytest.raises(ValueError, match="no column premise, only image, text, label, caption"):
        load_own(rows, tmp_path, use_premise=True)
    with pytest.raises(ValueError, match="premise_column: without effect"):
        load_own(rows, tmp_path, premise_column="caption")


def test_own_rows_that_lack_something(tmp_path):
    with pytest.raises(ValueError, match=r"row 1: no image file .*b\.jpg"):
        load_own(own_rows("neutral") + own_rows("neutral", image="b.jpg"), tmp_path)
    with pytest.raises(ValueError, match="row 1: the text in column 'text' is blank"):
        load_own(own_rows("neutral") + own_rows("neutral", text="  "), tmp_path)
    with pytest.raises(ValueError, match=r"row 1: expected one of the labels .*, got None"):
        load_own(own_rows("neutral", None), tmp_path)


@pytest.mark.real_data
def test_real_pairs(real_data, options, tmp_path):
    source = tmp_path / "source"
    (source / "Flickr30K").mkdir(parents=True)
    (source / "Flickr30K" / "images").symlink_to(real_data / "f30k" / "flickr30k-images")
    for path in (real_data / "snli_ve").glob("*.jsonl"):
        (source / path.name).symlink_to(path)
    splits = read_snli_ve(source)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4240, "validation": 149, "test": 133}
    for split, rows in splits.items():
        write_split(rows[:40], schemas.SNLI_VE, tmp_path / "prepared", split, 40, max_bad_fraction=0)
    argv = [
        *TWO_TOWER,
        *options,
        "--dataset",
        str(tmp_path / "prepared"),
        "--do_train",
        "--do_eval",
        "--max_steps",
        "2",
    ]
    metrics = run_task(SNLIVE, "", argv)
    assert 0.8 < metrics["eval_loss"] < 1.6
