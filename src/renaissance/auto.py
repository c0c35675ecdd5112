"""The Auto classes that transformers lacks, and the registration of architectures with all Auto classes."""

from collections import OrderedDict

import transformers
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

# The modules of the architectures register them.
from .modeling import architectures, modeling_one_tower, modeling_two_tower  # noqa: F401
from .modeling.architectures import ARCHITECTURES, HEADS, KINDS, Architecture, auto_class_name
from .modeling.configuration_renaissance import RenaissanceConfig
from .modeling.modeling_renaissance import RenaissanceBaseModel
from .processing.processing_renaissance import RenaissanceProcessor


def new_auto_class(kind: str) -> type[_BaseAutoModelClass]:
    """Return an Auto class for a kind of model that has none in transformers."""
    attributes = {
        "__doc__": f"Loads models of any architecture with a head of this kind. {HEADS[kind].__doc__.strip()}",
        "__module__": __name__,
        "_model_mapping": _LazyAutoMapping(OrderedDict(), OrderedDict()),
    }
    return type(auto_class_name(kind), (_BaseAutoModelClass,), attributes)


#: The Auto class of each kind of model, and those among them that are not part of transformers, by name.
AUTO_CLASSES = {kind: getattr(transformers, auto_class_name(kind), None) or new_auto_class(kind) for kind in KINDS}
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
    if name in ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is registered already; choose another name")
    architecture = architectures.register_architecture(name, config_class, model_class)
    register_auto_classes(architecture)
    return architecture


def register_auto_classes(architecture: Architecture) -> None:
    """Register the configuration, models and processor of an architecture with the Auto classes."""
    config_class = architecture.config_class
    config_class.register_for_auto_class("AutoConfig")
    AutoConfig.register(config_class.model_type, config_class)
    AutoProcessor.register(config_class, RenaissanceProcessor)
    for kind, model_class in architecture.models.items():
        AUTO_CLASSES[kind].register(config_class, model_class)


RenaissanceProcessor.register_for_auto_class("AutoProcessor")
for built_in in ARCHITECTURES.values():
    register_auto_classes(built_in)
