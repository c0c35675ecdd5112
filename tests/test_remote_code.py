"""Saved folders load, run and are saved again with `trust_remote_code=True` where this package is not installed."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, CLASSES, tiny_batch, tiny_model, training_batch
from PIL import Image
from strangers import run_elsewhere
from test_labelled_objectives import FIELDS
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

from renaissance import modeling, processing
from renaissance.modeling.architectures import KINDS, auto_class_name
from renaissance.modeling.objectives import OBJECTIVES


FOLDERS = [Path(package.__file__).parent for package in (modeling, processing)]
FILES = sorted(file for folder in FOLDERS for file in folder.glob("*.py") if file.name != "__init__.py")
#: What somebody has who runs transformers models on images with PyTorch.
LIBRARIES = {"PIL", "fsspec", "huggingface_hub", "numpy", "safetensors", "torch", "transformers"}


def load_run_and_save_again(root: str) -> None:
    """
    What the other process does with each folder `root/<architecture>/<Auto class>`; its own results lie beside the
    inputs then. The source of this function is all of this project that the process is given.
    """
    import importlib.util
    from pathlib import Path

    import torch
    import transformers
    from PIL import Image
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    assert importlib.util.find_spec("renaissance") is None

    def load(folder: Path, name: str) -> torch.nn.Module:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        auto_class = getattr(transformers, name, None)
        if auto_class is not None:
            model = auto_class.from_pretrained(folder, trust_remote_code=True)
        else:
            # None of the library's Auto classes knows this kind of model.
            model_class = get_class_from_dynamic_module(config.auto_map[name], str(folder))
            model = model_class.from_pretrained(folder)
        for thing in (config, model.config, model):
            assert type(thing).__module__.startswith("transformers_modules."), type(thing)
        return model.eval()

    def results(folder: Path, model, processor, given: dict) -> dict:
        assert type(processor).__module__.startswith("transformers_modules."), type(processor)
        processed = processor(images=Image.fromarray(given["image"].numpy()), text="a red circle", return_tensors="pt")
        with torch.no_grad():
            base = load(folder, "AutoModel")(**given["base_inputs"])
            return {"processor": dict(processed), "base": dict(base), "model": dict(model(**given["inputs"]))}

    for inputs in sorted(Path(root).glob("*/*/inputs.pt")):
        folder, given = inputs.parent, torch.load(inputs)
        again = folder / "again"
        model = load(folder, folder.name)
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        torch.save(results(folder, model, processor, given), folder / "results.pt")
        model.save_pretrained(again)
        processor.save_pretrained(again)
        model = load(again, folder.name)
        processor = transformers.AutoProcessor.from_pretrained(again, trust_remote_code=True)
        torch.save(results(again, model, processor, given), again / "results.pt")


#: Every architecture with the kinds that it has.
CASES = [
    *((architecture, kind) for architecture in ARCHITECTURES for kind in KINDS),
    *(case for case in CLASSES if case[0] == "dual-encoder"),
]


def inputs_for(architecture: str, kind: str) -> dict[str, torch.Tensor]:
    return tiny_batch() if kind == "Model" else training_batch(kind, architecture)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, processor) -> Path:
    """
    The folder of what was saved and computed here, and loaded and computed by a process that cannot import renaissance:
    `<architecture>/<Auto class>/expected.pt`, `results.pt` and `again/results.pt`.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    processed = processor(images=Image.fromarray(image), text="a red circle", return_tensors="pt")
    for architecture, kind in CASES:
        folder = root / "models" / architecture / auto_class_name(kind)
        all_of_them = kind == "ForPreTraining" and architecture in ARCHITECTURES
        fields = {"objectives": list(OBJECTIVES), **FIELDS} if all_of_them else {}
        model = tiny_model(architecture, kind, **fields)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        inputs = {"pixel_values": tiny_batch(2)["pixel_values"]}
        inputs = model.dummy_inputs | inputs if fields else inputs_for(architecture, kind)
        given = {"image": torch.from_numpy(image), "inputs": inputs, "base_inputs": tiny_batch()}
        torch.save(given, folder / "inputs.pt")
        with torch.no_grad():
            outputs = {"base": model.base_model(**given["base_inputs"]), "model": model(**given["inputs"])}
        outputs = {name: dict(output) for name, output in (outputs | {"processor": processed}).items()}
        torch.save(outputs, folder / "expected.pt")

    run_elsewhere(root, load_run_and_save_again, root / "models", HF_HUB_OFFLINE="1")
    return root / "models"


@pytest.mark.slow
@pytest.mark.parametrize("results", ["results.pt", "again/results.pt"])
@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_a_saved_folder_computes_the_same_elsewhere(elsewhere, architecture, kind, results):
    folder = elsewhere / architecture / auto_class_name(kind)
    # Another process may add up in another order: its number of threads need not be that of this one.
    torch.testing.assert_close(torch.load(folder / results), torch.load(folder / "expected.pt"), atol=1e-5, rtol=0)


def saved_files() -> list[Path]:
    """The files that a saved model and its processor need."""
    starts = [file for file in FILES if file.name.startswith(("modeling_", "processing_"))]
    return sorted({Path(needed) for start in starts for needed in (start, *get_relative_import_files(start))})


def test_base_names_are_unique():
    """The saved files lie side by side."""
    names = [file.name for file in saved_files()]
    assert len(names) > 20 and sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("file", saved_files(), ids=lambda file: file.stem)
def test_every_import_can_be_followed(file):
    """transformers finds the files to save by a pattern, which knows one way of writing a relative import."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    relative = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    assert {node.level for node in relative} <= {1}
    assert all((file.parent / f"{node.module}.py").is_file() for node in relative)
    assert set(get_relative_imports(file)) == {node.module for node in relative}
    assert set(get_imports(file)) <= LIBRARIES | sys.stdlib_module_names
