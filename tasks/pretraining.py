"""Masked language modelling and image-text matching on images with captions."""

import functools
import logging
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from ..processing.collators import IGNORED, ITM_NEGATIVES, ITM_TEXTS, PretrainingCollator
from ..processing.processing_renaissance import RenaissanceProcessor
from .arguments import RunArguments, check_at_least
from .base import Task
from .data import schemas
from .data.captioned import CaptionedImages
from .data.keyed_rows import KeyedRows
from .data.loading import load_split, require_images, require_text, undecoded
from .data.mixing import MixedRows, check_weights, parts_of, values_of_epoch
from .data.sampling import GroupedSampler
from .data.streaming import CaptionSource, CaptionStream


logger = logging.getLogger(__name__)


@dataclass
class PretrainingArguments:
    """Data and objectives of pretraining."""

    train_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data sets to train on: prepared folders, Hub data sets, and folders of Parquet files, of WebDataset's .tar "
            "files, or of images with a metadata file. Several are concatenated."
        },
    )
    train_weights: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Share of each of several train_datasets in the pairs of an epoch, up to a common factor; by default that of "
            "its size."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read training data as it comes, without downloading or indexing it first: one caption of each image a "
            "pass. Needs max_steps."
        },
    )
    shuffle_buffer_size: int | None = field(
        default=None, metadata={"help": "With streaming: rows of each data set that are shuffled at a time; 1000."}
    )
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "The same for evaluation; by default the validation splits of the training data sets."},
    )
    image_column: str = field(default="image", metadata={"help": "Name of the column of images."})
    captions_column: str = field(
        default="captions", metadata={"help": "Name of the column of captions: a string, or a list of strings, a row."}
    )
    image_id_column: str = field(
        default="image_id",
        metadata={"help": "Name of the column that identifies an image; without one, every row is another image."},
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens, or words, to mask."})
    whole_word_masking: bool = field(default=False, metadata={"help": "Mask all pieces of a word together."})
    itm_text: str = field(
        default="clean",
        metadata={
            "help": "Text that is matched with images: clean, as in the original, or masked, which is cheaper: a pair that matches "
            "is fused once for both objectives.",
            "choices": ITM_TEXTS,
        },
    )
    itm_negatives: str = field(
        default="batch",
        metadata={
            "help": "Where the false images of matching come from in training: batch (its other rows), which costs nothing, or random "
            "(all of the training data), for which one more image for every other row is loaded and encoded. In evaluation: the "
            "batch.",
            "choices": ITM_NEGATIVES,
        },
    )
    captions_per_image: int = field(
        default=1,
        metadata={
            "help": "How many captions of an image come in one batch, where it has so many; its image is then encoded once for "
            "them, and a batch has fewer images."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many image-caption pairs of each data set only."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first so many image-caption pairs of each data set only."}
    )

    def __post_init__(self):
        check_at_least(self, captions_per_image=1)
        if self.itm_text not in ITM_TEXTS:
            raise ValueError(f"itm_text: expected one of {', '.join(ITM_TEXTS)}, got {self.itm_text!r}")
        if self.itm_negatives not in ITM_NEGATIVES:
            raise ValueError(f"itm_negatives: expected one of {', '.join(ITM_NEGATIVES)}, got {self.itm_negatives!r}")
        if self.train_weights:
            check_weights(self.train_weights, self.train_datasets)
        if self.streaming:
            self.shuffle_buffer_size = 1000 if self.shuffle_buffer_size is None else self.shuffle_buffer_size
            if self.shuffle_buffer_size < 1:
                raise ValueError(f"shuffle_buffer_size: expected at least 1, got {self.shuffle_buffer_size}")
            if self.captions_per_image > 1:
                raise ValueError("captions_per_image: without effect with streaming, one caption of each image a pass")
            if self.itm_negatives == "random":
                raise ValueError("itm_negatives: random rows cannot be had of a stream; expected batch with streaming")
            if self.max_train_samples is not None:
                raise ValueError(
                    "max_train_samples: without effect with streaming, where max_steps says how long; leave it out"
                )
            if len(self.train_datasets) > 1 and not self.train_weights:
                raise ValueError("train_weights: needed to stream several train_datasets, whose sizes are not known")
        elif self.shuffle_buffer_size is not None:
            raise ValueError("shuffle_buffer_size: without effect without streaming; leave it out")

    def columns(self) -> dict[str, str]:
        """The task's names of columns, each with the name that the data has for it."""
        return {"image": self.image_column, "captions": self.captions_column, "image_id": self.image_id_column}


class Pretraining(Task):
    """Pretraining with masked language modelling, image-text matching, or both."""

    kind = "ForPreTraining"
    arguments = PretrainingArguments
    best_metric = "eval_loss"
    #: The training data, where it is streamed.
    train_stream: CaptionStream | None = None

    def __init__(self, data_arguments: PretrainingArguments, names: list[str] | None = None):
        super().__init__(data_arguments, names)
        # False images come from the data as they are: beside augmented true ones a model could tell them by that.
        self.augmentable = () if data_arguments.itm_negatives == "random" else ("image",)
        self.train_data: ConcatDataset | MixedRows | None = None

    def load(self, split: str) -> TorchDataset | None:
        """The image-caption pairs of a split; `None` where the user named no data for it."""
        arguments = self.data_arguments
        training = split == "train"
        sources = arguments.train_datasets if training else arguments.eval_datasets or arguments.train_datasets
        if not sources:
            return None
        if arguments.streaming and training:
            self.train_stream = self.stream(sources)
            return self.train_stream
        pairs = [self.pairs(source, split) for source in sources]
        mixed = training and arguments.train_weights
        data = MixedRows(pairs, arguments.train_weights, self.seed) if mixed else ConcatDataset(pairs)
        if training:
            self.train_data = data
        return data

    def pairs(self, source: str, split: str) -> CaptionedImages:
        """The pairs of one data set, indexed; of those that are streamed otherwise, the first rows."""
        arguments = self.data_arguments
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        if arguments.streaming and not Path(source).is_dir():
            if limit is None:
                raise ValueError(
                    f"max_eval_samples: needed to evaluate on the first rows of {source}, which is streamed"
                )
            first = islice(CaptionSource.open(source, split, arguments.columns()).rows(), limit)
            data = Dataset.from_list([row for row, _ in first], features=schemas.CAPTIONS)
            return CaptionedImages(undecoded(data), source, limit)
        data = load_split(source, split, arguments.columns(), optional=("image_id",))
        require_images(data, "image", source, several=False)
        require_text(data, "captions", source)
        return CaptionedImages(data, source, limit)

    def stream(self, sources: list[str]) -> CaptionStream:
        """The pairs of data sets that are read as they come."""
        arguments = self.data_arguments
        opened = [CaptionSource.open(source, "train", arguments.columns()) for source in sources]
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
            if strategy != "random":
                raise ValueError(f"train_sampling_strategy: {strategy} is without effect on a stream; leave it out")
            return None
        if strategy == "sequential" and per_image > 1:
            raise ValueError(
                "train_sampling_strategy: sequential leaves rows where they are, and captions_per_image brings those of an image "
                "together; leave out one of them"
            )
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

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> PretrainingCollator:
        return PretrainingCollator(
            processor,
            mlm=bool(model.config.mlm_weight),
            itm=bool(model.config.itm_weight),
            mlm_probability=self.data_arguments.mlm_probability,
            whole_word_masking=self.data_arguments.whole_word_masking,
            itm_text=self.data_arguments.itm_text,
            draw_negative=self.draw_negative if self.data_arguments.itm_negatives == "random" else None,
            seed=seed,
        )

    def draw_negative(self, row: dict, rng: np.random.Generator) -> dict:
        """A row of the training data with another image than `row`; raises `ValueError` where there is hardly any."""
        for number in rng.integers(len(self.train_data), size=1000).tolist():
            drawn = self.train_data[number]
            if drawn["image_id"] != row["image_id"]:
                return drawn
        raise ValueError(
            f"itm_negatives: 1000 rows drawn from the training data all have the image {row['image_id']}; expected others too"
        )

    def check(self, args: TrainingArguments, model: PreTrainedModel) -> None:
        sizes = {"train": args.per_device_train_batch_size, "eval": args.per_device_eval_batch_size}
        if self.train_stream:
            if args.max_steps <= 0:
                raise ValueError("max_steps: needed with streaming, for a stream has no end")
            if args.dataloader_num_workers > self.train_stream.num_files:
                raise ValueError(
                    f"dataloader_num_workers: expected at most {self.train_stream.num_files}, the fewest files that a streamed data "
                    f"set has, got {args.dataloader_num_workers}"
                )
        drawn, captions = self.data_arguments.itm_negatives == "random", self.data_arguments.captions_per_image
        if drawn and not model.config.itm_weight:
            raise ValueError("itm_negatives: without effect with itm_weight 0; leave it out")
        if not args.do_train and (drawn or captions > 1):
            logger.warning("itm_negatives, captions_per_image: without effect, for nothing is trained")
        if model.config.itm_weight and not drawn and captions > 1 and captions >= sizes["train"]:
            raise ValueError(
                f"captions_per_image: image-text matching draws false images from the batch, expected fewer than its {sizes['train']} "
                f"rows, got {captions}"
            )
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor: without effect on the pretraining objectives; leave it out")
        for name, size in sizes.items():
            if model.config.itm_weight and size < 2:
                raise ValueError(
                    f"per_device_{name}_batch_size: in image-text matching half of a batch has false images, which needs at "
                    f"least 2 rows, got {size}; or leave it out with itm_weight 0"
                )

    def label_names(self, model: PreTrainedModel) -> list[str]:
        return [f"{name}_labels" for name in ("mlm", "itm") if getattr(model.config, f"{name}_weight")]

    def preprocess_logits(self, logits: Any, labels: Any) -> torch.Tensor:
        """
        Sums over each row (B, 6): MLM loss, masked tokens, correct masked tokens; ITM loss, correct pairs, true pairs; NaN
        where an objective is off. Metrics over all rows are then exact whatever the batches were, and the logits need not be
        gathered.
        """
        pairs = zip(labels, logits, strict=True) if isinstance(labels, tuple) else [(labels, logits)]
        sums = [None, None]
        for labels_, logits_ in pairs:
            matching = labels_.ndim == 1
            sums[matching] = matching_sums(logits_, labels_) if matching else masked_lm_sums(logits_, labels_)
        size = len(next(rows for rows in sums if rows is not None))
        filled = [torch.full((size, 3), torch.nan, device=logits_.device) if rows is None else rows for rows in sums]
        return torch.cat(filled, dim=1)

    def metrics(self, prediction: EvalPrediction, data: ConcatDataset) -> dict[str, float]:
        """Losses and accuracies of both objectives, each over all samples once."""
        mlm_loss, masked, mlm_correct, itm_loss, itm_correct, matching = prediction.predictions.sum(axis=0).tolist()
        rows = len(prediction.predictions)
        metrics = {}
        if masked > 0:
            metrics |= {"mlm_loss": mlm_loss / masked, "mlm_accuracy": mlm_correct / masked}
        if not np.isnan(itm_loss):
            metrics |= {"itm_loss": itm_loss / rows, "itm_accuracy": itm_correct / rows}
            metrics["itm_majority_accuracy"] = max(matching, rows - matching) / rows
        return metrics


def image_numbers(data: ConcatDataset | MixedRows, epoch: int) -> np.ndarray:
    """Return numbers (N,) that rows of an epoch share if they have the same image of a data set."""
    numbers, count = [], 0
    for part in parts_of(data):
        numbers.append(part.image_of + count)
        count = int(numbers[-1].max()) + 1
    return values_of_epoch(data, epoch, numbers)


def masked_lm_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss, masked tokens and correct ones, summed over each row (B, 3); `logits` (M, V) are those where masked."""
    masked = labels != IGNORED
    truth = labels[masked]
    row = masked.nonzero()[:, 0]
    values = torch.stack(
        [
            torch.nn.functional.cross_entropy(logits.float(), truth, reduction="none"),
            torch.ones(len(truth), device=logits.device),
            (logits.argmax(dim=-1) == truth).float(),
        ],
        dim=1,
    )
    return values.new_zeros(len(labels), 3).index_add_(0, row, values)


def matching_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss, correctness and label of each pair (B, 3)."""
    loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return torch.stack([loss, (logits.argmax(dim=-1) == labels).float(), labels.float()], dim=1)
