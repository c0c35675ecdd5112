"""What every Renaissance model offers, with any head or none: building, freezing, loading, and saving with its code."""

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
from transformers.utils import CONFIG_NAME, logging

from .checkpoint_files import check_own_files
from .configuration_renaissance import PARTS, RenaissanceConfig, parse_frozen
from .contrastive import ContrastiveHead
from .encoders import load_encoder, source_name, whole_weights
from .image_embeddings import ImageEmbeddings
from .layers import TypeEmbeddings
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
