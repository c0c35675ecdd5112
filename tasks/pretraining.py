"""Masked language modelling and image-text matching on images with captions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from ..processing.collators import IGNORED, PretrainingCollator
from ..processing.processing_renaissance import RenaissanceProcessor
from .base import Task
from .data.loading import load_split, require_images, require_text


#: One row an image; its captions lie together, so that an image is stored once.
FEATURES = Features({"image": Image(), "image_id": Value("string"), "captions": List(Value("string"))})


@dataclass
class PretrainingArguments:
    """Data and objectives of pretraining."""

    train_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Prepared folders or Hub data sets to train on; several are concatenated."},
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
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many image-caption pairs of each data set only."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first so many image-caption pairs of each data set only."}
    )


class CaptionPairs(TorchDataset):
    """
    The image-caption pairs of a data set that has one row an image: pair i is one caption with its image.

    Args:
        data: Columns `image`, `captions` (a string or a list of strings) and, optionally, `image_id`.
        source: What the data set is called; image ids of different data sets do not meet.
        limit: Most pairs to take.

    Raises:
        ValueError: Where no image has a caption.
    """

    def __init__(self, data: Dataset, source: str, limit: int | None = None):
        self.data = data
        self.source = source
        captions = data.select_columns("captions").with_format("arrow")[:]["captions"]
        listed = isinstance(data.features["captions"], List)
        counts = captions.combine_chunks().value_lengths().to_numpy() if listed else np.ones(len(captions), dtype=int)
        rows = np.repeat(np.arange(len(counts)), counts)
        numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        # The first caption of every image, then the second: in evaluation, which does not shuffle, a batch of one
        # image's captions would have no false pair.
        order = np.argsort(numbers, kind="stable")[:limit]
        self.rows, self.numbers = rows[order], numbers[order]
        if not len(self.rows):
            raise ValueError(f"{source}: not one caption in column captions")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row_number = int(self.rows[index])
        row = self.data[row_number]
        image_id = row.get("image_id")
        captions = row["captions"]
        return {
            "image": row["image"],
            "text": captions if isinstance(captions, str) else captions[self.numbers[index]],
            "image_id": f"{self.source}/{row_number if image_id is None else image_id}",
        }


class Pretraining(Task):
    """Pretraining with masked language modelling, image-text matching, or both."""

    kind = "ForPreTraining"
    arguments = PretrainingArguments
    best_metric = "eval_loss"
    augmentable = ("image",)

    def load(self, split: str) -> ConcatDataset | None:
        """The image-caption pairs of a split; `None` where the user named no data for it."""
        arguments = self.data_arguments
        sources = arguments.train_datasets if split == "train" else arguments.eval_datasets or arguments.train_datasets
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        pairs = []
        for source in sources:
            columns = {
                "image": arguments.image_column,
                "captions": arguments.captions_column,
                "image_id": arguments.image_id_column,
            }
            data = load_split(source, split, columns, optional=("image_id",))
            require_images(data, "image", source, several=False)
            require_text(data, "captions", source)
            pairs.append(CaptionPairs(data, source, limit))
        return ConcatDataset(pairs) if pairs else None

    def collator(self, processor: RenaissanceProcessor, model: PreTrainedModel, seed: int) -> PretrainingCollator:
        return PretrainingCollator(
            processor,
            mlm=bool(model.config.mlm_weight),
            itm=bool(model.config.itm_weight),
            mlm_probability=self.data_arguments.mlm_probability,
            whole_word_masking=self.data_arguments.whole_word_masking,
            seed=seed,
        )

    def check(self, args: TrainingArguments, model: PreTrainedModel) -> None:
        sizes = {"train": args.per_device_train_batch_size, "eval": args.per_device_eval_batch_size}
        if args.label_smoothing_factor:
            raise ValueError("label_smoothing_factor: without effect on the pretraining objectives; leave it out")
        for name, size in sizes.items():
            if model.config.itm_weight and size < 2:
                raise ValueError(
                    f"per_device_{name}_batch_size: image-text matching draws false images from the batch and needs at "
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

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
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
