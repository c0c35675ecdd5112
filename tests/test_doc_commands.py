"""The commands of README and docs: options that exist, on a CPU as they are written, and a folder for each run."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from renaissance.tasks.arguments import (
    AugmentationArguments,
    CachingArguments,
    RunArguments,
    model_arguments_class,
    parse_arguments,
)
from renaissance.tasks.cifar10 import CIFAR10
from renaissance.tasks.glue import GLUE
from renaissance.tasks.image_text_classification import ImageTextClassification
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.refcoco import RefCOCO
from renaissance.tasks.retrieval import Retrieval
from renaissance.tasks.snli_ve import SNLIVE
from renaissance.tasks.vqav2 import VQAv2


ROOT = Path(__file__).parents[1]
TASKS = {
    "run_cifar10": CIFAR10, "run_glue": GLUE, "run_image_text_classification": ImageTextClassification, "run_nlvr2": NLVR2,
    "run_pretrain": Pretraining, "run_refcoco": RefCOCO, "run_retrieval": Retrieval, "run_snli_ve": SNLIVE, "run_vqav2": VQAv2,
}  # fmt: skip


def commands() -> list[tuple[str, str, list[str]]]:
    """The documented commands of the run scripts: the file, the script, and its command line, each once."""
    found = []
    for doc in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", doc.read_text(), flags=re.DOTALL):
            for script, words in re.findall(r"python run_scripts/(run_\w+)\.py (.*)", block.replace("\\\n", " ")):
                argv = shlex.split(words, comments=True)
                if (script, argv) not in [(other, its) for _, other, its in found]:
                    found.append((doc.name, script, argv))
    return found


COMMANDS = commands()


def output_of(argv: list[str]) -> str:
    """The folder that a command writes to."""
    if "--output_dir" in argv:
        return argv[argv.index("--output_dir") + 1]
    return yaml.safe_load((ROOT / argv[0]).read_text())["output_dir"]


def test_there_are_commands_of_all_tasks():
    assert {script for _, script, _ in COMMANDS} == set(TASKS) and len(COMMANDS) > 30


def test_each_run_has_a_folder_of_its_own():
    """A training refuses the folder of another one."""
    users: dict[str, list[str]] = {}
    for doc, script, argv in COMMANDS:
        users.setdefault(output_of(argv), []).append(f"{doc}: {script} {shlex.join(argv)}")
    assert {folder: each for folder, each in users.items() if len(each) > 1} == {}


@pytest.mark.parametrize(
    "number", range(len(COMMANDS)), ids=[f"{doc}-{script}-{n}" for n, (doc, script, _) in enumerate(COMMANDS)]
)
def test_options_are_accepted_on_a_cpu(number, tmp_path, monkeypatch):
    """Without data and weights, which are read later. Options in variables of the shell are left out."""
    _, script, argv = COMMANDS[number]
    if "--import_module" in argv or "--deepspeed" in argv:
        pytest.skip("names a module that its page shows, or an engine: tests of their own run these")
    monkeypatch.chdir(ROOT)
    argv = [word.replace("$SEED", "0") for word in argv if word not in ("$SHORT", "$HEAD", "$COMMON")]
    kinds = (
        model_arguments_class(),
        TASKS[script].argument_class(),
        AugmentationArguments,
        CachingArguments,
        RunArguments,
    )
    if "--report_to" in argv:
        # Those that are not installed here.
        argv = [word for word in argv if word not in ("trackio", "wandb")]
    args = parse_arguments(kinds, [*argv, "--output_dir", str(tmp_path)], "")[-1]
    assert args.precision == "float32" and args.device.type == "cpu"
