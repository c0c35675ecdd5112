"""Checkpoints are found whole or passed over, and a training goes on from one as if nothing had been."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from broken_runs import same_weights

from renaissance.tasks import checkpoints
from renaissance.tasks.checkpoints import MANIFEST, STAGING, Manifest, fault_of, newest_whole
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


@pytest.fixture
def broken_off(finished, tmp_path) -> tuple[Path, list[str]]:
    """The folder as a run leaves it that dies behind step 4, and the options with the folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (2, 4):
        shutil.copytree(finished[0] / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder, [*finished[1], "--output_dir", str(folder)]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a bit flipped": (flip_a_bit, "is not as it was saved"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "bytes, and had"),
    "emptied": (lambda path: os.truncate(path, 0), "bytes, and had"),
    "deleted": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_of_a_checkpoint_is_found(finished, tmp_path, damage):
    whole = finished[0] / "checkpoint-4"
    names = sorted(Manifest.read(whole).files)
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(names)
    assert set(names) == {path.name for path in whole.iterdir()} - {MANIFEST}
    assert fault_of(whole) is None
    for name in names:
        copy = tmp_path / name / "checkpoint-4"
        shutil.copytree(whole, copy)
        DAMAGES[damage][0](copy / name)
        assert f"its file {name} " in fault_of(copy) and DAMAGES[damage][1] in fault_of(copy)


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", '{"files": {}}', '{"step": 1, "files": {"a": {}}}', "7" * 5000]
)
def test_a_manifest_that_is_missing_or_broken_is_told(finished, tmp_path, content):
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(finished[0] / "checkpoint-4", copy)
    (copy / MANIFEST).unlink() if content is None else (copy / MANIFEST).write_text(content)
    assert ("saved to its end" if content is None else "is broken") in fault_of(copy)


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "loop/a"])
def test_a_file_that_cannot_be_read_is_a_fault_of_its_checkpoint(finished, tmp_path, name):
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(finished[0] / "checkpoint-4", copy)
    (copy / "loop").symlink_to("loop")
    manifest = Manifest.read(copy)
    manifest.files[name] = {"bytes": 0, "sha256": ""}
    manifest.write(copy)
    assert "cannot be read" in fault_of(copy)


def test_checkpoints_that_changed_their_names_are_passed_over(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "checkpoint-2").rename(folder / "checkpoint-9")
    assert "it is of step 2" in fault_of(folder / "checkpoint-9")
    assert checkpoints.newest_whole(folder) == folder / "checkpoint-6"
    # A copy elsewhere may have any name.
    (folder / "checkpoint-9").rename(folder / "kept")
    assert fault_of(folder / "kept") is None


def test_a_manifest_without_files_is_broken(finished, tmp_path):
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(finished[0] / "checkpoint-4", copy)
    manifest = Manifest.read(copy)
    manifest.files = {}
    manifest.write(copy)
    assert "is broken" in fault_of(copy)


def test_a_manifest_names_no_file_outside(finished, tmp_path):
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(finished[0] / "checkpoint-4", copy)
    manifest = Manifest.read(copy)
    (tmp_path / "outside").write_text("")
    manifest.files["../outside"] = checkpoints.entry_of(tmp_path / "outside")
    manifest.write(copy)
    assert "outside of it" in fault_of(copy)


def test_training_goes_on_from_the_newest_whole_checkpoint(finished, broken_off, caplog):
    """With the same command, and to the same weights, bit for bit."""
    folder, argv = broken_off
    flip_a_bit(folder / "checkpoint-4" / "optimizer.pt")
    (folder / STAGING / "checkpoint-5").mkdir(parents=True)
    (folder / STAGING / "checkpoint-5" / "model.safetensors").write_text("half")
    run_task(SNLIVE, "", argv)
    told = [message for message in caplog.messages if "is passed over" in message]
    assert len(told) == 1 and "checkpoint-4" in told[0] and "its file optimizer.pt is not as it was saved" in told[0]
    assert same_weights(folder, finished[0]) and same_weights(folder / "checkpoint-6", finished[0] / "checkpoint-6")
    assert not (folder / STAGING).exists()
    # The damaged one was replaced on the way.
    assert fault_of(folder / "checkpoint-4") is None


def test_without_a_whole_checkpoint_nothing_is_begun_anew(broken_off, refused):
    folder, argv = broken_off
    for step in (2, 4):
        flip_a_bit(folder / f"checkpoint-{step}" / "model.safetensors")
    assert "no checkpoint is whole (checkpoint-4: its file model.safetensors is not as" in refused(
        run_task, SNLIVE, "", argv
    )


def test_which_checkpoint_is_meant(broken_off, refused, tmp_path):
    folder, argv = broken_off
    assert "has checkpoints of an earlier run" in refused(
        run_task, SNLIVE, "", [*argv, "--resume_from_checkpoint", "false"]
    )
    empty = [*argv, "--output_dir", str(tmp_path / "empty"), "--resume_from_checkpoint"]
    assert "there is no checkpoint in" in refused(run_task, SNLIVE, "", [*empty, "true"])
    assert "there is no such folder" in refused(run_task, SNLIVE, "", [*empty, str(tmp_path / "none")])
    os.truncate(folder / "checkpoint-2" / "scheduler.pt", 3)
    assert "its file scheduler.pt has 3 bytes" in refused(run_task, SNLIVE, "", [*empty, str(folder / "checkpoint-2")])


