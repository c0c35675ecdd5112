"""Scripts for SLURM: what they say, and what they cannot."""

import shlex
import subprocess

import pytest
from test_studies import STUDY, study_of

from renaissance.commands.study import main
from renaissance.studies.slurm import sbatch_script


def test_the_script_for_slurm_is_one_of_bash(tmp_path, capsys):
    study = study_of(STUDY, tmp_path)
    script = sbatch_script(study, 12, ["gres=gpu:1"])
    assert "#SBATCH --array=0-11\n" in script and "#SBATCH --gres=gpu:1\n" in script
    assert f"renaissance study run {study.path} --jobs 12 --index" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_the_script_for_slurm_quotes_what_it_must(tmp_path):
    """One argument a line, as sbatch reads it: blanks within quotes, and no % that it would replace. A shell reads these as sbatch does."""
    folder = tmp_path / "my 100% studies; $(touch x)"
    folder.mkdir()
    study = study_of(STUDY, folder)
    script = sbatch_script(study, 2, ["gres=gpu:1", "comment=a b # c", "exclusive"])
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    read = [shlex.split(line, comments=True) for line in lines]
    assert all(len(words) == 1 for words in read)
    options = dict(words[0].removeprefix("--").partition("=")[::2] for words in read)
    assert options["output"] == f"{str(folder).replace('%', '%%')}/out/slurm-%A_%a.log"
    assert options["comment"] == "a b # c" and options["exclusive"] == "" and options["gres"] == "gpu:1"
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("", "sbatch: expected options such as gres=gpu:1 or exclusive, got ''"),
        ("p gpu", "sbatch: expected options such as gres=gpu:1"),
        ("-p", "sbatch: expected options such as gres=gpu:1"),
        ("time=", "sbatch: time: expected a value"),
        ("array=0-3", "sbatch: array: the script itself has array"),
        ("out=x.log", "sbatch: out: the script itself has output"),
        ("no-requeue", "the script itself has no-requeue"),
        ("comment=a\n#SBATCH --array=0", "sbatch: comment: a script for sbatch cannot have 'a\\n#SBATCH --array=0'"),
        ('comment=a"b', "sbatch: comment: a script for sbatch cannot have"),
    ],
)
def test_options_of_sbatch_that_a_script_cannot_have(tmp_path, refused, option, message):
    study = study_of(STUDY, tmp_path)
    argv = ["launch", str(study.path), "--slurm", "--jobs", "2", f"--sbatch={option}"]
    assert message in refused(main, argv) and not (tmp_path / "out").exists()


def test_a_name_that_a_script_for_slurm_cannot_have(tmp_path, refused):
    folder = tmp_path / "it's"
    folder.mkdir()
    argv = ["launch", str(study_of(STUDY, folder).path), "--slurm", "--jobs", "2"]
    assert "the name of the study: a script for sbatch cannot have" in refused(main, argv)
