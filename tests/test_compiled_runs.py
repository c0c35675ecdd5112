"""Runs with compiled layers: few versions of them over captions of all lengths, and the losses of a run without."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from broken_runs import same_weights
from conftest import TWO_TOWER
from datasets import Dataset
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers.integrations.deepspeed import is_deepspeed_available

from renaissance.tasks.data import schemas
from renaissance.tasks.data.shapes import DATA_SETS
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
COMPILED = ["--torch_compile", "--torch_compile_backend", "aot_eager"]
#: The longest text, which is no multiple of 8.
LIMIT = 45
STILL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64} | {
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Path:
    """Captioned scenes whose captions have every number of words up to the limit and beyond."""
    folder = tmp_path_factory.mktemp("captions")
    words = ("red circle green square blue star " * 9).split()
    for split, count in (("train", 52), ("validation", 21)):
        rows = list(DATA_SETS["captions"].rows(split, count, 0, 32))
        for number, row in enumerate(rows):
            row["captions"] = [" ".join(words[: 1 + number * 47 // count])]
        data = Dataset.from_list(rows, features=schemas.CAPTIONS)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def argv(captions, tokenizer_folder) -> list:
    """Two epochs of batches of 8 rows with captions of like length, the last of 4, each with an evaluation, whose last batch is one row."""
    towers = [
        "--text_overrides",
        json.dumps(STILL),
        "--vision_overrides",
        json.dumps(STILL | {"image_size": 32, "patch_size": 8}),
    ]
    found = [*TWO_TOWER, *towers, "--cross_modal_layers", "3", "--cross_modal_dropout", "0", "--max_length", LIMIT]
    found += ["--tokenizer", tokenizer_folder, "--train_datasets", captions, "--do_train", "--do_eval"]
    found += ["--num_train_epochs", "2", "--eval_strategy", "epoch", "--train_sampling_strategy", "group_by_length"]
    found += [
        "--per_device_train_batch_size",
        "8",
        "--per_device_eval_batch_size",
        "4",
        "--report_to",
        "none",
        "--use_cpu",
    ]
    found += ["--disable_tqdm", "true", "--seed", "1", "--logging_steps", "1", "--bf16", "false", "--optim", "sgd"]
    return [str(word) for word in [*found, "--learning_rate", "0.1", "--lr_scheduler_type", "constant"]]


def losses(folder: Path) -> list[dict[str, float]]:
    """All losses that a run has logged, in their order, and the accuracies of evaluations."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name.endswith(("loss", "accuracy"))} for entry in history]


def assert_alike(one: Path, other: Path) -> None:
    """Losses and weights of two runs differ by no more than rounding."""
    expected, found = losses(one), losses(other)
    assert len(found) == len(expected) > 3
    for step, (those, these) in enumerate(zip(expected, found, strict=True)):
        assert these == pytest.approx(those, abs=1e-5), step
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-5, msg=name)


def versions() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


#: Options, and the kinds of layers that are compiled: of the text tower, of the vision tower, cross-modal ones.
VARIANTS = {
    "all": ([], 3),
    # Layers with frozen weights, or whose input has no gradient, are kinds of their own.
    "last layers": (["--freeze", "text", "vision:-1"], 5),
    "cached": (["--freeze", "vision", "--cache_frozen_features", "CACHE"], 2),
    "checkpointed": (["--gradient_checkpointing", "--gradient_accumulation_steps", "2"], 3),
    "other pairs": (["--itm_negatives", "random", "--objectives", "mlm", "itm", "contrastive"], 3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_few_versions_and_the_losses_of_a_run_without(argv, tmp_path, name):
    extra, kinds = VARIANTS[name]
    extra = [str(tmp_path / "cache") if word == "CACHE" else word for word in extra]
    run_task(Pretraining, "", [*argv, *extra, "--output_dir", str(tmp_path / "plain")])
    assert versions() == 0
    run_task(Pretraining, "", [*argv, *extra, *COMPILED, "--output_dir", str(tmp_path / "compiled")])
    # For whole batches, for other ones, and for evaluation; one for evaluation of a single row; and the sum that tries the compiler.
    assert kinds < versions() <= 3 * kinds + 2
    assert_alike(tmp_path / "plain", tmp_path / "compiled")


def test_a_resumed_run_ends_as_the_unbroken_one(argv, tmp_path):
    argv = [*argv, *COMPILED, "--num_train_epochs", "1", "--save_strategy", "steps", "--save_steps", "3"]
    run_task(Pretraining, "", [*argv, "--output_dir", str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    run_task(Pretraining, "", [*argv, "--output_dir", str(tmp_path / "resumed")])
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "resumed")


ENGINES = {"ddp": [], "zero2": ["--deepspeed", "zero2"]}


@pytest.mark.parametrize("name", ENGINES)
def test_two_processes(launch, argv, tmp_path, name):
    """With the losses of two without compiled layers, with frozen parts and accumulation. Each process says how many versions it had."""
    if name == "zero2" and not is_deepspeed_available():
        pytest.skip("DeepSpeed is for Linux only")
    short = ["--num_train_epochs", "1", "--gradient_accumulation_steps", "2", "--freeze", "vision"]
    for folder, extra in (("plain", []), ("compiled", COMPILED)):
        words = [*argv, *short, *ENGINES[name], *extra, "--output_dir", tmp_path / folder]
        job = launch(2, HERE / "counted_run.py", *words)
        found = [json.loads(line) for line in job.output.splitlines() if line.startswith('{"versions"')]
        assert len(found) == 2 and all(not each["breaks"] for each in found)
        assert all(each["versions"] <= 3 * 3 + 2 for each in found) and (folder == "plain") == (
            found[0]["versions"] == 0
        )
    assert_alike(tmp_path / "plain", tmp_path / "compiled")
