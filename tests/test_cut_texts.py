"""The report on texts that are longer than the model reads, of every task with text."""

import logging
import os

import numpy as np
import pytest
import yaml
from conftest import TWO_TOWER
from datasets import Dataset
from test_glue import write_rte

from renaissance.tasks import cut_texts
from renaissance.tasks.cifar10 import CIFAR10, CIFAR10Arguments
from renaissance.tasks.cut_texts import report_cut_texts
from renaissance.tasks.data.keyed_rows import KeyedRows
from renaissance.tasks.glue import GLUE, GLUEArguments
from renaissance.tasks.nlvr2 import NLVR2, NLVR2Arguments
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.retrieval import Retrieval


LOGGER = "renaissance.tasks.cut_texts"


@pytest.fixture
def short(processor):
    """The processor, with room for six tokens: the special ones and four words, or three of a pair."""
    before = processor.tokenizer.model_max_length
    processor.tokenizer.model_max_length = 6
    yield processor
    processor.tokenizer.model_max_length = before


def report(task, data, processor, caplog) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=LOGGER):
        report_cut_texts(task, {"train": KeyedRows(data, True)}, processor)
    return caplog.text


def test_the_share_of_single_texts_and_of_pairs(short, caplog):
    words = ["a red circle", "a small red circle"] * 2 + ["a red circle and a blue square"]
    task = NLVR2(NLVR2Arguments(dataset="x"))
    text = report(task, Dataset.from_dict({"text": words}), short, caplog)
    assert "split 'train': 20.0% of 5 texts (1) have more than 6 tokens, and their ends are cut off" in text
    assert "WARNING" in text and "--max_length" in text
    task = GLUE(GLUEArguments(dataset="x"))
    pairs = Dataset.from_dict({"text": ["red", "a red"], "text_pair": ["small circle", "small circle"]})
    assert "50.0% of 2 texts (1) have more than 6 tokens" in report(task, pairs, short, caplog)
    whole = report(task, pairs.select([0]), short, caplog)
    assert "0.0% of 1 texts (0) have more than 6 tokens" in whole and "WARNING" not in whole
    assert report(CIFAR10(CIFAR10Arguments(dataset="x")), Dataset.from_dict({"label": [0]}), short, caplog) == ""


def test_a_sample_is_spread_over_the_split(short, caplog, monkeypatch):
    monkeypatch.setattr(cut_texts, "MOST", 100)
    long = np.arange(1000) >= 700
    data = Dataset.from_dict({"text": ["a red circle and a blue square" if row else "a" for row in long.tolist()]})
    text = report(NLVR2(NLVR2Arguments(dataset="x")), data, short, caplog)
    assert "30.0% of 1,000 texts (30, of a sample of 100)" in text


def test_long_documents_are_not_tokenized_to_their_ends(short, caplog, monkeypatch):
    """A few of their characters say that they are too long; but blanks say nothing."""
    counted, given = cut_texts.token_counts, []
    monkeypatch.setattr(
        cut_texts, "token_counts", lambda *args: given.append(sum(map(len, args[1][0]))) or counted(*args)
    )
    data = Dataset.from_dict({"text": ["a red circle " * 1000] * 4 + [" " * 1000 + "a red circle"]})
    text = report(NLVR2(NLVR2Arguments(dataset="x")), data, short, caplog)
    assert "80.0% of 5 texts (4) have more than 6 tokens" in text and max(given) < 3000
    monkeypatch.setattr(cut_texts, "MOST_CHARACTERS", 20_000)
    monkeypatch.setattr(cut_texts, "PROBED", 2)
    text = report(NLVR2(NLVR2Arguments(dataset="x")), data.select([0] * 10), short, caplog)
    assert "100.0% of 10 texts (2, of a sample of 2)" in text


def test_the_environment_is_left_as_it_was(short, monkeypatch):
    for value in (None, "true"):
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        if value:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
        assert cut_texts.token_counts(short, [["a red circle"]]).tolist() == [5]
        assert os.environ.get("TOKENIZERS_PARALLELISM") == value


@pytest.mark.parametrize("task", [Pretraining, Retrieval])
def test_captions_are_counted(task, shapes, options, caplog):
    """As many as the shortest and the longest captions of all say."""
    folder = str(shapes / "captions")
    data = ["--train_datasets", folder] if task is Pretraining else ["--dataset", folder]
    limit = 12
    argv = [*TWO_TOWER, *options, *data, "--do_train", "--do_eval", "--max_length", str(limit)]
    with caplog.at_level(logging.INFO, logger=LOGGER):
        trainer, *_ = prepare(task, "", argv)
    tokenizer = trainer.processing_class.tokenizer
    for split, rows in (("train", 32), ("validation", 10)):
        captions = Dataset.from_parquet(f"{folder}/{split}-00000-of-00001.parquet")["captions"][:]
        texts = [caption for own in captions for caption in own]
        cut = sum(len(tokenizer.tokenize(text)) + 2 > limit for text in texts)
        assert len(captions) == rows and 0 < cut < len(texts)
        assert (
            f"split '{split}': {cut / len(texts):.1%} of {len(texts):,} texts ({cut}) have more than 12" in caplog.text
        )


def test_glue_is_read_at_128_tokens(tmp_path, options, caplog):
    """The recipe overrules the 50 tokens of a checkpoint; and a run with fewer says what it cuts."""
    recipe = "run_scripts/recipes/glue.yaml"
    with open(os.path.join(os.path.dirname(__file__), "..", recipe)) as file:
        assert yaml.safe_load(file)["max_length"] == 128
    data = ["--dataset", str(write_rte(tmp_path / "rte")), "--task_name", "rte", "--do_eval", "--do_predict"]
    with caplog.at_level(logging.INFO, logger=LOGGER):
        prepare(GLUE, "", [*TWO_TOWER, *options, *data, "--max_length", "8"])
    # Three words each, and three special tokens.
    for split, rows in (("validation", 30), ("test", 10)):
        assert f"split '{split}': 100.0% of {rows} texts ({rows}) have more than 8 tokens" in caplog.text
