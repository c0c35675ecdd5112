"""The workers of a loader: signals that are for their process leave them alone, and they end with it."""

import multiprocessing
import os
import signal
from collections.abc import Iterator

import torch

from renaissance.tasks.signals import WorkerProcess, ending, worker_context, worker_init


def blocked_signals(queue) -> None:
    queue.put(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))


def test_no_signal_reaches_a_worker_before_it_is_ready_for_it():
    context = worker_context()
    queue = context.Queue()
    process = context.Process(target=blocked_signals, args=(queue,))
    assert isinstance(process, WorkerProcess)
    process.start()
    assert {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT} <= queue.get(timeout=60)
    process.join()
    assert not {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Masks(torch.utils.data.Dataset):
    """Rows that are the signals that their worker has blocked."""

    def __getitem__(self, row: int) -> list[int]:
        return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def rows_of_a_worker() -> Iterator[list[int]]:
    loader = torch.utils.data.DataLoader(
        Masks(),
        None,
        sampler=range(9),
        num_workers=1,
        worker_init_fn=worker_init(),
        multiprocessing_context=worker_context(),
    )
    return iter(loader)


def test_workers_are_not_left_with_signals_blocked():
    assert next(rows_of_a_worker()) == []


def signalled() -> None:
    """Signal a worker; exit with 0 if it goes on, and does not end as long as its process does not."""
    rows = rows_of_a_worker()
    (worker,) = multiprocessing.active_children()
    next(rows)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(worker.pid, number)
    assert len(list(rows)) == 8
    # Kept to the end, when multiprocessing asks it to end.
    kept.append(rows_of_a_worker())
    next(kept[-1])


kept = []


def ended(target) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    return code


def test_a_forked_process_ends_its_workers():
    """Such as one of a notebook that trains on several processes."""
    assert ended(signalled) == 0


def after_another() -> None:
    """As `signalled`, in a process of which another was forked that has ended."""
    ending(os.getpid())
    assert ended(lambda: None) == 0
    child = os.fork()
    if child == 0:
        raise SystemExit(0)
    os.waitpid(child, 0)
    signalled()


def test_the_end_of_another_process_ends_no_worker():
    assert ended(after_another) == 0
