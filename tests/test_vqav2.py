"""Questions about images: normal form and accuracy of answers, the vocabulary, the public files, whole runs."""

import dataclasses
import itertools
import json
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TWO_TOWER, tiny_model
from datasets import Dataset, load_dataset
from PIL import Image as PILImage
from preparing import complaints

from renaissance.processing.vqa_answers import (
    answer_accuracies,
    answer_vocabulary,
    count_score,
    leave_one_out_score,
    majority_answer,
    normalize_answer,
)
from renaissance.tasks.arguments import model_arguments_class
from renaissance.tasks.data import schemas
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.easy_vqa import read_easy_vqa
from renaissance.tasks.data.faults import FILE_ROW
from renaissance.tasks.data.vqav2 import read_vqav2
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.metrics import VQAAccuracy
from renaissance.tasks.models import classes_in, saved_head
from renaissance.tasks.preparation import prepare
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.vqav2 import AnswerCollator, VQAv2, VQAv2Arguments


ROOT = Path(__file__).parents[1]
NAMES = {"train": "train2014", "validation": "val2014", "test": "test2015"}


def slow_accuracy(prediction: str, answers: list[str]) -> float:
    """The definition itself: over all ways to choose nine people of ten, how far three of them agree with the prediction."""
    nines = list(itertools.combinations(answers, len(answers) - 1))
    return float(np.mean([min(sum(answer == prediction for answer in nine) / 3, 1) for nine in nines]))


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        (" the\ndog\t", "dog"),
        ("a man and the dog", "man and dog"),
        ("None", "0"),
        ("ten two eleven", "10 2 eleven"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("oclock", "o'clock"),
        # Inside words a mark becomes a space, beside a space it goes.
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        # Between digits a comma goes, and every other mark with it.
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        # Apostrophes and colons stay.
        ("10:30", "10:30"),
        ("driver's", "driver's"),
        # Periods stay before digits only.
        ("U.S.", "us"),
        ("3.5", "3.5"),
        ("no.", "no"),
        ("mr. smith", "mr smith"),
        ("???", ""),
        ("a", ""),
    ],
)
def test_normal_form(answer, normal):
    assert normalize_answer(answer) == normal


def test_accuracy_is_that_of_all_choices_of_nine():
    rng = np.random.default_rng(0)
    for _ in range(300):
        answers = rng.choice(["yes", "no", "2", "red"], size=10, p=[0.5, 0.3, 0.1, 0.1]).tolist()
        accuracies = answer_accuracies(answers)
        for answer in ("yes", "no", "2", "red", "blue"):
            assert accuracies.get(answer, 0.0) == pytest.approx(slow_accuracy(answer, answers))


def test_accuracy_worked_by_hand():
    answers = ["yes"] * 1 + ["no"] * 2 + ["maybe"] * 3 + ["2"] * 4
    assert answer_accuracies(answers) == pytest.approx({"yes": 0.3, "no": 0.6, "maybe": 0.9, "2": 1.0})
    # If all ten agree, the evaluation code takes their word as it is; else it brings all answers into normal form.
    assert answer_accuracies(["dog."] * 10) == {"dog.": 1.0}
    assert answer_accuracies(["dog."] * 9 + ["Dog"]) == {"dog": 1.0}


def test_accuracy_with_fewer_answers():
    assert answer_accuracies(["The dog."]) == {"dog": 1.0}
    assert answer_accuracies(["Yes", "yes"]) == {"yes": 1.0}
    assert answer_accuracies(["yes", "no"]) == {"yes": 0.5, "no": 0.5}
    assert answer_accuracies(["yes", "yes", "no"]) == pytest.approx({"yes": 2 / 3, "no": 1 / 3})
    # From four on, as with ten.
    assert answer_accuracies(["yes"] * 4 + ["no"])["no"] == pytest.approx(slow_accuracy("no", ["yes"] * 4 + ["no"]))
    for total in range(1, 13):
        scores = [leave_one_out_score(count, total) for count in range(total + 1)]
        assert scores[0] == 0 and scores[-1] == 1 and scores == sorted(scores)


def test_the_metric_is_the_mean_over_questions():
    references = [["yes"] * 10, ["no"] * 8 + ["yes"] * 2, ["blue"], ["two"] * 9 + ["3"]]
    metrics = VQAAccuracy().compute(predictions=["yes", "Yes.", "red", "2"], references=references)
    assert metrics["accuracy"] == pytest.approx((1 + 0.6 + 1) / 4)
    assert metrics["majority_accuracy"] == pytest.approx((1 + 0.6) / 4)
    assert list(metrics) == ["accuracy", "majority_accuracy", "rows"] and metrics["rows"] == 4


