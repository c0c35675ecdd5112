"""Weights in bfloat16 learn as float32 ones do: loss, gradients and weights of 300 steps on `shapes`, beside those of other seeds."""

import copy
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_shapes_learning import RECIPES

from renaissance.tasks.master_weights import MasterWeights
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
TEXT = SIZES | {"max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

#: The options of each run, all of which begin with the recipe of `make demo`.
RUNS = {
    "float32, seed 0": ["--seed", "0"],
    "float32, seed 1": ["--seed", "1"],
    "float32, seed 2": ["--seed", "2"],
    "float32, other order": ["--seed", "0", "--data_seed", "1"],
    "bfloat16 weights, seed 0": ["--seed", "0", "--bf16_weights"],
}


def command(folder: Path, extra: list[str]) -> list[str]:
    """A run of a small model; docs/performance.md has the same as a command line."""
    return [
        str(RECIPES / "pretrain_shapes_two_tower.yaml"), "--do_eval", "false", "--output_dir", str(folder), "--max_steps", "300",
        "--per_device_train_batch_size", "16", "--learning_rate", "1.0e-3", "--logging_steps", "25",
        "--text_overrides", json.dumps(TEXT), "--vision_overrides", json.dumps(SIZES | {"image_size": 64, "patch_size": 16}),
        "--cross_modal_hidden_size", "64", "--cross_modal_layers", "1", "--cross_modal_heads", "2", "--disable_tqdm", "true", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the data and with all `RUNS`."""
    folder = tmp_path_factory.mktemp("curves")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        script = RECIPES.parent / "prepare_data.py"
        options = ["--output", "demo/shapes", "--only", "captions", "--num_train", "300"]
        subprocess.run([sys.executable, script, "shapes", *options], check=True)
        for name, extra in RUNS.items():
            run_task(Pretraining, "", command(folder / name, extra))
    return folder


def curve(folder: Path, name: str) -> np.ndarray:
    """The mean losses (12,) of each 25 steps of a run."""
    history = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
    return np.array([entry["loss"] for entry in history if "loss" in entry])


def weights(folder: Path, name: str) -> torch.Tensor:
    """All weights of a run, as one vector."""
    saved = load_file(folder / name / "model.safetensors")
    return torch.cat([saved[key].flatten() for key in sorted(saved) if saved[key].is_floating_point()])


@pytest.mark.slow
def test_losses_are_those_of_float32_within_the_spread_of_seeds(folder):
    seeds = np.array([curve(folder, f"float32, seed {seed}") for seed in range(3)])
    rounded = curve(folder, "bfloat16 weights, seed 0")
    assert len(rounded) == 12 and rounded[-1] < 0.6 * rounded[0]
    assert np.abs(rounded - seeds[0]).mean() <= np.ptp(seeds, axis=0).mean()


@pytest.mark.slow
def test_weights_are_nearer_to_those_of_float32_than_another_order_of_the_rows(folder):
    """From the same beginning."""
    exact = weights(folder, "float32, seed 0")
    rounded, reordered = (weights(folder, name) for name in ("bfloat16 weights, seed 0", "float32, other order"))
    assert 0 < (rounded - exact).norm() < (reordered - exact).norm()


@pytest.mark.slow
def test_gradients_are_those_of_float32(folder, tmp_path, monkeypatch):
    """Of trained weights, on one batch: as one vector, and less far than from one batch to the next."""
    monkeypatch.chdir(folder)
    trainer, *_ = prepare(Pretraining, "", command(tmp_path, []))
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    for batch in batches:
        batch.pop("sample_ids", None)
    exact = trainer.model.train()
    exact.load_state_dict(load_file(folder / "float32, seed 0" / "model.safetensors"), strict=False)
    rounded = copy.deepcopy(exact)
    masters = MasterWeights(rounded)

    def gradients(model, batch, of) -> torch.Tensor:
        model.zero_grad()
        model(**batch).loss.backward()
        masters.take_gradients()
        return torch.cat([of(each).grad.flatten() for each in model.parameters() if of(each).grad is not None])

    single = [gradients(exact, batch, lambda each: each) for batch in batches]
    half = gradients(rounded, batches[0], masters.of)
    error = (half - single[0]).norm() / single[0].norm()
    assert error < 0.1
    assert all(error < 0.5 * (one - other).norm() / one.norm() for one, other in pairwise(single))
