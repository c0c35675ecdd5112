"""
Pretraining on a mixture of data sets, without dropout, on as many processes as it is launched on. It saves the losses that were logged, the
weights at the end, and of each step how many terms its losses had and the weights of all heads before it. Run by test_mixtures.py.
"""

import os
import sys

import torch
from distributed_step import end_together, without_dropout

from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.trainer import RenaissanceTrainer


def watched(trainer: RenaissanceTrainer) -> list[tuple[dict[str, float], dict[str, torch.Tensor]]]:
    """A list that gets an entry for each step of a trainer."""
    seen, own = [], trainer.items_in

    def items_in(*given):
        items = own(*given)
        heads = {
            name: torch.cat([value.detach().flatten() for value in trainer.model.head_of(name).parameters()]).clone()
            for name in items
        }
        seen.append(({name: count.item() for name, count in items.items()}, heads))
        return items

    trainer.items_in = items_in
    return seen


def train(argv: list[str]) -> dict:
    """Train; return what the module's text says."""
    trainer, *_ = prepare(Pretraining, "", argv)
    without_dropout(trainer.model)
    seen = watched(trainer)
    trainer.train()
    losses = [
        {name: value for name, value in entry.items() if name.endswith("loss")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return {"losses": losses, "weights": trainer.model.state_dict(), "steps": seen}


if __name__ == "__main__":
    found = train(sys.argv[2:])
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save(found, sys.argv[1])
    end_together()
