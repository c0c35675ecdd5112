"""A task of a user, whose collator or metric meets a mistake; a script that runs it on as many processes as it is launched on."""

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from renaissance.modeling.fields import option
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE, SNLIVEArguments


MESSAGE = "column 'text': expected a sentence\nof words: got a number, in row 5"


def mistake(kind: str) -> Exception:
    """An error as a user's code, or a library that it calls, raises it."""
    if kind == "unicode":
        return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    if kind == "json":
        return json.JSONDecodeError("Expecting value", "x", 0)
    return {"plain": ValueError(MESSAGE), "empty": ValueError(), "bug": KeyError("text")}[kind]


@dataclass
class FailingCollator:
    """The collator of a task, which fails in the second batch, or only on one of several processes."""

    collator: Any
    kind: str
    rank: str | None
    batches: int = 0

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        self.batches += 1
        if self.batches > 1 and self.rank in (None, os.environ.get("RANK")):
            if get_worker_info() is None:
                raise mistake(self.kind)
            try:
                raise KeyError("an earlier error")
            except KeyError:
                raise mistake(self.kind)  # noqa: B904 - as careless code does
        return self.collator(rows)


@dataclass
class FailingArguments(SNLIVEArguments):
    """Where and how it fails."""

    kind_of_mistake: str = option("plain", "Kind of the mistake.")
    place_of_mistake: str = option("collator", "Where it is met.")
    rank_of_mistake: str | None = option(None, "On which process it is met.")


class Failing(SNLIVE):
    """Entailment, with a mistake in training or in evaluation."""

    arguments = FailingArguments

    def collator(self, *args: Any) -> FailingCollator:
        found, arguments = super().collator(*args), self.data_arguments
        if arguments.place_of_mistake != "collator":
            return found
        return FailingCollator(found, arguments.kind_of_mistake, arguments.rank_of_mistake)

    def metrics(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.data_arguments.place_of_mistake == "metrics":
            raise mistake(self.data_arguments.kind_of_mistake)
        return super().metrics(*args, **kwargs)


if __name__ == "__main__":
    run_task(Failing, "", sys.argv[1:])
