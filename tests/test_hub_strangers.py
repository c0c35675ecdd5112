"""What is pushed loads, with the same outputs to the bit, in a process without this package that knows only the Hub."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, tiny_batch, tiny_model, training_batch
from hub import pretrain_and_push, write_files
from hub_server import TOKEN
from strangers import run_elsewhere

from renaissance.hub import parse_revisions
from renaissance.modeling.architectures import HEADS


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sharing.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
#: The block that loads a head of any kind.
ANY_HEAD = next(block for block in BLOCKS if block.startswith("from transformers.dynamic_module_utils"))
STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


def load_and_run(jobs: str) -> None:
    """What the other process does with each job: run its lines, which load a model, and save the outputs of that."""
    import importlib.util
    import json
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    assert importlib.util.find_spec("renaissance") is None
    for job in json.loads(Path(jobs).read_text()):
        names = {}
        exec(job["code"], names)
        assert type(names["model"]).__module__.startswith("transformers_modules.")
        assert "processor" not in names or type(names["processor"]).__module__.startswith("transformers_modules.")
        with torch.no_grad():
            torch.save(dict(names["model"].eval()(**torch.load(job["inputs"]))), job["outputs"])


def run_jobs(root: Path, endpoint: str, jobs: list[dict]) -> None:
    """Run jobs in a process without renaissance, with a home of its own and no token."""
    (root / "jobs.json").write_text(json.dumps(jobs))
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    run_elsewhere(root, load_and_run, root / "jobs.json", **variables)


def job(root: Path, name: str, code: str, inputs: dict, expected: dict) -> dict:
    """A job, whose inputs and expected outputs are saved under `root`."""
    folder = root / "jobs" / name
    folder.mkdir(parents=True)
    torch.save(inputs, folder / "inputs.pt")
    torch.save(expected, folder / "expected.pt")
    return {"code": code, "inputs": str(folder / "inputs.pt"), "outputs": str(folder / "outputs.pt")}


def assert_same(jobs: list[dict]) -> None:
    for each in jobs:
        found, expected = (
            torch.load(Path(each["outputs"]).with_name(f"{name}.pt")) for name in ("outputs", "expected")
        )
        torch.testing.assert_close(
            found, expected, atol=0, rtol=0, msg=lambda text, each=each: f"{each['code']}: {text}"
        )


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loading(name: str, revision: str) -> str:
    return (
        "from transformers import AutoModelForPreTraining, AutoProcessor\n"
        f"processor = AutoProcessor.from_pretrained({name!r}, revision={revision!r}, trust_remote_code=True)\n"
        f"model = AutoModelForPreTraining.from_pretrained({name!r}, revision={revision!r}, trust_remote_code=True)"
    )


def outputs_of(model, inputs: dict) -> dict:
    with torch.no_grad():
        return dict(model.eval()(**inputs))


def pretraining_outputs(files: dict[str, bytes], folder: Path) -> tuple[dict, dict]:
    """Inputs of a model that the files of a commit hold, and its outputs here."""
    from renaissance import TwoTowerForPreTraining

    inputs = {name: value[:, :, :32, :32] if name == "pixel_values" else value for name, value in tiny_batch().items()}
    inputs["input_ids"] = inputs["input_ids"] % 40
    return inputs, outputs_of(TwoTowerForPreTraining.from_pretrained(write_files(files, folder)), inputs)


def test_every_head_loads_by_the_line_in_the_docs(hub, processor, tmp_path, one_thread):
    jobs = []
    for architecture in ARCHITECTURES:
        for kind in HEADS:
            model, name = tiny_model(architecture, kind), f"author/{architecture}{kind}"
            model.push_to_hub(name, token=TOKEN)
            processor.push_to_hub(name, token=TOKEN)
            module = type(model).__module__.rpartition(".")[2]
            code = ANY_HEAD.replace(
                "modeling_two_tower.TwoTowerForImageTextRetrieval", f"{module}.{type(model).__name__}"
            )
            inputs = training_batch(kind)
            jobs.append(job(tmp_path, name, code.replace("author/matching", name), inputs, outputs_of(model, inputs)))
    assert len(jobs) == 27
    run_jobs(tmp_path, hub.endpoint, jobs)
    assert_same(jobs)


def test_every_commit_of_every_strategy_loads(hub, shapes, tokenizer_folder, tmp_path, one_thread):
    for strategy in STRATEGIES:
        extra = [
            "--hub_strategy",
            strategy,
            "--hub_always_push",
            "true",
            "--save_steps",
            "3",
            "--save_total_limit",
            "1",
        ]
        extra += ["--hub_model_id", f"author/{strategy}", "--push_revisions", "2", "words:30=chck_30"]
        pretrain_and_push(tmp_path / strategy, shapes, tokenizer_folder, *extra)
    jobs = []
    for strategy in STRATEGIES:
        name = f"author/{strategy}"
        repository = hub.model(name)
        commits = {commit.sha: commit for branch in repository.branches.values() for commit in branch}
        # The first commit is made with the repository.
        del commits[repository.branches["main"][0].sha]
        assert repository.tags.keys() == {"steps-2", "chck_30"}
        commits |= {tag: repository.find(tag) for tag in repository.tags}
        for revision, commit in commits.items():
            inputs, expected = pretraining_outputs(commit.files, tmp_path / "here" / strategy / revision)
            jobs.append(job(tmp_path, f"{name}-{revision}", loading(name, revision), inputs, expected))
    # Of each strategy two last commits, two revisions by their commits and tags, and two checkpoints but for `end`.
    assert len(jobs) == 4 * (2 + 2 + 2) + 3 * 2
    run_jobs(tmp_path, hub.endpoint, jobs)
    assert_same(jobs)


def test_a_killed_run_leaves_what_loads(hub, shapes, tokenizer_folder, tmp_path, one_thread):
    code = (
        f"import sys, pathlib\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom hub import pretrain_and_push\n"
        f"pretrain_and_push(*map(pathlib.Path, {[str(tmp_path), str(shapes), str(tokenizer_folder)]!r}), "
        "'--hub_strategy', 'every_save', '--save_steps', '1', '--max_steps', '100000')"
    )
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "author"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stdout=log, stderr=log)
    while sum(path.endswith("/commit/main") for _, path in hub.requests) < 2 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
    commits = hub.model("author/run").branches["main"]
    assert len(commits) >= 2 and commits[-1].title.startswith("Training in progress")
    inputs, expected = pretraining_outputs(commits[-1].files, tmp_path / "here")
    jobs = [job(tmp_path, "killed", loading("author/run", "main"), inputs, expected)]
    run_jobs(tmp_path, hub.endpoint, jobs)
    assert_same(jobs)


def test_the_docs_run(hub, shapes, tokenizer_folder, tmp_path, one_thread):
    """The commands of docs/sharing.md as they stand, then its Python blocks, by a stranger if they can be a stranger's."""
    data = tmp_path / "author" / "demo" / "shapes"
    data.mkdir(parents=True)
    for name in ("captions", "nlvr2"):
        (data / name).symlink_to(shapes / name)
    (data / "tokenizer").symlink_to(tokenizer_folder)
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd=tmp_path / "author", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]

    _, push, use, suite = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)
    run(["bash", "-c", push])
    upload, load, line, subfolder, revisions, *tools = BLOCKS
    run([sys.executable, "-c", upload])
    run(["bash", "-c", use])
    named = parse_revisions(suite.split("--push_revisions ")[1].split())
    assert [each.name for each in named] == [f"chck_{millions}M" for millions in (1, 2, 5, 10, 50, 100)]

    repository = hub.model("author/shapes")
    assert repository.tags.keys() == {"steps-20", "samples-2K", "chck_10K"}
    main, jobs = repository.branches["main"][-1].files, []
    checkpoint = {
        name.removeprefix("last-checkpoint/"): main[name] for name in main if name.startswith("last-checkpoint/")
    }
    codes = {
        load: main,
        f"{load}{subfolder}": checkpoint,
        f"{load}{line}{revisions}": repository.find("steps-20").files,
    }
    for number, (code, files) in enumerate(codes.items()):
        files = {name: content for name, content in files.items() if "/" not in name}
        inputs, expected = pretraining_outputs(files, tmp_path / "here" / str(number))
        jobs.append(job(tmp_path, f"docs-{number}", code, inputs, expected))
    run_jobs(tmp_path, hub.endpoint, jobs)
    assert_same(jobs)
    run_tools(tmp_path, hub.endpoint, tools)


