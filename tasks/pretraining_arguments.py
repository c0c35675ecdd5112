"""The options of pretraining: its data sets, and what becomes of them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..modeling.fields import option
from ..processing.objectives import OBJECTIVE_DATA, ObjectiveData, check_choice
from .ablation import ABLATIONS
from .data.batches import BATCHES
from .data.documents import is_corpus
from .data.mixing import check_weights
from .data.served import parse_served
from .option_fields import build_from, given, options_of
from .own_data import FILES, OwnDataArguments


#: Options of rows that are no images with captions, or of their mixtures.
OF_MIXTURES = ("batches", "train_objectives", "text_column", "answers_column", "boxes_column", "label_column")


def location_of(name: str) -> Path | str:
    """Return what tells data sets apart: where a file or folder lies, however it is written, or the name of a Hub data set."""
    return Path(name).resolve() if Path(name).exists() else name


class DataSource(NamedTuple):
    """The data of a split: a name, whether it is a file or folder of the user for that split alone, and the objectives that its rows
    serve; `None` for all that its columns allow."""

    name: str
    is_file: bool
    objectives: tuple[str, ...] | None = None


@dataclass
class PretrainingArguments(OwnDataArguments):
    """Data and objectives of pretraining."""

    train_datasets: list[str] = option(
        [],
        "Data sets to train on: prepared folders, Hub data sets, and folders of Parquet files, of WebDataset's .tar files, "
        "or of images with a metadata file. Folders called train, val2017 and so on are splits. Rows may be images with captions, "
        "questions with answers (VQAv2) or expressions with boxes (RefCOCO), images with classes, or texts alone, also of a .txt file, "
        "a document a line; the columns say which.",
    )
    train_objectives: list[str] = option(
        [],
        "Objectives that the rows of each of train_datasets serve, with + between them, such as mlm+itm vqa; by default all that its "
        "columns allow.",
    )
    train_weights: list[float] = option(
        [],
        "Share of each of several train_datasets in the rows of an epoch, up to a common factor; by default that of its size.",
    )
    batches: str | None = option(
        None,
        "Batches of several train_datasets. shuffled: rows of all of them at random. mixed: each batch has rows of every data set, always as "
        "many, in proportion to the shares. homogeneous: all rows of a step are of one data set.",
        "mixed if the data sets have different columns or train_objectives and captions_per_image is 1, else shuffled",
        choices=BATCHES,
    )
    streaming: bool = option(
        False,
        "Read training data as it comes, without downloading or indexing it first: one caption of each image a pass. Needs "
        "max_steps.",
    )
    shuffle_buffer_size: int | None = option(
        None, "With streaming: rows of each data set that are shuffled at a time; 1000.", within="[1, inf)"
    )
    eval_datasets: list[str] = option(
        [],
        "The same for evaluation, by default the validation splits of the training data sets. Those that are trained on serve the same objectives.",
    )
    image_column: str | None = option(None, "Name of the column of images.", default_is="image")
    captions_column: str | None = option(
        None, "Name of the column of captions: a string, or a list of strings, a row.", default_is="captions"
    )
    image_id_column: str | None = option(
        None,
        "Name of the column that identifies an image; without one, rows with the same file or the same bytes are the same "
        "image.",
        default_is="image_id",
    )
    text_column: str | None = option(
        None, "Name of the column of questions, expressions or documents.", default_is="text"
    )
    answers_column: str | None = option(
        None, "Name of the column of answers: one or a list of them for each question.", default_is="answers"
    )
    boxes_column: str | None = option(
        None, "Name of the column of lists of boxes, [left, top, width, height] in pixels.", default_is="boxes"
    )
    label_column: str | None = option(
        None,
        "Name of the column of the class of an image, or of the number, from 0 on, of the box that an expression means.",
        default_is="label",
    )
    captions_per_image: int = option(
        1,
        "Maximum number of captions of one image in a batch. The image is encoded once for all of them, so a batch has fewer "
        "images.",
        within="[1, inf)",
    )
    max_train_samples: int | None = option(
        None,
        "Train on at most this many rows (image-caption pairs, questions, ...) of each data set, the first ones.",
        within="[1, inf)",
    )
    max_eval_samples: int | None = option(
        None, "Evaluate on at most this many rows of each data set, the first ones.", within="[1, inf)"
    )
    ablation: str | None = option(
        None,
        "With do_train false, evaluate on pairs of which one part is spoilt (Frank et al. 2021). The loss on masked words, with "
        "image_removed (a plain image of the mean colour), image_replaced (that of another row), or object_masked (the box that "
        "the text names is covered, which needs the columns boxes and label of RefCOCO); the accuracy of matching, with "
        "text_shuffled (its words in random order).",
        choices=tuple(ABLATIONS),
    )

    def __post_init__(self):
        super().__post_init__()
        self.check_sources()
        if self.ablation is not None:
            check_choice("ablation", self.ablation, tuple(ABLATIONS))
            if self.ablation == "object_masked" and self.streaming:
                raise ValueError("ablation: object_masked reads boxes, which a stream has not; leave out streaming")
        if self.train_weights:
            check_weights(self.train_weights, self.train_datasets)
        self.check_mixture()
        if self.streaming:
            self.shuffle_buffer_size = 1000 if self.shuffle_buffer_size is None else self.shuffle_buffer_size
            if self.captions_per_image > 1:
                raise ValueError("captions_per_image: without effect with streaming, one caption of each image a pass")
            if self.max_train_samples is not None:
                raise ValueError(
                    "max_train_samples: without effect with streaming, where max_steps says how long; leave it out"
                )
            if len(self.train_datasets) > 1 and not self.train_weights:
                raise ValueError("train_weights: needed to stream several train_datasets, whose sizes are not known")
        elif self.shuffle_buffer_size is not None:
            raise ValueError("shuffle_buffer_size: without effect without streaming; leave it out")

    def objective_data(self, names: Iterable[str]) -> list[ObjectiveData]:
        """
        Return the data halves of the objectives `names`, with the options that are given.

        Raises:
            ValueError: If there is none for an objective, or an option is out of range or belongs to another objective.
        """
        names = list(names)
        if unknown := [name for name in names if name not in OBJECTIVE_DATA]:
            raise ValueError(
                f"objectives: no data half of {', '.join(unknown)} is registered, only {', '.join(OBJECTIVE_DATA)}"
            )
        made = {name: build_from(kind, self) for name, kind in OBJECTIVE_DATA.items() if name in names}
        of_others = [
            each.name for name, kind in OBJECTIVE_DATA.items() if name not in names for each in options_of(kind)
        ]
        if idle := list(given(self, of_others)):
            raise ValueError(
                f"{', '.join(idle)}: without effect on the objectives {', '.join(names)}; leave it out, or add its objective"
            )
        return [made[name] for name in names]

    def check_mixture(self) -> None:
        """Raise `ValueError` if some options on several data sets leave others without effect."""
        if self.batches is not None:
            check_choice("batches", self.batches, BATCHES)
            if len(self.train_datasets) < 2:
                raise ValueError("batches: without effect on fewer than two train_datasets; leave it out")
            if self.batches != "shuffled" and self.captions_per_image > 1:
                raise ValueError(
                    f"captions_per_image: without effect on batches that are {self.batches}; leave out one of them"
                )
        if self.streaming and (idle := [name for name in OF_MIXTURES if getattr(self, name)]):
            raise ValueError(
                f"{', '.join(idle)}: a stream has images with captions alone, in the shares of train_weights; leave it out"
            )

    def served_objectives(self, names: Sequence[str]) -> list[tuple[str, ...] | None]:
        """Return the objectives, of those of the run (`names`), that each training data set is to serve; `None` for all that it can. Raise
        `ValueError` if they are no such objectives, or not as many as there are data sets."""
        sources = 1 if self.train_file else len(self.train_datasets)
        return parse_served(self.train_objectives, sources, names) if self.train_objectives else [None] * sources

    def check_sources(self) -> None:
        """Raise `ValueError` if some of the options that name data leave others without effect."""
        if self.train_file and self.train_datasets:
            raise ValueError("train_file: without effect if train_datasets is given; leave out one of them")
        if self.validation_file and self.eval_datasets:
            raise ValueError("validation_file: without effect if eval_datasets is given; leave out one of them")
        if self.held_out and self.eval_datasets:
            raise ValueError("held_out: without effect if eval_datasets is given; leave out one of them")
        if self.streaming and (idle := [name for name in ("train_file", "held_out") if getattr(self, name)]):
            raise ValueError(
                f"{', '.join(idle)}: a stream is of train_datasets, whose rows are not known; leave out one"
            )
        if self.image_folder and not self.files():
            raise ValueError("image_folder: without effect without a file of your own; leave it out")

    def columns(self) -> dict[str, str]:
        """Return the task's names of the columns of captions, each with the name that the data has for it."""
        return {name: getattr(self, f"{name}_column") or name for name in ("image", "captions", "image_id")}

    def columns_of_all(self) -> dict[str, str]:
        """Return the task's names of the columns of rows of any kind, likewise."""
        more = ("text", "answers", "boxes", "label")
        return self.columns() | {name: getattr(self, f"{name}_column") or name for name in more}

    def sources(self, split: str, objectives: Sequence[str] = ()) -> list[DataSource]:
        """Return the data of a split, for the `objectives` of the run; raise `ValueError` if a file has no such split, or the options
        contradict the objectives."""
        file = getattr(self, FILES[split])
        if split == "validation" and self.held_out:
            file = self.train_file
        served = self.served_objectives(objectives) if objectives else []
        if file:
            return [DataSource(file, True, served[0] if served and self.train_file else None)]
        of_training = list(itertools.zip_longest(self.train_datasets, served[: len(self.train_datasets)]))
        if split != "train" and self.eval_datasets:
            own = {location_of(name): objectives for name, objectives in of_training}
            return [DataSource(name, False, own.get(location_of(name))) for name in self.eval_datasets]
        if split != "train" and not self.held_out and (corpora := list(filter(is_corpus, self.train_datasets))):
            raise ValueError(
                f"eval_datasets: {corpora[0]} is a single file without a split {split!r}; name data for evaluation, or use held_out"
            )
        return [DataSource(name, False, own) for name, own in of_training]
