"""Classification of images with texts by one's own classes: metrics, losses, weights, lists of labels, own files, mistakes."""

import csv
import json
import logging
import math

import numpy as np
import pytest
import torch
from conftest import TWO_TOWER, tiny_batch, tiny_model
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from own_files import write_pictures
from PIL import Image as Picture
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from renaissance.tasks.image_text_classification import ClassCollator, ImageTextClassification
from renaissance.tasks.metrics import Classification, MultiLabelClassification
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


pytestmark = pytest.mark.usefixtures("dataset_cache")

KINDS = ["joke", "threat", "joke", "praise", "joke", "threat", "joke"]
LISTS = [["joke", "praise"], [], ["threat"], ["joke"], ["praise", "threat"], ["joke"], ["joke"]]


def write_rows(path, labels, column: str = "kind"):
    """A CSV file of pictures, sentences and labels; lists are JSON."""
    write_pictures(path.parent)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("picture", "words", column))
        for number, label in enumerate(labels):
            cell = json.dumps(label) if isinstance(label, list) else label
            writer.writerow((f"photos/{number % 6}.png", f"a red circle {number % 3}", cell))
    return str(path)


COLUMNS = {"image_column": "picture", "text_column": "words", "label_column": "kind"}
NAMED = [part for name, own in COLUMNS.items() for part in (f"--{name}", own)]


def task_of(path, split: str = "train", **options) -> ImageTextClassification:
    arguments = ImageTextClassification.argument_class()(**{f"{split}_file": str(path)}, **COLUMNS, **options)
    return ImageTextClassification(arguments)


def fault(task, split: str = "train") -> str:
    with pytest.raises(ValueError) as raised:
        task.load(split)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_metrics_of_one_class_by_hand():
    """Class 3 has no rows but is said once; rows 0 and 1 have equal probabilities of two classes."""
    probabilities = [
        [0.4, 0.4, 0.1, 0.1],
        [0.4, 0.4, 0.1, 0.1],
        [0.1, 0.7, 0.1, 0.1],
        [0.1, 0.2, 0.6, 0.1],
        [0.2, 0.1, 0.1, 0.6],
    ]
    found = Classification().compute(predictions=probabilities, references=[0, 1, 1, 2, 0])
    # Said: 0 0 1 2 3. F1 of class 0: 2 * 1 / (2 + 2), of 1: 2 * 1 / (1 + 2), of 2: 1.
    # Areas: class 0, (0.4, 0.2) against (0.4, 0.1, 0.1): 2.5 and 2 of 3 each; class 1, (0.4, 0.7) against (0.4, 0.2, 0.1):
    # 2.5 and 3 of 3; class 2: 4 of 4.
    expected = {
        "accuracy": 3 / 5,
        "majority_accuracy": 2 / 5,
        "f1_macro": (1 / 2 + 2 / 3 + 1) / 3,
        # Always class 0, the first of the two most frequent: 2 * 2 / (5 + 2).
        "majority_f1_macro": (4 / 7) / 3,
        "f1_micro": 3 / 5,
        "majority_f1_micro": 2 / 5,
        "auroc": (4.5 / 6 + 5.5 / 6 + 1) / 3,
        "constant_auroc": 0.5,
        "rows": 5,
        "classes": 3,
    }
    assert list(found) == list(expected) and found == pytest.approx(expected)
    assert found["auroc"].rows == 5 and found["auroc"].beats_baseline


def rounded_probabilities(rng: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    """With many ties."""
    return rng.integers(0, 5, (rows, classes)) / 4


@pytest.mark.parametrize("seed", range(20))
def test_metrics_of_one_class_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 6)), int(rng.integers(4, 40))
    # The last class may be absent, and one may be all that there is to say.
    labels = rng.integers(0, max(classes - seed % 2, 2), rows)
    labels[:2] = 0, 1
    probabilities = rounded_probabilities(rng, rows, classes)
    if seed % 3 == 0:
        probabilities[:, 0] = 1.5
    found = Classification().compute(predictions=probabilities, references=labels)
    answers, present = probabilities.argmax(axis=1), np.unique(labels)
    majority = np.full(rows, np.bincount(labels).argmax())
    for prefix, said in (("", answers), ("majority_", majority)):
        assert found[f"{prefix}accuracy"] == pytest.approx(accuracy_score(labels, said))
        macro = f1_score(labels, said, labels=present, average="macro", zero_division=0)
        assert found[f"{prefix}f1_macro"] == pytest.approx(macro)
        assert found[f"{prefix}f1_micro"] == pytest.approx(f1_score(labels, said, average="micro"))
    areas = [roc_auc_score(labels == number, probabilities[:, number]) for number in present]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    assert found["classes"] == len(present) and found["rows"] == rows


