"""The models that are measured, at random weights: sizes of the paper's, and the batches that they are measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForPreTraining,
    BertConfig,
    BertTokenizer,
    ConvNextConfig,
    ElectraConfig,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from renaissance import DualEncoderConfig, OneTowerConfig, RenaissanceProcessor, TwoTowerConfig
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData, ObjectiveData
from renaissance.tasks.data.sampling import POOL, GroupedSampler

from .reference import TEXT_LENGTH, reference_batch
from .reference_dual import contrastive_batch


VOCABULARY = 30522
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

ELECTRA_SMALL = {"hidden_size": 256, "embedding_size": 128, "num_attention_heads": 4, "intermediate_size": 1024}
ELECTRA_BASE = {"hidden_size": 768, "embedding_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
DEIT_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
VIT_BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}

#: The two-tower models by name: sizes of the text tower, of the vision tower, and of the cross-modal layers if they differ from
#: the configuration's defaults (256 wide, 4 heads).
TWO_TOWERS = {
    "small": (ELECTRA_SMALL, DEIT_TINY, {"cross_modal_layers": 6}),
    "base": (ELECTRA_BASE, VIT_BASE, {"cross_modal_layers": 10}),
    "tiny": (
        TINY | {"embedding_size": 64},
        TINY,
        {"cross_modal_layers": 2, "cross_modal_hidden_size": 64, "cross_modal_heads": 2},
    ),
}
#: The one-tower models by name: sizes that differ from BERT-Base's.
ONE_TOWERS = {"one-tower": {}, "grid": {}, "tiny-one-tower": TINY, "tiny-grid": TINY}
#: The sizes of the convolutional encoder of those with grid features: ConvNeXt-Tiny's.
GRIDS = {"grid": {}, "tiny-grid": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}}
#: The dual encoders by name: sizes of the text and of the vision encoder, and of the vectors.
DUAL_ENCODERS = {
    "dual-encoder": (ELECTRA_SMALL, DEIT_TINY, 256),
    "tiny-dual-encoder": (TINY | {"embedding_size": 64}, TINY, 64),
}
MODELS = (*TWO_TOWERS, *ONE_TOWERS, *DUAL_ENCODERS)
#: Tiny models, with which a measurement is tried in seconds, by the name of the model that each stands for.
STAND_INS = {
    "small": "tiny",
    "base": "tiny",
    "one-tower": "tiny-one-tower",
    "grid": "tiny-grid",
    "dual-encoder": "tiny-dual-encoder",
}


def build_config(
    name: str, dropout: float = 0.0, image_size: int = 224, layers: int | None = None, **fields
) -> OneTowerConfig | TwoTowerConfig | DualEncoderConfig:
    """
    The configuration of one of the models.

    Args:
        name: One of `MODELS`.
        dropout: Dropout probability of text towers (of their attention weights too), of one tower, and of what joins two. The
            vision tower has none, as the checkpoints of ViT and DeiT.
        image_size: Height and width of the images.
        layers: Number of cross-modal layers in place of the model's own; two towers only.
        fields: Further fields of the configuration.
    """
    fields["pixel_mean"], fields["pixel_deviation"] = build_processor(image_size).pixel_statistics
    shared = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "vocab_size": VOCABULARY}
    if name in ONE_TOWERS:
        if name in GRIDS:
            # Not a ResNet, whose batch normalisation would see each side's own images.
            fields["vision_config"] = ConvNextConfig(**GRIDS[name])
        return OneTowerConfig(encoder_config=BertConfig(**shared | ONE_TOWERS[name]), image_size=image_size, **fields)
    text, vision, joined = (TWO_TOWERS | DUAL_ENCODERS)[name]
    encoders = {
        "text_config": ElectraConfig(**{"num_hidden_layers": 12} | text | shared),
        "vision_config": ViTConfig(**{"num_hidden_layers": 12, "image_size": image_size} | vision),
    }
    if name in DUAL_ENCODERS:
        return DualEncoderConfig(**encoders, **{"image_pooling": "first", "contrastive_size": joined} | fields)
    joined = joined | {"cross_modal_layers": layers or joined["cross_modal_layers"]}
    return TwoTowerConfig(**encoders, cross_modal_dropout=dropout, **joined, **fields)


def objectives_of(name: str, itm_text: str = "clean", itm_negatives: str = "batch") -> tuple[ObjectiveData, ...]:
    """The data halves of the objectives that one of the models is measured with; the options are those of matching."""
    return (ContrastiveData(),) if name in DUAL_ENCODERS else (MaskedTextData(), MatchingData(itm_text, itm_negatives))


def build_model(name: str, freeze: Sequence[str] = (), seed: int = 0, **options) -> PreTrainedModel:
    """One of our models for pretraining, at random weights, in training mode; `options` are those of `build_config`."""
    torch.manual_seed(seed)
    config = build_config(name, frozen=freeze, **options)
    return AutoModelForPreTraining.from_config(config).train()


def build_processor(image_size: int = 224) -> RenaissanceProcessor:
    """A processor of images of one size, and of texts of words `w5`, `w6`, ... of as many ids as the models have."""
    words = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(len(SPECIAL_TOKENS), VOCABULARY))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=TEXT_LENGTH)
    size = {"height": image_size, "width": image_size}
    return RenaissanceProcessor(ViTImageProcessorPil(size=size), tokenizer)


def caption_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens (count,) of captions, special ones included: as those of COCO about normal, 12 with deviation 4, from 5 to 50."""
    return np.clip(rng.normal(12, 4, count).round().astype(int), 5, TEXT_LENGTH)


