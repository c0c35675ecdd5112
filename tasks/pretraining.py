"""Pretraining on images with captions, with any sum of objectives."""

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset
from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel, TrainingArguments

from ..modeling.fields import option
from ..processing.collators import PretrainingCollator
from ..processing.masking import IGNORED
from ..processing.objectives import OBJECTIVE_DATA, ObjectiveData, check_choice
from ..processing.processing_renaissance import RenaissanceProcessor
from .ablation import ABLATIONS, COLUMNS, AblatingCollator, check_objects, objective_of
from .arguments import RunArguments
from .base import Task
from .data import schemas
from .data.bad_rows import BadRows
from .data.captioned import CaptionedImages, check_captions
from .data.faults import Faults
from .data.identity import held_out_rows
from .data.keyed_rows import KeyedRows
from .data.loading import is_unprepared, read_columns
from .data.mixing import MixedRows, check_weights, parts_of, values_of_epoch
from .data.opening import open_file, open_split, undecoded
from .data.sampling import GroupedSampler
from .data.streaming import CaptionSource, CaptionStream
from .metrics import with_scores
from .option_fields import build_from, given, options_of, with_options
from .own_data import FILES, OwnDataArguments


logger = logging.getLogger(__name__)

#: What covers images if it is not known how they are normalised.
GREY = (127.5, 127.5, 127.5)


