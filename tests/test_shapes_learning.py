"""Every task learns from `shapes`: the recipes, run as they are, end well above what a guess would reach."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


RECIPES = Path(__file__).parents[1] / "run_scripts" / "recipes"
#: For each task: its class, a metric of its run, what is reached without reading text and image both, and what the run has to reach.
TASKS = {
    "nlvr2": ("NLVR2", "test_accuracy", 0.5, 0.62),
    # Of three classes; whether something is covered says which of two it is.
    "snli_ve": ("SNLIVE", "test_accuracy", 0.667, 0.72),
    # The kind of the question narrows the answers down to two or four.
    "vqav2": ("VQAv2", "test_accuracy", 0.31, 0.45),
    "refcoco": ("RefCOCO", "test_testA_accuracy", 0.36, 0.7),
    "retrieval": ("Retrieval", "test_image_retrieval_r10", 0.1, 0.5),
    "glue": ("GLUE", "test_accuracy", 0.5, 0.65),
    "cifar10": ("CIFAR10", "test_accuracy", 0.0625, 0.8),
}
FROM_SCRATCH = ("glue", "cifar10")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A folder in which `make demo` has pretrained its model."""
    folder = tmp_path_factory.mktemp("learning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_data("captions")
        run_task(Pretraining, "", [str(RECIPES / "pretrain_shapes_two_tower.yaml"), "--disable_tqdm", "true"])
    return folder


def prepare_data(name: str) -> None:
    script = RECIPES.parent / "prepare_data.py"
    subprocess.run([sys.executable, script, "shapes", "--output", "demo/shapes", "--only", name], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_recipe_learns(name, request, tmp_path, monkeypatch):
    task, metric, guess, enough = TASKS[name]
    monkeypatch.chdir(tmp_path if name in FROM_SCRATCH else request.getfixturevalue("pretrained"))
    prepare_data(name)
    task = getattr(import_module(f"renaissance.tasks.{name}"), task)
    metrics = run_task(task, "", [str(RECIPES / f"{name}_shapes.yaml"), "--disable_tqdm", "true"])
    assert guess < enough < metrics[metric], metrics
