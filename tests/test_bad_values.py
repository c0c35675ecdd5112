"""Values of rows that are well formed and cannot be used: they are found before training or, if nobody looked, named by it."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_runs import weights_of
from conftest import TWO_TOWER
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from renaissance.processing.regions import crop_boxes
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.vqav2 import VQAv2


pytestmark = pytest.mark.usefixtures("dataset_cache")

TASKS = {
    "refcoco": RefCOCO,
    "snli_ve": SNLIVE,
    "nlvr2": NLVR2,
    "cifar10": CIFAR10,
    "image_text": ImageTextClassification,
    "glue": GLUE,
    "vqav2": VQAv2,
    "captions": Pretraining,
    "retrieval": Retrieval,
}

#: Boxes that are none in a picture of 32 x 32 pixels, and what is said about them.
OUTSIDE = {
    "beyond the right": [30.0, 3.0, 50.0, 5.0],
    "beyond the left": [-5.0, 0.0, 9.0, 9.0],
    "above": [2.0, -3.0, 5.0, 5.0],
    "elsewhere": [100.0, 100.0, 5.0, 5.0],
    "without end": [0.0, 0.0, 1e30, 5.0],
}
NO_BOXES = {
    "not a number": [float("nan"), 0.0, 5.0, 5.0],
    "infinite": [0.0, 0.0, float("inf"), 5.0],
    "without area": [1.0, 1.0, 0.0, 5.0],
    "of negative width": [10.0, 10.0, -3.0, 5.0],
}


def rows_of(name: str, count: int = 16) -> list[dict]:
    return list(DATA_SETS[name].rows("train", count, 0, 32))


def prepared(folder: Path, name: str, rows: list[dict], split: str = "train") -> Path:
    """A folder that looks like a prepared one, or the copy of a data set on the Hub."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    Dataset.from_list(rows, features=DATA_SETS[name].features).to_parquet(str(file))
    return folder


def command(name: str, folder: Path, options: list[str], *extra: str) -> list[str]:
    data = "--train_datasets" if TASKS[name] is Pretraining else "--dataset"
    return [*TWO_TOWER, *options, data, str(folder), "--do_train", "--max_steps", "4", "--save_strategy", "no", *extra]


def with_box(box: list[float], row: int = 3) -> list[dict]:
    rows = rows_of("refcoco")
    rows[row]["boxes"][0] = box
    return rows


@pytest.mark.parametrize("kind", [*OUTSIDE, *NO_BOXES])
def test_a_bad_box_is_named_before_training_and_before_evaluation(kind, tmp_path):
    box = (OUTSIDE | NO_BOXES)[kind]
    folder = prepared(tmp_path / "own", "refcoco", with_box(box))
    prepared(folder, "refcoco", with_box(box, row=5), "validation")
    expected = "a box inside the image of 32x32" if kind in OUTSIDE else "left, top, and a width and a height above 0"
    for split, row in {"train": 3, "validation": 5}.items():
        task = RefCOCO(RefCOCO.argument_class()(dataset=str(folder)))
        message = rf"own, split '{split}': 1 of 16 rows cannot be used: row {row}: box 0: expected {expected}"
        with pytest.raises(ValueError, match=message):
            task.load(split)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_box_that_nobody_looked_for_ends_training_in_one_line(workers, options, tmp_path, refused):
    folder = prepared(tmp_path / "own", "refcoco", with_box(OUTSIDE["beyond the right"]))
    argv = command("refcoco", folder, options, "--check_images", "false", "--dataloader_num_workers", workers)
    line = refused(run_task, RefCOCO, "", argv)
    fault = "row 3: box 0: expected a box inside the image of 32x32 pixels, got [30.0, 3.0, 50.0, 5.0]; mend it or"
    assert f"own, split 'train', {fault}" in line


@pytest.mark.parametrize("counts", [["0"], pytest.param(["0", "1", "2"], marks=pytest.mark.slow)], ids=len)
def test_bad_boxes_are_skipped_listed_and_replaced_by_the_same_rows(counts, options, tmp_path):
    """For any number of workers. Those that can be told without the image are left out before."""
    rows = with_box(OUTSIDE["above"])
    rows[7]["boxes"][0] = NO_BOXES["without area"]
    folder = prepared(tmp_path / "own", "refcoco", rows)
    argv = command("refcoco", folder, options, "--on_bad_row", "skip", "--max_bad_fraction", "0.2")
    found = []
    for workers in counts:
        run = tmp_path / workers
        run_task(RefCOCO, "", [*argv, "--dataloader_num_workers", workers, "--output_dir", str(run)])
        found.append(weights_of(run))
        report = [json.loads(line) for line in (run / "bad_rows.jsonl").read_text().splitlines()]
        assert {row["row"]: row["found"] for row in report} == {3: "in training", 7: "before training"}
        assert next(row["fault"] for row in report if row["row"] == 3).startswith("box 0: expected a box inside")
    assert all(values.equal(other[name]) for other in found for name, values in found[0].items())


