"""Reader of the tasks of GLUE (Wang et al. 2019) in their public layout: a folder of TSV files each."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import schemas
from .blank_texts import is_blank
from .readers import (
    PublicDataSet,
    SourceRows,
    Unusable,
    require_source,
    wanted_splits,
    warn_of_no_split,
    without_split,
)
from .text_files import text_lines


HELP = """{name} of GLUE: train, dev -> validation, test (without labels).

Files: https://gluebenchmark.com/tasks

Expected layout, the task's own folder:
    SOURCE/{files}

Test files may be missing, as MRPC's, whose files come from a script. `renaissance glue` reads the folder as it is too."""

#: Our split names to the files. Test files have no labels.
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
MNLI_SPLITS = {
    "train": "train.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}

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
    #: Whether some training rows are known to lack a text.
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


def read_glue(source: str | os.PathLike, task_name: str, splits: Iterable[str] | None = None) -> dict[str, SourceRows]:
    """Return the rows of a task; `source` is its own folder. A missing test file is left out, with a warning, unless it is
    asked for. Raise `ValueError` as `PublicDataSet` says."""
    layout = LAYOUTS[task_name]
    files = {split: Path(source) / layout.splits[split] for split in wanted_splits(splits, layout.splits)}
    tests = {split: path for split, path in files.items() if split.startswith("test") and not path.is_file()}
    absent = tests if splits is None else {}
    files = {split: path for split, path in files.items() if split not in absent}
    require_source({split: [path] for split, path in files.items()})
    for split, path in absent.items():
        warn_of_no_split(split, path)
    return {split: read_glue_split(source, task_name, split) for split in files}


def read_glue_split(source: str | os.PathLike, task_name: str, split: str) -> SourceRows:
    """
    Return the rows of one split of a task; `source` is its own folder.

    The id of a row is the file's own index, or else its number; predictions for the benchmark name rows by it. `label`
    is the number of a class, or a score, and None in a test file. The files have no quoting: a quotation mark is a
    part of the text. Lines that cannot be used are left out and counted, but not those of a test file, for which the
    benchmark waits.

    Raises:
        ValueError: If the file is missing, not UTF-8, empty, or lacks a column, or a line of a test file cannot be used.
    """
    layout = LAYOUTS[task_name]
    path = Path(source) / layout.splits[split]
    is_test = split.startswith("test")
    if not path.is_file():
        raise ValueError(f"{path} does not exist{without_split(split)}")
    lines = [(number, [field.strip() for field in line.split("\t")]) for number, line in text_lines(path)]
    header = list(layout.header) if layout.header and not is_test else lines.pop(0)[1]
    needed = [*layout.texts, *([] if is_test else [layout.label])]
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path}: no column {', '.join(missing)} in the first line, only {', '.join(header)}")
    classes, ids, read = labels_of(task_name), set(), SourceRows([])
    for position, (number, fields) in enumerate(lines):
        with read.left_out.entry(f"{path}: line {number}", "a row"):
            row = _parse_row(fields, header, layout, position)
            if row["id"] in ids:
                raise Unusable("repeated index", f"repeats the index {row['id']}: expected each once")
            written = row.pop("label")
            row["label"] = None if is_test and written is None else _parse_label(written, classes)
            ids.add(row["id"])
            read.entries.append(row)
    if is_test and (bad := read.left_out.bad):
        raise ValueError(f"{bad[0]['where']} {bad[0]['reason']}; the benchmark waits for every row of a test file")
    if not lines:
        raise ValueError(f"{path} has no rows")
    return read


def _parse_row(fields: list[str], header: list[str], layout: Layout, position: int) -> dict:
    """Return the row of a line, with its label as it is written; raise `Unusable` if it lacks fields or a text."""
    if len(fields) != len(header):
        expected = f"expected {len(header)}, {', '.join(header)}"
        raise Unusable("other number of fields", f"has {len(fields)} fields between tabs: {expected}")
    entry = dict(zip(header, fields, strict=True))
    if blank := [name for name in layout.texts if is_blank(entry[name])]:
        raise Unusable("blank text", f"has no text in column {blank[0]}")
    row = {"id": entry.get("index", entry.get("id", str(position)))}
    row |= zip(("text", "text_pair"), (entry[name] for name in layout.texts), strict=False)
    return row | {"label": entry.get(layout.label)}


def _parse_label(written: str, classes: list[str]) -> int | float:
    if classes:
        if written not in classes:
            raise Unusable("unknown label", f"has the label {written!r}: expected one of {', '.join(classes)}")
        return classes.index(written)
    try:
        score = float(written)
    except ValueError:
        score = math.nan
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
        expected = f"expected a number from {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}"
        raise Unusable("score out of range", f"has the score {written!r}: {expected}")
    return score


DATA_SETS = {
    task: PublicDataSet(
        HELP.format(name=layout.folder, files=", ".join(layout.splits.values())),
        schemas.GLUE[task],
        partial(read_glue, task_name=task),
        splits=tuple(layout.splits),
    )
    for task, layout in LAYOUTS.items()
}
