"""Runs with DeepSpeed's ZeRO-2 and ZeRO-3 on two processes: they are those without it, go on exactly, and save plain models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from broken_runs import same_weights
from conftest import TWO_TOWER, tiny_bert, tiny_model, tiny_vit
from launching import free_port
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel, ViTModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_available, is_deepspeed_zero3_enabled

from renaissance import TwoTowerForPreTraining
from renaissance.tasks.checkpoints import Manifest, fault_of
from renaissance.tasks.models import bare_model
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.skipif(not is_deepspeed_available(), reason="DeepSpeed is for Linux only")

SCRIPTS = Path(__file__).parents[1] / "run_scripts"
STAGES = pytest.mark.parametrize("stage", ["zero2", "zero3"])
#: Plain SGD: Adam's division would turn rounding errors of gradients near zero into steps.
OPTIMIZER = ["--optim", "sgd", "--learning_rate", "0.1", "--lr_scheduler_type", "constant"]
COMMON = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--seed", "1", "--logging_steps", "1"]


def configuration(stage: str, folder: Path, **fields) -> Path:
    """The file of a configuration that ships, with an optimizer that DeepSpeed asks a confirmation for."""
    shipped = json.loads((SCRIPTS / "deepspeed" / f"{stage}.json").read_text())
    path = folder / f"{stage}.json"
    path.write_text(json.dumps(shipped | {"zero_allow_untested_optimizer": True} | fields))
    return path


def alone() -> dict[str, str]:
    """The environment of one process with DeepSpeed, without a launcher."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"} | place


@pytest.fixture(scope="module")
def encoders(tokenizer_folder, tmp_path_factory) -> Path:
    """The folders of two pretrained encoders without dropout."""
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    BertModel(tiny_bert(vocab_size=len(tokenizer), **still)).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    ViTModel(tiny_vit(**still)).save_pretrained(folder / "vision")
    return folder


@pytest.fixture(scope="module")
def pretraining(encoders, shapes) -> list:
    """Four steps from two encoders, one of them frozen, with checkpoints of steps 2 and 4."""
    argv = ["--text_encoder", encoders / "text", "--vision_encoder", encoders / "vision", "--freeze", "vision"]
    argv += ["--cross_modal_hidden_size", "16", "--cross_modal_layers", "1", "--cross_modal_heads", "2"]
    argv += ["--cross_modal_dropout", "0", "--objectives", "mlm", "itm", "contrastive", *OPTIMIZER, *COMMON]
    argv += [
        "--train_datasets",
        shapes / "captions",
        "--do_train",
        "--do_eval",
        "--max_steps",
        "4",
        "--save_steps",
        "2",
    ]
    return [
        *argv,
        "--per_device_train_batch_size",
        "2",
        "--total_batch_size",
        "8",
        "--per_device_eval_batch_size",
        "4",
    ]