def test_vocabulary():
    assert majority_answer(["no", "yes", "yes", "no"]) == "no"
    questions = [["Yes"] * 6 + ["no"] * 4] * 3 + [["no"] * 10] * 3 + [["red"]] * 5 + [["blue"] * 10] * 2
    assert answer_vocabulary(questions, 3) == ["red", "no", "yes"]
    assert answer_vocabulary(questions, 2) == ["red", "no", "yes", "blue"]
    assert answer_vocabulary(questions, 6) == []


def test_soft_targets(processor):
    answers = ["Yes"] * 1 + ["no"] * 2 + ["red"] * 3 + ["the blue"] * 4
    names = ["blue", "green", "no", "red", "yes"]
    expected = {"leave_one_out": [1, 0, 0.6, 0.9, 0.3], "count": [1, 0, 2 / 3, 1, 1 / 3]}
    for score, targets in expected.items():
        np.testing.assert_allclose(AnswerCollator(processor, names, score).targets(answers), targets, rtol=1e-6)
    assert count_score(1, 1) == 1 and count_score(1, 2) == 0.5
    # One answer, and none that the model could choose.
    collate = AnswerCollator(processor, names, "leave_one_out")
    image = PILImage.new("RGB", (8, 8))
    rows = [{"image": image, "text": "what?", "answers": [answer]} for answer in ("green", "purple")]
    assert collate(rows)["labels"].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


#: Questions of each split.
SIZES = {"train": 40, "validation": 11, "test": 5}


def write_source(folder: Path, sizes: dict[str, int] = SIZES) -> Path:
    """The public layout: red, green and blue images, and what colour they are, in the words of ten people."""
    colours = ["red", "green", "blue"]
    for split, name in NAMES.items():
        (folder / name).mkdir(parents=True)
        questions, annotations = [], []
        for number in range(sizes[split]):
            identifier = 1000 + number
            colour = colours[number % 3]
            PILImage.new("RGB", (20, 20), colour).save(folder / name / f"COCO_{name}_{number:012d}.jpg")
            questions.append({"image_id": number, "question": "What colour is it?", "question_id": identifier})
            given = [colour] * (number % 7 + 2) + ["purple"] * (8 - number % 7)
            entries = [{"answer": answer, "answer_id": n} for n, answer in enumerate(given)]
            annotations.append(
                {
                    "question_id": identifier,
                    "answers": entries,
                    "multiple_choice_answer": Counter(given).most_common()[0][0],
                }
            )
        write_json(folder / f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": questions})
        if split != "test":
            write_json(folder / f"v2_mscoco_{name}_annotations.json", {"annotations": annotations})
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vqav2")
    entry = CATALOGUE["vqav2"]
    for split, rows in entry.read(write_source(folder / "source")).items():
        write_split(rows, entry.features, folder / "prepared", split, len(rows))
    return folder / "prepared"


def test_rows_of_the_public_files(tmp_path, caplog):
    source = write_source(tmp_path)
    path = source / "v2_mscoco_train2014_annotations.json"
    change_json(path, lambda content: content["annotations"][3].update(multiple_choice_answer="purple"))
    splits = read_vqav2(source)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "validation": 11, "test": 5}
    row = splits["train"][3]
    # Five for red and five for purple: the named one comes first, so that it is the majority answer.
    assert row["answers"] == ["purple"] * 5 + ["red"] * 5 and majority_answer(row["answers"]) == "purple"
    assert (row["id"], row["text"]) == ("1003", "What colour is it?")
    assert row["image"]["path"] == str(source / "train2014" / "COCO_train2014_000000000003.jpg")
    assert splits["test"][0]["answers"] is None
    (source / "v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert list(read_vqav2(source)) == ["train", "validation"]
    assert "no split 'test' is written" in caplog.text and "--do_predict false" in caplog.text


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "annotations",
            lambda c: c["annotations"][2].update(answers=[]),
            r"annotations\[2\] .*1002\): expected texts",
        ),
        ("annotations", lambda c: c["annotations"][2]["answers"][0].update(answer=None), r"\[2\] .*: expected texts"),
        ("annotations", lambda c: c["annotations"][2].pop("answers"), r"annotations\[2\] has no key 'answers'"),
        ("annotations", lambda c: c["annotations"][2].update(question_id=1001), r"\[2\] repeats the question_id 1001"),
        ("annotations", lambda c: c["annotations"].pop(2), r"questions\[2\] has no annotation"),
        ("annotations", lambda c: c.pop("annotations"), "has no key 'annotations'"),
        (
            "questions",
            lambda c: c["questions"].pop(2),
            "annotations.json has no question for the annotation of question_id 1002",
        ),
        ("questions", lambda c: c["questions"][2].update(question=" "), r"questions\[2\] has a blank question"),
        ("questions", lambda c: c["questions"][2].update(question_id=1001), r"\[2\] repeats the question_id 1001"),
        ("questions", lambda c: c["questions"][2].update(image_id="x"), r"questions\[2\] is not a VQA question"),
    ],
)
def test_bad_public_files(file, change, message, tmp_path):
    source = write_source(tmp_path)
    prefix = "v2_mscoco" if file == "annotations" else "v2_OpenEnded_mscoco"
    change_json(source / f"{prefix}_val2014_{file}.json", change)
    assert re.search(message, complaints(lambda: read_vqav2(source)))


