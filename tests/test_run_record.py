"""The record of a run, `run.json`, says what was run, on what, from what, and what came out; later runs add to it."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from datasets import Dataset, Image, List

from renaissance.tasks import machine
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.data.captioned import CaptionedImages
from renaissance.tasks.data.fingerprint import fingerprint
from renaissance.tasks.data.opening import open_split
from renaissance.tasks.metrics import Score
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.recording import name_of_command
from renaissance.tasks.report import metric_values
from renaissance.tasks.run_record import FORMAT, Ancestor, DataSplit, MetricValue, RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


ROOT = Path(__file__).parents[1]
QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "8"]
TOKEN = "hf_aSecretThatNobodyMayRead"


@pytest.fixture(scope="module")
def chain(tmp_path_factory, shapes, tokenizer_folder) -> Path:
    """The folder of a pretraining run, `pretrained`, and of one that was finetuned from it, `tuned`."""
    root = tmp_path_factory.mktemp("chain")
    argv = [*TWO_TOWER, *QUIET, "--tokenizer", str(tokenizer_folder), "--train_datasets", str(shapes / "captions")]
    argv += ["--do_train", "--do_eval", "--max_steps", "3", "--seed", "7", "--hub_token", TOKEN]
    run_task(Pretraining, "", [*argv, "--output_dir", str(root / "pretrained")])
    argv = ["--model_name_or_path", str(root / "pretrained"), "--dataset", str(shapes / "nlvr2"), *QUIET]
    argv += ["--do_train", "--do_eval", "--do_predict", "--max_steps", "6", "--freeze", "vision"]
    argv += ["--output_dir", str(root / "tuned"), "--max_train_samples", "20"]
    metrics = run_task(NLVR2, "", argv)
    (root / "metrics.json").write_text(json.dumps(metrics))
    return root


def test_a_training_is_recorded(chain, shapes):
    record, metrics = RunRecord.read(chain / "tuned"), json.loads((chain / "metrics.json").read_text())
    assert (record.status, record.did) == ("finished", ["train", "eval", "predict"])
    assert (record.task, record.model_class) == ("NLVR2", "TwoTowerForImagesAndTextClassification")
    assert record.frozen == ["vision"] and 0 < record.trainable_parameters < record.parameters
    # Two epochs of 20 rows, in batches of 8, 8 and 4.
    assert (record.steps, record.samples, record.epochs, record.batch_size, record.seed) == (6, 40, 2.0, 8, 42)
    assert (record.checkpoint_step, record.checkpoint) == (6, "that of the last step, 6")
    assert [(split.split, split.sources, split.rows) for split in record.data] == [
        ("train", ["./nlvr2"], 20),
        ("validation", ["./nlvr2"], 10),
        ("test", ["./nlvr2"], 10),
    ]
    assert record.versions == machine.versions() and set(record.versions) > {"python", "torch", "transformers"}
    assert record.host and record.hardware and record.num_processes == 1 and record.precision == "float32"
    assert 0 < record.train_seconds <= record.duration_seconds < 600
    assert 1e8 < record.peak_memory_bytes < 1e11 and record.peak_gpu_memory_bytes is None
    assert record.started < record.finished or record.started == record.finished
    found = {entry.name: entry for entry in record.metrics}
    accuracy = found["test_accuracy"]
    assert accuracy.value == metrics["test_accuracy"] and accuracy.baseline == metrics["test_majority_accuracy"] == 0.5
    assert (accuracy.split, accuracy.metric, accuracy.rows, accuracy.baseline_kind) == (
        "test",
        "accuracy",
        10,
        "majority",
    )
    assert accuracy.beats_baseline == (accuracy.value > 0.5)
    assert found["eval_loss"].lower_is_better and found["eval_loss"].rows == 10
    assert not any("majority" in name or "runtime" in name or "second" in name for name in found)


def test_a_record_says_what_a_run_started_from(chain):
    first, second = RunRecord.read(chain / "pretrained"), RunRecord.read(chain / "tuned")
    assert first.started_from is None and first.history == []
    assert second.started_from == "./pretrained" and second.run_id != first.run_id
    expected = Ancestor(
        "./pretrained", None, first.run_id, "Pretraining", "TwoTowerForPreTraining", ["./captions"], 128
    )
    expected = dataclasses.replace(expected, steps=3, samples=24, epochs=0.1875, seed=7, objectives=["mlm", "itm"])
    code = {"commit": first.commit, "uncommitted_changes": first.uncommitted_changes}
    expected = dataclasses.replace(expected, started=first.started, version=first.versions["renaissance"], **code)
    weights = (chain / "pretrained" / "model.safetensors").read_bytes()
    expected = dataclasses.replace(expected, digest=hashlib.sha256(weights).hexdigest())
    assert second.history == [expected]


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/renaissance", "nlvr2", "nlvr2_small"], "renaissance nlvr2"),
        (["/lib/renaissance_cli/__main__.py", "snli-ve", "--do_eval"], "renaissance snli-ve"),
        (["run_scripts/run_nlvr2.py", "nlvr2"], "run_nlvr2.py"),
        (["mine.py"], "mine.py"),
        (["/lib/pytest/__main__.py", "-x"], "__main__.py"),
    ],
)
def test_a_record_names_the_command(argv, name):
    assert name_of_command(argv) == name


def test_no_record_has_a_token_or_a_path_of_the_machine(chain):
    for folder in ("pretrained", "tuned"):
        for file in ("run.json", "README.md", "config.json"):
            text = (chain / folder / file).read_text()
            assert TOKEN not in text and str(chain) not in text and "/tmp" not in text
    options = RunRecord.read(chain / "pretrained").options
    assert options["text_encoder"] == "bert" and options["max_steps"] == 3 and options["seed"] == 7
    assert options["train_datasets"] == ["./captions"] and options["text_overrides"]["hidden_size"] == 32
    left_out = ("output_dir", "report_to", "use_cpu", "disable_tqdm", "logging", "hub", "learning_rate")
    assert not [name for name in options if name.startswith(left_out) or name.endswith("_token")]


def test_an_evaluation_of_a_trained_model_adds_to_its_record(chain, shapes, tmp_path):
    folder = tmp_path / "tuned"
    shutil.copytree(chain / "tuned", folder)
    before = RunRecord.read(folder)
    data = tmp_path / "other"
    shutil.copytree(shapes / "nlvr2", data)
    Dataset.from_parquet(str(next(data.glob("validation-*")))).select(range(6)).to_parquet(
        str(next(data.glob("test-*")))
    )
    argv = ["--model_name_or_path", str(folder), "--dataset", str(data), *QUIET, "--output_dir", str(folder)]
    metrics = run_task(NLVR2, "", [*argv, "--do_predict"])
    record = RunRecord.read(folder)
    assert (record.run_id, record.steps, record.samples, record.seed) == (before.run_id, 6, 40, 42)
    assert record.did == ["train", "eval", "predict"] and record.status == "finished"
    values = {entry.name: entry for entry in record.metrics}
    assert len(values) == len(record.metrics) == len(before.metrics)
    assert values["test_accuracy"].value == metrics["test_accuracy"] and values["test_accuracy"].rows == 6
    assert values["eval_accuracy"] in before.metrics and values["train_loss"] in before.metrics
    assert record.of_split("test").rows == 6 and record.of_split("train") == before.of_split("train")
    assert record.duration_seconds > before.duration_seconds and record.train_seconds == before.train_seconds
    assert record.name == "tuned" and record.frozen == ["vision"] and record.options == before.options
    assert "Frozen parts: vision." in (folder / "README.md").read_text()
    assert "| test_accuracy |" in (card := (folder / "README.md").read_text()) and "| 6 |" in card


def test_runs_that_only_evaluate_or_predict_are_recorded(chain, shapes, tmp_path):
    argv = ["--model_name_or_path", str(chain / "tuned"), "--dataset", str(shapes / "nlvr2"), *QUIET]
    argv += ["--output_dir", str(tmp_path / "scores")]
    run_task(NLVR2, "", [*argv, "--do_eval"])
    first = RunRecord.read(tmp_path / "scores")
    assert (first.did, first.started_from, first.status) == (["eval"], "./tuned", "finished")
    assert [ancestor.name for ancestor in first.history] == ["./tuned", "./pretrained"]
    assert first.steps is first.learning_rate is first.checkpoint is None
    assert {"eval_loss", "eval_accuracy"} <= {entry.name for entry in first.metrics}
    run_task(NLVR2, "", [*argv, "--do_predict"])
    both = RunRecord.read(tmp_path / "scores")
    assert both.run_id == first.run_id and both.did == ["eval", "predict"]
    assert {entry.split for entry in both.metrics} == {"validation", "test"}
    assert not (tmp_path / "scores" / "README.md").exists()


def test_the_record_of_a_training_is_not_written_over_by_another_models_evaluation(chain, shapes, capsys):
    before = (chain / "tuned" / "run.json").read_text()
    other = chain / "other"
    shutil.copytree(chain / "tuned", other, dirs_exist_ok=True)
    argv = ["--model_name_or_path", str(other), "--dataset", str(shapes / "nlvr2"), *QUIET, "--do_eval"]
    with pytest.raises(SystemExit) as stopped:
        run_task(NLVR2, "", [*argv, "--output_dir", str(chain / "tuned")])
    assert stopped.value.code == 2
    assert "holds the training of another model" in capsys.readouterr().err.splitlines()[-1]
    assert (chain / "tuned" / "run.json").read_text() == before


def test_a_resumed_training_goes_on_with_its_record(shapes, options, tmp_path):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--max_steps", "5"]
    argv += ["--save_steps", "2", "--save_strategy", "steps"]
    run_task(SNLIVE, "", argv)
    folder = tmp_path / "run"
    first = RunRecord.read(folder)
    assert first.steps == 5 and first.resumed_at == []
    # As it was when the checkpoint of step 4 was being saved and the process died.
    for name in ("checkpoint-4", "checkpoint-5"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "run_state.json").unlink()
    killed = dataclasses.replace(
        first, status="running", finished=None, steps=4, duration_seconds=1000.0, train_seconds=900.0
    )
    killed.write(folder)
    run_task(SNLIVE, "", argv)
    record = RunRecord.read(folder)
    assert (record.run_id, record.started) == (first.run_id, first.started)
    assert record.resumed_at == [2] and (record.steps, record.samples) == (5, 5 * 8)
    assert record.status == "finished" and record.train_seconds > 900 and record.duration_seconds > 1000


def test_a_run_that_is_cut_off_has_left_its_record_and_its_card(shapes, options, tmp_path):
    """They lie there before the first checkpoint, and tell of the last one."""
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--do_eval", "--max_steps", "4"]
    argv += ["--save_steps", "2", "--save_strategy", "steps", "--check_images", "false"]
    broken = tmp_path / "data"
    shutil.copytree(shapes / "snli_ve", broken)
    rows = Dataset.from_parquet(str(next(broken.glob("validation-*")))).cast_column("image", Image(decode=False))
    rows = rows.map(lambda row, index: {"image": {"bytes": b"no image", "path": None}}, with_indices=True)
    rows.to_parquet(str(next(broken.glob("validation-*"))))
    argv[argv.index(str(shapes / "snli_ve"))] = str(broken)
    with pytest.raises(SystemExit):
        run_task(SNLIVE, "", argv)
    record = RunRecord.read(tmp_path / "run")
    assert (record.status, record.finished, record.steps) == ("running", None, 4)
    assert "not finished" in (tmp_path / "run" / "README.md").read_text()


def test_what_is_no_record_is_refused_in_one_line(tmp_path):
    whole = json.loads(json.dumps(dataclasses.asdict(RunRecord())))
    for content, expected in (
        (None, "no such file"),
        ("{", "not JSON"),
        ("[1]", "expected entries with names, got list"),
        (json.dumps(whole | {"format": 99}), f"expected format {FORMAT}, got 99"),
        (json.dumps(whole | {"did": 3}), "the entry did has a value of another type: 3"),
        (json.dumps(whole | {"steps": True}), "the entry steps has a value of another type: True"),
        (json.dumps(whole | {"metrics": {"a": 1}}), "the entry metrics is no list of rows"),
        (json.dumps(whole | {"metrics": [{"name": ["a"]}]}), "the entry name has a value of another type"),
        (json.dumps(whole | {"colour": 1}), "colour"),
        (json.dumps(whole | {"metrics": [{"name": "a", "shape": 1}]}), "shape"),
    ):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=re.escape(expected)) as fault:
            RunRecord.read(tmp_path)
        assert "\n" not in str(fault.value) and str(tmp_path / "run.json") in str(fault.value)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = RunRecord(
        run_id="1", options={"text_overrides": {"hidden_size": 3}}, weights_from={"text": "google/électra"}
    )
    record.data = [DataSplit("train", ["./a\nb"], 3, "0f")]
    record.metrics = [MetricValue("eval_accuracy", "validation", "accuracy", 0.5, 3, 0.25, "majority")]
    record.history = [Ancestor("org/model", steps=3)]
    record.write(tmp_path)
    assert RunRecord.read(tmp_path) == record
    # A record that cannot be written leaves the one that is there, and nothing else.
    broken = dataclasses.replace(record, options={"a": object()})
    with pytest.raises(TypeError):
        broken.write(tmp_path)
    assert RunRecord.read(tmp_path) == record and [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    nan, metrics = float("nan"), {"eval_loss": float("nan"), "eval_rank": Score(float("inf"), 3, 2.0, "chance", True)}
    record = RunRecord(learning_rate=nan, metrics=metric_values(metrics, "eval_", "validation"))
    record.write(tmp_path)

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    read = RunRecord.read(tmp_path)
    assert read.learning_rate is None and [entry.value for entry in read.metrics] == [None, None]
    assert read.metrics[1].baseline == 2.0 and read.metrics[1].beats_baseline is False


def test_metrics_of_several_splits_keep_their_names():
    metrics = {
        "eval_testA_accuracy": Score(0.5, 4, 0.25, "chance"),
        "eval_testA_chance_accuracy": 0.25,
        "eval_testA_rows": 4,
    }
    metrics |= {"eval_testA_loss": 1.5, "eval_testA_runtime": 3.0, "eval_testB_loss": 2.5, "epoch": 1.0}
    found = metric_values(metrics, "eval_testA_", "testA")
    assert [(entry.name, entry.metric, entry.rows) for entry in found] == [
        ("eval_testA_accuracy", "accuracy", 4),
        ("eval_testA_loss", "loss", 4),
    ]


def test_a_fingerprint_is_that_of_the_content(shapes, tmp_path):
    """Wherever the data lies and however it is read; what is changed in a row changes it."""
    source = shapes / "snli_ve"
    data = open_split(str(source), "train")
    known = fingerprint(data)
    shutil.copytree(source, tmp_path / "copy")
    assert fingerprint(open_split(str(tmp_path / "copy"), "train")) == known
    rows = data.to_list()
    # Images in files of their own, and rows that are chosen from others.
    files = []
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.png").write_bytes(row["image"]["bytes"])
        files.append(row | {"image": {"bytes": None, "path": str(tmp_path / f"{number}.png")}})
    assert fingerprint(Dataset.from_list(files, features=data.features)) == known
    twice = Dataset.from_list([*rows, *rows], features=data.features)
    chosen = twice.select([*range(len(rows), len(rows) + 20), *range(20, len(rows))])
    assert fingerprint(chosen) == known
    image = bytearray(rows[3]["image"]["bytes"])
    image[-20] ^= 1
    changes = {
        "text": [*rows[:3], rows[3] | {"text": rows[3]["text"] + "."}, *rows[4:]],
        "label": [*rows[:3], rows[3] | {"label": (rows[3]["label"] + 1) % 3}, *rows[4:]],
        "image": [*rows[:3], rows[3] | {"image": {"bytes": bytes(image), "path": None}}, *rows[4:]],
        "fewer": rows[:-1],
        "order": rows[::-1],
    }
    digests = {
        name: fingerprint(Dataset.from_list(changed, features=data.features)) for name, changed in changes.items()
    }
    assert len({known, *digests.values()}) == len(changes) + 1


def test_fingerprints_of_lists_of_images_and_of_captions(shapes):
    pairs = open_split(str(shapes / "nlvr2"), "train")
    assert isinstance(pairs.features["images"], List)
    rows = pairs.to_list()
    assert fingerprint(pairs.select([5, 1, 2])) == fingerprint(
        Dataset.from_list([rows[5], rows[1], rows[2]], features=pairs.features)
    )
    swapped = [row | {"images": row["images"][::-1]} for row in rows]
    assert fingerprint(Dataset.from_list(swapped, features=pairs.features)) != fingerprint(pairs)
    captions = open_split(str(shapes / "captions"), "train")
    whole, limited = (fingerprint(CaptionedImages(captions, "shapes", limit)) for limit in (None, 127))
    assert whole != limited
    assert whole == fingerprint(CaptionedImages(captions, "another name"))


def test_the_commit_is_that_of_a_checkout_of_this_code(tmp_path):
    """Not that of another project whose folder the package is installed in."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "tasks").mkdir()
    file = Path(shutil.copy(machine.__file__, tmp_path / "tasks"))
    (tmp_path / "other.txt").write_text("another project")
    spec = spec_from_file_location("copied_machine", file)
    copied = module_from_spec(spec)
    spec.loader.exec_module(copied)
    assert copied.commit() == (None, None)
    git("init")
    git("add", "other.txt")
    git("commit", "-m", "another project")
    assert copied.commit() == (None, None)
    git("add", "tasks")
    git("commit", "-m", "this code")
    assert copied.commit() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "other.txt").write_text("changed")
    assert copied.commit() == (git("rev-parse", "HEAD"), True)


