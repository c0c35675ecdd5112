"""The examples of docs/tasks.md for data of one's own run as they are written, on files as they are written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from PIL import Image

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SECTIONS = dict(
    section.split("\n", 1) for section in re.split("^## ", (ROOT / "docs" / "tasks.md").read_text(), flags=re.M)[1:]
)
#: Where an example has the checkpoint that it begins with.
CHECKPOINTS = ("outputs/exp1-two-tower", "outputs/pretrained")


def write_files(text: str, folder: Path) -> None:
    """The data that a section shows, and pictures of the names in it."""
    shown = re.findall(r"[Ii]n `([\w.]+)`[^\n]*\n\n```\n(.*?)```", text, flags=re.S)
    shown += re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", text, flags=re.S)
    for name, content in shown:
        (folder / name).write_text(content)
        (folder / f"held_out{Path(name).suffix}").write_text(content)
    for number, name in enumerate(sorted(set(re.findall(r"[\w/]+\.jpg", text)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 150), (40 * number % 256, 90, 160)).save(folder / name)


def test_every_task_has_an_example():
    assert len(SECTIONS) == 9
    assert all("--train_file" in text for text in SECTIONS.values())


@pytest.mark.parametrize("section", SECTIONS)
def test_examples_run(section, shapes, options, tmp_path):
    text = SECTIONS[section]
    write_files(text, tmp_path)
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--max_steps", "1"]
    run_task(Pretraining, "", argv)
    (tmp_path / "outputs").mkdir()
    for name in CHECKPOINTS:
        (tmp_path / name).symlink_to(tmp_path / "run")
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S) if "--train_file" in block]
    # Of one's own classes there are two: one a row, and several.
    assert len(blocks) == (2 if section == "Images with texts, and your own classes" else 1)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for block in blocks:
        # Of the images in a folder there are fewer here.
        script = block.replace("--held_out 0.1", "--held_out 1")
        command = f"set -e\n{script}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        output = re.search(r"--output_dir (\S+)", script)[1]
        assert "eval_loss" in (results := (tmp_path / output / "all_results.json").read_text()) or "recall" in results
