"""Text corpora: a document a line, and parts of documents that are too long for the model."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from renaissance.processing.objectives import MaskedTextData
from renaissance.tasks.data.documents import DocumentWindows, open_documents
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.pretraining_arguments import DataSource, PretrainingArguments


pytestmark = pytest.mark.usefixtures("dataset_cache")


def test_a_text_file_has_a_document_a_line(corpus):
    path, lines = corpus
    assert open_documents(path)["text"][:] == lines
    # A file that has changed is read anew.
    path.write_text("one\ntwo\u2028more\n")
    assert open_documents(path)["text"][:] == ["one", "two\u2028more"]


def test_a_text_file_is_read_beside_a_table_with_a_column_of_another_name(corpus, tmp_path):
    folder = tmp_path / "asked"
    Dataset.from_dict({"question": ["how many ?"] * 3}).to_parquet(folder / "train-00000-of-00001.parquet")
    sources = [str(folder), str(corpus[0])]
    task = Pretraining(PretrainingArguments(train_datasets=sources, text_column="question"))
    task.objectives = [MaskedTextData()]
    texts = [task.table(DataSource(source, False), "train")["text"][:] for source in sources]
    assert texts == [["how many ?"] * 3, corpus[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"fine\ncaf\xe9\n",
            r"corpus.txt is not UTF-8: line 2 has the byte 0xe9 \(Latin-1\?\); save the file as UTF-8",
        ),
        (b"\n \n", "corpus.txt is empty: expected a document a line"),
        ("text".encode("utf-16"), "corpus.txt is utf-16, as its first bytes say"),
        (b"text\nbytes\0more\n", "corpus.txt is not text: line 2 has the byte 0x00"),
        (
            b"one\r\ntwo\r\n\rthree\rfour\r",
            "corpus.txt: line 3 has a carriage return inside; .* save the file with line feeds",
        ),
    ],
)
def test_files_that_are_no_text_are_refused(content, message, tmp_path):
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_documents(tmp_path / "corpus.txt")


def test_each_epoch_reads_another_part_of_a_long_document(processor):
    windows = DocumentWindows(list, processor, seed=1)
    words = [
        f"{colour} {shape}"
        for colour in ("red", "green", "blue")
        for shape in ("circle", "square", "star", "triangle")
    ]
    text = " , ".join(words * 6)
    limit = processor.tokenizer.model_max_length
    rows = [{"text": text, "sample_id": number, "epoch": epoch} for epoch in range(3) for number in range(4)]
    parts = [row["text"] for row in windows(rows)]
    assert parts == [row["text"] for row in windows(rows)] and len(set(parts)) > 6
    for part in parts:
        assert f" {part}" in f" {text}"
        assert len(processor.tokenizer(part, truncation=False)["input_ids"]) == limit
    # Texts beside images, and those that fit, stay.
    short, beside = rows[0] | {"text": "a red circle"}, rows[0] | {"image": None}
    assert windows([short, beside]) == [short, beside]


def test_no_more_of_a_long_document_is_tokenized_than_a_part_needs(processor, monkeypatch):
    windows, read, tokens = DocumentWindows(list, processor, seed=1), [], DocumentWindows.tokens
    monkeypatch.setattr(DocumentWindows, "tokens", lambda self, text: read.append(len(text)) or tokens(self, text))
    text = "a red circle , " * 20_000
    limit = processor.tokenizer.model_max_length
    rows = [{"text": text, "sample_id": number, "epoch": 0} for number in range(8)]
    for row in windows(rows):
        assert len(processor.tokenizer(row["text"], truncation=False)["input_ids"]) == limit
    assert max(read) < 100 * limit
    # Blanks have no tokens: the text stays.
    blank = rows[0] | {"text": "a red circle" + " " * 100_000}
    assert windows([blank]) == [blank]


@pytest.mark.parametrize("words", ["\u7ea2\u8272\u5706\u5f62\u661f", ["an ", "unremarkable ", "red ", "circle "]])
def test_parts_begin_anywhere_if_a_text_is_one_word_to_the_tokenizer(words):
    """Metaspace without a split at blanks, of Chinese and of English: all parts began at 0."""
    text = "".join(np.random.default_rng(0).choice(list(words), 300)).strip()
    core = Tokenizer(models.BPE(unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    core.train_from_iterator([text], trainers.BpeTrainer(vocab_size=25, special_tokens=["?"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", model_max_length=16)
    windows = DocumentWindows(list, SimpleNamespace(tokenizer=tokenizer), seed=1)
    parts = [row["text"] for row in windows([{"text": text, "sample_id": n, "epoch": 0} for n in range(40)])]
    assert len(set(parts)) > 20 and all(part in text for part in parts)
    # In English they begin at words.
    assert " " not in text or all(f" {part}" in f" {text}" for part in parts)
