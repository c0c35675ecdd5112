"""What is done with each tool of other people, on a tiny model of one architecture and kind; an error means that it does not work."""

import copy
import functools
import json
import pickle
import tempfile
from pathlib import Path

import torch
from conftest import (
    CLASSES,
    IMAGE_SIZE,
    PATCH_SIZE,
    VOCABULARY,
    tiny_batch,
    tiny_bert,
    tiny_model,
    tiny_vit,
    training_batch,
)
from pipeline_calls import run_pipelines, run_pipelines_of_vectors, save_models
from strangers import run_elsewhere

from renaissance import RenaissanceProcessor
from renaissance.modeling.what_trains import paths_to, trained_in_vain
from renaissance.tasks.data.shapes import write_tokenizer


#: Widths that the kernels of 4-bit layers on CPUs can cut into blocks.
WIDE = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128, "num_attention_heads": 2}
#: Names of the linear layers that make queries: of BERT, of ViT, of cross-modal layers.
QUERIES = ["query", "q_proj"]
MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")


def batch_for(architecture: str, kind: str) -> dict[str, torch.Tensor]:
    return tiny_batch() if kind == "Model" else training_batch(kind, architecture)


def inputs_for(kind: str, rows: int = 3) -> dict[str, torch.Tensor]:
    """Inputs without labels, of `rows` rows."""
    batch = tiny_batch() if kind == "Model" else training_batch(kind)
    batch = {name: value for name, value in batch.items() if name in MODEL_INPUTS}
    return {name: value[torch.arange(rows) % 3] for name, value in batch.items()}


def scores_of(output) -> torch.Tensor:
    """The scores of a head, of a dual encoder, or the pooled vectors of a base model."""
    for name in ("pooler_output", "logits_per_text"):
        if name in output:
            return output[name]
    logits = output["logits"]
    return next(iter(logits.values())) if isinstance(logits, dict) else logits


def loss_of(output) -> torch.Tensor:
    return output["loss"] if "loss" in output else scores_of(output).square().sum()


def assert_same_scores(found: torch.nn.Module, model: torch.nn.Module, kind: str, rows: int = 3) -> None:
    with torch.no_grad():
        given = inputs_for(kind, rows)
        torch.testing.assert_close(scores_of(found(**given)), scores_of(model(**given)), atol=1e-4, rtol=1e-4)


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.float().flatten(), other.float().flatten()]))[0, 1].item()


