"""What the configurations of all Renaissance architectures share."""

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .contrastive import INITIAL_SCALES
from .encoders import resolve_encoder_config
from .fields import check_bounds, described, document_fields, option
from .objectives import DEFAULT_OBJECTIVES, OBJECTIVES, weights_of
from .version import VERSION


#: Tasks of pipelines that the installed package has registered. They need no code from beside a checkpoint.
REGISTERED_PIPELINES: set[str] = set()

#: The parts of a model that can be frozen, each by name.
PARTS = ("text", "vision", "cross_modal")


class EncoderSlot:
    """
    A place for an encoder in an architecture, and its names.

    Attributes:
        name: `"text"`, `"vision"`, or `"encoder"` for the layers of one tower; `<name>_config` is the encoder's configuration.
        optional: Whether a model may have no such encoder.
        attribute: The encoder in the base model, and its command-line option.
        role: The encoder in messages.
        random_init: The argument and the option that leave the encoder random.
        overrides: The argument with the fields to change in the encoder's configuration.
        overrides_option: The option for the same.
    """

    def __init__(self, name: str, optional: bool = False):
        single = name == "encoder"
        self.name = name
        self.optional = optional
        self.attribute = name if single else f"{name}_encoder"
        self.role = self.attribute.replace("_", " ")
        self.random_init = "random_init" if single else f"random_init_{name}"
        self.overrides_option = f"{name}_overrides"
        self.overrides = "overrides" if single else self.overrides_option

    def refuse_idle(self, encoder: object, **others: object) -> None:
        """Raise `ValueError` if one of the `others`, options of this encoder by name, is given and there is no `encoder`."""
        if encoder is None and (idle := [name for name, value in others.items() if value]):
            raise ValueError(f"{', '.join(idle)}: without effect without {self.attribute}; name one, or leave it out")


