"""What lies in the folder of a run, and is no file of a run: nothing is written through it, and it is told of before training."""

import json
import os

import pytest
from conftest import TWO_TOWER

from renaissance.tasks.checkpoints import delete_older, replace_file
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.run_lock import OWNER_FILE, exclusive
from renaissance.tasks.runner import run_task


@pytest.fixture
def precious(tmp_path):
    file = tmp_path / "precious"
    file.write_text("mine")
    return file


@pytest.mark.parametrize("name", [".lock", ".lock.json"])
def test_a_lock_follows_no_link(name, precious, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(precious)
    if name == ".lock":
        with pytest.raises(ValueError, match=r"output_dir .*run: its \.lock is no file"), exclusive(run):
            pass
    else:
        with exclusive(run):
            assert json.loads((run / OWNER_FILE).read_text())["process"] == os.getpid()
    assert precious.read_text() == "mine"


def test_a_pipe_in_place_of_the_owner_is_replaced(tmp_path):
    """Which would wait for a reader without end."""
    os.mkfifo(tmp_path / OWNER_FILE)
    with exclusive(tmp_path):
        assert json.loads((tmp_path / OWNER_FILE).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("name", [".lock", ".lock.json"])
def test_a_folder_in_place_of_a_lock_is_named(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"output_dir .*: its {name} is no file"), exclusive(tmp_path):
        pass


def test_a_small_file_follows_no_link(precious, tmp_path):
    for name in ("state.json", ".state.json.new"):
        (tmp_path / name).symlink_to(precious)
    replace_file(tmp_path / "state.json", "new")
    assert (tmp_path / "state.json").read_text() == "new" and not (tmp_path / "state.json").is_symlink()
    assert precious.read_text() == "mine"


NAMES = [
    "run.yaml",
    "run.json",
    "README.md",
    "config.json",
    "model.safetensors",
    "train_results.json",
    "bad_rows.jsonl",
]
NAMES += ["trainer_state.json", "training_args.bin", "predictions.csv", ".run.json.new"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_the_name_of_a_file_is_told_before_anything_is_read(name, tmp_path, tokenizer_folder, refused):
    (tmp_path / name / "mine").mkdir(parents=True)
    said = refused(run_task, NLVR2, "", argv_of(tmp_path, tokenizer_folder))
    assert f"output_dir {tmp_path}: {name} is a folder, and has a name that a file of a run may get" in said
    assert (tmp_path / name / "mine").is_dir()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_place_for_saving_that_is_no_folder_is_told(kind, tmp_path, tokenizer_folder, refused):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (run / ".saving").write_text("") if kind == "file" else (run / ".saving").symlink_to(elsewhere)
    said = refused(run_task, NLVR2, "", argv_of(run, tokenizer_folder))
    assert f"output_dir {run}: .saving, in which a run saves, is there and cannot be deleted" in said
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]


def argv_of(run, tokenizer) -> list[str]:
    options = [
        "--tokenizer",
        str(tokenizer),
        "--dataset",
        "nowhere",
        "--output_dir",
        str(run),
        "--do_train",
        "--use_cpu",
    ]
    return [*TWO_TOWER, *options]


def test_a_checkpoint_that_its_owner_protects_is_kept(tmp_path, monkeypatch, caplog):
    """Its folder cannot be renamed. To the administrator, who runs tests, all may be written."""
    for step in (2, 4, 6, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
    protected, access = tmp_path / "checkpoint-2", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != protected and access(path, mode))
    delete_older(tmp_path / "checkpoint-8", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]
    assert f"save_total_limit: {protected} is read-only, and is kept" in caplog.text