@pytest.mark.parametrize("seed", range(20))
def test_metrics_of_several_classes_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 5)), int(rng.integers(4, 30))
    labels = (rng.random((rows, classes)) < rng.random(classes)).astype(int)
    labels[0], labels[1] = 1, 0
    # A class without rows, and one that all rows have.
    labels[:, 0] = [labels[:, 0], 0, 1][seed % 3]
    probabilities = rounded_probabilities(rng, rows, classes)
    found = MultiLabelClassification().compute(predictions=probabilities, references=labels)
    present = np.flatnonzero(labels.any(axis=0))
    said = (probabilities >= 0.5).astype(int)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, said))
    macro = f1_score(labels[:, present], said[:, present], average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(macro)
    assert found["f1_micro"] == pytest.approx(f1_score(labels, said, average="micro", zero_division=0))
    mixed = [number for number in present if not labels[:, number].all()]
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(labels[:, n], probabilities[:, n]) for n in mixed]))
    # All sets of classes that a constant answer may be.
    constants = [np.tile([index >> bit & 1 for bit in range(classes)], (rows, 1)) for index in range(2**classes)]
    assert found["majority_accuracy"] == pytest.approx(max(accuracy_score(labels, one) for one in constants))
    best = {
        average: max(f1_score(labels[:, kept], one[:, kept], average=average, zero_division=0) for one in constants)
        for average, kept in (("macro", present), ("micro", slice(None)))
    }
    assert found["constant_f1_macro"] == pytest.approx(best["macro"])
    assert found["constant_f1_micro"] == pytest.approx(best["micro"])
    assert found["classes"] == len(present)


def test_metrics_that_are_not_defined_are_left_out():
    """Of rows that are all of one class there is no area; without any class in any row, F1 is 0 and not a number."""
    found = Classification().compute(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[1, 1])
    assert "auroc" not in found and "constant_auroc" not in found
    assert (found["accuracy"], found["f1_macro"], found["classes"]) == (0.5, pytest.approx(2 / 3), 1)
    found = MultiLabelClassification().compute(predictions=[[0.1, 0.2], [0.9, 0.2]], references=[[0, 0], [0, 0]])
    assert found == {
        "accuracy": 0.5, "majority_accuracy": 1.0, "f1_macro": 0.0, "constant_f1_macro": 0.0, "f1_micro": 0.0,
        "constant_f1_micro": 0.0, "rows": 2, "classes": 0,
    }  # fmt: skip


HEAD = "ForImageTextClassification"
SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}


def log_sigmoid(value: float) -> float:
    return -math.log(1 + math.exp(-value))


@pytest.mark.parametrize("architecture", ["two-tower", "one-tower-text"])
def test_the_loss_of_several_labels_by_hand(architecture):
    """A mean over the labels that are known, each with its weight."""
    model = tiny_model(architecture, HEAD, **SEVERAL)
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, -100]])
    out = model(**tiny_batch(), labels=labels)
    losses = {
        (row, number): -log_sigmoid(logit if labels[row, number] else -logit)
        for row, logits in enumerate(out.logits.tolist())
        for number, logit in enumerate(logits)
        if labels[row, number] >= 0
    }
    assert out.loss.item() == pytest.approx(sum(losses.values()) / 8, rel=1e-5)
    weights = torch.tensor([[5.0, 1, 1], [1, 2, 3], [1, 1, 1]])
    weighted = sum(loss * weights[place].item() for place, loss in losses.items()) / 8
    assert model(**tiny_batch(), labels=labels, loss_weights=weights).loss.item() == pytest.approx(weighted, rel=1e-5)


