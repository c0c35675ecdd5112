"""
The architectures. Each is registered once, by its name, its configuration and its base model; its heads, Auto classes and
options follow from that.
"""

import inspect
import sys
from dataclasses import dataclass

from .configuration_renaissance import RenaissanceConfig
from .heads import (
    HeadModel,
    ImageClassificationHead,
    ImageTextClassificationHead,
    SequenceClassificationHead,
    VisualQuestionAnsweringHead,
)
from .heads_image_sets import ImagesAndTextClassificationHead, ReferenceResolutionHead
from .heads_pretraining import MaskedLanguageModellingHead, PreTrainingHead
from .heads_retrieval import ImageTextRetrievalHead
from .modeling_base import RenaissanceBaseModel
from .modeling_renaissance import RenaissancePreTrainedModel, remote_name


#: The head of each kind of model. The kind is the end of the class name of models and of Auto classes.
HEADS = {
    "ForPreTraining": PreTrainingHead,
    "ForMaskedLM": MaskedLanguageModellingHead,
    "ForImageTextClassification": ImageTextClassificationHead,
    "ForReferenceResolution": ReferenceResolutionHead,
    "ForSequenceClassification": SequenceClassificationHead,
    "ForImageClassification": ImageClassificationHead,
    "ForImageTextRetrieval": ImageTextRetrievalHead,
    "ForVisualQuestionAnswering": VisualQuestionAnsweringHead,
    "ForImagesAndTextClassification": ImagesAndTextClassificationHead,
}

#: The kinds of models of this package: the base model, and one for each head.
KINDS = ("Model", *HEADS)


@dataclass(frozen=True)
class Architecture:
    """
    A registered architecture.

    Args:
        name: Its name on the command line, such as `"two-tower"`.
        config_class: Its configuration, such as `TwoTowerConfig`.
        models: Its model of each kind: `"Model"`, and one for each of `HEADS` that it can have.
    """

    name: str
    config_class: type[RenaissanceConfig]
    models: dict[str, type[RenaissancePreTrainedModel]]


#: All architectures by name.
ARCHITECTURES: dict[str, Architecture] = {}


def auto_class_name(kind: str) -> str:
    """Name of the Auto class of a kind of model: `"AutoModelForMaskedLM"`, or `"AutoModel"` for `"Model"`."""
    return f"AutoModel{kind.removeprefix('Model')}"


def register_architecture(
    name: str, config_class: type[RenaissanceConfig], model_class: type[RenaissanceBaseModel]
) -> Architecture:
    """
    Register an architecture and make its models with heads, which become attributes of the base model's module.

    Args:
        name: Name of the architecture on the command line, such as `"two-tower"`.
        config_class: Its configuration. The part of the class name before `Config` begins the names of the models.
        model_class: Its base model.
    """
    ARCHITECTURES[name] = architecture = Architecture(name, config_class, {"Model": model_class})
    model_class.config_class, model_class.base_model_class = config_class, model_class
    model_class.class_map = {"AutoConfig": remote_name(config_class)}
    model_class.class_map |= dict.fromkeys(("AutoModel", *model_class.more_auto_classes), remote_name(model_class))
    for kind in HEADS:
        add_head(architecture, kind)
    return architecture


def register_head(kind: str, head: type[HeadModel]) -> None:
    """Register the head of a kind of model, such as `"ForMaskedLM"`, and make a model with it for each architecture."""
    HEADS[kind] = head
    for architecture in ARCHITECTURES.values():
        add_head(architecture, kind)


def add_head(architecture: Architecture, kind: str) -> None:
    """Make the model of an architecture with one of `HEADS`, if it can have it."""
    base, head = architecture.models["Model"], HEADS[kind]
    head = head if architecture.config_class.fuses else head.without_fusing()
    if head is None:
        return
    name = architecture.config_class.__name__.removesuffix("Config") + kind
    attributes = {
        "__doc__": f"{architecture.name.capitalize()} model. {inspect.cleandoc(head.__doc__)}",
        "__module__": base.__module__,
        "config_class": architecture.config_class,
        "base_model_class": base,
        "class_map": base.class_map,
    }
    architecture.models[kind] = model = type(name, (head, RenaissancePreTrainedModel), attributes)
    setattr(sys.modules[base.__module__], name, model)
    base.class_map[auto_class_name(kind)] = remote_name(model)
