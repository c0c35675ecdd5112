"""What is wrong in the user's own data is named at once, in the user's words, or left out up to a share."""

import json
import logging
import re
from pathlib import Path

import own_files
import pytest
from datasets import Dataset
from own_files import png, write_pictures
from own_tasks import TASKS, fault, rows_of, seen, task_of

from renaissance.tasks.glue import GLUE
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.snli_ve import SNLIVE


pytestmark = pytest.mark.usefixtures("dataset_cache")


def test_all_kinds_of_trouble_come_in_one_line(tmp_path):
    """Each with the user's names, the number of the row, and how many rows have it."""
    write_pictures(tmp_path)
    (tmp_path / "own.csv").write_text(
        "number,photo,title,type\n"
        "1,photos/0.png,good,neutral\n"
        "2,photos/8.png,good,neutral\n"
        "3,photos/1.png, ,neutral\n"
        "\n"
        "4,photos/1.png,good,nonsense\n"
        "4,photos/9.png,good,entailment\n"
        "6,,good,entailment\n"
        "7,photos/2.png,one, two,entailment\n"
        "8,photos/7.png,,\n"
    )
    names = {"image_column": "photo", "text_column": "title", "label_column": "type", "id_column": "number"}
    message = fault(SNLIVE(SNLIVE.arguments(train_file=str(tmp_path / "own.csv"), **names)))
    assert f"{tmp_path / 'own.csv'}, split 'train': 7 of 8 rows cannot be used: " in message
    for part in (
        f"row 1: no image file {tmp_path}/photos/8.png (column 'photo') (3 such rows: 1, 4, 7)",
        "row 2: the text in column 'title' is blank (2 such rows: 2, 7)",
        "row 3: expected one of the labels contradiction, neutral, entailment, or its number, in column 'type', got 'nonsense' (2 such rows: 3, 7)",
        "row 4: column 'number' has '4', as row 3 does",
        "row 5: the path of the image is blank (column 'photo')",
        "row 6: 5 values for 4 names in the first line",
    ):
        assert part in message, part
    assert "column 'text'" not in message and "column 'image'" not in message


