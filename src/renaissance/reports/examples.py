"""Joins the predictions of a run with the rows that they are of: right and wrong ones, with their images, and a confusion matrix."""

import dataclasses
import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from PIL import Image, ImageDraw

from renaissance_cli.subcommands import SUBCOMMANDS

from ..checkpoints import CheckpointArguments, load_config
from ..model_cards.plain_text import is_hub_id
from ..processing.decoding import MAX_PIXELS, to_rgb
from ..processing.masking import IGNORED
from ..processing.vqa_answers import answer_accuracy
from ..tasks.base import Task
from ..tasks.data.captioned import CaptionedImages
from ..tasks.data.glue import labels_of
from ..tasks.folder_files import read_mapping
from ..tasks.models import classes_in
from ..tasks.supervised import row_ids
from .predictions import Prediction, read_predictions
from .runs import Run


#: Options of the data that name files and folders.
PLACES = ("dataset", "train_file", "validation_file", "test_file", "image_folder")
#: Colours of boxes: the one that was chosen, and the right one.
CHOSEN, TRUE = "#d55e00", "#009e73"
#: From this share of the credit on, an answer to a question counts as right here.
ENOUGH = 0.5


@dataclass
class Judged:
    """
    A row with its prediction.

    Attributes:
        number: Its number in the split.
        answer, label: The answer and the label in words; of several, a list. `None` if there is none.
        right: Whether the answer is right; `None` if that is not known.
        remarks: What else there is to say, by name.
    """

    number: int
    answer: Any
    label: Any
    right: bool | None
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """
    Where files lie that the options of a run name. When the run, or the study that it is of, has moved, those below the same folder have
    moved with it.

    Attributes:
        then: A folder above the run, as the run's own options name it; of a run that was started there and has not moved, no folder.
        now: Where that folder is now.
    """

    then: Path
    now: Path

    @classmethod
    def of(cls, folder: Path, options: dict[str, Any]) -> "Places":
        """Return the places of the run that lies in a folder by now: what its path and its option `output_dir` end in is the same."""
        own, written = folder.resolve().parts, Path(str(options.get("output_dir") or "")).parts
        same = 0
        while same < min(len(own), len(written)) and own[-same - 1] == written[-same - 1]:
            same += 1
        if same in (0, len(own)):
            return cls(Path(), Path.cwd())
        return cls(Path(*written[:-same]), Path(*own[: len(own) - same]))

    def find(self, name: str) -> Path:
        """Return where a file or folder that an option names lies now; one that has not moved with the run starts from the current folder."""
        path = Path(name)
        if path.is_relative_to(self.then) and (moved := self.now / path.relative_to(self.then)).exists():
            return moved
        return Path.cwd() / path

    def public(self, text: str) -> str:
        """Return a text without the folders that are above the run and the current one."""
        return text.replace(f"{self.now}/", "").replace(f"{Path.cwd()}/", "")


