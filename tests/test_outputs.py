"""Outputs and inputs under the names that other tools read: states, pooled vectors, features; what tokenizers give."""

import pytest
import torch
from conftest import (
    CLASSES,
    IMAGE_SIZE,
    PATCH_SIZE,
    VOCABULARY,
    padded,
    rows_of,
    tiny_batch,
    tiny_bert,
    tiny_model,
    tiny_vit,
    training_batch,
)
from transformers import CLIPVisionConfig, FNetConfig, SiglipVisionConfig

from renaissance.modeling.architectures import KINDS


MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")


def batch_for(kind: str) -> dict[str, torch.Tensor]:
    return tiny_batch() if kind == "Model" else training_batch(kind)


@torch.no_grad()
def test_a_base_model_answers_to_the_common_names(architecture):
    model, batch = tiny_model(architecture), tiny_batch()
    output = model(**batch)
    joined = torch.cat([output.image_states, output.text_states], dim=1)
    assert torch.equal(output.last_hidden_state, joined) and torch.equal(output[0], joined)
    assert torch.equal(output["pooler_output"], output.pooled) and torch.equal(output[1], output.pooled)
    text = model(batch["input_ids"])
    assert torch.equal(text.last_hidden_state, text.text_states) and torch.equal(text.pooler_output, text.pooled)
    image = model(pixel_values=batch["pixel_values"])
    assert torch.equal(image[0], image.image_states) and "pooler_output" in image
    assert torch.equal(model(**batch, return_dict=False)[0], joined)


@torch.no_grad()
def test_features_are_pooled_vectors_of_either_alone(architecture):
    model, batch = tiny_model(architecture), padded(tiny_batch(), 2)
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"], token_type_ids=batch["input_ids"])
    expected = model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(text.pooler_output, expected.pooled) and torch.equal(
        text.last_hidden_state, expected.text_states
    )
    image = model.get_image_features(pixel_values=batch["pixel_values"])
    expected = model(pixel_values=batch["pixel_values"])
    assert torch.equal(image.pooler_output, expected.pooled) and torch.equal(
        image.last_hidden_state, expected.image_states
    )
    # transformers' own suite compares these widths with fields of `vision_config` and `text_config`, which not all have.
    for features, get in ((text, model.get_text_features), (image, model.get_image_features)):
        assert features.last_hidden_state.shape[-1] == model.config.hidden_size
        given = batch["input_ids"] if features is text else batch["pixel_values"]
        assert isinstance(get(given, return_dict=False), tuple)


