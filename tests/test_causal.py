"""One-tower models on causal encoders: the pooled vector is that of the last token, which alone knows the whole text."""

import pytest
import torch
from conftest import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, padded, tiny_batch, tiny_two_tower, tiny_vit
from transformers import GPT2Config, LlamaConfig, OPTConfig, PreTrainedConfig

from renaissance import OneTowerForImageTextClassification, OneTowerModel


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1}
SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2}
ENCODERS = {
    "gpt2": GPT2Config(**SIZES, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0),
    "llama": LlamaConfig(**SIZES, intermediate_size=48),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=24, dropout=0),
}
GRID = (IMAGE_SIZE // PATCH_SIZE) ** 2


@pytest.fixture(params=ENCODERS)
def encoder(request) -> PreTrainedConfig:
    return ENCODERS[request.param]


def one_tower(encoder: PreTrainedConfig, model_class: type = OneTowerModel, **kwargs):
    torch.manual_seed(0)
    sizes = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "embedding_dropout": 0, "initializer_range": 0.1}
    return model_class.from_encoder(encoder, **(sizes | kwargs))


@torch.no_grad()
def vectors(model: OneTowerModel, batch: dict) -> tuple[torch.Tensor, ...]:
    """The pooled vector of each pooler."""
    return model(**batch).pooled.split(model.config.hidden_size, dim=-1)


def other_token(batch: dict, place: int) -> dict:
    ids = batch["input_ids"].clone()
    ids[:, place] = (ids[:, place] + 1) % VOCABULARY
    return batch | {"input_ids": ids}


def other_patch(batch: dict, row: int, column: int) -> dict:
    pixels = batch["pixel_values"].clone()
    pixels[..., row * PATCH_SIZE : (row + 1) * PATCH_SIZE, column * PATCH_SIZE : (column + 1) * PATCH_SIZE] += 1
    return batch | {"pixel_values": pixels}


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether every row differs by more than rounding."""
    return bool(((one - other).abs().amax(dim=-1) > 1e-5).all())


@pytest.mark.parametrize("pooler", ["single", "double"])
def test_every_token_and_every_patch_changes_the_pooled_vector(encoder, pooler):
    model, batch = one_tower(encoder, pooler=pooler), tiny_batch()
    text, *image = vectors(model, batch)
    for place in range(7):
        changed, *image_now = vectors(model, other_token(batch, place))
        assert differ(changed, text)
        # The image comes first and cannot see the text.
        assert all(torch.allclose(now, before, atol=1e-6) for now, before in zip(image_now, image, strict=True))
    for place in range(GRID):
        found = vectors(model, other_patch(batch, *divmod(place, IMAGE_SIZE // PATCH_SIZE)))
        assert all(differ(now, before) for now, before in zip(found, (text, *image), strict=True))


def test_every_token_changes_the_vector_of_text_alone_and_every_patch_that_of_an_image_alone(encoder):
    model, batch = one_tower(encoder), tiny_batch()
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for place in range(7):
        assert differ(model(**other_token(text, place)).pooled, model(**text).pooled)
    image = {"pixel_values": batch["pixel_values"]}
    for place in (0, GRID - 1):
        changed = other_patch(image, *divmod(place, IMAGE_SIZE // PATCH_SIZE))
        assert differ(model(**changed).pooled, model(**image).pooled)


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(encoder):
    """Rows of 7, 4 and 1 tokens."""
    model, batch = one_tower(encoder), tiny_batch()
    lengths = (7, 4, 1)
    batch["attention_mask"] = (torch.arange(7) < torch.tensor(lengths).unsqueeze(1)).long()
    pooled = model(**batch).pooled
    torch.testing.assert_close(model(**padded(batch, 5)).pooled, pooled, atol=1e-5, rtol=1e-5)
    for row, length in enumerate(lengths):
        alone = {"input_ids": batch["input_ids"][[row], :length], "pixel_values": batch["pixel_values"][[row]]}
        torch.testing.assert_close(model(**alone).pooled[0], pooled[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_of_an_image_is_not_pooled(encoder):
    """The second image fills the upper half of its frame."""
    model, batch = one_tower(encoder, pooler="double"), tiny_batch()
    batch["pixel_mask"] = torch.ones(3, IMAGE_SIZE, IMAGE_SIZE)
    batch["pixel_mask"][1, IMAGE_SIZE // 2 :] = 0
    alone = batch["pixel_values"][[1], :, : IMAGE_SIZE // 2]
    image = vectors(model, {"input_ids": batch["input_ids"][[1]], "pixel_values": alone})[1]
    torch.testing.assert_close(vectors(model, batch)[1][1], image[0], atol=1e-5, rtol=1e-5)


def test_the_first_and_the_last_token_get_gradients(encoder):
    model, batch = one_tower(encoder), tiny_batch()
    batch["input_ids"] = torch.arange(10, 31).view(3, 7)
    model(**batch).pooled.square().sum().backward()
    gradients = model.text_embeddings.word_embeddings.weight.grad.abs().sum(dim=1)
    assert (gradients[10:31] > 0).all() and gradients[:10].sum() == 0


def test_a_model_learns_which_word_comes_first(encoder):
    """Rows differ in their first word, the one farthest from the token that is pooled."""
    model = one_tower(encoder, OneTowerForImageTextClassification, num_labels=2).train()
    batch = tiny_batch(batch=8)
    batch["input_ids"][:] = batch["input_ids"][0].clone()
    batch["pixel_values"][:] = batch["pixel_values"][0].clone()
    labels = torch.arange(8) % 2
    batch["input_ids"][:, 0] = 20 + labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(100):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 0.5 and losses[-1] < 0.1


def test_token_zero_trains_where_there_is_no_padding_token():
    """GPT-2 has no padding token, and its token 0 is an exclamation mark."""
    model = one_tower(ENCODERS["gpt2"])
    assert model.config.pad_token_id is None
    model(**tiny_batch() | {"input_ids": torch.zeros(3, 7, dtype=torch.long)}).pooled.sum().backward()
    assert model.text_embeddings.word_embeddings.weight.grad[0].abs().sum() > 0


def test_image_and_text_share_the_positions_of_an_encoder_that_adds_them():
    model = one_tower(ENCODERS["gpt2"])
    assert model.text_limit == 64 - 1 - GRID
    with pytest.raises(ValueError, match=f"this model has positions for {63 - GRID}"):
        model(input_ids=torch.ones(1, 64 - GRID, dtype=torch.long))


def test_a_text_tower_is_pooled_by_its_first_token_which_sees_all_the_text(encoder):
    model, batch = tiny_two_tower(encoder, tiny_vit()), tiny_batch()
    assert model.text_traits.causal and not model.vision_traits.causal
    for place in range(7):
        assert differ(model(**other_token(batch, place)).pooled, model(**batch).pooled)


def test_nothing_is_kept_for_generation(encoder):
    """Keys and values of earlier tokens are not cached."""
    model, kept = one_tower(encoder), []
    model.encoder.register_forward_hook(lambda module, args, output: kept.append(output.get("past_key_values")))
    model(**tiny_batch())
    assert kept == [None]
