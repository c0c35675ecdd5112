"""The install: what it brings, what its extras are, and that it goes beside other tools in one environment."""

import ast
import configparser
import copy
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution, metadata, requires, version
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, tiny_bert, tiny_model, tiny_vit
from packaging.requirements import Requirement
from PIL import Image

import renaissance
from renaissance import TwoTowerConfig
from renaissance_cli.extras import TRAIN
from renaissance_cli.main import main


ROOT = Path(__file__).parents[1]
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")
#: The module of each package whose name differs.
MODULES = {"pillow": "PIL", "huggingface-hub": "huggingface_hub", "pyyaml": "yaml", "scikit-learn": "sklearn"}


def names(requirements: str) -> set[str]:
    """The modules of the packages in a setting."""
    lines = [line for line in requirements.splitlines() if line.strip() and not line.startswith(("%", "#"))]
    found = {Requirement(line).name for line in lines}
    return {MODULES.get(name, name) for name in found}


def imported(folder: str, but: str = "") -> set[str]:
    """The modules of other packages that the files of a folder, but those of one in it, import at their top level."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        if path.parent.name == but:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"renaissance", "renaissance_cli"}


def test_the_install_without_extras_has_what_models_import_and_no_more():
    base = names(SETTINGS["options"]["install_requires"])
    assert imported("modeling") | imported("processing") <= base
    assert imported("src/renaissance_cli") == {"yaml"} <= base
    assert imported("src/renaissance", but="studies") - {"datasets"} <= base
    train = names(SETTINGS["options.extras_require"]["train"])
    assert train == set(TRAIN) and not train & base
    assert imported("tasks") | imported("src/renaissance/studies") <= base | train
    assert "deepspeed" not in base | train


def test_the_install_without_extras_imports_saves_and_answers(saved):
    """In a process in which what the extras bring cannot be imported."""
    # transformers imports peft where it is there, which wants accelerate.
    missing = dict.fromkeys([*TRAIN, "deepspeed", "peft"])
    block = f"import sys\nsys.modules.update({missing!r})\n"
    save = "from renaissance import TwoTowerModel\nTwoTowerModel.from_pretrained('model').save_pretrained('base')\n"
    ask = "from renaissance_cli.main import main\nmain(['predict', 'model', '--image', 'red.png', '--text', 'a red circle'])"
    done = run(Path(sys.executable), "-c", block + save + ask, folder=saved)
    assert done.returncode == 0 and "LABEL_" in done.stdout, done.stderr[-3000:]
    assert "made by renaissance, save" in (saved / "base" / "README.md").read_text()


def test_nothing_is_bound_from_above_but_the_linter():
    listed = [Requirement(line) for line in requires("renaissance")]
    written = f"{SETTINGS['options']['install_requires']}{SETTINGS['options.extras_require']['train']}".split("\n")
    assert not [line for line in written if line and not line.startswith("#") and ">=" not in line]
    bound = [each.name for each in listed if any(part.operator not in (">=", "!=") for part in each.specifier)]
    assert bound == ["ruff"]
    extras = set(metadata("renaissance").get_all("Provides-Extra"))
    assert {"train", "deepspeed", "demo", "dev"} <= extras
    of_dev = {each.name for each in listed if each.marker and "dev" in str(each.marker)}
    assert {"datasets", "deepspeed", "tensorboard", "pytest"} <= of_dev


def test_the_extra_of_developers_has_all_others_and_all_are_here():
    """Names and bounds of all extras, in the environment that `pip install -e ".[dev]"` makes."""
    listed = [Requirement(line) for line in requires("renaissance")]
    extras = metadata("renaissance").get_all("Provides-Extra")
    of = {
        extra: {each for each in listed if each.marker and each.marker.evaluate({"extra": extra})} for extra in extras
    }
    assert all(of.values())
    names_of = {extra: {(each.name, str(each.specifier)) for each in found} for extra, found in of.items()}
    assert all(found <= names_of["dev"] for found in names_of.values())
    for each in (*of["dev"], *(each for each in listed if not each.marker)):
        assert each.specifier.contains(version(each.name)), each


def test_the_command_is_the_only_entry_point():
    (found,) = distribution("renaissance").entry_points
    assert (found.group, found.name, found.load()) == ("console_scripts", "renaissance", main)


#: The folders that are installed, with all that is below them.
INSTALLED = (
    "src", "modeling", "processing", "tasks", "model_cards", "run_scripts/benchmarks", "run_scripts/recipes", "run_scripts/deepspeed", "run_scripts/studies",
)  # fmt: skip


def installed_files() -> set[str]:
    """The names in a wheel of all files that are tracked or about to be in the folders that are installed."""
    places = dict(line.split(" = ") for line in SETTINGS["options"]["package_dir"].split("\n") if line)
    modules = {place: name.replace(".", "/") for name, place in places.items()}
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *INSTALLED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    return {f"{modules.get(str(path.parent), path.parent)}/{path.name}" for path in found}


def test_every_folder_of_code_is_a_package():
    """Listed twice in setup.cfg, and with the patterns of its other files."""
    settings = SETTINGS["options"]
    packages = settings["packages"].split()
    places = [line.split(" = ")[0] for line in settings["package_dir"].split("\n") if line]
    assert packages == places
    known = {name.replace(".", "/"): name for name in packages}
    patterns = SETTINGS["options.package_data"]
    for path in map(Path, installed_files()):
        assert str(path.parent) in known, path
        wanted = patterns.get(known[str(path.parent)], "").split()
        assert path.suffix == ".py" or any(path.match(pattern) for pattern in wanted), path


def test_the_version_is_the_same_everywhere(tmp_path):
    assert renaissance.__version__ == version("renaissance")
    model = tiny_model("two-tower")
    model.save_pretrained(tmp_path)
    written = re.search(r'"renaissance_version": "(.*?)"', (tmp_path / "config.json").read_text())[1]
    assert written == renaissance.__version__
    # Saved again, it is that of the package that saved it.
    config = TwoTowerConfig.from_dict(model.config.to_dict() | {"renaissance_version": "0.0.1"})
    assert config.to_dict()["renaissance_version"] == renaissance.__version__


def test_what_the_project_says_of_itself():
    classifiers = metadata("renaissance").get_all("Classifier")
    for number in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {number}" in classifiers
    assert any("2411.06657" in url for url in metadata("renaissance").get_all("Project-URL"))


SIZES = {"cross_modal_hidden_size": 16, "cross_modal_layers": 1, "cross_modal_heads": 2, "initializer_range": 0.3}
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
CPU_TORCH = re.search(r'install --quiet "(torch.*?)"', (ROOT / "Makefile").read_text())[1]


def source_tree(folder: Path) -> Path:
    """A copy of what is committed or about to be, so that building leaves nothing in the checkout."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    return folder / "source"