def caption(length: int, rng: np.random.Generator) -> str:
    """A text of so many tokens, the two special ones included."""
    return " ".join(f"w{number}" for number in rng.integers(len(SPECIAL_TOKENS), VOCABULARY, length - 2))


def noise(image_size: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image of that height and width."""
    return Image.fromarray(rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8))


@dataclass(frozen=True)
class BatchSettings:
    """
    How batches are drawn.

    Args:
        batch_size: Image-text pairs a batch.
        image_size: Height and width of the images.
        by_length: Whether captions of like length come together, as with `--train_sampling_strategy group_by_length`.
        captions_per_image: Captions that share an image.
        length: Tokens of every caption; of real lengths by default.
        seed: Seed of lengths, words, images and masking.
    """

    batch_size: int
    image_size: int = 224
    by_length: bool = False
    captions_per_image: int = 1
    length: int | None = None
    seed: int = 0


def batch_lengths(settings: BatchSettings, count: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of each caption of `count` batches (count, B)."""
    pool = max(POOL, count) if settings.by_length else count
    lengths = caption_lengths(pool * settings.batch_size, rng)
    if settings.length:
        lengths[:] = settings.length
    if not settings.by_length:
        return lengths.reshape(count, -1)
    images = np.arange(len(lengths)) // settings.captions_per_image
    options = {"images": lambda epoch: images, "per_image": settings.captions_per_image}
    sampler = GroupedSampler(len(lengths), settings.batch_size, 1, settings.seed, lambda epoch: lengths, **options)
    batches = lengths[list(sampler)].reshape(pool, -1)
    # Spread evenly over short and long ones, so that few stand for all.
    ordered = batches[np.argsort(batches.max(axis=1), kind="stable")]
    return ordered[((np.arange(count) + 0.5) * pool / count).astype(int)]


def draw_rows(settings: BatchSettings, count: int) -> list[list[dict]]:
    """The rows of `count` batches, as the collator takes them; the same for the same settings."""
    rng = np.random.default_rng(settings.seed)
    rows = []
    for number, length in enumerate(batch_lengths(settings, count, rng).flatten()):
        image = number // settings.captions_per_image
        first = number % settings.captions_per_image == 0
        picture = noise(settings.image_size, rng) if first else rows[-1]["image"]
        keys = {"image_id": str(image), "sample_id": number, "epoch": 0, "training": True}
        rows.append({"image": picture, "text": caption(length, rng), **keys})
    return [rows[start : start + settings.batch_size] for start in range(0, len(rows), settings.batch_size)]


def draw_batches(
    settings: BatchSettings, count: int, objectives: Sequence[ObjectiveData] = objectives_of("small")
) -> tuple[list[dict], list[dict]]:
    """
    Return `count` batches, for our models and for the reference. The reference matches the clean text, has images as transformers'
    image processor makes them, and false ones of the same batch.
    """
    processor = build_processor(settings.image_size)
    contrasts = [each.name for each in objectives] == ["contrastive"]
    original = PretrainingCollator(processor, objectives if contrasts else objectives_of("small"), seed=settings.seed)
    originals = []
    for rows in draw_rows(settings, count):
        images = {row["image_id"]: row["image"] for row in rows}
        pixels = processor.image_processor([*images.values()], return_tensors="pt")["pixel_values"]
        originals.append((contrastive_batch if contrasts else reference_batch)(original(rows), pixels))
    return draw_own_batches(settings, count, objectives), originals


def draw_own_batches(
    settings: BatchSettings,
    count: int,
    objectives: Sequence[ObjectiveData] = objectives_of("small"),
    length_multiple: int = 1,
) -> list[dict]:
    """Return `count` batches for our models. Those of compiled layers have a `length_multiple`, as that of a processor."""
    processor = build_processor(settings.image_size)
    processor.length_multiple = length_multiple

    def draw(row: dict, rng: np.random.Generator) -> dict:
        return {"image": noise(settings.image_size, rng), "image_id": f"drawn-{rng.integers(2**60)}"}

    collator = PretrainingCollator(processor, objectives, draw, seed=settings.seed)
    return [collator(rows) for rows in draw_rows(settings, count)]
