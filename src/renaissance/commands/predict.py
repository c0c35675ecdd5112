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
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from renaissance_cli.extras import require_training_packages
from renaissance_cli.mistakes import one_line

from ..checkpoints import (
    CheckpointArguments,
    add_loading_options,
    checkpoint_of,
    load_config,
    load_model,
    load_processor,
)
from ..modeling.answers import (
    CHOOSING,
    COMPARING,
    FILLING,
    LEAST_PROBABILITY,
    MATCHING,
    OF_TEXTS,
    best_choices,
    score_choices,
    score_words,
)
from ..modeling.architectures import HEADS
from ..modeling.encoders import source_name
from ..processing.collators import RegionCollator, RowCollator, require_tokens
from ..processing.decoding import MAX_PIXELS
from ..tasks.data.blank_texts import is_blank
from ..tasks.run_record import DataSplit, RunRecord
from .parsing import OneLineParser, existing_folder, existing_place, new_file, number_in
from .records import record_of, write_record


if TYPE_CHECKING:
    from datasets import Dataset

#: How an option is called that gives a column for one example.
OPTIONS = {"images": "image"}
COLUMN_OPTIONS = tuple(f"{name}_column" for name in ("image", "images", "text", "text_pair", "boxes", "id"))
BATCH = 16


Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass
class Answer:
    """The answer to an example in words, and the scores of the choices, best first: from 0 to 1, or a plain number."""

    text: str
    scores: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> None:
    """Print the model's answers to what the command line names. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.disable_progress_bar()
    begun = time.time()
    try:
        check_options(args)
        model = AskedModel(checkpoint_of(args, "checkpoint"), args.top_k)
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
    args: argparse.Namespace, parser: argparse.ArgumentParser, model: "AskedModel", rows: Rows, begun: float
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


class AskedModel:
    """
    A finetuned model and its processor, and what it reads and says.

    Args:
        checkpoint: Where it is.
        top_k: Number of choices of an answer.

    Raises:
        ValueError: If there is no such checkpoint, or its model gives no answers.
    """

    def __init__(self, checkpoint: CheckpointArguments, top_k: int):
        config = load_config(checkpoint)
        saved = (config.architectures or [""])[0]
        kind = next((kind for kind in HEADS if saved.endswith(kind)), None)
        if not config.fuses and kind in (None, "ForPreTraining"):
            # Its vectors are those of the base model.
            kind = "ForImageTextRetrieval"
        name = checkpoint.model_name_or_path
        if kind is None:
            raise ValueError(
                f"{name} is a {saved or 'model without a head'}, which gives no answers; finetune it first"
            )
        self.model = load_model(kind, checkpoint).eval()
        self.task = self.model.pipeline_task
        if self.task is None:
            objectives = ", ".join(self.model.config.objectives)
            fault = (
                f"was pretrained with {objectives} alone, and gives no answers" if objectives else "gives no answers"
            )
            raise ValueError(f"{name}, a {saved}, {fault}; finetune it first")
        self.processor = load_processor(checkpoint)
        if self.model.config.pixel_mean is None:
            # Only a processor that was fit to a model has told it how to normalise pixels.
            self.processor.fit(self.model, keep_image_size=True)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.kind, self.top_k = kind, top_k
        #: The token that stands for a missing word, if the model can say which.
        head = getattr(self.model, "vocabulary_head", lambda: None)()
        self.mask = self.processor.tokenizer.mask_token if head is not None else None
        #: Whether it is asked for missing words; known once it has seen the first text.
        self.fills: bool | None = None
        #: The last texts that were compared with images, and their vectors.
        self._texts: list[str] = []
        self._vectors: torch.Tensor | None = None

    @property
    def of_pairs(self) -> bool:
        """Whether it has a score for an image and a text, by which one can rank others."""
        return self.task in (MATCHING, COMPARING) and self.fills is not True

    def ranks(self, given: Row) -> bool:
        """Whether images are ranked for a text, or texts for an image, that is `given` on the command line and the same in all rows."""
        return self.of_pairs and bool(given) and not isinstance(given.get("text"), list)

    @property
    def columns(self) -> dict[str, bool]:
        """The columns that the model reads, and whether a row must have each."""
        images = "images" if self.model.images_a_text else "image"
        columns = {images: self.mask is None} if "image" in self.model.needs or self.mask else {}
        columns |= {"text": True} if "text" in self.model.needs else {}
        pairs = self.model.config.text_pairs
        # Of older checkpoints it is not known.
        columns |= {"text_pair": bool(pairs)} if pairs or (pairs is None and self.task == OF_TEXTS) else {}
        return columns | ({"boxes": True} if self.task == CHOOSING else {})

    def answers(self, rows: Rows) -> Iterator[tuple[Any, Answer]]:
        """Yield the id of each row, or its number, and the model's answer; raise `ValueError` if a row cannot be used."""
        collator = RegionCollator(self.processor) if self.task == CHOOSING else RowCollator(self.processor)
        for start in range(0, len(rows), BATCH):
            numbers = range(start, min(start + BATCH, len(rows)))
            batch = [{"sample_id": number} | rows[number] for number in numbers]
            self.check_masks(batch)
            with torch.inference_mode():
                if self.task == COMPARING:
                    answers = self.compare(batch)
                else:
                    inputs = {name: value.to(self.model.device) for name, value in collator(batch).items()}
                    answers = self.fill(batch, inputs) if self.fills else self.choose(batch, inputs)
            for row, answer in zip(batch, answers, strict=True):
                yield row.get("id", row.get("file_row", row["sample_id"])), answer

    def check_masks(self, batch: list[Row]) -> None:
        """Find out whether the model is asked for missing words; raise `ValueError` if only some rows ask for that."""
        if self.fills is None:
            self.fills = self.task == FILLING or (self.mask is not None and self.mask in batch[0]["text"])
        if self.task == FILLING and self.mask is None:
            raise ValueError("the tokenizer of this model has no token for missing words, so that it gives no answers")
        for row in batch if self.mask else ():
            if (self.mask in row["text"]) != self.fills:
                expected = f"{self.mask} in it, for each missing word" if self.fills else f"no {self.mask} in it"
                raise ValueError(f"text {shorten(row['text'], 60)!r}: expected {expected}, as in all texts of a call")
            if not self.fills and "image" not in row:
                raise ValueError(f"a model {self.kind} needs --image, or a text with {self.mask}")

    def fill(self, batch: list[Row], inputs: Row) -> list[Answer]:
        """Return each text with the best word for each mask, and the scores of the best words."""
        tokenizer, answers = self.processor.tokenizer, []
        for row, masks in zip(batch, score_words(self.model, inputs, tokenizer.mask_token_id), strict=True):
            start, *rest = row["text"].split(self.mask)
            if len(masks) != len(rest):
                limit = tokenizer.model_max_length
                raise ValueError(
                    f"text {shorten(row['text'], 60)!r}: {self.mask} lies beyond the {limit} tokens that the model reads"
                )
            words: list[dict[str, float]] = []
            for scores in masks:
                words.append({})
                for number, score in best_choices(scores.cpu(), self.top_k):
                    words[-1].setdefault(tokenizer.decode([number]).strip(), score)
            filled = start + "".join(next(iter(found)) + part for found, part in zip(words, rest, strict=True))
            answers.append(Answer(filled, words[0], {"masks": words} if len(words) > 1 else {}))
        return answers

    def choose(self, batch: list[Row], inputs: Row) -> list[Answer]:
        """Return the best choice of each row, and the scores of the best ones."""
        return [
            self.answer_of(scores, row)
            for row, scores in zip(batch, score_choices(self.model, inputs).cpu(), strict=True)
        ]

    def compare(self, batch: list[Row]) -> list[Answer]:
        """
        Return the cosine of each row's image and text or, if rows have a list of texts, the text that fits each image best, and the
        probabilities of all of them.
        """
        images = {id(row["image"]): row["image"] for row in batch}
        inputs = self.processor(images=list(images.values()), as_uint8=True, return_tensors="pt")
        found = self.model.get_image_features(**inputs.to(self.model.device)).pooler_output
        found = found[[list(images).index(id(row["image"])) for row in batch]]
        if isinstance(batch[0]["text"], list):
            texts = batch[0]["text"]
            scores = self.model.contrastive_head.probabilities(found, self.vectors_of(texts)).cpu()
            named = [{texts[number]: score for number, score in best_choices(row, self.top_k)} for row in scores]
            return [Answer(next(iter(best)), best) for best in named]
        cosines = (found * self.vectors_of([row["text"] for row in batch])).sum(dim=-1).tolist()
        return [Answer(f"{cosine:.3f}", {"cosine": cosine}) for cosine in cosines]

    def vectors_of(self, texts: list[str]) -> torch.Tensor:
        """Return the vectors (T, size) of texts, those of the call before if they are the same."""
        if texts != self._texts:
            distinct = list(dict.fromkeys(texts))
            inputs = self.processor(text=distinct, return_tensors="pt")
            require_tokens([], distinct, inputs["attention_mask"])
            found = self.model.get_text_features(**inputs.to(self.model.device)).pooler_output
            self._texts, self._vectors = texts, found[[distinct.index(text) for text in texts]]
        return self._vectors

    def answer_of(self, scores: torch.Tensor, row: Row) -> Answer:
        """Return the answer to a row by the scores (choices,) of `score_choices`."""
        if self.task == MATCHING:
            match = scores.item()
            return Answer("match" if match > 0.5 else "no match", {"match": match})
        if self.task == CHOOSING:
            best = best_choices(scores[: len(row["boxes"])], self.top_k)
            choice = best[0][0]
            box = [round(value, 2) for value in row["boxes"][choice]]
            text = f"box {choice}: {', '.join(f'{value:g}' for value in box)}"
            return Answer(text, {f"box {number}": score for number, score in best}, {"box": box, "choice": choice})
        config = self.model.config
        if config.problem_type == "regression":
            return Answer(f"{scores.item():.3f}", {"score": scores.item()})
        named = {config.id2label[number]: score for number, score in best_choices(scores, len(scores))}
        if config.problem_type != "multi_label_classification":
            return Answer(next(iter(named)), dict(islice(named.items(), self.top_k)))
        chosen = [name for name, score in named.items() if score >= LEAST_PROBABILITY]
        shown = dict(islice(named.items(), max(self.top_k, len(chosen))))
        return Answer(", ".join(chosen) or "none", shown, {"answers": chosen})


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
