"""Building models from encoders: their weights, their dimensions, and what does not fit together."""

import pytest
import torch
from conftest import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, tiny_batch, tiny_bert, tiny_model, tiny_two_tower, tiny_vit
from transformers import (
    BertModel,
    DebertaConfig,
    ElectraConfig,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
    XLMConfig,
)

from renaissance import OneTowerModel, TwoTowerConfig, TwoTowerForPreTraining, TwoTowerModel


def test_towers_come_from_their_checkpoints(tmp_path):
    torch.manual_seed(1)
    source = BertModel(tiny_bert())
    source.save_pretrained(tmp_path)
    model = TwoTowerModel.from_encoders(str(tmp_path), tiny_vit(), cross_modal_hidden_size=16, cross_modal_heads=2)
    for name, value in model.text_encoder.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    random = TwoTowerModel.from_encoders(
        str(tmp_path), tiny_vit(), random_init_text=True, cross_modal_hidden_size=16, cross_modal_heads=2
    )
    weight = "encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(random.text_encoder.state_dict()[weight], source.state_dict()[weight])
    with pytest.raises(ValueError, match=r"other dimensions than asked for \(hidden_size\)"):
        TwoTowerModel.from_encoders(str(tmp_path), tiny_vit(), text_overrides={"hidden_size": 64})


def test_text_limits_differ_by_family():
    """RoBERTa numbers its positions from 2 on, so that two of them are no places for tokens."""
    from transformers import RobertaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    text = RobertaConfig(vocab_size=160, max_position_embeddings=42, **sizes)
    model = TwoTowerForPreTraining.from_encoders(text, tiny_vit(), cross_modal_hidden_size=16, cross_modal_heads=2)
    assert model.model.text_limit == 40