def write_easy_vqa(folder: Path) -> Path:
    for name, images in (("train", 20), ("test", 3)):
        (folder / name / "images").mkdir(parents=True)
        for number in range(images):
            PILImage.new("RGB", (8, 8), "red").save(folder / name / "images" / f"{number}.png")
        entries = [["is it red?", "yes", n % images] for n in range(2 * images)]
        write_json(folder / name / "questions.json", entries)
    return folder


def test_easy_vqa(tmp_path):
    source = write_easy_vqa(tmp_path)
    splits = read_easy_vqa(source)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 36, "validation": 4, "test": 6}
    assert [row["id"] for row in splits["validation"]] == ["train-9", "train-19", "train-29", "train-39"]
    # No image is in two splits.
    images = {split: {row["image"]["path"] for row in rows} for split, rows in splits.items()}
    assert not images["train"] & images["validation"] and len(images["validation"]) == 2
    assert splits["test"][4]["image"]["path"] == str(source / "test" / "images" / "1.png")
    assert splits["test"][4]["answers"] == ["yes"]
    for entries, message in (
        ([["is it red?", "yes", 0], ["is it red?", 0]], "entry 1 is not a question, an answer and an image number"),
        ([["is it red?", " ", 0]], "entry 0 has a blank question or answer"),
        ({}, "expected a list of questions"),
    ):
        write_json(source / "test" / "questions.json", entries)
        assert message in complaints(lambda: read_easy_vqa(source))


def run_options(prepared: Path, *extra: str) -> list[str]:
    return ["--dataset", str(prepared), "--min_answer_count", "3", *extra]


def test_train_evaluate_predict(prepared, options, tmp_path, caplog):
    steps = ["--do_train", "--do_eval", "--do_predict", "--max_steps", "3"]
    with caplog.at_level(logging.INFO):
        metrics = run_task(VQAv2, "", [*TWO_TOWER, *options, *run_options(prepared), *steps])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    names = list(config["id2label"].values())
    assert sorted(names) == ["blue", "green", "purple", "red"] and names[0] == "purple"

    # Without labels there are predictions, in the server's format, and no metric.
    results = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [set(result) for result in results] == [{"question_id", "answer"}] * 5
    assert [result["question_id"] for result in results] == [1000, 1001, 1002, 1003, 1004]
    assert all(result["answer"] in names for result in results) and "test_accuracy" not in metrics

    # What was saved, evaluated as the test split of another data set: its own vocabulary, and the same accuracy.
    validation = Dataset.from_parquet(str(prepared / "validation-00000-of-00001.parquet"))
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "test"):
        validation.select(range(9) if split == "train" else range(11)).to_parquet(str(other / f"{split}-0.parquet"))
    argv = ["--model_name_or_path", str(tmp_path / "run"), "--dataset", str(other), "--do_predict", *options[:-2]]
    again = run_task(VQAv2, "", argv)
    predicted = [result["answer"] for result in json.loads((tmp_path / "run" / "predictions.json").read_text())]
    slow = np.mean([slow_accuracy(*pair) for pair in zip(predicted, validation["answers"], strict=True)])
    assert again["test_accuracy"] == metrics["eval_accuracy"] == pytest.approx(slow)
    assert again["test_majority_accuracy"] == metrics["eval_majority_accuracy"]
    constant = {name: np.mean([slow_accuracy(name, answers) for answers in validation["answers"]]) for name in names}
    assert metrics["eval_majority_accuracy"] == pytest.approx(max(constant.values()))


