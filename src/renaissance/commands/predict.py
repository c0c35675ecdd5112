"""
Ask a finetuned model about one example, or about a file or folder of examples.

    renaissance predict outputs/memes --image cat.jpg --text "me on monday"
    renaissance predict outputs/nlvr2 --image left.jpg right.jpg \\
        --text "Both dogs sleep."
    renaissance predict outputs/vqa --image cat.jpg --text "What colour is it?"
    renaissance predict outputs/refcoco --image cat.jpg --text "the left cat" \\
        --boxes 10,20,80,90 120,15,70,95
    renaissance predict outputs/glue --text "It rains." \\
        --text_pair "It is wet."
    renaissance predict outputs/cifar10 --image cat.jpg
    renaissance predict outputs/retrieval --file photos --text "a cat"
    renaissance predict outputs/retrieval --image cat.jpg \\
        --text "a cat" "a dog" "a bird"
    renaissance predict outputs/pretrained --image cat.jpg \\
        --text "a [MASK] on a sofa"
    renaissance predict outputs/memes --file new.csv --image_column picture \\
        --output answers.json

What the model needs follows from its head; a mistake says what is missing. A
retrieval or pretrained model says how likely image and text match: of several
texts for an image, or images for a text, it shows the best first. A pretrained
model also says which words stand for the [MASK]s of a text. A dual encoder says
how near image and text are, or which of several texts fits each image best:

    renaissance predict models/clip --file photos --text "a cat"
    renaissance predict models/clip --file photos --text "a cat" "a dog"

A model that was pretrained with questions, boxes or classes of images answers
with that head if it is asked for it:

    renaissance predict outputs/pretrained --objective vqa --image cat.jpg \\
        --text "What colour is it?"
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers.utils import logging

from renaissance_cli.extras import require_training_packages
from renaissance_cli.mistakes import one_line

from ..checkpoints import CheckpointArguments, add_loading_options, checkpoint_of
from ..modeling.answers import COMPARING
from ..modeling.encoders import source_name
from ..modeling.objectives import OBJECTIVES
from ..processing.decoding import MAX_PIXELS
from ..tasks.data.blank_texts import is_blank
from ..tasks.run_record import DataSplit, RunRecord
from .asked_model import BATCH, AskedModel, Row, Rows
from .parsing import OneLineParser, existing_folder, existing_place, new_file, number_in
from .records import record_of, write_record


if TYPE_CHECKING:
    from datasets import Dataset

#: How an option is called that gives a column for one example.
OPTIONS = {"images": "image"}
COLUMN_OPTIONS = tuple(f"{name}_column" for name in ("image", "images", "text", "text_pair", "boxes", "id"))


def main(arguments: list[str] | None = None) -> None:
    """Print the model's answers to what the command line names. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.disable_progress_bar()
    begun = time.time()
    try:
        check_options(args)
        model = AskedModel(checkpoint_of(args, "checkpoint"), args.top_k, args.objective)
        given = given_rows(args, model)
        rows: Rows = given if args.file is None else RowsOfFile(open_rows(args, model, given[0]), given[0])
        progress = tqdm(model.answers(rows), total=len(rows), unit=" rows", disable=len(rows) <= BATCH or None)
        entries = [{"id": row_id, "answer": it.text, "scores": it.scores, **it.details} for row_id, it in progress]
        if model.ranks(given[0]):
            entries.sort(key=lambda entry: -next(iter(entry["scores"].values())))
        if args.output:
            args.output.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            place = write_record(record_of_answers(args, parser, model, rows, begun), args.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    show(entries, args)
    if args.output:
        print(f"{len(entries)} answers written to {args.output}, the record of this run to {place}", file=sys.stderr)


def record_of_answers(
    args: argparse.Namespace, parser: argparse.ArgumentParser, model: AskedModel, rows: Rows, begun: float
) -> RunRecord:
    """Return the record of the answers to rows, which were begun at a time (`time.time`)."""
    options = {name: value for name, value in vars(args).items() if value != parser.get_default(name)}
    named = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    named["output"] = args.output.name
    start = CheckpointArguments(named.pop("checkpoint"), args.model_revision).at_revision
    data = DataSplit("examples", rows=len(rows))
    if isinstance(rows, RowsOfFile):
        from ..tasks.data.fingerprint import fingerprint

        data.sources, data.fingerprint = [source_name(str(args.file))], fingerprint(rows.table)
    return record_of(model.model, model.task, start, named, data, begun)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance predict", description=__doc__, formatter_class=raw)
    parser.add_argument("checkpoint", help="folder or Hub id of a finetuned model")
    parser.add_argument(
        "--objective",
        choices=[name for name, objective in OBJECTIVES.items() if objective.task_kind],
        help="of a pretrained model: the objective whose head answers (default: matching or missing words, else the first such)",
    )
    one = parser.add_argument_group("one example")
    images = "the image; of NLVR2 two, the left one first; of matching also several, which are ranked"
    one.add_argument("--image", nargs="+", metavar="FILE", help=images)
    texts = "the text, sentence, question or caption; of matching also several, which are ranked, and of a dual encoder the classes"
    one.add_argument("--text", nargs="+", help=texts)
    one.add_argument(
        "--text_pair", help="the second text, of a model for pairs; the hypothesis, if the first is a premise"
    )
    boxes = "boxes to choose among, each as left,top,width,height in pixels"
    one.add_argument("--boxes", nargs="+", metavar="BOX", help=boxes)
    many = parser.add_argument_group("many examples")
    files = (
        "a .csv, .tsv, .json, .jsonl, .parquet or .tar file, or a folder of images; options above hold for all rows"
    )
    many.add_argument("--file", type=existing_place, help=files)
    many.add_argument(
        "--image_folder",
        type=existing_folder,
        help="folder that paths in the file start from (default: that of the file)",
    )
    many.add_argument("--image_column", metavar="NAME", help="column of the images (default: image)")
    many.add_argument(
        "--images_column",
        nargs="+",
        metavar="NAME",
        help="column of lists of two images, or two columns (default: images)",
    )
    many.add_argument("--text_column", metavar="NAME", help="column of the texts (default: text)")
    many.add_argument("--text_pair_column", metavar="NAME", help="column of the second texts (default: text_pair)")
    many.add_argument("--boxes_column", metavar="NAME", help="column of lists of boxes (default: boxes)")
    many.add_argument(
        "--id_column", metavar="NAME", help="column of ids, for the output (default: id; of a folder, file_name)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=new_file,
        metavar="FILE",
        help="JSON file to write all answers and scores to; run.json beside it records the run",
    )
    output.add_argument(
        "--top_k", type=number_in(int, "[1, inf)"), default=5, help="choices to tell of, best first (default: 5)"
    )
    add_loading_options(parser)
    return parser


class RowsOfFile(Sequence):
    """The rows of a table, each with the values that are `given` for all, one after the other: all images may be too many."""

    def __init__(self, table: "Dataset", given: Row):
        self.table, self.given = table, given

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Row:
        return self.table[number] | self.given


def check_options(args: argparse.Namespace) -> None:
    """Raise `ValueError` if options are out of range or do not go together, whatever the model."""
    columns = [name for name in (*COLUMN_OPTIONS, "image_folder") if getattr(args, name) is not None]
    if columns and args.file is None:
        raise ValueError(f"{', '.join(f'--{name}' for name in columns)}: without effect without --file; leave it out")
    for name in ("text", "text_pair", "image", *COLUMN_OPTIONS):
        given = getattr(args, name)
        if any(value is not None and is_blank(value) for value in (given if isinstance(given, list) else [given])):
            kind = "a text" if name in ("text", "text_pair") else "a name"
            raise ValueError(f"--{name}: expected {kind}, got a blank one")
    for name in args.image or ():
        if Path(name).is_dir():
            raise ValueError(f"--image {name}: a folder, expected a file; --file {name} asks about all images in it")
        if not Path(name).is_file():
            raise ValueError(f"--image {name}: no such file")
    for box in args.boxes or ():
        parse_box(box)


def given_rows(args: argparse.Namespace, model: AskedModel) -> list[Row]:
    """
    Return the rows that the command line itself gives: one, or one for each of several texts or images that are to be matched
    with one of the other; several texts of a dual encoder are in one row, as a list. With a file, return what holds for all of its rows. Raise `ValueError` if the model has no use
    for it, or, unless there is a file, if something is missing.
    """
    wanted = model.columns
    stored = [{"bytes": None, "path": name} for name in args.image or ()]
    images = [stored] if stored and "images" in wanted else stored
    name = "images" if "images" in wanted else "image"
    # Several texts are the classes that a dual encoder chooses among, of each image.
    texts = [args.text] if model.task == COMPARING and len(args.text or ()) > 1 else args.text or []
    columns = {name: images, "text": texts, "text_pair": [args.text_pair] if args.text_pair else []}
    columns["boxes"] = [[parse_box(box) for box in args.boxes]] if args.boxes else []
    columns = {name: values for name, values in columns.items() if values}
    if idle := [f"--{OPTIONS.get(name, name)}" for name in columns if name not in wanted]:
        reads = " and ".join(wanted)
        raise ValueError(f"{', '.join(idle)}: without effect on a model {model.kind}, which reads {reads}")
    count = model.model.images_a_text or 1
    if "images" in columns and len(stored) != count:
        raise ValueError(f"--image: expected {count} for this model, got {len(stored)}")
    several = [name for name, values in columns.items() if len(values) > 1]
    if several and (args.file is not None or not model.of_pairs):
        place = "beside --file" if model.of_pairs else "for this model"
        raise ValueError(f"--{several[0]}: expected 1 {place}, got {len(columns[several[0]])}")
    if len(several) > 1:
        raise ValueError("--image, --text: expected one of one of them, to match several of the other with")
    missing = [f"--{OPTIONS.get(name, name)}" for name, needed in wanted.items() if needed and name not in columns]
    if missing and args.file is None:
        raise ValueError(f"a model {model.kind} needs {' and '.join(missing)}; or name a --file of examples")
    if not several:
        return [{name: values[0] for name, values in columns.items()}]
    ids = args.text if several == ["text"] else args.image
    rows = [{name: values[n % len(values)] for name, values in columns.items()} for n in range(len(ids))]
    return [row | {"id": row_id} for row, row_id in zip(rows, ids, strict=True)]


def parse_box(text: str) -> list[float]:
    """Return the four numbers of a box; raise `ValueError` if they are not four."""
    try:
        box = [float(number) for number in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(f"--boxes: expected left,top,width,height, such as 10,20,80,90, got {text!r}")
    return box


def open_rows(args: argparse.Namespace, model: AskedModel, given: Row) -> "Dataset":
    """Return the rows of the user's file, with the columns that the model reads; raise `ValueError` if one cannot be used."""
    # Reading tables needs packages that an answer to one example does not.
    require_training_packages()
    from datasets import Image, List, Value

    from ..tasks.data.boxes import check_boxes, check_boxes_inside
    from ..tasks.data.columns import check_counts, is_text
    from ..tasks.data.faults import Faults
    from ..tasks.data.loading import read_columns
    from ..tasks.data.opening import open_file

    features = {"image": Image(), "images": List(Image()), "text": Value("string"), "text_pair": Value("string")}
    features["boxes"] = List(List(Value("float32")))
    wanted = {name: needed for name, needed in model.columns.items() if name not in given}
    columns = {name: getattr(args, f"{name}_column") or name for name in (*wanted, "id")}
    faults = Faults(str(args.file), columns)
    table = open_file(args.file, faults)
    if not args.id_column:
        likely = ["id", "file_name"]
        if model.ranks(given):
            # They are ranked, and known by what tells them apart.
            likely += [columns[name] for name in ("image", "text") if name in wanted]
        named = [name for name in likely if isinstance(name, str) and name in table.column_names]
        columns["id"] = next((name for name in named if name == "id" or is_text(table.features[name])), "id")
    required = [name for name in columns if wanted.get(name) or getattr(args, f"{name}_column")]
    folder = args.image_folder or (args.file if args.file.is_dir() else args.file.parent)
    kinds = {name: features[name] for name in wanted}
    table = read_columns(table, kinds, columns, required, faults, folder)
    if model.model.images_a_text:
        check_counts(table, "images", model.model.images_a_text, faults)
    if check_boxes(table, faults) and "image" in table.column_names:
        check_boxes_inside(table, faults, MAX_PIXELS)
    rows = faults.leave_out(table)
    if not len(rows):
        raise ValueError(f"{args.file}: no rows")
    return rows


def show(entries: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the scores of one example, or a line for each of many."""
    if args.file is not None or len(entries) > 1:
        for entry in entries:
            print(f"{one_line(entry['id'])}\t{one_line(entry['answer'])}\t{next(iter(entry['scores'].values())):.3f}")
        return
    (entry,) = entries
    print(one_line(entry["answer"]))
    for number, scores in enumerate(entry.get("masks", [entry["scores"]])):
        lines = [f"  {score:6.3f}  {one_line(name)}" for name, score in scores.items()]
        print(*([] if number == 0 else [""]), *lines, sep="\n")
