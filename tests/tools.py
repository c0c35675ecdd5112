"""
Other people's tools on tiny models of every kind: pipelines, adapters, quantisation, export, training.

    python tests/tools.py docs/compatibility.md

writes the table of the documentation, or, with names of tools behind it, their rows; `test_tools.py` runs the same checks. The
row of a tool that is not installed stays as it is. torch.export and ONNX take minutes.
"""

import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tool_checks as checks
from conftest import ARCHITECTURES, CLASSES

from renaissance.modeling.architectures import HEADS, KINDS


START, END = "<!-- tools -->", "<!-- end of tools -->"
#: Columns of the table, with the models of `conftest.ARCHITECTURES` in each: one tower is tried on a text and on a vision encoder.
COLUMNS = {"two towers": ARCHITECTURES[:1], "one tower": ARCHITECTURES[1:], "dual encoder": ("dual-encoder",)}


@dataclass
class Tool:
    """
    A tool of other people: the packages that it needs, what is done with it, on which kinds of models, and a note. The answer is
    what the table says if the check passes. A tool that `fuses` is none of a dual encoder.
    """

    name: str
    packages: tuple[str, ...]
    done: str
    check: Callable[[str, str], None]
    kinds: tuple[str, ...] = tuple(HEADS)
    note: str = ""
    answer: str = "yes"
    fuses: bool = False

    def versions(self) -> str | None:
        """The versions of its packages; `None` if one is not installed."""
        try:
            return ", ".join(
                f"{package} {importlib.metadata.version(package).split('+')[0]}" for package in self.packages
            )
        except importlib.metadata.PackageNotFoundError:
            return None

    def models(self) -> str:
        """The models that it was tried with, for the table."""
        if set(self.kinds) >= set(HEADS):
            return "every head" if "Model" not in self.kinds else "base model, every head"
        if len(self.kinds) > len(HEADS) // 2:
            return f"all but {', '.join(kind for kind in HEADS if kind not in self.kinds)}"
        return ", ".join("base model" if kind == "Model" else kind for kind in self.kinds)

    def kinds_of(self, architecture: str) -> list[str]:
        """The kinds of models of an architecture that it is tried on."""
        if architecture != "dual-encoder":
            return list(self.kinds)
        return [kind for kind in self.kinds if (architecture, kind) in CLASSES and not self.fuses]

    def result(self, architectures: tuple[str, ...]) -> str:
        """The answer, or the models that do not work and the first reason; nothing if the architectures have no such models."""
        failed = {}
        for architecture in architectures:
            for kind in self.kinds_of(architecture):
                try:
                    self.check(architecture, kind)
                except Exception as error:
                    reason = " ".join(str(error).split())[:120].replace("|", "/") or type(error).__name__
                    failed.setdefault(kind, reason)
        if failed:
            return f"not {', '.join(failed)} ({next(iter(failed.values()))})"
        return self.answer if any(map(self.kinds_of, architectures)) else ""


def stranger(name: str, done: str, kinds: tuple[str, ...], *results: str, note: str = "", fuses: bool = False) -> Tool:
    """Something that is done in a process without this package, and the names of its results in `run_pipelines`."""

    def check(architecture: str, kind: str) -> None:
        checks.run_as_stranger(architecture, kind, *results)

    return Tool(name, ("transformers",), done, check, kinds, note, fuses=fuses)


WITH_IMAGES = tuple(kind for kind in HEADS if kind != "ForSequenceClassification")
#: PEFT itself refuses images without text, and texts in lists of candidates.
PROMPTED = tuple(kind for kind in HEADS if kind not in ("ForImageClassification", "ForImageTextRetrieval"))
MATCHING = (
    "matching",
    "matching of pretraining",
    "forms of an image",
    "keywords",
    "examples in batches",
    "best texts",
)