def test_a_checkpoint_keeps_its_answers_by_number(tmp_path):
    """A configuration may list them in another order, as ViLT's does: 1, 10, 2."""
    names = [f"answer {number}" for number in range(11)] + ["red"]
    config = tiny_model("two-tower", "ForVisualQuestionAnswering", num_labels=12).config
    config.architectures = ["TwoTowerForVisualQuestionAnswering"]
    config.save_pretrained(tmp_path)
    shuffled = {str(number): names[number] for number in sorted(range(12), key=str)}
    change_json(tmp_path / "config.json", lambda content: content.update(id2label=shuffled))
    arguments = model_arguments_class()(model_name_or_path=str(tmp_path))
    assert classes_in(saved_head("ForVisualQuestionAnswering", arguments)) == names


def test_metrics_do_not_depend_on_the_batches(prepared, options):
    results = []
    for size in ("3", "4", "11"):
        argv = [*TWO_TOWER, *options, *run_options(prepared), "--do_eval", "--per_device_eval_batch_size", size]
        trainer, *_ = prepare(VQAv2, "", argv)
        results.append(trainer.evaluate())
    assert results[0]["eval_accuracy"] == results[1]["eval_accuracy"] == results[2]["eval_accuracy"]
    # All labels are as wide as the vocabulary; a number a row is what evaluation keeps of them.
    assert trainer.predict(trainer.eval_dataset).label_ids.shape == (11,)


def test_questions_that_the_vocabulary_cannot_answer(tmp_path, caplog):
    """Training leaves them out, evaluation counts them as wrong; both say how many."""
    for name, answers in (("train", ["red"] * 3 + ["blue"] + ["red"]), ("validation", ["red", "blue", "green"])):
        own_file(tmp_path, [{"answers": answer} for answer in answers], name)
    arguments = VQAv2Arguments(
        train_file=str(tmp_path / "train.jsonl"),
        validation_file=str(tmp_path / "validation.jsonl"),
        min_answer_count=2,
    )
    task = VQAv2(arguments)
    with caplog.at_level(logging.INFO):
        train, validation = task.load("train"), task.load("validation")
    assert task.names == ["red"] and list(train["id"]) == ["0", "1", "2", "4"] and len(validation) == 3
    assert "1 of 5 questions have no answer in the vocabulary of 1; left out" in caplog.text
    assert "2 of 3 questions have no answer in the vocabulary of 1; they count as wrong" in caplog.text
    with pytest.raises(ValueError, match=r"no question has an answer in the vocabulary \(purple"):
        VQAv2(arguments, ["purple"]).load("train")


def own_file(folder: Path, rows: list[dict], name: str = "own") -> str:
    """A user's JSON Lines file, beside its one image."""
    PILImage.new("RGB", (8, 8), "red").save(folder / "a.jpg")
    defaults = [{"id": n, "image": "a.jpg", "text": f"is it {n}?"} for n in range(len(rows))]
    lines = [json.dumps(default | row) for default, row in zip(defaults, rows, strict=True)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / f"{name}.jsonl")


def load_own(folder: Path, rows: list[dict], **options) -> tuple[VQAv2, Dataset]:
    task = VQAv2(VQAv2Arguments(train_file=own_file(folder, rows), **({"min_answer_count": 1} | options)))
    return task, task.load("train")


