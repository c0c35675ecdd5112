"""Recipes and command lines: one set of options, checked before anything is built."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from transformers.integrations import INTEGRATION_TO_CALLBACK

from renaissance import TwoTowerConfig
from renaissance.tasks.arguments import AugmentationArguments, CachingArguments, RunArguments, model_arguments_class
from renaissance.tasks.cifar10 import CIFAR10Arguments
from renaissance.tasks.glue import GLUEArguments
from renaissance.tasks.image_text_classification import ImageTextClassificationArguments
from renaissance.tasks.nlvr2 import NLVR2Arguments
from renaissance.tasks.option_fields import given, options_of, with_options
from renaissance.tasks.option_tables import fill, tables
from renaissance.tasks.parsing import parse_arguments, recipe_of, save_arguments
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCOArguments
from renaissance.tasks.retrieval import RetrievalArguments
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVEArguments
from renaissance.tasks.vqav2 import VQAv2Arguments


ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "run_scripts" / "recipes").glob("*.yaml"))
#: What a recipe leaves to the command line.
LEFT_OPEN = {
    "pretrain_small_two_tower": ["--text_encoder", "some/encoder"],
    "pretrain_small_one_tower": ["--encoder", "some/encoder"],
    "pretrain_small_dual_encoder": ["--text_encoder", "some/encoder"],
    "nlvr2_small": ["--model_name_or_path", "some/checkpoint"],
    "snli_ve_small": ["--text_encoder", "some/encoder"],
    "vqav2_small": ["--text_encoder", "some/encoder"],
    "glue": ["--model_name_or_path", "some/checkpoint", "--task_name", "mrpc", "--dataset", "some/glue"],
    "glue_minilm": ["--text_encoder", "some/encoder", "--task_name", "mrpc", "--dataset", "some/glue"],
    "cifar10_small": ["--tokenizer", "some/encoder"],
    "refcoco_small": ["--model_name_or_path", "some/checkpoint"],
    "retrieval_small": ["--model_name_or_path", "some/checkpoint"],
    "cifar10": ["--model_name_or_path", "some/checkpoint"],
}
#: The options of a recipe's data, by the start of its name; those of pretraining by default.
DATA_ARGUMENTS = {
    "nlvr2": NLVR2Arguments,
    "snli_ve": SNLIVEArguments,
    "image_text": ImageTextClassificationArguments,
    "vqav2": VQAv2Arguments,
    "easy_vqa": VQAv2Arguments,
    "refcoco": RefCOCOArguments,
    "retrieval": RetrievalArguments,
    "glue": GLUEArguments,
    "cifar10": CIFAR10Arguments,
}
GROUPS = (model_arguments_class(), Pretraining.argument_class(), RunArguments)


def parse(*argv: str):
    return parse_arguments(GROUPS, list(argv), "")


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "text_encoder: bert\nvision_encoder: vit\ntext_overrides: {hidden_size: 64}\nlearning_rate: 1e-4\n"
        "train_datasets: [a, b]\ndo_train: true\nobjectives: {mlm: 0, itm: 2}\nfreeze: [text, vision]\nmax_length: null\n"
        f"output_dir: {tmp_path}\nreport_to: none\n"
    )
    return path


def test_a_recipe_fills_every_kind_of_option(recipe):
    model, data, run = parse(str(recipe))
    assert model.text_overrides == {"hidden_size": 64} and model.freeze == ["text", "vision"]
    assert model.objectives == {"itm": 2.0} and model.max_length is None
    assert data.train_datasets == ["a", "b"]
    assert run.learning_rate == 1e-4 and run.do_train  # YAML itself reads 1e-4 as a string


def test_the_command_line_wins(recipe):
    model, data, run = parse(
        str(recipe), "--learning_rate", "2e-3", "--train_datasets", "c", "--text_overrides", '{"hidden_size": 32}'
    )
    assert (run.learning_rate, data.train_datasets, model.text_overrides) == (2e-3, ["c"], {"hidden_size": 32})


def test_a_saved_run_repeats_itself(recipe, tmp_path):
    groups = parse(str(recipe), "--whole_word_masking", "--cross_modal_layers", "3")
    save_arguments(recipe_of(groups), tmp_path / "run.yaml")
    again = parse(str(tmp_path / "run.yaml"))
    assert again[0] == groups[0] and again[1] == groups[1]
    assert again[2].to_dict() == groups[2].to_dict()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text_encoder", "bert"], "a new two-tower model needs vision_encoder"),
        (["--architecture", "one-tower"], "a new one-tower model needs encoder"),
        (
            ["--architecture", "one-tower", "--encoder", "bert", "--cross_modal_layers", "2"],
            "cross_modal_layers: without effect on a one-tower model",
        ),
        (["--model_name_or_path", "x", "--pooler", "single"], "pooler: without effect on a checkpoint"),
        (["--architecture", "no-tower"], "architecture: expected .*two-tower.*, got no-tower"),
        (["--text_overrides", "{hidden"], "text_overrides: not JSON"),
        (["--text_overrides", "[1]"], "text_overrides: expected a JSON object"),
        (["missing.yaml"], "recipe missing.yaml: no such file"),
        (["--text_encoder", "bert", "--vision_encoder", "vit", "--no_such_option", "1"], "no_such_option"),
    ],
)
def test_mistakes_on_the_command_line(argv, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse(*argv, *(["--output_dir", str(tmp_path), "--do_train"] if not argv[0].endswith("yaml") else []))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--eval_do_concat_batches", "false"], "eval_do_concat_batches: metrics are made of all .* expected true"),
        (["--prediction_loss_only", "true"], "prediction_loss_only: .* expected false"),
        (["--batch_eval_metrics", "true"], "batch_eval_metrics: .* expected false"),
        (["--include_for_metrics", "inputs", "loss"], r"include_for_metrics: .* expected \[\]"),
        (["--eval_use_gather_object", "true"], "eval_use_gather_object: .* expected false"),
        (["--accelerator_config", '{"even_batches": false}'], "accelerator_config: even_batches false"),
        (
            ["--accelerator_config", '{"dispatch_batches": true}'],
            "accelerator_config: dispatch_batches .* leave it out",
        ),
        (["--label_names", "labels"], "label_names: without effect"),
        (["--enable_jit_checkpoint", "true"], "enable_jit_checkpoint: without effect, for SIGTERM"),
    ],
)
def test_options_that_would_spoil_evaluation_are_refused_before_anything_runs(option, message, tmp_path, capsys):
    argv = ["--text_encoder", "bert", "--vision_encoder", "vit", "--train_datasets", "nowhere", "--do_train"]
    with pytest.raises(SystemExit) as stopped:
        run_task(Pretraining, "", [*argv, "--output_dir", str(tmp_path), *option])
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert stopped.value.code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1\n", "no option learning_rte"),
        ("- 1\n", "expected a line `option: value` for each option"),
        ("a: [1\n", "not YAML"),
        ("text_encoder: bert\nvision_encoder: vit\n", "nothing to do"),
        (
            "text_encoder: bert\nvision_encoder: vit\ndo_train: true\nremove_unused_columns: true\n",
            "remove_unused_columns",
        ),
    ],
)
def test_mistakes_in_a_recipe(text, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(str(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(path, tmp_path):
    options = yaml.safe_load(path.read_text())
    named = [group for start, group in DATA_ARGUMENTS.items() if path.stem.startswith(start)]
    data_group = named[0] if named else Pretraining.argument_class()
    groups = (model_arguments_class(), data_group, AugmentationArguments, CachingArguments, RunArguments)
    argv = [str(path), *LEFT_OPEN.get(path.stem, []), "--output_dir", str(tmp_path)]
    parsed = parse_arguments(groups, argv, "")
    found = {
        name: next(getattr(group, name) for group in parsed if hasattr(group, name))
        for name in options.keys() - {"output_dir"}
    }
    assert [name for name, value in found.items() if value is None] == []
    numbers = {name: value for name, value in options.items() if type(value) in (int, float) and name in found}
    assert {name: float(found[name]) for name in numbers} == {name: float(value) for name, value in numbers.items()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_follows_a_checkpoint(path, tmp_path):
    """One on the command line takes the place of the new model that the recipe describes; the rest of the recipe stays."""
    recipe = yaml.safe_load(path.read_text())
    named = [group for start, group in DATA_ARGUMENTS.items() if path.stem.startswith(start)]
    data_group = named[0] if named else Pretraining.argument_class()
    given = LEFT_OPEN.get(path.stem, [])[-4:] if path.stem.startswith("glue") else []
    for name in ("--model_name_or_path", "--model-name-or-path")[: 1 + path.stem.startswith("pretrain_small")]:
        argv = [str(path), *given, name, "some/checkpoint", "--output_dir", str(tmp_path)]
        groups = (model_arguments_class(), data_group, AugmentationArguments, CachingArguments, RunArguments)
        model, *_, args = parse_arguments(groups, argv, "")
        assert model.model_name_or_path == "some/checkpoint" and model.architecture is None and model.tokenizer is None
        # What is not of the model alone stays.
        for option in ("image_size", "max_length", "freeze"):
            assert getattr(model, option) == recipe.get(option)
        assert args.seed == recipe["seed"] and args.learning_rate == recipe["learning_rate"]


def test_a_new_model_beside_a_checkpoint_is_refused_still(tmp_path):
    """Of the command line; and a recipe of the user's own that has both contradicts itself."""
    recipe = str(next(path for path in RECIPES if path.stem == "pretrain_small_two_tower"))
    with pytest.raises(ValueError, match="architecture: without effect on a checkpoint"):
        parse(recipe, "--model_name_or_path", "some/checkpoint", "--architecture", "two-tower")
    both = tmp_path / "both.yaml"
    both.write_text("model_name_or_path: some/checkpoint\narchitecture: two-tower\ndo_train: true\n")
    with pytest.raises(ValueError, match="architecture: without effect on a checkpoint"):
        parse(str(both), "--output_dir", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "tools"),
    [
        ([], []),
        (["none"], []),
        (["tensorboard"], ["tensorboard"]),
        (["tensorboard", "codecarbon"], "report_to codecarbon: .*requires `codecarbon` to be installed"),
        (["tensorboard", "wandb"], "report_to wandb: .*requires wandb to be installed"),
        (["tensorbord"], "report_to: expected none, all, or some of .*, got tensorbord"),
        (["none", "tensorboard"], "report_to: none and all stand alone, got none tensorboard"),
    ],
)
def test_tools_to_report_to(given, tools, tmp_path):
    options = ["--output_dir", str(tmp_path), "--do_train", *(["--report_to", *given] if given else [])]
    argv = ["--text_encoder", "bert", "--vision_encoder", "vit", *options]
    if isinstance(tools, str):
        with pytest.raises(ValueError, match=tools):
            parse(*argv)
    else:
        assert parse(*argv)[-1].report_to == tools


