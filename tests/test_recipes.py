"""The recipes of the paper's runs: their figures, and the rates that finetuning reaches."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.optimization import make_schedule


RECIPES = Path(__file__).parent.parent / "run_scripts" / "recipes"
#: The warm-ups of the platform's finetuning runs were a share of this number of steps.
STEPS_OF_THE_PLATFORM = 10_000_000


def read(name: str) -> dict:
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "rows", "written", "share", "batch", "epochs", "size"),
    [
        ("nlvr2", 86_373, 7.5e-5, 0.05, 256, 40, 288),
        ("snli_ve", 529_527, 5e-5, 0.1, 64, 10, 384),
        ("refcoco", 120_624, 7.5e-4, 0.1, 60, 10, 224),
    ],
)
def test_finetuning_rises_to_the_rate_that_the_platform_reached(
    name, rows, written, share, batch, epochs, size, tmp_path
):
    """At every step of the run the rates are those of the platform, whose warm-up outlasted the run."""
    recipe = read(name)
    assert (recipe["total_batch_size"], recipe["num_train_epochs"], recipe["image_size"]) == (batch, epochs, size)
    assert (recipe["cross_modal_lr_multiplier"], recipe["head_lr_multiplier"]) == (15, 5)
    assert "freeze" not in recipe
    names = ("learning_rate", "lr_scheduler_type", "warmup_steps", "total_batch_size", "per_device_train_batch_size")
    args = RunArguments(
        output_dir=str(tmp_path), report_to="none", do_train=True, **{each: recipe[each] for each in names}
    )
    steps = epochs * math.ceil(rows / batch)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    schedule = make_schedule(args, optimizer, args.get_warmup_steps(steps), steps)
    for step in range(0, steps, steps // 200):
        expected = written * step / (share * STEPS_OF_THE_PLATFORM)
        assert args.learning_rate * schedule.lr_lambdas[0](step) == pytest.approx(expected, rel=0.02)


def test_comments_have_the_written_rates():
    """Also those of the large model and of one tower, as options to type; they are worked out in the same way."""
    expected = {"nlvr2": [7.5e-5], "snli_ve": [5e-5, 2e-6 * 41_370 / 1e6, 2e-6 * 82_740 / 1e6], "refcoco": [7.5e-4]}
    for name, rates in expected.items():
        given = re.findall(r"^#.*--learning_rate (\S+)", (RECIPES / f"{name}.yaml").read_text(), flags=re.M)
        assert [float(rate) for rate in given] == pytest.approx(rates, rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "pretrain_exp1_two_tower",
            {"max_steps": 100_000, "total_batch_size": 704, "learning_rate": 1e-4, "cross_modal_hidden_size": 256}
            | {"cross_modal_layers": 6, "cross_modal_heads": 4, "whole_word_masking": True, "head_lr_multiplier": 5}
            | {"cross_modal_lr_multiplier": 5},
        ),
        (
            "pretrain_exp1_two_tower_large",
            {"learning_rate": 7.5e-5, "cross_modal_layers": 10, "freeze": ["text", "vision"], "head_lr_multiplier": 5}
            | {"whole_word_masking": True, "cross_modal_lr_multiplier": 5},
        ),
        (
            "pretrain_exp2_one_tower_bert",
            {"max_steps": 50_000, "total_batch_size": 512, "random_init_embeddings": True},
        ),
        (
            "pretrain_exp2_one_tower_vit",
            {"max_steps": 50_000, "total_batch_size": 512, "random_init_embeddings": True},
        ),
        ("pretrain_exp2_one_tower_random", {"max_steps": 50_000, "total_batch_size": 512, "random_init": True}),
    ],
)
def test_pretraining_is_that_of_the_paper(name, expected):
    recipe = read(name)
    assert {key: recipe[key] for key in expected} == expected
    assert recipe["train_datasets"] == ["data/coco", "data/vg"] and recipe["max_length"] == 50
