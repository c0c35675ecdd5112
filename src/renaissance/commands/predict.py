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
    renaissance predict outputs/photos --image cat.jpg
    renaissance predict outputs/memes --file new.csv --image_column picture \\
        --output answers.json

What the model needs follows from its head; a mistake says what is missing. A
retrieval or pretrained model says how likely image and text match.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, PreTrainedModel
from transformers.utils import logging

from renaissance_cli.extras import require_training_packages

from ..auto import AUTO_CLASSES
from ..modeling.configuration_renaissance import RenaissanceConfig
from ..modeling.pipeline_image_text import probabilities
from ..processing.collators import RegionCollator, RowCollator
from ..processing.processing_renaissance import RenaissanceProcessor


@dataclass
class Answer:
    """The answer to an example in words, and the scores of the choices, best first: from 0 to 1, or a plain number."""

    text: str
    scores: dict[str, float]
    details: dict[str, Any]


#: The columns that each kind of model reads.
COLUMNS = {
    "ForImagesAndTextClassification": ("images", "text"),
    "ForImageTextClassification": ("image", "text"),
    "ForVisualQuestionAnswering": ("image", "text"),
    "ForImageTextRetrieval": ("image", "text"),
    "ForPreTraining": ("image", "text"),
    "ForReferenceResolution": ("image", "text", "boxes"),
    "ForSequenceClassification": ("text", "text_pair"),
    "ForImageClassification": ("image",),
}
#: Columns that a row may lack.
OPTIONAL = ("text_pair", "id")
#: How an option is called that gives a column for one example.
OPTIONS = {"images": "image"}
COLUMN_OPTIONS = tuple(f"{name}_column" for name in ("image", "images", "text", "text_pair", "boxes", "id"))
BATCH = 16


