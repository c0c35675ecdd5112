"""Values and labels in the user's own tables: none is read as something else, and each fault names its row."""

import csv
import io
import json
import logging
import os
import re

import numpy as np
import own_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TWO_TOWER
from datasets import Dataset
from own_files import with_paths, write_pictures, write_separated
from own_tasks import TASKS, fault, lists_task, rows_of, task_of
from PIL import Image as Picture

from renaissance.processing import pixel_arrays
from renaissance.processing.decoding import decode
from renaissance.tasks.data.identity import held_out_rows
from renaissance.tasks.glue import GLUE
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.usefixtures("dataset_cache")


def texts_task(folder, train: list, validation: list | None = None, form: str = "csv", test: list | None = None):
    """Classification of texts whose labels are given."""
    files = {}
    for split, labels in (("train", train), ("validation", validation), ("test", test)):
        if labels is None:
            continue
        rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]
        path = folder / f"{split}.{form}"
        if form == "csv":
            write_separated(path, rows)
        else:
            path.write_text("\n".join(map(json.dumps, rows)))
        files[f"{split}_file"] = str(path)
    return GLUE(GLUE.arguments(**files))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (["1", "2", "3", "many"], "0"),
        (["1.0", "2.0", "3.5"], "1"),
        (["1+", "2+", "3+"], "2"),
        (["-1", "low", "high"], "0"),
        (["+1", "none"], "0"),
        ([".5", "none"], "1"),
        (["1st", "2nd", "last"], "1"),
        (["18-25", "26-40", "over 40"], "2"),
    ],
)
def test_a_number_is_no_class_beside_names_that_look_like_numbers(train, validation, form, tmp_path):
    task = texts_task(tmp_path, train, [validation], form)
    task.load("train")
    message = fault(task, "validation")
    assert re.search(rf"row 0: expected one of the labels .*, got '?{validation}'?$", message), message
    assert "or its number" not in message
    # With several labels as well.
    lists = lists_task(tmp_path, [[label] for label in train])
    lists.load("train")
    other = lists_task(tmp_path, [[validation]], "other.jsonl")
    other.names = lists.names
    assert "or its number" not in fault(other) and "expected one of the labels" in fault(other)


def test_numbers_are_classes_beside_other_names(tmp_path):
    task = texts_task(tmp_path, ["cat", "dog", "many"], ["2", "0", "dog"])
    task.load("train")
    assert list(task.load("validation")["label"]) == [2, 0, 1]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_spaces_around_labels_and_ids_are_none_of_them(form, tmp_path):
    task = texts_task(tmp_path, ["x ", "x", " y", "y"], form=form)
    assert list(task.load("train")["label"]) == [0, 0, 1, 1] and task.names == ["x", "y"]
    lists = lists_task(tmp_path, [["x "], ["x", " y"]])
    assert list(lists.load("train")["label"]) == [[0], [0, 1]] and lists.names == ["x", "y"]


@pytest.mark.parametrize("name", ["one.csv", "one.tsv"])
def test_an_empty_text_in_a_file_of_one_column_is_a_row(name, tmp_path):
    (tmp_path / name).write_text('satz\n"Hello, there"\n\n""\n   \n"Bye"\n')
    task = GLUE(GLUE.arguments(test_file=str(tmp_path / name), text_column="satz"), ["a", "b"])
    assert "1 of 3 rows cannot be used: row 1: the text in column 'satz' is blank" in fault(task, "test")
    (tmp_path / name).write_text('satz\n"Hello\n\nthere"\n\n   \n"Bye"\n\n')
    assert list(task.load("test")["text"]) == ["Hello\n\nthere", "Bye"]


def test_a_tsv_file_of_one_column_may_have_commas(tmp_path):
    (tmp_path / "one.tsv").write_text("satz\nHello, there; you | all\nBye\n")
    task = GLUE(GLUE.arguments(test_file=str(tmp_path / "one.tsv"), text_column="satz"), ["a", "b"])
    assert list(task.load("test")["text"]) == ["Hello, there; you | all", "Bye"]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
