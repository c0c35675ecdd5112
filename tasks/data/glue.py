"""Reader of the tasks of GLUE (Wang et al. 2019) in their public layout: a folder of TSV files each."""

import logging
import math
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, read_text


logger = logging.getLogger(__name__)

HELP = """{name} of GLUE: train, dev -> validation, test (without labels).

Files: https://gluebenchmark.com/tasks

Expected layout, the task's own folder:
    SOURCE/{files}

Of MRPC, whose files come from a script, the test file may be missing. run_glue.py reads the folder as it is too."""

#: Our split names to the files. Test files have no labels.
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
MNLI_SPLITS = {
    "train": "train.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}

#: The share of the lines of a file known to be damaged that may be left out.
MAX_DAMAGED = 0.001
#: The scores of STS-B.
LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0


@dataclass(frozen=True)
class Layout:
    """The files of a task: GLUE's name of it, the columns of its one or two texts and of its label, and its splits."""

    folder: str
    texts: tuple[str, ...]
    label: str = "label"
    #: The labels in the files, in the order of the schema's classes; by default the names of the classes.
    labels: tuple[str, ...] = ()
    #: The columns of the training and development files, if those have no line that names them.
    header: tuple[str, ...] = ()
    #: Whether some lines of the public files are known to be broken, or to lack a text.
    damaged: bool = False
    splits: dict[str, str] = field(default_factory=lambda: SPLITS)


LAYOUTS = {
    "cola": Layout("CoLA", ("sentence",), labels=("0", "1"), header=("source", "label", "judgement", "sentence")),
    "mnli": Layout("MNLI", ("sentence1", "sentence2"), "gold_label", splits=MNLI_SPLITS),
    "mrpc": Layout("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1")),
    "qnli": Layout("QNLI", ("question", "sentence")),
    "qqp": Layout("QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), damaged=True),
    "rte": Layout("RTE", ("sentence1", "sentence2")),
    "sst2": Layout("SST-2", ("sentence",), labels=("0", "1")),
    "stsb": Layout("STS-B", ("sentence1", "sentence2"), "score"),
    "wnli": Layout("WNLI", ("sentence1", "sentence2"), labels=("0", "1")),
}


def labels_of(task_name: str) -> list[str]:
    """Return the labels in a task's files, in the order of its classes; none if they are scores."""
    return list(LAYOUTS[task_name].labels) or schemas.classes_of(schemas.GLUE[task_name])


def read_glue(source: str | os.PathLike, task_name: str) -> dict[str, list[dict]]:
    """Return the rows of a task; `source` is its own folder. A missing test file is left out, with a warning. Raise
    `ValueError` as `read_glue_split` does."""
    splits = {}
    for split, name in LAYOUTS[task_name].splits.items():
        if split.startswith("test") and not (Path(source) / name).is_file():
            logger.warning(f"{Path(source) / name} does not exist: there will be no split {split!r}")
        else:
            splits[split] = read_glue_split(source, task_name, split)
    return splits


def read_glue_split(source: str | os.PathLike, task_name: str, split: str) -> list[dict]:
    """
    Return the rows of one split of a task; `source` is its own folder.

    The id of a row is the file's own index, or else its number; predictions for the benchmark name rows by it. `label`
    is the number of a class, or a score, and None in a test file. The files have no quoting: a quotation mark is a
    part of the text. Lines of QQP that are broken or lack a question are left out and counted in a warning.

    Raises:
        ValueError: As `PublicDataSet` says; if a line has another number of fields than the first, or more than a thousandth
            of the lines of QQP are broken.
    """
    layout = LAYOUTS[task_name]
    path = Path(source) / layout.splits[split]
    is_test = split.startswith("test")
    # Only \n ends a line: some sentences hold other line separators.
    lines = read_text(path).removesuffix("\n").split("\n")
    lines = [[field.strip() for field in line.split("\t")] for line in lines]
    if lines == [[""]]:
        raise ValueError(f"{path} is empty")
    header, first = (list(layout.header), 1) if layout.header and not is_test else (lines[0], 2)
    needed = [*layout.texts, *([] if is_test else [layout.label])]
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path}: no column {', '.join(missing)} in the first line, only {', '.join(header)}")
    classes = labels_of(task_name)
    rows, damaged, ids = [], [], set()
    for number, fields in enumerate(lines[first - 1 :]):
        where = f"{path}: line {number + first}"
        if fault := _fault(fields, header, layout):
            if is_test or not layout.damaged:
                raise ValueError(f"{where} {fault}")
            damaged.append(where)
            continue
        entry = dict(zip(header, fields, strict=True))
        row = {"id": entry.get("index", entry.get("id", str(number)))}
        row |= zip(("text", "text_pair"), (entry[name] for name in layout.texts), strict=False)
        written = entry.get(layout.label)
        row["label"] = None if is_test and written is None else _parse_label(written, classes, where)
        if row["id"] in ids:
            raise ValueError(f"{where} repeats the index {row['id']}: expected each once")
        ids.add(row["id"])
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows")
    if len(damaged) > MAX_DAMAGED * len(lines):
        raise ValueError(f"{path}: {len(damaged)} of {len(lines)} lines are broken, the first {damaged[0]}")
    if damaged:
        logger.warning(f"{path}: {len(damaged)} broken lines of {len(lines)} left out, the first {damaged[0]}")
    return rows


def _fault(fields: list[str], header: list[str], layout: Layout) -> str | None:
    """Return what is wrong with a line that lacks fields or a text."""
    if len(fields) != len(header):
        return f"has {len(fields)} fields between tabs: expected {len(header)}, {', '.join(header)}"
    blank = [name for name in layout.texts if not fields[header.index(name)]]
    return f"has no text in column {blank[0]}" if blank else None


def _parse_label(written: str, classes: list[str], where: str) -> int | float:
    if classes:
        if written not in classes:
            raise ValueError(f"{where} has the label {written!r}: expected one of {', '.join(classes)}")
        return classes.index(written)
    try:
        score = float(written)
    except ValueError:
        score = math.nan
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
        raise ValueError(
            f"{where} has the score {written!r}: expected a number from {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}"
        )
    return score


DATA_SETS = {
    task: PublicDataSet(
        HELP.format(name=layout.folder, files=", ".join(layout.splits.values())),
        schemas.GLUE[task],
        partial(read_glue, task_name=task),
    )
    for task, layout in LAYOUTS.items()
}
