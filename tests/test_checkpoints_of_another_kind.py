"""What a checkpoint knows of its classes holds for what goes on from it; rows without a score as a number; files in UTF-8."""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
import own_files
import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset
from own_files import write_pictures
from own_tasks import TASKS, lists_task, rows_of, task_of
from transformers import EvalPrediction

from renaissance.tasks.base import NO_ANSWER
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.faults import Faults
from renaissance.tasks.data.labels import class_names, plain_labels
from renaissance.tasks.glue import GLUE, GLUEArguments, scores
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.metrics import AccuracyAndF1, Classification, Correlations, MultiLabelClassification
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


ROOT = Path(__file__).parents[1]
MRPC = ["not_equivalent", "equivalent"]
THREE = Dataset.from_dict({"id": ["0", "1", "2"]})
pytestmark = pytest.mark.usefixtures("dataset_cache")


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# Classes in another order


@pytest.mark.parametrize("labels", [MRPC, [0, 1], ["0", "1"], [False, True]])
@pytest.mark.parametrize("names", [MRPC, MRPC[::-1], ["Equivalent", "Not_Equivalent"], ["LABEL_0", "LABEL_1"]])
def test_labels_and_f1_are_of_the_tasks_order(names, labels, tmp_path):
    truth, said = [0, 1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 1, 0]
    file = jsonl(tmp_path / "own.jsonl", [{"text": "a", "text_pair": "b", "label": labels[n]} for n in truth])
    task = GLUE(GLUEArguments(task_name="mrpc", validation_file=file), names)
    data = task.load("validation")
    assert [task.names[number] for number in data["label"]] == [MRPC[number] for number in truth]
    answers = np.array([task.names.index(MRPC[number]) for number in said])
    found = task.metrics(EvalPrediction(answers, np.array(data["label"])), data)
    assert found == AccuracyAndF1().compute(predictions=said, references=truth)
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 3)) and found["majority_f1"] == 0


@pytest.mark.parametrize("name", ["entailments", "pairs"])
def test_numbers_are_of_the_tasks_order_in_every_task(name, tmp_path):
    write_pictures(tmp_path)
    kind = TASKS[name][0]
    rows = [row | {"kind": number % len(kind.classes)} for number, row in enumerate(rows_of(name))]
    own = task_of(name, validation_file=own_files.as_csv(tmp_path, rows))
    task = kind(own.data_arguments, kind.classes[::-1])
    found = [task.names[number] for number in task.load("validation")["label"]]
    assert found == [kind.classes[row["kind"]] for row in rows]
    with pytest.raises(ValueError, match="its head tells apart x, y, while this task has the classes"):
        kind(own.data_arguments, ["x", "y"])


# Scores


def test_own_scores_are_not_cut(tmp_path):
    task = GLUE(GLUEArguments(task_name="stsb", test_file="own.jsonl"))
    path = task.write_predictions(np.array([50.25, -3, 5.5]), THREE, tmp_path / "predictions")
    assert [line.split("\t")[1] for line in path.read_text().splitlines()[1:]] == ["50.25", "-3", "5.5"]
    hub = GLUE(GLUEArguments(task_name="stsb", dataset="nyu-mll/glue"))
    path = hub.write_predictions(np.array([50.25, -3, 4.5]), THREE, tmp_path / "predictions")
    assert [line.split("\t")[1] for line in path.read_text().splitlines()[1:]] == ["5.000", "0.000", "4.500"]


def test_the_score_that_stands_for_no_label_is_refused():
    faults = Faults("own", {"label": "k"})
    scores([-100, 0.0, "-100.0", 100], (), faults)
    assert faults.bad_rows == {0, 2}
    assert "expected another score than -100 in column 'k', which stands for no label" in faults.describe_rows()[0]


# Kinds of labels


