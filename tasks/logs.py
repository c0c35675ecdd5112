"""The log of a run: one format for all lines, and none that nobody can act on."""

import logging
import os
import re
import sys

import datasets
import huggingface_hub.utils
import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from .progress import BarHandler


def set_up_logging(args: TrainingArguments) -> None:
    """
    Log lines of this package and of transformers to stderr, of the main process only, at the level that the arguments ask
    for, above the bar of the run. Libraries show no bars of their own during a run, nor any bar in a file.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[run_handler()])
    level = args.get_process_log_level()
    is_plain = args.should_log and args.log_level == "passive"
    logging.getLogger("renaissance").setLevel(logging.INFO if is_plain else level)
    transformers_logging.set_verbosity(max(level, logging.WARNING))
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()
    if args.disable_tqdm or not sys.stderr.isatty():
        datasets.disable_progress_bars()
        huggingface_hub.utils.disable_progress_bars()
    if not torch.accelerator.is_available():
        # Else DeepSpeed, which accelerate imports in every run, warns that it has found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def run_handler() -> logging.Handler:
    """Return the handler of a run's log."""
    handler = BarHandler()
    handler.addFilter(shorten_loading_report)
    return handler


def shorten_loading_report(record: logging.LogRecord) -> bool:
    """Make one line of transformers' table of the weights that a checkpoint lacks, or has too many of. Return true."""
    if " LOAD REPORT" not in (text := record.getMessage()):
        return True
    modules: dict[str, list[str]] = {}
    for key, status in re.findall(r"^([\w.{}, -]+?)\s*\|\W*(MISSING|UNEXPECTED|MISMATCH)", text, flags=re.MULTILINE):
        modules.setdefault(status, []).append(key.partition(".")[0])
    source = re.search(r"from: (.*)", text)
    parts = [
        f"{words} {', '.join(dict.fromkeys(modules[status]))}"
        for status, words in (
            ("MISSING", "new, random weights for"),
            ("MISMATCH", "new, random weights of another size for"),
            ("UNEXPECTED", "without use for"),
        )
        if status in modules
    ]
    if parts and source:
        record.msg, record.args = f"{source[1].strip()}: {'; '.join(parts)}", ()
    return True
