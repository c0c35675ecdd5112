"""Answers in the rows of a table: lists of what people answered to the question of a row."""

from datasets import Dataset, List

from . import schemas
from .columns import column_of, in_words, is_name_or_number, replace_column, text_of, with_cells_read
from .faults import Faults
from .labels import warn_of_unlabelled


def answer_lists(data: Dataset, is_test: bool, faults: Faults) -> Dataset:
    """
    Return the data with a list of strings in each row of `answers`. It may have a single answer, numbers, JSON lists in
    cells of text, or VQA's own records of answers, as data sets on the Hub do. Add rows without an answer to `faults`; in a
    test split, whose rows are all predicted, they have an empty list.
    """
    called = faults.called("answers")
    data = with_cells_read(data, "answers", faults, or_text=True)
    feature = data.features["answers"]
    several = isinstance(feature, List)
    kind = feature.feature if several else feature
    rows = [value if several else [value] for value in column_of(data, "answers").to_pylist()]
    of_records = isinstance(kind, dict) and "answer" in kind
    if of_records:
        rows = [[record["answer"] for record in records or ()] for records in rows]
    if not is_name_or_number(kind["answer"] if of_records else kind):
        faults.add(f"expected answers, or lists of them, in {called}, found {in_words(feature)}")
        return data
    blank = [not any(answer is not None and str(answer).strip() for answer in answers or ()) for answers in rows]
    if is_test and any(blank):
        rows = [[] if is_blank else answers for is_blank, answers in zip(blank, rows, strict=True)]
        warn_of_unlabelled(sum(blank), len(rows), faults)
    for row, answers in enumerate(rows):
        if is_test and blank[row]:
            continue
        if not answers or None in answers or not any(str(answer).strip() for answer in answers):
            faults.add_row("answers", row, f"expected at least one answer in {called}, got {answers}")
    if feature == schemas.VQAV2["answers"] and not any(blank):
        return data
    strings = [[text_of(answer) for answer in answers or ()] for answers in rows]
    return replace_column(data, "answers", strings, schemas.VQAV2["answers"])
