"""Vectors of texts alone and of images alone, and the contrastive loss that brings those of a pair together."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init

from .layers import ScoreLinear
from .outputs import EncodedImage, EncodedText


#: The losses by name, each with the number that cosines are multiplied by at first, the inverse of the temperature.
INITIAL_SCALES = {"softmax": 1 / 0.07, "sigmoid": 10.0}
#: What the sigmoid loss adds to the scaled cosines at first (Zhai et al. 2023, section 3.2): nearly all pairs are false.
INITIAL_BIAS = -10.0
#: The largest number that cosines are multiplied by in the softmax loss.
MAX_SCALE = 100.0


class ContrastiveHead(nn.Module):
    """
    Projections of texts alone and of images alone to a common space, and a learned temperature. The vector of a text or an image is
    its projected summary (`RenaissanceBaseModel.summary`), of length 1.

    With `config.contrastive_loss` "softmax" (Radford et al. 2021, section 2.3 and figure 3) the temperature starts at 0.07, and
    cosines are never multiplied by more than 100; here nor by less than 1. With "sigmoid" (Zhai et al. 2023) it starts at 0.1 and has
    no bounds, and a learned bias is added.

    Args:
        config: The configuration of the model.
        text_size, image_size: Widths of the summaries of texts and of images, by default the hidden size.
    """

    def __init__(self, config, text_size: int | None = None, image_size: int | None = None):
        super().__init__()
        self.loss_name = config.contrastive_loss
        self.text_projection = ScoreLinear(text_size or config.hidden_size, config.contrastive_size)
        self.image_projection = ScoreLinear(image_size or config.hidden_size, config.contrastive_size)
        # Not scalars: FSDP cannot shard one.
        self.log_scale = nn.Parameter(torch.zeros(1))
        if self.loss_name == "sigmoid":
            self.bias = nn.Parameter(torch.zeros(1))

    def reset_scale(self) -> None:
        """Set temperature and bias to what training starts with."""
        init.constant_(self.log_scale, math.log(INITIAL_SCALES[self.loss_name]))
        if self.loss_name == "sigmoid":
            init.constant_(self.bias, INITIAL_BIAS)

    def text_vectors(self, model: nn.Module, text: EncodedText) -> torch.Tensor:
        """Return vectors (B, contrastive size) of length 1, in single precision, of texts that `model` encoded."""
        return unit_vectors(self.text_projection, model, text)

    def image_vectors(self, model: nn.Module, image: EncodedImage) -> torch.Tensor:
        """Return the same of images."""
        return unit_vectors(self.image_projection, model, image)

    def scale(self) -> torch.Tensor:
        """Return what cosines are multiplied by (1,), the inverse of the temperature; for the softmax loss from 1 to `MAX_SCALE`."""
        raw = self.log_scale.float()
        if self.loss_name == "sigmoid":
            return raw.exp()
        # The value is bounded and the gradient is not: beyond a bound a clamp alone would have none, and never come back.
        # Both bounds are floats, since the export to ONNX takes no mixture of kinds.
        return (raw + (raw.clamp(0.0, math.log(MAX_SCALE)) - raw).detach()).exp()

    def logits(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return how well vectors of texts (T, size) fit those of images (I, size): scaled cosines (T, I), with the bias if there is one."""
        return self.biased(cosines(text, image, self.scale()))

    def probabilities(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """
        Return the probabilities (I, T) of texts for images, by their vectors: that each is the one of all that is true of the image
        (Radford et al. 2021, section 3.1.2) or, with the sigmoid loss, that it is true of it whatever the others are.
        """
        logits = self.logits(image, text)
        return logits.sigmoid() if self.loss_name == "sigmoid" else logits.softmax(dim=-1)

    def biased(self, scaled: torch.Tensor) -> torch.Tensor:
        """Return scaled cosines with the bias, if the loss has one."""
        return scaled + self.bias.float() if self.loss_name == "sigmoid" else scaled

    def loss(self, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return the sum of the loss () over true pairs, and the scores (B, I) of their texts with the images of this process; the
        arguments are those of `info_nce` after the head.
        """
        return (sigmoid_loss if self.loss_name == "sigmoid" else info_nce)(self, *args, **kwargs)


def mean_state(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean (B, size) of the states (B, N, size) where the mask (B, N) is 1."""
    mask = mask.unsqueeze(-1)
    return ((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).to(states.dtype)


def unit_vectors(projection: nn.Linear, model: nn.Module, encoded: EncodedText) -> torch.Tensor:
    """Return the projected summaries (B, size) of what `model` encoded, each of length 1, in single precision."""
    return nn.functional.normalize(projection(model.summary(encoded)), dim=-1)


def info_nce(
    head: ContrastiveHead,
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
        head: The head with the temperature.
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
    process, all_of = this_process(of_all_processes)
    scale = head.scale()
    to_image, to_text = cosines(own[0], all_of(image), scale), cosines(own[1], all_of(text), scale)
    false_images = (own_ids[0][:, None, None] != all_of(image_ids)).all(dim=-1)
    false_texts = (all_of(text_ids)[:, None] != own_ids[1][:, None]).all(dim=-1)
    loss = true_candidate_loss(to_image, false_images, image_index + process * image.shape[0])
    loss = loss + true_candidate_loss(to_text, false_texts, text_index + process * text.shape[0])
    return loss / 2, to_image.narrow(1, process * image.shape[0], image.shape[0])


def sigmoid_loss(
    head: ContrastiveHead,
    text: torch.Tensor,
    image: torch.Tensor,
    text_index: torch.LongTensor,
    image_index: torch.LongTensor,
    text_ids: torch.LongTensor,
    image_ids: torch.LongTensor,
    of_all_processes: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The sigmoid loss (Zhai et al. 2023, equation 1): each pair of a text and an image is true or false by itself, and binary
    cross-entropy says so. Of each true pair's text, all images count; over all processes each pair counts once.

    The arguments and the result are those of `info_nce`. A text that is true of an image by its number, and is not the pair at
    hand, counts as neither.
    """
    process, all_of = this_process(of_all_processes)
    own_ids = text_ids.index_select(0, text_index)
    scores = head.logits(text.index_select(0, text_index), all_of(image))
    false = (own_ids[:, None, None] != all_of(image_ids)).all(dim=-1)
    true = torch.zeros_like(false).scatter(1, (image_index + process * image.shape[0]).unsqueeze(1), True)
    signed = torch.where(true, scores, -scores)
    loss = -(nn.functional.logsigmoid(signed) * (false | true)).sum()
    return loss, scores.narrow(1, process * image.shape[0], image.shape[0])


def this_process(of_all_processes: bool) -> tuple[int, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the number of this process, and what brings together the values of all; 0 and identity for this process alone."""
    group = torch.distributed
    if of_all_processes and group.is_available() and group.is_initialized():
        return group.get_rank(), gathered
    return 0, lambda values: values


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