class JudgedSplit:
    """
    The rows of a split that a run has predicted, each with its prediction.

    Args:
        run: The run.
        path: One of its files of predictions.

    Raises:
        ValueError: If the predictions or the data cannot be read, or do not belong together; in one line.
    """

    def __init__(self, run: Run, path: Path):
        self.path = path
        predictions, options = read_predictions(path), options_of(run.folder)
        places = Places.of(run.folder, options)
        self.max_pixels = options.get("max_image_pixels") or MAX_PIXELS
        try:
            self.task = task_of(run, options, places)
            self.split = split_of(path, self.task)
            self.data = self.task.load(self.split)
            ranks = isinstance(self.data, CaptionedImages)
            self.rows = self.judge_ranks(predictions) if ranks else self.judge(predictions)
        except (DatasetsError, OSError, ValueError) as error:
            # A page may be shared, and says nothing of where the folders lie.
            raise ValueError(f"the data cannot be read: {places.public(str(error))}") from error
        except (TypeError, LookupError, AttributeError) as error:
            fault = f"the predictions, the data and run.yaml do not belong together ({type(error).__name__})"
            raise ValueError(f"the data cannot be read: {fault}") from error

    def judge(self, predictions: list[Prediction]) -> list[Judged]:
        """Return the rows of a table with their predictions."""
        refuse_others(self.path, [each.id for each in predictions], [str(name) for name in row_ids(self.data)])
        target = self.task.target
        labels = self.data[target][:] if target in self.data.column_names else [None] * len(predictions)
        pairs = zip(predictions, labels, strict=True)
        return [self.judged(number, *pair) for number, pair in enumerate(pairs)]

    def judged(self, number: int, prediction: Prediction, label: Any) -> Judged:
        """Return a row with its prediction and its label, as the data have it."""
        answer, remarks = prediction.answer, {}
        if prediction.probability is not None:
            remarks["probability"] = f"{prediction.probability:.3f}"
        if self.task.target == "answers":
            if not label:
                return Judged(number, answer, None, None)
            credit = answer_accuracy(answer, label)
            given = ", ".join(f"{each} ({count})" for each, count in Counter(label).most_common(3))
            return Judged(number, answer, given, credit >= ENOUGH, {"credit": f"{credit:.2f}"})
        if label is None or label == IGNORED or label != label:
            return Judged(number, answer, None, None, remarks)
        if self.has_boxes:
            none = answer is None
            return Judged(number, None if none else f"box {answer}", f"box {label}", answer == label)
        if getattr(self.task, "is_regression", False):
            error = abs(float(answer) - float(label))
            return Judged(number, answer, f"{label:g}", None, {"difference": f"{error:.3f}"})
        names = self.names()
        if isinstance(label, list):
            own = [names[each] for each in label]
            return Judged(number, answer, own, set(answer) == set(own))
        return Judged(number, answer, names[label], answer == names[label], remarks)

    def names(self) -> list[str]:
        """Return the names of the classes as the file of predictions has them, by their numbers in the data."""
        if getattr(self.task, "layout", None) is None:
            return self.task.names
        written = dict(zip(self.task.classes, labels_of(self.task.data_arguments.task_name), strict=True))
        return [written[name] for name in self.task.names]

    def judge_ranks(self, predictions: list[Prediction]) -> list[Judged]:
        """Return the captions of a split with the images that were found for them."""
        order = self.data.order.tolist()
        captions = self.data.captions
        refuse_others(self.path, [each.caption for each in predictions], [captions[number] for number in order])
        rows = []
        for number, found in zip(order, predictions, strict=True):
            place = found.answer.index(found.id) + 1 if found.id in found.answer else None
            rank = {"rank of the right image": str(place) if place else f"not among the best {len(found.answer)}"}
            best = found.answer[0] if found.answer else None
            rows.append(Judged(number, best and f"image {best}", f"image {found.id}", place == 1, rank))
        return rows

    def texts(self, row: Judged) -> list[str]:
        """Return the texts of a row."""
        if isinstance(self.data, CaptionedImages):
            return [self.data.captions[row.number]]
        own = self.data[row.number]
        return [own[name] for name in ("text", "text_pair") if isinstance(own.get(name), str)]

    def images(self, row: Judged) -> list[Image.Image]:
        """Return the images of a row (RGB), with boxes if it has some. Raise `ValueError` if one cannot be read."""
        if isinstance(self.data, CaptionedImages):
            return [to_rgb(self.data.image(int(self.data.image_of[row.number])), self.max_pixels)]
        own = self.data[row.number]
        stored = own.get("images") or ([own["image"]] if own.get("image") is not None else [])
        images = [to_rgb(each, self.max_pixels) for each in stored]
        if own.get("boxes") and images:
            images[0] = with_boxes(images[0], own["boxes"], row)
        return images

    @property
    def has_boxes(self) -> bool:
        """Whether rows have boxes to choose among."""
        return not isinstance(self.data, CaptionedImages) and "boxes" in self.data.column_names

    def confusion(self) -> tuple[list[str], list[list[int]]] | None:
        """Return the classes and, for each class as label, how often each was the answer; `None` if rows have no single class. Answers
        that are no class, as of a model that has diverged, are the last one."""
        single = [row for row in self.rows if row.right is not None and isinstance(row.label, str)]
        if not single or self.task.target == "answers" or self.has_boxes or isinstance(self.data, CaptionedImages):
            return None
        names = list(self.names())
        names += ["(no answer)"] if any(row.answer not in names for row in single) else []
        counts = Counter((row.label, row.answer if row.answer in names else names[-1]) for row in single)
        return names, [[counts[label, answer] for answer in names] for label in names]


