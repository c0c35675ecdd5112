"""Runs with values that are not finite where a test wants them. On two processes, run by test_finite.py."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import TrainerCallback

from renaissance.tasks.preparation import prepare
from renaissance.tasks.runner import run
from renaissance.tasks.snli_ve import SNLIVE


class Planted:
    """A collator that puts a value into the pixels of rows that `where` chooses."""

    def __init__(self, collator: Callable, where: Callable[[dict], bool], value: float = float("nan")):
        self.collator, self.where, self.value = collator, where, value

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collator(rows)
        if chosen := [number for number, row in enumerate(rows) if self.where(row)]:
            batch["pixel_values"] = batch["pixel_values"].float() / 255
            batch["pixel_values"][chosen, 0, 0, 0] = self.value
        return batch


def planted_run(
    argv: list[str], where: Callable[[dict], bool], value: float = float("nan"), *callbacks: TrainerCallback
):
    """Train, and do whatever else `argv` asks for; return the trainer."""
    with ExitStack() as held:
        trainer, task, data, args = prepare(SNLIVE, "", argv, held)
        trainer.data_collator = Planted(trainer.data_collator, where, value)
        for callback in callbacks:
            trainer.add_callback(callback)
        run(trainer, task, data, args)
    return trainer


class Marked(torch.nn.Module):
    """A loss of one process that is not a number, though its gradients are."""

    def __init__(self, model: torch.nn.Module, step: int):
        super().__init__()
        self.calls, self.step, self.forward_of = 0, step, model.forward

    def forward(self, *args, **kwargs):
        output = self.forward_of(*args, **kwargs)
        self.calls += 1
        if self.calls == self.step:
            output.loss = output.loss + float("nan")
        return output


if __name__ == "__main__":
    kind, *argv = sys.argv[1:]
    with ExitStack() as held:
        trainer, task, data, args = prepare(SNLIVE, "", argv, held)
        if kind == "pixels":
            trainer.data_collator = Planted(
                trainer.data_collator, lambda row: row["sample_id"] == 14 and row["epoch"] == 0
            )
        elif args.process_index == 1:
            trainer.model.forward = Marked(trainer.model, 3).forward
        run(trainer, task, data, args)
    weights = torch.cat([value.detach().flatten() for value in trainer.model.parameters()])
    found = {"skipped": trainer.counts.skipped, "finite": bool(weights.isfinite().all()), "sum": float(weights.sum())}
    (Path(args.output_dir) / f"found-{args.process_index}.json").write_text(json.dumps(found))
