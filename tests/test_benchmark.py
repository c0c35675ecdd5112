"""What benchmark.py compares is equal: the reference step and ours, with the same weights on the same batch."""

import pytest
import torch
from benchmarks.measure import Spread, count_flops, interleaved, ratios
from benchmarks.models import MODELS, BatchSettings, build_model, caption_lengths, draw_batches, draw_rows
from benchmarks.reference import TEXT_LENGTH, build_reference
from benchmarks.training import largest_difference
from conftest import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, tiny_bert, tiny_model, tiny_vit

from renaissance import OneTowerForPreTraining, TwoTowerForPreTraining
from renaissance.processing.collators import PretrainingCollator


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = "mlm_labels"


def make_model(architecture: str, freeze: tuple[str, ...] = ()):
    """A tiny model for pretraining, without dropout, on texts of up to 50 tokens."""
    torch.manual_seed(0)
    text = tiny_bert(max_position_embeddings=TEXT_LENGTH, **NO_DROPOUT)
    if architecture == "one-tower":
        sizes = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        model = OneTowerForPreTraining.from_encoder(text, frozen=freeze, **sizes)
    else:
        sizes = {"cross_modal_hidden_size": 16, "cross_modal_layers": 2, "cross_modal_heads": 2}
        model = TwoTowerForPreTraining.from_encoders(
            text, tiny_vit(), cross_modal_dropout=0.0, initializer_range=0.3, frozen=freeze, **sizes
        )
    torch.nn.init.normal_(model.base_model.type_embeddings.weight)
    return model.train()
