"""The data of pretraining: what the user names, read as rows of whatever kind its columns make."""

import functools
import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset

from ..processing.objectives import ObjectiveData
from .ablation import COLUMNS
from .arguments import RunArguments
from .base import Task
from .data import schemas
from .data.answer_lists import answer_lists
from .data.bad_rows import BadRows
from .data.batches import ComposedSampler, compose
from .data.boxes import check_boxes, check_boxes_inside, numbers_in_labels, with_meant_boxes
from .data.captioned import CaptionedImages, check_captions
from .data.documents import is_corpus, open_documents
from .data.faults import Faults
from .data.identity import held_out_rows
from .data.image_checks import ImageCheck
from .data.keyed_rows import KeyedRows
from .data.labels import with_class_names
from .data.loading import is_unprepared, read_columns
from .data.mixing import MixedRows, located, parts_of, spans_of, values_of_epoch
from .data.opening import open_file, open_split, undecoded
from .data.sampling import GroupedSampler
from .data.served import columns_of_rows, needs_of, served, words_of
from .data.streaming import CaptionSource, CaptionStream
from .data.unpaired import ImagesAlone, TextsAlone
from .pretraining_arguments import DataSource, PretrainingArguments


logger = logging.getLogger(__name__)

#: The types of the columns that are read as they are.
KINDS = {
    "image": schemas.CAPTIONS["image"],
    "captions": schemas.CAPTIONS["captions"],
    "text": schemas.STRING,
    "boxes": schemas.REFCOCO["boxes"],
}

#: The rows of one data set.
Part = CaptionedImages | ImagesAlone | TextsAlone