def test_several_tools_in_a_recipe(tmp_path, monkeypatch):
    """Also as the run's own recipe repeats them."""
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "trackio", INTEGRATION_TO_CALLBACK["tensorboard"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("text_encoder: bert\nvision_encoder: vit\ndo_train: true\nreport_to: [tensorboard, trackio]\n")
    groups = parse(str(recipe), "--output_dir", str(tmp_path))
    assert groups[-1].report_to == ["tensorboard", "trackio"]
    save_arguments(recipe_of(groups), tmp_path / "run.yaml")
    assert parse(str(tmp_path / "run.yaml"))[-1].report_to == ["tensorboard", "trackio"]


@dataclasses.dataclass
class Strength:
    """A dataclass from whose fields options are made."""

    power: float | int = dataclasses.field(default=2.5, metadata={"help": "Power in %."})
    names: tuple[str, ...] = dataclasses.field(default=("a", "b"), metadata={"help": "Names."})
    mapping: dict | None = dataclasses.field(default=None, metadata={"help": "A mapping.", "default": "nothing"})
    switched: bool = dataclasses.field(default=True, metadata={"help": "Whether."})
    hidden: int = 3


@with_options(options_of(Strength, prefix="strength_"))
@dataclasses.dataclass
class StrengthArguments:
    """Options of its own, and those of `Strength`."""

    own: int = dataclasses.field(default=0, metadata={"help": "Its own."})


def test_options_are_made_from_the_fields_of_any_dataclass(capsys):
    nothing = parse_arguments((StrengthArguments,), [], "")[0]
    names = [option.name for option in options_of(Strength, prefix="strength_")]
    assert names == ["strength_power", "strength_names", "strength_mapping", "strength_switched"]
    assert given(nothing, names) == {} and nothing.own == 0
    argv = ["--strength_power", "0", "--strength_names", "x", "y", "--strength_switched", "false"]
    some = parse_arguments((StrengthArguments,), argv, "")[0]
    assert given(some, names) == {
        "strength_power": 0.0, "strength_names": ["x", "y"], "strength_switched": False,
    }  # fmt: skip
    assert parse_arguments((StrengthArguments,), ["--strength_switched"], "")[0].strength_switched is True
    with pytest.raises(SystemExit):
        parse_arguments((StrengthArguments,), ["--help"], "")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Power in % (default: 2.5)." in shown and "Names (default: a b)." in shown
    assert "A mapping (default: nothing)." in shown and "None" not in shown


def test_options_of_new_models_have_the_help_and_default_of_the_configuration():
    options = {option.name: option for option in options_of(model_arguments_class())}
    assert options["cross_modal_layers"].help == "(two-tower) Number of cross-modal layers (default: 6)."
    assert options["layer_norm_eps"].help.endswith(
        "(default: 1e-12 (two-tower, dual-encoder); the encoder's own, or 1e-12 (one-tower))."
    )
    assert not {"text_config", "num_images", "pixel_mean", "frozen"} & options.keys()
    described = " ".join(TwoTowerConfig.__doc__.split())
    for text in ("Number of cross-modal layers.", "Dropout probability of classifiers.", "Configuration of the text"):
        assert text in described


def test_tables_in_the_documentation_are_up_to_date():
    page = (ROOT / "docs" / "options.md").read_text()
    assert fill(page) == page, "run: python -m renaissance.tasks.option_tables docs/options.md"
    assert all(f"<!-- options: {name} -->" in page for name in tables())
    assert "| `cross_modal_layers` | 6 | (two-tower) Number of cross-modal layers. |" in page


def test_help_of_a_script_of_your_own_has_your_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments((StrengthArguments, RunArguments), ["--help"], "Counts things.")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "Counts things." in shown and "--strength_power X" in shown
    assert "Peak learning rate (default: 5e-05)." in shown
    assert max(map(len, shown.splitlines())) <= 79


def test_a_misspelt_option_of_a_script_of_your_own_gets_the_nearest_one():
    with pytest.raises(ValueError, match="no option --strength_powr; did you mean --strength_power"):
        parse_arguments((StrengthArguments,), ["--strength_powr", "1"], "")


def test_the_folder_of_a_run_may_be_a_path(tmp_path):
    args = RunArguments(output_dir=tmp_path / "run", do_eval=True, use_cpu=True, report_to="none")
    assert args.output_dir == str(tmp_path / "run")
