"""NLVR2: consistency, subsets, and predictions as its own script reads them."""

import json
import re

import numpy as np
import pytest
from conftest import TWO_TOWER
from datasets import Dataset
from preparing import complaints
from test_prepare_data import make_nlvr2
from transformers import EvalPrediction

from renaissance.tasks.data import schemas
from renaissance.tasks.data.nlvr2 import read_nlvr2
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.nlvr2 import NLVR2, NLVR2Arguments, sentences_of
from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run_task


def metrics(rows: dict, correct: list[int]) -> dict[str, float]:
    """The metrics of rows whose label is 1 where `correct` says which are answered rightly."""
    answers = np.array(correct)
    return NLVR2(NLVR2Arguments(dataset="x")).metrics(
        EvalPrediction(predictions=answers, label_ids=np.ones_like(answers)), Dataset.from_dict(rows)
    )


def test_consistency_is_of_sentences_whatever_their_pairs():
    """Sentences 0 and 1 of one set are two; sentence 0 of two sets is two; the pair does not count."""
    ids = ["dev-7-0-0", "dev-7-2-0", "dev-7-0-1", "dev-7-1-1", "dev-70-0-0", "dev-8-3-1"]
    assert len(set(sentences_of(ids))) == 4
    figures = metrics({"id": ids}, [1, 0, 1, 1, 1, 0])
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["consistency"] == 2 / 4
    assert metrics({"id": ids}, [1] * 6)["consistency"] == 1
    assert metrics({"id": ids}, [0] * 6)["consistency"] == 0


def test_ids_of_other_data_say_nothing_of_sentences():
    assert "consistency" not in metrics({"id": ["dev-7-0-0", "shapes-0-train-17"]}, [1, 1])
    assert "consistency" not in metrics({"text": ["a", "b"]}, [1, 1])


def test_subsets_are_reported_beside_the_whole():
    ids = ["dev-1-0-0", "dev-1-1-0", "dev-2-0-0", "dev-2-1-0", "dev-3-0-0"]
    figures = metrics({"id": ids, "subset": ["balanced", "unbalanced", "balanced", "balanced", None]}, [1, 0, 1, 0, 1])
    assert figures["accuracy"] == 3 / 5 and figures["consistency"] == 1 / 3
    assert figures["accuracy_balanced"] == pytest.approx(2 / 3) and figures["consistency_balanced"] == 1 / 2
    assert figures["accuracy_unbalanced"] == figures["consistency_unbalanced"] == 0
    assert not any(name.endswith("None") for name in figures)


@pytest.fixture
def data(shapes, tmp_path) -> str:
    """The pairs of `shapes` under names as in NLVR2, two of each sentence, in two subsets; 10 to validate on."""
    for split in ("train", "validation", "test"):
        rows = Dataset.from_parquet(str(shapes / "nlvr2" / f"{split}-00000-of-00001.parquet"))
        ids = [f"{split}-{row // 2}-{row % 2}-0" for row in range(len(rows))]
        rows = rows.remove_columns("id").add_column("id", ids)
        rows = rows.add_column("subset", [("balanced", "unbalanced")[row % 3 == 0] for row in range(len(rows))])
        (tmp_path / "nlvr2").mkdir(exist_ok=True)
        rows.to_parquet(str(tmp_path / "nlvr2" / f"{split}-00000-of-00001.parquet"))
    return str(tmp_path / "nlvr2")


def test_training_is_watched_by_consistency_and_predictions_are_as_the_script_reads_them(data, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--dataset", data, "--do_train", "--do_predict", "--max_steps", "2"]
    metrics = run_task(NLVR2, "", [*argv, "--eval_strategy", "steps", "--eval_steps", "1"])
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    watched = [entry for entry in history if "eval_loss" in entry]
    assert len(watched) == 2
    assert all(
        {"eval_consistency", "eval_accuracy_balanced", "eval_consistency_unbalanced"} <= set(e) for e in watched
    )
    # From the file alone: what NLVR2's script would make of it.
    answers = dict(line.split(",") for line in (tmp_path / "run" / "predictions.csv").read_text().splitlines())
    rows = Dataset.from_parquet(data + "/test-00000-of-00001.parquet")
    right = {row["id"]: answers[row["id"]] == str(bool(row["label"])) for row in rows.remove_columns("images")}
    assert len(answers) == len(rows) == 10
    assert metrics["test_accuracy"] == pytest.approx(sum(right.values()) / 10)
    sentences = [right[f"test-{number}-0-0"] and right[f"test-{number}-1-0"] for number in range(5)]
    assert metrics["test_consistency"] == pytest.approx(sum(sentences) / 5)


def test_metrics_do_not_depend_on_the_batches(data, options):
    """10 rows in batches of 4 and of 7: rows keep their ids, and the smaller last batches weigh no more."""
    results = []
    for size in ("4", "7", "10"):
        argv = [*TWO_TOWER, *options, "--dataset", data, "--do_eval", "--per_device_eval_batch_size", size]
        results.append(prepare(NLVR2, "", argv)[0].evaluate())
    names = [name for name in results[0] if "accuracy" in name or "consistency" in name]
    assert len(names) == 12
    for other in results[1:]:
        assert [other[name] for name in names] == [results[0][name] for name in names]


def test_public_subsets(tmp_path):
    make_nlvr2(tmp_path)
    data = tmp_path / "nlvr2" / "data"
    (data / "balanced").mkdir()
    (data / "balanced" / "balanced_dev.json").write_text((data / "dev.json").read_text())
    splits = read_nlvr2(tmp_path)
    assert [splits[split][0]["subset"] for split in ("train", "validation", "test")] == [None, "balanced", None]
    write_split(splits["validation"], schemas.PUBLIC_NLVR2, tmp_path / "out", "validation", 1)
    loaded = NLVR2(NLVR2Arguments(dataset=str(tmp_path / "out"))).load("validation")
    assert loaded["subset"][:] == ["balanced"] and {*schemas.NLVR2} <= {*loaded.column_names}

    (data / "unbalanced").mkdir()
    (data / "unbalanced" / "unbalanced_dev.json").write_text((data / "dev.json").read_text())
    found = complaints(lambda: read_nlvr2(tmp_path))
    assert "unbalanced_dev.json: line 1 names dev-5-0-1, which is in both subsets" in found
    (data / "dev.json").write_text((data / "dev.json").read_text() * 2)
    assert "dev.json: line 2 repeats the identifier dev-5-0-1" in complaints(lambda: read_nlvr2(tmp_path))
    assert len(read_nlvr2(tmp_path)["validation"]) == 1


def test_rows_with_one_id_are_refused(data, options, tmp_path, capsys):
    path = f"{data}/train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(path)
    rows = rows.remove_columns("id").add_column("id", ["x", *rows["id"][1:5], "x", *rows["id"][6:]])
    rows.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    with pytest.raises(SystemExit):
        run_task(NLVR2, "", [*TWO_TOWER, *options, "--dataset", str(tmp_path), "--do_train"])
    assert re.search("row 5: column 'id' has 'x', as row 0 does", capsys.readouterr().err)


@pytest.mark.real_data
def test_real_subsets_are_halves(real_data):
    splits = read_nlvr2(real_data / "nlvr2")
    counts = {split: [sum(row["subset"] == name for row in rows) for name in ("balanced", "unbalanced")]
              for split, rows in splits.items()}  # fmt: skip
    assert counts == {"train": [0, 0], "validation": [200, 200], "test": [150, 150]}