class PretrainingData(Task):
    """A task whose rows are those of several data sets, each of which serves some of the objectives of the run."""

    #: The training data, where it is streamed.
    train_stream: CaptionStream | None = None

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        self.train_data: ConcatDataset | MixedRows | None = None
        #: The data of evaluation, from which images are drawn that replace others.
        self.eval_data: ConcatDataset | None = None
        #: The data halves of the objectives that the run trains or evaluates, and the names of all that the model has, from when it is
        #: known.
        self.objectives: list[ObjectiveData] = []
        self.objective_names: tuple[str, ...] = ()
        #: Rows of a batch and of a step, likewise.
        self.rows, self.rows_a_step = 1, 1
        #: The rows to train on and those that are held out of each data set, from when they are first asked for.
        self._parts: dict[str, tuple[Dataset, Dataset]] = {}
        #: What the rows of each data set have (see `columns_of_rows`), from when it is read.
        self._columns: dict[str, dict[str, str]] = {}

    def load(self, split: str) -> TorchDataset | None:
        """Return the rows of a split; `None` if the user named no data for it."""
        arguments = self.data_arguments
        training = split == "train"
        sources = arguments.sources(split, self.objective_names)
        if not sources:
            return None
        if arguments.streaming and training:
            self.train_stream = self.stream([source.name for source in sources])
            return self.train_stream
        parts = [self.part(source, split) for source in sources]
        self.check_served(parts, split)
        if self.data_arguments.ablation and (
            alone := [part for part in parts if not isinstance(part, CaptionedImages)]
        ):
            raise ValueError(
                f"ablation: {alone[0].source} has rows without a text or an image; expected pairs in eval_datasets"
            )
        if not training:
            self.eval_data = ConcatDataset(parts)
            return self.eval_data
        for part in parts:
            part.bad_rows = self.bad_rows
        self.train_data = self.joined(parts)
        return self.train_data

    def joined(self, parts: list[Part]) -> ConcatDataset | MixedRows:
        """Return the rows of all training data sets, in the shares that the user asks for, with as many of each in an epoch as batches of
        the asked kind need."""
        weights = self.data_arguments.train_weights
        if (batches := self.batches(parts)) == "shuffled":
            return MixedRows(parts, weights, self.seed) if weights else ConcatDataset(parts)
        data = MixedRows(parts, weights or list(map(len, parts)), self.seed)
        names = [part.source for part in parts]
        shares = compose(data, batches, self.rows, self.rows_a_step, names)
        told = ", ".join(f"{share} of {name}" for share, name in zip(shares, names, strict=True))
        what = f"each of {self.rows} rows: {told}" if batches == "mixed" else f"steps of an epoch: {told}"
        logger.info(f"batches are {batches}, {what}")
        return data

    def batches(self, parts: Sequence[Part]) -> str:
        """Return what batches are made of: what the user says or, by default, rows of all data sets in a fixed proportion if their rows
        serve different objectives. Each step then trains all heads, as each step of a single data set does."""
        if len({self.served_by(part) for part in parts}) < 2:
            return self.data_arguments.batches or "shuffled"
        return self.data_arguments.batches or ("shuffled" if self.data_arguments.captions_per_image > 1 else "mixed")

    def served_by(self, part: Part) -> tuple[str, ...]:
        """Return the names of the objectives that the rows of a data set serve."""
        if part.objectives is not None:
            return part.objectives
        return tuple(each.name for each in served(self._columns[part.source], self.objectives))

    @property
    def has_documents(self) -> bool:
        """Whether some rows are texts without an image."""
        loaded = [data for data in (self.train_data, self.eval_data) if data is not None]
        return any(isinstance(part, TextsAlone) for data in loaded for part in parts_of(data))

    @property
    def what_is_cut(self) -> str:
        ends = super().what_is_cut
        return (
            f"{ends} or, without an image, a part is read that each epoch draws anew" if self.has_documents else ends
        )

    def check_served(self, parts: Sequence[Part], split: str) -> None:
        """Log what the data sets of a split serve. Raise `ValueError` if an objective has no rows to train on; warn if it has none to
        evaluate on."""
        for part in parts:
            logger.info(f"{part.source}, split {split!r}: {len(part)} rows for {', '.join(self.served_by(part))}")
        known = {name for part in parts for name in self.served_by(part)}
        if not (idle := [each for each in self.objectives if each.name not in known]):
            return
        names = ", ".join(each.name for each in idle)
        told = (
            f"no rows of split {split!r} for {names} ({needs_of(idle)}), in {', '.join(part.source for part in parts)}"
        )
        if split == "train":
            raise ValueError(f"objectives: {told}; add data that has them, or leave out the objective")
        logger.warning(f"eval_datasets: {told}; there are no metrics of it")

    def sources(self, split: str) -> list[str]:
        return [source.name for source in self.data_arguments.sources(split, self.objective_names)]

    def part(self, source: DataSource, split: str) -> Part:
        """Return the rows of one data set, indexed; of those that are streamed otherwise, the first rows."""
        arguments, name = self.data_arguments, source.name
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        if arguments.streaming and not source.is_file and not Path(name).is_dir():
            data = self.first_streamed(name, split, limit)
        elif not arguments.held_out or split not in ("train", "validation"):
            data = self.read(source, split)
        else:
            if name not in self._parts:
                self._parts[name] = self.parts(source)
            data = self._parts[name][0 if split == "train" else 1]
        columns = self._columns[name]
        more = tuple(column for column in columns if column not in ("image", "text") and column in data.column_names)
        if "image" not in columns:
            part = TextsAlone(data, name, limit)
        elif "text" not in columns:
            part = ImagesAlone(data, name, limit, more)
        else:
            part = CaptionedImages(data, name, limit, more)
        part.objectives = source.objectives
        return part

    def first_streamed(self, name: str, split: str, limit: int | None) -> Dataset:
        """Return the first `limit` rows of a data set that is streamed."""
        if limit is None:
            raise ValueError(f"max_eval_samples: needed to evaluate on the first rows of {name}, which is streamed")
        bad_rows = BadRows(for_training=split == "train")
        opened = CaptionSource.open(name, split, self.data_arguments.columns(), self.max_image_pixels, bad_rows)
        rows = [row for row, _ in islice(opened.rows(), limit)]
        self._columns[name] = {"image": "image", "text": "captions"}
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
        had = self._columns[name] = self.columns_needed(columns_of_rows(data, own), source, faults)
        paired = {"image", "text"} <= had.keys()
        columns = {"captions" if paired and column == "text" else column: own[column] for column in had.values()}
        required = [*columns, *(["image_id"] if arguments.image_id_column and "image" in had else [])]
        columns |= {"image_id": own["image_id"]} if "image" in had else {}
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
            return open_documents(Path(source.name))
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
        serving = served(had, wanted)
        rows = f"{faults.source}: expected rows for {{}}, got rows with {words_of(had)}; {{}}"
        if not serving and had.keys() <= {"image"}:
            # Columns that have other names than expected are told as such.
            return {"image": "image", "text": "captions"}
        if source.objectives is not None and (idle := [each for each in wanted if each not in serving]):
            names = ", ".join(each.name for each in idle)
            raise ValueError(f"train_objectives: {rows.format(names, needs_of(idle))}")
        if not serving:
            raise ValueError(rows.format("an objective of the run", needs_of(wanted)))
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

    def stream(self, sources: list[str]) -> CaptionStream:
        """Return the pairs of data sets that are read as they come."""
        arguments = self.data_arguments
        columns, limit = arguments.columns(), self.max_image_pixels
        opened = [CaptionSource.open(source, "train", columns, limit, self.bad_rows) for source in sources]
        weights, processes = arguments.train_weights or [1.0], PartialState()
        return CaptionStream(
            opened,
            weights,
            self.seed,
            arguments.shuffle_buffer_size,
            processes.process_index,
            processes.num_processes,
        )

    def sampler(self, data: KeyedRows, args: RunArguments) -> GroupedSampler | ComposedSampler | None:
        strategy, per_image = args.train_sampling_strategy, self.data_arguments.captions_per_image
        if self.train_stream:
            if "dataloader_num_workers" in args.by_machine:
                args.dataloader_num_workers = min(args.dataloader_num_workers, self.train_stream.most_workers)
            self.train_stream.check_files(args.dataloader_num_workers)
            return None
        parts = parts_of(data.data)
        self.settle_processes(parts, args)
        if (batches := self.batches(parts)) != "shuffled":
            if strategy != "random":
                raise ValueError(
                    f"train_sampling_strategy: {strategy} is without effect on batches that are {batches}; leave it out"
                )
            rows = args.train_batch_size, args.rows_a_step
            shares = compose(data.data, batches, *rows, [part.source for part in parts])
            if batches == "mixed":
                self.check_shares(parts, shares)
            return ComposedSampler(data.data, batches, *rows, args.sampling_seed)
        by_length = strategy == "group_by_length"
        if not by_length and per_image == 1:
            return None
        return GroupedSampler(
            len(data),
            args.train_batch_size,
            args.world_size,
            args.sampling_seed,
            functools.partial(self.text_lengths, data.data) if by_length else None,
            functools.partial(image_numbers, data.data),
            per_image,
        )

    def settle_processes(self, parts: Sequence[Part], args: RunArguments) -> None:
        """Let several processes look in each step which parameters it trains, if batches may leave out some. Raise `ValueError` if the user
        rules that out."""
        alike = len({self.served_by(part) for part in parts}) == 1
        if alike and all(isinstance(part, CaptionedImages) for part in parts):
            return
        fault = "not every step trains all parts of the model, for rows serve different objectives or lack text or image; leave it out"
        if args.ddp_find_unused_parameters is False:
            raise ValueError(f"ddp_find_unused_parameters: false: {fault}")
        if args.ddp_static_graph:
            raise ValueError(f"ddp_static_graph: {fault}")
        args.ddp_find_unused_parameters = True

    def check_shares(self, parts: Sequence[Part], shares: Sequence[int]) -> None:
        """Raise `ValueError` if a batch, of `shares` rows of each data set, has too few rows for an objective."""
        for objective in self.objectives:
            rows = sum(
                share for part, share in zip(parts, shares, strict=True) if objective.name in self.served_by(part)
            )
            objective.check_rows("per_device_train_batch_size", rows, 1)

    def text_lengths(self, data: ConcatDataset | MixedRows, epoch: int) -> np.ndarray:
        return values_of_epoch(data, epoch, [part.lengths() for part in parts_of(data)])

    def texts(self, data: ConcatDataset | MixedRows, rows: np.ndarray) -> list[list[str]]:
        found = [""] * len(rows)
        owners, numbers = located(data, rows)
        for number, part in enumerate(parts_of(data)):
            own = np.flatnonzero(owners == number)
            for place, text in zip(own.tolist(), part.texts_at(numbers[own]), strict=True):
                found[place] = text
        return [found] if any(found) else []

    def draw_other(self, data: ConcatDataset | MixedRows, row: dict, rng: np.random.Generator, objective: str) -> dict:
        """Return a row of `data` with a text and another image than `row` that serves an objective; raise `ValueError` if there is hardly
        any."""
        paired = [isinstance(part, CaptionedImages) and objective in self.served_by(part) for part in parts_of(data)]
        spans = [span for span, is_paired in zip(spans_of(data), paired, strict=True) if is_paired]
        starts, sizes = np.array([start for start, _ in spans]), np.array([end - start for start, end in spans])
        ends = np.cumsum(sizes)
        drawn = rng.integers(int(ends[-1]), size=1000)
        owner = np.searchsorted(ends, drawn, side="right")
        for number in (drawn + (starts - ends + sizes)[owner]).tolist():
            drawn = data[number]
            if drawn["image_id"] != row["image_id"] and not self.bad_rows.holds(drawn):
                return drawn
        raise ValueError(
            f"1000 rows drawn from the data for a false image all have the image {row['image_id']}; expected others too"
        )


def image_numbers(data: ConcatDataset | MixedRows, epoch: int) -> np.ndarray:
    """Return numbers (N,) that rows of an epoch share if they have the same image of a data set."""
    numbers, count = [], 0
    for part in parts_of(data):
        numbers.append(part.image_of + count)
        count = int(numbers[-1].max()) + 1
    return values_of_epoch(data, epoch, numbers)