def test_too_many_bad_boxes_end_the_run_with_the_report(options, tmp_path, refused):
    rows = with_box(OUTSIDE["above"])
    for row in rows[:6]:
        row["boxes"][0] = OUTSIDE["elsewhere"]
    folder = prepared(tmp_path / "own", "refcoco", rows)
    line = refused(run_task, RefCOCO, "", command("refcoco", folder, options, "--max_bad_fraction", "0.1"))
    assert (
        "own: 2 of 16 rows cannot be used (max_bad_fraction is 0.1); " in line and "bad_rows.jsonl lists them" in line
    )


@pytest.mark.slow
def test_an_evaluation_that_meets_a_bad_box_ends_in_one_line(options, tmp_path, refused):
    """Whatever is done with bad rows of training."""
    folder = prepared(tmp_path / "own", "refcoco", rows_of("refcoco"))
    prepared(folder, "refcoco", with_box(OUTSIDE["elsewhere"]), "validation")
    argv = command("refcoco", folder, options, "--check_images", "false", "--on_bad_row", "skip", "--do_eval")
    assert "own, split 'validation', row 3: box 0: expected a box inside" in refused(run_task, RefCOCO, "", argv)


def test_a_box_too_thin_to_be_told_from_a_line_is_a_pixel():

    (crop,) = crop_boxes(Image.new("RGB", (32, 32)), [[5.0, 7.0, 1e-17, 1e-17]])
    assert crop.size == (1, 1)


def put_number(file: Path, row: int, number: int | list[int]) -> None:
    """Write a number that `datasets` does not look at, in a column of classes."""
    table = pq.read_table(file)
    labels = table["label"].to_pylist()
    labels[row] = number
    place = table.schema.get_field_index("label")
    column = pa.array(labels, table.schema.field("label").type)
    pq.write_table(table.set_column(place, "label", column).replace_schema_metadata(table.schema.metadata), file)


@pytest.mark.parametrize("number", [99, -5])
@pytest.mark.parametrize("name", ["snli_ve", "nlvr2", "cifar10", "image_text", "glue"])
def test_a_number_without_a_class_is_a_bad_row(name, number, tmp_path):
    folder = prepared(tmp_path / "own", name, rows_of(name))
    put_number(folder / "train-00000-of-00001.parquet", 3, number)
    kind = TASKS[name]
    with pytest.raises(
        ValueError, match=rf"1 of 16 rows cannot be used: row 3: expected one of .*class number {number}'"
    ):
        kind(kind.argument_class()(dataset=str(folder))).load("train")
    assert len(kind(kind.argument_class()(dataset=str(folder), on_bad_row="skip")).load("train")) == 15


def test_a_number_without_a_class_in_a_list_is_a_bad_row(tmp_path):
    features = DATA_SETS["image_text"].features.copy()
    features["label"] = [features["label"]]
    rows = [row | {"label": [0, 2]} for row in rows_of("image_text")]
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features).to_parquet(str(file))
    put_number(file, 3, [0, 9])
    kind = ImageTextClassification
    with pytest.raises(ValueError, match=r"1 of 16 rows cannot be used: row 3: expected one of .*'class number 9'"):
        kind(kind.argument_class()(dataset=str(file.parent), multi_label=True)).load("train")


@pytest.fixture(scope="module")
def plain_tokenizer(tmp_path_factory) -> Path:
    """A tokenizer without tokens of its own around a text, which leaves out ~."""
    names = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "a", "red", "circle"]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer, made.normalizer = pre_tokenizers.Whitespace(), normalizers.Replace("~", "")
    folder = tmp_path_factory.mktemp("plain")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=20, **special).save_pretrained(folder)
    return folder


#: What a task needs so that 16 rows of shapes will do.
MORE = {"vqav2": ["--min_answer_count", "1"], "retrieval": ["--num_negative_texts", "1", "--negatives", "batch"]}
NAMES = [
    pytest.param(name, marks=[] if name in ("glue", "captions") else [pytest.mark.slow])
    for name in ("glue", "captions", "refcoco", "snli_ve", "nlvr2", "vqav2", "retrieval")
]


def without_tokens(name: str, folder: Path) -> Path:
    rows = rows_of(name)
    for column in {"captions", "text", "text_pair"} & rows[3].keys():
        rows[3][column] = ["~ ~"] if column == "captions" else "~ ~"
    return prepared(folder, name, rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_without_tokens_is_named(name, options, plain_tokenizer, tmp_path, refused):
    folder = without_tokens(name, tmp_path / "own")
    argv = command(name, folder, options, "--tokenizer", str(plain_tokenizer), *MORE.get(name, []))
    line = refused(run_task, TASKS[name], "", argv)
    assert "own" in line and "row 3: the tokenizer makes no tokens of its text, '~ ~'" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glue", "captions", "refcoco", "snli_ve", "nlvr2", "vqav2", "retrieval"])
def test_a_text_without_tokens_is_skipped_and_listed(name, options, plain_tokenizer, tmp_path):
    """In a task without images as well."""
    folder = without_tokens(name, tmp_path / "own")
    argv = command(name, folder, options, "--tokenizer", str(plain_tokenizer), *MORE.get(name, []))
    run_task(TASKS[name], "", [*argv, "--on_bad_row", "skip"])
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert row["row"] == 3 and row["file"] == str(folder) and "no tokens" in row["fault"]
