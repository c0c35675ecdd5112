"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

from .auto import AutoModelForImagesAndTextClassification
from .modeling.configuration_one_tower import OneTowerConfig
from .modeling.configuration_two_tower import TwoTowerConfig
from .modeling.modeling_one_tower import OneTowerForImagesAndTextClassification, OneTowerForPreTraining, OneTowerModel
from .modeling.modeling_two_tower import TwoTowerForImagesAndTextClassification, TwoTowerForPreTraining, TwoTowerModel
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
from .processing.processing_renaissance import RenaissanceProcessor


__all__ = [
    "AutoModelForImagesAndTextClassification",
    "EncodedImage",
    "EncodedText",
    "FusedOutput",
    "OneTowerConfig",
    "OneTowerForImagesAndTextClassification",
    "OneTowerForPreTraining",
    "OneTowerModel",
    "PreTrainingOutput",
    "RenaissanceProcessor",
    "TwoTowerConfig",
    "TwoTowerForImagesAndTextClassification",
    "TwoTowerForPreTraining",
    "TwoTowerModel",
]