@pytest.mark.parametrize(
    ("given", "lists"),
    [
        ([["Red", "red", "blue"], ["red"]], [["Red", "red", "blue"], ["red"]]),
        (["the dog", "dog"], [["the dog"], ["dog"]]),
        ([2, 3], [["2"], ["3"]]),
        # As data sets on the Hub have VQA's.
        ([[{"answer": "no", "answer_id": 1}, {"answer": "yes", "answer_id": 2}]], [["no", "yes"]]),
    ],
)
def test_answers_of_own_files(given, lists, tmp_path):
    task, data = load_own(tmp_path, [{"answers": answers} for answers in given])
    assert list(data["answers"]) == lists
    assert set(task.names) == {majority_answer(answers) for answers in lists}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answers": ["red"]}, {"answers": []}], "row 1: expected at least one answer in column 'answers'"),
        ([{"answers": ["red"]}, {"answers": None}], "row 1: expected at least one answer"),
        ([{"answers": ["red"]}, {"answers": ["", " "]}], "row 1: expected at least one answer"),
        ([{"answers": ["red"]}, {"answers": ["red", None]}], "row 1: expected at least one answer"),
        ([{"answers": "red"}, {"answers": "red", "id": 0}], "row 1: column 'id' has '0', as row 0 does"),
        ([{"answers": "red", "text": "  "}], "row 0: the text in column 'text' is blank"),
        ([{"answers": "red", "image": "b.jpg"}], r"row 0: no image file .*b\.jpg"),
        ([{"answers": {"text": "red"}}], "expected answers, or lists of them"),
        ([{"answers": [{"answer": "red"}]}, {"answers": []}], "row 1: expected at least one answer"),
    ],
)
def test_bad_own_files(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_own(tmp_path, rows)


def test_bad_options(prepared, options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        smoothing = ["--do_eval", "--label_smoothing_factor", "0.1"]
        run_task(VQAv2, "", [*TWO_TOWER, *options, *run_options(prepared), *smoothing])
    assert "label_smoothing_factor: without effect on answers" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match="min_answer_count: no answer is the most frequent one of 9 or more of 2 questions"
    ):
        load_own(tmp_path, [{"answers": "red"}] * 2, min_answer_count=None)
    for wrong, message in (
        ({"min_answer_count": 0}, "min_answer_count: expected at least 1, got 0"),
        ({"answer_splits": ["test"]}, "answer_splits: expected train, validation or both, got test"),
        ({"answer_score": "soft"}, "answer_score: expected one of leave_one_out, count, got 'soft'"),
    ):
        with pytest.raises(ValueError, match=message):
            VQAv2Arguments(dataset="x", **wrong)
    with pytest.raises(ValueError, match="validation_file: no data for validation"):
        load_own(tmp_path, [{"answers": "red"}], answer_splits=["train", "validation"])


def test_vocabulary_of_train_and_validation(prepared):
    task = VQAv2(VQAv2Arguments(dataset=str(prepared), min_answer_count=20, answer_splits=["train", "validation"]))
    answers = [row for split in ("train", "validation") for row in load_dataset(str(prepared), split=split)["answers"]]
    counts = Counter(majority_answer(row) for row in answers)
    assert task.vocabulary() == [name for name, count in counts.most_common() if count >= 20]


def test_training_on_validation_too(prepared):
    """The rows are those of both splits, each once; the vocabulary is counted in both, unless the user says otherwise."""
    stored = {split: load_dataset(str(prepared), split=split) for split in ("train", "validation")}
    both = VQAv2Arguments(dataset=str(prepared), min_answer_count=1, train_splits=["train", "validation"])
    task = VQAv2(both)
    rows = task.load("train")
    assert rows["text"] == [*stored["train"]["text"], *stored["validation"]["text"]] and len(rows) == 51
    assert rows["answers"] == [*stored["train"]["answers"], *stored["validation"]["answers"]]
    assert rows[FILE_ROW] == list(range(51)) and isinstance(rows[45]["image"], dict)
    assert task.sources("train") == [str(prepared)]
    counted = VQAv2Arguments(dataset=str(prepared), min_answer_count=1, answer_splits=["train", "validation"])
    assert task.names == VQAv2(counted).vocabulary()
    of_train = VQAv2(dataclasses.replace(both, answer_splits=["train"]))
    assert of_train.vocabulary() == VQAv2(VQAv2Arguments(dataset=str(prepared), min_answer_count=1)).vocabulary()
    assert len(VQAv2(VQAv2Arguments(dataset=str(prepared))).read("validation")) == 11
    assert VQAv2(dataclasses.replace(both, max_train_samples=45)).load("train").num_rows == 45


def test_bad_rows_of_both_splits_are_skipped(tmp_path):
    """By their numbers over both files, whose rows are counted on."""
    (tmp_path / "a").mkdir()
    files = {"train_file": own_file(tmp_path / "a", [{"answers": "red"}, {"answers": ""}, {"answers": "red"}])}
    files["validation_file"] = own_file(tmp_path, [{"answers": ""}, {"answers": "blue"}])
    chosen = {"min_answer_count": 1, "train_splits": ["train", "validation"]}
    task = VQAv2(VQAv2Arguments(**files, **chosen, on_bad_row="skip", max_bad_fraction=0.5))
    rows = task.load("train")
    assert rows["answers"] == [["red"], ["red"], ["blue"]] and rows[FILE_ROW] == [0, 2, 4]
    assert task.bad_rows.totals[task.source("train")] == 5 and task.bad_rows.count() == 2
    with pytest.raises(ValueError, match="expected at least one answer"):
        VQAv2(VQAv2Arguments(**files, **chosen)).load("train")
    with pytest.raises(ValueError, match="expected at least one answer"):
        task.load("validation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_splits": ["validation"]}, "train_splits: expected train, or train and validation, got validation"),
        (
            {"train_splits": ["train", "train"]},
            "train_splits: expected train, or train and validation, got train, train",
        ),
        ({"train_splits": []}, "train_splits: .* got no split"),
        ({"train_splits": ["train", "test"]}, "train_splits: .* got train, test"),
        ({"train_splits": ["train", "validation"], "held_out": 0.1}, "held_out: .* train_splits"),
    ],
)
def test_splits_that_cannot_be_trained_on(options, message):
    with pytest.raises(ValueError, match=message):
        VQAv2Arguments(dataset="x", **options)


