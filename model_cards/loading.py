"""The code that loads a model, as its card shows it."""

import importlib
from importlib import metadata

import transformers
from transformers import PreTrainedModel

from .plain_text import literal


def auto_class_of(model: PreTrainedModel) -> tuple[str, str]:
    """Return the name of the Auto class of a model, or of the class that it extends, and the place of that class in its files."""
    places = {place.rpartition(".")[2]: (auto, place) for auto, place in model.class_map.items()}
    return next(places[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in places)


def loading_lines(model: PreTrainedModel, repo: str) -> str:
    """
    Return the Python code that loads `model`, and the `processor`, from a Hub id or folder `repo` without this package. The
    class is that of the model: `AutoModel` would drop its head.
    """
    auto_class, place = auto_class_of(model)
    repo = literal(repo)
    if hasattr(transformers, auto_class):
        lines = [
            f"from transformers import {', '.join(sorted({auto_class, 'AutoProcessor'}))}",
            "",
            f"model = {auto_class}.from_pretrained({repo}, trust_remote_code=True)",
        ]
    else:
        lines = [
            "from transformers import AutoProcessor",
            "from transformers.dynamic_module_utils import get_class_from_dynamic_module",
            "",
            f'model = get_class_from_dynamic_module("{place}", {repo}).from_pretrained({repo})',
        ]
    return "\n".join([*lines, f"processor = AutoProcessor.from_pretrained({repo}, trust_remote_code=True)"])


def package_lines(model: PreTrainedModel, repo: str) -> str:
    """Return the Python code that loads the same with this package."""
    # Not at the top: the package imports this module.
    package = importlib.import_module("renaissance")
    name, repo = type(model).__name__, literal(repo)
    if getattr(package, name, None) is type(model):
        imports = [f"from renaissance import {', '.join(sorted({name, 'RenaissanceProcessor'}))}"]
    else:
        note = "import the modules that register its parts first"
        imports = [
            f"from {type(model).__module__} import {name}  # {note}",
            "from renaissance import RenaissanceProcessor",
        ]
    return "\n".join(
        [
            *imports,
            "",
            f"model = {name}.from_pretrained({repo})",
            f"processor = RenaissanceProcessor.from_pretrained({repo})",
        ]
    )


def install_line() -> str:
    """
    Return how to install this package: from its repository, if its metadata name one. Without it no name is given to pip, because an
    index may have a package of somebody else under it.
    """
    urls = dict(entry.split(", ", 1) for entry in metadata.metadata("renaissance").get_all("Project-URL") or [])
    source = urls.get("Repository") or urls.get("Source")
    return f"`pip install git+{source}`" if source else "`pip install .` in a checkout of its code"
