"""Freezing whole parts and all but their last layers; what trains and what is counted."""

import pytest
import torch
from conftest import pair_batch, pretraining_batch, tiny_batch, tiny_bert, tiny_model, tiny_two_tower
from transformers import Dinov2Config


def train_a_step(model) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**pretraining_batch()).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("part", ["text", "vision", "cross_modal"])
def test_freezing(architecture, part, tmp_path):
    model = tiny_model(architecture, "ForPreTraining").train()
    model.freeze(part)
    frozen = {id(p) for module in model.base_model.parts()[part] for p in module.parameters()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_a_step(model)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (id(parameter) not in frozen), name
    assert all(not m.training for module in model.base_model.parts()[part] for m in module.modules())

    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    assert loaded.config.frozen == [part]
    assert not any(p.requires_grad for module in loaded.base_model.parts()[part] for p in module.parameters())
    loaded.unfreeze()
    assert loaded.config.frozen == [] and all(p.requires_grad for p in loaded.parameters())


def test_frozen_features_do_not_change_from_call_to_call():
    model = tiny_model("two-tower").train()
    model.text_encoder.config.hidden_dropout_prob = 0.5
    model.freeze("encoder")
    batch = tiny_batch()
    assert torch.equal(model(**batch).pooled, model(**batch).pooled)
    with pytest.raises(
        ValueError, match="frozen: expected text, vision, cross_modal, or such as vision:-2 for all but"
    ):
        model.freeze("tower")


def test_frozen_towers_keep_no_graph():
    model = tiny_model("two-tower").train()
    model.freeze("text", "vision")
    seen = []
    for tower in (model.text_encoder, model.vision_encoder):
        tower.register_forward_hook(lambda _, args, out: seen.append(out[0].requires_grad))
    model(**tiny_batch())
    assert seen == [False, False]


def test_freezing_all_but_the_last_layers(architecture, tmp_path):
    """The last layers move and nothing else of the part; they drop out, the frozen ones do not."""
    part = "vision" if architecture == "two-tower" else "cross_modal"
    model = tiny_model(architecture, "ForPreTraining").train()
    model.freeze(f"{part}:-1")
    first, last = model.base_model.layers(part)
    assert last.training and not first.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_a_step(model)
    trained = {id(parameter) for parameter in last.parameters()}
    of_part = {id(parameter) for module in model.base_model.parts()[part] for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        expected = id(parameter) in trained or id(parameter) not in of_part
        assert torch.equal(parameter, before[name]) != expected, name

    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    assert loaded.config.frozen == [f"{part}:-1"]
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [m.training for m in loaded.modules()] == [m.training for m in model.modules()]
    with pytest.raises(ValueError, match=f"{part}:-2 leaves nothing to freeze, this model has 2 {part} layers"):
        model.freeze(f"{part}:-2")
    model.freeze(part)
    assert model.config.frozen == [part] and not last.training


def test_the_frozen_bottom_of_a_tower_keeps_no_graph():
    model = tiny_model("two-tower").train()
    model.freeze("vision:-1")
    seen = []
    for layer in model.layers("vision"):
        layer.register_forward_hook(
            lambda _, args, out: seen.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
    model(**tiny_batch())
    assert seen == [False, True]


def test_parameters_are_counted_by_part(capsys):
    model = tiny_model("two-tower", "ForPreTraining", tie_word_embeddings=True)
    model.freeze("text", "vision:-1")
    counts = model.count_parameters()
    tower = model.model.text_encoder
    assert counts["text"] == (sum(p.numel() for p in tower.parameters()), 0)
    last = sum(p.numel() for p in model.model.layers("vision")[-1].parameters())
    assert counts["vision"] == (model.model.vision_encoder.num_parameters(), last)
    # The vocabulary projection is the text tower's embedding matrix, and counted there.
    assert counts["head"][0] == sum(p.numel() for n, p in model.named_parameters() if "_head." in n)
    assert counts["total"] == (model.num_parameters(), model.num_parameters(only_trainable=True))
    assert sum(number for part, (number, _) in counts.items() if part != "total") == counts["total"][0]
    model.print_trainable_parameters()
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert [int(number.replace(",", "")) for number in rows["vision"]] == [
        *counts["vision"],
        counts["vision"][0] - last,
    ]


@pytest.mark.parametrize("kind", ["ForPreTraining", "ForImagesAndTextClassification"])
def test_a_single_pooler_leaves_no_parameter_without_gradient(kind):
    model = tiny_model("two-tower", kind, pooler="single").train()
    batch = pretraining_batch() if kind == "ForPreTraining" else pair_batch() | {"labels": torch.tensor([0, 1, 0])}
    model(**batch).loss.backward()
    assert [name for name, value in model.named_parameters() if (value.grad is None) == value.requires_grad] == []
    # Of the last layer nothing reads the image states.
    last = model.model.cross_modal_layers[-1]
    frozen = {id(value) for part in (last.image_attention, last.image_mlp) for value in part.parameters()}
    assert {id(value) for value in model.parameters() if not value.requires_grad} == frozen
    with torch.no_grad():
        assert model.model(pixel_values=tiny_batch()["pixel_values"]).pooled.shape == (3, 16)


def test_parameters_that_nothing_reads_never_train():
    """DINOv2's token for masked patches gets no gradient, which DDP does not forgive."""
    vision = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    model = tiny_two_tower(tiny_bert(), vision)
    assert not model.vision_encoder.embeddings.mask_token.requires_grad
    model.freeze("vision")
    model.unfreeze()
    assert not model.vision_encoder.embeddings.mask_token.requires_grad
    assert model.vision_encoder.embeddings.cls_token.requires_grad
