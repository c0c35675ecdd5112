"""A text that shows nothing is blank, wherever it comes from."""

import json

import pyarrow as pa
import pytest
from datasets import Dataset
from preparing import make_coco, write_karpathy
from pyarrow import compute

from renaissance.tasks.data.blank_texts import BLANK, is_blank, trimmed
from renaissance.tasks.data.karpathy import read_karpathy
from renaissance.tasks.glue import GLUE, without_blank
from renaissance_cli.main import main


NOTHING = {
    "nothing": "", "spaces": " \t\n\u00a0\u3000", "zero-width space": "\u200b", "joiners": "\u200c\u200d\u2060", "byte-order mark": "\ufeff",
    "directions": "\u200e\u202e\u2066", "soft hyphen": "\u00ad", "controls": "\x00\x1f\x7f", "variation selector": "\ufe0f",
    "accent of no letter": "\u0301", "circle of no letter": "\u20dd", "separators": "\u2028\u2029", "Hangul filler": "\u3164", "empty braille": "\u2800",
    "all of it": " \u200b\ufeff\u0301\n",
}  # fmt: skip
SOMETHING = [
    "a",
    "\u200bx\u200b",
    "e\u0301",
    ".",
    "図",
    "🦊",
    "👩\u200d🦰",
    "\u0915\u094d",
    "\ufeff-",
    "0",
    "$",
    "\u2801",
    "ﬁ",
    "\ue000",
]


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING)
def test_a_text_that_shows_nothing_is_blank(text):
    assert is_blank(text) and trimmed(text) == ""


@pytest.mark.parametrize("text", SOMETHING)
def test_a_text_that_shows_something_is_not_blank(text):
    assert not is_blank(text) and trimmed(f" {text}\n") == text


def test_tables_have_the_same_blank_texts():
    texts = [*NOTHING.values(), *SOMETHING, None]
    found = compute.match_substring_regex(pa.array(texts), BLANK).to_pylist()
    assert found == [None if text is None else is_blank(text) for text in texts]


def test_rows_with_a_text_that_shows_nothing_are_named(tmp_path):
    rows = [
        {"text": text, "label": "ab"[number % 2]}
        for number, text in enumerate(["x", "\u200b", "y", "\ufeff \u200d", "z"])
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = GLUE(GLUE.arguments(train_file=str(tmp_path / "own.jsonl")), ["a", "b"])
    with pytest.raises(ValueError, match=r"the text in column 'text' is blank \(2 such rows: 1, 3\)"):
        task.load("train")


def test_public_data_leave_them_out(tmp_path, caplog):
    entries = make_coco(tmp_path)
    entries[0]["sentences"][0]["raw"] = "\u200b\n"
    write_karpathy(tmp_path, entries)
    rows = read_karpathy(tmp_path, "coco")["train"]
    assert rows[0]["captions"] == ["Caption 1 of 0."] and rows.left_out.by_rule["blank caption"] == 1
    data = Dataset.from_dict({"question1": ["a", "b"], "question2": ["d", "\u200b"], "label": [0, 1]})
    assert without_blank(data, ["question1", "question2"])["label"][:] == [0] and "1 of 2" in caplog.text


def test_a_model_is_not_asked_about_nothing(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "anything", "--text", "\u200b"])
    assert stopped.value.code == 2 and "--text: expected a text, got a blank one" in capsys.readouterr().err
