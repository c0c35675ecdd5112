"""The data of masked image modelling (Xie et al. 2022)."""

from dataclasses import dataclass

import numpy as np
import torch

from ..modeling.fields import check_bounds, option
from ..modeling.objectives_masked_images import cells_of
from .batch_draft import BatchDraft
from .decoding import is_feature
from .objectives import ObjectiveData, register_objective_data


@register_objective_data
@dataclass
class MaskedImagesData(ObjectiveData):
    """
    Masked image modelling: `mim_image_index` and `mim_masked` (R, M), copies of the rows' images in which cells are covered, and the numbers of
    these; `mim_text_index`, if some rows have no text or do not serve it: the texts that images see, of which those without come last.
    M follows from the options. Which cells depends on nothing but the row's key.
    """

    name = "mim"
    sums = ("loss",)
    columns = ("image",)
    cacheable = False

    mim_probability: float = option(0.6, "Share of an image that is covered.", within="(0, 1)")
    mim_square: int = option(
        1,
        "Side of the covered squares, in cells, of which a model has as many as its vision encoder makes states: 16 pixels each for a "
        "ViT-B/16. The original covers squares of 32 pixels.",
        within="[1, inf)",
    )

    def __post_init__(self):
        check_bounds(self)
        self._shape = self._cell = None

    def prepare(self, processor):
        self._shape = processor.image_shape
        if self._shape is None:
            fault = "masked image modelling needs images of one size; choose vit, imagenet or clip"
            raise ValueError(f"image_transform: {fault}")

    def fit(self, config):
        self._cell, self._statistics = config.mim_cell, (config.pixel_mean, config.pixel_deviation)
        if {"vision", "cross_modal"} <= set(config.frozen):
            raise ValueError(
                "frozen: vision and cross_modal leave masked image modelling nothing to train; leave out one, or mim"
            )
        if self._cell and self._shape:
            self.squares()

    def squares(self) -> tuple[int, int]:
        """Return the numbers of rows and columns of squares in an image; raise `ValueError` if the options leave none to see."""
        side = self._cell * self.mim_square
        height, width = self._shape
        if height % side or width % side or (height, width) == (side, side):
            squares = f"squares of {self.mim_square} cells of {self._cell} pixels"
            fault = f"{squares} do not divide images of {height}x{width} pixels into several"
            raise ValueError(f"mim_square: {fault}; choose another number, or image_size")
        return height // side, width // side

    def add(self, draft, draw):
        self.require_fit(self._cell)
        rows = draft.rows_of(self.name)
        has_text = np.array(["text" in draft.rows[number] for number in rows])
        if not has_text.all():
            # Those without a text come last.
            rows = rows[np.argsort(~has_text, kind="stable")]
        inputs = {
            "mim_image_index": self.copies(draft, rows),
            "mim_masked": np.stack([self.masked(draft, row) for row in rows]),
        }
        paired = rows[: has_text.sum()]
        draft.read_clean_text(paired)
        if len(paired) < len(draft.rows):
            inputs |= {"mim_text_index": paired, "mim_rows": rows}
        return inputs

    def copies(self, draft: BatchDraft, rows: np.ndarray) -> np.ndarray:
        """Return the numbers in `draft.shown` of copies of the images of `rows`, one a row."""
        if any(is_feature(draft.rows[number]["image"]) for number in rows):
            raise ValueError("objectives: mim needs pixels, which cached features lack; leave out the cache or mim")
        return np.array([draft.show(draft.rows[number], (self.name, number)) for number in rows])

    def masked(self, draft: BatchDraft, row: int) -> np.ndarray:
        """Return the numbers of the cells (M,) that are covered in the image of a row, in order."""
        rows, columns = self.squares()
        count = min(max(round(self.mim_probability * rows * columns), 1), rows * columns - 1)
        covered = np.zeros(rows * columns, dtype=bool)
        covered[draft.row_rng(row, self.name).choice(rows * columns, count, replace=False)] = True
        cells = np.ones((self.mim_square, self.mim_square), dtype=bool)
        return np.flatnonzero(np.kron(covered.reshape(rows, columns), cells))

    def row_sums(self, logits, inputs):
        pixels = inputs["pixel_values"].index_select(0, inputs["mim_image_index"])
        if pixels.dtype == torch.uint8:
            mean, deviation = (
                torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in self._statistics
            )
            pixels = (pixels - mean) / deviation
        true = cells_of(pixels.float(), self._cell)
        true = true.gather(1, inputs["mim_masked"].unsqueeze(2).expand(-1, -1, true.shape[2]))
        return (logits.float() - true).abs().mean(dim=(1, 2)).unsqueeze(1)