TOOLS = (
    stranger(
        "pipeline text-classification", "one text and a pair, all scores, a data set in batches", ("ForSequenceClassification",),
        "text-classification", "pair", "texts of a data set",
    ),
    stranger("pipeline fill-mask", "the three best tokens", ("ForMaskedLM",), "fill-mask"),
    stranger("pipeline feature-extraction", "the states of a text", ("Model",), "feature-extraction"),
    stranger("pipeline image-classification", "a batch of two images", ("ForImageClassification",), "image-classification"),
    stranger(
        "pipeline image-feature-extraction", "the states of an image, and its pooled vector", ("Model",), "image-feature-extraction",
        "pooled image",
    ),
    stranger(
        "pipeline zero-shot-image-classification", "scores of two candidate texts", ("ForImageTextRetrieval",), "zero-shot",
    ),
    stranger(
        "pipeline image-text-matching", "an image as path, PIL, bytes and URL; several texts; lists, generators and data sets in batches",
        ("ForImageTextRetrieval", "ForPreTraining"), *MATCHING, note="our own", fuses=True,
    ),
    stranger("pipeline visual-question-answering", "a batch of two questions", ("ForVisualQuestionAnswering",), "question", note="our own"),
    stranger(
        "pipeline image-text-classification", "one image, and two with a text",
        ("ForImageTextClassification", "ForImagesAndTextClassification"), "classification", "two images", note="our own",
    ),
    stranger(
        "pseudo-log-likelihood", "one token masked at a time, padded on the right, with and without an image; reads `logits`",
        ("ForMaskedLM",), "text alone", "text and image",
    ),
    stranger(
        "AutoTokenizer, AutoImageProcessor, tokenizers", "each alone, from the folder of a model", ("ForMaskedLM",), "tokens", "pixels",
        note="with `trust_remote_code=False`",
    ),
    Tool(
        "from_pretrained", ("transformers", "safetensors"),
        "several shards; `device_map`, `dtype` (16 bits too) and `attn_implementation`; the same scores", checks.load_in_all_ways,
        KINDS,
    ),
    Tool("copy.deepcopy, pickle", ("torch",), "the same scores", checks.copy_model, KINDS),
    Tool("output_hidden_states, output_attentions", ("transformers",), "with eager attention", checks.read_inside, KINDS, "of a dual encoder, those of a text or an image alone"),
    Tool("accelerate", ("accelerate",), "`Accelerator.prepare`, `backward` and a step", checks.prepare, KINDS),
    Tool("Trainer", ("transformers",), "stock `Trainer` trains and evaluates", checks.train_with_stock_trainer,
        note="for pretraining with `label_names`, the labels of its objectives"),
    Tool(
        "sentence-transformers", ("sentence-transformers",), "`SentenceTransformer(folder).encode` of texts of several lengths",
        checks.embed_sentences, ("Model",),
    ),
    Tool(
        "PEFT, LoRA", ("peft",), "in frozen towers, without task type, as FEATURE_EXTRACTION and SEQ_CLS; adapters get a gradient",
        checks.train_lora, note="those on layers that the head does not read get none, and a warning",
    ),
    Tool(
        "PEFT, other adapters", ("peft",), "LoRA of word embeddings, DoRA, `modules_to_save`, IA3; adapters get a gradient",
        checks.train_other_adapters, note="likewise",
    ),
    Tool("PEFT, saved adapters", ("peft",), "saved, loaded, `merge_and_unload`; the same scores", checks.keep_adapter),
    Tool(
        "PEFT, prompts", ("peft",), "prompt tuning", checks.refuse_prompts, PROMPTED,
        "they need `inputs_embeds`; the error says so", "refused",
    ),
    Tool("BitFit", ("torch",), "the biases of frozen encoders get a gradient", checks.train_biases),
    Tool("gradient to pixels", ("torch",), "through frozen encoders", checks.pixel_gradient, WITH_IMAGES),
    Tool("torch.ao", ("torch",), "dynamic quantisation of all linear layers", checks.quantise),
    Tool(
        "bitsandbytes, 8 bits", ("bitsandbytes",), "loads on a CPU, scores stay alike, LoRA trains on it",
        partial(checks.load_in_bits, load_in_8bit=True), note="heads are not quantised",
    ),
    Tool(
        "bitsandbytes, 4 bits", ("bitsandbytes",), "loads on a CPU and runs, LoRA trains on it",
        partial(checks.load_in_bits, load_in_4bit=True),
        note="heads are not quantised; with bitsandbytes on CPUs with AVX512-BF16, BERT's too, widths must be multiples of 64, and a "
        "model that has run cannot train any more: load it anew",
    ),
    Tool("torch.compile", ("torch",), "one graph, `backend=\"aot_eager\"`; the same loss and gradients", checks.compile_whole),
    Tool("torch.export", ("torch",), "a batch of any size; the same scores", checks.export),
    Tool(
        "ONNX", ("transformers", "onnx", "onnxscript", "onnxruntime"), "transformers' `OnnxExporter`, a batch of any size; "
        "ONNX Runtime gives the same scores", checks.export_to_onnx,
        note="the output is called `logits`, that of pretraining `logits.itm`, or `logits.contrastive` of a dual encoder",
    ),
)  # fmt: skip


def rows_of(page: str) -> dict[str, str]:
    """The rows of the table in the documentation, by the name of the tool."""
    table = page.partition(START)[2].partition(END)[0]
    return {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}


def write(page: Path, *names: str) -> None:
    """Run the checks of the tools of these names, or of all, and write their rows."""
    for tool in (tool for tool in TOOLS if not names or tool.name in names):
        if versions := tool.versions():
            works = " | ".join(tool.result(architectures) for architectures in COLUMNS.values())
            row = f"| {tool.name} | {versions} | {tool.done} | {tool.models()} | {works} | {tool.note} |"
            print(row, flush=True)
            put_row(page, tool.name, row)


def put_row(page: Path, name: str, row: str) -> None:
    """Write the row of a tool into the table, and leave out rows of tools that are no more."""
    text = page.read_text(encoding="utf-8")
    rows = rows_of(text) | {name: row}
    head = f"| tool | versions | what was done | with | {' | '.join(COLUMNS)} | |"
    table = "\n".join(
        [head, "|---" * (5 + len(COLUMNS)) + "|", *(rows[tool.name] for tool in TOOLS if tool.name in rows)]
    )
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
