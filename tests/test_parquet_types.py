"""Columns of .parquet files of other programs: each type is read as its plain counterpart, or refused by column and type."""

import datetime
import itertools
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_files import png, with_paths, write_pictures
from own_tasks import BOXES, fault, rows_of, seen, task_of


pytestmark = pytest.mark.usefixtures("dataset_cache")

PATHS = ["photos/0.png", "photos/1.png", "photos/2.png"]
TEXTS = ["NA", "007", "c"]


def own_file(folder, **columns) -> str:
    """A file of three rows with pictures, and texts and labels unless the columns have others."""
    write_pictures(folder)
    columns = {"picture": PATHS, "words": TEXTS, "kind": ["x", "y", "x"]} | columns
    pq.write_table(pa.table(columns), folder / "own.parquet")
    return str(folder / "own.parquet")


STRINGS = {
    "string": pa.array(TEXTS),
    "large": pa.array(TEXTS, pa.large_string()),
    "view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "large dictionary": pa.array(TEXTS, pa.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_texts_of_all_types(kind, tmp_path):
    values = STRINGS[kind]
    paths = pa.array(PATHS).cast(values.type) if "dictionary" not in kind else pa.array(PATHS).dictionary_encode()
    file = own_file(tmp_path, words=values, kind=values, no=values, picture=paths)
    task = task_of("image_and_text", train_file=file, id_column="no")
    data = task.load("train")
    assert list(data["text"]) == list(data["id"]) == [task.names[label] for label in data["label"]] == TEXTS
    answers = task_of("vqa", train_file=own_file(tmp_path, answer=values)).load("train")["answers"]
    assert list(answers) == [[text] for text in TEXTS]


LISTS = {
    "list": pa.list_(pa.string()),
    "large list": pa.large_list(pa.large_string()),
    "list view": pa.list_view(pa.string()),
    "large list view": pa.large_list_view(pa.string_view()),
    "list of fixed size": pa.list_(pa.string(), 2),
    "dictionary": None,
}


def lists(kind: str, values: list[list[str]]) -> pa.Array:
    if kind == "dictionary":
        return pa.ListArray.from_arrays([0, 2, 4, 6], pa.array(list(itertools.chain(*values))).dictionary_encode())
    return pa.array(values, LISTS[kind])


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_all_types(kind, tmp_path):
    texts = [["NA", "007"], ["b", "c"], ["c", "d"]]
    file = own_file(tmp_path, words=lists(kind, texts))
    pairs = task_of("pretraining", train_file=file).load("train")
    assert [pairs[number]["text"] for number in range(6)] == ["NA", "b", "c", "007", "c", "d"]
    file = own_file(tmp_path, answer=lists(kind, texts), kind=lists(kind, texts))
    assert list(task_of("vqa", train_file=file).load("train")["answers"]) == texts
    task = task_of("image_and_text", train_file=file, multi_label=True)
    assert [[task.names[label] for label in row] for row in task.load("train")["label"]] == [sorted(t) for t in texts]
    images = lists(kind, [[PATHS[0], PATHS[1]], [PATHS[1], PATHS[2]], [PATHS[2], PATHS[0]]])
    file = own_file(tmp_path, photos=images, kind=["True", "False", "True"])
    data = task_of("pairs", train_file=file, images_column=["photos"]).load("train")
    names = [[image["path"].rpartition("/")[2] for image in row] for row in data["images"]]
    assert names == [["0.png", "1.png"], ["1.png", "2.png"], ["2.png", "0.png"]]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float16())),
        pa.list_(pa.list_(pa.float64(), 4)),
        pa.large_list(pa.large_list(pa.float32())),
        pa.list_view(pa.list_view(pa.float64())),
        pa.list_(pa.list_(pa.decimal128(5, 2))),
    ],
    ids=str,
)
def test_boxes_of_all_types(kind, tmp_path):
    boxes = [BOXES[0], BOXES[1], BOXES[0]]
    decimal = [[[Decimal(str(value)) for value in box] for box in row] for row in boxes]
    values = pa.array(decimal if "decimal" in str(kind) else boxes)
    values = pa.array(values.to_pylist(), kind) if "view" in str(kind) else values.cast(kind)
    data = task_of("boxes", train_file=own_file(tmp_path, frames=values, which=[0, 0, 1])).load("train")
    assert list(data["boxes"]) == boxes


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_of_all_types(kind, tmp_path):
    file = own_file(tmp_path, picture=pa.array([png(0), png(1), png(2)], kind))
    data = task_of("image_and_text", train_file=file).load("train")
    assert [image["bytes"] for image in data["image"]] == [png(0), png(1), png(2)]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([Decimal("2"), Decimal("10"), Decimal("2")], pa.decimal128(5, 0)), ["2", "10"]),
        (pa.array([Decimal("2.00"), Decimal("10"), Decimal("2")], pa.decimal256(50, 2)), ["2", "10"]),
        (pa.array([2, 10, 2], pa.uint64()), ["2", "10"]),
        (pa.array([2, 10, 2], pa.int8()).dictionary_encode(), ["2", "10"]),
        (pa.array([2.0, 10.0, 2.0]).cast(pa.float16()), ["2", "10"]),
        (pa.array([datetime.date(2020, 1, 2), datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]), None),
        (pa.array([datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)] * 2, pa.date64())[:3], None),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_labels_and_answers_of_all_types(values, names, tmp_path):
    file = own_file(tmp_path, kind=values, answer=values)
    task = task_of("image_and_text", train_file=file)
    task.load("train")
    assert task.names == (names or ["2020-01-01", "2020-01-02"])
    answers = task_of("vqa", train_file=file).load("train")["answers"]
    assert list(answers) == [["2"], ["10"], ["2"]] if names else [["2020-01-02"], ["2020-01-01"], ["2020-01-02"]]


