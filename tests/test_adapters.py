"""Adapters (PEFT), some trainable weights in frozen parts, gradients to pixels."""

import pytest
import torch
from conftest import ARCHITECTURES, tiny_batch, tiny_model, training_batch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from renaissance.modeling.architectures import HEADS, KINDS
from renaissance.modeling.modeling_renaissance import logger


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


#: Other adapters than LoRA of queries.
OTHERS = {
    "word embeddings": LoraConfig(r=2, target_modules=["word_embeddings"], init_lora_weights=False),
    "all linear layers": LoraConfig(r=2, target_modules="all-linear"),
    "DoRA": LoraConfig(r=2, target_modules=QUERIES, use_dora=True),
    "modules to save": LoraConfig(r=2, target_modules=QUERIES, modules_to_save=["text_pooler"]),
    "IA3": IA3Config(target_modules=QUERIES, feedforward_modules=[]),
}


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(logger, "warning_once", found.append)
    return found


@pytest.mark.parametrize(
    ("architecture", "kind", "name"),
    [
        pytest.param(
            *(architecture, kind, name),
            marks=[pytest.mark.slow] * (architecture != "two-tower" or kind not in ("ForPreTraining", *NOT_READ)),
        )
        for architecture in ARCHITECTURES
        for kind in HEADS
        for name in OTHERS
    ],
)
def test_adapters_train_or_are_warned_of(architecture, kind, name, warnings):
    """The warning is of exactly those trainable tensors that get no gradient."""
    model = tiny_model(architecture, kind)
    model.freeze("text", "vision")
    adapted = get_peft_model(model, OTHERS[name]).train()
    loss = loss_of(adapted(**batch_for(kind)))
    if loss.requires_grad:
        loss.backward()
    trained = [(name, value.grad is not None) for name, value in adapted.named_parameters() if value.requires_grad]
    idle = [name for name, has_gradient in trained if not has_gradient]
    if not idle:
        assert warnings == []
        return
    (warning,) = warnings
    assert warning.startswith(
        f"{len(idle)} trainable tensors get no gradient: {type(model).__name__} does not read model."
    )


def test_the_warning_names_the_encoder_that_is_not_read(warnings):
    adapted = get_peft_model(
        tiny_model("two-tower", "ForSequenceClassification"), LoraConfig(r=2, target_modules=QUERIES)
    )
    adapted.eval()
    assert warnings == []
    adapted.train()
    assert "12 trainable tensors" in warnings[0] and "does not read model.vision_encoder, " in warnings[0]
    assert "\n" not in warnings[0] and "target_modules" in warnings[0]
    warnings.clear()
    read = LoraConfig(r=2, target_modules=r".*text_encoder.*query")
    get_peft_model(tiny_model("two-tower", "ForSequenceClassification"), read).train()
    assert warnings == []


def test_the_warning_is_also_of_weights_that_were_unfrozen(warnings):
    model = tiny_model("one-tower-vision", "ForImageClassification").train()
    assert warnings == []
    model.requires_grad_(True).train()
    assert "does not read model.text_embeddings" in warnings[0]


#: PEFT itself refuses images without text, and texts in lists of candidates.
PROMPTED = [kind for kind in HEADS if kind not in ("ForImageClassification", "ForImageTextRetrieval")]


@pytest.mark.parametrize("kind", PROMPTED)
def test_prompts_and_prefixes_are_refused_by_name(architecture, kind):
    sizes = {"num_layers": 2, "num_attention_heads": 4, "num_transformer_submodules": 1}
    for config, name in (PromptTuningConfig, "inputs_embeds"), (PrefixTuningConfig, "past_key_values"):
        model = tiny_model(architecture, kind)
        width = model.get_input_embeddings().embedding_dim
        adapter = config(num_virtual_tokens=3, task_type="FEATURE_EXTRACTION", token_dim=width, **sizes)
        adapted = get_peft_model(model, adapter)
        with pytest.raises(ValueError, match=f"^{name}: "):
            adapted(**batch_for(kind))


def test_adapters_of_models_with_more_tokens_are_saved_with_the_embeddings(architecture, tmp_path):
    kind, batch = "ForMaskedLM", tiny_batch()
    model = tiny_model(architecture, kind)
    model.save_pretrained(tmp_path / "model")

    def resized():
        return type(model).from_pretrained(tmp_path / "model")

    model = resized()
    model.resize_token_embeddings(170)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    batch["input_ids"][:, 2] = 169
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=QUERIES, init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    again = resized()
    again.resize_token_embeddings(170)
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, adapted(**batch).logits)


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