@pytest.fixture(scope="module")
def without_deepspeed(launch, pretraining, tmp_path_factory) -> Path:
    """The folder of the pretraining on two processes without DeepSpeed, which has the same pairs and masks."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    launch(2, SCRIPTS / "run_pretrain.py", *pretraining, "--output_dir", folder)
    return folder


def assert_close(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)


def results(folder: Path) -> dict[str, float]:
    """The losses and metrics of a run."""
    found = json.loads((folder / "all_results.json").read_text())
    return {name: value for name, value in found.items() if "loss" in name or "accuracy" in name}


def test_a_model_is_built_whole_before_the_processes_meet():
    """The configuration of a run is tried before data is read."""
    wanted = {"zero_optimization": {"stage": 3}, "train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    # It is in use while it is kept.
    in_use = HfDeepSpeedConfig(wanted)
    sizes = [tuple(weight.shape) for weight in bare_model(tiny_model("two-tower").config).parameters()]
    assert is_deepspeed_zero3_enabled() and in_use
    assert sizes == [tuple(weight.shape) for weight in tiny_model("two-tower").parameters()]


@pytest.mark.slow
@STAGES
def test_pretraining(stage, launch, pretraining, without_deepspeed, encoders, tmp_path):
    folder, resumed = tmp_path / "run", tmp_path / "resumed"
    argv = [SCRIPTS / "run_pretrain.py", *pretraining, "--deepspeed", configuration(stage, tmp_path)]
    launch(2, *argv, "--output_dir", folder)
    assert_close(folder, without_deepspeed)
    assert results(folder) == pytest.approx(results(without_deepspeed), abs=1e-5)
    # It loads without DeepSpeed, with the frozen tower as it was.
    model, saved = TwoTowerForPreTraining.from_pretrained(folder), load_file(folder / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved)
    frozen = model.model.vision_encoder.state_dict()
    vision = ViTModel.from_pretrained(encoders / "vision").state_dict()
    assert len(frozen) > 10 and all(torch.equal(vision[name], value) for name, value in frozen.items())

    for checkpoint in (folder / "checkpoint-2", folder / "checkpoint-4"):
        manifest = Manifest.read(checkpoint)
        assert fault_of(checkpoint) is None and (manifest.engine, manifest.processes) == ("deepspeed", 2)
        assert [name for name in manifest.files if "optim_states" in name]
    assert same_weights(folder, folder / "checkpoint-4")
    evaluation = ["--model_name_or_path", str(folder), "--do_eval", *COMMON, "--per_device_eval_batch_size", "4"]
    evaluation += ["--eval_datasets", pretraining[pretraining.index("--train_datasets") + 1]]
    found = run_task(Pretraining, "", [*map(str, evaluation), "--output_dir", str(tmp_path / "evaluation")])
    # Without the loss of training, and of whole batches of one process, whose false images are others.
    assert found["eval_mlm_loss"] == pytest.approx(results(folder)["eval_mlm_loss"], abs=1e-5)

    shutil.copytree(folder / "checkpoint-2", resumed / "checkpoint-2")
    launch(2, *argv, "--output_dir", resumed)
    assert same_weights(folder, resumed)
    refused = launch(1, *argv, "--max_steps", "5", "--output_dir", folder, env=alone(), code=2)
    assert (
        "checkpoint-4 is of 2 processes, among which DeepSpeed has divided its state, and this run has 1"
        in refused.errors
    )
    job = launch(2, *argv, "--max_steps", "5", "--output_dir", folder)
    assert f"Resuming from {folder / 'checkpoint-4'}" in job.errors
    changes = json.loads((folder / "run.json").read_text())["changes"]
    assert [(each["step"], each["option"], each["old"], each["new"]) for each in changes] == [(4, "max_steps", 4, 5)]


@pytest.mark.slow
@STAGES
def test_a_task(stage, launch, shapes, tokenizer_folder, without_deepspeed, tmp_path):
    """A new model, and one that starts from a pretrained checkpoint, with a frozen tower: as one process has them."""
    still = '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "dropout": 0.0, '
    still += '"attention_probs_dropout_prob": 0.0}'
    new = [*TWO_TOWER, "--text_overrides", still, "--cross_modal_dropout", "0", "--tokenizer", str(tokenizer_folder)]
    new += ["--classifier_dropout", "0"]
    pretrained = shutil.copytree(without_deepspeed, tmp_path / "pretrained")
    config = json.loads((pretrained / "config.json").read_text())
    (pretrained / "config.json").write_text(json.dumps(config | {"classifier_dropout": 0.0}))
    task = ["--dataset", str(shapes / "nlvr2"), "--do_train", "--do_eval", "--max_steps", "2"]
    task += [*OPTIMIZER, *COMMON, "--total_batch_size", "8", "--per_device_train_batch_size", "4"]
    task += ["--head_lr_multiplier", "5", "--per_device_eval_batch_size", "4"]
    for name, start in {
        "new": new,
        "further": ["--model_name_or_path", str(pretrained), "--freeze", "text"],
    }.items():
        one, two = tmp_path / f"{name}-one", tmp_path / f"{name}-two"
        run_task(NLVR2, "", [*start, *task, "--output_dir", str(one)])
        engine = ["--deepspeed", configuration(stage, tmp_path)]
        launch(2, SCRIPTS / "run_nlvr2.py", *start, *task, *engine, "--output_dir", two)
        assert_close(two, one)
        assert results(two) == pytest.approx(results(one), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"train_micro_batch_size_per_gpu": 3, "gradient_clipping": 0.5},
            "train_micro_batch_size_per_gpu=3 against per_device_train_batch_size=4, gradient_clipping=0.5 against",
        ),
        ({"gradient_clipping": None}, 'deepspeed: the configuration has no gradient_clipping; write "auto"'),
        ({"optimizer": {"type": "AdamW"}}, "layer_decay: without effect if the DeepSpeed configuration has a section"),
    ],
    ids=["contradicting", "missing", "optimizer"],
)
def test_a_configuration_that_does_not_fit_is_refused(launch, shapes, options, tmp_path, fields, message):
    """Before anything begins, in one line."""
    path = configuration("zero3", tmp_path, **fields)
    path.write_text(
        json.dumps({name: each for name, each in json.loads(path.read_text()).items() if each is not None})
    )
    argv = [*TWO_TOWER, *options, "--dataset", shapes / "nlvr2", "--do_train", "--layer_decay", "0.9"]
    argv += ["--per_device_train_batch_size", "4", "--deepspeed", path]
    (line,) = launch(1, SCRIPTS / "run_nlvr2.py", *argv, env=alone(), code=2).errors.splitlines()
    assert line.startswith("run_nlvr2.py: error: ") and message in line