def test_electra_projects_its_embeddings():
    config = ElectraConfig(
        vocab_size=160,
        embedding_size=20,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
    )
    model = OneTowerModel.from_encoder(config, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    assert model.config.embedding_size == 20 and model.config.hidden_size == 32
    assert model(**tiny_batch()).text_states.shape == (3, 7, 32)
    narrow = OneTowerModel.from_encoder(tiny_bert(), embedding_size=12, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    assert narrow.embedding_projection.weight.shape == (32, 12)
    assert narrow(**tiny_batch()).text_states.shape == (3, 7, 32)


def test_sizes_of_the_papers_models():
    """Its large model has "above 210M" parameters, of which under 27M train where both towers are frozen."""
    electra = {"num_hidden_layers": 12, "vocab_size": 30522}
    small = ElectraConfig(
        hidden_size=256, embedding_size=128, num_attention_heads=4, intermediate_size=1024, **electra
    )
    base = ElectraConfig(
        hidden_size=768, embedding_size=768, num_attention_heads=12, intermediate_size=3072, **electra
    )
    deit_tiny = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    with torch.device("meta"):
        first = TwoTowerForPreTraining(TwoTowerConfig(text_config=small, vision_config=deit_tiny))
        large = TwoTowerForPreTraining(
            TwoTowerConfig(text_config=base, vision_config=ViTConfig(), cross_modal_layers=10)
        )
    large.freeze("text", "vision")
    assert 38.0e6 < first.num_parameters() < 38.5e6
    assert large.num_parameters() > 210e6 and large.num_parameters(only_trainable=True) < 27e6


@pytest.mark.parametrize(("text", "overrides", "fields"), [
    ("bert", {"hidden_size": 48, "num_attention_heads": 4, "mlp_ratio": 2, "dropout": 0.3}, {"hidden_size": 48, "intermediate_size": 96, "hidden_dropout_prob": 0.3}),
    ("distilbert", {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "dropout": 0.3}, {"dim": 48, "n_heads": 4, "n_layers": 3, "dropout": 0.3}),
    ("electra", {"embedding_size": 12, "vocab_size": 99}, {"embedding_size": 12, "vocab_size": 99}),
])  # fmt: skip
def test_manual_dimensions(text, overrides, fields):
    config = TwoTowerConfig.from_encoders(text, tiny_vit(), text_overrides=overrides).text_config
    assert {name: getattr(config, name) for name in fields} == fields


def test_manual_dimensions_contradict_pretrained_weights(tmp_path):
    """Fewer layers or other heads have weights that would load; they would not be the encoder that was trained."""
    BertModel(tiny_bert()).save_pretrained(tmp_path)
    for overrides in ({"num_attention_heads": 2}, {"num_hidden_layers": 1}, {"mlp_ratio": 1}):
        with pytest.raises(ValueError, match=r"other dimensions than asked for .*random_init"):
            tiny_two_tower(str(tmp_path), tiny_vit(), text_overrides=overrides)
    model = tiny_two_tower(str(tmp_path), tiny_vit(), text_overrides={"dropout": 0.4})
    assert model.config.text_config.hidden_dropout_prob == 0.4


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    model = BertModel(tiny_bert())
    weights = {name: value for name, value in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"16 of 37 weights of a BertModel are not there, such as encoder\.layer\.1"):
        tiny_two_tower(str(tmp_path), tiny_vit())


def test_encoders_that_know_no_sdpa_run_beside_those_that_do():
    deberta = DebertaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=VOCABULARY
    )
    model = tiny_two_tower(deberta, tiny_vit(), attn_implementation="sdpa")
    used = {name: getattr(model, name).config._attn_implementation for name in ("text_encoder", "vision_encoder")}
    assert used == {"text_encoder": "eager", "vision_encoder": "sdpa"} and model.config._attn_implementation == "sdpa"


def test_positions_of_another_grid_are_interpolated_when_a_tower_is_built(tmp_path):
    """A ViT's positions at twice its image size lie where they lay: every second of them is near the old one."""
    source = ViTModel(tiny_vit(), add_pooling_layer=False).eval()
    ramp = torch.linspace(0, 1, 4).expand(4, 4).flatten()
    source.embeddings.position_embeddings.data[0, 1:] = ramp.unsqueeze(1)
    source.save_pretrained(tmp_path)
    model = OneTowerModel.from_encoder(str(tmp_path), image_size=2 * IMAGE_SIZE, vocab_size=VOCABULARY)
    positions = model.image_embeddings.position_embeddings[0]
    assert torch.equal(positions[0], source.embeddings.position_embeddings[0, 0])
    grid = positions[1:].unflatten(0, (8, 8))
    assert (grid.diff(dim=1) > -1e-2).all() and torch.allclose(grid.diff(dim=0), torch.zeros(1), atol=1e-5)
    torch.testing.assert_close(grid.mean(), ramp.mean(), atol=1e-2, rtol=0)


def test_bad_builds():
    with pytest.raises(ValueError, match='position_interpolation: expected "bicubic" or "bilinear"'):
        OneTowerModel.from_encoder(tiny_bert(), position_interpolation="nearest")
    with pytest.raises(ValueError, match=r"image_size.*not a multiple of patch_size"):
        OneTowerModel.from_encoder(tiny_bert(), image_size=30, patch_size=8)
    with pytest.raises(ValueError, match="vision encoder 'no/such-encoder' not found"):
        TwoTowerModel.from_encoders(tiny_bert(), "no/such-encoder")
    with pytest.raises(ValueError, match="'bert' has no pretrained weights"):
        TwoTowerModel.from_encoders("bert", tiny_vit())
    with pytest.raises(ValueError, match="text encoder overrides: a bert configuration has no field hiden_size"):
        TwoTowerConfig.from_encoders(tiny_bert(), tiny_vit(), text_overrides={"hiden_size": 8})
    with pytest.raises(ValueError, match=r"hidden_size \(30\) is not a multiple of num_attention_heads \(4\)"):
        TwoTowerConfig.from_encoders("bert", "vit", vision_overrides={"hidden_size": 30, "num_attention_heads": 4})
    with pytest.raises(ValueError, match="image_size 30 is not a multiple of patch_size 8"):
        TwoTowerConfig.from_encoders("bert", "vit", vision_overrides={"image_size": 30, "patch_size": 8})
    with pytest.raises(ValueError, match="objectives: expected a weight above 0"):
        tiny_model("two-tower", "ForPreTraining", objectives={"mlm": 0, "itm": 0.0})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_encoders_of_other_types_become_those_of_the_model(dtype, tmp_path):
    """A checkpoint in 16 bits must not leave half of a model in 16 bits."""
    BertModel(tiny_bert()).to(dtype).save_pretrained(tmp_path)
    for model in (
        tiny_two_tower(str(tmp_path), tiny_vit()),
        OneTowerModel.from_encoder(str(tmp_path), image_size=IMAGE_SIZE, patch_size=PATCH_SIZE),
    ):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert model(**tiny_batch()).pooled.isfinite().all()
    asked = tiny_two_tower(str(tmp_path), tiny_vit(), dtype=dtype)
    assert {parameter.dtype for parameter in asked.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("encoder", "overrides", "fields"),
    [
        ("dinov2", {"num_hidden_layers": 3}, {"num_hidden_layers": 3}),
        ("modernbert", {"num_hidden_layers": 3}, {"num_hidden_layers": 3}),
        ("convnext", {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}, {"depths": [1, 1, 2, 1]}),
        ("swin", {"depths": [1, 1, 1], "num_heads": [2, 2, 2], "embed_dim": 8}, {"hidden_size": 32}),
        ("nomic_bert", {"hidden_size": 96, "num_attention_heads": 4}, {"head_dim": 24}),
    ],
)
def test_fields_that_follow_from_others_follow_overrides_too(encoder, overrides, fields):
    role = "text_overrides" if encoder in ("modernbert", "nomic_bert") else "vision_overrides"
    encoders = (encoder, "vit") if role == "text_overrides" else ("bert", encoder)
    config = TwoTowerConfig.from_encoders(*encoders, **{role: overrides})
    found = config.text_config if role == "text_overrides" else config.vision_config
    assert {name: getattr(found, name) for name in fields} == fields


def test_a_masked_autoencoder_reads_the_whole_image(tmp_path):
    """Its own default leaves three quarters of the patches out."""
    ViTMAEModel(
        ViTMAEConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    model = tiny_two_tower(tiny_bert(), str(tmp_path), random_init_text=True)
    for size in (32, 64):
        images = torch.randn(1, 3, size, size)
        states = model.encode_image(images).states
        assert states.shape[1] == 1 + (size // 8) ** 2
        for row in (0, size // 2):
            for column in (0, size // 2):
                other = images.clone()
                other[..., row : row + size // 2, column : column + size // 2] += 1
                assert (model.encode_image(other).states - states).abs().max() > 1e-3


def test_an_encoder_that_adds_positions_counts_image_and_text_together():
    xlm = XLMConfig(emb_dim=32, n_layers=1, n_heads=2, vocab_size=VOCABULARY, max_position_embeddings=40)
    model = OneTowerModel.from_encoder(xlm, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    assert model.text_limit == 40 - 17
    with pytest.raises(ValueError, match="24 tokens a row, but this model has positions for 23"):
        model(input_ids=torch.ones(1, 24, dtype=torch.long))
    with pytest.raises(ValueError, match="image and text make 44 states"):
        model(input_ids=torch.ones(1, 7, dtype=torch.long), pixel_values=torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match="the image alone takes 65"):
        OneTowerModel.from_encoder(xlm, image_size=64, patch_size=PATCH_SIZE)


@pytest.mark.parametrize("vision", ["swin", "dinov2"])
def test_gradient_checkpointing_above_frozen_layers(vision):
    overrides = {"swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "window_size": 2}}
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = TwoTowerConfig.from_encoders(
        tiny_bert(), vision, vision_overrides=overrides.get(vision, sizes)
    ).vision_config
    model = tiny_two_tower(tiny_bert(), config).train()
    model.freeze("vision:-1")
    model.gradient_checkpointing_enable()
    model(**tiny_batch()).pooled.sum().backward()
    assert [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ] == []


def test_arguments_of_building_go_by_place_and_by_name():
    sizes = {"cross_modal_hidden_size": 16, "cross_modal_heads": 2, "cross_modal_layers": 1}
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    by_place = TwoTowerModel.from_encoders("bert", "vit", True, True, small, small, **sizes)
    by_name = TwoTowerModel.from_encoders(
        vision="vit", text="bert", random_init_text=True, random_init_vision=True, text_overrides=small,
        vision_overrides=small, **sizes,
    )  # fmt: skip
    assert by_place.config.to_dict() == by_name.config.to_dict()
    assert by_place.config.text_config.hidden_size == by_place.config.vision_config.hidden_size == 24
    one = OneTowerModel.from_encoder("bert", True, small, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    assert one.config.hidden_size == 24
    with pytest.raises(TypeError, match="missing a required argument: 'vision'"):
        TwoTowerModel.from_encoders("bert", random_init_text=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_modal_layer": 2}, "^cross_modal_layer: no argument of from_encoders and no field of TwoTowerConfig; did you mean cross_modal_layers"),
        ({"nonsense": 2}, "^nonsense: no argument of from_encoders and no field of TwoTowerConfig$"),
    ],
)  # fmt: skip
def test_a_field_that_is_none_is_refused(fields, message):
    """A configuration of transformers would keep it, and nothing would read it."""
    with pytest.raises(ValueError, match=message):
        TwoTowerModel.from_encoders(tiny_bert(), tiny_vit(), **fields)
    assert (
        TwoTowerModel.from_encoders(tiny_bert(), tiny_vit(), num_labels=5, cross_modal_heads=2).config.num_labels == 5
    )
