"""A `ValueError` is a mistake of the user wherever a run meets it: one line, and the exit code 2. Other errors are bugs, with a traceback."""

import logging
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from failing_task import Failing

from renaissance.tasks.processes import message_of
from renaissance.tasks.runner import run_task


SCRIPT = Path(__file__).with_name("failing_task.py")
WORDS = "error: column 'text': expected a sentence of words: got a number, in row 5\n"
UNICODE = "error: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte\n"
JSON = "error: Expecting value: line 1 column 1 (char 0)\n"


@pytest.fixture
def argv(options, shapes) -> list[str]:
    return [*TWO_TOWER, *options, "--dataset", str(shapes / "snli_ve"), "--do_train", "--max_steps", "6"]


@pytest.mark.parametrize(
    ("kind", "workers", "line"),
    [
        ("plain", "0", WORDS),
        ("plain", "2", WORDS),
        pytest.param("unicode", "0", UNICODE, marks=pytest.mark.slow),
        ("unicode", "1", UNICODE),
        pytest.param("json", "0", JSON, marks=pytest.mark.slow),
        pytest.param("json", "1", JSON, marks=pytest.mark.slow),
        pytest.param("empty", "0", "error: ValueError\n", marks=pytest.mark.slow),
        pytest.param("empty", "1", "error: ValueError\n", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_in_a_batch_ends_in_one_line(kind, workers, line, argv, refused):
    """In the main process, or in one that loads data, as the error of another one too."""
    words = [*argv, "--kind_of_mistake", kind, "--dataloader_num_workers", workers]
    assert refused(run_task, Failing, "", words).endswith(line)


@pytest.mark.parametrize(
    "words",
    [
        ["--do_eval"],
        pytest.param(["--eval_strategy", "steps", "--eval_steps", "2"], marks=pytest.mark.slow),
        pytest.param(["--do_predict"], marks=pytest.mark.slow),
    ],
)
def test_a_mistake_in_evaluation_ends_in_one_line(words, argv, refused):
    line = refused(run_task, Failing, "", [*argv, "--place_of_mistake", "metrics", "--max_steps", "2", *words])
    assert line.endswith(WORDS)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_bug_keeps_its_traceback(workers, argv, capsys):
    with pytest.raises(KeyError, match="text"):
        run_task(Failing, "", [*argv, "--kind_of_mistake", "bug", "--dataloader_num_workers", workers])
    assert "error: " not in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_has_the_traceback_if_it_is_to_have_details(argv, refused, caplog):
    caplog.set_level(logging.DEBUG, logger="renaissance")
    refused(run_task, Failing, "", [*argv, "--log_level", "debug"])
    logging.getLogger("renaissance").setLevel(logging.INFO)
    (record,) = [each for each in caplog.records if each.getMessage() == "where the mistake was found"]
    assert record.levelname == "DEBUG" and record.exc_info[2] is not None


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_mistake_on_one_of_two_processes_ends_both_in_one_line(rank, workers, argv, launch):
    words = [*argv, "--rank_of_mistake", rank, "--dataloader_num_workers", workers]
    done = launch(2, SCRIPT, *words, code=1)
    errors = [line for line in done.errors.splitlines() if "error: " in line]
    assert len(errors) == 1 and errors[0].endswith(WORDS.strip()), done.errors
    assert "Error: column" not in done.errors


def test_the_error_at_the_end_of_a_traceback_of_a_loader_process():
    begin = "Caught ValueError in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n"
    frame = '  File "a.py", line 3, in f\n    raise ValueError(x)\n    ~~~~~^^^^\n'
    second = "\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
    for text, message in {
        f"{begin}{frame}ValueError: a: b": "a: b",
        f"{begin}{frame}pkg.Own: one\n  two\nthree: 3": "one two three: 3",
        f"{begin}{frame}ValueError: a{second}{frame}pkg.Own: b": "b",
        f"{begin}{frame}ValueError": "ValueError",
        "Caught in the act: x": "Caught in the act: x",
        " spaces \n and lines ": "spaces and lines",
    }.items():
        assert message_of(ValueError(text)) == message
