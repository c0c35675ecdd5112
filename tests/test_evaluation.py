"""Metrics are over all samples once, in batches of any size and on any number of processes; the best checkpoint says why it is."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from conftest import TWO_TOWER
from datasets import Dataset

from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data import shapes
from renaissance.tasks.data.writer import write_split
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.metrics import Score
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.report import warnings_of
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


ROOT = Path(__file__).parents[1]

#: Tasks whose metrics are gathered batch by batch, each with its script and its generated data. VQAv2, GLUE and retrieval have tests
#: of their own.
TASKS = {
    "pretrain": (Pretraining, "captions"),
    "nlvr2": (NLVR2, "nlvr2"),
    "snli_ve": (SNLIVE, "snli_ve"),
    "image_text_classification": (ImageTextClassification, "image_text"),
    "refcoco": (RefCOCO, "refcoco"),
    "cifar10": (CIFAR10, "cifar10"),
}
#: Neither the batches of one process nor those of two are full at the end.
ROWS = 13
#: Enough that rows differ in their losses.
QUICKLY = ["--max_steps", "6", "--learning_rate", "1e-2"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for _, name in TASKS.values():
        data = shapes.DATA_SETS[name]
        for split in data.splits:
            write_split(data.rows(split, ROWS, 0, 32), data.features, folder / name, split, num_rows=ROWS)
    return folder


def data_options(name: str, scenes: Path) -> list[str]:
    option = "--train_datasets" if name == "pretrain" else "--dataset"
    return [option, str(scenes / TASKS[name][1])]


def exact(metrics: dict) -> dict[str, float]:
    """The metrics that say something of the model; of pretraining not those of matching, whose false images come from the batch."""
    timing = ("time", "per_second", "flos", "epoch")
    names = [name for name in metrics if name.startswith(("eval_", "test_")) and not name.endswith(timing)]
    return {name: metrics[name] for name in [name for name in names if "_mlm_" in name] or names}


@pytest.mark.parametrize("name", TASKS)
def test_metrics_do_not_depend_on_the_batches(name, scenes, options):
    """13 rows in batches of 4, of 7 and of 13: the last one is smaller, and must not weigh more."""
    results = []
    for size in ("4", "7", "13"):
        argv = [*TWO_TOWER, *options, *data_options(name, scenes), "--do_eval", "--per_device_eval_batch_size", size]
        argv += ["--initializer_range", "0.3"]
        trainer, *_ = prepare(TASKS[name][0], "", argv)
        results.append(exact(trainer.evaluate()))
    assert len(results[0]) >= 2
    assert results[0] == pytest.approx(results[2], rel=1e-4)
    assert results[1] == pytest.approx(results[2], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_report_what_one_does(name, scenes, options, launch, tmp_path):
    task, _ = TASKS[name]
    run_task(task, "", [*TWO_TOWER, *options, *data_options(name, scenes), "--do_train", *QUICKLY])
    argv = ["--model_name_or_path", str(tmp_path / "run"), *data_options(name, scenes), *options[2:-2], "--do_eval"]
    argv += [] if name == "pretrain" else ["--do_predict"]
    run_task(task, "", [*argv, "--output_dir", str(tmp_path / "one")])
    launch(2, ROOT / "run_scripts" / f"run_{name}.py", *argv, "--output_dir", tmp_path / "two")
    one, two = (exact(json.loads((tmp_path / run / "all_results.json").read_text())) for run in ("one", "two"))
    assert len(one) >= 2
    assert two == pytest.approx(one, rel=1e-5)
    written = sorted(path.name for path in (tmp_path / "one").glob("predictions*"))
    assert len(written) == (0 if name == "pretrain" else len(shapes.DATA_SETS[TASKS[name][1]].splits) - 2)
    for file in written:
        assert (tmp_path / "two" / file).read_text() == (tmp_path / "one" / file).read_text()


def test_a_model_that_says_one_thing_is_warned_of(scenes, options, caplog, tmp_path):
    """In evaluation and in prediction, and where there are no labels; a model that has learned something is not."""
    data = tmp_path / "data"
    data.mkdir()
    rows = {
        split: Dataset.from_parquet(str(next((scenes / "snli_ve").glob(f"{split}-*")))) for split in ("train", "test")
    }
    rows["train"].filter(lambda row: row["label"] == 1).to_parquet(str(data / "train-0.parquet"))
    rows["train"].to_parquet(str(data / "validation-0.parquet"))
    rows["test"].remove_columns("label").to_parquet(str(data / "test-0.parquet"))
    argv = [*TWO_TOWER, *options, "--dataset", str(data), "--do_train", "--do_eval", "--do_predict"]
    metrics = run_task(SNLIVE, "", [*argv, "--max_steps", "30", "--learning_rate", "1e-2"])
    for prefix in ("eval", "test"):
        assert f"{prefix}: the model says 'neutral' to all 13 rows, whatever the input is" in caplog.text
    share = sum(label == 1 for label in rows["train"]["label"]) / 13
    assert metrics["eval_accuracy"] == pytest.approx(share) and "test_accuracy" not in metrics
    value, baseline = metrics["eval_accuracy"], metrics["eval_majority_accuracy"]
    assert (
        f"eval_accuracy: {value:.4f} over 13 rows is not above the baseline {baseline:.4f} (majority)" in caplog.text
    )
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| eval_accuracy | {value:.4f} | {baseline:.4f} (majority) | 13 |" in card
    assert "eval_accuracy_neutral: " not in caplog.text

    caplog.clear()
    # It trains on what it is evaluated on.
    rows["train"].to_parquet(str(data / "train-0.parquet"))
    argv = [*argv[:-1], "--output_dir", str(tmp_path / "learned"), "--max_steps", "120", "--learning_rate", "3e-3"]
    metrics = run_task(SNLIVE, "", argv)
    assert metrics["eval_accuracy"] > metrics["eval_majority_accuracy"]
    assert "whatever the input is" not in caplog.text and "eval_accuracy: " not in caplog.text


def test_classes_and_boxes_are_chosen_by_scores_in_single_precision(scenes, options):
    """Under bf16, in which two boxes that are alike would have the same score."""
    for name in ("refcoco", "snli_ve"):
        argv = [*TWO_TOWER, *options, *data_options(name, scenes), "--do_eval", "--bf16"]
        trainer, *_ = prepare(TASKS[name][0], "", argv)
        batch = next(iter(trainer.get_eval_dataloader()))
        with torch.no_grad(), trainer.accelerator.autocast():
            logits = trainer.model.eval()(**batch).logits
        assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())


def test_scores_at_the_baseline_are_warned_of():
    """Below it, at it, better than it; a rank is better if it is lower. At a perfect score, too, a baseline is not beaten."""
    scores = {
        "eval_below": Score(0.4, 10, 0.5),
        "eval_at": Score(0.1 + 0.2, 10, 0.3),
        "eval_above": Score(0.6, 10, 0.5),
        "eval_perfect": Score(1.0, 10, 1.0, "chance"),
        "eval_rank": Score(5.0, 10, 4.5, "chance", lower_is_better=True),
        "eval_good_rank": Score(4.0, 10, 4.5, "chance", lower_is_better=True),
        "eval_without": Score(0.0, 10),
    }
    lines = warnings_of(scores | {"eval_loss": 0.0}, {})
    assert [line.split(":")[0] for line in lines] == ["eval_below", "eval_at", "eval_perfect", "eval_rank"]
    copied = pickle.loads(pickle.dumps(scores["eval_rank"]))
    assert vars(copied) == vars(scores["eval_rank"]) and copied == 5.0


def test_the_best_checkpoint_is_kept_and_says_why(scenes, options, tmp_path, caplog):
    argv = [*TWO_TOWER, *options, *data_options("snli_ve", scenes), "--do_train", "--do_eval", "--max_steps", "6"]
    argv += ["--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
    argv += ["--load_best_model_at_end", "--learning_rate", "1e-2"]
    with caplog.at_level(logging.INFO):
        metrics = run_task(SNLIVE, "", argv)
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    accuracies = {entry["step"]: entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}
    # The evaluation after training is of the model that was kept.
    assert metrics["eval_accuracy"] == max(accuracies.values())
    best = next(step for step in (2, 4, 6) if accuracies[step] == metrics["eval_accuracy"])
    reason = f"that of step {best} of 6, with the highest eval_accuracy, {metrics['eval_accuracy']:.4f}"
    assert f"The model is {reason}" in caplog.text
    assert reason in (tmp_path / "run" / "README.md").read_text()