@pytest.mark.slow
def test_evaluation_on_trained_rows_is_warned_of(prepared, options, caplog, tmp_path):
    """In the run that trains on them, and in a later one of its checkpoint; not of other splits, or without training on them."""
    argv = [
        *TWO_TOWER,
        *options,
        *run_options(prepared),
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_steps",
        "1",
    ]
    trained = "trained on its rows"
    run_task(VQAv2, "", argv)
    assert trained not in caplog.text
    other = tmp_path / "both"
    run_task(VQAv2, "", [*argv, "--train_splits", "train", "validation", "--output_dir", str(other)])
    assert (
        "split 'validation': this run trained on its rows" in caplog.text
        and "split 'test': this run" not in caplog.text
    )
    assert RunRecord.read(other).of_split("train").parts == ["train", "validation"]
    caplog.clear()
    later = ["--dataset", str(prepared), "--do_eval", "--output_dir", str(tmp_path / "later"), *options[2:-2]]
    run_task(VQAv2, "", ["--model_name_or_path", str(other), *later])
    assert "split 'validation': ./both trained on its rows" in caplog.text


@pytest.mark.slow
def test_two_processes_report_the_metrics_of_one(prepared, options, launch, tmp_path):
    """11 rows do not fill the batches of two processes: what pads them must not count, and the rows must stay in order."""
    argv = [*TWO_TOWER, *options, *run_options(prepared), "--do_train", "--max_steps", "4"]
    run_task(VQAv2, "", [*argv, "--learning_rate", "1e-2"])
    argv = ["--model_name_or_path", str(tmp_path / "run"), "--dataset", str(prepared), "--do_eval", "--do_predict"]
    argv += options[2:-2]
    one = run_task(VQAv2, "", [*argv, "--output_dir", str(tmp_path / "one")])
    launch(2, ROOT / "run_scripts" / "run_vqav2.py", *argv, "--output_dir", tmp_path / "two")
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    assert two["eval_accuracy"] == one["eval_accuracy"]
    assert two["eval_majority_accuracy"] == one["eval_majority_accuracy"]
    predictions = [(tmp_path / name / "predictions.json").read_text() for name in ("one", "two")]
    assert predictions[0] == predictions[1] and len(json.loads(predictions[0])) == 5


@pytest.mark.real_data
def test_real_questions(real_data, options, tmp_path):
    splits = read_vqav2(real_data / "vqav2")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 90, "validation": 15, "test": 7}
    for split, rows in splits.items():
        write_split(rows, schemas.VQAV2, tmp_path / "prepared", split, len(rows), max_bad_fraction=0)
    # As far as VQA's own answers go, training and evaluation agree on how right one is.
    for row in [*splits["train"], *splits["validation"]]:
        accuracies = {normalize_answer(answer): value for answer, value in answer_accuracies(row["answers"]).items()}
        targets = Counter(map(normalize_answer, row["answers"]))
        assert accuracies == pytest.approx({a: leave_one_out_score(count, 10) for a, count in targets.items()})
    argv = [*TWO_TOWER, *options, *run_options(tmp_path / "prepared"), "--do_train", "--do_eval", "--do_predict"]
    metrics = run_task(VQAv2, "", [*argv, "--max_steps", "2"])
    assert 0 <= metrics["eval_accuracy"] <= 1 and metrics["eval_majority_accuracy"] > 0
    assert len(json.loads((tmp_path / "run" / "predictions.json").read_text())) == 7
    easy = read_easy_vqa(real_data / "easy_vqa")
    assert {split: len(rows) for split, rows in easy.items()} == {"train": 8689, "validation": 967, "test": 2449}
    assert len(answer_vocabulary([row["answers"] for row in easy["train"]], 9)) == 13
