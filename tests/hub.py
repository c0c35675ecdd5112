"""The Hub of a test: a server on this machine, and this process as somebody who knows no other."""

import sys
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from hub_server import TOKEN, HubServer
from huggingface_hub import constants

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


WEIGHTS = "model.safetensors"

#: What a commit must hold for others to load it.
WHOLE = {
    "README.md",
    "config.json",
    "model.safetensors",
    "modeling_two_tower.py",
    "processing_renaissance.py",
    "tokenizer.json",
}


def serve(monkeypatch: pytest.MonkeyPatch, home: Path) -> HubServer:
    """Start a server, and make it the Hub of this process, whose cache and token are under `home`."""
    server = HubServer()
    changes = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
    }
    for name, value in changes.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    # A client that transformers makes once.
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    keep_modules_in(home / "modules", monkeypatch)
    # Set first, so that what a run sets is taken back.
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return server


def keep_modules_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers copy the code of checkpoints to `folder`, and forget code that it has copied elsewhere."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        # Python looks for all of a package where it found the first of it.
        monkeypatch.delitem(sys.modules, name)


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files of a commit into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pretrain_and_push(folder: Path, shapes: Path, tokenizer: Path, *extra: str) -> dict[str, float]:
    """Pretrain a tiny model for six steps of eight rows, and push it as `author/run`."""
    argv = [
        *TWO_TOWER,
        "--output_dir",
        str(folder / "run"),
        "--tokenizer",
        str(tokenizer),
        "--do_train",
        "--max_steps",
        "6",
    ]
    argv += ["--train_datasets", str(shapes / "captions"), "--per_device_train_batch_size", "8", "--seed", "1"]
    argv += ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--push_to_hub", "--token", TOKEN, *extra]
    return run_task(Pretraining, "", argv)
