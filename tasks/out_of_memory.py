"""A run that is out of memory ends in one line: what was saved, and which options help, with what each saves."""

import errno
import gc
import re

import torch

from ..hub import first_line
from .batch_fitting import in_words, remedies
from .trainer import RenaissanceTrainer


#: What errors say that have no type of their own: of torch's allocators for CPUs and other devices, of libraries on a GPU, of C++,
#: of the memory that loader processes share, and of loader processes that the system has ended.
WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|shared memory"
    r"|DataLoader worker \(pid\S* \d+\) is killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there was no memory left, on a GPU or in the machine, in this process or a loader's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and WORDS.search(str(error)) is not None


def told(error: BaseException, trainer: RenaissanceTrainer | None) -> str:
    """
    Return the line on an error of this kind.

    Args:
        trainer: The trainer of the run; `None` if the run was being prepared.
    """
    fault = f"out of memory ({first_line(error) or type(error).__name__})"
    if trainer is None:
        return f"{fault} before the run began: nothing of it is saved"
    args, state = trainer.args, trainer.state
    # The memory of the step goes back before others are tried.
    trainer.model.zero_grad(set_to_none=True)
    gc.collect()
    if not (trainer.is_in_train and trainer.model.training):
        advice = f"What helps: a --per_device_eval_batch_size below {args.per_device_eval_batch_size}"
        return f"{fault} in evaluation. {trainer.what_is_saved()}. {advice}"
    place = f"at step {state.global_step + 1:,} with {args.per_device_train_batch_size} rows a batch"
    found = remedies(trainer.step_trial, args) if trainer.step_trial else []
    workers = ", fewer --dataloader_num_workers" if is_of_loader(error) else ""
    return f"{fault} {place}. {trainer.what_is_saved()}. {in_words(found)}{workers}"


def is_of_loader(error: BaseException) -> bool:
    """Return whether loader processes, or the memory that they share, ran out of memory."""
    return "DataLoader worker" in str(error) or "shared memory" in str(error)
