"""Architectures from outside the package: a module registers them, and `--import_module` brings them to the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from renaissance import register_architecture
from renaissance.modeling.architectures import ARCHITECTURES, HEADS
from renaissance.tasks.arguments import import_modules


ROOT = Path(__file__).parents[1]
EXTENSIONS = Path(__file__).parent / "extensions"
TOY = ["--import_module", "toy_architecture"]


@pytest.fixture
def run_script(monkeypatch):
    """Starts a run script in the folder of the extensions, in a process of its own: what it registers stays there."""

    def run(script: str, *argv: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "run_scripts" / script), *map(str, argv)]
        return subprocess.run(command, cwd=EXTENSIONS, capture_output=True, text=True)

    return run


def test_an_architecture_of_fewer_than_100_lines_trains_and_is_finetuned(run_script, shapes, options, tmp_path):
    assert len((EXTENSIONS / "toy_architecture.py").read_text().splitlines()) < 100
    model = [*TOY, "--architecture", "toy", "--hidden_size", "12", "--image_size", "32"]
    argv = [*model, *options, "--train_datasets", shapes / "captions", "--do_train", "--do_eval", "--max_steps", "4"]
    done = run_script("run_pretrain.py", *argv)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    saved = yaml.safe_load((folder / "run.yaml").read_text())
    assert saved["import_module"] == ["toy_architecture"] and saved["hidden_size"] == 12
    assert load_file(folder / "model.safetensors")["model.fusion.weight"].shape == (12, 12)
    # Beside the weights lies the code that they need.
    assert (folder / "toy_architecture.py").read_text() == (EXTENSIONS / "toy_architecture.py").read_text()

    # The recipe names the module this time.
    recipe = {"import_module": "toy_architecture", "model_name_or_path": str(folder), "do_train": True, "max_steps": 2}
    recipe |= {"dataset": str(shapes / "nlvr2"), "do_predict": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    argv = [tmp_path / "recipe.yaml", *options[2:-2], "--output_dir", tmp_path / "nlvr2"]
    done = run_script("run_nlvr2.py", *argv)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "nlvr2" / "predictions.csv").read_text().split()) == 10


def test_options_of_a_registered_architecture(run_script, tmp_path):
    shown = run_script("run_nlvr2.py", *TOY, "--help").stdout
    assert "two-tower, toy" in " ".join(shown.split()) and "Width of the toy (default: 8)" in " ".join(shown.split())
    argv = [*TOY, "--architecture", "toy", "--cross_modal_layers", "2", "--output_dir", tmp_path, "--do_train"]
    done = run_script("run_nlvr2.py", *argv)
    assert done.returncode == 2
    assert "cross_modal_layers: without effect on a toy model; leave it out" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "import_module broken: cannot be imported (ModuleNotFoundError: No module named 'broken')"),
        ("1 / 0", "import_module broken: cannot be imported (ZeroDivisionError: division by zero)"),
    ],
)
def test_modules_that_cannot_be_imported(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if text:
        (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ValueError) as raised:
        import_modules(["--do_train", "--import_module", "broken", "--seed", "1"])
    assert str(raised.value) == message


def test_a_name_is_registered_once():
    two_tower = ARCHITECTURES["two-tower"]
    with pytest.raises(ValueError, match="architecture 'two-tower' is registered already"):
        register_architecture("two-tower", two_tower.config_class, two_tower.models["Model"])
    assert set(two_tower.models) == {"Model", *HEADS}