def test_the_loss_of_one_label_with_weights_by_hand():
    model = tiny_model("two-tower", HEAD, num_labels=3)
    labels, weights = torch.tensor([2, -100, 0]), torch.tensor([3.0, 9.0, 0.5])
    out = model(**tiny_batch(), labels=labels, loss_weights=weights)
    each = -out.logits.log_softmax(dim=1)
    assert out.loss.item() == pytest.approx((3 * each[0, 2] + 0.5 * each[2, 0]).item() / 2, rel=1e-5)
    ones = model(**tiny_batch(), labels=labels, loss_weights=torch.ones(3)).loss
    assert torch.equal(ones, model(**tiny_batch(), labels=labels).loss)


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (
            torch.tensor([0, 1, 2]),
            None,
            r"labels: expected 0 or 1 for each class, of shape \(3, 3\), got the shape \(3,\)",
        ),
        (torch.zeros(3, 2), None, r"got the shape \(3, 2\)"),
        (torch.zeros(3, 3), torch.ones(3), r"loss_weights: expected a weight for each label, of shape \(3, 3\)"),
    ],
)
def test_labels_of_another_shape_are_refused(labels, weights, message):
    model = tiny_model("two-tower", HEAD, **SEVERAL)
    with pytest.raises(ValueError, match=message):
        model(**tiny_batch(), labels=labels, loss_weights=weights)


@pytest.mark.parametrize("several", [False, True])
def test_accumulated_batches_have_the_gradients_of_one(several):
    model = tiny_model("two-tower", HEAD, **(SEVERAL if several else {"num_labels": 3}))
    batch = tiny_batch(batch=5)
    if several:
        labels = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, -100], [1, 1, 1], [0, 0, 0]])
        weights = torch.where(labels > 0, torch.tensor([1.0, 4.0, 0.5]), 1.0)
    else:
        labels, weights = torch.tensor([0, 2, -100, 1, 1]), torch.tensor([1.0, 4.0, 1.0, 0.5, 0.5])
    batch |= {"labels": labels, "loss_weights": weights}
    model(**batch).loss.backward()
    whole = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    count = int((labels != -100).sum())
    for rows in (slice(0, 2), slice(2, 5)):
        part = {name: value[rows] for name, value in batch.items()}
        model(**part, num_items_in_batch=count).loss.backward()
    assert whole.keys() >= {"classifier.out.weight", "classifier.out.bias"}
    assert any("vision" in name and grad.any() for name, grad in whole.items())
    for name, weight in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(weight.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_weights_of_classes(tmp_path):
    file = write_rows(tmp_path / "own.csv", KINDS)
    balanced = task_of(file, class_weights="balanced")
    balanced.load("train")
    # 4 jokes, 2 threats, 1 praise of 7 rows and 3 classes.
    assert balanced.names == ["joke", "praise", "threat"]
    assert balanced.weights.tolist() == pytest.approx([7 / 12, 7 / 3, 7 / 6])
    named = task_of(file, class_weights='{"praise": 5}')
    named.load("train")
    assert named.weights.tolist() == [1, 5, 1]
    few = task_of(file, class_weights="balanced", max_train_samples=2)
    few.load("train")
    # One joke and one threat; no praise.
    assert few.weights.tolist() == [1, 1, 1]

    several = task_of(write_rows(tmp_path / "lists.csv", LISTS), class_weights="balanced", multi_label=True)
    several.load("train")
    assert several.weights.tolist() == pytest.approx([3 / 4, 5 / 2, 5 / 2])


def test_weights_are_for_training_only(tmp_path, processor):
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 2, 2]})
    picture = {"image": Picture.new("RGB", (32, 32))}
    collator = ClassCollator(processor, weights=np.array([1.0, 2.0, 3.0]))
    batch = collator([row | picture | {"training": True} for row in rows])
    assert batch["loss_weights"].tolist() == [1, 3, 3] and batch["labels"].tolist() == [0, 2, 2]
    assert "loss_weights" not in collator([row | picture | {"training": False} for row in rows])
    several = ClassCollator(processor, 3, np.array([0.5, 2.0, 3.0]))
    batch = several(
        [
            {"text": "a", "label": [0, 2], "training": True} | picture,
            {"text": "a", "label": [], "training": True} | picture,
        ]
    )
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert batch["loss_weights"].tolist() == [[0.5, 1, 3], [1, 1, 1]]


