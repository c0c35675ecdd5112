"""Collators: lists of rows to batches of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from .batch_draft import BatchDraft, image_of, name_of
from .decoding import MAX_PIXELS, UnusableRow, to_rgb
from .objectives import MaskedTextData, MatchingData, ObjectiveData

# Their import registers them.
from .objectives_labelled import AnswersData, ImageClassesData, RegionsData  # noqa: F401 - registers them
from .objectives_masked_images import MaskedImagesData  # noqa: F401 - registers it
from .processing_renaissance import RenaissanceProcessor


#: If shapes are to repeat, a batch has the images of its rows, or a multiple of this number.
IMAGES_MULTIPLE = 8
#: The kinds of input that a row may have.
INPUTS = ("text", "image")


def require_keys(rows: list[dict], names: tuple[str, ...]) -> None:
    """Raise `ValueError` if rows lack one of the keys."""
    if missing := [name for name in names if name not in rows[0]]:
        raise ValueError(
            f"rows lack {', '.join(missing)}, they have {', '.join(rows[0]) or 'nothing'}: CaptionedImages and KeyedRows make such rows; "
            "with the Trainer of transformers set remove_unused_columns=False"
        )


def require_tokens(rows: list[dict], texts: list[str], attention_mask: np.ndarray | torch.Tensor) -> None:
    """
    Raise `UnusableRow` if one of `texts` (N), the first of which are of the rows, has no tokens, as its mask (N, T) says. A tokenizer
    without special tokens makes none of a text of characters that it leaves out.
    """
    for number in np.flatnonzero(np.asarray(attention_mask).sum(axis=1) == 0).tolist():
        row = rows[number] if number < len(rows) else {}
        fault = f"the tokenizer makes no tokens of its text, {texts[number]!r:.60}"
        raise UnusableRow.of(f"{name_of(row)}: {fault}", fault, image_of(row) or row)


def empty_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that stands in for none: the empty one, or a padding token if the tokenizer makes no tokens of that."""
    return "" if tokenizer("")["input_ids"] else tokenizer.pad_token