@pytest.fixture(scope="module")
def heads(tmp_path_factory, tokenizer_folder):
    """Checkpoints of untrained models by name: of several labels, of one, of premises, of scores, of pretraining."""
    root = tmp_path_factory.mktemp("heads")
    write_pictures(root)
    row = {"image": "photos/0.png", "text": "red", "premise": "blue", "text_pair": "blue"}
    kinds = {
        "several": (ImageTextClassification, [["a"], ["b"], ["a", "b"]], ["--multi_label"]),
        "one": (ImageTextClassification, ["a", "b"], []),
        "premise": (SNLIVE, SNLIVE.classes, ["--use_premise"]),
        "single": (SNLIVE, SNLIVE.classes, []),
        "scores": (GLUE, [1.0, 2.5], ["--task_name", "stsb"]),
        "classes": (GLUE, ["a", "b"], []),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")
        for name, (task, labels, more) in kinds.items():
            file = jsonl(root / f"{name}.jsonl", [row | {"label": label} for label in labels * 2])
            argv = [*TWO_TOWER, "--tokenizer", str(tokenizer_folder), "--image_size", "32", "--use_cpu"]
            argv += ["--train_file", file, "--do_train", "--max_steps", "1", "--report_to", "none", *more]
            run_task(task, "", [*argv, "--output_dir", str(root / name)])
    jsonl(root / "unlabelled.jsonl", [row] * 3)
    return root


def predicted(heads, tmp_path, task, name: str, *more: str) -> dict:
    argv = ["--model_name_or_path", str(heads / name), "--test_file", str(heads / "unlabelled.jsonl"), "--do_predict"]
    return run_task(
        task, "", [*argv, "--use_cpu", "--report_to", "none", "--output_dir", str(tmp_path / "run"), *more]
    )


def test_what_a_checkpoint_knows_is_taken_from_it(heads, tmp_path, caplog):
    predicted(heads, tmp_path, ImageTextClassification, "several")
    rows = list(csv.reader((tmp_path / "run" / "predictions.csv").open(encoding="utf-8")))
    assert len(rows) == 3 and all(isinstance(json.loads(row[1]), list) for row in rows)
    saved = json.loads((heads / "premise" / "config.json").read_text())
    assert saved["text_pairs"] is True
    with caplog.at_level("INFO"):
        predicted(heads, tmp_path, SNLIVE, "premise", "--output_dir", str(tmp_path / "premise"))
    assert "use_premise: set, for the checkpoint's head was trained with premises" in caplog.text


@pytest.mark.parametrize(
    ("task", "name", "more", "message"),
    [
        (ImageTextClassification, "one", ["--multi_label"], "which is another task; .*leave out multi_label"),
        (SNLIVE, "several", [], "its head tells apart a, b, while this task has the classes contradiction"),
        (SNLIVE, "one", [], "its head tells apart a, b, while this task has the classes contradiction"),
        (SNLIVE, "single", ["--use_premise"], "use_premise: the checkpoint's head was trained without premises"),
        (GLUE, "scores", [], "its head is for regression, which is another task; .*set task_name to stsb"),
        (GLUE, "classes", ["--task_name", "stsb"], "its head is for one class a row|is another task"),
        (GLUE, "classes", ["--text_pair_column", "gone"], "no column gone"),
        (GLUE, "one", [], "whose head for this task would be new .*add --do_train"),
        (SNLIVE, "classes", [], "whose head for this task would be new .*add --do_train"),
        (CIFAR10, "one", [], "whose head for this task would be new .*add --do_train"),
    ],
)
def test_what_contradicts_a_checkpoint_is_refused(task, name, more, message, heads, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        predicted(heads, tmp_path, task, name, *more)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert error.value.code == 2
    assert re.search(message, line), line


# Scores that are not numbers


def test_rows_without_numbers_are_wrong_and_kept(tmp_path, caplog):
    nan = np.nan
    found = Classification().compute(predictions=[[nan, nan], [0.2, 0.8], [0.9, 0.1]], references=[0, 1, 0])
    assert found["accuracy"] == pytest.approx(2 / 3) and found["rows"] == 3 and found["auroc"] < 1
    found = Classification().compute(predictions=[[nan, nan]] * 2, references=[0, 1])
    assert found["accuracy"] == found["f1_macro"] == found["auroc"] == 0
    found = MultiLabelClassification().compute(predictions=[[nan, nan]] * 2, references=[[0, 1], [1, 0]])
    assert found["accuracy"] == found["auroc"] == 0
    assert AccuracyAndF1().compute(predictions=[NO_ANSWER, 1], references=[1, 1])["f1"] == pytest.approx(2 / 3)
    assert Correlations().compute(predictions=[nan, 1.0, 2.0], references=[1.0, 2.0, 3.0])["pearson"] == 0

    task = lists_task(tmp_path, ["a", "b"] * 2, multi_label=False)
    data = task.load("train")
    logits = np.array([[nan, nan], [0.0, 1.0], [nan, 0.0], [1.0, 0.0]])
    figures = task.metrics(EvalPrediction(logits, np.array(data["label"])), data)
    assert figures["accuracy"] == 0.25 and "the scores of 2 of 4 rows are not numbers (NaN)" in caplog.text
    path = task.write_predictions(logits, data, tmp_path / "predictions")
    assert [line.split(",")[1] for line in path.read_text().splitlines()] == ["", "b", "", "a"]
    answers, _ = task_of("images", train_file="x").collect(torch.tensor(logits), {})
    assert answers.tolist() == [NO_ANSWER, 1, NO_ANSWER, 0]


# Labels


def test_marks_that_cannot_be_seen_make_no_classes():
    labels = ["x", "x\u200b", "\ufeffx", "x\u2060", "x\u200d", "caf\u00e9", "cafe\u0301", "\u00a0x "]
    assert set(plain_labels(labels)) == {"x", "caf\u00e9"}
    # A joiner inside a word is a part of it.
    assert plain_labels(["\u0645\u06cc\u200c\u062e"]) == ["\u0645\u06cc\u200c\u062e"]


def test_labels_that_are_no_whole_numbers_are_shown():
    faults = Faults("own", {"label": "k"})
    class_names(plain_labels([0.0, 1.0, 0.5, -2.0]), faults, "column 'k'")
    with pytest.raises(ValueError, match=r"whole numbers from 0 on alone, in column 'k', got -2, 0\.5"):
        faults.check_columns()


def test_test_files_whose_rows_have_none_of_the_classes_have_metrics(tmp_path):
    task = lists_task(tmp_path, [["a"], ["b"]])
    task.load("train")
    task.data_arguments.test_file = jsonl(
        tmp_path / "test.jsonl", [{"picture": "photos/0.png", "words": "a", "kind": []}] * 3
    )
    assert list(task.load("test")["label"]) == [[], [], []]


def test_a_label_column_that_a_test_file_lacks(tmp_path, caplog):
    """Its rows are predicted, and the missing metrics told of."""
    write_pictures(tmp_path)
    train = own_files.as_csv(tmp_path, rows_of("images")).rename(tmp_path / "train.csv")
    rows = [{name: value for name, value in row.items() if name != "kind"} for row in rows_of("images")]
    test = own_files.as_csv(tmp_path, rows)
    for files in ({"test_file": test}, {"train_file": train, "test_file": test}):
        caplog.clear()
        assert len(task_of("images", **files).load("test")) == 6
        assert "no column 'kind', so that there are no metrics" in caplog.text


# Files


def test_text_files_name_their_encoding():
    calls = {"read_text", "write_text", "open"}
    found = []
    for path in [path for top in ("src", "tasks", "modeling", "processing") for path in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [value.value for value in node.args if isinstance(value, ast.Constant)]
            if name not in calls or any(isinstance(mode, str) and ("b" in mode or "|" in mode) for mode in given):
                continue
            # Our own function of this name finds the encoding out.
            if isinstance(node.func, ast.Name) and name == "read_text":
                continue
            writes = name == "open" and any(isinstance(mode, str) and mode in ("w", "a", "x") for mode in given)
            reads = name == "open" and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
            if name != "open" or writes or reads:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