@torch.no_grad()
def test_features_of_contrastive_models_are_the_vectors_that_are_compared(architecture):
    model = tiny_model(architecture, "ForPreTraining", objectives=["contrastive"], contrastive_size=8)
    batch = padded(tiny_batch(), 2)
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    image = model.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    expected = model(**batch).logits["contrastive"]
    torch.testing.assert_close(model.contrastive_head.scale() * text @ image.T, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ForImageClassification"])
def test_models_take_what_tokenizers_and_adapters_pass(kind):
    model, batch = tiny_model("two-tower", kind), batch_for(kind)
    expected = model(**batch)
    types = torch.ones_like(batch["input_ids"])
    output = model(**batch, token_type_ids=types, inputs_embeds=None, return_dict=True)
    torch.testing.assert_close(dict(output), dict(expected))
    with pytest.raises(ValueError, match="inputs_embeds: expected None, these"):
        model(**batch, inputs_embeds=torch.zeros(3, 7, 32))


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_configurations_that_want_tuples(kind):
    model = tiny_model("one-tower-text", kind, return_dict=False)
    batch = batch_for(kind)
    with torch.no_grad():
        output = model(**batch)
        torch.testing.assert_close(output, model(**batch, return_dict=True).to_tuple())
    assert isinstance(output, tuple)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_no_model_has_are_named(architecture, kind):
    """Before those that are missing: prompts of PEFT come as `inputs_embeds`, prefixes as `past_key_values`."""
    model, batch = tiny_model(architecture, kind), batch_for(kind)
    assert model(**batch, past_key_values=None, head_mask=None) is not None
    with pytest.raises(ValueError, match="past_key_values: no input of this model"):
        model(**batch, past_key_values=((torch.zeros(1),),))
    given = {"inputs_embeds": torch.zeros(3, 7, 32)} | {k: v for k, v in batch.items() if k != "input_ids"}
    with pytest.raises(ValueError, match="inputs_embeds: expected None, these"):
        model(**given)


def test_heads_of_one_modality_refuse_the_other(architecture):
    batch = tiny_batch()
    with pytest.raises(ValueError, match="pixel_values: expected None, this model reads text alone"):
        tiny_model(architecture, "ForSequenceClassification", pooler="single")(**batch)
    with pytest.raises(ValueError, match="input_ids: expected None, this model reads images alone"):
        tiny_model(architecture, "ForImageClassification", pooler="single")(**batch)


def test_tools_find_the_sizes_of_a_model_in_its_configuration(architecture):
    config = tiny_model(architecture).config
    names = ("vocab_size", "max_position_embeddings", "image_size", "patch_size", "num_channels")
    # Feature maps take the place of patches.
    patch = None if architecture == "one-tower-grid" else 8
    assert [getattr(config, name) for name in names] == [160, 40, 32, patch, 3]
    config.vocab_size = 170
    assert config.get_text_config().vocab_size == 170
    assert type(config).from_dict(config.to_dict()).vocab_size == 170


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Model", "ForPreTraining", "ForMaskedLM", "ForImageClassification"])
def test_models_with_more_tokens(architecture, kind, tmp_path):
    """What was added is read, scored and saved."""
    model, batch = tiny_model(architecture, kind), inputs_of(kind)
    model.resize_token_embeddings(170, mean_resizing=False)
    assert model.config.vocab_size == 170 and model.get_input_embeddings().weight.shape[0] == 170
    if "input_ids" in batch:
        batch["input_ids"][..., 2] = 169
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(dict(type(model).from_pretrained(tmp_path)(**batch)), dict(expected))
    if kind == "ForMaskedLM":
        assert expected.logits.shape[-1] == 170


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch_for(kind).items() if name in MODEL_INPUTS}


@pytest.mark.parametrize("encoder", [CLIPVisionConfig, SiglipVisionConfig, tiny_bert], ids=lambda each: each.__name__)
def test_states_and_attention_between_the_layers_are_those_of_each_row_alone(encoder):
    """Also of encoders that take no mask, whose rows of one length run together; padding has none."""
    sizes = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    own = tiny_vit().to_dict()
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = encoder() if encoder is tiny_bert else encoder(**sizes, **{name: own[name] for name in fields})
    model = CLASSES["one-tower", "Model"].from_encoder(
        config, vocab_size=VOCABULARY, max_position_embeddings=40, initializer_range=0.3, **sizes
    )
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    batch = padded(tiny_batch(), 2)
    batch["attention_mask"][1, 4:] = 0
    whole = model(**batch, **asked)
    assert len(whole.hidden_states) == len(whole.attentions) + 1 == 3
    patches = whole.image_states.shape[1]
    for row, tokens in enumerate((7, 4, 7)):
        one = rows_of(batch, [row])
        one = model(**one | {name: one[name][:, :tokens] for name in ("input_ids", "attention_mask")}, **asked)
        end = patches + tokens
        for found, expected in zip(whole.hidden_states, one.hidden_states, strict=True):
            torch.testing.assert_close(found[row, :end], expected[0], atol=1e-5, rtol=1e-4)
        for found, expected in zip(whole.attentions, one.attentions, strict=True):
            torch.testing.assert_close(found[row, :, :end, :end], expected[0], atol=1e-5, rtol=1e-4)
            assert not found[row, :, :end, end:].any()


def test_states_that_an_encoder_does_not_give_are_refused_by_name():
    fnet = FNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, intermediate_size=48, max_position_embeddings=80
    )
    model = CLASSES["one-tower", "Model"].from_encoder(fnet, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    assert len(model(**tiny_batch(), output_hidden_states=True).hidden_states) == 2
    model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="output_attentions: fnet does not give them; leave it out"):
        model(**tiny_batch(), output_attentions=True)
