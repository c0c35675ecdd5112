"""The Auto classes that transformers lacks, and the registration of architectures, heads and objectives."""

from collections import OrderedDict

import transformers
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from .model_cards.card import add_card

# The modules of the architectures register them.
from .modeling import (  # noqa: F401 - importing them registers them
    architectures,
    modeling_dual_encoder,
    modeling_one_tower,
    modeling_two_tower,
)
from .modeling.architectures import ARCHITECTURES, HEADS, KINDS, Architecture, auto_class_name
from .modeling.configuration_renaissance import REGISTERED_PIPELINES, RenaissanceConfig
from .modeling.heads import HeadModel
from .modeling.modeling_base import RenaissanceBaseModel
from .modeling.modeling_renaissance import RenaissancePreTrainedModel
from .modeling.objectives import OBJECTIVES, Objective
from .modeling.pipeline_image_text import AUTO_CLASSES as AUTO_TASKS
from .modeling.pipeline_image_text import ImageTextPipeline
from .processing.objectives import OBJECTIVE_DATA, ObjectiveData
from .processing.processing_renaissance import RenaissanceProcessor


def auto_class(kind: str) -> type[_BaseAutoModelClass]:
    """Return the Auto class of a kind of model: that of transformers, or a new one if it has none."""
    if found := getattr(transformers, auto_class_name(kind), None):
        return found
    attributes = {
        "__doc__": f"Loads models of any architecture with a head of this kind. {HEADS[kind].__doc__.strip()}",
        "__module__": __name__,
        "_model_mapping": _LazyAutoMapping(OrderedDict(), OrderedDict()),
    }
    return type(auto_class_name(kind), (_BaseAutoModelClass,), attributes)


#: The Auto class of each kind of model, and those among them that are not part of transformers, by name.
AUTO_CLASSES = {kind: auto_class(kind) for kind in KINDS}
OWN_AUTO_CLASSES = {found.__name__: found for found in AUTO_CLASSES.values() if found.__module__ == __name__}
globals().update(OWN_AUTO_CLASSES)


def register_architecture(
    name: str, config_class: type[RenaissanceConfig], model_class: type[RenaissanceBaseModel]
) -> Architecture:
    """
    Register an architecture: make its models with heads, which become attributes of the base model's module, register
    all with the Auto classes, and add it and its options to the command line (see `--import_module`).

    Args:
        name: Name of the architecture on the command line, such as `"two-tower"`.
        config_class: Its configuration. The part of the class name before `Config` begins the names of the models.
        model_class: Its base model.

    Raises:
        ValueError: If there is an architecture of this name already.
    """
    require_new("architecture", name, ARCHITECTURES)
    architecture = architectures.register_architecture(name, config_class, model_class)
    register_auto_classes(architecture)
    return architecture


def register_head(kind: str, head: type[HeadModel]) -> type[_BaseAutoModelClass]:
    """
    Register a head: makes a model with it for every architecture, and returns the Auto class that loads them.

    Args:
        kind: The end of the models' class names, such as `"ForCounting"`; a task names it as its `kind`.
        head: The head, such as a subclass of `PairHead`.

    Raises:
        ValueError: If there is a head of this kind already.
    """
    require_new("head", kind, HEADS)
    architectures.register_head(kind, head)
    AUTO_CLASSES[kind] = auto_class(kind)
    for architecture in ARCHITECTURES.values():
        if kind in architecture.models:
            AUTO_CLASSES[kind].register(architecture.config_class, architecture.models[kind])
    return AUTO_CLASSES[kind]


def register_objective(objective: type[Objective], data: type[ObjectiveData]) -> None:
    """
    Register an objective of pretraining: `--objectives` can then name it, and the fields of `data` are options.

    Args:
        objective: The half that travels with a checkpoint: head, pairs to fuse, and loss.
        data: The half that makes batches and metrics, a dataclass.

    Raises:
        ValueError: If the two have different names, if there is an objective of this name already, or if no metric is its loss.
    """
    if objective.name != data.name:
        raise ValueError(f"objective {objective.name!r}: its data is named {data.name!r}; give both the same name")
    sums = getattr(data, "sums", ())
    if "loss" not in sums and data.metrics is ObjectiveData.metrics:
        raise ValueError(
            f"objective {objective.name!r}: expected loss among the sums of its data, got {sums or 'none'}"
        )
    require_new("objective", objective.name, OBJECTIVES)
    OBJECTIVES[objective.name] = objective()
    OBJECTIVE_DATA[data.name] = data


def require_new(what: str, name: str, registered: dict) -> None:
    """Raise `ValueError` if something is registered under a name already."""
    if name in registered:
        raise ValueError(f"{what} {name!r} is registered already; choose another name")


def register_auto_classes(architecture: Architecture) -> None:
    """Register the configuration, models and processor of an architecture with the Auto classes."""
    config_class = architecture.config_class
    config_class.register_for_auto_class("AutoConfig")
    AutoConfig.register(config_class.model_type, config_class)
    AutoProcessor.register(config_class, RenaissanceProcessor)
    for kind, model_class in architecture.models.items():
        AUTO_CLASSES[kind].register(config_class, model_class)
    base = architecture.models["Model"]
    for name in base.more_auto_classes:
        getattr(transformers, name).register(config_class, base)


class SavedModel:
    """Loads a checkpoint into the class that it was saved from, for pipelines."""

    @staticmethod
    def from_pretrained(name: str, **kwargs) -> HeadModel:
        """
        Return the model at a Hub id or in a folder; `kwargs` are those of `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If it was saved from no class of this package.
        """
        of_file = ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code")
        # False, not unset: transformers would ask, and a script would answer.
        loading = {"trust_remote_code": False} | {key: kwargs[key] for key in of_file if key in kwargs}
        config = AutoConfig.from_pretrained(name, **loading)
        saved = (config.architectures or ["unknown"])[0]
        models = (model for architecture in ARCHITECTURES.values() for model in architecture.models.values())
        found = next((model for model in models if model.__name__ == saved), None)
        if found is None:
            raise ValueError(f"{name}: expected a checkpoint of a model of this package, got {saved}")
        return found.from_pretrained(name, **kwargs)


def register_pipelines() -> None:
    """Register the pipeline of images and texts, but for tasks of which transformers says that they are no more."""
    for task in AUTO_TASKS.keys() - REMOVED_TASKS.keys():
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=ImageTextPipeline, pt_model=SavedModel)
        REGISTERED_PIPELINES.add(task)


register_pipelines()
RenaissancePreTrainedModel.add_card = staticmethod(add_card)
RenaissanceProcessor.register_for_auto_class("AutoProcessor")
for built_in in ARCHITECTURES.values():
    register_auto_classes(built_in)
