"""
The table of wrong command lines in wrong_lines.py. Each ends in one line that names the option, with exit code 2, before data is read or a model is
built, whether the option is on the command line or in a recipe.
"""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from wrong_lines import COMMANDS, NUMBERS, OPTIONS, RECIPES

from renaissance.tasks import preparation
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE
from renaissance_cli.main import main


ROOT = Path(__file__).parents[1]


def cases(table: str, every: int) -> list:
    """The lines of a table, of which one in `every` runs with the quick tests."""
    lines = [line.split(" | ") for line in table.strip().splitlines()]
    return [
        pytest.param(line, expected, id=line, marks=[pytest.mark.slow] if number % every else [])
        for number, (line, expected) in enumerate(lines)
    ]


def values_of(numbers: list, every: int) -> list:
    found = [(name, value, expected) for name, values, expected in numbers for value in values.split()]
    return [
        pytest.param(*each, id=" ".join(each[:2]), marks=[pytest.mark.slow] if number % every else [])
        for number, each in enumerate(found)
    ]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder without data; a run that reads any, or builds a model, fails its test."""

    def unexpected(*args, **kwargs):
        pytest.fail("the mistake was not found before data was read or a model was built")

    monkeypatch.setattr(preparation, "load_data", unexpected)
    monkeypatch.setattr(preparation, "build_model", unexpected)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(tmp_path / "no_mask")
    return tmp_path


def new_model(task: str, place: Path, tokenizer: Path) -> list[str]:
    """Options of a run of a tiny new model on data that does not exist."""
    data = "--train_datasets" if task == "pretrain" else "--dataset"
    options = ["--output_dir", str(place / "run"), "--tokenizer", str(tokenizer), data, "nowhere"]
    return [*TWO_TOWER, *options, "--do_train", "--use_cpu"]


@pytest.mark.parametrize(("line", "expected"), cases(OPTIONS, every=2))
def test_options_of_tasks(line, expected, place, tokenizer_folder, refused):
    task, *words = shlex.split(line.replace("@", str(place)))
    assert expected.replace("@", str(place)) in refused(
        main, [task, *new_model(task, place, tokenizer_folder), *words]
    )


@pytest.mark.parametrize(("line", "expected"), cases(COMMANDS, every=2))
def test_commands(line, expected, place, refused):
    assert expected.replace("@", str(place)) in refused(main, shlex.split(line.replace("@", str(place))))


@pytest.mark.parametrize(("name", "value", "expected"), values_of(NUMBERS, every=4))
@pytest.mark.parametrize("way", ["command line", pytest.param("recipe", marks=pytest.mark.slow)])
def test_numbers(name, value, expected, way, place, tokenizer_folder, refused):
    (place / "recipe.yaml").write_text(f"{name}: {value}\n")
    # What a model has is given for all, and the last word counts.
    words = new_model("nlvr2", place, tokenizer_folder)
    if way == "recipe" and f"--{name}" in words:
        del words[(start := words.index(f"--{name}")) : start + 2]
    argv = [str(place / "recipe.yaml"), *words] if way == "recipe" else [*words, f"--{name}={value}"]
    assert f"{name}: expected {expected}" in refused(main, ["nlvr2", *argv])


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(text, place, tokenizer_folder, refused):
    (place / "recipe.yaml").write_text(text)
    name = text.partition(":")[0]
    words = new_model("nlvr2", place, tokenizer_folder)
    if f"--{name}" in words:
        del words[(start := words.index(f"--{name}")) : start + 2]
    assert RECIPES[text] in refused(main, ["nlvr2", str(place / "recipe.yaml"), *words])


def test_a_recipe_in_another_encoding(place, refused):
    (place / "recipe.yaml").write_bytes("run_name: Straße\n".encode("latin-1"))
    assert "recipe recipe.yaml: expected a text file of YAML in UTF-8" in refused(main, ["nlvr2", "recipe.yaml"])


@pytest.mark.parametrize("warmup", ["4", "50"])
def test_a_warmup_that_outlasts_the_epochs(warmup, shapes, place, tokenizer_folder, refused, monkeypatch):
    """The steps follow from the rows: 32, of which a step takes 16 and leaves none over, twice."""
    monkeypatch.undo()
    argv = [*new_model("nlvr2", place, tokenizer_folder)[:-3], str(shapes / "nlvr2"), "--do_train", "--use_cpu"]
    argv += ["--num_train_epochs", "2", "--total_batch_size", "16", "--warmup_steps", warmup, "--report_to", "none"]
    assert f"warmup_steps: training has 4 steps, so that a warm-up of {warmup} never" in refused(
        main, ["nlvr2", *argv]
    )


def test_an_evaluation_at_the_start_needs_data(shapes, place, tokenizer_folder, refused, monkeypatch):
    monkeypatch.undo()
    pairs = shapes / "nlvr2" / "train-00000-of-00001.parquet"
    argv = new_model("nlvr2", place, tokenizer_folder)
    argv = [word for word in argv if word not in ("--dataset", "nowhere")]
    argv += ["--train_file", str(pairs), "--eval_on_start", "true"]
    assert "validation_file: no data for validation" in refused(main, ["nlvr2", *argv])


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        (
            ["--max_steps", "1", "--num_train_epochs", "2"],
            "num_train_epochs: without effect, max_steps 1 says how long",
        ),
        (["--eval_steps", "5"], "eval_steps: without effect without eval_strategy steps"),
        (["--metric_for_best_model", "acc"], "metric_for_best_model: without effect without load_best_model_at_end"),
        (["--hub_model_id", "me/x"], "hub_model_id: without effect without push_to_hub"),
    ],
)
def test_what_a_recipe_may_have_in_vain_is_warned_of(words, warning, place, tokenizer_folder, refused, caplog):
    """The run goes on, here to what the fixture forbids."""
    with pytest.raises(pytest.fail.Exception):
        main(["nlvr2", *new_model("nlvr2", place, tokenizer_folder), *words])
    assert any(warning in record.getMessage() for record in caplog.records)


#: Results of an evaluation that are no metrics: counts and times, and baselines.
NO_METRICS = r"model_preparation_time|classes|rows.*|labels|sentences.*|images|captions|.*_labels|.*_rows|runtime|.*_per_second|(.*_)?(majority|chance|constant)_.*"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "data"), [(Pretraining, "captions"), (NLVR2, "nlvr2"), (SNLIVE, "snli_ve"), (Retrieval, "captions")]
)
def test_metrics_of_an_evaluation_are_those_that_may_choose_the_best(task, data, shapes, options):
    """Whatever an evaluation says may be named as the metric of the best checkpoint."""
    name = "--train_datasets" if task is Pretraining else "--dataset"
    found = run_task(task, "", [*TWO_TOWER, *options, name, str(shapes / data), "--do_eval"])
    names = {key.removeprefix("eval_") for key in found if key.startswith("eval_")}
    metrics = {each for each in names if not re.fullmatch(NO_METRICS, each)}
    known = ("loss", "mlm_*", "itm_*") if task is Pretraining else task.metric_names
    assert task.best_metric.removeprefix("eval_") in metrics
    assert {each for each in metrics if not any(fnmatch.fnmatchcase(each, name) for name in known)} == set()
    plain = {each for each in known if "*" not in each}
    assert plain - metrics <= {"consistency", "auroc"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["-m", "renaissance_cli", "nlvr2", "--learning_rate", "nan"], "learning_rate: expected more than 0, got nan"),
        (["run_scripts/run_nlvr2.py", "--learning_rate", "nan"], "learning_rate: expected more than 0, got nan"),
        (["run_scripts/run_pretrain.py", "--max_steps", "0"], "max_steps: expected at least 1, got 0"),
        (["run_scripts/run_glue.py", "--text_overrides", '{"hidden_size": 33}'], "text_overrides: text encoder:"),
        (["run_scripts/prepare_data.py", "shapes", "--output", "x", "--num_train", "-5"], "--num_train: expected from 1"),
        (["-m", "renaissance_cli", "predict", "nowhere", "--text", "x", "--top_k", "0"], "--top_k: expected at least 1"),
        (["run_scripts/benchmark.py", "step", "--runs", "0"], "--runs: expected from 1"),
        (["run_scripts/demo.py", "nowhere/at/all"], "nowhere/at/all"),
        (["run_scripts/convert_checkpoint.py", "vilt", "--source", ".", "--output", ""], "--output: expected a folder"),
    ],
)  # fmt: skip
def test_processes_end_as_calls_do(command, expected, place, tokenizer_folder):
    words = [word if word != command[0] or word == "-m" else str(ROOT / word) for word in command]
    if "learning_rate" in expected or "max_steps" in expected or "text_overrides" in expected:
        task = "pretrain" if "pretrain" in command[0] else "nlvr2"
        # Before the wrong option, which is the last.
        words[-2:-2] = new_model(task, place, tokenizer_folder)
    argv = [sys.executable, *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=place)
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 2 and len(errors) == 1 and expected in errors[0], done.stderr
    assert "Traceback" not in done.stderr
