"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

import importlib

from .auto import ARCHITECTURES, OWN_AUTO_CLASSES, register_architecture, register_head, register_objective
from .modeling.configuration_renaissance import RenaissanceConfig
from .modeling.fields import option
from .modeling.heads import HeadModel, PairHead
from .modeling.layers import Pooler, TypeEmbeddings
from .modeling.modeling_base import RenaissanceBaseModel
from .modeling.objectives import Objective, Pass, Scores, Step
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
from .modeling.pipeline_image_text import ImageTextPipeline
from .modeling.version import VERSION as __version__
from .processing.collators import AugmentingCollator, PretrainingCollator, RegionCollator, RowCollator
from .processing.objectives import ContrastiveData, MaskedTextData, MatchingData, ObjectiveData
from .processing.processing_renaissance import RenaissanceProcessor


#: The configurations and models of all architectures, and the Auto classes that transformers lacks.
GENERATED = OWN_AUTO_CLASSES | {
    found.__name__: found
    for architecture in ARCHITECTURES.values()
    for found in (architecture.config_class, *architecture.models.values())
}
globals().update(GENERATED)

#: Names whose modules take seconds to import, which only those who train need.
OF_TRAINING = {
    "CaptionedImages": ".tasks.data.captioned",
    "EpochCallback": ".tasks.epochs",
    "KeyedRows": ".tasks.data.keyed_rows",
    "RenaissanceTrainer": ".tasks.trainer",
    "RunArguments": ".tasks.arguments",
}


def __getattr__(name: str) -> object:
    if name not in OF_TRAINING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(OF_TRAINING[name], __name__), name)


__all__ = [
    "__version__",
    "AugmentingCollator",
    "ContrastiveData",
    "EncodedImage",
    "EncodedText",
    "FusedOutput",
    "HeadModel",
    "ImageTextPipeline",
    "MaskedTextData",
    "MatchingData",
    "Objective",
    "ObjectiveData",
    "PairHead",
    "Pass",
    "Pooler",
    "PreTrainingOutput",
    "PretrainingCollator",
    "RegionCollator",
    "RenaissanceBaseModel",
    "RenaissanceConfig",
    "RenaissanceProcessor",
    "RowCollator",
    "Scores",
    "Step",
    "TypeEmbeddings",
    "option",
    "register_architecture",
    "register_head",
    "register_objective",
    *GENERATED,
    *OF_TRAINING,
]
