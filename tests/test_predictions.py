"""Predictions have a row for every row of a split, in its order, and metrics say how many rows they are over."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from task_runs import EVALUATED, ROWS, TASKS, run_argv

from renaissance.tasks.metrics import Score
from renaissance.tasks.runner import run_task


def written_ids(name: str, folder: Path) -> dict[str, list[str]]:
    return {split: TASKS[name].read(folder / file) for split, file in TASKS[name].files.items()}


def expected_ids(name: str, scenes: Path) -> dict[str, list[str]]:
    rows = {
        split: Dataset.from_parquet(str(scenes / name / f"{split}-00000-of-00001.parquet"))
        for split in TASKS[name].files
    }
    return {split: data[TASKS[name].id_column][:] for split, data in rows.items()}


@pytest.mark.parametrize("name", TASKS)
def test_every_row_is_predicted_in_its_order(name, scenes, tokenizer_folder, tmp_path):
    metrics = run_task(TASKS[name].task, "", run_argv(name, scenes, tokenizer_folder, tmp_path))
    expected = expected_ids(name, scenes)
    assert written_ids(name, tmp_path) == expected
    assert all(len(ids) == ROWS for ids in expected.values())
    counted = TASKS[name].counted
    assert metrics[f"eval_{counted}"] == EVALUATED
    for split in expected:
        prefix = "test" if len(expected) == 1 else f"test_{split}"
        assert metrics[f"{prefix}_{counted}"] == ROWS


@pytest.mark.parametrize("strategy", ["group_by_length", "sequential"])
@pytest.mark.parametrize("name", TASKS)
def test_rows_are_evaluated_and_predicted_in_order_however_training_takes_them(
    name, strategy, scenes, tokenizer_folder, tmp_path, capsys
):
    argv = [*run_argv(name, scenes, tokenizer_folder, tmp_path), "--do_train", "--max_steps", "1"]
    argv += ["--per_device_train_batch_size", "8", "--train_sampling_strategy", strategy, "--save_strategy", "no"]
    if (name, strategy) == ("cifar10", "group_by_length"):
        with pytest.raises(SystemExit) as stopped:
            run_task(TASKS[name].task, "", argv)
        assert stopped.value.code == 2 and "this task has no text" in capsys.readouterr().err
        return
    metrics = run_task(TASKS[name].task, "", argv)
    assert metrics[f"eval_{TASKS[name].counted}"] == EVALUATED
    assert written_ids(name, tmp_path) == expected_ids(name, scenes)


@pytest.mark.parametrize("name", TASKS)
def test_each_metric_has_its_baseline_and_its_rows_beside_it(name, scenes, tokenizer_folder, tmp_path, capsys):
    metrics = run_task(TASKS[name].task, "", run_argv(name, scenes, tokenizer_folder, tmp_path))
    saved = json.loads((tmp_path / "all_results.json").read_text())
    assert saved == metrics
    scores = {key: value for key, value in metrics.items() if isinstance(value, Score)}
    # All of a task's own results, whatever they are called, are scores; the rest are losses, counts, baselines and times.
    assert any(key.startswith("eval_") for key in scores) and any(key.startswith("test_") for key in scores)
    names, printed = list(saved), capsys.readouterr().out.splitlines()
    for key, score in scores.items():
        follows = names[names.index(key) + 1]
        assert follows.replace(f"{score.kind}_", "", 1) == key and saved[follows] == score.baseline
        line = next(line for line in printed if line.split()[:1] == [key]).split()
        assert line == [key, f"{score:.4f}", f"{score.baseline:.4f}", f"({score.kind})", str(score.rows)]


def assert_same_but_for_rounding(found: str, expected: str) -> None:
    """Equal texts, but for the last digit of probabilities: processes have other batches, whose sums are rounded otherwise."""
    (texts, numbers), (expected_texts, expected_numbers) = (
        (parts[::2], [float(part) for part in parts[1::2]])
        for parts in (re.split(r"(\d\.\d+)", text) for text in (found, expected))
    )
    assert texts == expected_texts
    assert numbers == pytest.approx(expected_numbers, abs=2e-6)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(scenes, tokenizer_folder, launch, tmp_path):
    for name in TASKS:
        run_task(TASKS[name].task, "", run_argv(name, scenes, tokenizer_folder, tmp_path / "one" / name))
    launch(2, Path(__file__).with_name("distributed_runs.py"), scenes, tokenizer_folder, tmp_path / "two")
    for name in TASKS:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert written_ids(name, two) == expected_ids(name, scenes)
        for file in TASKS[name].files.values():
            assert_same_but_for_rounding((two / file).read_text(), (one / file).read_text())
        results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, two)]
        timing = ("time", "per_second", "epoch")
        one, two = ({key: value for key, value in found.items() if not key.endswith(timing)} for found in results)
        assert two == pytest.approx(one, rel=1e-5), name