@dataclass
class PretrainingArguments(OwnDataArguments):
    """Data and objectives of pretraining."""

    train_datasets: list[str] = option(
        [],
        "Data sets to train on: prepared folders, Hub data sets, and folders of Parquet files, of WebDataset's .tar files, "
        "or of images with a metadata file. Folders called train, val2017 and so on are splits. Several data sets are "
        "concatenated.",
    )
    train_weights: list[float] = option(
        [],
        "Share of each of several train_datasets in the pairs of an epoch, up to a common factor; by default that of its size.",
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
        [], "The same for evaluation; by default the validation splits of the training data sets."
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
    captions_per_image: int = option(
        1,
        "Maximum number of captions of one image in a batch. The image is encoded once for all of them, so a batch has fewer "
        "images.",
        within="[1, inf)",
    )
    max_train_samples: int | None = option(
        None, "Train on at most this many image-caption pairs of each data set, the first ones.", within="[1, inf)"
    )
    max_eval_samples: int | None = option(
        None, "Evaluate on at most this many image-caption pairs of each data set, the first ones.", within="[1, inf)"
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
        """Return the task's names of columns, each with the name that the data has for it."""
        return {name: getattr(self, f"{name}_column") or name for name in ("image", "captions", "image_id")}

    def sources(self, split: str) -> list[tuple[str, bool]]:
        """Return the names of the data of a split, and whether each is a file or folder of the user for that split alone."""
        file = getattr(self, FILES[split])
        if split == "validation" and self.held_out:
            file = self.train_file
        if file:
            return [(file, True)]
        names = self.train_datasets if split == "train" else self.eval_datasets or self.train_datasets
        return [(name, False) for name in names]


class Pretraining(Task):
    """Pretraining with any sum of objectives."""

    kind = "ForPreTraining"
    best_metric = "eval_loss"
    metric_names = ("loss", "*_loss", "*_accuracy")
    #: The training data, where it is streamed.
    train_stream: CaptionStream | None = None

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        self.train_data: ConcatDataset | MixedRows | None = None
        #: The data of evaluation, from which images are drawn that replace others.
        self.eval_data: ConcatDataset | None = None
        #: The data halves of the model's objectives, and the weights of their losses, from when the model is known.
        self.objectives: list[ObjectiveData] = []
        self.weights: dict[str, float] = {}
        #: The rows to train on and those that are held out of each data set, from when they are first asked for.
        self._parts: dict[str, tuple[Dataset, Dataset]] = {}

    @classmethod
    def argument_class(cls) -> type:
        """Return `PretrainingArguments` with the options of all objectives that are registered by now."""
        return with_options([each for kind in OBJECTIVE_DATA.values() for each in options_of(kind)])(
            PretrainingArguments
        )

    def load(self, split: str) -> TorchDataset | None:
        """Return the image-caption pairs of a split; `None` if the user named no data for it."""
        arguments = self.data_arguments
        training = split == "train"
        sources = arguments.sources(split)
        if not sources:
            return None
        if arguments.streaming and training:
            self.train_stream = self.stream([name for name, _ in sources])
            return self.train_stream
        pairs = [self.pairs(name, is_file, split) for name, is_file in sources]
        if training:
            for part in pairs:
                part.bad_rows = self.bad_rows
        mixed = training and arguments.train_weights
        data = MixedRows(pairs, arguments.train_weights, self.seed) if mixed else ConcatDataset(pairs)
        if training:
            self.train_data = data
        else:
            self.eval_data = data
        return data

    def sources(self, split: str) -> list[str]:
        return [name for name, _ in self.data_arguments.sources(split)]

    def pairs(self, name: str, is_file: bool, split: str) -> CaptionedImages:
        """Return the pairs of one data set, indexed; of those that are streamed otherwise, the first rows."""
        arguments = self.data_arguments
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        if arguments.streaming and not is_file and not Path(name).is_dir():
            if limit is None:
                raise ValueError(
                    f"max_eval_samples: needed to evaluate on the first rows of {name}, which is streamed"
                )
            bad_rows = BadRows(for_training=split == "train")
            opened = CaptionSource.open(name, split, arguments.columns(), self.max_image_pixels, bad_rows)
            rows = [row for row, _ in islice(opened.rows(), limit)]
            data = Dataset.from_list(rows, features=schemas.CAPTIONS)
            return CaptionedImages(undecoded(data), name, limit)
        if not arguments.held_out or split not in ("train", "validation"):
            return CaptionedImages(self.read(name, is_file, split), name, limit, self.more_columns)
        if name not in self._parts:
            self._parts[name] = self.parts(name, is_file)
        return CaptionedImages(self._parts[name][0 if split == "train" else 1], name, limit, self.more_columns)

    @property
    def more_columns(self) -> tuple[str, ...]:
        """The columns that an ablation reads beside images and captions."""
        return COLUMNS.get(self.data_arguments.ablation, ())

    def parts(self, name: str, is_file: bool) -> tuple[Dataset, Dataset]:
        """Return the training rows of a data set without those that are held out, and these."""
        data = self.read(name, is_file, "train")
        columns = [column for column in ("image", "image_id") if column in data.column_names]
        train, held = held_out_rows(data, columns, self.data_arguments.held_out)
        logger.info(f"{name}: held out {len(held)} of {len(data)} rows for evaluation")
        return data.select(train), data.select(held)

    def read(self, name: str, is_file: bool, split: str) -> Dataset:
        """Return the rows of a split of a data set, or of the user's file for it. Raise `ValueError` with all that is
        wrong, by the user's names of columns and the numbers of rows in the file, if too many rows cannot be used."""
        arguments = self.data_arguments
        columns = arguments.columns() | {name: name for name in self.more_columns}
        faults = Faults(f"{name}, split {split!r}", columns)
        data = open_file(Path(name), faults) if is_file else open_split(name, split, faults=faults)
        required = ["image", "captions", *(["image_id"] if arguments.image_id_column else [])]
        inputs = {column: schemas.CAPTIONS[column] for column in ("image", "captions")}
        folder, downloading = arguments.folder(name), arguments.downloading()
        decoded_before = not is_file and not is_unprepared(name, split)
        check = arguments.image_check(split, decoded_before, self.caches_features)
        data = read_columns(
            data, inputs, columns, required, faults, folder, downloading, self.max_image_pixels, check, not is_file
        )
        check_captions(data, faults)
        if arguments.ablation == "object_masked":
            check_objects(data, faults, self.max_image_pixels)
        return self.bad_rows.leave_out(data, faults) if split == "train" else faults.leave_out(data)

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

    def sampler(self, data: KeyedRows, args: RunArguments) -> GroupedSampler | None:
        strategy, per_image = args.train_sampling_strategy, self.data_arguments.captions_per_image
        if self.train_stream:
            if "dataloader_num_workers" in args.by_machine:
                args.dataloader_num_workers = min(args.dataloader_num_workers, self.train_stream.most_workers)
            self.train_stream.check_files(args.dataloader_num_workers)
            return None
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

    def text_lengths(self, data: ConcatDataset | MixedRows, epoch: int) -> np.ndarray:
        return values_of_epoch(data, epoch, [part.lengths() for part in parts_of(data)])

    def texts(self, data: ConcatDataset | MixedRows, rows: np.ndarray) -> list[list[str]]:
        texts, start = [], 0
        for part in parts_of(data):
            texts += part.texts_at(rows[(rows >= start) & (rows < start + len(part))] - start)
            start += len(part)
        return [texts]

    def collator(
        self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int
    ) -> PretrainingCollator | AblatingCollator:
        for objective in self.objectives:
            objective.fit(model.config)
        fills_images = not any(isinstance(module, _BatchNorm) for module in model.modules())
        collator = PretrainingCollator(processor, self.objectives, self.draw_negative, seed, fills_images)
        if self.data_arguments.ablation is None:
            return collator
        colour, _ = processor.pixel_statistics or (GREY, None)
        draw = functools.partial(self.draw_other, self.eval_data)
        return AblatingCollator(collator, self.data_arguments.ablation, colour, draw, seed, self.max_image_pixels)

    def draw_negative(self, row: dict, rng: np.random.Generator) -> dict:
        """Return a row of the training data with another image than `row`; raise `ValueError` if there is hardly any."""
        return self.draw_other(self.train_data, row, rng)

    def draw_other(self, data: ConcatDataset | MixedRows, row: dict, rng: np.random.Generator) -> dict:
        """Return a row of `data` with another image than `row`; raise `ValueError` if there is hardly any."""
        for number in rng.integers(len(data), size=1000).tolist():
            drawn = data[number]
            if drawn["image_id"] != row["image_id"] and not self.bad_rows.holds(drawn):
                return drawn
        raise ValueError(
            f"1000 rows drawn from the data for a false image all have the image {row['image_id']}; expected others too"
        )

    def check(self, args: TrainingArguments, config: PreTrainedConfig, processor: RenaissanceProcessor) -> None:
        self.weights = config.objectives
        self.metric_names = ("loss", *(f"{name}_*" for name in self.weights))
        self.objectives = self.data_arguments.objective_data(self.weights)
        if self.data_arguments.ablation:
            self.check_ablation(args)
        for objective in self.objectives:
            objective.check_beside(self.weights)
            objective.prepare(processor)
            objective.fit(config)
        # Images are drawn as the data has them: beside augmented true ones a model could tell false ones by that.
        drawing = [objective.name for objective in self.objectives if objective.draws_images]
        self.augmentable = () if drawing or not all(each.augmentable for each in self.objectives) else ("image",)
        if self.caches_features and (wrong := [each.name for each in self.objectives if not each.cacheable]):
            raise ValueError(
                f"objectives: {', '.join(wrong)} reads parts of images, which a cache lacks; leave out cache_frozen_features and cache_pixels"
            )
        captions = self.data_arguments.captions_per_image
        if self.data_arguments.streaming and args.do_train:
            self.check_stream(args, drawing)
        if args.train_sampling_strategy == "sequential" and captions > 1:
            raise ValueError(
                "train_sampling_strategy: sequential leaves rows where they are, and captions_per_image brings those of an image "
                "together; leave out one of them"
            )
        if not args.do_train and (drawing or captions > 1):
            logger.warning("captions_per_image, false images of all data: without effect, for nothing is trained")
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor: without effect on the pretraining objectives; leave it out")
        if args.accelerator_config.split_batches:
            fault = "split_batches cuts batches in pieces, which tears image-text pairs apart"
            raise ValueError(f"accelerator_config: {fault}; leave it out")
        for objective in self.objectives:
            objective.check_rows("per_device_train_batch_size", args.per_device_train_batch_size, captions)
            objective.check_rows("per_device_eval_batch_size", args.per_device_eval_batch_size, 1)

    def check_ablation(self, args: TrainingArguments) -> None:
        """Leave the objective that an ablation is about; raise `ValueError` if the model, or the run, has none of it."""
        ablation = self.data_arguments.ablation
        if args.do_train:
            raise ValueError(f"ablation: {ablation} is of the evaluation of a trained model; expected do_train false")
        if self.caches_features:
            raise ValueError(
                "ablation: without effect on images that are cached; leave out cache_frozen_features and cache_pixels"
            )
        wanted = objective_of(ablation, self.weights)
        self.weights = {wanted: self.weights[wanted]}
        self.objectives = [each for each in self.objectives if each.name == wanted]
        self.metric_names = ("loss", f"{wanted}_*")

    def check_stream(self, args: TrainingArguments, drawing: list[str]) -> None:
        """Raise `ValueError` if the options of the run do not fit data that is streamed; `drawing` objectives draw from all data."""
        if args.max_steps <= 0:
            raise ValueError("max_steps: needed with streaming, for a stream has no end")
        if (strategy := args.train_sampling_strategy) != "random":
            raise ValueError(f"train_sampling_strategy: {strategy} is without effect on a stream; leave it out")
        if drawing:
            raise ValueError(
                f"streaming: random rows, from which {', '.join(drawing)} is to draw false images, cannot be had of a stream"
            )

    def label_names(self, model: PreTrainedModel) -> list[str]:
        # Which every batch has, whatever objectives its rows serve.
        return ["attention_mask"]

    def collect(self, logits: dict[str, torch.Tensor], inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return what the objectives sum over each row (B, K), side by side, each with whether the row serves it, and the labels of each
        that has any. Metrics over all rows are then exact whatever the batches were, and the logits need not be gathered.
        """
        found = [objective.collected(logits.get(objective.name), inputs) for objective in self.objectives]
        labels = tuple(given for _, given in found if given is not None)
        # Without labels Trainer would ask for no metrics.
        return (whole := torch.cat([sums for sums, _ in found], dim=1)), labels or (whole[:, 0],)

    def metrics(self, prediction: EvalPrediction, data: ConcatDataset) -> dict[str, float]:
        """
        Return the losses and accuracies of all objectives, each over all samples that serve it once, with the baselines of accuracies
        and the number of their labels; the weighted sum of the losses; and the number of rows. An objective that no row serves has none.
        """
        rows, totals = len(prediction.predictions), iter(prediction.predictions.sum(axis=0, dtype=np.float64).tolist())
        labels, loss, figures = iter(prediction.label_ids), 0.0, {}
        for objective in self.objectives:
            sums, served = {name: next(totals) for name in objective.sums}, round(next(totals))
            given = next(labels) if objective.label_input else None
            if not served:
                continue
            found = objective.metrics(sums, served)
            loss += self.weights[objective.name] * found["loss"]
            if objective.label_input:
                counts = np.unique(given[given != IGNORED], return_counts=True)[1]
                found |= {"majority_accuracy": float(counts.max() / counts.sum())}
                found = with_scores(found, int(counts.sum())) | {"labels": int(counts.sum())}
            else:
                found = with_scores(found, served)
            figures |= {f"{objective.name}_{key}": value for key, value in found.items()}
        return {"loss": loss} | figures | {"rows": rows}


def image_numbers(data: ConcatDataset | MixedRows, epoch: int) -> np.ndarray:
    """Return numbers (N,) that rows of an epoch share if they have the same image of a data set."""
    numbers, count = [], 0
    for part in parts_of(data):
        numbers.append(part.image_of + count)
        count = int(numbers[-1].max()) + 1
    return values_of_epoch(data, epoch, numbers)
