"""Numbers of checkpoints that nothing can be computed with are refused wherever a checkpoint is read, in one line."""

import json
import math

import pytest
import torch
from conftest import TWO_TOWER, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, ViltConfig, ViltModel

from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.runner import run_task
from renaissance_cli.main import main


def save(kind: str, processor, folder) -> None:
    model = tiny_model("two-tower", kind, num_labels=2)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("command", "kind"), [("predict", "ForSequenceClassification"), ("demo", "ForImagesAndTextClassification")]
)
def test_weights_that_are_not_finite_give_no_answers(command, kind, value, processor, tmp_path, refused):
    save(kind, processor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    options = ["--text", "a red circle"] if command == "predict" else []
    said = refused(main, [command, str(tmp_path), *options])
    assert f"its file model.safetensors has values that are not finite (NaN or inf), the first in {name}" in said


def test_weights_that_are_not_finite_are_not_converted(tmp_path, refused):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViltModel(ViltConfig(**sizes, image_size=32, patch_size=16, vocab_size=50))
    torch.nn.init.constant_(model.pooler.dense.bias, math.nan)
    model.save_pretrained(tmp_path / "vilt")
    said = refused(main, ["convert", "vilt", "--source", str(tmp_path / "vilt"), "--output", str(tmp_path / "new")])
    assert "source" in said and "the first in pooler.dense.bias" in said and not (tmp_path / "new").exists()


def test_random_weights_that_are_not_finite_are_refused(shapes, tokenizer_folder, tmp_path, refused):
    argv = [*TWO_TOWER, "--tokenizer", str(tokenizer_folder), "--dataset", str(shapes / "nlvr2"), "--use_cpu"]
    argv += ["--output_dir", str(tmp_path / "run"), "--do_train", "--initializer_range", "1e300"]
    said = refused(run_task, NLVR2, "", argv)
    assert "initializer_range: the random weights of" in said and "choose a smaller one" in said


SETTINGS = [
    ("image_mean", [0.5, math.nan, 0.5], "expected finite numbers"),
    ("image_mean", [math.inf] * 3, "expected finite numbers"),
    ("image_std", [0.5, 0.0, 0.5], "expected finite numbers above 0"),
    ("image_std", [math.nan] * 3, "expected finite numbers above 0"),
    ("image_std", [-0.5] * 3, "expected finite numbers above 0"),
    ("rescale_factor", math.inf, "expected finite numbers above 0"),
    ("rescale_factor", 0, "expected finite numbers above 0"),
    ("size", {"height": -5, "width": 32}, "expected sides from 1 to 16384 pixels, got height -5"),
    ("size", {"height": 32, "width": 10**9}, "expected sides from 1 to 16384 pixels, got width 1000000000"),
    ("size", {"height": 32.5, "width": 32}, "expected sides from 1 to 16384 pixels, got height 32.5"),
]


@pytest.mark.parametrize(("name", "value", "message"), SETTINGS)
def test_an_image_processor_whose_numbers_make_no_pixels(name, value, message, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"][name] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{name} of the image processor: {message}"):
        AutoProcessor.from_pretrained(tmp_path)


def test_numbers_of_steps_that_are_not_taken_may_be_anything(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"] |= {
        "do_normalize": False,
        "image_std": [0, 0, 0],
        "do_rescale": False,
        "rescale_factor": 0,
    }
    file.write_text(json.dumps(content))
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.do_normalize is False
