"""
One step of training of each set of objectives, on one process or on several, whose losses and gradients it saves, and which
parameters DDP misses a gradient of. Run by test_step.py.
"""

import itertools
import os
import sys
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from conftest import ARCHITECTURES, IMAGE_SIZE, tiny_model, training_batch
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from renaissance import RenaissanceProcessor
from renaissance.modeling.architectures import HEADS
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import OBJECTIVE_DATA, ContrastiveData, MaskedTextData, MatchingData
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.trainer import RenaissanceTrainer


#: Texts whose numbers of masked tokens differ.
TEXTS = [" ".join(["red", "circle", "square", "blue"][: 1 + row % 4] * (1 + row // 2)) for row in range(8)]


@dataclass
class NeighboursMatched(MatchingData):
    """Gives every other pair of rows each other's images, so that pairs do not depend on where a batch is cut."""

    def add(self, draft, draw):
        draft.read_clean_text(range(len(draft.rows)))
        rows = np.arange(len(draft.rows))
        swapped = rows % 4 < 2
        paired = np.where(swapped, rows ^ 1, rows)
        return {"itm_image_index": draft.image_index[paired], "itm_labels": (~swapped).astype(np.int64)}


FIELDS = {"vqa_answers": ["yes", "no"], "image_classes": ["cat", "dog"]}
FROZEN = ((), ("vision",), ("text", "vision"), ("cross_modal",))

DATA = {"mlm": MaskedTextData(), "itm": NeighboursMatched(), "contrastive": ContrastiveData()}
SETS = {
    "mlm": {"mlm": 1.0},
    "itm": {"itm": 1.0},
    "contrastive": {"contrastive": 1.0},
    "all": {"mlm": 1.0, "itm": 0.5, "contrastive": 2.0},
}


def rows() -> KeyedRows:
    images = [Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (30 * row, 255 - 20 * row, 90)) for row in range(8)]
    labels = {"answers": ["yes"], "boxes": [[0, 0, 9, 9], [5, 5, 20, 20]], "label": 1, "class_name": "cat"}
    data = [{"image": images[row], "text": TEXTS[row], "image_id": str(row)} | labels for row in range(8)]
    keyed = KeyedRows(data, training=True)
    keyed.begin_epoch(0)
    return keyed


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """The model, which then computes the same in training however rows are divided."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def step(
    architecture: str,
    objectives: dict[str, float],
    tokenizer: str,
    batch_size: int,
    folder: str,
    loss: str = "softmax",
    **precision: bool,
) -> dict:
    """Train one step on all eight rows, with this contrastive loss; return the losses that were logged, and the change of each weight."""
    processor = RenaissanceProcessor.from_encoders(tokenizer, image_size=IMAGE_SIZE)
    no_dropout = {"two-tower": {"cross_modal_dropout": 0.0}, "one-tower-text": {"embedding_dropout": 0.0}}
    fields = {"objectives": objectives, "contrastive_loss": loss, **no_dropout.get(architecture, {})}
    model = without_dropout(tiny_model(architecture, "ForPreTraining", **fields))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    args = RunArguments(
        output_dir=folder, do_train=True, max_steps=1, per_device_train_batch_size=batch_size, learning_rate=1.0,
        gradient_accumulation_steps=8 // (batch_size * processes), optim="sgd", lr_scheduler_type="constant",
        max_grad_norm=0.0, train_sampling_strategy="sequential", logging_steps=1, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, ddp_find_unused_parameters=False, **precision,
    )  # fmt: skip
    collator = PretrainingCollator(processor, [DATA[name] for name in objectives])
    trainer = RenaissanceTrainer(model=model, args=args, train_dataset=rows(), data_collator=collator)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    log = {name: value for name, value in trainer.state.log_history[0].items() if name.endswith("loss")}
    after = zip(before, trainer.trained_weights(model), strict=True)
    return {"log": log, "gradients": {name: before[name] - value.detach() for name, value in after}}


def unused(kind: str, architecture: str, batch: dict | None = None, **fields) -> list[str]:
    """What DDP has to say of two steps of a model, and its trainable parameters without a gradient."""
    model = tiny_model(architecture, kind, **fields).train()
    if not any(value.requires_grad for value in model.parameters()):
        return []
    parallel = DistributedDataParallel(model)
    try:
        for _ in range(2):
            parallel(**(batch or training_batch(kind))).loss.backward()
    except RuntimeError as error:
        return [str(error).splitlines()[0]]
    return [name for name, value in model.named_parameters() if (value.grad is None) == value.requires_grad]


def all_unused(tokenizer: str) -> dict[tuple, list[str]]:
    """The same of all heads, and of pretraining with all sets of objectives and texts, with poolers and frozen parts."""
    processor = RenaissanceProcessor.from_encoders(tokenizer, image_size=IMAGE_SIZE)
    found = {}
    for architecture, pooler, frozen in itertools.product(ARCHITECTURES, ("single", "double"), FROZEN):
        fields = {"pooler": pooler, "frozen": frozen}
        for kind in HEADS:
            found[architecture, pooler, *frozen, kind] = unused(kind, architecture, **fields)
        for names in (("mlm",), ("itm",), ("contrastive",), ("mlm", "contrastive"), ("mlm", "itm", "contrastive")):
            for text in ("clean", "masked") if {"mlm", "itm"} <= set(names) else ("clean",):
                data = {"mlm": MaskedTextData(), "itm": MatchingData(text), "contrastive": ContrastiveData()}
                collator = PretrainingCollator(processor, [data[name] for name in names])
                batch = collator([rows()[row] for row in range(4)])
                case = (architecture, pooler, *frozen, *names, text)
                found[case] = unused("ForPreTraining", architecture, batch, objectives=names, **fields)
        for names in (("vqa",), ("grounding",), ("classification",), ("mim",), tuple(OBJECTIVE_DATA)):
            model = tiny_model(architecture, "ForPreTraining", objectives=names, **FIELDS)
            data = [OBJECTIVE_DATA[name]() for name in names]
            for each in data:
                each.fit(model.config)
            batch = PretrainingCollator(processor, data)([rows()[row] for row in range(4)])
            case = (architecture, pooler, *frozen, *names)
            found[case] = unused("ForPreTraining", architecture, batch, objectives=names, **FIELDS, **fields)
    return {case: missing for case, missing in found.items() if missing}


def all_steps(tokenizer: str, batch_size: int, folder: str) -> dict[tuple, dict]:
    """What each set of objectives gives, of the architectures that have them all, and each contrastive loss, of the dual encoder."""
    found = {
        (architecture, name): step(architecture, objectives, tokenizer, batch_size, folder)
        for architecture in ("two-tower", "one-tower-text")
        for name, objectives in SETS.items()
    }
    for loss in ("softmax", "sigmoid"):
        found["dual-encoder", loss] = step("dual-encoder", SETS["contrastive"], tokenizer, batch_size, folder, loss)
    return found


def end_together() -> None:
    """Wait for the other processes: whoever ends first would else break them off."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    what, output, tokenizer, folder, *batch_sizes = sys.argv[1:]
    if what == "steps":
        found = [all_steps(tokenizer, int(batch_size), folder) for batch_size in batch_sizes]
    elif what == "rounded":
        arguments = "two-tower", SETS["mlm"], tokenizer
        found = [{"mlm": step(*arguments, int(size), folder, bf16_weights=True)} for size in batch_sizes]
    else:
        Accelerator(cpu=True)  # sets up the group of processes
        found = all_unused(tokenizer)
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(found, output)
    end_together()
