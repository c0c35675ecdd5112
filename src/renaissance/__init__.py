"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

from .auto import AutoModelForImagesAndTextClassification, AutoModelForImageTextRetrieval
from .modeling.configuration_one_tower import OneTowerConfig
from .modeling.configuration_two_tower import TwoTowerConfig
from .modeling.modeling_one_tower import (
    OneTowerForImagesAndTextClassification,
    OneTowerForImageTextRetrieval,
    OneTowerForMaskedLM,
    OneTowerForPreTraining,
    OneTowerForVisualQuestionAnswering,
    OneTowerModel,
)
from .modeling.modeling_two_tower import (
    TwoTowerForImagesAndTextClassification,
    TwoTowerForImageTextRetrieval,
    TwoTowerForMaskedLM,
    TwoTowerForPreTraining,
    TwoTowerForVisualQuestionAnswering,
    TwoTowerModel,
)
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
from .processing.processing_renaissance import RenaissanceProcessor


__all__ = [
    "AutoModelForImageTextRetrieval",
    "AutoModelForImagesAndTextClassification",
    "EncodedImage",
    "EncodedText",
    "FusedOutput",
    "OneTowerConfig",
    "OneTowerForImageTextRetrieval",
    "OneTowerForImagesAndTextClassification",
    "OneTowerForMaskedLM",
    "OneTowerForPreTraining",
    "OneTowerForVisualQuestionAnswering",
    "OneTowerModel",
    "PreTrainingOutput",
    "RenaissanceProcessor",
    "TwoTowerConfig",
    "TwoTowerForImageTextRetrieval",
    "TwoTowerForImagesAndTextClassification",
    "TwoTowerForMaskedLM",
    "TwoTowerForPreTraining",
    "TwoTowerForVisualQuestionAnswering",
    "TwoTowerModel",
]
