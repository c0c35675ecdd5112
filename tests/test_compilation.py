"""Compiled layers: the same numbers as without, one version for texts of all lengths, and what cannot be compiled."""

import itertools
import shutil

import pytest
import torch
from conftest import ARCHITECTURES, TWO_TOWER, padded, pretraining_batch, tiny_model, training_batch
from safetensors.torch import load_file
from test_labelled_objectives import FIELDS, KINDS, NAMES, all_data, fit
from test_rows_of_any_kind import shuffled
from torch._dynamo.utils import counters

from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives_masked_images import MaskedImagesData
from renaissance.tasks.compilation import compile_layers
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


COMPILED = ["--torch_compile", "--torch_compile_backend", "aot_eager"]
#: Options of towers with more than one layer, and of an odd last batch.
DEEP = ["--cross_modal_layers", "3"]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


def graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def texts_of(length: int) -> dict[str, torch.Tensor]:
    """A batch of pretraining with texts of `length` tokens, some of them padding."""
    batch = pretraining_batch()
    extra = length - batch["input_ids"].shape[1]
    pad = torch.nn.functional.pad
    batch = padded(batch, extra) | {"mlm_input_ids": pad(batch["mlm_input_ids"], (0, extra), value=77)}
    return batch | {"mlm_labels": pad(batch["mlm_labels"], (0, extra), value=-100)}


#: Architectures and kinds of models.
CASES = [
    *itertools.product(
        ARCHITECTURES, ("ForPreTraining", "ForImageTextClassification", "ForImagesAndTextClassification")
    ),
    *(("dual-encoder", kind) for kind in ("ForPreTraining", "ForImageTextRetrieval")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_losses_and_gradients_are_those_of_the_model_as_it_is(architecture, kind):
    plain, compiled = (tiny_model(architecture, kind, num_labels=3).train() for _ in range(2))
    compile_layers(compiled, "aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    losses = []
    for model in (plain, compiled):
        torch.manual_seed(0)
        losses.append(model(**training_batch(kind, architecture)).loss)
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    for (name, wanted), found in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(
            found.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert graphs() >= len({type(layer) for layer in compiled_layers(compiled)}) > 0


@pytest.mark.slow
def test_a_batch_of_all_objectives_is_that_of_the_model_as_it_is(processor, architecture):
    """Rows of all kinds, each of which serves what it can."""
    sizes = {} if architecture == "two-tower" else {"vocab_size": len(processor.tokenizer)}
    plain, compiled = (
        tiny_model(architecture, "ForPreTraining", objectives=[*NAMES, "mim"], **sizes, **FIELDS).train()
        for _ in range(2)
    )
    compiled.load_state_dict(plain.state_dict())
    compile_layers(compiled, "aot_eager")
    data = [*all_data(plain.config), *fit(plain.config, MaskedImagesData())]
    collator = PretrainingCollator(processor, data, seed=1)
    losses = []
    for model in (plain, compiled):
        torch.manual_seed(0)
        losses.append(model(**collator(shuffled(*KINDS))).losses)
        sum(losses[-1].values()).backward()
    assert losses[0].keys() == {*NAMES, "mim"}
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, atol=1e-5, rtol=1e-5, msg=name)
    for (name, wanted), found in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert graphs() > 0


def test_texts_of_all_lengths_have_one_version(architecture):
    model = tiny_model(architecture, "ForPreTraining").train()
    compile_layers(model, "aot_eager")
    found = []
    for length in (8, 11, 13, 16, 19):
        model(**texts_of(length)).loss.backward()
        found.append(graphs())
    # One of each kind of layer; those of a convolutional encoder widen from stage to stage.
    kinds = {(type(layer), *(weight.shape for weight in layer.parameters())) for layer in compiled_layers(model)}
    assert set(found) == {len(kinds)}
    assert found[0] >= 1


def compiled_layers(model) -> list[torch.nn.Module]:
    return [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra", [["--gradient_checkpointing"], ["--freeze", "text"], ["--gradient_accumulation_steps", "2"]]
)
def test_a_resumed_run_ends_as_the_unbroken_one(shapes, options, tmp_path, extra):
    argv = [*TWO_TOWER, *DEEP, *options, *COMPILED, *extra, "--dataset", str(shapes / "snli_ve"), "--do_train"]
    argv += ["--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4"]
    run_task(SNLIVE, "", argv)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    for path in (tmp_path / "run").iterdir():
        if path.name != "checkpoint-2":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_task(SNLIVE, "", argv)
    resumed = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert graphs() > 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--torch_compile_backend", "inductr"], "torch_compile_backend: expected one of "),
        (["--torch_compile_mode", "fast"], "torch_compile_mode: expected one of "),
        (["--torch_compile_mode", "reduce-overhead"], "torch_compile_mode: reduce-overhead records CUDA graphs"),
        (
            [*COMPILED, "--torch_compile_mode", "default"],
            "torch_compile_mode: without effect on torch_compile_backend",
        ),
        (["--torch_compile_backend", "cudagraphs"], "torch_compile_backend: cudagraphs records CUDA graphs"),
        (["--torch_compile_backend", "tvm"], "torch_compile: tvm does not run here"),
    ],
)
def test_what_cannot_be_compiled(shapes, options, extra, message, capsys):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--max_steps", "1", *extra]
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    # transformers adds a line of its own on GPUs.
    assert message in error.splitlines()[-1] and "Traceback" not in error
