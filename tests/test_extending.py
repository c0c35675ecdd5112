"""The examples of docs/extending.md, as they stand on the page: what users add to the package from modules of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TWO_TOWER, pretraining_batch, tiny_batch, tiny_model
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file

from renaissance import Objective, register_architecture, register_head, register_objective
from renaissance.auto import AUTO_CLASSES
from renaissance.modeling.architectures import ARCHITECTURES, HEADS
from renaissance.modeling.objectives import OBJECTIVES
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import OBJECTIVE_DATA, MaskedTextData, ObjectiveData
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.parsing import import_modules
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.runner import run_task


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
#: The files that the page shows, each behind a sentence that ends with its name, and the commands of each section.
FILES = dict(re.findall(r"`([\w/]+\.\w+)`:\n\n```(?:python)?\n(.*?)```", PAGE, flags=re.S))
COMMANDS = {
    section.split("\n", 1)[0]: re.findall(r"```bash\n(.*?)```", section, flags=re.S)
    for section in PAGE.split("\n## ")[1:]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shapes, tokenizer_folder) -> Path:
    """The current folder of somebody who follows the page."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    for number, name in enumerate(sorted(set(re.findall(r"photos/\d\.jpg", PAGE)))):
        for place in (folder / name, folder / "downloads" / name):
            place.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 30), (80 * number, 90, 160)).save(place)
    (folder / "data" / "shapes").mkdir(parents=True)
    for source in (shapes / "captions", shapes / "nlvr2"):
        (folder / "data" / "shapes" / source.name).symlink_to(source)
    (folder / "data" / "shapes" / "tokenizer").symlink_to(tokenizer_folder)
    return folder


def run_commands(section: str, folder: Path) -> None:
    """Run the commands of a section of the page, in processes of their own: what they register stays there."""
    (script,) = COMMANDS[section]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = f"set -e\n{script}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def toy(folder) -> Path:
    """The folder, with the checkpoints of the toy architecture in it."""
    run_commands("An architecture and an objective", folder)
    return folder


@pytest.fixture(scope="module")
def modules(folder):
    """The modules of the page, imported here; what they register is taken back at the end."""
    built_in = [architecture.models for architecture in ARCHITECTURES.values()]
    registries = [ARCHITECTURES, HEADS, AUTO_CLASSES, OBJECTIVES, OBJECTIVE_DATA]
    registries += [*built_in, *(models["Model"].class_map for models in built_in)]
    before = [dict(registry) for registry in registries]
    path = [*sys.path]
    sys.path.append(str(folder))
    names = ["my_module", "counting"]
    yield dict(zip(names, import_modules(["--import_module", *names]), strict=True))
    sys.path[:] = path
    for name in names:
        del sys.modules[name]
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def test_the_examples_are_short():
    module = FILES["my_module.py"]
    assert len(module.splitlines()) < 120
    assert len(module[: module.index("class Length(")].splitlines()) < 70
    assert len(module[module.index("class Length(") :].splitlines()) < 60
    assert len(FILES["counting.py"].splitlines()) < 60 and len(FILES["tsv_captions.py"].splitlines()) < 40
    imports = re.findall(r"^(?:from|import) (\w+)", module, flags=re.M)
    assert set(imports) == {"dataclasses", "numpy", "torch", "renaissance"} and "renaissance.modeling" not in module


def test_the_option_of_the_page_is_a_field_of_the_example():
    (field,) = re.findall(r"^(\w+: \w+ = )(option\(.*?\))  #", PAGE, flags=re.M)
    assert f"    {field[0]}renaissance.{field[1]}\n" in FILES["my_module.py"]


def test_a_data_set(folder):
    run_commands("A data set", folder)
    data = load_dataset("parquet", data_dir=str(folder / "data" / "captions"))
    rows = {row["image_id"]: row for split in data.values() for row in split}
    assert {name: row["captions"] for name, row in rows.items()} == {
        "photos/1.jpg": ["a red circle", "a circle that is red"],
        "photos/2.jpg": ["a blue square and a green circle"],
        "photos/3.jpg": ["three yellow triangles"],
    }
    assert all(row["image"].size == (40, 30) for row in rows.values()) and len(data["validation"]) > 0


