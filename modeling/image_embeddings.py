"""The image part of a one-tower model's sequence: embeddings of patches, or of the cells of feature maps, with positions and masks."""

import math
from collections.abc import Callable

import torch
from torch import nn


def interpolate_positions(
    positions: torch.Tensor, old: tuple[int, int], new: tuple[int, int], mode: str
) -> torch.Tensor:
    """Return position embeddings (1, height * width, size) of an `old` grid of patches (height, width) for a `new` one."""
    if old == new:
        return positions
    grid = positions.unflatten(1, old).permute(0, 3, 1, 2)
    # The two modes are those of ViT and of ViLT, which differ in this too.
    grid = nn.functional.interpolate(grid, size=new, mode=mode, align_corners=mode == "bilinear")
    return grid.flatten(2).transpose(1, 2)


def patch_mask(pixel_mask: torch.Tensor, pixel_values: torch.Tensor, patch_size: int) -> torch.BoolTensor:
    """
    Return which patches (B, H/p, W/p) of p = `patch_size` pixels a side are image and not padding; one that is partly padding is
    image if its first pixel is. `pixel_mask` (B, H, W) is 1 for pixels and 0 for padding below and to the right of the images,
    `pixel_values` (B, C, H, W). It is validated, and `ImageEmbeddings` reads sizes from it: on a GPU both wait for values.

    Raises:
        ValueError: If the mask has another size than the images, or an image is not a rectangle in the upper left corner.
    """
    expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
    if tuple(pixel_mask.shape) != expected:
        raise ValueError(f"pixel_mask: expected (batch, height, width) {expected}, got {tuple(pixel_mask.shape)}")
    mask = pixel_mask[:, ::patch_size, ::patch_size] != 0
    heights, widths = grid_sizes(mask).unsqueeze(-1).unbind(dim=1)
    rows, columns = (torch.arange(size, device=mask.device) for size in mask.shape[1:])
    rectangles = (rows < heights).unsqueeze(2) & (columns < widths).unsqueeze(1)
    if not (mask[:, 0, 0].all() and torch.equal(mask, rectangles)):
        raise ValueError("pixel_mask: expected each image in the upper left corner, padding below and to its right")
    return mask


def grid_sizes(mask: torch.BoolTensor) -> torch.LongTensor:
    """Return height and width in patches (B, 2) of images that are the upper left corners of `mask` (B, H, W)."""
    return torch.stack([mask[:, :, 0].sum(dim=1), mask[:, 0].sum(dim=1)], dim=1)


class ImageEmbeddings(nn.Module):
    """
    A class token and patch embeddings with positions: (B, C, H, W) pixels to (B, 1 + H/p * W/p, embedding_size).

    Args:
        config: The configuration of a one-tower model.
        channels: Channels C of what is cut into patches.
        patch_size: Side p of a patch.
        grid: Height and width, in patches, that the table of position embeddings has.
    """

    def __init__(self, config, channels: int, patch_size: int, grid: tuple[int, int]):
        super().__init__()
        size = config.embedding_size
        self.grid = grid
        self.interpolation = config.position_interpolation
        self.patch_embeddings = nn.Conv2d(channels, size, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], size))
        self.dropout = nn.Dropout(config.embedding_dropout)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """Return position embeddings (1, 1 + height * width, size) of a grid of patches, interpolated if it is another."""
        if (height, width) == self.grid:
            return self.position_embeddings
        first, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        patches = interpolate_positions(patches, self.grid, (height, width), self.interpolation)
        return torch.cat([first, patches], dim=1)

    def padded_positions(self, mask: torch.BoolTensor) -> torch.Tensor:
        """
        Return position embeddings (B, 1 + H * W, size) of images that fill only the part of their frame that `mask` (B, H, W)
        says: each has those of a grid of its own size, and zeros for padding.
        """
        frame_height, frame_width = mask.shape[1:]
        sizes = [tuple(size) for size in grid_sizes(mask).tolist()]
        positions = {}
        for height, width in set(sizes):
            first, patches = self.positions(height, width).split([1, height * width], dim=1)
            patches = patches.unflatten(1, (height, width))
            patches = nn.functional.pad(patches, (0, 0, 0, frame_width - width, 0, frame_height - height))
            positions[height, width] = torch.cat([first, patches.flatten(1, 2)], dim=1)
        return torch.cat([positions[size] for size in sizes])

    def forward(self, pixel_values: torch.Tensor, mask: torch.BoolTensor | None = None) -> torch.Tensor:
        """Embed images; `mask` (B, H/p, W/p) says which patches are not padding, by default all."""
        patches = self.patch_embeddings(pixel_values)
        positions = self.positions(*patches.shape[-2:]) if mask is None else self.padded_positions(mask)
        cls_token = self.cls_token.expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + positions)


class GridEmbeddings(ImageEmbeddings):
    """
    The embeddings of feature maps (B, C, H, W), whose cells are patches of side 1, as in the hybrid of Dosovitskiy et al. 2021 (section
    3.1). The channels of each cell are normalised first: families of convolutional encoders differ in the scale of their features.
    """

    def __init__(self, config, channels: int, grid: tuple[int, int]):
        super().__init__(config, channels, 1, grid)
        # Not BERT's 1e-12: a cell may be all zeros after a ReLU, and its gradient is divided by the root of this.
        self.layer_norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, features: torch.Tensor, mask: torch.BoolTensor | None = None) -> torch.Tensor:
        """Embed feature maps; `mask` (B, H, W) says which cells are not padding, by default all."""
        return super().forward(self.layer_norm(features.movedim(1, -1)).movedim(-1, 1), mask)


def maps_without_padding(
    make: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, mask: torch.BoolTensor
) -> tuple[torch.Tensor, torch.BoolTensor]:
    """
    Return the feature maps (B, size, H', W') that `make` makes of images without their padding, which convolutions would mix into
    their edges: images of one size run together, and each map lies in the upper left corner of its frame. Also return which
    cells (B, H', W') are not padding.

    Args:
        make: Makes maps of pixels (b, C, h, w).
        pixels: Padded images (B, C, H, W).
        mask: Which pixels (B, H, W) are not padding, as `patch_mask` gives them.
    """
    rows_of_size: dict[tuple[int, int], list[int]] = {}
    for row, (height, width) in enumerate(grid_sizes(mask).tolist()):
        rows_of_size.setdefault((height, width), []).append(row)
    maps = {size: make(pixels[rows, :, : size[0], : size[1]]) for size, rows in rows_of_size.items()}
    frame = [max(found.shape[axis] for found in maps.values()) for axis in (2, 3)]
    first = next(iter(maps.values()))
    whole = first.new_zeros(len(pixels), first.shape[1], *frame)
    cells = torch.zeros(len(pixels), *frame, dtype=torch.bool, device=pixels.device)
    for size, rows in rows_of_size.items():
        height, width = maps[size].shape[2:]
        whole[rows, :, :height, :width] = maps[size]
        cells[rows, :height, :width] = True
    return whole, cells


def square_maps(features: torch.Tensor) -> torch.Tensor:
    """Return the feature maps (B, size, H, H) of square images whose cells (B, H * H, size) are given; raise `ValueError` if they are
    not square."""
    side = math.isqrt(features.shape[1])
    if side * side != features.shape[1]:
        fault = f"{features.shape[1]} cells are not those of a square image"
        raise ValueError(f"image_features: {fault}; give pixel_values")
    return features.transpose(1, 2).unflatten(2, (side, side))
