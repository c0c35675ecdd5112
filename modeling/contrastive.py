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

    def loss(self, text: torch.Tensor, image: torch.Tensor, false_pairs: torch.Tensor | None = None) -> torch.Tensor:
        """
        InfoNCE both ways (): the mean of the cross-entropy of the true image among those of the batch, for each text, and of the
        true text, for each image (Radford et al. 2021, figure 3).

        Args:
            text: Vectors (B, contrastive size) of texts.
            image: Vectors (B, contrastive size) of images; row i belongs to text i.
            false_pairs: Whether text i and image j do not belong together (B, B); what is neither false nor on the diagonal
                counts for nothing. All but the diagonal are false by default.
        """
        logits = self.scale() * text @ image.T
        if false_pairs is not None:
            own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(~(false_pairs.bool() | own), torch.finfo(logits.dtype).min)
        rows = torch.arange(len(logits), device=logits.device)
        return (nn.functional.cross_entropy(logits, rows) + nn.functional.cross_entropy(logits.T, rows)) / 2