@pytest.mark.parametrize("lists", [False, True])
def test_weights_change_the_loss_of_a_step_as_stated(lists, options, tmp_path):
    """The first loss of training, of the same model and the same rows; that of evaluation stays."""
    file = write_rows(tmp_path / "own.csv", LISTS if lists else KINDS)
    argv = [*TWO_TOWER, *options, *NAMED, "--train_file", file, "--validation_file", file, "--do_train", "--do_eval"]
    argv += ["--multi_label"] if lists else []
    trainer, *_ = prepare(ImageTextClassification, "", [*argv, "--class_weights", "balanced"])
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.eval()
    weights, _ = batch.pop("loss_weights"), batch.pop("sample_ids")
    plain = trainer.model(**batch)
    if lists:
        expected = torch.where(batch["labels"] > 0, torch.tensor([3 / 4, 5 / 2, 5 / 2]), 1.0)
        each = torch.nn.functional.binary_cross_entropy_with_logits(plain.logits, batch["labels"], reduction="none")
    else:
        expected = torch.tensor([7 / 12, 7 / 3, 7 / 6])[batch["labels"]]
        each = -plain.logits.log_softmax(dim=1)[torch.arange(7), batch["labels"]]
    torch.testing.assert_close(weights, expected)
    weighted = trainer.compute_loss(trainer.model, batch | {"loss_weights": weights})
    assert weighted.item() == pytest.approx((each * expected).mean().item(), rel=1e-5)
    assert abs(weighted.item() - plain.loss.item()) > 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(each.mean().item(), rel=1e-4)


