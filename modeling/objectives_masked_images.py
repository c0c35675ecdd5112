"""Masked image modelling as an objective of pretraining (Xie et al. 2022)."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from transformers.initialization import no_init_weights

from .encoder_traits import tried
from .objectives import Objective, Pass, Scores, register_objective
from .what_trains import freezing_left_to_caller


#: The most tokens that a vision encoder has before its patches: a class, and registers.
MOST_SPECIAL = 8


class PatchesHead(nn.Linear):
    """
    Predicts the pixels of a cell from its state: one layer (Xie et al. 2022, section 3.4).

    Attributes:
        cell: Height and width of a cell in pixels.
        first: The place of the first cell's state, behind those of special tokens.
    """

    def __init__(self, size: int, channels: int, cell: int, first: int):
        super().__init__(size, channels * cell**2)
        self.cell, self.first = cell, first


def cell_of(height: int, width: int, states: int) -> tuple[int, int] | None:
    """
    Return the side in pixels of the square cells that an encoder's `states` of an image form a grid of, and the number of special states
    before it; `None` if they form none of several cells. Of several grids the finest: 17 states of an image of 64x64 pixels are one
    token and 4x4 cells of 16 pixels.
    """
    for special in range(states - 1):
        cell = round((height * width / (states - special)) ** 0.5)
        fits = height % cell == 0 and width % cell == 0
        if fits and (height // cell) * (width // cell) == states - special:
            return cell, special
    return None


def quadruples(found: tuple[int, int], pixels: int, states_of: Callable[[int], int]) -> bool:
    """
    Return whether an image with sides twice as long has four times as many cells. If the stride of convolutions does not divide an image, they
    round their map up, and a grid of other cells may fit it by chance.

    Args:
        found: What `cell_of` returned for the image.
        pixels: The number of pixels of the image.
        states_of: Takes a factor, and returns the number of states of an image with sides longer by it. It raises an error if the encoder
            takes images of one size alone; the number of special states must do then.
    """
    cell, special = found
    try:
        return states_of(2) - special == 4 * pixels // cell**2
    except Exception:
        return special <= MOST_SPECIAL


def cells_of(pixels: torch.Tensor, cell: int) -> torch.Tensor:
    """Return the pixels (B, cells, C * cell * cell) of each cell, row by row, of images (B, C, H, W)."""
    cells = pixels.unflatten(3, (-1, cell)).unflatten(2, (-1, cell))
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
        channels, height, width = model.image_shape

        def states_of(times: int) -> int:
            """Return the number of states of an image with sides `times` as long as the model's."""
            with freezing_left_to_caller(), no_init_weights():
                shape = (channels, times * height, times * width)
                return tried(lambda: image_states(type(model)(copy.deepcopy(config)), shape))

        states = states_of(1)
        found = cell_of(height, width, states)
        if found is None or not quadruples(found, height * width, states_of):
            fault = f"the model has {states} states of an image of {height}x{width} pixels, which form no grid of square cells"
            raise ValueError(
                f"objectives: mim reads a grid of states, and {fault}; choose another image_size or vision encoder, or leave out mim"
            )
        config.mim_cell, first = found
        return PatchesHead(config.hidden_size, channels, config.mim_cell, first)

    def covered(self, model, batch, pixels):
        if pixels is None:
            raise ValueError("pixel_values: masked image modelling needs pixels, got features")
        cell, (height, width) = model.config.mim_cell, pixels.shape[2:]
        if height % cell or width % cell:
            fault = f"needs sides that are multiples of {cell}, got {height}x{width}"
            raise ValueError(f"pixel_values: masked image modelling {fault}")
        index, pixels = batch["mim_image_index"], model.normalised(pixels, model.dtype)
        rows, columns = height // cell, width // cell
        shown = pixels.new_ones(index.shape[0], rows * columns).scatter(1, batch["mim_masked"], 0.0)
        # A cell is covered with 0, the mean colour.
        shown = shown.view(-1, 1, rows, columns).repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
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
        true = cells_of(step.model.normalised(step.pixels.index_select(0, index), torch.float32), head.cell)
        if true.shape[1] != states.shape[1]:
            size = "x".join(map(str, step.pixels.shape[2:]))
            fault = f"images of {size} pixels make {states.shape[1]} states, expected one for each cell of {head.cell} pixels"
            raise ValueError(f"pixel_values: {fault}")
        logits = head(states.gather(1, masked.expand(-1, -1, states.shape[2])))
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