def test_an_architecture_and_an_objective(toy):
    run, finetuned = toy / "outputs" / "toy", toy / "outputs" / "toy-nlvr2"
    saved = yaml.safe_load((run / "run.yaml").read_text())
    given = {"import_module": ["my_module"], "hidden_size": 12, "patch_size": 8, "length_step": 3}
    assert given.items() <= saved.items() and saved["objectives"] == {"mlm": 1.0, "length": 0.5}
    weights = load_file(run / "model.safetensors")
    assert weights["model.patches.weight"].shape == (12, 3, 8, 8) and weights["length_head.weight"].shape == (16, 24)
    # Beside the weights lies the code that they need.
    assert (run / "my_module.py").read_text() == FILES["my_module.py"]

    results = json.loads((run / "all_results.json").read_text())
    parts = results["eval_mlm_loss"] + 0.5 * results["eval_length_loss"]
    assert results["eval_loss"] == pytest.approx(parts, rel=1e-5) and 0 <= results["eval_length_accuracy"] <= 1
    assert 0 < results["eval_length_majority_accuracy"] <= 1 and results["eval_length_labels"] == results["eval_rows"]
    start = load_file(finetuned / "model.safetensors")["model.words.weight"]
    assert len((finetuned / "predictions.csv").read_text().split()) == 10
    assert not torch.equal(start, weights["model.words.weight"]) and start.shape == weights["model.words.weight"].shape


@pytest.mark.slow
def test_a_task_with_a_new_head(toy):
    run_commands("A task with a new head", toy)
    folder = toy / "outputs" / "counting"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["ToyForCounting"]
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_accuracy"] == 1 and results["eval_majority_accuracy"] == pytest.approx(2 / 3)
    assert load_file(folder / "model.safetensors")["counter.weight"].shape == (1, 24)


def test_a_new_head_is_made_for_all_architectures(modules, architecture, tmp_path):
    module = modules["counting"]
    model = tiny_model(architecture, seed=0)
    counting = type(model).__name__.replace("Model", "ForCounting")
    model = ARCHITECTURES[architecture[:9]].models["ForCounting"](model.config).eval()
    assert type(model).__name__ == counting and model.base_model_class is type(model.model)
    batch = tiny_batch() | {"labels": torch.tensor([2, 0, 3])}
    output = model(**batch)
    # Poisson, less what the labels alone decide.
    expected = output.logits.exp() - batch["labels"] * output.logits
    torch.testing.assert_close(output.loss, expected.mean())
    model.save_pretrained(tmp_path)
    loaded = module.AutoModelForCounting.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    # Weights that were read may lie in memory so that kernels add up in another order.
    torch.testing.assert_close(loaded(**batch).logits, output.logits, atol=1e-6, rtol=1e-6)


def test_an_objective_trains_beside_the_others(modules, shapes, options, tmp_path, capsys):
    argv = [*TWO_TOWER, *options, "--train_datasets", str(shapes / "captions"), "--do_train", "--do_eval"]
    argv += ["--objectives", '{"mlm": 1, "itm": 1, "contrastive": 1, "length": 2}', "--learning_rate", "3e-3"]
    metrics = run_task(Pretraining, "", [*argv, "--max_steps", "40", "--logging_steps", "10"])
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "learning_rate" in entry]
    losses = [{name: entry[f"{name}_loss"] for name in ("mlm", "itm", "contrastive", "length")} for entry in steps]
    assert losses[-1]["length"] < 0.8 * losses[0]["length"]
    for entry, parts in zip(steps, losses, strict=True):
        assert entry["loss"] == pytest.approx(sum(parts.values()) + parts["length"], rel=1e-3)
    assert metrics["eval_length_loss"] < losses[0]["length"]
    assert {
        "eval_mlm_accuracy",
        "eval_itm_accuracy",
        "eval_contrastive_loss",
        "eval_length_accuracy",
    } <= metrics.keys()


def test_the_collator_and_the_model_know_an_objective(modules, processor):
    length = modules["my_module"].LengthData(length_step=3)
    texts = ["a red circle", "a small blue square and a large green triangle"]
    image = Image.new("RGB", (32, 32))
    rows = [
        {"image": image, "text": text, "image_id": text, "sample_id": number, "epoch": 0}
        for number, text in enumerate(texts)
    ]
    batch = PretrainingCollator(processor, [MaskedTextData(), length])(rows)
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in texts]
    assert batch["length_labels"].tolist() == [lengths[0] // 3, lengths[1] // 3] and lengths[0] < lengths[1]

    model = tiny_model("two-tower", "ForPreTraining", objectives={"mlm": 1, "length": 0.5})
    batch = {name: value for name, value in pretraining_batch().items() if not name.startswith("itm_")}
    alone = model(**batch)
    output = model(**batch, length_labels=(labels := torch.tensor([1, 5, 0])))
    assert set(alone.losses) == {"mlm"} and set(output.losses) == {"mlm", "length"}
    expected = torch.nn.functional.cross_entropy(output.logits["length"], labels)
    torch.testing.assert_close(output.losses["length"], expected)
    torch.testing.assert_close(output.loss, alone.loss + 0.5 * expected)
    sums = length.row_sums(output.logits["length"], {"length_labels": labels}).sum(dim=0).tolist()
    found = length.metrics(dict(zip(length.sums, sums, strict=True)), 3)
    predictions = output.logits["length"].argmax(dim=1)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean((predictions == labels).numpy()))


