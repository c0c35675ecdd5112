"""What a run shows while it goes: one bar on a terminal, and a line in the log for each log step and evaluation."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from renaissance_cli.mistakes import visible

from .report import figures


logger = logging.getLogger(__name__)


class Bar:
    """
    The one bar of a run, on stderr: that of training, which also says how far an evaluation during training is, or else
    that of an evaluation. Without a terminal, as in a file, there is none.
    """

    def __init__(self):
        self.shown: tqdm | None = None
        self.label = ""

    def begin(self, label: str, total: int | None, done: int = 0, unit: str = " steps") -> None:
        """Show the bar at `done` of `total`."""
        self.end()
        self.label = label
        # Where there is no terminal, tqdm's `None` shows nothing.
        self.shown = tqdm(desc=label, total=total, initial=done, unit=unit, disable=None, **width())

    def advance(self, steps: int = 1, **figures: str) -> None:
        """Go `steps` on, and show `figures` behind the bar, if any are given."""
        if self.shown is not None:
            if figures:
                self.shown.set_postfix(figures, refresh=False)
            self.shown.update(steps)

    def say(self, text: str = "") -> None:
        """Write in front of the bar what happens now, between two steps; nothing: its own label."""
        if self.shown is not None:
            self.shown.set_description_str(text or self.label)

    def end(self) -> None:
        """Close the bar, so that the next line begins on a line of its own."""
        if self.shown is not None:
            self.shown.close()
        self.shown = None


def width() -> dict[str, Any]:
    """Return tqdm's arguments for a bar as wide as the terminal, or of 80 columns if that does not know its width."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 20}


#: The bar of this process.
BAR = Bar()


def track(items: Sequence, label: str, silent: bool) -> Iterator:
    """Go through `items`; show in the bar of the run, or in one of its own, how far, unless it is to be `silent`."""
    inside = BAR.shown is not None
    if not (inside or silent):
        BAR.begin(label, len(items), unit=" batches")
    for number, item in enumerate(items, 1):
        yield item
        if not silent:
            BAR.say(f"{label} {number}/{len(items)}") if inside else BAR.advance()
    if not silent:
        BAR.say() if inside else BAR.end()


class BarHandler(logging.Handler):
    """Writes log lines to stderr, above the bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(visible(self.format(record)), file=sys.stderr)
            sys.stderr.flush()
        except Exception:  # as every handler of `logging` does
            self.handleError(record)


class ProgressLog(TrainerCallback):
    """Shows the bar, and logs a line for each log step of training and each evaluation, in place of Trainer's dictionaries."""

    def __init__(self):
        self.began, self.first_step, self.batches = 0.0, 0, 0
        self.training = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.began, self.first_step, self.training = time.perf_counter(), state.global_step, True
        if shows(args, state):
            BAR.begin("training", state.max_steps, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if shows(args, state):
            BAR.advance()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.training = False
        BAR.end()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader=None, **kwargs
    ) -> None:
        if not shows(args, state):
            return
        self.batches += 1
        total = len(eval_dataloader)
        if self.training:
            BAR.say(f"evaluating {self.batches}/{total}")
            return
        if self.batches == 1:
            BAR.begin("evaluating", total, unit=" batches")
        BAR.advance()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.batches = 0
        BAR.say() if self.training else BAR.end()

    on_predict = on_evaluate

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs
    ) -> None:
        # The last log of training repeats what the summary says.
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        if "loss" in logs:
            # The loss of each step would have to be waited for on a GPU.
            BAR.advance(0, loss=f"{logs['loss']:.4g}")
            parts = [*figures(logs), f"{self.time_left(state)} left"]
        else:
            parts = figures(logs)
        logger.info(f"{place(state) if self.training else 'evaluation'}: {', '.join(parts)}")

    def time_left(self, state: TrainerState) -> str:
        """Return how long the rest of training takes at the pace of this run so far, evaluations included."""
        done = max(state.global_step - self.first_step, 1)
        left = (time.perf_counter() - self.began) / done * (state.max_steps - state.global_step)
        return tqdm.format_interval(left)


def shows(args: TrainingArguments, state: TrainerState) -> bool:
    """Return whether this process shows a bar, if there is a terminal."""
    return state.is_world_process_zero and not args.disable_tqdm


def place(state: TrainerState) -> str:
    """Return how far training is."""
    return f"step {state.global_step}/{state.max_steps}, epoch {state.epoch:.4g}"