@pytest.mark.parametrize(
    ("name", "words"),
    [("optimizer.pt", "the state of the optimizer"), ("scheduler.pt", "the place"), ("rng_state.pth", "the random")],
)
def test_what_is_missing_to_go_on_is_told_and_refused(broken_off, refused, caplog, name, words):
    folder, argv = broken_off
    shutil.rmtree(folder / "checkpoint-2")
    (folder / "checkpoint-4" / name).unlink()
    assert f"its file {name} is missing" in refused(run_task, SNLIVE, "", argv)
    run_task(SNLIVE, "", [*argv, "--resume_partial"])
    assert [words in message for message in caplog.messages if "resume_partial" in message] == [True]
    assert RunRecord.read(folder).steps == 6


def test_a_checkpoint_of_weights_alone_is_no_place_to_go_on_from(broken_off, refused):
    folder, argv = broken_off
    manifest = Manifest.read(folder / "checkpoint-4")
    manifest.weights_only = True
    manifest.write(folder / "checkpoint-4")
    assert "lacks all but the weights (it was saved with save_only_model)" in refused(run_task, SNLIVE, "", argv)
    manifest.weights_only, manifest.engine = False, "deepspeed"
    manifest.write(folder / "checkpoint-4")
    assert "lacks a state that torch can read (it was saved by deepspeed)" in refused(run_task, SNLIVE, "", argv)


@pytest.mark.parametrize(
    ("option", "value", "old"),
    [
        ("seed", "2", 1),
        ("lr_scheduler_type", "constant", "linear"),
        ("weight_decay", "0.5", 0.0),
        ("max_train_samples", "20", None),
        ("per_device_train_batch_size", "4", 8),
        ("warmup_steps", "3", 0),
        ("max_grad_norm", "3.0", 1.0),
    ],
)
def test_other_options_are_refused(broken_off, refused, option, value, old):
    folder, argv = broken_off
    before = (folder / "checkpoint-4" / "run.yaml").read_text()
    line = refused(run_task, SNLIVE, "", [*argv, f"--{option}", value])
    assert "was trained with other" in line and option in line
    assert (folder / "checkpoint-4" / "run.yaml").read_text() == before
    assert not (folder / "run.yaml").exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("--optim sgd", "optim adamw_torch_fused, and this run has sgd"),
        pytest.param("--optim adafactor", "and this run has adafactor", marks=pytest.mark.slow),
        ("--freeze vision", "other parameters"),
        pytest.param("--head_lr_multiplier 3", "other groups of them", marks=pytest.mark.slow),
        pytest.param("--layer_decay 0.5", "other groups of them", marks=pytest.mark.slow),
        pytest.param(
            "--lr_scheduler_type reduce_lr_on_plateau --eval_strategy epoch",
            "lr_scheduler_type linear, and",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_state_that_another_optimizer_cannot_take_over(broken_off, refused, caplog, options, fault):
    """It is refused, and begins anew if the user says so."""
    folder, argv = broken_off
    argv = [*argv, *options.split(), "--override_run"]
    line = refused(run_task, SNLIVE, "", argv)
    assert fault in line and "--resume_partial" in line
    run_task(SNLIVE, "", [*argv, "--resume_partial"])
    assert any(fault in message and "begin anew" in message for message in caplog.messages)
    assert fault_of(folder / "checkpoint-6") is None


def test_new_settings_of_an_optimizer_are_in_effect(broken_off):
    folder, argv = broken_off
    run_task(SNLIVE, "", [*argv, "--adam_beta1", "0.5", "--adam_epsilon", "1e-3", "--override_run"])
    groups = torch.load(folder / "checkpoint-6" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {(group["betas"][0], group["eps"], group["weight_decay"]) for group in groups} == {(0.5, 1e-3, 0.0)}


def test_harmless_options_change_and_others_are_noted(broken_off):
    folder, argv = broken_off
    RunRecord(did=["train"], steps=4).write(folder)
    more = ["--logging_steps", "3", "--dataloader_num_workers", "1", "--save_steps", "4", "--max_steps", "8"]
    more += ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    run_task(SNLIVE, "", [*argv, *more, "--seed", "2", "--override_run"])
    record = RunRecord.read(folder)
    assert record.steps == 8
    changes = {change["option"]: (change["step"], change["old"], change["new"]) for change in record.changes}
    assert changes == {
        "gradient_accumulation_steps": (4, 1, 2),
        "max_steps": (4, 6, 8),
        "per_device_train_batch_size": (4, 8, 4),
        "seed": (4, 1, 2),
    }
    assert yaml.safe_load((folder / "run.yaml").read_text())["seed"] == 2


def test_a_full_disk_ends_training_in_one_line(broken_off, capsys, monkeypatch):
    """The checkpoint that was being saved is gone, and the last one is whole."""
    folder, argv = broken_off

    def full(path: Path) -> None:
        if STAGING in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "sync", full)
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", argv)
    assert stopped.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1 and "checkpoint-6 could not be saved: No space left on device" in lines[0]
    assert "checkpoint-4 is whole, and the same command goes on from there" in lines[0]
    assert newest_whole(folder) == folder / "checkpoint-4" and not (folder / STAGING).exists()


def test_small_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    checkpoints.replace_file(path, "old")

    def fails(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="gone"):
        checkpoints.replace_file(path, "new")
    assert path.read_text() == "old"


def test_the_manifest_is_of_every_byte(finished):
    for checkpoint in finished[0].glob("checkpoint-*"):
        entries = json.loads((checkpoint / MANIFEST).read_text())["files"]
        assert {name: entry["bytes"] for name, entry in entries.items()} == {
            path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != MANIFEST
        }
