"""Tells how many texts of a run are longer than the model reads."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task


logger = logging.getLogger(__name__)

#: Texts of a split that are counted, evenly spread over it: enough for a share to half a per cent, in a second.
MOST = 10_000


def report_cut_texts(task: Task, data: Mapping[str, Any], processor: RenaissanceProcessor) -> None:
    """Log for each split (`KeyedRows`, by name) the share of texts of more tokens than `processor` keeps. Streams, which
    have no length, and splits without text are passed over."""
    for split, rows in data.items():
        if isinstance(rows, IterableDataset):
            continue
        numbers = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int))
        columns = task.texts(rows.data, numbers)
        # Rows of other data sets may have no text.
        texts = [each for each in zip(*columns, strict=True) if any(each)]
        if not texts:
            continue
        limit = processor.tokenizer.model_max_length
        cut = int((token_counts(processor, list(map(list, zip(*texts, strict=True)))) > limit).sum())
        count = len(texts) if len(numbers) == len(rows) else round(len(rows) * len(texts) / len(numbers))
        sample = "" if len(numbers) == len(rows) else f", of a sample of {len(texts):,}"
        report = f"split {split!r}: {cut / len(texts):.1%} of {count:,} texts ({cut:,}{sample}) have more than {limit} tokens"
        if cut:
            logger.warning(f"{report}, and {task.what_is_cut}; --max_length sets the limit")
        else:
            logger.info(report)


def token_counts(processor: RenaissanceProcessor, columns: list[list[str]]) -> np.ndarray:
    """Return the number of tokens (N,) of each text, or of each pair if there are two columns, with all special tokens."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    # Threads here would make each loader process warn that it was forked after them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        encoding = processor.tokenizer(*columns, truncation=False, padding=False, verbose=False)
    finally:
        del os.environ["TOKENIZERS_PARALLELISM"]
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return np.array([len(ids) for ids in encoding["input_ids"]])
