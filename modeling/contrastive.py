"""Vectors of text alone and of images alone, and the contrastive loss that brings those of a pair together."""

import math

import torch
from torch import nn


INITIAL_TEMPERATURE = 0.07
#: The largest number that cosines are multiplied by, the inverse of the lowest temperature.
MAX_SCALE = 100.0


class ContrastiveHead(nn.Module):
    """
    Projections of pooled vectors to a common space of text and images, and a learned temperature (Radford et al. 2021, section 2.3
    and figure 3: it starts at 0.07, and cosines are never multiplied by more than 100, here nor by less than 1).
    """

    def __init__(self, config):
        super().__init__()
        self.text_projection = nn.Linear(config.hidden_size, config.contrastive_size)
        self.image_projection = nn.Linear(config.hidden_size, config.contrastive_size)
        # Not a scalar: FSDP cannot shard one.
        self.log_scale = nn.Parameter(torch.zeros(1))

    def text_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """Vectors (B, contrastive size) of length 1, in single precision, of texts (B, hidden size)."""
        return nn.functional.normalize(self.text_projection(pooled).float(), dim=-1)

    def image_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """The same of images (B, hidden size)."""
        return nn.functional.normalize(self.image_projection(pooled).float(), dim=-1)

    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by (1,), from 1 to `MAX_SCALE`: the inverse of the temperature."""
        raw = self.log_scale.float()
        # The value is bounded and the gradient is not: beyond a bound a clamp alone would have none, and never come back.
        return (raw + (raw.clamp(0, math.log(MAX_SCALE)) - raw).detach()).exp()

    def loss(
        self,
        text: torch.Tensor,
        image: torch.Tensor,
        text_index: torch.LongTensor,
        image_index: torch.LongTensor,
        false_pairs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        InfoNCE both ways (): the mean over the true pairs of the cross-entropy of their image among all images, and of their text
        among all texts (Radford et al. 2021, figure 3).

        Args:
            text: Vectors (T, contrastive size) of texts.
            image: Vectors (I, contrastive size) of images.
            text_index: The text of each true pair (B,).
            image_index: Its image (B,).
            false_pairs: Whether a text and an image do not belong together (T, I); what is neither false nor the true pair
                itself counts for nothing. All others are false by default.
        """
        # Autocast would multiply in half precision and round scores of up to 100 by a quarter.
        with torch.autocast(text.device.type, enabled=False):
            scores = self.scale() * text @ image.T
        false = torch.ones_like(scores, dtype=torch.bool) if false_pairs is None else false_pairs.bool()
        to_image = one_true_candidate(scores[text_index], false[text_index], image_index)
        to_text = one_true_candidate(scores.T[image_index], false.T[image_index], text_index)
        return (to_image + to_text) / 2


def one_true_candidate(scores: torch.Tensor, false: torch.Tensor, true: torch.LongTensor) -> torch.Tensor:
    """Cross-entropy () of the `true` candidate (B,) among itself and the `false` ones, by `scores` (B, C)."""
    counted = false.scatter(1, true.unsqueeze(1), True)
    return nn.functional.cross_entropy(scores.masked_fill(~counted, torch.finfo(scores.dtype).min), true)
