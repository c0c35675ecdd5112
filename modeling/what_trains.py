"""What trains is derived: the graph of a backward pass without values tells which parameters a model's loss depends on."""

import contextlib
import copy
import json
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from .encoder_traits import tried, unread_by


#: Whether models are being built whose parameters somebody else freezes.
LEFT_TO_CALLER = ContextVar("left_to_caller", default=False)

#: Fields of configurations, and of those of encoders, that change nothing here.
IDLE_FIELDS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "frozen",
    "mim_cell",
    "pixel_mean",
    "pixel_deviation",
}

#: What is known already, by class and configuration.
KNOWN: dict[tuple[type, str], frozenset[str]] = {}


@contextlib.contextmanager
def freezing_left_to_caller() -> Iterator[None]:
    """A context in which constructors freeze nothing: those of a part of a model, and of the copies that are tried here."""
    token = LEFT_TO_CALLER.set(True)
    try:
        yield
    finally:
        LEFT_TO_CALLER.reset(token)


def unread_parameters(model: PreTrainedModel) -> frozenset[str]:
    """
    Return the names of the parameters that no loss of `model`, or no output if it has no loss, depends on, such as a tower's token for
    masked patches, or the vision tower under a head that reads text alone. They must not train: gradients would be missing, which DDP
    does not forgive.

    They are found by a forward pass of a copy that is built from the configuration and runs on `dummy_inputs`, on tensors that have a
    shape and no values, and a walk through the graph of its backward pass, from the loss to the parameters. Only encoders that ask for
    values are run in earnest.
    """
    if LEFT_TO_CALLER.get():
        return frozenset()
    key = type(model), key_of(model.config)
    if key not in KNOWN:
        with freezing_left_to_caller():
            KNOWN[key] = tried(lambda: unread_by_twin(model))
    return KNOWN[key]


def unread_modules(model: PreTrainedModel) -> frozenset[str]:
    """Return the paths of the modules of a new `model` whose parameters are all unread, and of all that is in them."""
    unread = unread_parameters(model)
    read = {path for name, _ in model.named_parameters() if name not in unread for path in paths_to(name)}
    return frozenset(path for name in unread for path in paths_to(name)) - read


def paths_to(name: str) -> list[str]:
    """Return the paths of the modules that a parameter is in, outermost first, and its own."""
    parts = name.split(".")
    return [".".join(parts[: number + 1]) for number in range(len(parts))]


def trained_in_vain(model: torch.nn.Module, unread: frozenset[str]) -> tuple[int, list[str]]:
    """
    Return the number of parameters that are set to train in unread modules, such as those of an adapter, and the outermost of
    these modules.
    """
    trained = [paths_to(name) for name, value in model.named_parameters() if value.requires_grad]
    found = [next((path for path in paths if path in unread), None) for paths in trained]
    found = [path for path in found if path is not None]
    return len(found), list(dict.fromkeys(found))


def key_of(config: PreTrainedConfig) -> str:
    """Return the fields of a configuration, as JSON, without `IDLE_FIELDS`."""

    def without_idle(fields: dict) -> dict:
        return {name: value for name, value in fields.items() if name not in IDLE_FIELDS}

    return json.dumps(json.loads(config.to_json_string(), object_hook=without_idle))


def unread_by_twin(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the unread parameters of a copy of `model`."""
    config = copy.deepcopy(model.config)
    config.return_dict = True
    with no_init_weights():
        twin = type(model)(config).eval()
    return unread_by(sum_of(twin(**twin.dummy_inputs)), twin)


def sum_of(output: dict[str, torch.Tensor | None]) -> torch.Tensor:
    """Return the loss () of a model's output, or the sum of all that it returns if there is none."""
    if output.get("loss") is not None:
        return output["loss"]
    return sum(value.float().sum() for value in output.values() if isinstance(value, torch.Tensor))
