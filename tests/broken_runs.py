"""How runs break off, what they say of bad rows, and whether one ended as another did."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


#: What a row may have in place of an image.
PAGE = b"<!DOCTYPE html>\n<html>gone</html>"


def report_of(folder: Path) -> list[dict]:
    """The bad rows that a run has listed."""
    return [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().split("\n") if line]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run or a checkpoint has saved."""
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = map(weights_of, (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Send(logging.Handler):
    """Sends signals to this process when a line is logged for the first time."""

    def __init__(self, line: str, *signals: int):
        super().__init__()
        self.line, self.signals = line, list(signals)

    def emit(self, record: logging.LogRecord) -> None:
        if re.match(self.line, record.getMessage()):
            while self.signals:
                os.kill(os.getpid(), self.signals.pop())


@contextmanager
def stopped_at(line: str, *signals: int) -> Iterator[pytest.ExceptionInfo]:
    """Send signals to the run in the block when a line of its log begins with a pattern; the block must end in `SystemExit`."""
    handler, logger = Send(line, *signals), logging.getLogger("renaissance")
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit) as end:
            yield end
    finally:
        logger.removeHandler(handler)
