"""Text corpora of plain text: a document a line. And a part of each document that is too long for the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from ...processing.processing_renaissance import RenaissanceProcessor
from .blank_texts import is_blank
from .schemas import STRING
from .text_files import MARKS


#: Keeps the windows apart from what objectives draw for the same row.
PURPOSE = 0xD0C
#: Characters that are tokenized for each token of a part: a token rarely has as many.
CHARACTERS_A_TOKEN = 16
#: Characters before the drawn one among which its word begins. Some tokenizers make one word of a whole text.
MOST_OF_A_WORD = 40


def is_corpus(name: str) -> bool:
    """Return whether this names a file of plain text."""
    return Path(name).suffix.lower() == ".txt" and not Path(name).is_dir()


def open_documents(path: Path) -> Dataset:
    """
    Return the documents of a text file in UTF-8, one a line, as a column `text`. Blank lines are left out. They are written to the
    cache of `datasets` once and mapped into memory from there, so that a corpus may be larger than the memory.

    Raises:
        ValueError: If there is no such file, no document in it, or it is not UTF-8; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    state = path.stat()
    try:
        return Dataset.from_generator(
            documents_of,
            features=Features({"text": STRING}),
            # The state tells the cache that the file has changed. It is no list, which `datasets` would take for shards.
            gen_kwargs={"path": str(path), "state": f"{state.st_mtime_ns} {state.st_size}"},
        )
    except DatasetGenerationError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def documents_of(path: str, state: str) -> Iterator[dict[str, str]]:
    """Yield the documents of a file; raise `ValueError` as `open_documents` does."""
    found = False
    with open(path, "rb") as file:
        for number, content in enumerate(file, start=1):
            if number == 1:
                mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
                if mark and MARKS[mark] != "utf-8-sig":
                    raise ValueError(f"{path} is {MARKS[mark]}, as its first bytes say: save it as UTF-8")
                content = content.removeprefix(mark)
            try:
                text = content.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                byte = f"line {number} has the byte 0x{content[error.start]:02x} (Latin-1?)"
                raise ValueError(f"{path} is not UTF-8: {byte}; save the file as UTF-8") from error
            if "\0" in text:
                raise ValueError(f"{path} is not text: line {number} has the byte 0x00; expected a document a line")
            if "\r" in text:
                ends = "expected a document a line; save the file with line feeds, as on Unix or Windows"
                raise ValueError(f"{path}: line {number} has a carriage return inside; {ends}")
            if not is_blank(text):
                found = True
                yield {"text": text}
    if not found:
        raise ValueError(f"{path} is empty: expected a document a line")


@dataclass
class DocumentWindows:
    """
    Cuts a part out of each text without an image that is too long for the model, and leaves the rest to another collator. The part
    begins at a word that is drawn by the seed and the row's epoch and sample id, so that epochs read other parts and a resumed run
    repeats them. Texts beside images stay: their ends are cut off, as in every task.
    """

    collator: Callable[[list[dict]], dict[str, Any]]
    processor: RenaissanceProcessor
    seed: int

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        return self.collator([row if "image" in row else self.windowed(row) for row in rows])

    def windowed(self, row: dict) -> dict:
        """Return a row with a part of its text that the model can read as a whole."""
        text, tokenizer = row["text"], self.processor.tokenizer
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        # A token has at least one character.
        if len(text) <= room:
            return row
        # All of a document of millions of characters would take seconds.
        reach = CHARACTERS_A_TOKEN * room
        end = self.tokens(text[-reach:])
        # Hundreds of blanks have no tokens.
        if not end.ids or (len(end.ids) <= room and len(text) <= reach):
            return row
        last = max(len(text) - reach, 0) + end.offsets[max(len(end.ids) - room, 0)][0]
        rng = np.random.default_rng((self.seed, row["epoch"], row["sample_id"], PURPOSE))
        drawn = int(rng.integers(last + 1))
        before = max(drawn - MOST_OF_A_WORD, 0)
        piece = text[before : drawn + reach]
        tokens = self.tokens(piece)
        if not tokens.ids:
            return row
        start = word_start(tokens, piece, drawn - before, is_whole=before == 0)
        final = min(start + room, len(tokens.ids)) - 1
        return row | {"text": piece[tokens.offsets[start][0] : tokens.offsets[final][1]].strip()}

    def tokens(self, text: str) -> Any:
        """Return the tokens of a text, without special ones, and where they lie in it."""
        tokenizer = self.processor.tokenizer
        return tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False).encodings[0]


def word_start(tokens: Any, text: str, place: int, is_whole: bool) -> int:
    """Return the number of the first token of the word that has the character `place` of a text; of the token that has it, if its word begins
    before the text, which `is_whole` rules out."""
    drawn = next((number for number, (_, end) in enumerate(tokens.offsets) if end > place), len(tokens.ids) - 1)
    for start in range(drawn, 0, -1):
        # Some tokenizers make one word of a whole text, and take a blank into the token behind it.
        blank = text[tokens.offsets[start][0] - 1 : tokens.offsets[start][0] + 1]
        if tokens.word_ids[start] != tokens.word_ids[start - 1] or any(map(str.isspace, blank)):
            return start
    return 0 if is_whole else drawn