def task_of(run: Run, options: dict[str, Any], places: Places) -> Task:
    """
    Return the task of a run with these options, which reads the data as the run did, from where they lie now. Images are not downloaded. Raise `ValueError` if the task is none of the commands, or its folders or files are gone.
    """
    targets = {each.target.rpartition(":")[2]: each.target for each in SUBCOMMANDS.values() if each.is_task}
    if run.record.task not in targets:
        raise ValueError(f"the task {run.record.task} is none of the commands of renaissance")
    module, _, name = targets[run.record.task].partition(":")
    kind = getattr(importlib.import_module(module), name)
    fields = dataclasses.fields(kind.argument_class())
    given = {each.name: options[each.name] for each in fields if each.init and each.name in options}
    given = {key: value for key, value in given.items() if not key.startswith("download_")}
    for key in PLACES:
        if given.get(key) and places.find(given[key]).exists():
            given[key] = str(places.find(given[key]))
        elif given.get(key) and not (key == "dataset" and is_hub_id(given[key])):
            raise ValueError(f"{key}: no such file or folder {given[key]}")
    if "check_images" in given:
        # Only those that are shown are looked at.
        given["check_images"] = False
    models = [run.folder, places.find(str(options.get("model_name_or_path") or "?"))]
    saved = next((str(place) for place in models if (place / "config.json").is_file()), None)
    head = load_config(CheckpointArguments(saved)) if saved else None
    known = head is not None and (head.architectures or [""])[0].endswith(kind.kind)
    task = kind(kind.argument_class()(**given), classes_in(head) if known else None)
    if known:
        task.start_from(head)
    return task


def options_of(folder: Path) -> dict[str, Any]:
    """Return the options of the run that has predicted in a folder; raise `ValueError` if there are none."""
    for name in ("run_evaluation.yaml", "run.yaml"):
        try:
            options = read_mapping(folder / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if options.get("do_predict"):
            return options
    raise ValueError("no run.yaml with do_predict, which says where they are")


def split_of(path: Path, task: Task) -> str:
    """Return the split that a file of predictions is of; raise `ValueError` if the task predicts none of that name."""
    splits = list(task.test_splits)
    if len(splits) == 1:
        return splits[0]
    ending = {"MNLI-m": "_matched", "MNLI-mm": "_mismatched"}.get(path.stem, path.stem.removeprefix("predictions"))
    found = next((split for split in splits if split == ending.removeprefix("_") or split.endswith(ending)), None)
    if not ending or found is None:
        raise ValueError(f"{path.name} is of no split that the run predicts: {', '.join(splits)}")
    return found


def refuse_others(path: Path, found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise `ValueError` if predictions are not of these rows, in this order."""
    if len(found) != len(expected):
        raise ValueError(
            f"{path.name} has {len(found):,} predictions, and the data {len(expected):,} rows: the file is cut, or the data have changed"
        )
    other = next((row for row, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]), None)
    if other is not None:
        raise ValueError(
            f"{path.name} row {other} is of {found[other]!r}, and that of the data of {expected[other]!r}: the data have changed"
        )


def with_boxes(image: Image.Image, boxes: list[list[float]], row: Judged) -> Image.Image:
    """Return an image with boxes (left, top, width, height) drawn on it: the right one and the chosen one in colour."""
    image = image.copy()
    pen, width = ImageDraw.Draw(image), max(1, max(image.size) // 120)
    colours = {row.answer: CHOSEN, row.label: TRUE}
    order = sorted(range(len(boxes)), key=lambda number: f"box {number}" in colours)
    for number in order:
        left, top, wide, high = boxes[number]
        corners = (left, top, max(left + wide, left), max(top + high, top))
        colour = colours.get(f"box {number}")
        pen.rectangle(corners, outline=colour or "#9aa3ad", width=width * 2 if colour else width)
    return image
