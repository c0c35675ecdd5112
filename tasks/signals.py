"""What a run does when it is asked to stop: training saves a checkpoint after its step, and the exit code says "go on"."""

import copy
import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .processes import is_loss_of_another


logger = logging.getLogger(__name__)

#: The exit code of a run that was asked to stop and that the same command goes on with (EX_TEMPFAIL of sysexits.h).
GO_ON = 75

#: The signals of schedulers and terminals, and how messages call them.
SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1", signal.SIGINT: "Ctrl-C"}


class Preempted(BaseException):
    """
    A run was asked to stop, and did; its exit code, `GO_ON`, says that the same command goes on. Like `KeyboardInterrupt` it is no
    `Exception`, which code that is interrupted might catch.
    """


class StopRequests(TrainerCallback, AbstractContextManager):
    """
    Heeds the signals that ask a run to stop, while it is entered: training ends after the step, with a checkpoint, on all
    processes after the same; anything else ends at once, with `Preempted`. A second Ctrl-C raises `KeyboardInterrupt`.

    Attributes:
        asked: The first signal that came.
        owed: Whether the evaluation that is due at this step is left to the run that goes on.
        stops: Whether all processes end training after this step.
    """

    def __init__(self):
        self.asked: int | None = None
        self.owed = False
        self.stops = False
        self._deferred = False
        self._process = os.getpid()
        self._before: dict[int, Callable | int | None] = {}
        self._group = None

    def __enter__(self) -> "StopRequests":
        # Python allows it nowhere else.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heed) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before and is_loss_of_another(error):
            # The launcher signals this process too, which has yet to tell why it ends.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._before = {}

    def _heed(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            # A worker of a loader, which ends with its process.
            return
        again, self.asked = self.asked is not None, self.asked or number
        if number == signal.SIGINT and (again or not self._deferred):
            raise KeyboardInterrupt
        if not self._deferred:
            raise Preempted(f"stopped by {SIGNALS[number]}")
        if not again:
            more = "; once more ends it at once" if number == signal.SIGINT else ""
            logger.warning(f"{SIGNALS[number]}: a checkpoint is saved after this step{more}")

    def check(self) -> None:
        """Raise `Preempted` if a signal came while something had to be finished."""
        if self.asked is not None:
            raise Preempted(f"stopped by {SIGNALS[self.asked]}")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what is done in the block come to a good end: training its step and checkpoint, a save its files. If it fails, the
        run ends with its error, not with a signal that comes later."""
        self._deferred = True
        yield
        self._deferred = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if args.world_size > 1:
            # Of processors, so that nobody waits for a GPU.
            self._group = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._group is not None:
            asked = torch.tensor(self.asked or 0)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, group=self._group)
            self.asked = int(asked) or None
        if self.asked is not None:
            self.stops = control.should_save = control.should_training_stop = True
            self.leave_evaluation(state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stops and self.leave_evaluation(state, control):
            control.should_save = True

    def leave_evaluation(self, state: TrainerState, control: TrainerControl) -> bool:
        """
        Leave the evaluation that is due at this step to the run that goes on, for a scheduler does not wait for it; return whether there
        is one. At the end of training none is left, as there is no step after it.
        """
        left = control.should_evaluate and state.global_step < state.max_steps
        if left:
            self.owed, control.should_evaluate = True, False
        return left


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the signals that ask a run to stop until the block is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerProcess(multiprocessing.Process):
    """A worker of a loader, which no signal reaches before `start_worker` has said what it does then."""

    def start(self) -> None:
        with undisturbed():
            super().start()


@functools.cache
def worker_context() -> multiprocessing.context.BaseContext:
    """Return what a loader makes its workers with."""
    context = copy.copy(multiprocessing.get_context())
    context.Process = WorkerProcess
    return context


def worker_init(initialise: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """Return what starts the workers of a loader, which no signal ends that is for their process; `initialise` is called too."""
    return functools.partial(start_worker, initialise, ending(os.getpid()))


@functools.cache
def ending(process: int) -> Event:
    """Return what is set when this process, whose number is `process`, ends, and ends its workers. One that is forked from it has
    its own."""
    event = multiprocessing.Event()
    # What has a priority of 0 or more is called before multiprocessing asks the workers to end.
    Finalize(None, event.set, exitpriority=0)
    return event


def start_worker(initialise: Callable[[int], None] | None, process_ends: Event, number: int) -> None:
    """Start worker `number` of a loader. Schedulers and terminals signal it as well as its process, which still needs it."""

    def end(signum: int, frame) -> None:
        if process_ends.is_set():
            os._exit(128 + signum)

    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if initialise is not None:
        initialise(number)
