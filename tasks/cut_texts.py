"""Tells how many texts of a run are longer than the model reads."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task
from .data.keyed_rows import KeyedRows


logger = logging.getLogger(__name__)

#: Texts of a split that are counted, evenly spread over it: enough for a share to half a per cent, in a second.
MOST = 10_000
#: Characters of these texts together, about, at most: those of long documents are fewer.
MOST_CHARACTERS = 20_000_000
#: Texts of a split whose lengths say how many that is.
PROBED = 250
#: A text is first cut to this number of characters for each token of the limit. If that has more tokens, so has the text.
CHARACTERS_A_TOKEN = 16
#: Texts that are tokenized at once.
AT_ONCE = 250


def report_cut_texts(task: Task, data: Mapping[str, Any], processor: RenaissanceProcessor) -> None:
    """Log for each split (`KeyedRows`, by name) the share of texts of more tokens than `processor` keeps. Streams, which
    have no length, and splits without text are passed over."""
    for split, rows in data.items():
        if isinstance(rows, IterableDataset):
            continue
        numbers, texts = sampled_texts(task, rows)
        if not texts:
            continue
        limit = processor.tokenizer.model_max_length
        cut = sum(
            too_long(processor, texts[start : start + AT_ONCE], limit) for start in range(0, len(texts), AT_ONCE)
        )
        count = len(texts) if len(numbers) == len(rows) else round(len(rows) * len(texts) / len(numbers))
        sample = "" if len(numbers) == len(rows) else f", of a sample of {len(texts):,}"
        report = f"split {split!r}: {cut / len(texts):.1%} of {count:,} texts ({cut:,}{sample}) have more than {limit} tokens"
        if cut:
            logger.warning(f"{report}, and {task.what_is_cut}; --max_length sets the limit")
        else:
            logger.info(report)


def sampled_texts(task: Task, rows: KeyedRows) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Return the numbers of rows that are evenly spread over a split (N,), and the texts of those of them that have some. Their number is at
    most `MOST`, and less if the texts are long."""
    numbers, texts = texts_of(task, rows, PROBED)
    characters = sum(len(text) for own in texts for text in own) / max(len(numbers), 1)
    return texts_of(task, rows, int(min(MOST, max(MOST_CHARACTERS / max(characters, 1), PROBED))))


def texts_of(task: Task, rows: KeyedRows, count: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Return `sampled_texts` of at most `count` rows."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(int))
    # Rows of other data sets may have no text.
    return numbers, [each for each in zip(*task.texts(rows.data, numbers), strict=True) if any(each)]


def too_long(processor: RenaissanceProcessor, texts: list[tuple[str, ...]], limit: int) -> int:
    """Return how many texts, or pairs, have more than `limit` tokens, without tokenizing the rest of those that are much longer."""
    most = CHARACTERS_A_TOKEN * limit
    counts = token_counts(processor, [[text[:most] for text in column] for column in zip(*texts, strict=True)])
    # The first characters may be blanks.
    unclear = [own for own, count in zip(texts, counts, strict=True) if count <= limit and max(map(len, own)) > most]
    whole = token_counts(processor, list(map(list, zip(*unclear, strict=True)))) if unclear else np.zeros(0)
    return int((counts > limit).sum() + (whole > limit).sum())


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
