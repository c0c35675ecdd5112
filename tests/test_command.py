"""The command `renaissance`: help and mistakes from its table of options, shipped recipes, and what the scripts run."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers
import yaml
from conftest import TWO_TOWER

from renaissance.tasks.arguments import deepspeed_configuration
from renaissance.tasks.option_tables import as_file, command_tables
from renaissance_cli.main import main
from renaissance_cli.recipe_files import CommandLine, shipped, task_of
from renaissance_cli.subcommands import SUBCOMMANDS
from renaissance_cli.table import flags_of, options_of, parser_of, read_tables, with_shared


ROOT = Path(__file__).parents[1]
TASKS = [name for name, subcommand in SUBCOMMANDS.items() if subcommand.is_task]
#: All subcommands of subcommands too, such as `prepare coco`.
TABLES = read_tables()
NESTED = [
    [name, *below]
    for name, table in TABLES["subcommands"].items()
    for below in ([], *([n] for n in table.get("subcommands", ())))
]


def shown(capsys, *argv: str) -> str:
    """What `main` prints before it ends well."""
    capsys.readouterr()
    try:
        main([*argv])
    except SystemExit as stopped:
        assert stopped.code in (0, None)
    return capsys.readouterr().out


def test_the_table_of_options_is_up_to_date():
    remedy = "run: python -m renaissance.tasks.option_tables src/renaissance_cli/options.json"
    if TABLES["transformers"] != transformers.__version__:
        pytest.skip(f"the table is of transformers {TABLES['transformers']}")
    assert (ROOT / "src" / "renaissance_cli" / "options.json").read_text() == as_file(command_tables()), remedy


@pytest.mark.parametrize("argv", NESTED, ids=" ".join)
def test_help_fits_a_terminal_and_says_each_default_once(argv, capsys):
    text = shown(capsys, *argv, "--help")
    assert text.startswith(f"usage: renaissance {' '.join(argv)} ")
    assert [line for line in text.splitlines() if len(line) > 79] == []
    assert "default: None" not in text and "==SUPPRESS==" not in text
    for option in re.split(r"\n  (?=--)", text)[1:]:
        assert len(re.findall(r"\(default: ", " ".join(option.split()))) <= 1, option


@pytest.mark.parametrize("task", TASKS)
def test_the_first_options_of_a_task_have_an_effect_on_its_models(task):
    groups = with_shared(TABLES["subcommands"][task], TABLES["shared"])["groups"]
    first = {option["name"] for group in groups[:4] for option in group["options"]}
    later = {option["name"] for group in groups[4:] for option in group["options"]}
    reads = {"glue": {"max_length"}, "cifar10": {"image_size"}}.get(task, {"max_length", "image_size"})
    reads |= {"objectives"} if task == "pretrain" else set()
    questioned = {"max_length", "image_size", "objectives"}
    assert first & questioned == reads and later & questioned == questioned - reads


@pytest.mark.parametrize(
    "words", [[], ["pretrain"], ["cifar10"], ["predict"], ["recipes"], ["prepare"], ["prepare", "shapes"]], ids=str
)
def test_help_is_a_command_too(words, capsys):
    text = shown(capsys, *words, "--help")
    assert text.startswith("usage: renaissance") and shown(capsys, "help", *words) == text


def test_help_of_nothing_known_is_a_mistake(capsys):
    for words, fault in ((["help", "pretrian"], "did you mean pretrain?"), (["hlep"], "did you mean help?")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and fault in line


@pytest.mark.parametrize("task", TASKS)
def test_help_of_a_task_begins_with_what_a_first_run_needs(task, capsys):
    text = shown(capsys, task, "--help")
    titles = re.findall(r"^(\S.*):$", text, flags=re.M)
    assert titles[:4] == ["data", "model", "what to do, and where the results go", "usual training options"]
    assert len(titles) == len(set(titles)) >= 12
    first = text.partition(titles[4])[0]
    for name in ("train_file", "model_name_or_path", "output_dir", "do_train", "learning_rate", "num_train_epochs"):
        assert f"  --{name} " in first
    assert len(first.splitlines()) < 130
    # Each option once, all of them somewhere.
    table = with_shared(TABLES["subcommands"][task], TABLES["shared"])
    names = re.findall(r"^  (--\w+)", text, flags=re.M)
    assert sorted(names) == sorted(option["flags"][0] for option in options_of(table) if not option.get("flag"))
    # Examples keep their lines.
    assert all(line in text.splitlines() for line in SUBCOMMANDS[task].details.splitlines())


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if name not in TASKS and name != "recipes"])
def test_examples_are_shown_as_they_are_written(name, capsys):
    module = importlib.import_module(SUBCOMMANDS[name].target.partition(":")[0])
    examples = [line for line in module.build_parser().description.splitlines() if line.startswith("    ")]
    assert f"    renaissance {name} " in "\n".join(examples)
    lines = shown(capsys, name, "--help").splitlines()
    assert [line for line in examples if line not in lines] == []


def test_help_shows_a_default_that_only_words_describe(capsys):
    text = " ".join(shown(capsys, "nlvr2", "--help").split())
    assert "Architecture of a new model: dual-encoder, one-tower, two-tower (default: two-tower)." in text
    assert "Number of cross-modal layers (default: 6)." in text
    assert "Peak learning rate (default: 5e-05)." in text
    assert "(default: the image processor's own)." in text
    assert "--lr_scheduler_type" in text and "(default: linear)" in text


def test_the_overview_names_every_subcommand(capsys):
    text = shown(capsys, "--help")
    assert set(re.findall(r"^  ([a-z0-9-]+) ", text, flags=re.M)) == set(SUBCOMMANDS)
    assert shown(capsys) == text
    assert shown(capsys, "--version").startswith("renaissance ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrian"], "no command pretrian; did you mean pretrain?"),
        (["nlvr2", "--lerning_rate", "1"], "renaissance nlvr2: error: no option --lerning_rate; did you mean --learning_rate?"),
        (["nlvr2", "--lerning-rate=1"], "no option --lerning-rate; did you mean --learning_rate?"),
        (["vqa", "--answer_spilts", "train"], "did you mean --answer_splits?"),
        (["glue", "--xyzzy", "1"], "no option --xyzzy; --help lists all options"),
        (["retrieval", "--max_steps", "ten"], "argument --max_steps/--max-steps: invalid int value: 'ten'"),
        (["retrieval", "--do_train", "maybe"], "expected true or false, got 'maybe'"),
        (["retrieval", "--negatives", "hardest"], "invalid choice: 'hardest'"),
        (["pretrain", "pretrain_shapes_two_towers"], "did you mean pretrain_shapes_two_tower?"),
        (["pretrain", "missing.yaml"], "recipe missing.yaml: no such file"),
        (["pretrain", "--do_train", "x", "y"], "expected true or false, got 'x'"),
        (["pretrain", "--output_dir", "x", "recipe.yaml"], "a recipe comes first"),
        (["prepare", "cocoa", "--output", "x"], "no dataset cocoa; did you mean coco?"),
        (["prepare", "shapes", "--ouput", "x"], "no option --ouput; did you mean --output?"),
        (["prepare", "shapes", "--seed", "x"], "invalid int value: 'x'"),
        (["convert", "vilt", "--output", "x"], "--source"),
        (["benchmark", "steps"], "no group steps; did you mean step?"),
        (["predict", "x", "--imge", "y"], "no option --imge; did you mean --image?"),
        (["nlvr2", "pretrain_shapes_two_tower"], "no option train_datasets; did you mean dataset? it is a recipe of `renaissance pretrain`;"),
        (["recipes", "nlvr"], "recipe nlvr: no such file; did you mean nlvr2?"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_with_the_nearest_name(argv, message, refused):
    assert message in refused(main, [*argv], alone=True)


def test_a_recipe_with_a_misspelt_option_is_refused(tmp_path, refused):
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rte: 1\n")
    assert "no option learning_rte; did you mean learning_rate?" in refused(main, ["nlvr2", str(path)], alone=True)


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["nlvr2", "--help"], ["nlvr2", "--lerning_rate", "1"], ["prepare", "coco", "--help"], ["recipes"]],
)
def test_help_and_mistakes_import_neither_torch_nor_the_package(argv):
    code = (
        "import sys\nfrom renaissance_cli.main import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'renaissance'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_recipes_and_configurations_ship_in_the_package(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = shipped("recipes", ".yaml")
    assert {path.name for path in (ROOT / "run_scripts" / "recipes").glob("*.yaml")} == {
        path.name for path in recipes.values()
    }
    assert set(shipped("deepspeed", ".json")) == {"zero2", "zero3"}
    listed = shown(capsys, "recipes")
    assert all(re.search(rf"^  {name}$", listed, flags=re.M) for name in recipes)
    assert [line for line in listed.splitlines() if len(line) > 79] == []
    assert yaml.safe_load(shown(capsys, "recipes", "nlvr2")) == yaml.safe_load(recipes["nlvr2"].read_text())
    # By its name alone; a file of that name comes first.
    assert CommandLine.read(["nlvr2", "--seed", "1"]).words == [
        *CommandLine.read([str(recipes["nlvr2"])]).words,
        "--seed",
        "1",
    ]
    (tmp_path / "nlvr2").write_text("seed: 3\n")
    assert CommandLine.read(["nlvr2"]).words == ["--seed=3"]


@pytest.mark.parametrize("recipe", shipped("recipes", ".yaml"))
def test_every_recipe_has_options_of_its_task(recipe):
    table = with_shared(TABLES["subcommands"][task_of(recipe)], TABLES["shared"])
    argv = CommandLine.read([recipe]).words
    assert parser_of(table, "renaissance").parse_known_args(argv)[1] == []


def test_options_of_the_users_own_modules_are_left_to_the_task(tmp_path, monkeypatch, refused):
    # The module registers an option that the table lacks; without it the option is refused at once.
    (tmp_path / "own_objective.py").write_text(
        "import dataclasses\n"
        "from renaissance import ObjectiveData, MaskedTextData, option, register_objective\n"
        "from renaissance.modeling.objectives import OBJECTIVES\n"
        "class Own(type(OBJECTIVES['mlm'])):\n    name = 'own_words'\n"
        "@dataclasses.dataclass\nclass OwnData(MaskedTextData):\n    name = 'own_words'\n"
        "    own_share: float = option(0.5, 'Share of own words.')\n"
    )
    monkeypatch.chdir(tmp_path)
    argv = ["pretrain", "--own_share", "0.1"]
    assert "no option --own_share" in refused(main, [*argv], alone=True)
    text = refused(main, [*argv, "--import_module", "own_objective_missing"], alone=True)
    assert "import_module own_objective_missing: cannot be imported" in text


SCRIPTS = sorted((ROOT / "run_scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_call_what_the_command_calls(script, capsys):
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, env=environment)
    name = re.search(r'main\(\["([\w-]+)"', script.read_text())[1]
    assert done.returncode == 0 and done.stdout == shown(capsys, name, "--help")


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
def test_configurations_of_deepspeed_go_by_name(tmp_path):
    assert json.loads(Path(deepspeed_configuration("zero2")).read_text())["zero_optimization"]["stage"] == 2
    own = tmp_path / "own.json"
    own.write_text("{}")
    assert deepspeed_configuration(str(own)) == str(own) and deepspeed_configuration(None) is None
    with pytest.raises(ValueError, match="deepspeed zero4: no such file; did you mean zero"):
        deepspeed_configuration("zero4")


def test_no_folder_of_the_scripts_hides_a_package():
    """The folder of a script comes first where Python looks for modules."""
    packages = {path.parent.name for path in (ROOT / "run_scripts").glob("*/__init__.py")}
    assert packages == {"benchmarks", "recipes"}
    code = "import importlib.util; print(importlib.util.find_spec('deepspeed').origin)"
    for folder in (ROOT, ROOT / "run_scripts"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
        assert "run_scripts" not in done.stdout


def test_every_subcommand_but_those_on_checkpoints_runs_and_recipes_has_a_script():
    named = {re.search(r'main\(\["([\w-]+)"', path.read_text())[1] for path in SCRIPTS}
    assert named == set(SUBCOMMANDS) - {"predict", "recipes", "report"}


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ([str(Path(sys.executable).with_name("renaissance")), "nlvr2", "nlvr2_shapes"], 0.5),
        ([sys.executable, "-m", "renaissance_cli", "predict", "nowhere", "--text", "x"], 2.0),
        ([sys.executable, str(ROOT / "run_scripts" / "run_pretrain.py"), "pretrain_shapes_two_tower"], 3.5),
    ],
)
def test_ctrl_c_during_imports_ends_in_one_line(command, seconds, tmp_path):
    """The first is stopped while the options are checked or modules are imported, the others while torch is."""

    def heed() -> None:
        # Where the tests run in the background, Ctrl-C is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=heed)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and errors.startswith("stopped by Ctrl-C") and errors.count("\n") == 1, errors


def test_ctrl_c_later_ends_in_one_line(monkeypatch, capsys):
    def stop(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("renaissance_cli.dispatch.load", lambda subcommand: stop)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "nowhere", "--text", "x"])
    assert stopped.value.code == 130 and capsys.readouterr().err == "stopped by Ctrl-C\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_two_access_tokens_that_differ_are_refused(options, shapes, capsys):
    argv = [*TWO_TOWER, *options, "--dataset", str(shapes / "nlvr2"), "--do_eval"]
    with pytest.raises(SystemExit) as stopped:
        main(["nlvr2", *argv, "--token", "hf_one", "--hub_token", "hf_two"])
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.count("\n") == 1
    assert "token, hub_token: two access tokens are given, and they differ" in errors and "hf_" not in errors


@pytest.mark.parametrize(
    "argv",
    [
        ["predict"],
        ["demo"],
        ["convert", "vilt"],
        ["convert", "lxmert"],
        ["benchmark", "retrieval"],
        *([t] for t in TASKS),
    ],
)
def test_whatever_loads_a_model_takes_a_revision_a_token_and_trust(argv, capsys):
    text = " ".join(shown(capsys, *argv, "--help").split())
    for name in ("--model_revision TEXT", "--token TEXT", "--trust_remote_code"):
        assert text.count(f" {name} ") == 1, name
    assert "with all your rights (default: false)." in text


def test_the_command_is_installed_and_runs_as_a_module():
    for command in ([str(Path(sys.executable).with_name("renaissance"))], [sys.executable, "-m", "renaissance_cli"]):
        done = subprocess.run([*command, "nlvr2", "--sed", "1"], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "did you mean --seed?" in done.stderr


def test_hyphens_are_as_good_as_underscores():
    table = with_shared(TABLES["subcommands"]["nlvr2"], TABLES["shared"])
    assert {"--learning_rate", "--learning-rate"} <= set(flags_of(table))
    assert json.dumps(TABLES)
