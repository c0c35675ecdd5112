"""The commands of README and docs: options that exist, on a CPU as they are written, and a folder for each run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from renaissance.tasks.arguments import argument_classes
from renaissance.tasks.parsing import parse_arguments
from renaissance_cli.main import main
from renaissance_cli.recipe_files import CommandLine
from renaissance_cli.subcommands import SUBCOMMANDS


ROOT = Path(__file__).parents[1]
#: Recipes that a reader has written, and what a page leaves out.
OF_THE_READER = {"recipe.yaml", "mine.yaml", "..."}
TASKS = [name for name, subcommand in SUBCOMMANDS.items() if subcommand.is_task]


def task_class(name: str) -> type:
    """The class of the task that a subcommand runs."""
    module, _, attribute = SUBCOMMANDS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def commands() -> list[tuple[str, str, list[str]]]:
    """The documented commands: the file, the subcommand, and its command line, each once."""
    found = []
    for doc in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", doc.read_text(), flags=re.DOTALL):
            for script, words in re.findall(r"\brenaissance ([\w-]+) ([^|>;\n]*)", block.replace("\\\n", " ")):
                argv = shlex.split(words, comments=True)
                if "--help" in argv or "$name" in argv:
                    # The one shows help, the other is a loop over names.
                    continue
                if (script, argv) not in [(other, its) for _, other, its in found]:
                    found.append((doc.name, script, argv))
    return found


COMMANDS = commands()
RUNS = [(doc, task, argv) for doc, task, argv in COMMANDS if task in TASKS]
OTHERS = [(doc, name, argv) for doc, name, argv in COMMANDS if name not in TASKS]


def output_of(argv: list[str]) -> str:
    """The folder that a command writes to."""
    # Words of a recipe are one each, those of the command line two.
    words = [part for word in CommandLine.read(argv).words for part in re.split("(?<=^--output_dir)=", word)]
    return words[len(words) - words[::-1].index("--output_dir")]


def named(commands: list[tuple[str, str, list[str]]]) -> list[str]:
    return [f"{doc}-{name}-{number}" for number, (doc, name, _) in enumerate(commands)]


def test_there_are_commands_of_all_kinds():
    assert {name for _, name, _ in COMMANDS} == {*SUBCOMMANDS} - {"demo"} and len(RUNS) > 30


def test_no_command_of_the_docs_is_a_script():
    """The scripts stay, and are named in one table."""
    for doc in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert "python run_scripts/" not in doc.read_text(), doc


def test_each_run_has_a_folder_of_its_own():
    """A training refuses the folder of another one."""
    users: dict[str, list[str]] = {}
    for doc, task, argv in RUNS:
        if not OF_THE_READER & set(argv):
            users.setdefault(output_of(argv), []).append(f"{doc}: {task} {shlex.join(argv)}")
    assert {folder: each for folder, each in users.items() if len(each) > 1} == {}


@pytest.mark.parametrize("number", range(len(RUNS)), ids=named(RUNS))
def test_options_are_accepted_on_a_cpu(number, tmp_path, monkeypatch):
    """Without data and weights, which are read later. Options in variables of the shell are left out."""
    _, task, argv = RUNS[number]
    if {"--import_module", "--deepspeed", *OF_THE_READER} & set(argv):
        pytest.skip("names a module or a recipe that its page shows, or an engine: tests of their own run these")
    monkeypatch.chdir(tmp_path)
    argv = [word.replace("$SEED", "0") for word in argv if word not in ("$SHORT", "$HEAD", "$COMMON")]
    if "--report_to" in argv:
        # Those that are not installed here.
        argv = [word for word in argv if word not in ("trackio", "wandb")]
    args = parse_arguments(argument_classes(task_class(task)), [*argv, "--output_dir", str(tmp_path)], "")[-1]
    assert args.precision == ("bf16_weights" if "--bf16_weights" in argv else "float32") and args.device.type == "cpu"


@pytest.mark.parametrize("number", range(len(OTHERS)), ids=named(OTHERS))
def test_other_commands_have_options_that_exist(number, monkeypatch, capsys):
    """They are checked by the table of options, and not run."""
    _, name, argv = OTHERS[number]
    monkeypatch.setattr("renaissance_cli.dispatch.load", lambda subcommand: lambda argv: None)
    main([name, *argv])
    assert capsys.readouterr().err == ""
