"""Runs that a study has left behind when it was killed, and notes of runs that cannot be read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_studies import CHAIN, run_in_process, shown, study_of

from renaissance.commands.study import main
from renaissance.studies.notes import RUNNING, Note, log_of, place_of
from renaissance.studies.plan import runs_of
from renaissance.studies.running import reason_in
from renaissance.tasks.run_lock import exclusive, is_held
from renaissance.tasks.run_record import RunRecord


#: Two preparations of two rows, which are over in seconds.
DATA = """
output_dir: {folder}/out
stages:
  data:
    command: prepare shapes
    options: {num_train: 2, num_validation: 2, num_test: 2, only: [glue]}
axes:
  rows:
    two: {}
    three:
      data: {num_train: 3}
"""
HOLDER = """
import sys, time
from pathlib import Path
from renaissance.tasks.run_lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen:
    """Start a process that has the folder of a run for some seconds."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_run_that_was_left_behind_is_waited_for(tmp_path, capsys):
    """Its study was killed, so that nobody holds the lock of the study; the run itself still has its folder."""
    study = study_of(DATA, tmp_path)
    first = runs_of(study)[0]
    first.folder.mkdir(parents=True)
    Note(RUNNING).write(first)
    holder = hold(first.folder, 4)
    assert is_held(first.folder)
    assert run_in_process(study.path) == 0 and holder.wait() == 0
    out = capsys.readouterr().out
    assert "data two: another process runs it, which is waited for" in out and "failed" not in out
    assert not is_held(first.folder)


def test_an_encoder_that_ended_without_its_study_is_done(tmp_path):
    """Its command would refuse to write it again."""
    study = study_of(
        "output_dir: {folder}/out\nstages:\n  words:\n    command: encoder text\n    options: {dataset: x, tokenizer: y}\n",
        tmp_path,
    )
    (run,) = runs_of(study)
    RunRecord(name="words", status="finished", did=["train"]).write(run.folder)
    Note(RUNNING, seconds=3.0).write(run)
    assert run_in_process(study.path) == 0
    assert Note.find(run).status == "done" and not log_of(run).exists()


def test_a_second_encoder_keeps_out_of_the_folder(tmp_path, refused):
    from renaissance.commands.encoder import main as encoder

    with exclusive(tmp_path / "words"):
        told = refused(encoder, ["text", "--dataset", "x", "--tokenizer", "y", "--output", str(tmp_path / "words")])
    assert "words is in use by process" in told


def test_a_note_that_cannot_be_read_is_that_of_a_failed_run(tmp_path, capsys):
    """The others are run, and the note is not overwritten."""
    study = study_of(DATA, tmp_path)
    first, other = runs_of(study)
    first.folder.parent.mkdir(parents=True)
    place_of(first).write_text('{"status": "done", "seco')
    assert run_in_process(study.path) == 1
    out = capsys.readouterr().out
    assert f"failed: data two: {place_of(first)}: not what a study noted of a run" in out
    assert Note.find(other).status == "done" and place_of(first).read_text() == '{"status": "done", "seco'
    with pytest.raises(SystemExit) as end:
        main(["run", str(study.path), "--dry_run"])
    assert end.value.code == 0


def test_the_reason_is_the_line_about_the_mistake(tmp_path):
    """Not a line of progress of another process that writes the same log, or what earlier attempts have written."""
    log = tmp_path / "run.log"
    log.write_text("renaissance nlvr2: error: an earlier one\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("renaissance pretrain: error: no such file\nstep 3/8\rstep 4/8\n")
    assert reason_in(log, start) == "renaissance pretrain: error: no such file"
    log.write_text("Traceback:\nKeyError: 'x'\n\n")
    assert reason_in(log, 0) == "KeyError: 'x'"


def test_a_failed_task_is_called_by_its_command(tmp_path):
    """Also when it was started as a module, as a study starts it."""
    argv = ["pretrain", "pretrain_shapes_two_tower", "--train_datasets", str(tmp_path / "nothing"), "--use_cpu"]
    command = [sys.executable, "-m", "renaissance_cli", *argv, "--output_dir", str(tmp_path / "out")]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith("renaissance pretrain: error: ")


@pytest.mark.slow
def test_a_study_that_is_killed_takes_up_its_orphans(tmp_path):
    """As the kernel does when memory runs out: the training goes on alone, and what it made is taken as it is."""
    text = CHAIN.replace("max_steps: 1,", "max_steps: 150, logging_steps: 1,").split("axes:")[0]
    study = study_of(text, tmp_path)
    command = [sys.executable, "-m", "renaissance_cli", "study", "run", str(study.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while "step 2/150" not in shown(study.output_dir):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = runs_of(study)[-1]
    assert is_held(run.folder)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "another process runs it, which is waited for" in again.stdout, again.stdout
    assert json.loads(place_of(run).read_text())["status"] == "done"
    assert RunRecord.read(run.folder).resumed_at == [] and shown(study.output_dir).count("step 12/150") >= 1
