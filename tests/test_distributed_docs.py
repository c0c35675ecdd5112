"""The commands of docs/distributed.md start two processes each, as they are written."""

import json
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from conftest import TINY_BERT, TINY_VIT
from launching import free_port
from transformers.integrations.deepspeed import is_deepspeed_available


PAGE = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
#: The modules of the launchers, which this environment may have no commands of.
LAUNCHERS = {
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.accelerate_cli",
    "deepspeed": "deepspeed.launcher.runner",
}


def commands() -> dict[str, list[list[str]]]:
    """The commands of the page by their output folder; those that run together have the same."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.split()[0] in LAUNCHERS:
                words = shlex.split(line.rstrip(" &"))
                found.setdefault(words[words.index("--output_dir") + 1], []).append(words)
    return found


COMMANDS = commands()


def test_there_is_a_command_of_each_launcher():
    assert {words[0] for each in COMMANDS.values() for words in each} == set(LAUNCHERS)
    assert sorted(map(len, COMMANDS.values())) == [1, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMANDS)
def test_two_processes_run(folder, launch, shapes, tokenizer_folder, tmp_path):
    if "deepspeed" in folder and not is_deepspeed_available():
        pytest.skip("DeepSpeed is for Linux only")
    recipe = {
        "text_encoder": "bert", "random_init_text": True, "text_overrides": json.loads(TINY_BERT),
        "vision_encoder": "vit", "random_init_vision": True, "vision_overrides": json.loads(TINY_VIT),
        "cross_modal_hidden_size": 32, "cross_modal_layers": 1, "cross_modal_heads": 2, "tokenizer": str(tokenizer_folder),
        "dataset": str(shapes / "nlvr2"), "do_train": True, "max_steps": 2, "report_to": "none", "use_cpu": True,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    port = str(free_port())
    with ExitStack() as started:
        jobs = []
        for words in COMMANDS[folder]:
            words = [port if word == "29500" else word for word in words]
            job = launch.start([sys.executable, "-m", LAUNCHERS[words[0]], *words[1:]], cwd=tmp_path)
            jobs.append(started.enter_context(job))
        codes = [job.wait() for job in jobs]
    assert codes == [0] * len(jobs), "\n".join(job.errors[-3000:] for job in jobs)
    assert json.loads((tmp_path / folder / "run.json").read_text())["num_processes"] == 2
