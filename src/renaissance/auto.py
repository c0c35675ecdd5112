"""Auto classes for the heads that transformers has none for, and the registration of everything with all of them."""

from collections import OrderedDict

import transformers
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

from .modeling import modeling_one_tower, modeling_two_tower
from .modeling.modeling_renaissance import MODEL_KINDS
from .processing.processing_renaissance import RenaissanceProcessor


class AutoModelForImageTextClassification(_BaseAutoModelClass):
    """Loads the head that classifies a text with one image (SNLI-VE), whatever the architecture."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())


class AutoModelForReferenceResolution(_BaseAutoModelClass):
    """Loads the head that chooses the region that a text refers to (RefCOCO), whatever the architecture."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())


class AutoModelForImageTextRetrieval(_BaseAutoModelClass):
    """Loads the head that scores how well texts fit an image, whatever the architecture."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())


class AutoModelForImagesAndTextClassification(_BaseAutoModelClass):
    """Loads the head that classifies a text with several images (NLVR2), whatever the architecture."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())


def auto_class(kind: str) -> type:
    """The Auto class of a kind of model, such as `"ForPreTraining"`: transformers' own, or one of this module."""
    name = MODEL_KINDS[kind]
    return getattr(transformers, name, None) or globals()[name]


def register() -> None:
    """Registers the configurations, models and the processor of this package with the Auto classes."""
    RenaissanceProcessor.register_for_auto_class("AutoProcessor")
    for module, name in ((modeling_one_tower, "OneTower"), (modeling_two_tower, "TwoTower")):
        config_class = getattr(module, f"{name}Config")
        config_class.register_for_auto_class("AutoConfig")
        AutoConfig.register(config_class.model_type, config_class)
        AutoProcessor.register(config_class, RenaissanceProcessor)
        for kind in MODEL_KINDS:
            auto_class(kind).register(config_class, getattr(module, name + kind))


register()
