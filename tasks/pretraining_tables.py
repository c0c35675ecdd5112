"""The tables of pretraining: a split of each data set that the user names, with the columns that the objectives need, checked."""

import logging
from itertools import islice
from pathlib import Path

from datasets import Dataset

from ..processing.objectives import ObjectiveData
from .ablation import COLUMNS
from .base import Task
from .data import schemas
from .data.answer_lists import answer_lists
from .data.bad_rows import BadRows
from .data.boxes import check_boxes, check_boxes_inside, numbers_in_labels, with_meant_boxes
from .data.captioned import check_captions
from .data.documents import is_corpus, open_documents
from .data.faults import Faults
from .data.identity import held_out_rows
from .data.image_checks import ImageCheck
from .data.labels import with_class_names
from .data.loading import is_unprepared, read_columns
from .data.opening import open_file, open_split, undecoded
from .data.served import columns_of_rows, needs_of, served, words_of
from .data.streaming import CaptionSource
from .pretraining_arguments import DataSource, PretrainingArguments


logger = logging.getLogger(__name__)

#: The types of the columns that are read as they are.
KINDS = {
    "image": schemas.CAPTIONS["image"],
    "captions": schemas.CAPTIONS["captions"],
    "text": schemas.STRING,
    "boxes": schemas.REFCOCO["boxes"],
}


