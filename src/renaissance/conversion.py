"""Converts checkpoints of ViLT and LXMERT into Renaissance models, with an account of every weight."""

from collections import Counter
from dataclasses import dataclass, field

import torch
import transformers
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LxmertConfig,
    LxmertModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViltConfig,
    ViTConfig,
    set_seed,
)

from .checkpoints import open_config
from .hub import check_source, reason
from .modeling.architectures import ARCHITECTURES
from .modeling.configuration_one_tower import OneTowerConfig
from .modeling.encoders import UNREADABLE_ERRORS, at_revision, source_name, unreadable
from .processing.processing_renaissance import RenaissanceProcessor
from .tasks.arguments import model_arguments_class
from .tasks.finite import refuse_not_finite
from .tasks.models import build_model, build_processor, check_sources


#: Modules and parameters of `ViltModel`, and their names in `OneTowerModel`.
VILT_MODEL = {
    "embeddings.text_embeddings.word_embeddings": "text_embeddings.word_embeddings",
    "embeddings.text_embeddings.LayerNorm": "text_embeddings.layer_norm",
    "embeddings.cls_token": "image_embeddings.cls_token",
    "embeddings.position_embeddings": "image_embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection": "image_embeddings.patch_embeddings",
    "layernorm": "encoder.layernorm",
    "pooler.dense": "text_pooler.dense",
}
VILT_LAYER = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
VILT_CLASSIFIER = {
    "classifier.0": "classifier.dense",
    "classifier.1": "classifier.layer_norm",
    "classifier.3": "classifier.out",
}
VILT_MASKED_LM = {
    "mlm_score.transform.dense": "mlm_head.dense",
    "mlm_score.transform.LayerNorm": "mlm_head.layer_norm",
    "mlm_score.decoder": "mlm_head.decoder",
}
#: ViLT's classes, the kinds of model that they become, and the modules of their heads.
VILT_CLASSES = {
    "ViltModel": ("Model", {}),
    "ViltForMaskedLM": ("ForMaskedLM", VILT_MASKED_LM),
    "ViltForQuestionAnswering": ("ForVisualQuestionAnswering", VILT_CLASSIFIER),
    "ViltForImagesAndTextClassification": ("ForImagesAndTextClassification", VILT_CLASSIFIER),
    "ViltForImageAndTextRetrieval": ("ForImageTextRetrieval", {}),
}

#: Modules of `LxmertXLayer`, and their names in `CrossModalLayer`: attentions, their outputs, and all in a layer.
LXMERT_PARTS = {
    "visual_attention.att.": "cross_attention",
    "lang_self_att.self.": "text_attention",
    "visn_self_att.self.": "image_attention",
}
LXMERT_OUTPUTS = {"output.dense": "output", "output.LayerNorm": "layer_norm"}
LXMERT_MLPS = {"lang_": "text_mlp", "visn_": "image_mlp"}
LXMERT_LAYER = {
    f"{theirs}{part}": f"{ours}.{name}"
    for parts, names in (
        (LXMERT_PARTS, {name: name for name in ("query", "key", "value")}),
        ({theirs.split(".")[0] + ".": ours for theirs, ours in LXMERT_PARTS.items()}, LXMERT_OUTPUTS),
        (LXMERT_MLPS, {"inter.dense": "up", **LXMERT_OUTPUTS, "output.dense": "down"}),
    )
    for theirs, ours in parts.items()
    for part, name in names.items()
}


class WeightTransfer:
    """Copies weights of one model into another, and notes those that remain in either."""

    def __init__(self, source: nn.Module, target: nn.Module):
        self.source = source.state_dict()
        self.target = target.state_dict()
        #: Weights of the source that were not read, and of the target that were not set.
        self.unread, self.unset = set(self.source), set(self.target)

    def copy(self, names: dict[str, str], source_prefix: str = "", target_prefix: str = "") -> None:
        """Copy modules and parameters; `names` maps their names, without the prefixes, from source to target."""
        for theirs, ours in names.items():
            theirs, ours = source_prefix + theirs, target_prefix + ours
            for name in [name for name in self.source if name == theirs or name.startswith(f"{theirs}.")]:
                self.set(ours + name.removeprefix(theirs), self.source[name], name)

    def set(self, name: str, value: torch.Tensor, *read: str) -> None:
        """Set the target's weight `name` to `value`, which was made of the source's weights `read`."""
        assert value.shape == self.target[name].shape, name
        self.target[name].copy_(value)
        self.unset.remove(name)
        self.unread.difference_update(read)