def test_own_classes_from_a_table_to_predictions(options, tmp_path, caplog):
    file = write_rows(tmp_path / "own.csv", KINDS)
    argv = [*TWO_TOWER, *options, *NAMED, "--train_file", file, "--validation_file", file, "--test_file", file]
    argv += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "3"]
    metrics = run_task(ImageTextClassification, "", argv)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["joke", "praise", "threat"]
    assert config["problem_type"] == "single_label_classification"
    with (tmp_path / "run" / "predictions.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert [row[0] for row in rows] == [str(number) for number in range(7)]
    assert metrics["test_accuracy"] == pytest.approx(
        np.mean([row[1] == kind for row, kind in zip(rows, KINDS, strict=True)])
    )
    assert all(1 / 3 <= float(row[2]) <= 1 for row in rows)
    assert metrics["test_majority_accuracy"] == pytest.approx(4 / 7) and metrics["test_rows"] == 7
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| eval_auroc | " in card and "| 0.5000 (constant) | 7 |" in card

    # The checkpoint keeps its classes; a split with one of them alone has no area.
    write_rows(tmp_path / "praise.csv", ["praise"] * 5)
    again = ["--model_name_or_path", str(tmp_path / "run"), *NAMED, *options[2:-2], "--do_eval"]
    again += ["--validation_file", str(tmp_path / "praise.csv"), "--output_dir", str(tmp_path / "again")]
    metrics = run_task(ImageTextClassification, "", again)
    assert metrics["eval_classes"] == 1 and "eval_auroc" not in metrics


@pytest.mark.parametrize("form", ["json", "separator", "jsonl", "parquet"])
def test_several_labels_from_a_table_to_predictions(form, options, tmp_path):
    labels = [";".join(row) for row in LISTS] if form == "separator" else LISTS
    file = write_rows(tmp_path / "own.csv", labels)
    if form in ("jsonl", "parquet"):
        pictures = [f"{tmp_path}/photos/{number % 6}.png" for number in range(7)]
        words = [f"a red circle {number % 3}" for number in range(7)]
        rows = Dataset.from_dict({"picture": pictures, "words": words, "kind": LISTS})
        file = str(tmp_path / f"own.{form}")
        if form == "jsonl":
            rows.to_json(file)
        else:
            rows.to_parquet(file)
    argv = [*TWO_TOWER, *options, *NAMED, "--train_file", file, "--validation_file", file, "--test_file", file]
    argv += [
        "--multi_label",
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_steps",
        "30",
        "--learning_rate",
        "1e-2",
    ]
    argv += ["--label_separator", ";"] if form == "separator" else []
    metrics = run_task(ImageTextClassification, "", argv)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["joke", "praise", "threat"]
    with (tmp_path / "run" / "predictions.csv").open(newline="") as lines:
        rows = [(row, json.loads(names), json.loads(values)) for row, names, values in csv.reader(lines)]
    assert [row for row, *_ in rows] == [str(number) for number in range(7)]
    right = [set(names) == set(row) for (_, names, _), row in zip(rows, LISTS, strict=True)]
    assert metrics["test_accuracy"] == pytest.approx(np.mean(right))
    # It trains on what it predicts.
    assert metrics["test_f1_micro"] > metrics["test_constant_f1_micro"] and metrics["test_auroc"] > 0.5
    for _, names, values in rows:
        assert len(names) == len(values) and values == sorted(values, reverse=True) and min(values, default=1) >= 0.5


def test_one_set_of_classes_for_all_rows_is_warned_of(options, tmp_path, caplog):
    file = write_rows(tmp_path / "own.csv", [["joke", "threat"], ["threat", "joke"], ["joke", "threat"]])
    mixed = write_rows(tmp_path / "mixed.csv", [["joke", "threat"], [], ["threat"]])
    argv = [*TWO_TOWER, *options, *NAMED, "--train_file", file, "--validation_file", mixed, "--multi_label"]
    with caplog.at_level(logging.WARNING):
        run_task(
            ImageTextClassification,
            "",
            [*argv, "--do_train", "--do_eval", "--max_steps", "20", "--learning_rate", "1e-2"],
        )
    assert "eval: the model says 'joke' and 'threat' to all 3 rows, whatever the input is" in caplog.text
    assert "eval_accuracy: 0.3333 over 3 rows is not above the baseline 0.3333 (majority)" in caplog.text


def test_classes_of_a_data_set_with_names(tmp_path):
    """Lists of `ClassLabel`, and whole numbers as classes."""
    write_pictures(tmp_path)
    pictures = [{"bytes": (tmp_path / "photos" / f"{number}.png").read_bytes(), "path": None} for number in range(3)]
    columns = {"picture": pictures, "words": ["a", "b", "c"]}
    base = {"picture": Image(), "words": Value("string")}
    named = Features(base | {"kind": List(ClassLabel(names=["z", "y", "x"]))})
    Dataset.from_dict(columns | {"kind": [[2, 0], [], [0]]}, features=named).to_parquet(
        str(tmp_path / "named.parquet")
    )
    task = task_of(tmp_path / "named.parquet", multi_label=True)
    # Names that no row has are classes too, in the data's own order.
    assert list(task.load("train")["label"]) == [[0, 2], [], [0]] and task.names == ["z", "y", "x"]
    Dataset.from_dict(
        columns | {"kind": [[30, 7], [7], []]}, features=Features(base | {"kind": List(Value("int64"))})
    ).to_parquet(str(tmp_path / "numbers.parquet"))
    task = task_of(tmp_path / "numbers.parquet", multi_label=True)
    assert list(task.load("train")["label"]) == [[0, 1], [0], []] and task.names == ["7", "30"]


def test_mistakes_in_labels(tmp_path):
    single, lists = write_rows(tmp_path / "own.csv", KINDS), write_rows(tmp_path / "lists.csv", LISTS)
    # An unknown class in another split than that of training.
    task = task_of(single, validation_file=write_rows(tmp_path / "more.csv", ["joke", "pun", "threat"]))
    task.load("train")
    assert (
        "row 1: expected one of the labels joke, praise, threat, or its number, in column 'kind', got 'pun'"
        in fault(task, "validation")
    )
    more = write_rows(tmp_path / "more_lists.csv", [["joke"], ["joke", "pun"]])
    task = task_of(lists, validation_file=more, multi_label=True)
    task.load("train")
    assert (
        "row 1: expected one of the labels joke, praise, threat, or its number, in the list in column 'kind', got 'pun'"
        in fault(task, "validation")
    )

    # Invalid lists: a single label, text that is not JSON, JSON of another type, an empty cell.
    message = fault(task_of(single, multi_label=True))
    assert (
        "7 of 7 rows cannot be used: row 0: expected a list of labels, such as [\"a\", \"b\"] in JSON, or [] for none, in column 'kind', got 'joke'"
        in message
    )
    bad = write_rows(tmp_path / "bad.csv", [["joke"], '["joke', '{"joke": 1}', '[["joke"]]', "", "[null]", ["praise"]])
    message = fault(task_of(bad, multi_label=True))
    assert "5 of 7 rows cannot be used" in message and "(5 such rows: 1, 2, 3, 4, 5)" in message
    # Lists, without the option.
    message = fault(task_of(lists))
    assert "expected one label a row in column 'kind', found lists; set multi_label" in message
    Dataset.from_dict({"picture": ["a"], "words": ["b"], "kind": [["c"]]}).to_parquet(str(tmp_path / "own.parquet"))
    assert "expected one label a row in column 'kind', found lists; set multi_label" in fault(
        task_of(tmp_path / "own.parquet")
    )
    Dataset.from_dict({"picture": ["a"], "words": ["b"], "kind": [3]}).to_parquet(str(tmp_path / "number.parquet"))
    message = fault(task_of(tmp_path / "number.parquet", multi_label=True))
    assert (
        "expected lists of labels in column 'kind', found int64" in message and "at least two classes" not in message
    )

    assert "class_weights: no class pun, only joke, praise, threat" in fault(task_of(single, class_weights={"pun": 2}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "even"}, "class_weights: expected balanced, or a JSON object"),
        ({"class_weights": '{"a": 0}'}, "class_weights: expected balanced, or a JSON object with numbers above 0"),
        ({"class_weights": '{"a": "2"}'}, "with numbers above 0"),
        ({"class_weights": {"a": True}}, "with numbers above 0"),
        ({"class_weights": '{"a": Infinity}'}, "with numbers above 0"),
        ({"class_weights": "[1, 2]"}, "expected balanced, or a JSON object"),
        ({"label_separator": ";"}, "label_separator: without effect unless multi_label is set"),
        ({"label_separator": " ", "multi_label": True}, "label_separator: expected a mark"),
    ],
)
def test_mistakes_in_options(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTextClassification.argument_class()(train_file="own.csv", **options)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--multi_label"], "label_smoothing_factor: without effect with multi_label; leave it out"),
        (["--class_weights", "balanced"], "class_weights: without effect with label_smoothing_factor"),
    ],
)
def test_options_that_do_not_go_together_end_the_run_in_one_line(more, message, options, tmp_path, capsys):
    file = write_rows(tmp_path / "own.csv", LISTS if "--multi_label" in more else KINDS)
    argv = [*TWO_TOWER, *options, *NAMED, "--train_file", file, "--do_train", "--label_smoothing_factor", "0.1", *more]
    with pytest.raises(SystemExit) as stopped:
        run_task(ImageTextClassification, "", argv)
    errors = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and message in errors[-1]


def test_weights_of_snli_ve_come_from_its_classes(tmp_path):
    labels = ["entailment", "entailment", "entailment", "neutral", "-"]
    arguments = SNLIVE.argument_class()(
        train_file=write_rows(tmp_path / "own.csv", labels), class_weights="balanced", **COLUMNS
    )
    task = SNLIVE(arguments)
    assert len(task.load("train")) == 4
    # No contradiction; 1 neutral and 3 entailments of 4 rows and 2 classes.
    assert task.weights.tolist() == pytest.approx([1, 2, 2 / 3])
    assert not hasattr(arguments, "multi_label")
