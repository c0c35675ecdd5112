"""
Trainings of several steps on as many processes as it is launched on. It saves the losses that were logged and the weights at the
end. Run by test_distributed.py.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from conftest import IMAGE_SIZE, tiny_model
from distributed_step import SETS, end_together, without_dropout
from PIL import Image
from torch.utils.data import IterableDataset

from renaissance import RenaissanceProcessor
from renaissance.processing.collators import PretrainingCollator
from renaissance.processing.objectives import ContrastiveData, MaskedTextData, MatchingData
from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.data.streaming import CaptionSource, CaptionStream
from renaissance.tasks.epochs import EpochCallback
from renaissance.tasks.trainer import RenaissanceTrainer


#: Shuffled, so that an epoch ends with a part of a step.
ROWS = 22
WORDS = ["red", "circle", "square", "blue", "star", "green", "large"]
#: Numbers of masked tokens differ, and each row has an image of its own.
DATA = [
    {
        "image": Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (11 * row, 255 - 9 * row, 90)),
        "text": " ".join(WORDS[: 1 + row % 7] * (1 + row % 3)),
        "image_id": str(row),
    }
    for row in range(ROWS)
]


class NextMatched(MatchingData):
    """Gives every other row the image of another row of the data, so that pairs do not depend on where a batch is cut."""

    def add(self, draft, draw):
        draft.read_clean_text(range(len(draft.rows)))
        numbers = np.array([row["sample_id"] for row in draft.rows])
        shown = [draft.show(DATA[number if number % 2 else (number + 5) % ROWS]) for number in numbers]
        return {"itm_image_index": np.array(shown), "itm_labels": numbers % 2}


class InTurn(IterableDataset):
    """The rows that several processes read of a stream, for one process: as many of each at a time as a process takes."""

    def __init__(self, streams: list[CaptionStream], rows: int):
        self.streams, self.rows = streams, rows

    def __iter__(self) -> Iterator[dict]:
        streams = [iter(stream) for stream in self.streams]
        while True:
            for stream in streams:
                yield from itertools.islice(stream, self.rows)


def rows() -> KeyedRows:
    keyed = KeyedRows(DATA, training=True)
    keyed.begin_epoch(0)
    return keyed


def stream(data: str, rank: int, processes: int) -> CaptionStream:
    source = CaptionSource.open(data, "train", {"image": "image", "captions": "captions", "image_id": "image_id"})
    return CaptionStream([source], [1.0], 3, 8, rank, processes)


def training(
    objectives: dict[str, float],
    data: list,
    dataset,
    tokenizer: str,
    folder: Path,
    batch_size: int,
    accumulation: int,
    model: torch.nn.Module | None = None,
    **options,
) -> dict:
    """Train a model, by default one with two towers; return what was logged of losses, step by step, and the weights at the end."""
    model = model or tiny_model("two-tower", "ForPreTraining", objectives=objectives, cross_modal_dropout=0.0)
    model = without_dropout(model)
    processor = RenaissanceProcessor.from_encoders(tokenizer, image_size=IMAGE_SIZE)
    args = RunArguments(
        output_dir=folder, do_train=True, per_device_train_batch_size=batch_size, learning_rate=0.05, optim="sgd",
        gradient_accumulation_steps=accumulation, lr_scheduler_type="constant", max_grad_norm=1.0, logging_steps=1, seed=3,
        report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True, ddp_find_unused_parameters=False, **options,
    )  # fmt: skip
    callbacks = [EpochCallback(dataset)] if isinstance(dataset, KeyedRows) else []
    trainer = RenaissanceTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=PretrainingCollator(processor, data),
        callbacks=callbacks,
    )
    trainer.train()
    losses = [
        {name: value for name, value in entry.items() if name.endswith("loss")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return {"losses": losses, "weights": trainer.model.state_dict()}


def trainings(tokenizer: str, folder: Path, captions: str, of_one: bool, accumulation: int) -> dict[str, dict]:
    """
    The trainings by name: of the first, the rows of a step are 8. A training of one process takes the rows of a batch of two
    at once, but where false images are drawn from a batch.
    """
    processes, rank = (1, 0) if of_one else (2, int(os.environ["RANK"]))
    batch = 4 // accumulation
    common = {"tokenizer": tokenizer, "folder": folder, "accumulation": accumulation}
    together = 2 * batch if of_one else batch
    data = {"mlm": MaskedTextData(), "itm": NextMatched(), "contrastive": ContrastiveData()}
    found = {}
    for name, objectives in SETS.items():
        chosen = [data[each] for each in objectives]
        for leaves_out in (False, True):
            found[f"{name}, drop_last {leaves_out}"] = training(
                objectives,
                chosen,
                rows(),
                batch_size=together,
                num_train_epochs=2,
                dataloader_drop_last=leaves_out,
                **common,
            )
        streams = [stream(captions, number, 2) for number in range(2)]
        read = InTurn(streams, batch) if of_one else streams[rank]
        chosen = [each for each in chosen if each.name != "itm"]
        if chosen:
            objectives = {each.name: objectives[each.name] for each in chosen}
            found[f"{name}, stream"] = training(objectives, chosen, read, batch_size=together, max_steps=6, **common)
    for loss in ("softmax", "sigmoid"):
        model = tiny_model("dual-encoder", "ForPreTraining", contrastive_loss=loss)
        found[f"dual encoder, {loss}"] = training(
            SETS["contrastive"],
            [data["contrastive"]],
            rows(),
            batch_size=together,
            num_train_epochs=2,
            model=model,
            **common,
        )
    # False images of the batch of a process: one process that accumulates them draws the same.
    chosen, objectives = [MaskedTextData(), MatchingData()], {"mlm": 1.0, "itm": 1.0}
    common["accumulation"] *= 2 // processes
    for name, dataset in (
        ("indexed", rows()),
        (
            "stream",
            InTurn([stream(captions, number, 2) for number in range(2)], batch)
            if of_one
            else stream(captions, rank, 2),
        ),
    ):
        found[f"false images of the batch, {name}"] = training(
            objectives, chosen, dataset, batch_size=batch, max_steps=2 if name == "indexed" else 6, **common
        )
    return found


if __name__ == "__main__":
    output, tokenizer, folder, captions, accumulation = sys.argv[1:]
    found = trainings(tokenizer, Path(folder), captions, "RANK" not in os.environ, int(accumulation))
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(found, output)
    end_together()
