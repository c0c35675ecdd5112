"""Vectors of texts alone and of images alone, and the contrastive loss that brings those of a pair together."""

import math

import torch
from torch import nn

from .layers import ScoreLinear
from .outputs import EncodedImage, EncodedText


INITIAL_TEMPERATURE = 0.07
#: The largest number that cosines are multiplied by, the inverse of the lowest temperature.
MAX_SCALE = 100.0


class ContrastiveHead(nn.Module):
    """
    Projections of texts alone and of images alone to a common space, and a learned temperature (Radford et al. 2021, section
    2.3 and figure 3: it starts at 0.07, and cosines are never multiplied by more than 100; here nor by less than 1). A vector is the projected mean of the states of an encoded stream, which suits any encoder, with or without a class token.
    """

    def __init__(self, config):
        super().__init__()
        self.text_projection = ScoreLinear(config.hidden_size, config.contrastive_size)
        self.image_projection = ScoreLinear(config.hidden_size, config.contrastive_size)
        # Not a scalar: FSDP cannot shard one.
        self.log_scale = nn.Parameter(torch.zeros(1))

    def text_vectors(self, model: nn.Module, text: EncodedText) -> torch.Tensor:
        """Return vectors (B, contrastive size) of length 1, in single precision, of texts that `model` encoded."""
        return unit_vectors(self.text_projection, model, text)

    def image_vectors(self, model: nn.Module, image: EncodedImage) -> torch.Tensor:
        """Return the same of images."""
        return unit_vectors(self.image_projection, model, image)

    def scale(self) -> torch.Tensor:
        """Return what cosines are multiplied by (1,), from 1 to `MAX_SCALE`: the inverse of the temperature."""
        raw = self.log_scale.float()
        # The value is bounded and the gradient is not: beyond a bound a clamp alone would have none, and never come back.
        return (raw + (raw.clamp(0, math.log(MAX_SCALE)) - raw).detach()).exp()


def unit_vectors(projection: nn.Linear, model: nn.Module, encoded: EncodedText) -> torch.Tensor:
    """Return the projected means (B, size) of streams that `model` encoded, each of length 1, in single precision."""
    states, mask = model.alone(encoded), encoded.mask.unsqueeze(-1)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(projection(mean.to(states.dtype)), dim=-1)


def info_nce(
    scale: torch.Tensor,
    text: torch.Tensor,
    image: torch.Tensor,
    text_index: torch.LongTensor,
    image_index: torch.LongTensor,
    text_ids: torch.LongTensor,
    image_ids: torch.LongTensor,
    of_all_processes: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    InfoNCE both ways: for each true pair the mean of the cross-entropy of its image among all images, and of its text among all
    texts (Radford et al. 2021, figure 3).

    Args:
        scale: What cosines are multiplied by (1,).
        text: Vectors (T, size) of texts.
        image: Vectors (I, size) of images.
        text_index: The text of each true pair (B,).
        image_index: Its image (B,).
        text_ids: A number of each text (T,), at least 0.
        image_ids: The numbers of the texts that are true of each image (I, K), filled up with -1; no false pair has them.
        of_all_processes: Whether "all" are those of all processes, with their gradients. Each must have as many.

    Returns:
        The sum over the true pairs (), and the scaled cosines (B, I) of their texts with the images of this process.
    """
    own = text.index_select(0, text_index), image.index_select(0, image_index)
    own_ids = text_ids.index_select(0, text_index), image_ids.index_select(0, image_index)
    group = torch.distributed
    process, all_of = 0, lambda values: values
    if of_all_processes and group.is_available() and group.is_initialized():
        process, all_of = group.get_rank(), gathered
    to_image, to_text = cosines(own[0], all_of(image), scale), cosines(own[1], all_of(text), scale)
    false_images = (own_ids[0][:, None, None] != all_of(image_ids)).all(dim=-1)
    false_texts = (all_of(text_ids)[:, None] != own_ids[1][:, None]).all(dim=-1)
    loss = true_candidate_loss(to_image, false_images, image_index + process * image.shape[0])
    loss = loss + true_candidate_loss(to_text, false_texts, text_index + process * text.shape[0])
    return loss / 2, to_image.narrow(1, process * image.shape[0], image.shape[0])


def cosines(vectors: torch.Tensor, others: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the scaled products (N, M) of vectors (N, size) and (M, size)."""
    # Autocast would multiply in half precision and round scores of up to 100 by a quarter.
    with torch.autocast("cpu" if vectors.is_meta else vectors.device.type, enabled=False):
        return scale * vectors @ others.T


def true_candidate_loss(scores: torch.Tensor, false: torch.Tensor, true: torch.LongTensor) -> torch.Tensor:
    """Return the sum () of the cross-entropy of the `true` candidate (B,) among itself and the `false` ones (B, C), by `scores` (B, C)."""
    counted = false.scatter(1, true.unsqueeze(1), True)
    masked = scores.masked_fill(~counted, torch.finfo(scores.dtype).min)
    return nn.functional.cross_entropy(masked, true, reduction="sum")


def gathered(values: torch.Tensor) -> torch.Tensor:
    """Return the values (N, ...) of all processes, one after the other (processes * N, ...), through which gradients flow back."""
    from torch.distributed.nn.functional import all_gather  # not there in builds of torch without distribution

    return torch.cat(all_gather(values))
