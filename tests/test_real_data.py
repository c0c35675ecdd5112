"""The main job on real photos, captions and a real text encoder: prepare, pretrain, finetune."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from renaissance import RenaissanceProcessor, TwoTowerModel
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.real_data

TINY_VIT = (
    '{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64, '
    '"patch_size": 32}'
)


@pytest.fixture(scope="module")
def minilm() -> str:
    """The folder of a real pretrained text encoder of BERT's kind."""
    folder = os.environ.get("RENAISSANCE_TEST_WEIGHTS")
    if not folder:
        pytest.skip("RENAISSANCE_TEST_WEIGHTS is not set: it names a folder that has all-minilm-l6-v2")
    return str(Path(folder) / "all-minilm-l6-v2")


@pytest.fixture(scope="module")
def prepared(real_data, prepare, tmp_path_factory) -> Path:
    """COCO and NLVR2, prepared by the command itself."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("coco", "nlvr2"):
        prepare(name, "--source", real_data / name, "--output", folder / name)
    return folder


def test_a_real_text_encoder_keeps_its_meaning(minilm):
    """Similar sentences are closer than others, padded or not: weights, tokenizer and masks are the real ones."""
    model = TwoTowerModel.from_encoders(
        minilm, "vit", random_init_vision=True, vision_overrides={"num_hidden_layers": 1}
    )
    model.eval()
    processor = RenaissanceProcessor.from_encoders(minilm)
    sentences = [
        "A dog runs across the grass.",
        "A puppy is running on a lawn.",
        "The bank raised its interest rates again this year.",
    ]
    inputs = processor(text=sentences, return_tensors="pt")
    reference = AutoModel.from_pretrained(minilm, add_pooling_layer=False).eval()
    with torch.no_grad():
        states = model.text_encoder(**inputs).last_hidden_state
        for row, sentence in enumerate(sentences):
            alone = reference(**processor(text=sentence, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(states[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)
    mask = inputs["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    similar, other = means[0] @ means[1], means[0] @ means[2]
    assert similar > 0.5 > other


@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
def test_pretrain_and_finetune_on_real_data(architecture, prepared, minilm, tmp_path):
    if architecture == "two-tower":
        model = [
            "--text_encoder",
            minilm,
            "--vision_encoder",
            "vit",
            "--random_init_vision",
            "--vision_overrides",
            TINY_VIT,
        ]
        model += ["--cross_modal_hidden_size", "32", "--cross_modal_layers", "1", "--cross_modal_heads", "2"]
    else:
        model = ["--architecture", "one-tower", "--encoder", minilm, "--image_size", "64", "--patch_size", "32"]
    run = ["--report_to", "none", "--use_cpu", "--per_device_train_batch_size", "4", "--max_steps", "2", "--do_train"]
    run += ["--do_eval", "--max_eval_samples", "8", "--save_strategy", "no", "--learning_rate", "1e-6"]
    pretrained = str(tmp_path / "pretrained")
    argv = [*model, *run, "--train_datasets", str(prepared / "coco"), "--max_length", "50", "--output_dir", pretrained]
    metrics = run_task(Pretraining, "", argv)
    # Before it has learned anything: the losses of a guess over the vocabulary, and of a coin.
    assert 8 < metrics["eval_mlm_loss"] < 14 and 0.4 < metrics["eval_itm_loss"] < 1.5
    argv = ["--model_name_or_path", pretrained, "--dataset", str(prepared / "nlvr2"), *run]
    metrics = run_task(NLVR2, "", [*argv, "--output_dir", str(tmp_path / "nlvr2")])
    assert 0.3 < metrics["eval_loss"] < 1.5