UNREAD = {
    "binary": pa.array([b"x", b"y", b"z"]),
    "fixed_size_binary[2]": pa.array([b"xx", b"yy", b"zz"], pa.binary(2)),
    "timestamp[us]": pa.array([datetime.datetime(2020, 1, day) for day in (1, 2, 3)]),
    "time64[us]": pa.array([datetime.time(hour) for hour in (1, 2, 3)]),
    "duration[us]": pa.array([datetime.timedelta(days) for days in (1, 2, 3)]),
    "map<string, int64": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_other_types_are_refused_by_column_and_type(kind, tmp_path):
    values = UNREAD[kind]
    file = own_file(tmp_path, odd=values)
    uses = {"text_column": "image_and_text", "label_column": "image_and_text", "id_column": "image_and_text"}
    for option, name in (uses | {"answers_column": "vqa", "captions_column": "pretraining"}).items():
        message = fault(
            task_of(name, train_file=file, **{option: "odd"} | ({"text_column": "words"} if name == "vqa" else {}))
        )
        assert "column 'odd'" in message and kind in message and "\n" not in message
    # One that is not used does no harm.
    assert list(task_of("image_and_text", train_file=file).load("train")["text"]) == TEXTS
    message = fault(
        task_of(
            "image_and_text",
            train_file=own_file(tmp_path, kind=pa.array([[v.as_py()] for v in values], pa.list_(values.type))),
            multi_label=True,
        )
    )
    assert "column 'kind'" in message and kind.partition("<")[0] in message


def test_metadata_files_of_parquet_have_the_same_types(tmp_path):
    write_pictures(tmp_path)
    columns = {"file_name": ["0.png", "1.png"], "words": pa.array([["NA"], ["007"]], pa.list_view(pa.string()))}
    columns["odd"] = pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table(columns), tmp_path / "photos" / "metadata.parquet")
    options = {"train_file": tmp_path / "photos", "image_column": "image"}
    pairs = task_of("pretraining", **options).load("train")
    assert [pairs[number]["text"] for number in range(2)] == ["NA", "007"]
    message = fault(task_of("pretraining", **options, captions_column="odd"))
    assert "column 'odd' has the type map<string, int64" in message


def others_table(name: str, kind: str) -> pa.Table:
    """The rows of a task, in types that polars and pyarrow write."""
    text = {"large": pa.large_string(), "views": pa.string_view(), "fixed": pa.large_string()}.get(kind, pa.string())
    listed = {"large": pa.large_list, "fixed": lambda inner: pa.list_(inner, 2)}.get(kind, pa.list_)
    rows = [{key: png(value) if key == "picture" else value for key, value in row.items()} for row in rows_of(name)]
    if kind == "fixed":
        boxes = [[0, 0, 10, 10], [5, 5, 10, 8]]
        fixed = {"answer": ["red", "red"], "frames": boxes}
        rows = [{key: fixed.get(key, value) for key, value in row.items()} for row in rows]
    if kind == "fixed" and name == "retrieval":
        rows = [row | {"words": [f"a {n}", f"b {n}"]} for n, row in enumerate(rows)]
    types = {"picture": pa.large_binary() if kind == "large" else pa.binary(), "words": text, "kind": text}
    types |= {"answer": listed(text), "which": pa.uint8(), "frames": listed(pa.list_(pa.float32(), 4))}
    if name == "retrieval" and kind == "fixed":
        types["words"] = listed(text)
    table = pa.table({key: pa.array([row[key] for row in rows], types[key]) for key in rows[0]})
    if kind == "dictionary":
        for place, key in enumerate(table.column_names):
            if table[key].type == pa.string():
                table = table.set_column(place, key, table[key].dictionary_encode())
    return table


@pytest.mark.parametrize("name", ["texts", "images", "image_and_text", "retrieval", "vqa", "boxes"])
@pytest.mark.parametrize("kind", ["large", "views", "fixed", "dictionary"])
def test_parquet_of_other_programs(name, kind, tmp_path):
    table = others_table(name, kind)
    pq.write_table(table, tmp_path / "own.parquet")
    plain = [{key: value for key, value in row.items() if key != "picture"} for row in table.to_pylist()]
    found = seen(name, task_of(name, train_file=tmp_path / "own.parquet"))
    found = [{key: value for key, value in row.items() if key != "picture"} for row in found]
    # In retrieval the first captions of all images come first.
    if name == "retrieval" and kind == "fixed":
        plain = [{"words": row["words"][place]} for place in range(2) for row in plain]
    assert found == plain


def test_boxes_of_bytes_and_two_columns_of_other_types(tmp_path):
    rows = rows_of("boxes")
    frames = pa.array([[[1, 1, 5, 5], [2, 2, 200, 5]]] * 2, pa.list_(pa.list_(pa.uint8())))
    images = pa.array([png(0)] * 2)
    table = pa.table(
        {"picture": images, "words": ["a", "b"], "frames": frames, "which": pa.array([0, 1], pa.uint16())}
    )
    pq.write_table(table, tmp_path / "own.parquet")
    assert "box 1: expected a box inside the image of 24x16" in fault(
        task_of("boxes", train_file=tmp_path / "own.parquet")
    )
    write_pictures(tmp_path)
    rows = with_paths(rows_of("pairs"))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    columns |= {"left": pa.array(columns["left"], pa.large_string()), "right": pa.array(columns["right"])}
    pq.write_table(pa.table(columns), tmp_path / "own.parquet")
    assert seen("pairs", task_of("pairs", train_file=tmp_path / "own.parquet")) == rows_of("pairs")
