"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

from .auto import ARCHITECTURES, OWN_AUTO_CLASSES, register_architecture, register_head, register_objective
from .modeling.configuration_renaissance import RenaissanceConfig
from .modeling.fields import option
from .modeling.heads import HeadModel, PairHead
from .modeling.layers import Pooler, TypeEmbeddings
from .modeling.modeling_renaissance import RenaissanceBaseModel
from .modeling.objectives import Objective, Pass, Scores, Step
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
from .processing.objectives import ObjectiveData
from .processing.processing_renaissance import RenaissanceProcessor


#: The configurations and models of all architectures, and the Auto classes that transformers lacks.
GENERATED = OWN_AUTO_CLASSES | {
    found.__name__: found
    for architecture in ARCHITECTURES.values()
    for found in (architecture.config_class, *architecture.models.values())
}
globals().update(GENERATED)

__all__ = [
    "EncodedImage",
    "EncodedText",
    "FusedOutput",
    "HeadModel",
    "Objective",
    "ObjectiveData",
    "PairHead",
    "Pass",
    "Pooler",
    "PreTrainingOutput",
    "RenaissanceBaseModel",
    "RenaissanceConfig",
    "RenaissanceProcessor",
    "Scores",
    "Step",
    "TypeEmbeddings",
    "option",
    "register_architecture",
    "register_head",
    "register_objective",
    *GENERATED,
]