@dataclass
class PretrainingCollator:
    """
    Makes pretraining batches. What is masked and mismatched depends only on the seed and on each row's epoch and sample id: a
    resumed run repeats it, whatever the number of workers.

    A row has `sample_id` (an integer, unique in the data), `epoch`, and the columns that its objectives need: `text`, `image` with
    `image_id` (rows of one image share it), and others; a column that is `None` counts as none. It serves the objectives that `objectives`
    names, by default all whose columns it has.

    A batch has `attention_mask` and, if an objective reads the clean text, `input_ids` (B, T), and `text_rows`, the rows whose clean
    text is read, if it is not all; `pixel_values` (and `pixel_mask`, if the image processor pads), each image once, if an objective
    reads any; if they are not one a row, `image_index` (B,), the image of each row, unless no objective reads those of all rows; and the
    inputs of each objective that a row serves, with `<name>_rows` (R,), the rows that serve it, if it is not all. If the processor has
    shapes repeat, the images are filled up with copies of the last, which no objective reads, and `image_index` is always there if it
    is read.

    Args:
        processor: Processes images and text.
        objectives: The data halves of the objectives; masked language modelling and image-text matching by default.
        draw_negative: Gives, for a row and a source of randomness, another row, whose image is false of it. It is asked in training
            only (`training` of a row), by objectives that draw images from all of the data.
        seed: Seed of the run.
        fills_images: Whether images may be filled up. Batch normalisation would read the copies.

    Raises:
        ValueError: If the tokenizer, or the objectives together, do not allow for one of them.
    """

    processor: RenaissanceProcessor
    objectives: Sequence[ObjectiveData] = field(default_factory=lambda: (MaskedTextData(), MatchingData()))
    draw_negative: Callable[[dict, np.random.Generator], dict] | None = None
    seed: int = 0
    fills_images: bool = True

    def __post_init__(self):
        if not self.objectives:
            raise ValueError("objectives: expected at least one, such as MaskedTextData(), got none")
        names = {objective.name for objective in self.objectives}
        for objective in self.objectives:
            objective.check_beside(names)
            objective.prepare(self.processor)
        self._no_text = empty_text(self.processor.tokenizer)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        # Tables that are joined have a place for each column in each row.
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
        require_keys(rows, ("sample_id", "epoch"))
        served = self.served_rows(rows)
        texts = [row.get("text", self._no_text) for row in rows]
        if wrong := next((row for row in rows if not isinstance(row.get("text", ""), str)), None):
            raise ValueError(
                f"{name_of(wrong)}: text: expected a string, got {wrong['text']!r:.60}; of several captions make as many rows"
            )
        encoding = self.processor.tokenize(texts, return_tensors="np")
        require_tokens(rows, texts, encoding["attention_mask"])
        pixels = self.processor.max_image_pixels
        draft = BatchDraft(rows, encoding, self.seed, self.processor.repeats_lengths, served, pixels)
        draw = self.draw_negative if rows[0].get("training") else None
        # Trainer takes the number of rows from the first tensor, which therefore is of text: images may be fewer.
        batch = {"attention_mask": encoding["attention_mask"]}
        for objective in self.objectives:
            if len(own := served[objective.name]):
                some = {f"{objective.name}_rows": own} if len(own) < len(rows) else {}
                batch |= some | objective.add(draft, draw)
        if len(clean := draft.clean_rows):
            batch["input_ids"] = encoding["input_ids"]
            if len(clean) < len(rows):
                batch["text_rows"] = clean
        batch |= self.images(draft)
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    def served_rows(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """
        Return the numbers of the rows that serve each objective (R,), by its name.

        Raises:
            ValueError: If a row serves none, or lacks a column of an objective that it names, or objectives cannot share its image.
        """
        served = {objective.name: [] for objective in self.objectives}
        kinds: dict[tuple, list[str]] = {}
        for number, row in enumerate(rows):
            kind = frozenset(row), *row.get("objectives", (None,))
            if kind not in kinds:
                kinds[kind] = self.names_for(row)
            for name in kinds[kind]:
                served[name].append(number)
        return {name: np.array(numbers, dtype=np.int64) for name, numbers in served.items()}

    def names_for(self, row: dict) -> list[str]:
        """Return the names of the objectives that a row serves; raise `ValueError` as `served_rows` does."""
        needed = {objective.name: objective.columns for objective in self.objectives}
        named = row.get("objectives")
        lacking = {name: [column for column in columns if column not in row] for name, columns in needed.items()}
        names = [name for name in needed if (name in named if named is not None else not lacking[name])]
        if wrong := next((name for name in names if lacking[name]), None):
            raise ValueError(
                f"{name_of(row)}: serves the objective {wrong}, expected the columns {', '.join(needed[wrong])}, lacks "
                f"{', '.join(lacking[wrong])}"
            )
        if not names and named is None:
            require_keys([row], tuple(min(lacking.values(), key=len)))
        if not names:
            raise ValueError(
                f"{name_of(row)}: serves {', '.join(named) or 'nothing'}, expected at least one objective of the run ({', '.join(needed)})"
            )
        if "image" in row:
            require_keys([row], ("image_id",))
        for objective in self.objectives:
            objective.check_served(name_of(row), row, names)
        return names

    def images(self, draft: BatchDraft) -> dict[str, np.ndarray]:
        """Return the images that a batch shows, and `image_index` if it is read."""
        count, batch = len(draft.rows), {}
        if draft.index_is_read:
            index = draft.image_index
            is_own = len(draft.shown) == count and np.array_equal(index, np.arange(count))
            if draft.repeats_shapes or not is_own:
                batch["image_index"] = index
        if not draft.shown:
            return batch
        # An image that comes twice, of which an objective covers one copy, is decoded once.
        distinct = {id(row["image"]): row["image"] for row in draft.shown}
        places = {key: place for place, key in enumerate(distinct)}
        processed = self.processor.process_images([*distinct.values()], as_uint8=True)
        order = [places[id(row["image"])] for row in draft.shown]
        images = {name: [arrays[place] for place in order] for name, arrays in processed.items()}
        if draft.repeats_shapes and self.fills_images:
            filled = filled_count(len(draft.shown), count)
            images = {name: [*arrays, *arrays[-1:] * (filled - len(arrays))] for name, arrays in images.items()}
        return batch | {name: np.stack(arrays) for name, arrays in images.items()}


def filled_count(images: int, rows: int) -> int:
    """Return the number that images of a batch are filled up to, so that few numbers come: that of its rows, or a multiple of 8."""
    return rows if rows - IMAGES_MULTIPLE < images <= rows else -(-images // IMAGES_MULTIPLE) * IMAGES_MULTIPLE


@dataclass
class RowCollator:
    """
    Makes batches of whatever a task's rows have: of `image`, or `images` (as many a row), `pixel_values` (B, C, H, W) or (B,
    images, C, H, W); of `text`, and `text_pair` after it, `input_ids` and `attention_mask` (B, T); of `label`, a number or
    an array a row, `labels` (B, ...), float32 unless they are whole numbers or truth values, which become 0 and 1.

    Raises:
        ValueError: If a label is missing or no number, labels differ in shape, or their column is called `labels`.
    """

    processor: RenaissanceProcessor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if not columns.keys() & {"image", "images", "text"}:
            require_keys(rows, ("image", "text"))
        options = {"text_pair": columns["text_pair"]} if "text_pair" in columns else {}
        images, text = columns.get("images", columns.get("image")), columns.get("text")
        batch = self.processor(images, text, as_uint8=True, return_tensors="pt", **options)
        if text is not None:
            require_tokens(rows, text, batch["attention_mask"])
        if "label" in columns:
            batch["labels"] = torch.from_numpy(numbers_of(columns["label"]))
        elif "labels" in columns:
            raise ValueError("rows have the column labels: expected label; rename it")
        return dict(batch)


def numbers_of(labels: list) -> np.ndarray:
    """Return labels, a number or an array a row, as an array (B, ...); raise `ValueError` if they are something else."""
    shapes = {np.shape(label) for label in labels}
    if len(shapes) > 1:
        raise ValueError(f"label: expected one shape in all rows, got {' and '.join(map(str, sorted(shapes)))}")
    values = np.asarray(labels)
    if values.dtype.kind not in "biuf":
        wrong = next(label for label in labels if np.asarray(label).dtype.kind not in "biuf")
        raise ValueError(f"label: expected a number or a list of numbers in each row, got {wrong!r}")
    # Numbers come as Python's floats, which are of 64 bits.
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


@dataclass
class RegionCollator:
    """
    Makes batches of texts that each mean one of the boxes of an image. A row has `image`, `text`, `boxes` (any number, [left,
    top, width, height] in pixels), `sample_id` and, if it is known, `label`, the number of the box that is meant. A batch has
    `pixel_values` (B, R, C, H, W) and `region_mask` (B, R) of the boxes' regions, `input_ids`, `attention_mask` and `labels`.
    """

    processor: RenaissanceProcessor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        require_keys(rows, ("image", "text", "boxes", "sample_id"))
        texts = [row["text"] for row in rows]
        encoding = self.processor.tokenize(texts, return_tensors="np")
        require_tokens(rows, texts, encoding["attention_mask"])
        batch = {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"]}
        images, boxes = ([row[name] for row in rows] for name in ("image", "boxes"))
        batch |= self.processor.process_regions(images, boxes, list(map(name_of, rows)), as_uint8=True)
        if "label" in rows[0]:
            batch["labels"] = np.array([row["label"] for row in rows])
        return {name: torch.from_numpy(value) for name, value in batch.items()}


@dataclass
class RemovingCollator:
    """
    Removes one kind of input from rows, and leaves the rest to another collator. Whatever was removed, batches are the same: texts
    become the empty text, or a padding token if the tokenizer adds no special tokens to it, and images the processor's mean image.

    Args:
        collator: Makes batches of rows with `text` and perhaps `text_pair`, and with `image` or `images`.
        processor: The processor of the run.
        removed: `"text"` or `"image"`, one of `INPUTS`.
    """

    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    processor: RenaissanceProcessor
    removed: str

    def __post_init__(self):
        if self.removed not in INPUTS:
            raise ValueError(f"removed: expected {' or '.join(INPUTS)}, got {self.removed!r}")
        self._text = empty_text(self.processor.tokenizer)
        self._image = self.processor.mean_image()

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return self.collator([row | self.blanks(row) for row in rows])

    def blanks(self, row: dict) -> dict:
        """Return the columns of a row that are removed, with what stands in for them."""
        if self.removed == "text":
            return {name: self._text for name in ("text", "text_pair") if name in row}
        several = {"images": [self._image] * len(row["images"])} if "images" in row else {}
        return several | ({"image": self._image} if "image" in row else {})


@dataclass
class AugmentingCollator:
    """
    Augments the images of training rows, and leaves the rest to the task's collator. What is drawn for an image depends only on
    the seed, its row's epoch and sample id, and its place in the row: a resumed run repeats it, whatever the number of workers.

    A row has `sample_id`, `epoch`, `training` (if false, the row stays as it is) and, in `columns`, one image or a list of them.
    An image of more than `max_pixels` is refused.
    """

    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    augmentations: list[Callable[[Image.Image, np.random.Generator], Image.Image]]
    columns: tuple[str, ...]
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return self.collator([self.augment_row(row) if row["training"] else row for row in rows])

    def augment_row(self, row: dict) -> dict:
        """Return the row with its images augmented, as RGB."""
        # Children of the row's key, so that what is drawn for the images and for the text is independent.
        streams = np.random.SeedSequence((self.seed, row["epoch"], row["sample_id"]))
        changed = {}
        for name in filter(row.__contains__, self.columns):
            several = isinstance(row[name], (list, tuple))
            images = row[name] if several else [row[name]]
            pairs = zip(images, map(np.random.default_rng, streams.spawn(len(images))), strict=True)
            augmented = [self.augment(image, rng) for image, rng in pairs]
            changed[name] = augmented if several else augmented[0]
        return row | changed

    def augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the image after all augmentations, which are applied in their order."""
        image = to_rgb(image, self.max_pixels)
        for augmentation in self.augmentations:
            image = augmentation(image, rng)
        return image