def main(arguments: list[str] | None = None) -> None:
    """Print the model's answers to what the command line names. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.disable_progress_bar()
    try:
        kind, model, processor = load_model(args.checkpoint)
        given = given_columns(args, kind)
        rows = [given] if args.file is None else read_rows(args, kind, given)
        answers = list(ask(kind, model, processor, rows, args.top_k))
        if args.output:
            entries = [
                named(row, number) | as_entry(answer)
                for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
            ]
            args.output.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    show(rows, answers, args)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("renaissance predict", description=__doc__, formatter_class=raw)
    parser.add_argument("checkpoint", help="folder or Hub id of a finetuned model")
    one = parser.add_argument_group("one example")
    one.add_argument("--image", nargs="+", metavar="FILE", help="the image; of NLVR2 two, the left one first")
    one.add_argument("--text", help="the text, sentence, question or caption")
    one.add_argument("--text_pair", help="the second text, of a model for pairs of texts")
    boxes = "boxes to choose among, each as left,top,width,height in pixels"
    one.add_argument("--boxes", nargs="+", metavar="BOX", help=boxes)
    many = parser.add_argument_group("many examples")
    files = (
        "a .csv, .tsv, .json, .jsonl, .parquet or .tar file, or a folder of images; options above hold for all rows"
    )
    many.add_argument("--file", type=Path, help=files)
    many.add_argument(
        "--image_folder", type=Path, help="folder that paths in the file start from (default: that of the file)"
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
    many.add_argument("--id_column", metavar="NAME", help="column of ids, for the output (default: id)")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write all answers and scores to")
    output.add_argument("--top_k", type=int, default=5, help="choices to tell of, best first (default: 5)")
    return parser


def load_model(checkpoint: str) -> tuple[str, PreTrainedModel, RenaissanceProcessor]:
    """Return the kind of a checkpoint's head, its model and its processor; raise `ValueError` if it cannot predict."""
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint}: no checkpoint there ({str(error).splitlines()[0]})") from error
    if not isinstance(config, RenaissanceConfig):
        raise ValueError(f"{checkpoint} is a {config.model_type} model; expected a Renaissance checkpoint")
    saved = (config.architectures or [""])[0]
    kind = next((kind for kind in COLUMNS if saved.endswith(kind)), None)
    if kind is None:
        raise ValueError(
            f"{checkpoint} is a {saved or 'model without a head'}, which gives no answers; finetune it first"
        )
    if kind == "ForPreTraining" and "itm" not in config.objectives:
        raise ValueError(
            f"{checkpoint} was pretrained without image-text matching, and gives no answers; finetune it first"
        )
    model = AUTO_CLASSES[kind].from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    return kind, model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def given_columns(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """
    Return what the command line itself says of each row. Raise `ValueError` if the model has no use for it or, unless
    there is a file, if something is missing.
    """
    wanted = COLUMNS[kind]
    given = {"text": args.text, "text_pair": args.text_pair}
    if args.image:
        count = 2 if "images" in wanted else 1
        if len(args.image) != count:
            raise ValueError(f"--image: expected {count} for this model, got {len(args.image)}")
        if missing := [name for name in args.image if not Path(name).is_file()]:
            raise ValueError(f"--image {missing[0]}: no such file")
        stored = [{"bytes": None, "path": name} for name in args.image]
        given |= {"images": stored} if count == 2 else {"image": stored[0]}
    if args.boxes:
        given["boxes"] = [parse_box(box) for box in args.boxes]
    given = {name: value for name, value in given.items() if value is not None}
    if idle := [f"--{OPTIONS.get(name, name)}" for name in given if name not in wanted]:
        raise ValueError(f"{', '.join(idle)}: without effect on a model {kind}, which reads {' and '.join(wanted)}")
    missing = [f"--{OPTIONS.get(name, name)}" for name in wanted if name not in given and name not in OPTIONAL]
    if missing and args.file is None:
        raise ValueError(f"a model {kind} needs {' and '.join(missing)}; or name a --file of examples")
    if args.top_k < 1:
        raise ValueError(f"--top_k: expected at least 1, got {args.top_k}")
    columns = [name for name in (*COLUMN_OPTIONS, "image_folder") if getattr(args, name) is not None]
    if columns and args.file is None:
        raise ValueError(f"{', '.join(f'--{name}' for name in columns)}: without effect without --file; leave it out")
    return given


def parse_box(text: str) -> list[float]:
    """Return the four numbers of a box; raise `ValueError` if they are not four."""
    try:
        left, top, width, height = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--boxes: expected left,top,width,height, such as 10,20,80,90, got {text!r}") from error
    return [left, top, width, height]


def read_rows(args: argparse.Namespace, kind: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the user's file, with the columns that the model reads; raise `ValueError` if one cannot be used."""
    # Reading tables needs packages that an answer to one example does not.
    require_training_packages()
    from datasets import Image, List, Value

    from ..tasks.data.faults import Faults
    from ..tasks.data.loading import read_columns
    from ..tasks.data.opening import open_file

    features = {"image": Image(), "images": List(Image()), "text": Value("string"), "text_pair": Value("string")}
    features["boxes"] = List(List(Value("float32")))
    wanted = [name for name in (*COLUMNS[kind], "id") if name not in given]
    columns = {name: getattr(args, f"{name}_column") or name for name in wanted}
    required = [name for name in wanted if name not in OPTIONAL or getattr(args, f"{name}_column")]
    faults = Faults(str(args.file), columns)
    table = open_file(args.file, faults)
    folder = args.image_folder or (args.file if args.file.is_dir() else args.file.parent)
    table = read_columns(
        table, {name: features[name] for name in wanted if name in features}, columns, required, faults, folder
    )
    rows = [row | given for row in faults.leave_out(table)]
    if not rows:
        raise ValueError(f"{args.file}: no rows")
    return rows


def ask(
    kind: str, model: PreTrainedModel, processor: RenaissanceProcessor, rows: list[dict[str, Any]], top_k: int
) -> Iterator[Answer]:
    """Yield the model's answer to each row."""
    collator = RegionCollator(processor) if "boxes" in COLUMNS[kind] else RowCollator(processor)
    for start in range(0, len(rows), BATCH):
        numbered = list(enumerate(rows[start : start + BATCH], start))
        batch = collator([row | {"sample_id": number} for number, row in numbered])
        with torch.inference_mode():
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits
        logits = logits["itm"] if kind == "ForPreTraining" else logits
        for (_, row), scores in zip(numbered, logits.float().cpu(), strict=True):
            yield ANSWERS.get(kind, class_answer)(scores, row, model.config, top_k)


def class_answer(logits: torch.Tensor, row: dict, config: RenaissanceConfig, top_k: int) -> Answer:
    """Return the most likely class of logits (classes,); the number of a regression; or all classes above one half."""
    if config.problem_type == "regression":
        return Answer(f"{logits.item():.3f}", {"score": logits.item()}, {})
    if config.problem_type == "multi_label_classification":
        scores = best(probabilities(logits, config.problem_type), config, len(logits))
        chosen = [name for name, score in scores.items() if score > 0.5]
        return Answer(
            ", ".join(chosen) or "none", dict(list(scores.items())[: max(top_k, len(chosen))]), {"answers": chosen}
        )
    return best_answer(probabilities(logits, config.problem_type), config, top_k)


def question_answer(logits: torch.Tensor, row: dict, config: RenaissanceConfig, top_k: int) -> Answer:
    """Return the best answer by logits (answers,), each of which is scored alone."""
    return best_answer(logits.sigmoid(), config, top_k)


def match_answer(logits: torch.Tensor, row: dict, config: RenaissanceConfig, top_k: int) -> Answer:
    """Return how likely image and text match: of log-odds (1,), or of logits (2,) of no and yes."""
    match = (logits[-1] - logits[0] if len(logits) == 2 else logits[0]).sigmoid().item()
    return Answer("match" if match > 0.5 else "no match", {"match": match}, {})


def box_answer(logits: torch.Tensor, row: dict, config: RenaissanceConfig, top_k: int) -> Answer:
    """Return the box that is meant, by logits of at least as many regions as the row has boxes."""
    shares = logits[: len(row["boxes"])].softmax(-1)
    order = shares.argsort(descending=True).tolist()
    scores = {f"box {number}": shares[number].item() for number in order[:top_k]}
    box = [round(value, 2) for value in row["boxes"][order[0]]]
    return Answer(
        f"box {order[0]}: {', '.join(f'{value:g}' for value in box)}", scores, {"box": box, "choice": order[0]}
    )


ANSWERS: dict[str, Callable[[torch.Tensor, dict, RenaissanceConfig, int], Answer]] = {
    "ForVisualQuestionAnswering": question_answer,
    "ForImageTextRetrieval": match_answer,
    "ForPreTraining": match_answer,
    "ForReferenceResolution": box_answer,
}


def best(scores: torch.Tensor, config: RenaissanceConfig, top_k: int) -> dict[str, float]:
    """Return the names of the best of some scores (classes,), with these."""
    order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
    return {config.id2label[number]: scores[number].item() for number in order}


def best_answer(scores: torch.Tensor, config: RenaissanceConfig, top_k: int) -> Answer:
    """Return the class with the best of some scores (classes,)."""
    found = best(scores, config, top_k)
    return Answer(next(iter(found)), found, {})


def named(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the id of a row, or its number."""
    return {"id": row.get("id", number)}


def as_entry(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data."""
    return {"answer": answer.text, "scores": answer.scores, **answer.details}


def show(rows: list[dict[str, Any]], answers: list[Answer], args: argparse.Namespace) -> None:
    """Print the scores of one example, or a line for each of many, and where they were written."""
    if args.file is None:
        print(answers[0].text)
        for name, score in answers[0].scores.items():
            print(f"  {score:6.3f}  {name}")
    else:
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            print(f"{named(row, number)['id']}\t{answer.text}\t{next(iter(answer.scores.values())):.3f}")
    if args.output:
        print(f"{len(answers)} answers written to {args.output}", file=sys.stderr)