@dataclass
class Conversion:
    """
    A converted model and the account of its weights.

    Args:
        source: The checkpoint that was converted.
        model: The model.
        processor: Its processor; `None` if the source has none.
        left_out: Weights of the source that are not in the model, with the reason.
        new: Weights of the model that are not from the source, with their origin.
        remarks: Other differences of the model from its source.
    """

    source: str
    model: PreTrainedModel
    processor: RenaissanceProcessor | None
    left_out: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What a card says of the conversion, a line each."""
        parts = [f"Left out of the source: {line}." for line in self.left_out]
        parts += [f"Not from the source: {line}." for line in self.new]
        parts += [f"{remark[:1].upper()}{remark[1:]}." for remark in self.remarks]
        if self.processor is None:
            parts.append("There is no processor here: the source lacks a tokenizer or an image processor.")
        return parts

    def account(self, transfer: WeightTransfer, left_out: dict[str, str], new: dict[str, str]) -> None:
        """
        List the weights that remain after a transfer. `left_out` has beginnings of names in the source, with the
        reason for leaving these weights out; `new` has beginnings of names in the model, with their origin. Raise
        `ValueError` if a weight is neither transferred nor under one of these beginnings.
        """
        accounts = (transfer.unread, left_out, self.left_out), (transfer.unset, new, self.new)
        for remaining, reasons, listed in accounts:
            starts = {name: next((start for start in reasons if name.startswith(start)), None) for name in remaining}
            if unknown := sorted(name for name, start in starts.items() if start is None):
                raise ValueError(f"source {self.source!r}: nothing is known of the weights {', '.join(unknown)}")
            counts = Counter(starts.values())
            listed += [f"{s} ({counts[s]} weights): {reason}" for s, reason in reasons.items() if counts[s]]


def convert_vilt(source: str, trust_remote_code: bool = False) -> Conversion:
    """
    Convert a ViLT model (Kim et al. 2021), with its head, into a one-tower model with the same outputs. `source` is
    the Hub id or folder of a checkpoint of one of `VILT_CLASSES`, whose tokenizer may run code of its own only with
    `trust_remote_code`. Raise `ValueError` if there is no such checkpoint,
    or it has an option that one-tower models lack.
    """
    config = load_config(source, ViltConfig)
    class_name = (config.architectures or ["no class"])[0]
    if class_name not in VILT_CLASSES:
        raise ValueError(f"source {source!r}: expected a checkpoint of {', '.join(VILT_CLASSES)}, got {class_name}")
    kind, head = VILT_CLASSES[class_name]
    check_vilt(source, config, kind)
    theirs, unexpected = load_model(source, getattr(transformers, class_name))
    ours = ARCHITECTURES["one-tower"].models[kind](vilt_config(config, kind)).eval()
    ours.config.weights_from = dict.fromkeys(["encoder", *ours.head_modules()], source_name(source))
    conversion = Conversion(source, ours, processor_of(source, ours, trust_remote_code))

    transfer = WeightTransfer(theirs, ours)
    prefixes = ("", "") if kind == "Model" else ("vilt.", "model.")
    transfer.copy(head)
    transfer.copy(VILT_MODEL, *prefixes)
    for layer in range(config.num_hidden_layers):
        transfer.copy(VILT_LAYER, f"{prefixes[0]}encoder.layer.{layer}.", f"{prefixes[1]}encoder.layers.{layer}.")
    fold_vilt_text_types(transfer, conversion, *prefixes)
    convert_vilt_modality_types(transfer, conversion, *prefixes)
    if kind == "ForImageTextRetrieval":
        # Our score is a difference: of ViLT's score and zero.
        for name in ("weight", "bias"):
            score = transfer.source[f"rank_output.{name}"]
            transfer.set(f"itm_head.{name}", torch.cat([torch.zeros_like(score), score]), f"rank_output.{name}")
        conversion.new.append('itm_head, the row of "no match": zero')

    conversion.account(transfer, {}, {})
    conversion.left_out += [f"{name}: no part of {class_name}" for name in unexpected]
    if config.max_image_length > 0:
        draws = f"ViLT draws {config.max_image_length} patches at random from larger images (max_image_length)"
        conversion.remarks.append(f"{draws}; this model sees all")
    return conversion


def check_vilt(source: str, config: ViltConfig, kind: str) -> None:
    """Raise `ValueError` if `config` has an option that a one-tower model of `kind` lacks."""
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(config, name), int):
            raise ValueError(f"source {source!r}: {name}: expected one number, got {getattr(config, name)}")
    if kind == "ForMaskedLM" and config.hidden_act != "gelu":
        raise ValueError(f"source {source!r}: hidden_act: the masked-LM head has gelu, got {config.hidden_act!r}")


def vilt_config(config: ViltConfig, kind: str) -> OneTowerConfig:
    """Return the configuration of the one-tower model of `kind` that equals the ViLT of `config`."""
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    shared += ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "qkv_bias")
    shared += ("initializer_range", "image_size", "patch_size", "num_channels")
    # A second image that ViLT does not have gets the type of the first, as in any new model.
    num_images, classifier_size = max(2, config.modality_type_vocab_size - 1), None
    if kind == "ForImagesAndTextClassification":
        num_images, classifier_size = config.num_images, config.num_images * config.hidden_size
    elif kind == "ForVisualQuestionAnswering":
        classifier_size = 2 * config.hidden_size
    same = ("vocab_size", "pad_token_id", "max_position_embeddings", "num_channels", "initializer_range", "id2label")
    return OneTowerConfig(
        encoder_config=ViTConfig(**{name: getattr(config, name) for name in shared}),
        position_interpolation="bilinear",
        num_images=num_images,
        pooler="single",
        tie_word_embeddings=True,
        classifier_dropout=0.0,
        classifier_hidden_size=classifier_size,
        classifier_layer_norm_eps=1e-5,
        label2id=config.label2id,
        **{name: getattr(config, name) for name in same},
    )


def fold_vilt_text_types(transfer: WeightTransfer, conversion: Conversion, theirs: str, ours: str) -> None:
    """Add the type embedding, the same for all tokens of a text, to the position embeddings."""
    names = ("position", "token_type")
    positions, types = (f"{theirs}embeddings.text_embeddings.{name}_embeddings.weight" for name in names)
    folded = transfer.source[positions] + transfer.source[types][0]
    transfer.set(f"{ours}text_embeddings.position_embeddings.weight", folded, positions, types)
    if len(transfer.source[types]) > 1:
        conversion.left_out.append(f"{types}, from row 1 on: every token of a text is of type 0")


def convert_vilt_modality_types(transfer: WeightTransfer, conversion: Conversion, theirs: str, ours: str) -> None:
    """Set the type embeddings of text and images; from the second image on, ours are offsets to that of the first."""
    source, target = f"{theirs}embeddings.token_type_embeddings.weight", f"{ours}type_embeddings.weight"
    rows = transfer.source[source].clone()
    rows[2:] -= rows[1]
    count = len(transfer.target[target])
    if len(rows) > count:
        conversion.left_out.append(f"{source}, from row {count} on: no text has so many images")
    elif len(rows) < count:
        conversion.new.append(f"{target}, from row {len(rows)} on: zero, further images are of the type of the first")
    missing = rows.new_zeros(max(0, count - len(rows)), rows.shape[1])
    transfer.set(target, torch.cat([rows[:count], missing]), source)


def processor_of(source: str, model: PreTrainedModel, trust_remote_code: bool) -> RenaissanceProcessor | None:
    """Return a processor with the tokenizer and the image processor of `source`, fit to the `model` made of it; `None` if one is missing."""
    name, loading = at_revision(source)
    loading |= {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **loading)
        image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **loading)
    except (OSError, ValueError):
        return None
    return RenaissanceProcessor(image_processor, tokenizer).fit(model, keep_image_size=True)


def convert_lxmert(
    source: str,
    text_encoder: str,
    vision_encoder: str,
    tokenizer: str | None = None,
    cross_modal_layers: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Conversion:
    """
    Build a two-tower model around two encoders with the cross-modal layers of an LXMERT model (Tan & Bansal 2019).

    Args:
        source: Hub id or folder of an LXMERT checkpoint with any head.
        text_encoder: Hub id or folder of the text encoder; it replaces LXMERT's own.
        vision_encoder: The same for the vision encoder; it replaces the detector whose boxes LXMERT reads.
        tokenizer: Hub id or folder of the tokenizer; the text encoder's own by default.
        cross_modal_layers: Number of LXMERT's layers to take, from the first on; all by default.
        seed: Seed of the random weights.
        trust_remote_code: Whether the tokenizer and the image processor may run code of their own.

    Raises:
        ValueError: If a checkpoint or an encoder is missing, or LXMERT has fewer layers.
    """
    arguments = model_arguments_class()(
        text_encoder=text_encoder,
        vision_encoder=vision_encoder,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    check_sources(arguments)
    config = load_config(source, LxmertConfig)
    most = config.x_layers
    num_layers = most if cross_modal_layers is None else cross_modal_layers
    if not 1 <= num_layers <= most:
        raise ValueError(f"cross_modal_layers: expected 1 to {most}, as many as LXMERT has, got {num_layers}")
    theirs, unexpected = load_model(source, LxmertModel)
    fields = {
        "cross_modal_hidden_size": config.hidden_size,
        "cross_modal_layers": num_layers,
        "cross_modal_heads": config.num_attention_heads,
        "cross_modal_mlp_ratio": config.intermediate_size / config.hidden_size,
        "cross_modal_act": config.hidden_act,
        "cross_modal_dropout": config.hidden_dropout_prob,
        "cross_modal_attention_dropout": config.attention_probs_dropout_prob,
        "layer_norm_eps": 1e-12,
        "initializer_range": config.initializer_range,
    }
    set_seed(seed)
    processor = build_processor(arguments)
    ours = build_model("Model", arguments, processor, fields)
    ours.config.weights_from["cross_modal"] = source_name(source)
    conversion = Conversion(source, ours, processor)

    transfer = WeightTransfer(theirs, ours)
    for layer in range(num_layers):
        transfer.copy(LXMERT_LAYER, f"encoder.x_layers.{layer}.", f"cross_modal_layers.{layer}.")
    own = "the encoders take their place"
    left_out = {f"encoder.{name}": own for name in ("visn_fc.", "layer.", "r_layers.")} | {"embeddings.": own}
    left_out |= {
        "pooler.": "the model has poolers of its own",
        "encoder.x_layers.": f"only the first {num_layers} are taken",
    }
    new = {"text_encoder.": f"from {text_encoder}", "vision_encoder.": f"from {vision_encoder}"}
    new |= dict.fromkeys(("text_projection.", "image_projection.", "text_pooler.", "image_pooler."), "random")
    conversion.account(transfer, left_out, new | {"type_embeddings.": "zero"})
    counts = Counter(name.split(".")[0] for name in unexpected)
    conversion.left_out += [f"{start}. ({count} weights): heads are not converted" for start, count in counts.items()]
    return conversion


def load_config(source: str, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Return the configuration of the checkpoint `source`; raise `ValueError` if it is missing or of another class."""
    check_source("source", source)
    name, revision = at_revision(source)
    config = open_config("source", name, **revision)
    if not isinstance(config, config_class):
        raise ValueError(f"source {source!r}: expected a {config_class.model_type} model, got {config.model_type}")
    return config


def load_model(source: str, model_class: type[PreTrainedModel]) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint's model and the names of further weights there; raise `ValueError` if weights do not fit, or are not
    finite."""
    name, revision = at_revision(source)
    try:
        model, report = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **revision)
    except UNREADABLE_ERRORS as error:
        raise ValueError(f"source {source!r}: {unreadable(error)}") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"source {source!r}: no weights that fit ({reason(error)})") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"source {source!r}: no {model_class.__name__}, it lacks the weights {', '.join(missing)}")
    refuse_not_finite(model, {"source": (source, None)})
    return model, sorted(report["unexpected_keys"])
