"""
Other people's tools on tiny models of every kind: adapters, quantisation, export, pipelines.

    python tests/tools.py docs/compatibility.md

writes the table of the documentation, or, with names of tools behind it, their rows; `test_tools.py` runs the same checks. The
row of a tool that is not installed stays as it is. torch.export and ONNX take minutes.
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import CLASSES, tiny_bert, tiny_model, tiny_vit, training_batch

from renaissance.modeling.architectures import HEADS


#: Widths that the kernels of 4-bit layers on CPUs can cut into blocks.
WIDE = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128, "num_attention_heads": 2}
START, END = "<!-- tools -->", "<!-- end of tools -->"


def inputs_for(kind: str, rows: int = 3) -> dict[str, torch.Tensor]:
    """Inputs without labels, of `rows` rows."""
    batch = {
        name: value
        for name, value in training_batch(kind).items()
        if name in ("input_ids", "attention_mask", "pixel_values")
    }
    return {name: value[torch.arange(rows) % 3] for name, value in batch.items()}


def logits_of(output) -> torch.Tensor:
    logits = output["logits"]
    return logits["itm"] if isinstance(logits, dict) else logits


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.float().flatten(), other.float().flatten()]))[0, 1].item()


def wide_model(kind: str) -> torch.nn.Module:
    """A two-tower model whose widths are multiples of 64."""
    torch.manual_seed(0)
    sizes = {"cross_modal_hidden_size": 64, "cross_modal_layers": 1, "cross_modal_heads": 2, "initializer_range": 0.1}
    return CLASSES["two-tower", kind].from_encoders(tiny_bert(**WIDE), tiny_vit(**WIDE), **sizes).eval()


def adapt(kind: str) -> None:
    """LoRA in frozen towers, which the loss reaches."""
    from peft import LoraConfig, get_peft_model

    model = tiny_model("two-tower", kind)
    model.freeze("text", "vision")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "q_proj"])).train()
    adapted(**training_batch(kind)).loss.backward()
    read = {
        name: value.grad for name, value in adapted.named_parameters() if "lora_B" in name and value.grad is not None
    }
    assert any("_encoder" in name and gradient.any() for name, gradient in read.items())


def quantise(kind: str) -> None:
    """Dynamic quantisation of torch.ao."""
    model = tiny_model("two-tower", kind)
    with torch.no_grad():
        exact = logits_of(model(**inputs_for(kind)))
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        assert correlation(logits_of(quantised(**inputs_for(kind))), exact) > 0.7


def load_in_bits(kind: str, **bits) -> None:
    """bitsandbytes: the scores stay alike, and LoRA trains on what is quantised."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    model = wide_model(kind)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded, trained = (
            type(model).from_pretrained(folder, quantization_config=BitsAndBytesConfig(**bits), device_map={"": "cpu"})
            for _ in range(2)
        )
    with torch.no_grad():
        exact, rounded = (logits_of(found.eval()(**inputs_for(kind))) for found in (model, loaded))
    assert torch.isfinite(rounded).all()
    if "load_in_8bit" in bits:
        assert correlation(rounded, exact) > 0.9
    adapted = get_peft_model(
        prepare_model_for_kbit_training(trained), LoraConfig(r=2, target_modules=["query", "q_proj"])
    )
    adapted.train()(**training_batch(kind)).loss.backward()
    assert any(
        value.grad.any() for name, value in adapted.named_parameters() if "lora_B" in name and value.grad is not None
    )


def dynamic_shapes(inputs: dict[str, torch.Tensor]) -> dict:
    return {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}


def export(kind: str, architecture: str = "two-tower") -> None:
    """torch.export with a batch of any size."""
    model, inputs = tiny_model(architecture, kind), inputs_for(kind)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes=dynamic_shapes(inputs), strict=False).module()
        for rows in (2, 5):
            expected = logits_of(model(**inputs_for(kind, rows)))
            torch.testing.assert_close(logits_of(program(**inputs_for(kind, rows))), expected, atol=1e-4, rtol=1e-4)


def export_to_onnx(kind: str) -> None:
    """transformers' ONNX exporter with a batch of any size; the outputs have the names of the model's."""
    import onnxruntime
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model, inputs = tiny_model("two-tower", kind), inputs_for(kind)
    config = OnnxConfig(dynamic_shapes=dynamic_shapes(inputs))
    with tempfile.TemporaryDirectory() as folder:
        OnnxExporter().export(model, inputs, config=config).save_pretrained(folder)
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"))
        names = [output.name for output in session.get_outputs()]
        assert names and all(name.startswith("logits") for name in names), names
        given = inputs_for(kind, 5)
        (found, *_) = session.run(None, {entry.name: given[entry.name].numpy() for entry in session.get_inputs()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), logits_of(model(**given)), atol=1e-4, rtol=1e-4)


@dataclass
class Tool:
    """A tool of other people: the packages that it needs, what is done with it, on every kind of head, and a note."""

    name: str
    packages: tuple[str, ...]
    done: str
    check: Callable[[str], None]
    note: str = ""

    def versions(self) -> str | None:
        """The versions of its packages; `None` if one is not installed."""
        try:
            return ", ".join(
                f"{package} {importlib.metadata.version(package).split('+')[0]}" for package in self.packages
            )
        except importlib.metadata.PackageNotFoundError:
            return None


TOOLS = (
    Tool("PEFT", ("peft",), "LoRA in frozen towers gets a gradient", adapt),
    Tool("torch.ao", ("torch",), "dynamic quantisation of all linear layers", quantise),
    Tool(
        "bitsandbytes, 8 bits", ("bitsandbytes",), "loads on a CPU, scores stay alike, LoRA trains on it",
        lambda kind: load_in_bits(kind, load_in_8bit=True), "heads are not quantised",
    ),
    Tool(
        "bitsandbytes, 4 bits", ("bitsandbytes",), "loads on a CPU and runs, LoRA trains on it",
        lambda kind: load_in_bits(kind, load_in_4bit=True),
        "heads are not quantised; on a CPU widths must be multiples of 64, and what has run cannot train any more: load it anew",
    ),
    Tool("torch.export", ("torch",), "a batch of any size", export),
    Tool(
        "ONNX", ("transformers", "onnx", "onnxscript", "onnxruntime"), "transformers' `OnnxExporter`, a batch of any size; "
        "ONNX Runtime gives the same scores", export_to_onnx, "outputs are called `logits`, of pretraining `logits.itm`",
    ),
)  # fmt: skip


def result(tool: Tool) -> str:
    """`yes`, or the heads that do not work and the first reason."""
    failed = {}
    for kind in HEADS:
        try:
            tool.check(kind)
        except Exception as error:
            failed[kind] = " ".join(str(error).split())[:120] or type(error).__name__
    return "yes" if not failed else f"not {', '.join(failed)} ({next(iter(failed.values()))})"


def rows_of(page: str) -> dict[str, str]:
    """The rows of the table in the documentation, by the name of the tool."""
    table = page.partition(START)[2].partition(END)[0]
    return {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}


def write(page: Path, *names: str) -> None:
    """Run the checks of the tools of these names, or of all, and write their rows."""
    text = page.read_text(encoding="utf-8")
    rows = rows_of(text)
    for tool in (tool for tool in TOOLS if not names or tool.name in names):
        if versions := tool.versions():
            rows[tool.name] = f"| {tool.name} | {versions} | {tool.done} | {result(tool)} | {tool.note} |"
            print(rows[tool.name], flush=True)
    head = ["| tool | versions | what was done, with every head | works | |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *(rows[tool.name] for tool in TOOLS if tool.name in rows)])
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
