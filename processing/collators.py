"""Collators: lists of rows to batches of tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .decoding import to_rgb
from .masking import IGNORED, draw_pairs, mask_tokens
from .processing_renaissance import RenaissanceProcessor


#: Texts that image-text matching may read.
ITM_TEXTS = ("clean", "masked")

#: Where its false images may come from: the rest of the batch, or all of the data.
ITM_NEGATIVES = ("batch", "random")


@dataclass
class PretrainingCollator:
    """
    Makes pretraining batches. What is masked and mismatched is a function of the seed and of each row's epoch and sample
    id, so that a resumed run repeats it, whatever the number of workers.

    A row has `image`, `text`, `image_id` (rows of one image share it), `sample_id` (an integer, unique in the data) and
    `epoch`. A batch has `input_ids`, `attention_mask`; `pixel_values` (and `pixel_mask`, where the image processor pads), each
    image once, and where they are not one a row `mlm_image_index`, which says whose is whose; with `mlm` also `mlm_input_ids` and
    `mlm_labels`; with `itm` also `itm_image_index` and `itm_labels`.

    Args:
        processor: Processes images and text.
        mlm: Whether to mask text for masked language modelling.
        itm: Whether to mismatch images for image-text matching.
        mlm_probability: Share of the tokens, or words, to mask.
        whole_word_masking: Whether to mask all pieces of a word together.
        itm_text: What is matched with images: the `"clean"` text, or the `"masked"` one, which needs `mlm`. The batch then has no
            `input_ids`.
        draw_negative: Gives, for a row and a source of randomness, another row, whose image is false of it. It is asked in training
            only (`training` of a row); by default, and in evaluation, false images are those of other rows of the batch.
        seed: Seed of the run.

    Raises:
        ValueError: Where the tokenizer has no mask token, or cannot tell words apart, or `itm_text` is neither.
    """

    processor: RenaissanceProcessor
    mlm: bool = True
    itm: bool = True
    mlm_probability: float = 0.15
    whole_word_masking: bool = False
    itm_text: str = "clean"
    draw_negative: Callable[[dict, np.random.Generator], dict] | None = None
    seed: int = 0

    def __post_init__(self):
        if self.itm_text not in ITM_TEXTS or (self.itm_text == "masked" and not (self.mlm and self.itm)):
            raise ValueError(
                f"itm_text: expected one of {', '.join(ITM_TEXTS)}, and masked only where both objectives are on, got "
                f"{self.itm_text!r}"
            )
        tokenizer = self.processor.tokenizer
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability: expected a share between 0 and 1, got {self.mlm_probability}")
        if self.mlm and tokenizer.mask_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token: masked language modelling needs one")
        if self.mlm and not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer, which masking needs")
        self._random_ids = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        encoding = self.processor.tokenize([row["text"] for row in rows], return_tensors="np")
        # Trainer takes the number of rows from the first tensor, which therefore is of text: images may be fewer.
        batch = {} if self.itm_text == "masked" else {"input_ids": encoding["input_ids"]}
        batch["attention_mask"] = encoding["attention_mask"]
        keys = [(self.seed, row["epoch"], row["sample_id"]) for row in rows]
        if self.mlm:
            batch["mlm_input_ids"], batch["mlm_labels"] = self.mask(encoding, keys)
        shown = rows
        if self.itm:
            shown, paired, batch["itm_labels"] = self.match(rows, keys)
        _, firsts, image_of = np.unique([row["image_id"] for row in shown], return_index=True, return_inverse=True)
        if len(firsts) == len(shown):
            firsts = image_of = np.arange(len(shown))
        if len(firsts) < len(shown) or len(rows) < len(shown):
            batch["mlm_image_index"] = image_of[: len(rows)]
        if self.itm:
            batch["itm_image_index"] = image_of[paired]
        images = self.processor.process_images([shown[first]["image"] for first in firsts], as_uint8=True)
        batch |= {name: np.stack(arrays) for name, arrays in images.items()}
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def match(self, rows: list[dict], keys: list[tuple[int, int, int]]) -> tuple[list[dict], np.ndarray, np.ndarray]:
        """
        The rows, behind them drawn ones of which no more than the images is needed; the number among all of them of the row whose
        image each text is paired with (B,); and labels (B,).
        """
        rng = np.random.default_rng([number for key in keys for number in key])
        if self.draw_negative is None or not rows[0]["training"]:
            return rows, *draw_pairs(np.array([row["image_id"] for row in rows]), rng)
        false = rng.permutation(len(rows))[: len(rows) // 2]
        paired, labels = np.arange(len(rows)), np.ones(len(rows), dtype=np.int64)
        paired[false], labels[false] = len(rows) + np.arange(len(false)), 0
        return [*rows, *(self.draw_negative(rows[number], rng) for number in false)], paired, labels

    def mask(self, encoding, keys: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Corrupted ids and labels (B, T) of an encoded batch; a row depends on nothing but its own text and key."""
        masked = [
            mask_tokens(
                ids,
                self.units(tokens),
                self.processor.tokenizer.mask_token_id,
                self._random_ids,
                self.mlm_probability,
                np.random.default_rng(key),
            )
            for ids, tokens, key in zip(encoding["input_ids"], encoding.encodings, keys, strict=True)
        ]
        corrupted, labels = (np.stack(arrays) for arrays in zip(*masked, strict=True))
        return corrupted, labels

    def units(self, tokens) -> np.ndarray:
        """What each token of one encoding is masked together with (T,); -1 for special tokens and padding."""
        special = np.array(tokens.special_tokens_mask) | (1 - np.array(tokens.attention_mask))
        if self.whole_word_masking:
            numbers = np.array([-1 if word is None else word for word in tokens.word_ids])
        else:
            numbers = np.arange(len(special))
        return np.where(special, -1, numbers)


