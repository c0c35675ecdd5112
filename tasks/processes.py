"""The processes of a run: one of them speaks for all, each learns from an error that another has ended, and those that load data
pass their errors on."""

import os
import re
import sys
import time
from datetime import timedelta

import torch

from renaissance_cli.mistakes import one_line, visible


#: Seconds in which a launcher without a store ends the other processes when one has ended.
PATIENCE = 10

#: How an error of a loader process begins, after which comes its traceback.
IN_WORKER = re.compile(r"Caught (\w+) in (DataLoader worker|pin memory).*\.\n")
#: The kinds of `ValueError` that are made of several values, so that torch passes them on as `RuntimeError`.
OF_SEVERAL_VALUES = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "JSONDecodeError")


def tell(message: str) -> None:
    """Print a line to stderr, once for all processes of the run that end with it."""
    if is_first_to_tell():
        print(visible(message), file=sys.stderr, flush=True)


def is_first_to_tell() -> bool:
    """Return whether no other process of the run has told before why it ends."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return common_store().add(f"renaissance/told/{attempt}", 1) == 1
    except (RuntimeError, ImportError):
        # There is no store, or it has ended with its process. A mistake is usually that of all: the first process tells of
        # it, and the launcher ends the others.
        if int(os.environ.get("RANK", 0)) > 0:
            time.sleep(PATIENCE)
        return True


def is_mistake_in_worker(error: RuntimeError) -> bool:
    """Return whether an error was a `ValueError` in a loader process."""
    found = IN_WORKER.match(str(error))
    return bool(found) and found[1] in OF_SEVERAL_VALUES


def message_of(error: Exception) -> str:
    """Return the message of an error in one line; of that of a loader process, whose message is a traceback, the error at its end."""
    text = str(error).strip()
    if IN_WORKER.match(text):
        last = text.rpartition("Traceback (most recent call last):\n")[2].splitlines()
        # Lines of the stack begin with spaces; the first one without has the name of the error before its message.
        begin = next(number for number, line in enumerate(last) if not line.startswith(" "))
        kind, _, message = "\n".join(last[begin:]).partition(": ")
        text = message or kind
    return one_line(text) or type(error).__name__


def common_store() -> "torch.distributed.Store":
    """Return what the processes of a run have in common; raise `RuntimeError` if there is nothing."""
    from torch.distributed import TCPStore, distributed_c10d  # not there in builds of torch without distribution

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # That of torchrun and `accelerate launch`, which outlives the processes and is there before they have met.
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*place, is_master=False, timeout=timedelta(seconds=PATIENCE))
    if not torch.distributed.is_initialized():
        raise RuntimeError("the processes have not met")
    return distributed_c10d._get_default_store()


def is_loss_of_another(error: BaseException | None) -> bool:
    """Return whether an error says that another process of the run has ended, or does not answer."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, getattr(torch.distributed, "DistError", ())) or "/gloo/" in str(error)