@functools.cache
def ran_pipelines(architecture: str) -> tuple[dict, dict]:
    """The results of `run_pipelines` here and in a process without this package."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tokenizer").mkdir()
        write_tokenizer(root / "tokenizer")
        processor = RenaissanceProcessor.from_encoders(str(root / "tokenizer"), image_size=IMAGE_SIZE)
        save_models(root / "models", architecture, processor)
        results, runs = [], run_pipelines_of_vectors if architecture == "dual-encoder" else run_pipelines
        for run in (runs, lambda models: run_elsewhere(root, runs, models, HF_HUB_OFFLINE="1")):
            run(str(root / "models"))
            results.append(json.loads((root / "models" / "results.json").read_text()))
    return tuple(results)


def run_as_stranger(architecture: str, kind: str, *names: str) -> None:
    """The results of these names are those of this process, whose values `test_pipelines.py` checks."""
    here, elsewhere = ran_pipelines(architecture)
    for name in names:
        assert_alike(elsewhere[name], here[name])


def assert_alike(found, expected) -> None:
    if isinstance(expected, (list, dict)):
        assert type(found) is type(expected) and len(found) == len(expected)
        keys = expected if isinstance(expected, dict) else range(len(expected))
        for key in keys:
            assert_alike(found[key], expected[key])
    elif isinstance(expected, float):
        assert abs(found - expected) < 1e-4
    else:
        assert found == expected


def train_adapter(architecture: str, kind: str, adapter, *frozen: str) -> None:
    """All that is to train gets a gradient, but for what the model warns of: layers that it does not read."""
    from peft import get_peft_model

    model = tiny_model(architecture, kind)
    model.freeze(*frozen)
    adapted = get_peft_model(model, adapter).train()
    loss = loss_of(adapted(**batch_for(architecture, kind)))
    if loss.requires_grad:
        loss.backward()
    trained = [value.grad for value in adapted.parameters() if value.requires_grad]
    assert trained and sum(gradient is None for gradient in trained) == trained_in_vain(model, model.unread)[0]


def train_lora(architecture: str, kind: str) -> None:
    from peft import LoraConfig

    for task in (None, "FEATURE_EXTRACTION", "SEQ_CLS")[: 2 if kind == "Model" else 3]:
        adapter = LoraConfig(r=2, target_modules=QUERIES, task_type=task)
        train_adapter(architecture, kind, adapter, "text", "vision")


def train_other_adapters(architecture: str, kind: str) -> None:
    from peft import IA3Config, LoraConfig

    classifies = kind.endswith("Classification")
    saved = "text_pooler" if architecture != "dual-encoder" else "classifier" if classifies else "contrastive_head"
    for adapter in (
        LoraConfig(r=2, target_modules=["word_embeddings"]),
        LoraConfig(r=2, target_modules=QUERIES, use_dora=True),
        LoraConfig(r=2, target_modules=QUERIES, modules_to_save=[saved]),
        IA3Config(target_modules=QUERIES, feedforward_modules=[]),
    ):
        train_adapter(architecture, kind, adapter)


def keep_adapter(architecture: str, kind: str) -> None:
    """An adapter is saved, loaded onto the model and merged into it."""
    from peft import LoraConfig, PeftModel, get_peft_model

    adapter = LoraConfig(r=2, target_modules=QUERIES, init_lora_weights=False)
    with tempfile.TemporaryDirectory() as folder:
        adapted = get_peft_model(tiny_model(architecture, kind), adapter).eval()
        adapted.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(tiny_model(architecture, kind), folder).eval()
    assert_same_scores(loaded, adapted, kind)
    assert_same_scores(loaded.merge_and_unload(), adapted, kind)


def refuse_prompts(architecture: str, kind: str) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = tiny_model(architecture, kind)
    sizes = {"token_dim": model.get_input_embeddings().embedding_dim, "num_layers": 2, "num_attention_heads": 4}
    adapter = PromptTuningConfig(
        num_virtual_tokens=3, task_type="FEATURE_EXTRACTION", num_transformer_submodules=1, **sizes
    )
    try:
        get_peft_model(model, adapter)(**batch_for(architecture, kind))
    except ValueError as error:
        assert str(error).startswith("inputs_embeds: ")
    else:
        raise AssertionError("prompts are not refused")


def train_biases(architecture: str, kind: str) -> None:
    """BitFit: all biases that the head reads get a gradient in frozen encoders."""
    model = tiny_model(architecture, kind)
    model.freeze("encoder")
    biases = {name: value for name, value in model.named_parameters() if name.endswith("bias")}
    read = [name for name in biases if not model.unread.intersection(paths_to(name))]
    for name in read:
        biases[name].requires_grad_(True)
    loss_of(model.train()(**batch_for(architecture, kind))).backward()
    assert len(read) > 10 and all(biases[name].grad is not None for name in read)


def pixel_gradient(architecture: str, kind: str) -> None:
    model, batch = tiny_model(architecture, kind), batch_for(architecture, kind)
    model.freeze("encoder")
    batch["pixel_values"].requires_grad_()
    loss_of(model(**batch)).backward()
    assert batch["pixel_values"].grad.any()


def quantise(architecture: str, kind: str) -> None:
    model = tiny_model(architecture, kind)
    with torch.no_grad():
        exact = scores_of(model(**inputs_for(kind)))
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        assert correlation(scores_of(quantised(**inputs_for(kind))), exact) > 0.7


def wide_model(architecture: str, kind: str) -> torch.nn.Module:
    """A model whose widths are multiples of 64."""
    torch.manual_seed(0)
    if architecture in ("two-tower", "dual-encoder"):
        sizes = {"cross_modal_hidden_size": 64, "cross_modal_layers": 1, "cross_modal_heads": 2}
        sizes = sizes if architecture == "two-tower" else {"contrastive_size": 64}
        arguments = tiny_bert(**WIDE), tiny_vit(**WIDE)
    else:
        sizes = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 40,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        }
        arguments = (tiny_bert(**WIDE) if architecture == "one-tower-text" else tiny_vit(**WIDE),)
    name = "one-tower" if architecture.startswith("one-tower") else architecture
    return CLASSES[name, kind].from_encoders(*arguments, **sizes, initializer_range=0.1).eval()


def load_in_bits(architecture: str, kind: str, **bits) -> None:
    """Scores stay alike in 8 bits and finite in 4, and LoRA trains on what is quantised."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    model = wide_model(architecture, kind)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded, trained = (
            type(model).from_pretrained(folder, quantization_config=BitsAndBytesConfig(**bits), device_map={"": "cpu"})
            for _ in range(2)
        )
    with torch.no_grad():
        exact, rounded = (scores_of(found.eval()(**inputs_for(kind))) for found in (model, loaded))
    assert torch.isfinite(rounded).all()
    if "load_in_8bit" in bits:
        assert correlation(rounded, exact) > 0.9
    adapted = get_peft_model(prepare_model_for_kbit_training(trained), LoraConfig(r=2, target_modules=QUERIES))
    loss_of(adapted.train()(**batch_for(architecture, kind))).backward()
    gradients = [value.grad for name, value in adapted.named_parameters() if "lora_B" in name]
    assert any(gradient is not None and gradient.any() for gradient in gradients)


def dynamic_shapes(inputs: dict[str, torch.Tensor]) -> dict:
    return {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}


def export(architecture: str, kind: str) -> None:
    model, inputs = tiny_model(architecture, kind), inputs_for(kind)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic_shapes(inputs), strict=False).module()
    for rows in (2, 5):
        assert_same_scores(program, model, kind, rows)


