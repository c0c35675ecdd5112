"""Pushes of a run on two processes: the main one alone pushes, and a push that fails holds up neither."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from hub_server import TOKEN
from launching import Job


pytestmark = pytest.mark.slow


@pytest.fixture
def push(launch, hub, shapes, tokenizer_folder, tmp_path) -> Callable[..., Job]:
    """Pretrains and pushes on two processes, and expects an exit code."""

    def run(*extra: str, code: int = 0) -> Job:
        env = {"HF_HOME": str(tmp_path / "author"), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": ""}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        script = Path(__file__).with_name("distributed_push.py")
        return launch(2, script, tmp_path, shapes, tokenizer_folder, *extra, env=env, cwd=tmp_path, code=code)

    return run


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_the_main_process_pushes_each_commit_once(hub, push, tmp_path, strategy):
    extra = ["--hub_strategy", strategy, "--hub_always_push", "true", "--save_steps", "3"]
    # Six steps of sixteen rows.
    extra += ["--push_revisions", "2", "samples:33=after-33", "words:1"]
    done = push(*extra)
    repository = hub.model("author/run")
    branches = repository.branches
    during = [] if strategy == "end" else [f"Training in progress, step {step}" for step in (3, 6)]
    titles = [commit.title for commit in branches["main"]]
    assert titles == ["initial commit", *during, "Model save", "End of training"]
    assert {name: repository.find(name).title for name in repository.tags} == {
        "steps-2": "After 2 steps",
        "after-33": "After 33 samples",
        "words-1": "After 1 words",
    }
    assert sum(path == "/api/repos/create" for _, path in hub.requests) == 1
    commits = [path for _, path in hub.requests if "/commit/" in path]
    assert len(commits) == len(titles) - 1 + len(repository.tags)
    assert TOKEN not in done.output + done.errors
    assert not list((tmp_path / "run").glob("_*"))


def test_a_push_that_fails_ends_both_processes_with_all_saved(hub, push, tmp_path):
    hub.broken = lambda method, path: 403 * ("/commit/" in path)
    done = push("--hub_strategy", "every_save", "--save_steps", "3", code=1)
    assert done.errors.count("error: push_to_hub: this access token may not do that (broken). The model is in") == 1
    assert "'Training in progress, step 3' was not pushed" in done.errors
    assert (tmp_path / "run" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "run" / "train_results.json").is_file()


def test_a_repository_that_cannot_be_made_ends_both_processes(hub, push):
    hub.broken = lambda method, path: 403 * (path == "/api/repos/create")
    assert push(code=1).errors.count("error: push_to_hub: this access token may not do that") == 1


@pytest.mark.parametrize("given", ["option", "environment"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_file_and_no_line_has_the_token(hub, shapes, tokenizer_folder, tmp_path, given, fails):
    """Of a whole process that also writes events of TensorBoard, and of one whose last push fails."""
    hub.broken = (lambda method, path: 400 * ("/commit/" in path)) if fails else None
    home = tmp_path / "author"
    places = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | places | {"HF_TOKEN": TOKEN if given == "environment" else "", "OMP_NUM_THREADS": "1"}
    argv = [*TWO_TOWER, "--output_dir", "run", "--tokenizer", tokenizer_folder, "--do_train", "--max_steps", "4"]
    argv += [
        "--train_datasets",
        shapes / "captions",
        "--use_cpu",
        "--report_to",
        "tensorboard",
        "--logging_steps",
        "1",
    ]
    argv += ["--push_to_hub", "--save_steps", "2", "--hub_strategy", "checkpoint", "--log_level", "debug"]
    argv += ["--token", TOKEN] if given == "option" else []
    command = [sys.executable, "-c", "from renaissance_cli.main import main; main()", "pretrain", *argv]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == int(fails), done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if "tfevents" in path.name]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    commits = [commit for branch in hub.model("author/run").branches.values() for commit in branch]
    assert (len(commits) > 2) != fails
    assert not [path for commit in commits for path, content in commit.files.items() if TOKEN.encode() in content]
