"""Comparison with code not written here: LXMERT's layer, encoders of transformers, its masking collator."""

import copy

import numpy as np
import pytest
import torch
from conftest import CLASSES, IMAGE_SIZE, PATCH_SIZE, VOCABULARY, tiny_bert, tiny_vit
from PIL import Image
from transformers import (
    BertModel,
    DataCollatorForLanguageModeling,
    ElectraConfig,
    ElectraModel,
    LxmertConfig,
    RobertaConfig,
    RobertaModel,
    ViTModel,
)
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from renaissance import OneTowerModel, RenaissanceProcessor, TwoTowerConfig
from renaissance.conversion import LXMERT_LAYER, WeightTransfer
from renaissance.modeling.layers import CrossModalAttention, CrossModalLayer, CrossModalMasks
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import MaskedTextData


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_cross_modal_layer_equals_lxmert(attention):
    torch.manual_seed(0)
    theirs = LxmertXLayer(LxmertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=128)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = TwoTowerConfig(cross_modal_hidden_size=32, cross_modal_heads=4, attn_implementation=attention)
    ours = CrossModalLayer(config).eval()
    transfer = WeightTransfer(theirs, ours)
    transfer.copy(LXMERT_LAYER)
    assert not transfer.unread and not transfer.unset

    text, image = torch.randn(3, 7, 32), torch.randn(3, 11, 32)
    text_mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    image_mask = torch.tensor([[1] * 11, [1] * 11, [1] * 6 + [0] * 5])
    additive = [(1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min for mask in (text_mask, image_mask)]
    with torch.no_grad():
        expected = theirs(text, additive[0], image, additive[1])
        got = ours(text, image, CrossModalMasks(config, text, image, text_mask, image_mask))
    for mine, other in zip(got[:2], expected, strict=False):
        assert (mine - other).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [IMAGE_SIZE, 48])
def test_one_tower_from_a_vit_equals_it_on_an_image(tmp_path, size):
    torch.manual_seed(0)
    vit = ViTModel(tiny_vit(hidden_dropout_prob=0.1), add_pooling_layer=False).eval()
    vit.save_pretrained(tmp_path)
    model = OneTowerModel.from_encoder(str(tmp_path), vocab_size=VOCABULARY).eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = vit(pixels, interpolate_pos_encoding=True).last_hidden_state
        assert (model(pixel_values=pixels).image_states - expected).abs().max() <= 1e-5


def electra(**kwargs) -> ElectraConfig:
    return ElectraConfig(**(tiny_bert().to_dict() | {"embedding_size": 20, "model_type": "electra"} | kwargs))


@pytest.mark.parametrize(
    ("encoder_class", "config"),
    [
        (BertModel, tiny_bert()),
        (ElectraModel, electra()),
        (RobertaModel, RobertaConfig(**(tiny_bert().to_dict() | {"model_type": "roberta", "pad_token_id": 1}))),
    ],
)
def test_one_tower_from_a_text_encoder_equals_it_on_text(tmp_path, encoder_class, config):
    torch.manual_seed(0)
    encoder = encoder_class(config).eval()
    encoder.save_pretrained(tmp_path)
    model = OneTowerModel.from_encoder(str(tmp_path), image_size=IMAGE_SIZE, patch_size=PATCH_SIZE).eval()
    ids = torch.randint(5, VOCABULARY, (3, 9))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 9])
    ids[1, 6:] = config.pad_token_id
    with torch.no_grad():
        expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        got = model(input_ids=ids, attention_mask=mask).text_states
    assert (got - expected)[mask.bool()].abs().max() <= 1e-5


