"""
The architectures. Each is registered once, by its name, its configuration and its base model; its heads, Auto classes and
options follow from that.
"""

import inspect
import sys
from dataclasses import dataclass

from .configuration_renaissance import RenaissanceConfig
from .heads import (
    ImageClassificationHead,
    ImageTextClassificationHead,
    SequenceClassificationHead,
    VisualQuestionAnsweringHead,
)
from .heads_image_sets import ImagesAndTextClassificationHead, ReferenceResolutionHead
from .heads_pretraining import MaskedLanguageModellingHead, PreTrainingHead
from .heads_retrieval import ImageTextRetrievalHead
from .modeling_renaissance import RenaissanceBaseModel, RenaissancePreTrainedModel


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

#: Every kind of model: the base model, and one for each head.
KINDS = ("Model", *HEADS)


@dataclass(frozen=True)
class Architecture:
    """
    A registered architecture.

    Args:
        name: Its name on the command line, such as `"two-tower"`.
        config_class: Its configuration, such as `TwoTowerConfig`.
        models: Its model of each kind in `KINDS`.
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
    prefix, module = config_class.__name__.removesuffix("Config"), model_class.__module__
    models = {"Model": model_class}
    for kind, head in HEADS.items():
        attributes = {
            "__doc__": f"{name.capitalize()} model. {inspect.cleandoc(head.__doc__)}",
            "__module__": module,
            "config_class": config_class,
        }
        models[kind] = type(prefix + kind, (head, RenaissancePreTrainedModel), attributes)
        setattr(sys.modules[module], prefix + kind, models[kind])
    classes = {"AutoConfig": config_class} | {auto_class_name(kind): model for kind, model in models.items()}
    for model in models.values():
        model.base_model_class = model_class
        # Only the file's name, since the files beside a checkpoint lie in one folder.
        model.class_map = {
            auto: f"{found.__module__.split('.')[-1]}.{found.__name__}" for auto, found in classes.items()
        }
    ARCHITECTURES[name] = Architecture(name, config_class, models)
    return ARCHITECTURES[name]
