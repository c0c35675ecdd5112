"""What every Renaissance architecture offers: encode, then fuse; freezing; saving with its code."""

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import CONFIG_NAME, can_return_tuple, logging

from .checkpoint_files import check_own_files
from .configuration_renaissance import PARTS, RenaissanceConfig, parse_frozen
from .contrastive import ContrastiveHead, mean_state
from .encoder_forward import check_other_inputs
from .encoder_traits import TOKENS, image_shape_of, inspect_vision_tower
from .encoders import load_encoder, source_name, whole_weights
from .features import FeaturesOfEither
from .image_embeddings import ImageEmbeddings
from .layers import PixelNormalisation, TypeEmbeddings
from .outputs import FUSED, EncodedImage, EncodedText, FusedOutput
from .pipeline_image_text import AUTO_CLASSES, ImageTextPipeline
from .what_trains import LEFT_TO_CALLER, trained_in_vain, unread_modules, unread_parameters


logger = logging.get_logger(__name__)


class RenaissancePreTrainedModel(PreTrainedModel):
    """
    Building, weight initialisation, freezing, saving and loading, of models with any head or none. `RenaissanceBaseModel` adds
    what an architecture has of its own; a head is a mixin of `heads.py` on top of it.
    """

    config: RenaissanceConfig
    #: Set by `register_architecture`: its base model, and the class that each Auto class finds beside a checkpoint.
    base_model_class: type[PreTrainedModel]
    class_map: dict[str, str] = {}
    #: Set by the package: writes the card of a model that is saved or pushed by itself. A copy beside a checkpoint has none.
    add_card: Callable[..., None] | None = None
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # A checkpoint from pretraining is the normal start of every other model; each objective has its head.
    _keys_to_ignore_on_load_unexpected = [r"^\w+_head\."]
    accepts_loss_kwargs = False
    #: Paths of the modules that no output depends on, as they are before adapters come into them.
    unread: frozenset[str] = frozenset()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TypeEmbeddings):
            init.zeros_(module.weight)
        elif isinstance(module, ImageEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
        elif isinstance(module, ContrastiveHead):
            module.reset_scale()

    def post_init(self) -> None:
        """`PreTrainedModel.post_init`; then freeze what the configuration records, and what nothing reads."""
        super().post_init()
        if not LEFT_TO_CALLER.get():
            self.freeze()
            self.unread = unread_modules(self)

    @classmethod
    @whole_weights()
    def from_encoders(cls, *args, **kwargs) -> "RenaissancePreTrainedModel":
        """
        Build a new model around encoders, in evaluation mode; whatever they do not bring is random. Call it as
        `from_encoders(text, vision, random_init_text=False, random_init_vision=False, text_overrides=None,
        vision_overrides=None, **fields)`, or, for one tower, as `from_encoder(encoder, random_init=False, overrides=None,
        vision=None, random_init_vision=False, vision_overrides=None, **fields)`.

        Args:
            args: Each encoder: a Hub id or a folder. Model types (`"bert"`) and configurations have no weights: they are for
                random encoders. Then whether to leave each random, then the fields of each one's configuration to change.
            kwargs: The same by name, and fields of the model's configuration.

        Raises:
            ValueError: If an encoder is unknown, has no weights, or does not fit the other arguments.
        """
        arguments = cls.config_class.encoder_arguments(args, kwargs, random_init=True)
        fields = arguments.pop("fields")
        slots = cls.config_class.encoder_slots()
        random = {slot.name: arguments.pop(slot.random_init) for slot in slots}
        config = cls.config_class.from_encoders(**arguments, **fields)
        model = cls(config)
        base, unread = model.base_model, unread_parameters(model)
        for slot in slots:
            encoder = arguments[slot.name]
            if not (encoder is None or random[slot.name] or isinstance(encoder, PreTrainedConfig)):
                start = f"{slot.attribute}." if model is base else f"{cls.base_model_prefix}.{slot.attribute}."
                idle = frozenset(name.removeprefix(start) for name in unread if name.startswith(start))
                own = getattr(config, f"{slot.name}_config")
                base.load_encoder_weights(slot.attribute, load_encoder(encoder, own, slot.role, idle))
                config.weights_from[slot.name] = source_name(encoder)
        return model.to(config.dtype).eval()

    #: The same, for one tower.
    from_encoder = from_encoders

    def freeze(self, *parts: str) -> None:
        """
        Freeze parts of the model: no gradient, no dropout, and a record in the configuration.

        Args:
            parts: Any of `"text"`, `"vision"`, `"cross_modal"`, or `"encoder"` for all three, that is all but the head. A part
                with a number, such as `"vision:-2"`, is frozen except for its last layers, here two.

        Raises:
            ValueError: If a part is none of these, or has no more layers than are to train.
        """
        self._set_frozen(by_part([*self.config.frozen, *expand_parts(parts)]))

    def unfreeze(self, *parts: str) -> None:
        """Undo `freeze` for the named parts, or for all of them."""
        named = expand_parts(parts) if parts else PARTS
        if unknown := ", ".join(sorted(set(named) - set(PARTS))):
            raise ValueError(f"unfreeze: expected some of {', '.join(PARTS)}, encoder, got {unknown}")
        frozen = by_part(self.config.frozen)
        self._set_frozen({part: entry for part, entry in frozen.items() if part not in named})

    def _set_frozen(self, frozen: dict[str, str]) -> None:
        base = self.base_model
        last_layers = {part: base.last_layers(entry) for part, entry in frozen.items()}
        self.config.frozen = sorted(frozen.values())
        for part, modules in base.parts().items():
            for module in modules:
                let_train(module, part not in frozen)
            for layer in last_layers.get(part, []):
                let_train(layer, True)
        for name in unread_parameters(self):
            self.get_parameter(name).requires_grad_(False)
        self.train(self.training)

    def last_layers(self, entry: str) -> list[nn.Module]:
        """Return the layers that a frozen entry such as `"vision:-2"` leaves out; raise `ValueError` if it leaves no other."""
        part, count = parse_frozen(entry)
        layers = self.layers(part)
        if count and count >= len(layers):
            raise ValueError(f"frozen: {entry} leaves nothing to freeze, this model has {len(layers)} {part} layers")
        return layers[len(layers) - count :]

    def train(self, mode: bool = True) -> "RenaissancePreTrainedModel":
        """
        Set training mode, but leave what is frozen in evaluation mode. Warn of parameters that are to train and cannot, such as
        those of adapters in the vision encoder of a text classifier.
        """
        super().train(mode)
        count, modules = trained_in_vain(self, self.unread) if mode and self.unread else (0, [])
        if count:
            named = ", ".join(modules[:3]) + (f" and {len(modules) - 3} more" if len(modules) > 3 else "")
            advice = "leave them out of target_modules or of what you train"
            fault = f"{type(self).__name__} does not read {named}"
            logger.warning_once(f"{count} trainable tensors get no gradient: {fault}; {advice}")
        for part, entry in by_part(self.config.frozen).items():
            for module in self.base_model.parts()[part]:
                module.eval()
            for layer in self.base_model.last_layers(entry):
                layer.train(mode)
        return self

    def enable_input_require_grads(self) -> None:
        """
        Do nothing. Checkpointing of activations calls this for adapters around frozen encoders. It would keep a graph of what is
        frozen, and fails on embeddings that give more than one tensor (Swin). See `_set_gradient_checkpointing`.
        """

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **options
    ) -> None:
        # The older kind of checkpointing, torch's default, gives adapters in a layer no gradient if its input needs none.
        if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            logger.warning_once("use_reentrant=True: False is used, which computes the same, with adapters too")
        gradient_checkpointing_func = functools.partial(gradient_checkpointing_func, use_reentrant=False)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **options)

    def count_parameters(self) -> dict[str, tuple[int, int]]:
        """Count all parameters and those that train, of each part, of the `"head"`, and in `"total"`; a shared one counts once."""
        parts = self.base_model.parts().items()
        names = {id(weight): part for part, modules in parts for module in modules for weight in module.parameters()}
        counts = dict.fromkeys((*PARTS, "head", "total"), (0, 0))
        for parameter in self.parameters():
            number = parameter.numel()
            for part in (names.get(id(parameter), "head"), "total"):
                counts[part] = counts[part][0] + number, counts[part][1] + number * parameter.requires_grad
        return counts

    def print_trainable_parameters(self) -> None:
        """Print how many parameters there are, how many train and how many are frozen, by part."""
        print(f"{'':12}{'all':>15}{'trainable':>15}{'frozen':>15}")
        for part, (number, trainable) in self.count_parameters().items():
            print(f"{part:12}{number:15,}{trainable:15,}{number - trainable:15,}")

    @classmethod
    @whole_weights()
    def from_pretrained(cls, pretrained_model_name_or_path: str, *args, **kwargs):
        """
        `PreTrainedModel.from_pretrained`; parts that the configuration records as frozen are frozen again, and modules of the
        head whose weights are new are no longer recorded as from elsewhere. Of a model that is quantised by bitsandbytes, what
        is on top of the base model keeps its precision unless the caller says otherwise. Raise `ValueError` if the checkpoint
        is in a folder, and names files outside of it.
        """
        if pretrained_model_name_or_path is not None:
            check_own_files("checkpoint", Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        asked = kwargs.get("quantization_config")
        if getattr(asked, "llm_int8_skip_modules", ()) is None:
            kwargs["quantization_config"] = copy.copy(asked)
            kwargs["quantization_config"].llm_int8_skip_modules = ["classifier", r"\w+_head"]
        report_is_wanted = kwargs.pop("output_loading_info", False)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        # Loading replaces the parameters that the constructor froze, and leaves constants without values.
        model.freeze()
        model.base_model.normalised.fill(model.device)
        new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
        model._forget_sources({name.split(".")[0] for name in new})
        return (model, report) if report_is_wanted else model

    def head_modules(self) -> list[str]:
        """Return the names of the modules with weights on top of the base model."""
        own = self.named_children() if self is not self.base_model else ()
        return [name for name, module in own if module is not self.base_model and list(module.parameters())]

    def _forget_sources(self, new: set[str]) -> None:
        """Record no source for modules of a head, of another model or with weights that are `new`."""
        kept = {"cross_modal", *(slot.name for slot in self.config.encoder_slots())}
        kept |= set(self.head_modules()) - new
        self.config.weights_from = {name: source for name, source in self.config.weights_from.items() if name in kept}

    def save_pretrained(self, save_directory: str, *args, **kwargs) -> None:
        """
        Save model and code in one folder, which with `trust_remote_code=True` loads without this package. Weights keep the names
        that they have in the model: Trainer could not resume from the older names that transformers would give to some towers.
        """
        kwargs.setdefault("save_original_format", False)
        self.config.auto_map = dict(self.class_map)
        self.config.custom_pipelines = {}
        if (task := getattr(self, "pipeline_task", None)) in AUTO_CLASSES:
            self.config.auto_map[AUTO_CLASSES[task]] = remote_name(type(self))
            pipeline = {"impl": remote_name(ImageTextPipeline), "pt": [AUTO_CLASSES[task]]}
            self.config.custom_pipelines = {task: pipeline}
        if kwargs.get("is_main_process", True) and not Path(save_directory).is_file():
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            custom_object_save(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            for weights in Path(save_directory).glob("*.safetensors"):
                # safetensors lets nobody but their owner read them.
                shutil.copymode(Path(save_directory) / CONFIG_NAME, weights)
        if self.add_card and kwargs.get("is_main_process", True) and not kwargs.get("push_to_hub"):
            self.add_card(save_directory, self)

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args, **kwargs):
        # transformers has just put the repository's card, or a stub, into the folder.
        if self.add_card:
            self.add_card(working_dir, self, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.set_input_embeddings(value)


class RenaissanceBaseModel(FeaturesOfEither, RenaissancePreTrainedModel):
    """
    The base model of an architecture: encode what is given, then fuse it.

    Attributes:
        text_limit: Most tokens that a text can have; `None` if there is no limit.
        patch_size: Height and width that images must be a multiple of; `None` if any will do.
        more_auto_classes: Auto classes of transformers that find the base model, beside `AutoModel`.
    """

    more_auto_classes: tuple[str, ...] = ()
    #: Finds the traits of the vision encoder of a configuration, on images of a size.
    inspect_vision_encoder = staticmethod(inspect_vision_tower)
    text_limit: int | None = None
    patch_size: tuple[int, int] | None = None

    def __init__(self, config: RenaissanceConfig):
        super().__init__(config)
        self.normalised = PixelNormalisation(config)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part that can be frozen: `"text"`, `"vision"` and `"cross_modal"`."""
        raise NotImplementedError

    def layers(self, part: str) -> list[nn.Module]:
        """Return the layers of a part, first to last; none if it has only embeddings, or layers that are not in one list."""
        return []

    def towers(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each encoder, embeddings first, by the part that has its layers."""
        return {}

    def load_encoder_weights(self, name: str, source: PreTrainedModel) -> None:
        """Take over the weights of `source`, a pretrained encoder of the kind that the model has under `name`."""
        getattr(self, name).load_state_dict(source.state_dict())

    def encode_text(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> EncodedText:
        """
        Encode text on its own.

        Args:
            input_ids: Token ids (B, T).
            attention_mask: 1 for tokens, 0 for padding (B, T); all tokens by default.
            kwargs: `output_hidden_states`, `output_attentions` of a text tower.

        Raises:
            ValueError: If the text is longer than the model has positions for.
        """
        raise NotImplementedError

    def encode_image(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs,
    ) -> EncodedImage:
        """
        Encode images on their own.

        Args:
            pixel_values: Normalised pixels (B, C, H, W), or unnormalised ones as uint8.
            pixel_mask: 1 for pixels, 0 for padding below and to the right (B, H, W), by default none; one-tower models only.
            image_features: States (B, P, width) from `vision_features` instead of pixels; models with a vision encoder only.
            kwargs: `output_hidden_states`, `output_attentions` of a vision tower.

        Raises:
            ValueError: If an input is missing, does not fit the images, or is for the other architecture.
        """
        raise NotImplementedError

    def fuse(
        self,
        text: EncodedText | None,
        image: EncodedImage | None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        reads: tuple[str, ...] = FUSED,
        pooled_from: int = 0,
    ) -> FusedOutput:
        """
        Let text and images, from `encode_text` and `encode_image`, see each other, row by row. Either may be missing.

        Args:
            image_index: Number of the image (B,) among those of its text, from 0 on; all first ones by default.
            output_attentions: Whether to return attention weights; needs eager attention.
            output_hidden_states: Whether to return the states between the layers.
            reads: What the caller reads, any of `"text_states"`, `"image_states"` and `"pooled"`: the rest is `None`, and what
                only it depends on is not computed, unless attention weights or hidden states are asked for.
            pooled_from: The first row that is pooled; those before it have no pooled vector.

        Raises:
            ValueError: If attention weights are asked for and attention is not eager.
        """
        raise NotImplementedError

    def alone(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        """Return the states (B, N, hidden size) of texts or images that have seen nothing but themselves."""
        if isinstance(encoded, EncodedImage):
            return self.fuse(None, encoded, reads=("image_states",)).image_states
        return self.fuse(encoded, None, reads=("text_states",)).text_states

    def summary(self, encoded: EncodedText | EncodedImage) -> torch.Tensor:
        """Return one vector (B, width) of each text or image alone: the mean of its states, which suits any encoder."""
        return mean_state(self.alone(encoded), encoded.mask)

    def paired(self, text: EncodedText, image: EncodedImage) -> tuple[EncodedText, EncodedImage]:
        """Return what `forward` fuses of texts and images: `one_with_each`."""
        return one_with_each(text, image)

    def encoding_options(self, **outputs: bool) -> dict[str, bool]:
        """
        Return the options of `encode_text` and `encode_image`, given whether `output_attentions` and `output_hidden_states` are
        wanted: none if they are those of the layers that fuse.
        """
        return {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the images that the model is made for."""
        return image_shape_of(self.config)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return two short texts with an image each."""
        tokens = min(self.text_limit or TOKENS, TOKENS)
        return {
            "input_ids": torch.ones(2, tokens, dtype=torch.long, device=self.device),
            "pixel_values": torch.zeros(2, *self.image_shape, device=self.device),
        }

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        image_index: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_features: torch.Tensor | None = None,
        reads: tuple[str, ...] = FUSED,
        **others,
    ) -> FusedOutput:
        """
        Encode the text, the images, or both, and fuse them. One text goes with each of several images, one image with each of several
        texts. The arguments are those of `encode_text`, `encode_image` and `fuse`. Of `others`, `token_type_ids`, which
        tokenizers give, are ignored.

        Raises:
            ValueError: If there are neither text nor images, or they do not fit the model or each other.
        """
        check_other_inputs(**others)
        has_image = pixel_values is not None or image_features is not None
        if input_ids is None and not has_image:
            raise ValueError("expected input_ids, pixel_values or both, got neither")
        outputs = self.wanted_outputs(output_attentions, output_hidden_states)
        options = self.encoding_options(**outputs)
        text = None if input_ids is None else self.encode_text(input_ids, attention_mask, **options)
        image = self.encode_image(pixel_values, pixel_mask, image_features, **options) if has_image else None
        if text is not None and image is not None:
            text, image = self.paired(text, image)
        fused = self.fuse(text, image, image_index, reads=reads, **outputs)
        return fused.with_common_names() if set(FUSED) <= set(reads) else fused

    def wanted_outputs(self, attentions: bool | None, hidden_states: bool | None) -> dict[str, bool]:
        """Return the options of `fuse` for the optional outputs, each as `wants` has it."""
        return {
            "output_attentions": self.wants("attentions", attentions),
            "output_hidden_states": self.wants("hidden_states", hidden_states),
        }

    def wants(self, output: str, asked: bool | None) -> bool:
        """Return whether the caller, or else the configuration, asks for an optional output."""
        wanted = getattr(self.config, f"output_{output}") if asked is None else asked
        if wanted and output == "attentions" and self.config._attn_implementation != "eager":
            fault = f"{self.config._attn_implementation} attention keeps no weights"
            raise ValueError(f'output_attentions: {fault}; call model.set_attn_implementation("eager")')
        return bool(wanted)

    def with_types(
        self, text: EncodedText | None, image: EncodedImage | None, image_index: torch.LongTensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the states (B, T, size) and (B, P, size) with their token-type embeddings added."""
        text_states = image_states = None
        if text is not None:
            text_type = torch.zeros(1, dtype=torch.long, device=text.states.device)
            text_states = text.states + self.type_embeddings(text_type)
        if image is not None:
            first = torch.ones(1, dtype=torch.long, device=image.states.device)
            image_type = first if image_index is None else image_index + 1
            image_states = image.states + self.type_embeddings(image_type).unsqueeze(1)
        return text_states, image_states

    def pool(self, text_states: torch.Tensor | None, image_states: torch.Tensor | None) -> torch.Tensor:
        """Return one vector a row: of the text, of the image, or of both side by side, as the configuration's pooler says."""
        pooled = []
        if text_states is not None:
            pooled.append(self.text_pooler(text_states))
        if image_states is not None and (self.config.pooler == "double" or not pooled):
            pooler = self.text_pooler if self.config.pooler == "single" else self.image_pooler
            pooled.append(pooler(image_states))
        return torch.cat(pooled, dim=-1)


def one_with_each(text: EncodedText, image: EncodedImage) -> tuple[EncodedText, EncodedImage]:
    """Return as many texts as images: a single one of either goes with each of the others. Raise `ValueError` for other numbers."""
    texts, images = text.states.shape[0], image.states.shape[0]
    if texts == images:
        return text, image
    if 1 not in (texts, images):
        raise ValueError(f"expected an image a text, or one of either for all, got {texts} texts and {images} images")
    again = torch.zeros(max(texts, images), dtype=torch.long, device=text.states.device)
    return (text.rows(again), image) if texts == 1 else (text, image.rows(again))


def remote_name(found: type) -> str:
    """Return the module and the name of a class in the files beside a checkpoint, which lie in one folder."""
    return f"{found.__module__.split('.')[-1]}.{found.__name__}"


def let_train(module: nn.Module, trains: bool) -> None:
    """Say whether the parameters of a module train; quantised ones, of whole numbers, never do."""
    for parameter in module.parameters():
        parameter.requires_grad_(trains and parameter.is_floating_point())


def expand_parts(parts: tuple[str, ...]) -> list[str]:
    """Return what `parts` name; `"encoder"` stands for all three."""
    return [name for part in parts for name in (PARTS if part == "encoder" else (part,))]


def by_part(frozen: list[str]) -> dict[str, str]:
    """Return each frozen entry under its part, the last one of a part; raise `ValueError` for what is no part."""
    return {parse_frozen(entry)[0]: entry for entry in frozen}