@document_fields
@strict
class RenaissanceConfig(PreTrainedConfig):
    """
    Fields shared by the configurations of all architectures. A configuration lists its encoders in `sub_configs_defaults`, as
    `text_config`, `vision_config`, or `encoder_config` if there is only one.

    Raises:
        ValueError: If a field is out of range; the message names the field and what was expected.
    """

    keys_to_ignore_at_inference = ["losses", "hidden_states", "attentions"]
    #: Whether models of this architecture fuse a text with an image, which most heads and objectives read.
    fuses: ClassVar[bool] = True
    #: Whether models of this architecture take images that are padded to one size, with a `pixel_mask`.
    takes_padded_images: ClassVar[bool] = True
    #: The objectives of pretraining if nobody names any.
    default_objectives: ClassVar[tuple[str, ...]] = DEFAULT_OBJECTIVES

    num_images: int = described(
        2, "Maximum number of images with one text; each has its own type embedding.", within="[1, inf)"
    )
    pooler: str = option(
        "double",
        "single: pool the first token of the text, or of the image if there is no text; double: concatenate a pooled vector of "
        "the text and one of the image.",
    )
    objectives: dict[str, float | int] | list[str] | tuple[str, ...] | None = option(
        None,
        'Objectives of pretraining, by name, each with the weight 1, or as JSON with their weights: {"mlm": 1, "itm": 0.5}. There '
        "are mlm (masked language modelling), itm (image-text matching), contrastive, vqa (answers to questions), grounding (the box that a "
        "text means), classification (of images), mim (masked image modelling), and those that you register.",
        "mlm itm",
        of_heads=True,
        changeable=True,
    )
    tie_word_embeddings: bool = option(
        False, "Use the word embeddings as the vocabulary projection of masked language modelling.", of_heads=True
    )
    classifier_dropout: float | int = option(
        0.1, "Dropout probability of classifiers.", of_heads=True, within="[0, 1)"
    )
    classifier_hidden_size: int | None = option(
        None,
        "Width of the hidden layer of classifiers.",
        "that of the pooled vector",
        of_heads=True,
        within="[1, 65536]",
    )
    classifier_layer_norm_eps: float | None = described(
        None, "Epsilon of the layer norm of classifiers.", "layer_norm_eps"
    )
    contrastive_size: int | None = option(
        None,
        "Width of the vectors of texts alone and of images alone: those of the objective contrastive, and in retrieval those of "
        "the first stage of rerank_top_k, which a contrastive loss trains beside that of matching.",
        "256 with that objective, else no such vectors",
        of_heads=True,
        changeable=True,
        within="[1, 65536]",
    )
    contrastive_loss: str = option(
        "softmax",
        "Loss of the objective contrastive: softmax, the cross-entropy of each row's text among all texts and of its image among "
        "all images; or sigmoid, the binary cross-entropy of each pair, with a learned bias.",
        of_heads=True,
        choices=tuple(INITIAL_SCALES),
    )
    vqa_answers: list[str] | tuple[str, ...] | None = described(
        None, "The answers that the objective vqa chooses from, which pretraining takes from its data."
    )
    image_classes: list[str] | tuple[str, ...] | None = described(
        None, "The classes of images of the objective classification, likewise."
    )
    mim_cell: int | None = described(
        None, "Side in pixels of the cells that the objective mim covers, which follows from the vision encoder."
    )
    layer_norm_eps: float | int = option(1e-12, "Epsilon of the layer norms outside the encoders.", within="(0, inf)")
    initializer_range: float | int = option(
        0.02, "Standard deviation of new weights outside the encoders.", within="(0, inf)"
    )
    pixel_mean: list[float] | None = described(
        None,
        "Mean of each channel, from 0 to 255, by which the model normalises pixels of type uint8. Pixels of other types are "
        "normalised already.",
    )
    pixel_deviation: list[float] | None = described(None, "Standard deviation of each channel, likewise.")
    weights_from: dict[str, str] | None = described(
        None,
        'The checkpoint that each encoder took its weights from, such as {"text": "google/electra-small-discriminator"}; a '
        "folder is `./` and its name. An encoder that is not named began at random weights. Of a converted model, the modules of its "
        "head are named too.",
    )
    text_pairs: bool | None = described(
        None, "Whether the head was trained on pairs of texts, the second of which is `text_pair`.", "not known"
    )
    frozen: list[str] | tuple[str, ...] | None = described(
        None,
        'The frozen parts, as `model.freeze` records them: some of "text", "vision", "cross_modal". "vision:-2" means all of a '
        "part but its last two layers.",
    )

    def __post_init__(self, **kwargs):
        self.frozen = list(self.frozen or [])
        self.weights_from = dict(self.weights_from or {})
        self.objectives = weights_of(self.default_objectives if self.objectives is None else self.objectives)
        super().__post_init__(**kwargs)
        self.derive_fields()
        self.check_fields()

    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """
        The pipelines that come with the code beside a checkpoint, by task, without those that the installed package has
        registered. A copy: `transformers.pipeline` puts classes into it, which no file can hold.
        """
        found = copy.deepcopy(self.__dict__.get("custom_pipelines", {}))
        return {task: pipeline for task, pipeline in found.items() if task not in REGISTERED_PIPELINES}

    @custom_pipelines.setter
    def custom_pipelines(self, pipelines: dict[str, dict]) -> None:
        self.__dict__["custom_pipelines"] = pipelines
        if not pipelines:
            del self.__dict__["custom_pipelines"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, with the version of Renaissance beside that of transformers."""
        return super().to_dict() | {"renaissance_version": VERSION}

    @classmethod
    def encoder_slots(cls) -> list[EncoderSlot]:
        """The encoders that models of this architecture are built from."""
        return [
            EncoderSlot(name.removesuffix("_config"), spec.optional) for name, spec in cls.sub_configs_defaults.items()
        ]

    def encoders(self) -> list[EncoderSlot]:
        """The encoders that a model of this configuration has: those of `encoder_slots` but for optional ones that it lacks."""
        return [slot for slot in self.encoder_slots() if getattr(self, f"{slot.name}_config") is not None]

    @classmethod
    def encoder_arguments(cls, args: tuple, kwargs: dict, random_init: bool = False) -> dict:
        """
        The arguments of `from_encoders` by name, with their defaults; fields of this configuration are under `fields`.

        Args:
            args: Positional arguments: the encoders, whether each stays random (if `random_init`), the overrides of each; last, the
                same of optional encoders, which are `None` by default.
            kwargs: Named arguments.
            random_init: Whether there are arguments that leave encoders random.
        """
        needed, optional = (
            [slot for slot in cls.encoder_slots() if slot.optional is which] for which in (False, True)
        )
        defaults = {}
        for slots in (needed, optional):
            defaults |= {slot.name: None for slot in slots if slot.optional}
            defaults |= {slot.random_init: False for slot in slots} if random_init else {}
            defaults |= {slot.overrides: None for slot in slots}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(slot.name, kind) for slot in needed]
        parameters += [inspect.Parameter(name, kind, default=default) for name, default in defaults.items()]
        parameters.append(inspect.Parameter("fields", inspect.Parameter.VAR_KEYWORD))
        bound = inspect.Signature(parameters).bind(*args, **kwargs)
        bound.apply_defaults()
        for slot in optional:
            others = {name: bound.arguments.get(name) for name in (slot.random_init, slot.overrides)}
            slot.refuse_idle(bound.arguments[slot.name], **others)
        return bound.arguments

    @classmethod
    def from_encoders(cls, *args, **kwargs) -> "RenaissanceConfig":
        """
        Make the configuration of a model that is built from encoders. Call it as `from_encoders(text, vision,
        text_overrides=None, vision_overrides=None, **fields)`, or, for one tower, as `from_encoder(encoder, overrides=None,
        vision=None, vision_overrides=None, **fields)`.

        Args:
            args: Each encoder: a Hub id, a folder, a model type such as `"bert"`, or a configuration. Then, for each encoder,
                the fields of its configuration to change.
            kwargs: The same by name, and fields of this configuration.

        Raises:
            ValueError: If an encoder is unknown or a field does not fit.
        """
        arguments = cls.encoder_arguments(args, kwargs)
        cls.refuse_unknown(arguments["fields"])
        encoders = {
            f"{slot.name}_config": resolve_encoder_config(arguments[slot.name], arguments[slot.overrides], slot.role)
            for slot in cls.encoder_slots()
            if arguments[slot.name] is not None
        }
        return cls(**encoders, **arguments["fields"])

    #: The same, for one tower.
    from_encoder = from_encoders

    @classmethod
    def refuse_unknown(cls, names: Iterable[str]) -> None:
        """Raise `ValueError` if one of `names` is no field of this configuration: it would be kept, and do nothing."""
        known = {entry.name for entry in dataclasses.fields(cls)} | {"attn_implementation"}
        for name in names:
            # Some fields, such as num_labels, are properties.
            if name not in known and not hasattr(cls, name):
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name}: no argument of from_encoders and no field of {cls.__name__}{hint}")

    @classmethod
    def fit_to_inputs(cls, arguments: dict, vocabulary: dict, image_size: int | None) -> dict:
        """
        Complete the arguments of a model's `from_encoders` for the inputs that the model will have. Fields of this configuration
        of the names of the inputs' sizes take them; so does a text encoder that stays random.

        Args:
            arguments: Named arguments of `from_encoders`; what they name already stays.
            vocabulary: `vocab_size` and `pad_token_id` of the tokenizer, or nothing if the text encoder brings the tokenizer.
            image_size: Height and width of images in pixels, if the user chose them.
        """
        own = {entry.name for entry in dataclasses.fields(cls)}
        sizes = vocabulary | ({"image_size": image_size} if image_size else {})
        completed = {name: value for name, value in sizes.items() if name in own} | arguments
        for slot in cls.encoder_slots():
            if slot.name == "text" and arguments[slot.random_init]:
                completed[slot.overrides] = vocabulary | (arguments[slot.overrides] or {})
        return completed

    @property
    def num_poolers(self) -> int:
        """Number of pooled vectors, each of the hidden size, that an image-text pair gives."""
        return {"single": 1, "double": 2}[self.pooler]

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector of an image-text pair."""
        return self.num_poolers * self.hidden_size

    def derive_fields(self) -> None:
        """Set the fields that follow from others; for subclasses."""

    def check_fields(self) -> None:
        """Raise `ValueError` if a field is out of range."""
        # Not one of the `validate_*` methods of `@strict`: those re-raise a ValueError as a type that is not a ValueError.
        if self.pooler not in ("single", "double"):
            raise ValueError(f'pooler: expected "single" or "double", got {self.pooler!r}')
        check_bounds(self)
        if self.contrastive_loss not in INITIAL_SCALES:
            raise ValueError(
                f"contrastive_loss: expected {' or '.join(INITIAL_SCALES)}, got {self.contrastive_loss!r}"
            )
        self.check_objectives()
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

    def check_objectives(self) -> None:
        """Raise `ValueError` if a model of this configuration cannot have one of its objectives."""
        self.refuse_objectives(self.objectives)

    @classmethod
    def refuse_objectives(cls, objectives: Iterable[str]) -> None:
        """Raise `ValueError` if a model with a configuration of this class cannot have one of the objectives."""
        idle = [name for name in objectives if not cls.fuses and name in OBJECTIVES and OBJECTIVES[name].fuses]
        if idle:
            able = ", ".join(name for name, each in OBJECTIVES.items() if not each.fuses)
            name = cls.model_type.removeprefix("renaissance-")
            raise ValueError(
                f"objectives: {', '.join(idle)} needs texts that are fused with images, which the architecture {name} does not do; "
                f"it can do {able}"
            )


def parse_frozen(entry: str) -> tuple[str, int]:
    """
    Split an entry such as `"vision"` or `"vision:-2"` into the part that it freezes and the number of last layers that it
    leaves out.

    Raises:
        ValueError: If it names no part, or no number of layers.
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
    """Raise `ValueError`, naming the two `fields`, if the heads do not divide the width."""
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(
            f"{fields[0]} ({hidden_size}) is not a multiple of {fields[1]} ({num_heads}): change one so that the heads "
            "divide the width"
        )