@pytest.mark.parametrize("source_class", [BertModel, ElectraModel, ViTModel])
@pytest.mark.parametrize("kind", ["Model", "ForPreTraining"])
def test_embeddings_stay_random_beside_pretrained_layers(tmp_path, source_class, kind):
    """If asked for: those of the encoder's own modality have its shape, and would be taken over otherwise."""
    torch.manual_seed(0)
    config = {BertModel: tiny_bert(), ElectraModel: electra(), ViTModel: tiny_vit()}[source_class]
    source = source_class(config)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    source.save_pretrained(tmp_path)
    sizes = (
        {"vocab_size": VOCABULARY}
        if source_class is ViTModel
        else {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    )
    build = CLASSES["one-tower", kind].from_encoder
    with_own, random = (
        build(str(tmp_path), **sizes, random_init_embeddings=each).base_model for each in (False, True)
    )

    weights = source.state_dict()
    for name, parameter in random.encoder.named_parameters():
        assert torch.equal(parameter, weights[name]), name
        assert not name.startswith("embeddings.")
    own = "image_embeddings" if source_class is ViTModel else "text_embeddings"
    taken = dict(getattr(with_own, own).named_parameters())
    # Those of the source have a standard deviation of 1, new ones of 0.02; new norms and biases have ones and zeros.
    for name, parameter in getattr(random, own).named_parameters():
        assert not torch.equal(parameter, taken[name]), name
        assert parameter.std() < 0.1, name
    assert random.config.weights_from == {"encoder": f"./{tmp_path.name}"}


@pytest.fixture(scope="module")
def long_rows(processor) -> list[dict]:
    image = Image.new("RGB", (8, 8))
    text = "a large red circle left of a small blue square and a green star right of a yellow triangle " * 3
    return [{"image": image, "text": text, "image_id": str(i), "sample_id": i, "epoch": 0} for i in range(400)]


def masking_statistics(ids: torch.Tensor, corrupted: torch.Tensor, labels: torch.Tensor, mask_id: int) -> np.ndarray:
    """Share of tokens chosen; of the chosen, shares masked, replaced and kept."""
    chosen = labels != -100
    masked = (corrupted == mask_id)[chosen]
    kept = (corrupted == ids)[chosen]
    replaced = ~masked & ~kept
    tokens = (ids != 0).sum() - 2 * len(ids)
    return np.array([float(chosen.sum() / tokens), *(float(x.float().mean()) for x in (masked, replaced, kept))])


def test_masking_statistics_equal_those_of_transformers(processor: RenaissanceProcessor, long_rows):
    tokenizer = processor.tokenizer
    batch = PretrainingCollator(processor, [MaskedTextData()], seed=1)(long_rows)
    ids = processor(text=[row["text"] for row in long_rows], return_tensors="pt")["input_ids"]
    ours = masking_statistics(ids, batch["mlm_input_ids"], batch["mlm_labels"], tokenizer.mask_token_id)
    torch.manual_seed(0)
    theirs = DataCollatorForLanguageModeling(tokenizer)([{"input_ids": row} for row in ids.tolist()])
    expected = masking_statistics(ids, theirs["input_ids"], theirs["labels"], tokenizer.mask_token_id)
    # About 22,000 tokens: three standard deviations of the difference of two shares of 15 % are 0.010.
    np.testing.assert_allclose(ours[0], expected[0], atol=0.010)
    np.testing.assert_allclose(ours[1:], expected[1:], atol=0.03)
    np.testing.assert_allclose(ours, [0.15, 0.8, 0.1, 0.1], atol=0.02)
    assert torch.equal(batch["mlm_labels"][batch["mlm_labels"] != -100], ids[batch["mlm_labels"] != -100])
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert (batch["mlm_labels"][special] == -100).all() and torch.equal(batch["mlm_input_ids"][special], ids[special])


def attention_pair() -> tuple[CrossModalAttention, CrossModalAttention]:
    """Attention whose products are joined, and the same with layers that are called one by one, because one is watched."""
    torch.manual_seed(0)
    joined = CrossModalAttention(TwoTowerConfig(cross_modal_hidden_size=32, cross_modal_heads=4)).eval()
    apart = copy.deepcopy(joined)
    apart.query.register_forward_hook(lambda *args: None)
    apart.key.register_forward_pre_hook(lambda *args: None)
    return joined, apart


@pytest.mark.parametrize("itself", [True, False])
def test_joined_products_equal_those_of_each_layer(itself):
    """Output, and gradients of input and weights."""
    states, context = torch.randn(2, 5, 32, requires_grad=True), torch.randn(2, 7, 32)
    found = []
    for attention in attention_pair():
        states.grad = None
        output, _ = attention(states, states if itself else context, None)
        output.square().sum().backward()
        found.append(
            [output, states.grad, *(value.grad for value in attention.parameters() if value.grad is not None)]
        )
    assert len(found[0]) == 2 + 8
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


class Doubled(torch.nn.Linear):
    """A layer of another class, as adapters and quantisation put in the place of linear ones."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(states)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_layers_that_are_changed_or_watched_are_called(name):
    """Of the three, whichever it is."""
    joined, _ = attention_pair()
    rows = torch.randn(6, 32)
    plain = dict(zip(("query", "key", "value"), joined.projected(rows, rows), strict=True))
    calls = []
    handle = getattr(joined, name).register_forward_hook(lambda *args: calls.append(name))
    joined.projected(rows, rows)
    joined.projected(rows, rows.clone())
    assert calls == [name, name]
    handle.remove()
    doubled = Doubled(32, 32)
    doubled.load_state_dict(getattr(joined, name).state_dict())
    setattr(joined, name, doubled)
    found = dict(zip(plain, joined.projected(rows, rows), strict=True))
    for other, value in plain.items():
        torch.testing.assert_close(found[other], value * (2 if other == name else 1), atol=1e-5, rtol=1e-5)
