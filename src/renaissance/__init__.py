"""
Renaissance: vision-language encoders from any text and any vision transformer. Importing it registers every model,
configuration and processor with the Auto classes of transformers.
"""

from .auto import ARCHITECTURES, OWN_AUTO_CLASSES, register_architecture
from .modeling.outputs import EncodedImage, EncodedText, FusedOutput, PreTrainingOutput
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
    "PreTrainingOutput",
    "RenaissanceProcessor",
    "register_architecture",
    *GENERATED,
]
