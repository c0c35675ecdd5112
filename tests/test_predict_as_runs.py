"""`renaissance predict --file` says of a file of one's own what a run predicts of it, in every task; and what it says of pairs."""

import csv
import json
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from own_files import as_csv, as_jsonl, write_pictures
from own_tasks import TASKS, rows_of

from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance_cli.main import main


pytestmark = pytest.mark.usefixtures("dataset_cache")

WITH_PREMISE = ["--use_premise", "--premise_column", "premise"]
PREMISES = ["a lawn", "a street with a dog", "rain", "a dog", "nothing", "two cats"]


def rows_of_kind(name: str) -> list[dict]:
    """Six rows of a task, or of one of its variants, with a label each."""
    base = {"several": "image_and_text", "premise": "entailments", "text_pairs": "texts", "scores": "texts"}.get(
        name, name
    )
    rows = rows_of(base)
    if name == "several":
        labels = [["a"], [], ["a", "b"], ["b"], ["a", "b", "c"], ["c"]]
        rows = [row | {"kind": label} for row, label in zip(rows, labels, strict=True)]
    if name in ("premise", "text_pairs", "scores"):
        rows = [row | {"premise": premise} for row, premise in zip(rows, PREMISES, strict=True)]
    if name == "scores":
        rows = [row | {"kind": number / 2} for number, row in enumerate(rows)]
    return rows


#: The task of each kind of run, the options of its training, and those of `predict` besides the columns that both have.
RUNS = {
    "premise": (SNLIVE, "entailments", WITH_PREMISE, ["--text_column", "premise", "--text_pair_column", "words"]),
    "several": (ImageTextClassification, "image_and_text", ["--multi_label"], []),
    "text_pairs": (GLUE, "texts", ["--text_pair_column", "premise"], ["--text_pair_column", "premise"]),
    "scores": (GLUE, "texts", ["--task_name", "stsb", "--text_pair_column", "premise"], ["--text_pair_column", "premise"]),
    "vqa": (TASKS["vqa"][0], "vqa", ["--min_answer_count", "1"], []),
    **{name: (TASKS[name][0], name, [], []) for name in ("image_and_text", "entailments", "images", "texts", "pairs", "boxes")},
}  # fmt: skip
QUICK = ("premise", "several")
#: The columns that `predict` reads.
ASKED = ("image", "images", "text", "boxes")


def column_options(name: str, columns: dict) -> list[str]:
    found = [(f"--{column}_column", own) for column, own in columns.items()]
    return [word for option, own in found for word in (option, *([own] if isinstance(own, str) else own))]


def said_by_run(folder: Path) -> dict[str, str]:
    """The answer to each row, by its id, in the predictions of a run."""
    (path,) = [*folder.glob("predictions*"), *folder.glob("STS-B.tsv")]
    if path.suffix == ".json":
        return {str(row["question_id"]): row["answer"] for row in json.loads(path.read_text())}
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {str(row["id"]): str(row["choice"]) for row in rows}
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    return {row[0]: row[1] for row in lines[path.suffix == ".tsv" :]}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_a_file_is_answered_as_a_run_predicts_it(name, tokenizer_folder, tmp_path):
    task, base, options, asked = RUNS[name]
    columns = TASKS[base][1]
    write_pictures(tmp_path)
    rows = rows_of_kind(name)
    file = (as_jsonl if name in ("several", "boxes") else as_csv)(tmp_path, rows)
    argv = [*TWO_TOWER, "--tokenizer", str(tokenizer_folder), "--image_size", "32", "--use_cpu", "--report_to", "none"]
    argv += ["--initializer_range", "0.3", "--do_train", "--max_steps", "1", "--do_predict", "--disable_tqdm", "true"]
    argv += ["--train_file", str(file), "--test_file", str(file), "--output_dir", str(tmp_path / "run")]
    run_task(task, "", [*argv, *column_options(name, columns), *options])
    own = {column: value for column, value in columns.items() if column in ASKED}
    output = tmp_path / "answers.json"
    # Of two options of a name the last counts.
    main(
        [
            "predict",
            str(tmp_path / "run"),
            "--file",
            str(file),
            *column_options(name, own),
            *asked,
            "--output",
            str(output),
        ]
    )
    answers, said = json.loads(output.read_text()), said_by_run(tmp_path / "run")
    assert [str(entry["id"]) for entry in answers] == list(said) and len(said) == 6
    if name == "scores":
        assert [entry["scores"]["score"] for entry in answers] == pytest.approx(
            list(map(float, said.values())), abs=1e-3
        )
    elif name == "several":
        assert [entry["answers"] for entry in answers] == [json.loads(each) for each in said.values()]
    elif name == "boxes":
        assert [str(entry["choice"]) for entry in answers] == list(said.values())
    else:
        assert [entry["answer"] for entry in answers] == list(said.values())
    # The rows differ for the model; boxes in pictures of one colour do not.
    assert len({json.dumps(entry["scores"]) for entry in answers}) >= (2 if name == "boxes" else 4)
