"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

from .auto import (
    AutoModelForImagesAndTextClassification,
    AutoModelForImageTextClassification,
    AutoModelForImageTextRetrieval,
    AutoModelForReferenceResolution,
)
from .modeling.configuration_one_tower import OneTowerConfig
from .modeling.configuration_two_tower import TwoTowerConfig
from .modeling.modeling_one_tower import (
    OneTowerForImageClassification,
    OneTowerForImagesAndTextClassification,
    OneTowerForImageTextClassification,
    OneTowerForImageTextRetrieval,
    OneTowerForMaskedLM,
    OneTowerForPreTraining,
    OneTowerForReferenceResolution,
    OneTowerForSequenceClassification,
    OneTowerForVisualQuestionAnswering,
    OneTowerModel,
)
from .modeling.modeling_two_tower import (
    TwoTowerForImageClassification,
    TwoTowerForImagesAndTextClassification,
    TwoTowerForImageTextClassification,
    TwoTowerForImageTextRetrieval,
    TwoTowerForMaskedLM,
    TwoTowerForPreTraining,
    TwoTowerForReferenceResolution,
    TwoTowerForSequenceClassification,
    TwoTowerForVisualQuestionAnswering,
    TwoTowerModel,
)
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
from .processing.processing_renaissance import RenaissanceProcessor


__all__ = [
    "AutoModelForImageTextClassification",
    "AutoModelForImageTextRetrieval",
    "AutoModelForImagesAndTextClassification",
    "AutoModelForReferenceResolution",
    "EncodedImage",
    "EncodedText",
    "FusedOutput",
    "OneTowerConfig",
    "OneTowerForImageClassification",
    "OneTowerForImageTextClassification",
    "OneTowerForImageTextRetrieval",
    "OneTowerForImagesAndTextClassification",
    "OneTowerForMaskedLM",
    "OneTowerForPreTraining",
    "OneTowerForReferenceResolution",
    "OneTowerForSequenceClassification",
    "OneTowerForVisualQuestionAnswering",
    "OneTowerModel",
    "PreTrainingOutput",
    "RenaissanceProcessor",
    "TwoTowerConfig",
    "TwoTowerForImageClassification",
    "TwoTowerForImageTextClassification",
    "TwoTowerForImageTextRetrieval",
    "TwoTowerForImagesAndTextClassification",
    "TwoTowerForMaskedLM",
    "TwoTowerForPreTraining",
    "TwoTowerForReferenceResolution",
    "TwoTowerForSequenceClassification",
    "TwoTowerForVisualQuestionAnswering",
    "TwoTowerModel",
]
