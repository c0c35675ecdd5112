"""Labels of the user's own files: lists of classes, their forms, and what is no label."""

import own_files
import pytest
from own_files import write_pictures
from own_tasks import fault, lists_task, rows_of, task_of


pytestmark = pytest.mark.usefixtures("dataset_cache")


@pytest.mark.parametrize("cells", [["['a', 'b']", "['b']"], ['["a"]', '["b"]'], ["('a',)", "('b',)"]])
@pytest.mark.parametrize("name", ["texts", "images", "image_and_text", "pairs"])
def test_lists_are_no_single_labels(name, cells, tmp_path):
    write_pictures(tmp_path)
    rows = [row | {"kind": cell} for row, cell in zip(rows_of(name), cells, strict=False)]
    message = fault(task_of(name, train_file=own_files.as_csv(tmp_path, rows)))
    assert "expected one label a row in column 'kind', found lists" in message


def test_lists_are_not_cut_at_a_separator(tmp_path):
    for cells in (["['a', 'b']", "['b', 'c']"], ['["a", "b"]', '["b"]']):
        message = fault(lists_task(tmp_path, cells, "own.csv", label_separator=","))
        assert "2 of 2 rows cannot be used: row 0: expected labels with ',' between them in column 'kind'" in message
    found = fault(lists_task(tmp_path, ["['a', 'b']", "['b']"], "own.csv"))
    assert "row 0: expected a list of labels" in found and "2 of 2 rows" in found


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl"])
def test_rows_with_none_of_the_classes_are_counted(name, tmp_path, caplog):
    """A blank cell with a separator, and an empty list, are none; a missing list is a fault."""
    cells = ["a;b", "", " ", "b"] if name == "own.csv" else [["a", "b"], [], [], ["b"]]
    options = {"label_separator": ";"} if name == "own.csv" else {}
    with caplog.at_level("WARNING"):
        assert list(lists_task(tmp_path, cells, name, **options).load("train")["label"]) == [[0, 1], [], [], [1]]
    blank = "a blank cell" if name == "own.csv" else "an empty list"
    assert f"split 'train': 2 of 4 rows have none of the classes ({blank} in column 'kind')" in caplog.text
    caplog.clear()
    lists_task(tmp_path, cells[:1] + cells[-1:], name, **options).load("train")
    assert "none of the classes" not in caplog.text
    if name == "own.jsonl":
        assert "row 1: expected a list of labels" in fault(lists_task(tmp_path, [["a"], None, ["b"]], name))
    # Without a separator, a blank cell is no JSON list.
    else:
        assert "2 of 4 rows" in fault(lists_task(tmp_path, ['["a"]', "", " ", '["b"]'], name))


@pytest.mark.parametrize("form", [own_files.as_csv, own_files.as_jsonl, own_files.parquet_of_paths])
@pytest.mark.parametrize("name", ["texts", "images", "image_and_text", "pairs", "boxes", "vqa"])
def test_a_blank_label_of_training_is_a_fault(form, name, tmp_path):
    write_pictures(tmp_path)
    column = {"boxes": "which", "vqa": "answer"}.get(name, "kind")
    rows = [row | ({column: None} if number in (1, 4) else {}) for number, row in enumerate(rows_of(name))]
    file = form(tmp_path, rows)
    assert "2 of 6 rows cannot be used: row 1: " in fault(task_of(name, train_file=file))
    assert len(task_of(name, train_file=file, max_bad_fraction=0.4).load("train")) == 4


@pytest.mark.parametrize(
    "lists", [[[0, 1], [1, 0]], [[1, 0], [0, 1], [0, 0]], [[True, False], [False, True]], [["1", "0"], ["0", "1"]]]
)
def test_one_hot_lists_are_no_lists_of_classes(lists, tmp_path):
    assert "got 0 or 1 for each class (one-hot)" in fault(lists_task(tmp_path, lists))
    named = lists_task(tmp_path, lists, "named.jsonl")
    named.names = ["meme", "photo"]
    assert "(one-hot)" in fault(named)


def test_repeated_labels_are_a_fault(tmp_path):
    message = fault(lists_task(tmp_path, [[0, 0, 1], [0, 1, 0], [1, 2], [2]]))
    assert "2 of 4 rows cannot be used: row 0: 0 is twice in the list in column 'kind', [0, 0, 1]; " in message
    assert "(one-hot) is not read (2 such rows: 0, 1)" in message
    assert "row 1: 'a' is twice" in fault(lists_task(tmp_path, [["a", "b"], ["a", "b", "a "]]))
    task = lists_task(tmp_path, ["a;b", "b;a;b"], "own.csv", label_separator=";")
    assert "row 1: 'b' is twice in the list in column 'kind'" in fault(task)
    # Two classes of one row are no indicators.
    assert list(lists_task(tmp_path, [[0, 1], [1], []]).load("train")["label"]) == [[0, 1], [1], []]