@pytest.mark.parametrize(
    ("task", "argv", "message"),
    [
        (Pretraining, "--objectives mlm --length_step 3", "length_step: without effect on the objectives mlm"),
        (Pretraining, "--objectives length --length_step 0", "length_step: expected at least 1, got 0"),
        (NLVR2, "--architecture toy --cross_modal_layers 2", "cross_modal_layers: without effect on a toy model"),
        (NLVR2, "--architecture toy", "tokenizer: a toy model has no encoder that brings one; name one"),
    ],
)
def test_options_are_refused(task, argv, message, modules, shapes, options, capsys):
    data = ["--dataset", shapes / "nlvr2"] if task is NLVR2 else ["--train_datasets", shapes / "captions"]
    own = options[:-2] if task is NLVR2 else [*TWO_TOWER, *options]
    with pytest.raises(SystemExit) as stopped:
        run_task(task, "", [*own, *map(str, data), *argv.split(), "--do_train", "--max_steps", "1"])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_help_shows_the_options_of_what_is_registered(modules, capsys):
    with pytest.raises(SystemExit):
        run_task(Pretraining, "", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "two-tower, toy (default" in shown
    assert "Width of the toy (default: 8)" in shown and "that form one class (default: 2)" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "import_module broken: cannot be imported (ModuleNotFoundError: No module named 'broken')"),
        ("1 / 0", "import_module broken: cannot be imported (ZeroDivisionError: division by zero)"),
    ],
)
def test_modules_that_cannot_be_imported(text, message, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    if text:
        (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ValueError) as raised:
        import_modules(["--do_train", "--import_module", "broken", "--seed", "1"])
    assert str(raised.value) == message
    assert message in refuse("shapes", "--import_module", "broken", "--output", tmp_path)


def test_a_name_is_registered_once():
    two_tower, objective = ARCHITECTURES["two-tower"], type(OBJECTIVES["itm"])
    with pytest.raises(ValueError, match="architecture 'two-tower' is registered already"):
        register_architecture("two-tower", two_tower.config_class, two_tower.models["Model"])
    with pytest.raises(ValueError, match="head 'ForPreTraining' is registered already"):
        register_head("ForPreTraining", HEADS["ForPreTraining"])
    with pytest.raises(ValueError, match="objective 'itm' is registered already"):
        register_objective(objective, OBJECTIVE_DATA["itm"])
    assert set(two_tower.models) == {"Model", *HEADS} and type(OBJECTIVES["itm"]) is objective


def test_the_halves_of_an_objective_have_one_name():
    other = type("Other", (Objective,), {"name": "other"})
    with pytest.raises(ValueError, match="objective 'other': its data is named 'mlm'; give both the same name"):
        register_objective(other, MaskedTextData)
    silent = type("OtherData", (ObjectiveData,), {"name": "other", "sums": ("correct",)})
    with pytest.raises(ValueError, match="expected loss among the sums of its data, got "):
        register_objective(other, silent)
    assert "other" not in OBJECTIVES


def test_a_checkpoint_with_an_objective_that_is_unknown_here_can_be_finetuned(processor, shapes, options, tmp_path):
    model = tiny_model("two-tower", "ForPreTraining")
    model.config.pixel_mean, model.config.pixel_deviation = [127.5] * 3, [127.5] * 3
    model.save_pretrained(tmp_path / "pretrained")
    processor.save_pretrained(tmp_path / "pretrained")
    config = json.loads((tmp_path / "pretrained" / "config.json").read_text())
    (tmp_path / "pretrained" / "config.json").write_text(json.dumps(config | {"objectives": {"mlm": 1, "gone": 1}}))
    start = ["--model_name_or_path", str(tmp_path / "pretrained"), *options[:-2], "--do_train"]
    trainer, *_ = prepare(NLVR2, "", [*start, "--dataset", str(shapes / "nlvr2")])
    weight = "cross_modal_layers.0.text_mlp.up.weight"
    assert torch.equal(trainer.model.model.get_parameter(weight), model.model.get_parameter(weight))
    with pytest.raises(ValueError, match="objectives: unknown gone; expected some of mlm, itm, contrastive"):
        prepare(Pretraining, "", [*start, "--train_datasets", str(shapes / "captions")])
