"""Every task learns from `shapes`: the recipes, run as they are, end well above what a guess would reach."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from scene_reading import accuracy_from

from renaissance.tasks.data import shapes
from renaissance.tasks.data.shapes.posts import WARM
from renaissance.tasks.data.shapes.scenes import COVERED
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


RECIPES = Path(__file__).parents[1] / "run_scripts" / "recipes"
#: What `prepare_data.py shapes` draws for a test split.
NUM_TEST = 500
#: Three standard errors of an accuracy on so many rows, at its widest.
CLEARLY = 3 * (0.25 / NUM_TEST) ** 0.5


@dataclass(frozen=True)
class Learned:
    """What a run is expected to learn: its task's class, a metric, the best that a part of the input allows on the same rows,
    and what the run has to reach. That lies well below what one seed gave (docs/results.md), for others and other machines."""

    task: str
    metric: str
    guess: Callable[[], float]
    enough: float
    #: The module of the task, if it is not called as the data set is.
    module: str | None = None


def best_guess(make: Callable, part: Callable, label: Callable, split: str = "test") -> float:
    """The accuracy on a test split of who knows one part of the input, and for each value of it the most frequent label."""
    made = [make(0, split, index) for index in range(NUM_TEST)]
    return accuracy_from([part(one) for one in made], [label(one) for one in made])


def has_something_covered(entailment: shapes.Entailment) -> bool:
    return any(item.look == COVERED for item in entailment.scene.objects)


LEARNED = {
    # From the statement.
    "nlvr2": Learned(
        "NLVR2",
        "test_accuracy",
        lambda: best_guess(shapes.make_pair, lambda made: made.statement.text, lambda made: made.label),
        enough=0.62,
    ),
    # From the picture: a cover parts neutral from contradiction. From the hypothesis it would be one in three.
    "snli_ve": Learned(
        "SNLIVE",
        "test_accuracy",
        lambda: best_guess(shapes.make_entailment, has_something_covered, lambda made: made.label),
        enough=0.735,
    ),
    # From the sentence.
    "image_text": Learned(
        "ImageTextClassification",
        "test_accuracy",
        lambda: best_guess(shapes.make_post, lambda made: made.colour in WARM, lambda made: made.label),
        enough=0.9,
        module="image_text_classification",
    ),
    # From the question, whose kind leaves two or four answers.
    "vqav2": Learned(
        "VQAv2",
        "test_accuracy",
        lambda: best_guess(shapes.make_question, lambda made: made.text, lambda made: made.answer),
        enough=0.45,
    ),
    # From how many boxes there are.
    "refcoco": Learned(
        "RefCOCO",
        "test_testA_accuracy",
        lambda: best_guess(shapes.make_reference, lambda made: len(made.order), lambda made: made.label, "testA"),
        enough=0.7,
    ),
    # From nothing: ten of the hundred images that the recipe ranks.
    "retrieval": Learned("Retrieval", "test_image_retrieval_r10", lambda: 10 / 100, enough=0.5),
    # From the first sentence.
    "glue": Learned(
        "GLUE",
        "test_accuracy",
        lambda: best_guess(shapes.make_text_pair, lambda made: made.texts[0], lambda made: made.label),
        enough=0.62,
    ),
    # From nothing.
    "cifar10": Learned(
        "CIFAR10",
        "test_accuracy",
        lambda: best_guess(shapes.make_single, lambda made: None, lambda made: made.objects[0].look),
        enough=0.8,
    ),
}
FROM_SCRATCH = ("glue", "cifar10", "image_text")


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
@pytest.mark.parametrize("name", LEARNED)
def test_a_recipe_learns(name, request, tmp_path, monkeypatch):
    expected = LEARNED[name]
    assert expected.guess() + CLEARLY < expected.enough
    monkeypatch.chdir(tmp_path if name in FROM_SCRATCH else request.getfixturevalue("pretrained"))
    prepare_data(name)
    task = getattr(import_module(f"renaissance.tasks.{expected.module or name}"), expected.task)
    metrics = run_task(task, "", [str(RECIPES / f"{name}_shapes.yaml"), "--disable_tqdm", "true"])
    assert metrics[expected.metric] > expected.enough, metrics
