"""Masked image modelling as an objective of pretraining (Xie et al. 2022)."""

import copy

import torch
from torch import nn
from transformers.initialization import no_init_weights

from .encoder_traits import tried
from .objectives import Objective, Pass, Scores, register_objective
from .what_trains import freezing_left_to_caller


class PatchesHead(nn.Linear):
    """
    Predicts the pixels of a cell from its state: one layer (Xie et al. 2022, section 3.4).

    Attributes:
        grid: Numbers of rows and columns of cells, each with a state.
        first: The place of the first cell's state, behind those of special tokens.
    """

    def __init__(self, size: int, shape: tuple[int, int, int], grid: tuple[int, int], first: int):
        channels, height, width = shape
        super().__init__(size, channels * (height // grid[0]) * (width // grid[1]))
        self.shape, self.grid, self.first = shape, grid, first


def grid_of(shape: tuple[int, int, int], states: int) -> tuple[tuple[int, int], int] | None:
    """
    Return the rows and columns of the grid that an encoder's `states` form, whose cells are squares of an image of `shape` (channels, height,
    width), and the number of special states before it; `None` if they form none of several cells. Of several grids the finest: 17 states
    of an image of 64x64 pixels are one token and 4x4 cells.
    """
    _, height, width = shape
    for special in range(min(states, 17)):
        # Of rows and columns, rows / columns = height / width.
        rows = round(((states - special) * height / width) ** 0.5)
        columns = (states - special) // max(rows, 1)
        fits = rows * columns == states - special > 1 and height % rows == 0 and width % columns == 0
        if fits and height // rows == width // columns:
            return (rows, columns), special
    return None


def cells_of(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the pixels (B, cells, C * h * w) of each cell of a grid, row by row, of images (B, C, H, W)."""
    rows, columns = grid
    count, channels, height, width = pixels.shape
    cells = pixels.reshape(count, channels, rows, height // rows, columns, width // columns)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


@register_objective
class MaskedImageModelling(Objective):
    """
    Predicts the pixels of cells of an image that are covered with the mean colour (Xie et al. 2022, SimMIM, where a learned vector covers
    them, which only some encoders have). The image sees the text of its row, if it has one.

    The model's states of an image must be a grid, a state a square cell, perhaps behind special tokens, as those of ViT, Swin or a
    convolutional map; it reads pixels, not features.

    Inputs: `mim_image_index` (R,), images of the batch that are covered, which nothing else reads; `mim_masked` (R, M), the numbers of their
    covered cells, row by row. `mim_text_index` (P,) are the texts that the first P of these images see, by default those of all
    rows; the others see none. `input_ids` are those texts.

    The scores (R, M, C * h * w) are the normalised pixels of the covered cells. The loss is the mean absolute error over a cell's pixels, a
    term each covered cell (section 3.5).
    """

    name = "mim"
    title = "masked image modelling"
    inputs = ("mim_image_index", "mim_masked", "mim_text_index")
    needs = ("mim_image_index", "mim_masked")
    per_text = ("mim_image_index", "mim_masked")

    def make_head(self, config, model):
        shape = model.image_shape
        with freezing_left_to_caller(), no_init_weights():
            states = tried(lambda: image_states(type(model)(copy.deepcopy(config)), shape))
        if (found := grid_of(shape, states)) is None:
            fault = f"the model has {states} states of an image of {shape[1]}x{shape[2]} pixels, which form no grid of square cells"
            raise ValueError(
                f"objectives: mim reads a grid of states, and {fault}; choose another vision encoder, or leave out mim"
            )
        config.mim_grid = list(found[0])
        return PatchesHead(config.hidden_size, shape, *found)

    def covered(self, model, batch, pixels):
        grid, index, masked = model.config.mim_grid, batch["mim_image_index"], batch["mim_masked"]
        if pixels is None:
            raise ValueError("pixel_values: masked image modelling needs pixels, got features")
        if pixels.shape[1:] != (shape := model.image_shape):
            raise ValueError(
                f"pixel_values: masked image modelling needs images of {shape}, got {tuple(pixels.shape[1:])}"
            )
        pixels = model.normalised(pixels, model.dtype)
        shown = pixels.new_ones(len(index), grid[0] * grid[1]).scatter(1, masked, 0.0).view(-1, 1, *grid)
        # A cell is covered with 0, the mean colour.
        for dimension, cells in enumerate(grid, start=2):
            shown = shown.repeat_interleave(pixels.shape[dimension] // cells, dim=dimension)
        return pixels.index_copy(0, index, pixels.index_select(0, index) * shown)

    def passes(self, batch):
        index, texts = batch["mim_image_index"], batch.get("mim_text_index")
        count = index.shape[0] if texts is None else texts.shape[0]
        passes = [Pass("input_ids", ("image_states",), texts, index[:count])] if count else []
        if count < index.shape[0]:
            passes.append(Pass(None, ("image_states",), image_index=index[count:], kind="images"))
        return passes

    def score(self, head, step):
        states = torch.cat([fused.image_states for fused in step.fused])[:, head.first :]
        index, masked = step.batch["mim_image_index"], step.batch["mim_masked"].unsqueeze(2)
        logits = head(states.gather(1, masked.expand(-1, -1, states.shape[2])))
        true = cells_of(step.model.normalised(step.pixels.index_select(0, index), torch.float32), head.grid)
        true = true.gather(1, masked.expand(-1, -1, true.shape[2]))
        return Scores(logits, (logits.float() - true).abs().mean(dim=2).sum())

    def count(self, batch):
        return batch["mim_masked"].numel()

    def dummy_inputs(self, input_ids, config):
        images = torch.arange(len(input_ids), device=input_ids.device)
        return {"input_ids": input_ids, "mim_image_index": images, "mim_masked": torch.zeros_like(images).unsqueeze(1)}


def image_states(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many states a model encodes an image of `shape` to."""
    return model.encode_image(torch.zeros(1, *shape)).states.shape[1]