def test_missing_columns_are_named_at_once_with_their_options(tmp_path):
    write_pictures(tmp_path)
    file = own_files.as_csv(tmp_path, rows_of("boxes"))
    message = fault(RefCOCO(RefCOCO.arguments(train_file=str(file), text_column="words", label_column="what")))
    assert "no column image, boxes, what, only picture, words, frames, which" in message
    assert "--image_column, --boxes_column, --label_column" in message
    # A column that is not needed, but named, is one too.
    assert "no column who, only" in fault(task_of("retrieval", train_file=file, image_id_column="who"))
    assert "no column who, only" in fault(task_of("pretraining", train_file=file, image_id_column="who"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "'picture', found int64") for name in ("pretraining", "image_and_text", "images", "retrieval")),
        ("pairs", "'left', 'right', found"),
    ],
)
def test_a_column_of_something_else_is_called_as_the_user_calls_it(name, expected, tmp_path):
    rows = [row | {"picture": 3, "left": 4, "right": 4} for row in rows_of(name)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = fault(task_of(name, train_file=tmp_path / "own.jsonl"))
    assert f"images in column {expected}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na\n", "row 0: 1 values for 2 names in the first line"),
        ('text,label\nx,1\n"a,b\n', "line 4: unexpected end of data; is a quotation mark not closed"),
        ('text,label\n"a" b,1\n', "line 2: .*is a quotation mark not closed, or not doubled"),
        ("text,label,text\na,b,c\n", "several columns are called text; expected each name once"),
        ("", "the file is empty"),
        ("text,label\n\n", r"no row after the line with the names of the columns \(text, label\)"),
        ("text,label\na,x\nb,x\n", "expected at least two classes in column 'label', got x"),
        ("text,label\na,-2\nb,x\nc,\n", "row 2: expected one of the labels -2, x.*got None"),
        (
            b"text,label\ngut,1\nsch\xf6n,2\n",
            r"is not UTF-8: line 3 has the byte 0xf6 \(Latin-1\?\); save the file as UTF-8",
        ),
    ],
)
def test_broken_csv_files(content, message, tmp_path):
    file = tmp_path / "own.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(message, found := fault(GLUE(GLUE.arguments(train_file=str(file))))), found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": "b",\n[1]\n', r"row 1: line 2 is not JSON.*row 2: expected a JSON object .* got \[1\]"),
        ('{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n', r"column 'text' has values of several types \(str in row 0, int in row 1\)"),
        ('{"text": "a", "label": "x"}\n{"label": "y"}\n', r"row 1: column 'text' is empty \(null\)"),
        ('{"text": 2, "label": "x"}\n{"text": 3, "label": "y"}\n', "expected text in column 'text', found int64"),
        ("nothing", r"expected JSON objects .*row 0: line 1 is not JSON"),
        ("\n", "the file is empty"),
    ],
)  # fmt: skip
def test_broken_jsonl_files(content, message, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(content)
    assert re.search(message, found := fault(GLUE(GLUE.arguments(train_file=str(file))))), found


def test_a_line_of_separators_is_a_row_without_values(tmp_path):
    """A test file must not get shorter."""
    (tmp_path / "own.csv").write_text("text,label\na,x\n,\n\nb,y\n")
    assert "1 of 3 rows cannot be used: row 1: the text in column 'text' is blank" in fault(
        GLUE(GLUE.arguments(train_file=str(tmp_path / "own.csv")))
    )


def test_two_columns_of_images_have_one_type(tmp_path):
    rows = [{"left": png(0), "right": "photos/1.png", "words": "a", "kind": "True"}] * 2
    Dataset.from_list(rows).to_parquet(str(tmp_path / "own.parquet"))
    message = fault(task_of("pairs", train_file=tmp_path / "own.parquet"))
    assert "expected values of one type in column 'left', 'right', found binary and string" in message


def test_columns_that_are_not_needed_may_be_anything(tmp_path):
    rows = [{"text": "a", "label": "x", "note": 3}, {"text": "b", "label": "y", "note": "none"}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl"))).load("train")["label"]) == [0, 1]


def test_bad_cells_of_lists(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "own.csv").write_text(
        'picture\twords\tframes\twhich\nphotos/0.png\ta\t[[0, 0, 5, 5]]\t0\nphotos/0.png\tb\t0 0 5 5\t0\n'
        'photos/0.png\tc\t[[0, 0, 5, 5]]\t1\nphotos/0.png\td\t[[0, 0, 50, 5]]\t0\nphotos/0.png\te\t[]\t0\n'
    )  # fmt: skip
    message = fault(task_of("boxes", train_file=tmp_path / "own.csv"))
    assert "row 1: expected a JSON list, such as [1, 2], in column 'frames', got '0 0 5 5'" in message
    assert "row 2: expected the number of one of 1 boxes, from 0 on, as label in column 'which', got 1" in message
    assert "row 3: box 0: expected a box inside the image of 24x16" in message
    assert "row 4: expected at least one box in column 'frames', got none" in message


def with_two_bad_rows(folder: Path, name: str) -> Path:
    """20 rows, two of them without their image."""
    write_pictures(folder)
    rows = [row for number in range(4) for row in rows_of(name)][:20]
    for row in rows[3], rows[11]:
        row.update({column: 77 for column in ("picture", "left") if column in row})
    return own_files.as_csv(folder, rows)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "texts"])
def test_bad_rows_may_be_left_out_up_to_a_share(name, tmp_path, caplog):
    file = with_two_bad_rows(tmp_path, name)
    assert "2 of 20 rows cannot be used" in fault(task_of(name, train_file=file))
    assert "(max_bad_fraction is 0.09)" in fault(task_of(name, train_file=file, max_bad_fraction=0.09))
    with caplog.at_level(logging.WARNING):
        data = task_of(name, train_file=file, max_bad_fraction=0.1).load("train")
    assert len(data) == 18 and "left out 2 of 20 rows" in caplog.text and "rows: 3, 11" in caplog.text
    # A prediction file has every row: of test data none is left out.
    assert "2 of 20 rows cannot be used" in fault(
        task_of(name, train_file=file, test_file=file, max_bad_fraction=0.1), "test"
    )


def test_rows_that_are_left_out_take_their_labels_with_them(tmp_path):
    write_pictures(tmp_path)
    rows = rows_of("image_and_text")
    rows[1]["picture"], rows[4]["words"] = 99, " "
    task = task_of("image_and_text", train_file=own_files.as_csv(tmp_path, rows), max_bad_fraction=0.5)
    assert seen("image_and_text", task) == [rows[number] for number in (0, 2, 3, 5)]
    assert list(task.load("train")["id"]) == ["0", "2", "3", "5"]
