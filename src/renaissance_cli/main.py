"""The start of the command `renaissance`. It imports next to nothing, so that Ctrl-C ends it in one line from the first moment on."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


def main(argv: list[str] | None = None) -> None:
    """
    Run a subcommand. A mistake ends in one line and exit code 2, Ctrl-C in one line and exit code 130.

    Args:
        argv: The command line without the name of the command; that of the process by default.
    """
    try:
        with ending_at_once():
            from .dispatch import dispatch

            run = dispatch(sys.argv[1:] if argv is None else argv)
        if run is not None:
            run()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # A pager or `head` that has seen enough. What is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """
    A context in which Ctrl-C ends the process: while modules are imported, some of them make another error of the exception, and
    there is nothing to clean up.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        os.write(2, b"stopped by Ctrl-C before anything began; the same command starts again\n")
        os._exit(130)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
