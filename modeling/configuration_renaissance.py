"""What the configurations of all Renaissance architectures share."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .objectives import weights_of


#: The parts of a model that can be frozen, each by name.
PARTS = ("text", "vision", "cross_modal")


@strict
class RenaissanceConfig(PreTrainedConfig):
    r"""
    Fields shared by `OneTowerConfig` and `TwoTowerConfig`.

    Args:
        num_images (`int`, defaults to 2):
            The most images that one text is paired with; each has a token-type embedding of its own.
        pooler (`"single"` or `"double"`, defaults to `"double"`):
            `"single"` pools the first token of the text (of the image where there is no text); `"double"` concatenates
            one pooled vector a modality, text first.
        objectives (`dict[str, float]` or `list[str]`, defaults to `{"mlm": 1.0, "itm": 1.0}`):
            The objectives of `ForPreTraining`, each with the weight of its loss; a list gives each the weight 1. `"mlm"`, `"itm"`,
            `"contrastive"`, or others that are registered.
        tie_word_embeddings (`bool`, defaults to `False`):
            Whether the vocabulary projection of masked language modelling is the word embedding matrix.
        classifier_dropout (`float`, defaults to 0.1):
            Dropout probability in the heads.
        classifier_hidden_size (`int`, *optional*):
            Width of the hidden layer of the classifiers; that of the pooled vector of a pair by default.
        classifier_layer_norm_eps (`float`, *optional*):
            Epsilon of the classifiers' layer norm; `layer_norm_eps` by default.
        contrastive_size (`int`, *optional*):
            Width of the vectors of texts alone and of images alone, which the objective `"contrastive"` and retrieval have. 256 by
            default if that objective is on; otherwise there are none.
        layer_norm_eps (`float`, defaults to 1e-12):
            Epsilon of the layer norms that are the model's own, not its encoders'.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the normal distribution that new weights are drawn from.
        pixel_mean (`list[float]`, *optional*):
            Mean of each channel, in levels from 0 to 255, by which the model normalises pixels that come as uint8. Those
            that come as numbers of another type are normalised already.
        pixel_deviation (`list[float]`, *optional*):
            Standard deviation of each channel; likewise.
        frozen (`list[str]`, *optional*):
            The frozen parts, as `model.freeze` records them: any of `"text"`, `"vision"`, `"cross_modal"`, or such as
            `"vision:-2"`, all of a part but its last two layers.

    Raises:
        ValueError: Where a field is out of range; the message names the field and what was expected.
    """

    keys_to_ignore_at_inference = ["losses", "hidden_states", "attentions"]

    num_images: int = 2
    pooler: str = "double"
    objectives: dict[str, float | int] | list[str] | tuple[str, ...] | None = None
    tie_word_embeddings: bool = False
    classifier_dropout: float | int = 0.1
    classifier_hidden_size: int | None = None
    classifier_layer_norm_eps: float | None = None
    contrastive_size: int | None = None
    layer_norm_eps: float | int = 1e-12
    initializer_range: float | int = 0.02
    pixel_mean: list[float] | None = None
    pixel_deviation: list[float] | None = None
    frozen: list[str] | tuple[str, ...] | None = None

    def __post_init__(self, **kwargs):
        self.frozen = list(self.frozen or [])
        self.objectives = weights_of(("mlm", "itm") if self.objectives is None else self.objectives)
        super().__post_init__(**kwargs)

    @property
    def num_poolers(self) -> int:
        """Number of pooled vectors, each of the hidden size, that an image-text pair gives."""
        return {"single": 1, "double": 2}[self.pooler]

    def check_fields(self) -> None:
        """Raises `ValueError` where a field is out of range."""
        # Not one of `@strict`'s own `validate_*` methods: those turn a ValueError into an error that is none.
        if self.pooler not in ("single", "double"):
            raise ValueError(f'pooler: expected "single" or "double", got {self.pooler!r}')
        for name, value in vars(self).items():
            if name.endswith("dropout") and not 0 <= value < 1:
                raise ValueError(f"{name}: expected a probability, from 0 to below 1, got {value}")
        for name in ("layer_norm_eps", "initializer_range"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.num_images < 1:
            raise ValueError(f"num_images: expected at least 1, got {self.num_images}")
        for name in ("classifier_hidden_size", "contrastive_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if (self.pixel_mean is None) != (self.pixel_deviation is None):
            raise ValueError("pixel_mean, pixel_deviation: expected both or neither")
        if self.pixel_deviation is not None and not (
            len(self.pixel_mean) == len(self.pixel_deviation) and min(self.pixel_deviation) > 0
        ):
            raise ValueError(
                f"pixel_deviation: expected a number above 0 for each of pixel_mean, got {self.pixel_deviation}"
            )
        for entry in self.frozen:
            parse_frozen(entry)


def parse_frozen(entry: str) -> tuple[str, int]:
    """
    The part that an entry such as `"vision"` or `"vision:-2"` freezes, and how many of its last layers it leaves out.

    Raises:
        ValueError: Where it names no part, or no number of layers.
    """
    part, colon, layers = entry.partition(":")
    count = -int(layers) if layers.removeprefix("-").isdecimal() else 0
    if part not in PARTS or (colon and count < 1):
        raise ValueError(
            f"frozen: expected {', '.join(PARTS)}, or such as {PARTS[1]}:-2 for all but the last two layers, got "
            f"{entry}"
        )
    return part, count


def check_heads(hidden_size: int, num_heads: int, fields: tuple[str, str]) -> None:
    """Raises `ValueError`, naming the two `fields`, where the heads do not divide the width."""
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(
            f"{fields[0]} ({hidden_size}) is not a multiple of {fields[1]} ({num_heads}): change one so that the heads "
            "divide the width"
        )