@dataclass
class RowCollator:
    """
    Makes batches of whatever a task's rows have: of `image`, or `images` (as many a row), `pixel_values` (B, C, H, W) or (B,
    images, C, H, W); of `text`, and `text_pair` after it, `input_ids` and `attention_mask` (B, T); of `label`, a number or
    an array a row, `labels` (B, ...), float32 unless they are whole numbers.
    """

    processor: RenaissanceProcessor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        options = {"text_pair": columns["text_pair"]} if "text_pair" in columns else {}
        batch = self.processor(
            images=columns.get("images", columns.get("image")),
            text=columns.get("text"),
            return_tensors="pt",
            as_uint8=True,
            **options,
        )
        if "label" in columns:
            labels = np.asarray(columns["label"])
            # Numbers come as Python's floats, which are of 64 bits.
            labels = labels.astype(np.float32) if labels.dtype == np.float64 else labels
            batch["labels"] = torch.from_numpy(labels)
        return dict(batch)


@dataclass
class RegionCollator:
    """
    Makes batches of texts that each mean one of the boxes of an image. A row has `image`, `text`, `boxes` (any number, [left,
    top, width, height] in pixels), `sample_id` and, where it is known, `label`, the number of the box that is meant. A batch has
    `pixel_values` (B, R, C, H, W) and `region_mask` (B, R) of the boxes' regions, `input_ids`, `attention_mask` and `labels`.
    """

    processor: RenaissanceProcessor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        encoding = self.processor.tokenize([row["text"] for row in rows], return_tensors="np")
        batch = {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"]}
        batch |= self.processor.process_regions(
            [row["image"] for row in rows],
            [row["boxes"] for row in rows],
            names=[f"row {row['sample_id']}" for row in rows],
            as_uint8=True,
        )
        if "label" in rows[0]:
            batch["labels"] = np.array([row["label"] for row in rows])
        return {name: torch.from_numpy(value) for name, value in batch.items()}


@dataclass
class AugmentingCollator:
    """
    Augments the images of training rows, and leaves the rest to the task's collator. What is drawn for an image is a function
    of the seed, of its row's epoch and sample id, and of its place in the row, so that a resumed run repeats it, whatever
    the number of workers.

    A row has `sample_id`, `epoch`, `training` (a row where that is false stays as it is) and images.

    Args:
        collator: The task's collator.
        augmentations: Functions of an RGB image and a source of randomness, applied in this order.
        columns: Where a row has its images, one or a list of them.
        seed: Seed of the run.
    """

    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    augmentations: list[Callable[[Image.Image, np.random.Generator], Image.Image]]
    columns: tuple[str, ...]
    seed: int = 0

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return self.collator([self.augment_row(row) if row["training"] else row for row in rows])

    def augment_row(self, row: dict) -> dict:
        """The row with its images augmented, as RGB."""
        # Children of the row's key, so that what is drawn for the images and for the text is independent.
        streams = np.random.SeedSequence((self.seed, row["epoch"], row["sample_id"]))
        changed = {}
        for name in self.columns:
            several = isinstance(row[name], (list, tuple))
            images = row[name] if several else [row[name]]
            augmented = [
                self.augment(image, np.random.default_rng(stream))
                for image, stream in zip(images, streams.spawn(len(images)), strict=True)
            ]
            changed[name] = augmented if several else augmented[0]
        return row | changed

    def augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """One image, through all augmentations."""
        image = to_rgb(image)
        for augmentation in self.augmentations:
            image = augmentation(image, rng)
        return image


__all__ = [
    "IGNORED",
    "ITM_NEGATIVES",
    "ITM_TEXTS",
    "AugmentingCollator",
    "PretrainingCollator",
    "RegionCollator",
    "RowCollator",
]