def run_blocks(path: str) -> None:
    """What the other process does with the blocks of tools: run each on its own, and write down some of what they make."""
    import json
    import os
    from pathlib import Path

    import torch
    from PIL import Image

    os.chdir(Path(path).parent)
    Image.new("RGB", (60, 40), "red").save("picture.png")
    names = [{} for _ in json.loads(Path(path).read_text())]
    for number, code in enumerate(json.loads(Path(path).read_text())):
        exec(code, names[number])
    made = {name: value for block in names for name, value in block.items()}
    tokens = torch.arange(5, 11).unsqueeze(0)
    with torch.no_grad():
        alike = [made[name].eval()(input_ids=tokens).logits for name in ("adapted", "merged")]
    torch.testing.assert_close(*alike, atol=1e-4, rtol=1e-4)
    assert len(made["matches"]) == 3 and made["best"]["score"] >= made["other"]["score"] and len(made["words"]) == 3
    assert -200 < made["score"] < 0
    exported = torch.export.load("model.pt2").module()(**made["inputs"]).logits
    if "session" in made:
        torch.testing.assert_close(torch.from_numpy(made["logits"]), exported, atol=1e-3, rtol=1e-3)


def run_tools(root: Path, endpoint: str, blocks: list[str]) -> None:
    """Run the blocks of the tools that are installed, by a stranger who may push."""
    packages = {"BitsAndBytesConfig": "bitsandbytes", "onnxruntime": "onnxruntime"}
    missing = [word for word, package in packages.items() if find_spec(package) is None]
    blocks = [block for block in blocks if not any(word in block for word in missing)]
    (root / "tools").mkdir()
    (root / "tools" / "blocks.json").write_text(json.dumps(blocks))
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN}
    run_elsewhere(root, run_blocks, root / "tools" / "blocks.json", **variables)