def environment_with(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment with packages from the package index."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return python


def run(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, *arguments], capture_output=True, text=True, cwd=folder, env=environment)


#: What a stranger does with a saved folder, and what it prints.
USE = """
import sys
import torch
from PIL import Image
from renaissance import AutoModelForImageTextClassification
from transformers import AutoProcessor

model = AutoModelForImageTextClassification.from_pretrained("model").eval()
inputs = AutoProcessor.from_pretrained("model")(Image.new("RGB", (40, 30), "red"), "a red circle", return_tensors="pt")
with torch.no_grad():
    print([round(value, 4) for value in model(**inputs).logits[0].tolist()])
loaded = {"datasets", "accelerate", "sklearn", "scipy", "deepspeed"} & set(sys.modules)
print("loaded", sorted(loaded), file=sys.stderr)
"""


@pytest.fixture
def saved(tmp_path, processor) -> Path:
    """A folder with a model, a picture, and the logits of the model on it."""
    torch.manual_seed(0)
    text = tiny_bert(vocab_size=len(processor.tokenizer))
    model = CLASSES["two-tower", "ForImageTextClassification"].from_encoders(text, tiny_vit(), **SIZES).eval()
    processor = copy.deepcopy(processor)
    processor.fit(model)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    return tmp_path


def use(python: Path, folder: Path) -> str:
    """The logits that another environment computes; the command works there too."""
    done = run(python, "-c", USE, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = run(python, "-m", "renaissance_cli", "--help", folder=folder)
    assert shown.returncode == 0 and "predict" in shown.stdout
    argv = ["predict", "model", "--image", "red.png", "--text", "a red circle"]
    answer = run(python, "-m", "renaissance_cli", *argv, folder=folder)
    assert answer.returncode == 0 and "LABEL_" in answer.stdout, answer.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_beside_gradio_trackio_peft_and_sentence_transformers(saved, tmp_path):
    """`pip install .` resolves beside them, all import, and a command that trains says what is missing."""
    tools = ["gradio", "trackio", "peft", "sentence-transformers"]
    # The CPU build of torch, as in the Makefile.
    python = environment_with(tmp_path / "environment", CPU_TORCH, str(source_tree(tmp_path)), *tools)
    assert run(python, "-m", "pip", "check", folder=saved).returncode == 0
    imports = run(python, "-c", "import gradio, trackio, peft, sentence_transformers, renaissance", folder=saved)
    assert imports.returncode == 0, imports.stderr[-3000:]
    assert use(python, saved) == use(Path(sys.executable), saved)
    done = run(python, "-m", "renaissance_cli", "nlvr2", "nlvr2_shapes", folder=saved)
    assert done.returncode == 2 and "pip install 'renaissance[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("RENAISSANCE_TEST_TORCH"), reason="downloads a CUDA build of several GB")
def test_beside_another_torch_with_its_own_torchvision(saved, tmp_path):
    """RENAISSANCE_TEST_TORCH=2.14: the newest torch, and the torchvision that goes with it. Pixels are those of Pillow there too."""
    wanted = [f"torch=={os.environ['RENAISSANCE_TEST_TORCH']}.*", "torchvision"]
    source = source_tree(tmp_path)
    python = environment_with(tmp_path / "environment", *wanted, f"{source}[train]", "pytest")
    assert run(python, "-m", "pip", "check", folder=saved).returncode == 0
    assert ast.literal_eval(use(python, saved)) == pytest.approx(
        ast.literal_eval(use(Path(sys.executable), saved)), abs=1e-3
    )
    files = [f"tests/test_{name}.py" for name in ("processor", "pixel_arrays", "pipelines", "conversion")]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow"]
    done = run(python, "-m", "pytest", *options, *files, folder=source)
    assert done.returncode == 0 and "torchvision is not installed" not in done.stdout, done.stdout[-3000:]


@pytest.mark.slow
def test_what_is_in_the_wheel_and_in_the_source_archive(tmp_path):
    """All that is installed, and no tests or caches; the command runs as installed from the source archive."""
    python = environment_with(tmp_path / "environment", "build", *SETUPTOOLS)
    source = source_tree(tmp_path)
    # What a checkout that was used has besides.
    for name in ("tasks/__pycache__/base.pyc", ".cache/huge.bin", "outputs/model.safetensors"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"")
    assert run(python, "-m", "build", "--no-isolation", "--outdir", tmp_path, source, folder=tmp_path).returncode == 0
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    described = wheel.name.removesuffix("-py3-none-any.whl")
    names_in = set(zipfile.ZipFile(wheel).namelist())
    about = {
        f"{described}.dist-info/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")
    }
    assert names_in == installed_files() | about | {f"{described}.dist-info/licenses/LICENSE"}
    listed = subprocess.run(
        ["git", "ls-files", "-co", *INSTALLED, "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    sources = {f"{described}/{name}" for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    with tarfile.open(archive) as opened:
        found = {member.name for member in opened.getmembers() if member.isfile() and ".egg-info/" not in member.name}
    top = {
        f"{described}/{name}"
        for name in ("LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg")
    }
    assert found == sources | top
    assert run(python, "-m", "pip", "install", "-q", "pyyaml", folder=tmp_path).returncode == 0
    done = run(python, "-m", "pip", "install", "-q", "--no-deps", archive, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = subprocess.run([python.parent / "renaissance", "recipes"], capture_output=True, text=True, cwd=tmp_path)
    assert "pretrain_shapes_two_tower" in shown.stdout and shown.returncode == 0, shown.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["3.12", "3.13"])
def test_the_command_on_other_versions_of_python(number, tmp_path, capfd):
    """Help is the same, line by line; argparse has changed since. Skipped where there is no such interpreter."""
    # A shim of pyenv is there for versions that are not chosen, and fails.
    kept = [str(path) for path in Path.home().glob(f".pyenv/versions/{number}.*/bin/python")]
    candidates = [shutil.which(f"python{number}"), *kept]
    works = [
        each for each in candidates if each and not subprocess.run([each, "--version"], capture_output=True).returncode
    ]
    found = next(iter(works), None)
    if found is None:
        pytest.skip(f"no python{number} here")
    subprocess.run([found, "-m", "venv", tmp_path / "environment"], check=True)
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "pyyaml"], check=True)
    # The help of a training needs the version of transformers that its options were read from.
    packages = [f"transformers=={version('transformers')}", source_tree(tmp_path)]
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *packages], check=True)
    for argv in (["--help"], ["nlvr2", "--help"], ["prepare", "coco", "--help"], ["predict", "--help"], ["recipes"]):
        done = run(python, "-m", "renaissance_cli", *argv, folder=tmp_path)
        assert done.stdout == run(Path(sys.executable), "-m", "renaissance_cli", *argv, folder=tmp_path).stdout != ""