def test_the_first_line_may_name_the_separator(first, tmp_path):
    (tmp_path / "own.csv").write_text(f"{first}\r\ntext;label\r\na, b, c;x\r\nd;y\r\n")
    assert list(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.csv"))).load("train")["text"]) == ["a, b, c", "d"]
    (tmp_path / "own.csv").write_text(f"{first}\n")
    assert "own.csv: " in fault(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.csv"))))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_numbers_as_answers_are_as_they_are_written(form, tmp_path):
    write_pictures(tmp_path)
    rows = [{"picture": n, "words": "how many?", "answer": answer} for n, answer in enumerate(([2], [3.5, 4], [12]))]
    if form == "jsonl":
        rows = [row | {"answer": row["answer"][0] if len(row["answer"]) == 1 else row["answer"]} for row in rows]
    writers = {"jsonl": own_files.as_jsonl, "csv": own_files.as_csv, "parquet": own_files.parquet_of_paths}
    if form == "parquet":
        rows = [row | {"answer": list(map(float, row["answer"]))} for row in rows]
    answers = task_of("vqa", train_file=writers[form](tmp_path, rows)).load("train")["answers"]
    assert list(answers) == [["2"], ["3.5", "4"], ["12"]]


@pytest.mark.parametrize("column", ["answer", "words"])
@pytest.mark.parametrize(
    "cell",
    [
        "['yes', 'no']", "['yes']", "['yes' 'no']", "['yes'\n 'no']", "array(['yes', 'no'], dtype=object)", "('yes', 'no')",
        "{'yes', 'no'}", "[nan, 'no']", "[None]", "[1. 2.]", '["yes", null]', '[{"answer": "yes"}]', '{"answer": null}',
        '["yes", "no', "[u'yes', 2]",
    ],
)  # fmt: skip
def test_lists_that_are_not_json_are_no_text(cell, column, tmp_path):
    write_pictures(tmp_path)
    rows = [{"picture": n, "words": "what?", "answer": "yes"} for n in range(3)]
    rows[1][column] = cell
    name = {"answer": "vqa", "words": "retrieval"}[column]
    message = fault(task_of(name, train_file=own_files.as_csv(tmp_path, rows)))
    assert "1 of 3 rows cannot be used: row 1: expected a text, or a list of texts in JSON" in message
    assert f"in column '{column}', got {cell!r:.60}" in message


@pytest.mark.parametrize(
    "cell", ["[sic]", "[a cat]", "(2)", "(a cat, a dog)", "{x}", '[sign reading "STOP"]', "a ['b']"]
)
def test_texts_in_brackets_are_texts(cell, tmp_path):
    write_pictures(tmp_path)
    rows = [{"picture": n, "words": "what?", "answer": cell} for n in range(2)]
    answers = task_of("vqa", train_file=own_files.as_csv(tmp_path, rows)).load("train")["answers"]
    assert list(answers) == [[cell]] * 2


STRANGE = {
    "a large number": ("1" * 30, "a value in row 1 that cannot be stored with the others: 1111"),
    "a negative one": ("-" + "9" * 30, "a value in row 1 that cannot be stored"),
    "records": ('{"a": 1}', "values of several types"),
}


@pytest.mark.parametrize("name", ["texts", "image_and_text", "vqa", "pairs", "boxes"])
def test_lists_of_texts_are_not_one_text(name, tmp_path):
    """As a column of captions is, if it is named as that of a task with one text a row."""
    write_pictures(tmp_path)
    file = own_files.as_jsonl(tmp_path, [row | {"words": ["a dog", "a cat"]} for row in rows_of(name)])
    assert fault(task_of(name, train_file=file)).endswith("expected text in column 'words', found lists of string")


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("column", ["text", "label", "id"])
def test_values_that_no_column_can_have(name, column, tmp_path):
    value, message = STRANGE[name]
    first = {"text": '"a"', "label": "5", "id": "7"} | ({column: "6"} if "number" in name or column == "text" else {})
    lines = [first, first | {"text": '"b"', "label": "4", "id": "8"} | {column: value}]
    lines = [f"{{{', '.join(f'{json.dumps(key)}: {part}' for key, part in line.items())}}}" for line in lines]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    found = fault(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl"), id_column="id")))
    assert f"column {column!r} has {message}" in found
    # In a column that the task does not need, it is no fault.
    lines = [line[:-1] + f', "note": {note}}}' for line, note in zip(lines[:1] * 2, ("6", value), strict=True)]
    lines[1] = lines[1].replace('"label": 5', '"label": 4').replace('"label": 6', '"label": 4')
    lines = [re.sub(r'"text": \d', '"text": "c"', line) for line in lines]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    own = GLUE.arguments(train_file=str(tmp_path / "own.jsonl"))
    own.usual_columns = lambda: {name: name for name in ("text", "label")}
    assert len(GLUE(own).load("train")) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b\\ud800", "label": "y"}', r"row 1: line 2 is not JSON \(it has \\ud800 alone"),
        ('{"text": "b", "la\\udfffbel": "y"}', r"row 1: line 2 is not JSON \(it has \\udfff alone"),
        ('{"text": "b", "label": ' + "[" * 100_000 + "]" * 100_000 + "}", r"row 1: line 2 is not JSON \(it has too many brackets"),
        ('{"text": "b", "label": ' + "1" * 5000 + "}", r"row 1: line 2 is not JSON \(Exceeds the limit"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_stored(line, message, tmp_path):
    good = '{"text": "a", "label": "x"}'
    (tmp_path / "own.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    found = fault(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl"))))
    assert re.search(message, found) and "of 3 rows" in found, found[:300]
    (tmp_path / "own.json").write_text(f"[{good}, {line}]")
    assert "own.json" in fault(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.json"))))
    # The two halves of a character are one.
    lines = ['{"text": "\\ud83d\\ude00", "label": "x"}', '{"text": "b", "label": "y"}']
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    assert GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl"))).load("train")["text"][0] == "\U0001f600"


@pytest.mark.parametrize("kind", [{"a": "x"}, {"a": ["x"]}])
@pytest.mark.parametrize("name", ["texts", "images", "image_and_text", "pairs", "boxes"])
def test_labels_that_are_objects(name, kind, tmp_path):
    write_pictures(tmp_path)
    column = "which" if name == "boxes" else "kind"
    rows = [row | {column: kind} for row in rows_of(name)]
    message = fault(task_of(name, train_file=own_files.as_jsonl(tmp_path, rows)))
    assert f"in column '{column}'" in message
    rows = [row | {"key": kind} for row in rows_of(name)]
    message = fault(task_of(name, train_file=own_files.as_jsonl(tmp_path, rows), id_column="key"))
    assert "expected texts or numbers in column 'key', found" in message


@pytest.mark.parametrize("form", ["as_csv", "as_jsonl"])
@pytest.mark.parametrize(
    "frames",
    [[[0, 0, 10, 10**20]], [0, 0, 5, 5], [["0", 0, 5, 5]], [[[0, 0, 5, 5]]], [[0, 0, 5, 5], [0, 0, 5, "5"]]],
)
def test_boxes_of_another_kind_are_named_by_row(frames, form, tmp_path):
    write_pictures(tmp_path)
    rows = rows_of("boxes")
    rows[3]["frames"] = frames
    message = fault(task_of("boxes", train_file=getattr(own_files, form)(tmp_path, rows)))
    assert "frames'" in message and "row 3" in message, message


def test_lists_of_several_types_are_named_by_row(tmp_path):
    write_pictures(tmp_path)
    answers = ["one", ["two", 2], [3]]
    rows = [{"picture": n, "words": "how many?", "answer": answer} for n, answer in enumerate(answers)]
    message = fault(task_of("vqa", train_file=own_files.as_jsonl(tmp_path, rows)))
    expected = "(list of str in row 0, list of str and number in row 1, list of number in row 2)"
    assert f"column 'answer' has values of several types {expected}; expected one" in message


def test_a_row_without_a_label_comes_first(tmp_path):
    message = fault(texts_task(tmp_path, ["x", ""]))
    start = (
        "no label in column 'label' in 1 of 2 rows; expected at least two classes in column 'label', got x; row 1: "
    )
    assert start in message
    assert "no label" not in fault(texts_task(tmp_path, ["x", "x"]))


def test_a_blank_path_names_its_column(tmp_path):
    write_pictures(tmp_path)
    rows = with_paths(rows_of("pairs"))
    rows[1]["right"], rows[2]["left"] = "", "photos/none.png"
    message = fault(task_of("pairs", train_file=write_separated(tmp_path / "own.csv", rows)))
    assert "row 1: the path of the image is blank (column 'right')" in message
    assert "none.png (column 'left')" in message
    rows[1]["right"] = None
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "row 1: column 'right' is empty (null)" in fault(task_of("pairs", train_file=tmp_path / "own.jsonl"))


@pytest.mark.parametrize("columns", [["l", "l"], ["a", "b", "c"]])
def test_two_images_come_from_two_columns(columns):
    with pytest.raises(ValueError, match=r"images_column: expected one column .* or two different columns"):
        NLVR2.arguments(train_file="own.csv", images_column=columns)


# Parquet files of other programs


def test_ids_are_whole_numbers(tmp_path):
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"], "idx": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "own.parquet")
    task = GLUE(GLUE.arguments(train_file=str(tmp_path / "own.parquet"), id_column="idx"))
    assert list(task.load("train")["id"]) == ["1", "2"]
    pq.write_table(table.set_column(2, "idx", pa.array([1.0, float("nan")])), tmp_path / "gap.parquet")
    task = GLUE(GLUE.arguments(train_file=str(tmp_path / "gap.parquet"), id_column="idx"))
    assert "row 1: column 'idx' is empty" in fault(task)
    write_pictures(tmp_path)
    rows = [{"picture": n // 2, "words": f"{n}", "key": float(n // 2)} for n in range(4)]
    data = task_of("retrieval", train_file=own_files.as_jsonl(tmp_path, rows), image_id_column="key").load("train")
    assert data.image_ids == ["0", "1"]


# One image under several paths


@pytest.mark.parametrize("other", ["photos/../photos/0.png", "./photos/0.png", "link.png", "linked/0.png"])
def test_paths_of_one_file_are_one_image(other, tmp_path):
    write_pictures(tmp_path)
    os.symlink(tmp_path / "photos" / "0.png", tmp_path / "link.png")
    os.symlink(tmp_path / "photos", tmp_path / "linked")
    paths = ["photos/0.png", "photos/1.png", other]
    file = write_separated(tmp_path / "own.csv", [{"picture": p, "words": f"c{n}"} for n, p in enumerate(paths)])
    data = task_of("retrieval", train_file=file).load("train")
    assert data.image_of.tolist() == [0, 1, 0]
    stored = [{"bytes": None, "path": str(tmp_path / path)} for path in paths]
    sides = held_out_rows(Dataset.from_dict({"image": stored}), ["image"], 1)
    assert sorted(map(len, sides)) == [1, 2]
    # With ids of images, other paths of the same file are no fault.
    rows = [{"picture": p, "words": f"c{n}", "key": n % 2} for n, p in enumerate(paths)]
    file = write_separated(tmp_path / "ids.csv", rows)
    assert task_of("retrieval", train_file=file, image_id_column="key").load("train").image_of.tolist() == [0, 1, 0]


# Test files without some labels


def unlabelled(folder, name: str, **row) -> list[str]:
    """Options of a run that trains on rows of a task and predicts the same rows, one of them without its label."""
    write_pictures(folder)
    # Of one colour, all boxes would be the same.
    for number, path in enumerate(sorted((folder / "photos").iterdir())):
        noise = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Picture.fromarray(noise).save(path)
    rows = rows_of(name) if name != "texts" else [{"words": f"text {n}", "kind": "ab"[n % 2]} for n in range(6)]
    rows = [own | {key: value[n % len(value)] for key, value in row.items()} for n, own in enumerate(rows)]
    target = next(key for key in ("which", "answer", "kind") if key in rows[0])
    train = own_files.as_csv(folder, rows).rename(folder / "train.csv")
    rows[2] = rows[2] | {target: ""}
    argv = ["--train_file", str(train), "--test_file", str(own_files.as_csv(folder, rows))]
    for column, own in TASKS[name][1].items():
        argv += [f"--{column}_column", *([own] if isinstance(own, str) else own)]
    return argv


CASES = {
    "texts": ("texts", {}, []),
    "scores": ("texts", {"kind": [0.5, 2, 4]}, ["--task_name", "stsb"]),
    "images": ("images", {}, []),
    "several": ("image_and_text", {"kind": [["a"], ["a", "b"], []]}, ["--multi_label"]),
    "entailments": ("entailments", {}, []),
    "pairs": ("pairs", {}, []),
    "boxes": ("boxes", {}, []),
    "vqa": ("vqa", {}, ["--min_answer_count", "1"]),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_test_file_may_lack_labels(case, options, tmp_path, caplog):
    """All rows are predicted, and the metrics are over the others: those of a file without that row."""
    name, row, more = CASES[case]
    argv = [*TWO_TOWER, *options, *unlabelled(tmp_path, name, **row), *more, "--do_train", "--do_predict"]
    if case == "scores":
        argv += ["--text_pair_column", "words"]
    # In one batch: the loss of a split is the mean of those of its batches.
    argv += ["--max_steps", "1", "--learning_rate", "1e-30", "--per_device_eval_batch_size", "8"]
    with caplog.at_level(logging.WARNING):
        metrics = run_task(TASKS[name][0], "", argv)
    assert "1 of 6 rows have no label; metrics are over the others" in caplog.text
    predicted = [path for path in (tmp_path / "run").iterdir() if path.name.startswith(("predictions", "STS-B"))]
    content = predicted[0].read_text()
    written = len(json.loads(content)) if predicted[0].suffix == ".json" else len(content.splitlines())
    assert written == 6 + (case == "scores")
    with (tmp_path / "own.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write_separated(tmp_path / "own.csv", [own for n, own in enumerate(rows) if n != 2])
    others = run_task(TASKS[name][0], "", [*argv, "--output_dir", str(tmp_path / "others")])
    names = [key for key in metrics if key.startswith("test_") and not re.search("runtime|second", key)]
    assert {key: metrics[key] for key in names} == pytest.approx({key: others[key] for key in names}, abs=1e-3)
    assert any(metrics[key] == 5 for key in names), metrics


@pytest.mark.parametrize("name", ["texts", "images", "image_and_text", "entailments", "pairs", "boxes"])
def test_a_label_that_is_unknown_stays_a_fault_in_a_test_file(name, tmp_path):
    write_pictures(tmp_path)
    rows = rows_of(name)
    column = "which" if name == "boxes" else "kind"
    rows[2][column], rows[3][column] = "", "nonsense"
    train = own_files.as_csv(tmp_path, rows_of(name)).rename(tmp_path / "train.csv")
    task = task_of(name, train_file=train, test_file=own_files.as_csv(tmp_path, rows))
    task.load("train")
    message = fault(task, "test")
    assert "1 of 6 rows cannot be used: row 3: " in message and "nonsense" in message
    # In training and evaluation data, a label that is missing is a fault.
    assert "row 2" in fault(task_of(name, train_file=tmp_path / "own.csv"))


# Limits


COLA = "a\t1\t\tone text\n" * 9 + "a\t7\t\tone text\n"


def test_the_share_of_bad_lines_holds_for_public_files(tmp_path):
    (tmp_path / "train.tsv").write_text(COLA)
    options = {"task_name": "cola", "dataset": str(tmp_path)}
    assert len(GLUE(GLUE.arguments(**options, max_bad_fraction=0.1)).load("train")) == 9
    message = fault(GLUE(GLUE.arguments(**options)))
    assert "more than 1.00% of 10 rows cannot be used" in message and "renaissance prepare" not in message
    assert "more than 5.00% of 10 rows" in fault(GLUE(GLUE.arguments(**options, max_bad_fraction=0.05)))
    (tmp_path / "train.tsv").write_text("a\t1\t\tone text\n" * 199 + "a\t7\t\tone text\n")
    assert len(GLUE(GLUE.arguments(**options)).load("train")) == 199
    assert "more than 0.00%" in fault(GLUE(GLUE.arguments(**options, max_bad_fraction=0.0)))


# Pixels


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_dark_images_of_16_bits_are_told_of_once(dtype, caplog):
    pixel_arrays.warn_of_dark_pixels.cache_clear()
    with caplog.at_level(logging.WARNING):
        for highest in (0, 4096, 65535):
            pixel_arrays.image_of(np.full((4, 4), highest, dtype=dtype))
        assert not caplog.records
        # Values of 12 bits.
        for _ in range(2):
            assert pixel_arrays.image_of(np.full((4, 4), 4095, dtype=dtype)).getextrema() == (15, 15)
    assert len(caplog.records) == 1 and "no value of 4096 or more: it becomes almost black" in caplog.text


@pytest.mark.parametrize("highest", [255.4, 256, 300, 509])
def test_a_tiff_that_overshoots_its_levels_is_refused(highest):
    file = io.BytesIO()
    Picture.fromarray(np.linspace(0, highest, 64, dtype=np.float32).reshape(8, 8)).save(file, "TIFF")
    with pytest.raises(ValueError, match=f"its largest value is {highest}: expected up to 255"):
        decode({"bytes": file.getvalue(), "path": None})