def test_every_field_is_documented():
    """docs/runs.md has the names of all fields, with their descriptions."""
    text = (ROOT / "docs" / "runs.md").read_text()
    for kind in (RunRecord, DataSplit, MetricValue, Ancestor):
        for entry in dataclasses.fields(kind):
            assert f"| `{entry.name}` | {entry.metadata['doc']} |" in text, entry.name


@pytest.mark.slow
def test_an_image_classifier_has_a_record_too(shapes, tmp_path, options):
    """A task of images alone, whose data is a file of its own."""
    rows = [
        {"image": row["image"], "label": row["label"]}
        for row in open_split(str(shapes / "snli_ve"), "train").to_list()
    ]
    data = Dataset.from_list([row | {"label": str(row["label"])} for row in rows])
    data.cast_column("image", Image()).to_parquet(str(tmp_path / "pictures.parquet"))
    argv = [*TWO_TOWER, *options, "--train_file", str(tmp_path / "pictures.parquet"), "--held_out", "4"]
    run_task(CIFAR10, "", [*argv, "--do_train", "--do_eval", "--max_steps", "2"])
    record = RunRecord.read(tmp_path / "run")
    assert [split.sources for split in record.data] == [["./pictures.parquet"], ["./pictures.parquet"]]
    assert sum(split.rows for split in record.data) == 32 and len({split.fingerprint for split in record.data}) == 2
