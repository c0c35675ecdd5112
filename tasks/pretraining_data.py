"""The data of pretraining: rows of several data sets, the objectives that they serve, and how batches are made of them."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedConfig

from .arguments import RunArguments
from .data.batches import ComposedSampler, compose
from .data.captioned import CaptionedImages
from .data.faults import FILE_ROW
from .data.keyed_rows import KeyedRows
from .data.mixing import MixedRows, located, parts_of, spans_of, values_of_epoch
from .data.sampling import GroupedSampler
from .data.served import columns_in, needs_of, served, words_of
from .data.streaming import CaptionSource, CaptionStream
from .data.unpaired import ImagesAlone, TextsAlone
from .option_fields import given
from .pretraining_arguments import DataSource, PretrainingArguments
from .pretraining_tables import PretrainingTables


logger = logging.getLogger(__name__)

#: The rows of one data set.
Part = CaptionedImages | ImagesAlone | TextsAlone


class PretrainingData(PretrainingTables):
    """A task whose rows are those of several data sets, each of which serves some of the objectives of the run."""

    #: The training data, if it is streamed.
    train_stream: CaptionStream | None = None

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        self.train_data: ConcatDataset | MixedRows | None = None
        #: The data of evaluation, from which images are drawn that replace others.
        self.eval_data: ConcatDataset | None = None
        #: The names of all objectives that the model has, and its configuration, from when it is known.
        self.objective_names: tuple[str, ...] = ()
        self.config: PreTrainedConfig | None = None
        #: The objectives whose heads the checkpoint brings; `None` for a new model.
        self.trained_objectives: frozenset[str] | None = None
        #: Rows of a batch and of a step, as for `objective_names`.
        self.rows, self.rows_a_step = 1, 1
        #: Whether each of several processes has a part of the weights, from when the options of the run are known.
        self.shares_weights = False
        #: The fields of the configuration that the training data has set, from when it is read.
        self.fields: dict[str, list[str]] = {}

    def start_from(self, config: PreTrainedConfig) -> None:
        super().start_from(config)
        self.trained_objectives = frozenset(config.objectives)

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
        tables = [(source, self.table(source, split)) for source in sources]
        self.check_served(tables, split)
        if training:
            self.learn_classes(tables)
        parts = [self.part(source, self.with_known_classes(source, data, split), split) for source, data in tables]
        if not training:
            self.check_evaluated(parts)
            self.eval_data = ConcatDataset(parts)
            return self.eval_data
        for part in parts:
            part.bad_rows = self.bad_rows
        self.train_data = self.joined(parts)
        return self.train_data

    def part(self, source: DataSource, data: Dataset, split: str) -> Part:
        """Return the rows of the table of a data set."""
        had, limit = columns_in(data), self.limit(split)
        more = tuple(column for column in had if column not in ("image", "text"))
        if "image" not in had:
            part = TextsAlone(data, source.name, limit)
        elif "text" not in had:
            part = ImagesAlone(data, source.name, limit, more)
        else:
            part = CaptionedImages(data, source.name, limit, more)
        part.objectives = source.objectives
        if self.data_arguments.ablation and not isinstance(part, CaptionedImages):
            fault = "has rows without a text or an image; expected pairs in eval_datasets"
            raise ValueError(f"ablation: {source.name} {fault}")
        return part

    def learn_classes(self, tables: Sequence[tuple[DataSource, Dataset]]) -> None:
        """Set the classes of the heads that have some to those of the training data, unless a checkpoint brings the head. Its configuration
        may have those of a head that it had before."""
        for objective in self.objectives:
            option, column = objective.vocabulary_option, objective.vocabulary_column
            if option is None:
                continue
            if objective.name in (self.trained_objectives or ()):
                if idle := list(given(self.data_arguments, objective.of_vocabulary)):
                    logger.warning(f"{', '.join(idle)}: without effect, the checkpoint's {option} are kept")
                continue
            serving = [(source, data) for source, data in tables if objective.name in self.served_by(source, data)]
            names = objective.vocabulary(value for _, data in serving for value in data[column])
            logger.info(
                f"{objective.name}: {len(names)} classes, of the rows of {', '.join(source.name for source, _ in serving)}"
            )
            self.fields[option] = names
            setattr(self.config, option, names)
            objective.fit(self.config)

    def config_fields(self) -> dict[str, Any]:
        """Return the classes of the heads that have some, as the training data has them; a checkpoint keeps its own."""
        return self.fields

    def with_known_classes(self, source: DataSource, data: Dataset, split: str) -> Dataset:
        """
        Return the rows of a table whose answers or class the model knows. In evaluation, questions whose answers it does not know stay, and
        count as wrong.

        Raises:
            ValueError: If no row is left, or a row of evaluation has a class that the model does not have.
        """
        for objective in [each for each in self.objectives if each.name in self.served_by(source, data)]:
            column = objective.vocabulary_column
            if column is None or (split != "train" and objective.label_input is None):
                continue
            values = data[column][:]
            known = [row for row, value in enumerate(values) if objective.knows(value)]
            if len(known) == len(values):
                continue
            what = f"{words_of([column])} that the objective {objective.name} does not know"
            if split != "train" or not known:
                row = next(row for row, value in enumerate(values) if not objective.knows(value))
                place = f"{source.name}, split {split!r}, row {data[row].get(FILE_ROW, row)}"
                kept = objective.name in (self.trained_objectives or ())
                lacks = "the checkpoint's head" if kept else "the training data"
                raise ValueError(f"{place}: {what}, {values[row]!r:.60}: {lacks} has none such; leave out such rows")
            logger.info(f"{source.name}: left out {len(values) - len(known)} of {len(values)} rows, with {what}")
            data = data.select(known)
        return data

    def check_evaluated(self, parts: Sequence[Part]) -> None:
        """Raise `ValueError` if processes that wait for each other's weights would evaluate rows of different kinds at the same time."""
        if self.shares_weights and len({(type(part), self.served_by(part)) for part in parts}) > 1:
            told = ", ".join(f"{part.source} ({', '.join(self.served_by(part))})" for part in parts)
            raise ValueError(
                "eval_datasets: with the weights divided among processes (ZeRO-3, FSDP) all of them evaluate the same parts of the model at a "
                f"time, and rows of these serve different objectives: {told}; evaluate one at a time"
            )

    def joined(self, parts: list[Part]) -> ConcatDataset | MixedRows:
        """Return the rows of all training data sets, in the shares that the user asks for, with as many of each in an epoch as batches of
        the asked kind need."""
        weights = self.data_arguments.train_weights
        if (batches := self.batches(parts)) == "shuffled":
            return MixedRows(parts, weights, self.seed) if weights else ConcatDataset(parts)
        data = MixedRows(parts, weights or list(map(len, parts)), self.seed)
        shares = self.compose(data, batches, self.rows, self.rows_a_step)
        told = ", ".join(f"{share} of {part.source}" for share, part in zip(shares, parts, strict=True))
        what = f"each of {self.rows} rows: {told}" if batches == "mixed" else f"steps of an epoch: {told}"
        logger.info(f"batches are {batches}, {what}")
        return data

    def compose(self, data: MixedRows, batches: str, rows: int, rows_a_step: int) -> list[int]:
        """Set the rows of each data set in an epoch, and return their shares, as `batches.compose` does. Raise `ValueError` also if a batch has
        too few rows for an objective."""
        shares = compose(data, batches, rows, rows_a_step, [part.source for part in data.parts])
        for objective in self.objectives if batches == "mixed" else ():
            serving = [objective.name in self.served_by(part) for part in data.parts]
            own = sum(share for share, serves in zip(shares, serving, strict=True) if serves)
            objective.check_rows("per_device_train_batch_size", own, 1)
        return shares

    def batches(self, parts: Sequence[Part]) -> str:
        """Return what batches are made of: what the user says or, by default, rows of all data sets in a fixed proportion if their rows are of
        different kinds or serve different objectives. Each step then trains all heads, as each step of a single data set does."""
        if self.data_arguments.batches is not None:
            return self.data_arguments.batches
        alike = len({(type(part), self.served_by(part)) for part in parts}) == 1
        return "shuffled" if alike or self.data_arguments.captions_per_image > 1 else "mixed"

    def served_by(self, source: DataSource | Part, data: Dataset | None = None) -> tuple[str, ...]:
        """Return the names of the objectives that the rows of a data set serve."""
        if source.objectives is not None:
            return source.objectives
        had = columns_in(source.data if data is None else data)
        return tuple(each.name for each in served(had, self.objectives))

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

    def check_served(self, tables: Sequence[tuple[DataSource, Dataset]], split: str) -> None:
        """Log what the data sets of a split serve. Raise `ValueError` if an objective has no rows to train on, or cannot share a run with the
        rows of a data set; warn if it has none to evaluate on."""
        known, limit = set(), self.limit(split)
        of_them = f"; the first {limit} are taken" if limit else ""
        for source, data in tables:
            names = self.served_by(source, data)
            known.update(names)
            logger.info(
                f"{source.name}, split {split!r}: {len(data)} rows with {words_of(columns_in(data))}, for {', '.join(names)}{of_them}"
            )
            for objective in self.objectives:
                objective.check_served(source.name, columns_in(data), names)
        if not (idle := [each for each in self.objectives if each.name not in known]):
            return
        places = ", ".join(source.name for source, _ in tables)
        told = (
            f"no rows of split {split!r} for {', '.join(each.name for each in idle)} ({needs_of(idle)}), in {places}"
        )
        if split == "train":
            raise ValueError(f"objectives: {told}; add data that has them, or leave out the objective")
        logger.warning(f"eval_datasets: {told}; there are no metrics of it")

    def sources(self, split: str) -> list[str]:
        return [source.name for source in self.data_arguments.sources(split, self.objective_names)]

    def stream(self, sources: list[str]) -> CaptionStream:
        """Return the pairs of data sets that are read as they come."""
        arguments = self.data_arguments
        columns, limit = arguments.columns(), self.max_image_pixels
        self._read.update(columns)
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
            self.compose(data.data, batches, args.train_batch_size, args.rows_a_step)
            return ComposedSampler(data.data, batches, args.train_batch_size, args.rows_a_step, args.sampling_seed)
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
        for objective in self.objectives if args.world_size > 1 and self.batches(parts) == "shuffled" else ():
            serving = [objective.name in self.served_by(part) for part in parts]
            if objective.compares_processes and not all(serving):
                raise ValueError(
                    f"batches: {objective.name} compares the rows of all {args.world_size} processes, and shuffled batches have different numbers of "
                    "them, because not all data sets serve it; expected mixed or homogeneous"
                )
        if (sharding := args.deepspeed or args.fsdp) and args.world_size > 1 and self.batches(parts) == "shuffled":
            option = "deepspeed" if args.deepspeed else "fsdp"
            raise ValueError(
                f"batches: in a step of shuffled batches, processes train different parts of the model, and {option} {sharding} waits for all of "
                "them; expected mixed or homogeneous"
            )
        fault = "not every step trains all parts of the model, because rows serve different objectives or lack text or image; leave it out"
        if args.ddp_find_unused_parameters is False:
            raise ValueError(f"ddp_find_unused_parameters: false: {fault}")
        if args.ddp_static_graph:
            raise ValueError(f"ddp_static_graph: {fault}")
        args.ddp_find_unused_parameters = True

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

    def has_texts(self, data: ConcatDataset | MixedRows) -> bool:
        return not all(isinstance(part, ImagesAlone) for part in parts_of(data))

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
            other = data[number]
            if other["image_id"] != row["image_id"] and not self.bad_rows.holds(other):
                return other
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
