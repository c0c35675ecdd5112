"""Adapters (PEFT), some trainable weights in frozen parts, gradients to pixels."""

import pytest
import torch
from conftest import ARCHITECTURES, tiny_batch, tiny_model, training_batch
from peft import LoraConfig, PeftModel, get_peft_model

from renaissance.modeling.architectures import HEADS, KINDS


#: Names of the linear layers that make queries: of BERT, of ViT, of cross-modal layers.
QUERIES = ["query", "q_proj"]
#: Parts of a two-tower model that a head does not read. Adapters in them train no more than what they adapt.
NOT_READ = {
    "ForSequenceClassification": ("vision_encoder.", "cross_attention.", "image_attention."),
    "ForImageClassification": ("text_encoder.", "cross_attention.", "text_attention."),
    "ForMaskedLM": ("cross_modal_layers.1.image_attention.",),
}
#: Parts that hold encoders, by architecture.
ENCODERS = {
    "two-tower": ("text", "vision"),
    "one-tower-text": ("text", "vision", "cross_modal"),
    "one-tower-vision": ("text", "vision", "cross_modal"),
}


def batch_for(kind: str) -> dict[str, torch.Tensor]:
    return tiny_batch() if kind == "Model" else training_batch(kind)


def loss_of(output) -> torch.Tensor:
    return output.pooler_output.square().sum() if "pooler_output" in output else output.loss


def adapters_without_gradient(model: torch.nn.Module) -> list[str]:
    """The trainable matrices of adapters that got none, or only zeros. The first of each pair waits for the second to move."""
    found = [(name, value) for name, value in model.named_parameters() if "lora_B" in name]
    assert found and all(value.requires_grad for _, value in found)
    return [name for name, value in found if value.grad is None or not value.grad.any()]


#: Every kind of model with every task type; a model without a head takes no labels, which SEQ_CLS passes.
CASES = [
    pytest.param(
        architecture, kind, task, marks=[pytest.mark.slow] * (architecture != "two-tower" and kind != "ForPreTraining")
    )
    for architecture in ARCHITECTURES
    for kind in KINDS
    for task in (None, "FEATURE_EXTRACTION", "SEQ_CLS")
    if (kind, task) != ("Model", "SEQ_CLS")
]


@pytest.mark.parametrize(("architecture", "kind", "task"), CASES)
def test_adapters_in_frozen_encoders_train(architecture, kind, task):
    model = tiny_model(architecture, kind)
    model.freeze(*ENCODERS[architecture])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=QUERIES, task_type=task)).train()
    loss_of(adapted(**batch_for(kind))).backward()
    not_read = NOT_READ.get(kind, ()) if architecture == "two-tower" else ()
    assert [name for name in adapters_without_gradient(adapted) if not any(part in name for part in not_read)] == []
    for part in ENCODERS[architecture]:
        modules = [module for found in model.base_model.parts()[part] for module in found.modules()]
        assert modules and not any(module.training for module in modules)
    torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], lr=0.1).step()
    after = adapted.unload().state_dict()
    of_head = ("classifier", "score") if task == "SEQ_CLS" else ()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith(of_head))


@pytest.mark.parametrize("kind", HEADS)
def test_saved_adapters_load_onto_the_model(kind, tmp_path):
    model = tiny_model("two-tower", kind)
    model.save_pretrained(tmp_path / "model")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=QUERIES, init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "model"), tmp_path / "adapter").eval()
    batch = batch_for(kind)
    with torch.no_grad():
        expected = adapted(**batch).loss
        assert torch.equal(loaded(**batch).loss, expected)
        with loaded.disable_adapter():
            assert not torch.equal(loaded(**batch).loss, expected)
        torch.testing.assert_close(loaded.merge_and_unload()(**batch).loss, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [None, {}, {"use_reentrant": True}])
def test_adapters_train_with_checkpointed_activations(architecture, options):
    """The input of the layers needs no gradient then; the older way of checkpointing gave none to adapters in them."""
    model = tiny_model(architecture, "ForVisualQuestionAnswering")
    model.activation_checkpointing_enable(options)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=QUERIES, modules_to_save=["classifier"])).train()
    assert adapted.is_activation_checkpointing
    adapted(**training_batch("ForVisualQuestionAnswering")).loss.backward()
    assert adapters_without_gradient(adapted) == []


def test_biases_of_frozen_parts_train(architecture):
    """BitFit: whoever wants a gradient in a frozen part gets it, and nothing else of the part moves."""
    model = tiny_model(architecture, "ForImageTextClassification")
    model.freeze("encoder")
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias") and ".encoder.layer" in name}
    for name in biases:
        model.get_parameter(name).requires_grad_(True)
    model.train()
    model(**training_batch("ForImageTextClassification")).loss.backward()
    got = {
        name
        for name, value in model.named_parameters()
        if value.grad is not None and not name.startswith("classifier")
    }
    assert biases and got == biases


@pytest.mark.parametrize(
    "kind", ["Model", "ForPreTraining", "ForImageClassification", "ForImagesAndTextClassification"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_pixels_get_a_gradient(architecture, kind, frozen):
    """It is that of the loss: a small step along it raises the loss by its length."""
    model, batch = tiny_model(architecture, kind), batch_for(kind)
    pixels = batch["pixel_values"].requires_grad_()
    if frozen:
        model.freeze("encoder")
    loss = loss_of(model(**batch))
    (gradient,) = torch.autograd.grad(loss, pixels)
    step = 2e-3
    with torch.no_grad():
        moved = [
            loss_of(model(**batch | {"pixel_values": pixels + side * gradient / gradient.norm()}))
            for side in (step, -step)
        ]
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), gradient.norm(), rtol=0.05, atol=0)


def test_frozen_parts_keep_no_graph_if_nothing_in_them_or_before_them_needs_one():
    model = tiny_model("two-tower", "ForImageTextClassification").train()
    model.freeze("text", "vision")
    states = []
    for tower in (model.model.text_encoder, model.model.vision_encoder):
        tower.register_forward_hook(lambda *given: states.append(given[-1].last_hidden_state))
    model(**training_batch("ForImageTextClassification"))
    assert [found.grad_fn for found in states] == [None, None]