class PretrainingTables(Task):
    """A task that reads tables of several kinds."""

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        #: The data halves of the objectives that the run trains or evaluates, from when the model is known.
        self.objectives: list[ObjectiveData] = []
        #: The rows to train on and those that are held out of each data set, from when they are first asked for.
        self._parts: dict[DataSource, tuple[Dataset, Dataset]] = {}
        #: The task's names of the columns that were read of some data set by a name that the user can set.
        self._read: set[str] = set()

    def check_loaded(self) -> None:
        """Raise `ValueError` if an option names a column that no data set has for the objectives, or is of images, and no row has one."""
        own = self.data_arguments.columns_of_all()
        # Sentences of RefCOCO are expressions, and captions too for who says so.
        read = {own[name] for name in self._read}
        named = [f"{name}_column" for name, column in own.items() if column not in read]
        of_images = [] if "image" in self._read else ["image_folder", "download_images"]
        if idle := [option for option in (*named, *of_images) if getattr(self.data_arguments, option)]:
            raise ValueError(
                f"{', '.join(idle)}: without effect, no data set of this run has such columns that its objectives read; leave it out"
            )

    def table(self, source: DataSource, split: str) -> Dataset:
        """Return the rows of a split of one data set; of those that are streamed otherwise, the first rows. Raise `ValueError` as `read`
        does."""
        arguments = self.data_arguments
        if arguments.streaming and not source.is_file and not Path(source.name).is_dir():
            return self.first_streamed(source.name, split)
        if not arguments.held_out or split not in ("train", "validation"):
            return self.read(source, split)
        if source not in self._parts:
            self._parts[source] = self.parts(source)
        return self._parts[source][0 if split == "train" else 1]

    def limit(self, split: str) -> int | None:
        """Return the largest number of rows of a data set in a split; `None` for all."""
        arguments = self.data_arguments
        return arguments.max_train_samples if split == "train" else arguments.max_eval_samples

    def first_streamed(self, name: str, split: str) -> Dataset:
        """Return the first rows of a data set that is streamed, as many as the user says."""
        limit = self.limit(split)
        if limit is None:
            raise ValueError(f"max_eval_samples: needed to evaluate on the first rows of {name}, which is streamed")
        bad_rows = BadRows(for_training=split == "train")
        columns = self.data_arguments.columns()
        self._read.update(columns)
        opened = CaptionSource.open(name, split, columns, self.max_image_pixels, bad_rows)
        rows = [row for row, _ in islice(opened.rows(), limit)]
        return undecoded(Dataset.from_list(rows, features=schemas.CAPTIONS))

    def parts(self, source: DataSource) -> tuple[Dataset, Dataset]:
        """Return the training rows of a data set without those that are held out, and these."""
        data = self.read(source, "train")
        columns = [column for column in ("image", "image_id") if column in data.column_names] or ["text"]
        train, held = held_out_rows(data, columns, self.data_arguments.held_out)
        logger.info(f"{source.name}: held out {len(held)} of {len(data)} rows for evaluation")
        return data.select(train), data.select(held)

    def read(self, source: DataSource, split: str) -> Dataset:
        """Return the rows of a split of a data set, or of the user's file for it. Raise `ValueError` with all that is
        wrong, by the user's names of columns and the numbers of rows in the file, if too many rows cannot be used."""
        arguments, name = self.data_arguments, source.name
        own = arguments.columns_of_all()
        faults = Faults(f"{name}, split {split!r}", own)
        data = self.open(source, split, faults)
        had = self.columns_needed(columns_of_rows(data, own), source, faults)
        paired = {"image", "text"} <= had.keys()
        columns = {"captions" if paired and column == "text" else column: own[column] for column in had.values()}
        required = [*columns, *(["image_id"] if arguments.image_id_column and "image" in had else [])]
        columns |= {"image_id": own["image_id"]} if "image" in had else {}
        # Text files have columns of no other names.
        self._read.update(() if is_corpus(name) else [*had.values(), *({"image_id"} & columns.keys())])
        faults.name_columns(columns)
        kinds = KINDS | ({"captions": schemas.STRING} if had.get("text") == "text" else {})
        inputs = {column: kinds[column] for column in columns if column in kinds}
        folder, downloading = arguments.folder(name), arguments.downloading()
        decoded_before = not source.is_file and not is_unprepared(name, split)
        check = arguments.image_check(split, decoded_before, self.caches_features)
        data = read_columns(
            data,
            inputs,
            columns,
            required,
            faults,
            folder,
            downloading,
            self.max_image_pixels,
            check,
            not source.is_file,
        )
        check_captions(data, faults)
        data = self.with_targets(data, faults, check)
        return self.bad_rows.leave_out(data, faults) if split == "train" else faults.leave_out(data)

    def open(self, source: DataSource, split: str, faults: Faults) -> Dataset:
        """Return a split of a data set as it is; add rows that cannot be read to `faults`."""
        if is_corpus(source.name):
            documents, column = open_documents(Path(source.name)), self.data_arguments.text_column or "text"
            # The option names a column of the other data sets: a text file has none.
            return documents if column == "text" else documents.rename_column("text", column)
        return (
            open_file(Path(source.name), faults) if source.is_file else open_split(source.name, split, faults=faults)
        )

    def columns_needed(self, had: dict[str, str], source: DataSource, faults: Faults) -> dict[str, str]:
        """
        Return those of the columns of a data set (see `columns_of_rows`) that the run reads: text and image, and what else its objectives
        need.

        Raises:
            ValueError: If its rows cannot serve an objective that they are to serve, or none at all.
        """
        wanted = [each for each in self.objectives if source.objectives is None or each.name in source.objectives]
        if self.objectives and not wanted:
            # Only some of the model's objectives are evaluated under an ablation.
            fault = f"serves {', '.join(source.objectives)} by train_objectives, and the run evaluates {', '.join(each.name for each in self.objectives)}"
            raise ValueError(f"eval_datasets: {faults.source}: {fault}; name other data")
        serving = served(had, wanted)
        if not serving and had.keys() <= {"image"}:
            # Columns that have other names than expected are told as such.
            if not had and served(["text"], wanted):
                faults.add("if its rows are texts alone, name their column with --text_column")
            return {"image": "image", "text": "captions"}
        idle = [each for each in wanted if each not in serving]
        if idle and (source.objectives is not None or not serving):
            option = "train_objectives" if source.objectives is not None else "objectives"
            names = " or ".join(each.name for each in idle)
            fault = f"its rows, with {words_of(had)}, do not serve {names}; {needs_of(idle)}"
            raise ValueError(f"{option}: {faults.source}: {fault}")
        more = COLUMNS.get(self.data_arguments.ablation, ())
        if missing := [column for column in more if column not in had]:
            needed = "needs the columns boxes and label, which prepared data of RefCOCO has"
            faults.add(f"ablation: {self.data_arguments.ablation} {needed}; no {', '.join(missing)}")
        needed = {"text", "image", *more, *(column for each in serving for column in each.columns)}
        return {name: column for name, column in had.items() if name in needed}

    def with_targets(self, data: Dataset, faults: Faults, check: ImageCheck) -> Dataset:
        """Return the data with answers, boxes and labels as objectives read them; add to `faults` the rows that have no such."""
        if "answers" in data.column_names:
            data = answer_lists(data, False, faults)
        if "boxes" in data.column_names:
            looks = check is not ImageCheck.NONE or self.data_arguments.ablation
            if check_boxes(data, faults) and looks and "image" in data.column_names:
                check_boxes_inside(data, faults, self.max_image_pixels)
        if "label" not in data.column_names:
            return data
        if "boxes" in data.column_names:
            return with_meant_boxes(data, numbers_in_labels(data), (), faults)
        return with_class_names(data, faults)
