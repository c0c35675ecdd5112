"""A text encoder learns to read a trained and locked image tower (LiT), by the recipe for `shapes`, and names what it never named."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from renaissance.commands.encoder import main as encoder
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[1] / "run_scripts" / "recipes" / "pretrain_shapes_lit.yaml"
QUIET = ["--disable_tqdm", "true", "--use_cpu", "--report_to", "none"]


def test_a_text_encoder_learns_to_read_a_locked_image_tower(prepare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["--num_train", "1500", "--num_validation", "200", "--num_test", "10"]
    prepare("shapes", "--output", "demo/shapes", "--only", "captions", "cifar10", *rows)
    encoder(["vision", "--dataset", "demo/shapes/cifar10", "--output", "demo/eyes", "--max_steps", "200"])
    metrics = run_task(Pretraining, "", [str(RECIPE), *QUIET, "--max_steps", "300"])
    for way in ("image", "text"):
        assert metrics[f"eval_contrastive_{way}_accuracy"] > 5 * metrics[f"eval_contrastive_chance_{way}_accuracy"]
    trained = AutoModel.from_pretrained("demo/pretrained_lit").vision_encoder.state_dict()
    locked = AutoModel.from_pretrained("demo/eyes").state_dict()
    assert len(trained) > 50 and all(torch.equal(value, locked[name]) for name, value in trained.items())
    assert list(Path("demo/lit_features").glob("*.safetensors"))

    # Its captions are of scenes of several things; here is one thing an image, of 16 classes.
    argv = ["--model_name_or_path", "demo/pretrained_lit", "--dataset", "demo/shapes/cifar10", "--do_eval", *QUIET]
    named = run_task(CIFAR10, "", [*argv, "--output_dir", "named", "--prompts", "a {}"])
    assert named["eval_accuracy"] > 2 * named["eval_majority_accuracy"]
