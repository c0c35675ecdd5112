"""Training for a number of floating-point operations (`max_flops`): how many steps these are, found before the first one."""

import logging
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ..hub import first_line
from ..processing.decoding import UnusableRow
from .arguments import RunArguments
from .batch_fitting import StepTrial
from .flops import count_without_values


logger = logging.getLogger(__name__)

#: Batches whose operations are counted: texts differ in length, but the mean of a few batches of many rows hardly does.
BATCHES = 4


def settle_steps(trial: StepTrial, args: RunArguments, changed: dict[str, Any]) -> float | None:
    """
    Set `max_steps` to the steps that take the operations of `max_flops`. A run that goes on with the same options keeps its number; one
    that goes on with others divides what it has not used yet by what a step takes now.

    Args:
        trial: Makes batches of the run.
        args: The arguments of the run, which are changed.
        changed: The options that are others than in the checkpoint that training goes on from.

    Returns:
        The operations of a row; `None` if the number of steps is kept.

    Raises:
        ValueError: If they are fewer than those of one step, or the operations of a step cannot be counted.
    """
    state = TrainerState()
    if args.resume_from_checkpoint:
        state = TrainerState.load_from_json(str(Path(args.resume_from_checkpoint) / TRAINER_STATE_NAME))
        if not changed:
            args.max_steps = state.max_steps
            logger.info(f"max_flops {args.max_flops:g}: {args.max_steps:,} steps, as when the run began")
            return None
    of_row = flops_of_row(trial, args)
    of_step = of_row * args.rows_a_step
    rows = max(args.max_flops - state.total_flos, 0) / of_row
    steps = state.global_step + steps_of_rows(rows, len(trial.data), args)
    if steps < 1:
        raise ValueError(
            f"max_flops: {args.max_flops:g} is less than one step, which takes {of_step:.3g}; give more, or fewer rows a step"
        )
    used = f", of which {state.total_flos:.3g} are used" if state.total_flos else ""
    logger.info(f"max_flops {args.max_flops:g}{used}: {of_step:.3g} operations a step make {steps:,} steps")
    args.max_steps = steps
    args.check_warmup(steps)
    return of_row


def flops_of_row(trial: StepTrial, args: RunArguments) -> float:
    """Return the operations of training on a row, forward and backward: the mean over batches that are drawn as training draws
    them, the same on all processes. Raise `ValueError` if they cannot be counted."""
    flops = rows = 0
    fault = "none are counted"
    for numbers in trial.drawn(BATCHES, args):
        try:
            batch = trial.collator([trial.data[number] for number in numbers])
        except UnusableRow:
            # Of which training tells, or which it leaves out.
            continue
        try:
            flops += count_without_values(trial.model, batch, args)
        # Whatever the code of an encoder raises that asks for values.
        except Exception as error:
            flops, fault = 0, first_line(error)
            break
        rows += len(numbers)
    # Each process comes to the same, unless their devices compute otherwise.
    found = gather_object([flops / max(rows, 1)])
    if not all(found):
        raise ValueError(
            f"max_flops: the operations of a step are not known before training ({fault}); give max_steps"
        )
    return fmean(found)


def steps_of_rows(rows: float, size: int, args: RunArguments) -> int:
    """Return the number of whole steps that train on at most `rows` rows, if an epoch has `size`: its last step may be a smaller one."""
    if args.dataloader_drop_last:
        size -= size % (args.train_batch_size * args.world_size)
    epochs, left = divmod(rows, size)
    return int(epochs) * math.ceil(size / args.rows_a_step) + int(left // args.rows_a_step)