def export_to_onnx(architecture: str, kind: str) -> None:
    """The outputs have the names of the model's, and ONNX Runtime gives the same scores for a batch of another size."""
    import onnxruntime
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model, inputs = tiny_model(architecture, kind), inputs_for(kind)
    config = OnnxConfig(dynamic_shapes=dynamic_shapes(inputs))
    with tempfile.TemporaryDirectory() as folder:
        OnnxExporter().export(model, inputs, config=config).save_pretrained(folder)
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"))
        names = [output.name for output in session.get_outputs()]
        objective = "contrastive" if architecture == "dual-encoder" else "itm"
        assert names == ([f"logits.{objective}"] if kind == "ForPreTraining" else ["logits"]), names
        given = inputs_for(kind, 5)
        (found,) = session.run(None, {entry.name: given[entry.name].numpy() for entry in session.get_inputs()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), scores_of(model(**given)), atol=1e-4, rtol=1e-4)


def compile_whole(architecture: str, kind: str) -> None:
    """The forward pass is one graph, and its gradients are those of the model."""
    model, batch = tiny_model(architecture, kind), batch_for(architecture, kind)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    losses = [loss_of(found(**batch)) for found in (compiled, model)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-4)
    weights = [value for value in model.parameters() if value.requires_grad]
    for found, expected in zip(*(torch.autograd.grad(loss, weights) for loss in losses), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def load_in_all_ways(architecture: str, kind: str) -> None:
    model = tiny_model(architecture, kind)
    ways = [{}, {"device_map": "cpu"}, {"device_map": "auto"}, {"dtype": "auto"}, {"attn_implementation": "eager"}]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(Path(folder).glob("*.safetensors"))) > 1
        for way in ways:
            assert_same_scores(type(model).from_pretrained(folder, **way), model, kind)
        for dtype in (torch.bfloat16, torch.float16):
            loaded = type(model).from_pretrained(folder, dtype=dtype)
            assert {value.dtype for value in loaded.parameters()} == {dtype}
            assert torch.isfinite(scores_of(loaded(**inputs_for(kind)))).all()


def copy_model(architecture: str, kind: str) -> None:
    model = tiny_model(architecture, kind)
    assert_same_scores(copy.deepcopy(model), model, kind)
    assert_same_scores(pickle.loads(pickle.dumps(model)), model, kind)


def read_inside(architecture: str, kind: str) -> None:
    """Hidden states and, with eager attention, its weights; the scores stay the same. No pairs of a dual encoder have them."""
    model = tiny_model(architecture, kind)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    assert_same_scores(eager, model, kind)
    inputs = inputs_for(kind)
    if architecture == "dual-encoder" and {"input_ids", "pixel_values"} <= inputs.keys():
        eager, inputs = eager.base_model, {"input_ids": tiny_batch()["input_ids"]}
    output = eager(**inputs, output_attentions=True, output_hidden_states=True)
    assert len(output.hidden_states) == len(output.attentions) + 1 > 1


def prepare(architecture: str, kind: str) -> None:
    """A step of accelerate's moves the weights that train."""
    from accelerate import Accelerator

    model, accelerator = tiny_model(architecture, kind), Accelerator(cpu=True)
    before = copy.deepcopy(model.state_dict())
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(loss_of(prepared.train()(**batch_for(architecture, kind))))
    optimizer.step()
    assert any(
        not torch.equal(value, before[name]) for name, value in accelerator.unwrap_model(prepared).state_dict().items()
    )


def train_with_stock_trainer(architecture: str, kind: str) -> None:
    from transformers import Trainer, TrainingArguments

    model, batch = tiny_model(architecture, kind), training_batch(kind, architecture)
    rows = [{name: value[row] for name, value in batch.items()} for row in range(3)]
    # Trainer knows of `labels` only.
    labels = [name for name in batch if name.endswith(("labels", "_ids")) and name != "input_ids"]
    before = copy.deepcopy(model.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            *(folder,), max_steps=3, per_device_train_batch_size=3, per_device_eval_batch_size=3, use_cpu=True, report_to="none",
            save_strategy="no", disable_tqdm=True, torch_compile=False, remove_unused_columns=False, label_names=labels,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        losses = [trainer.train().training_loss, trainer.evaluate()["eval_loss"]]
    assert all(0 < loss < float("inf") for loss in losses)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def embed_sentences(architecture: str, kind: str) -> None:
    """Means of the states of the tokens, also in batches with padding."""
    from sentence_transformers import SentenceTransformer

    model, texts = tiny_model(architecture, kind), ["a red circle", "a blue star left of a circle"]
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        processor = RenaissanceProcessor.from_encoders(folder, image_size=IMAGE_SIZE)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        found = SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode(texts)
    for vector, text in zip(found, texts, strict=True):
        with torch.no_grad():
            expected = model(**processor(text=text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(torch.tensor(vector), expected, atol=1e-4, rtol=1e-4)
