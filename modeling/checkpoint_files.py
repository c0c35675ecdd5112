"""Files that a checkpoint may name: its own. One from a stranger must not make this machine read others."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers import PreTrainedConfig


def check_own_files(called: str, source: str | os.PathLike) -> None:
    """
    Check that the files of a checkpoint in a folder of this machine lie in that folder, or in the cache of the Hub, whose folders
    are full of links. What is on the Hub is checked by its library.

    Args:
        called: What messages call the checkpoint, such as the option that names it.
        source: The folder. Anything else is left alone.

    Raises:
        ValueError: If a link, a weight map, a configuration, a tokenizer or an adapter leads out of the folder, or a JSON file is nested
            so deeply that it cannot be read.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    for name, value in named_files(called, folder):
        if not isinstance(value, str) or not lies_in(folder, value):
            fault = f"{name} leads to {value}, which is outside of the folder"
            raise ValueError(f"{called} {str(source)!r}: {fault}; copy the file into the folder if you trust it")


def check_no_kernel(called: str, config: PreTrainedConfig) -> None:
    """Raise `ValueError` if the configuration of a checkpoint, or of a part of it, asks for compiled code from the Hub for its attention."""
    for each in [config, *(value for value in vars(config).values() if isinstance(value, PreTrainedConfig))]:
        if "/" in (kernel := str(each._attn_implementation)):
            fault = f"its config.json asks for the compiled code {kernel} from the Hub (attn_implementation)"
            raise ValueError(f"{called}: {fault}; take that out")


def named_files(called: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield what leads to files of a checkpoint, and the path of each, from the folder on or absolute."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.is_file():
            yield f"the link {path.name}", path.name
        if path.name.endswith(".index.json"):
            weights = read_object(called, path).get("weight_map")
            yield from ((f"the weight map {path.name}", name) for name in dict.fromkeys(values_of(weights)))
    if weights := read_object(called, folder / "config.json").get("transformers_weights"):
        yield "transformers_weights of config.json", weights
    # Only paths of files that are here: old tokenizers kept the paths of their authors, which nothing reads.
    for name in ("tokenizer_config.json", "adapter_config.json"):
        for key, value in read_object(called, folder / name).items():
            is_path = isinstance(value, str) and (key.endswith("_file") or key == "base_model_name_or_path")
            if is_path and (os.path.exists(folder / value) or os.path.exists(value)):
                yield f"{key} of {name}", value


def values_of(weights: Any) -> list:
    """Return the files of a weight map; nothing if it is none."""
    return [str(value) for value in weights.values()] if isinstance(weights, dict) else []


def lies_in(folder: Path, name: str) -> bool:
    """Return whether a file lies in a folder, links followed, or in the Hub's cache of what is in it."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        return False
    whole = folder.resolve()
    # A snapshot of the cache has links to the blobs beside it; an older `hf download` made such links too.
    caches = [constants.HF_HUB_CACHE, *([whole.parents[1] / "blobs"] if whole.parent.name == "snapshots" else [])]
    target = (folder / name).resolve()
    return any(target.is_relative_to(Path(place).resolve()) for place in (whole, *caches))


def read_object(called: str, path: Path) -> dict:
    """
    Return the object in a JSON file; an empty one if there is none, or another text, of which those who load it say what is wrong. Raise
    `ValueError` if it is nested too deeply for them.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{called} {str(path.parent)!r}: {path.name} is nested too deeply to be read") from None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
