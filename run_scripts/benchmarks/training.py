"""A training step of either side, phase by phase."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from .measure import OperationCounter, count_flops


PHASES = ("forward", "backward", "optimizer")


class Trainee:
    """
    A model with the batches that it trains on, and the optimizer that Trainer has by default, AdamW in its fused form.

    Args:
        model: A model that returns a loss.
        batches: What it is called with.
    """

    def __init__(self, model: nn.Module, batches: list[dict[str, torch.Tensor]]):
        self.model = model
        self.batches = batches
        self.optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)

    def step(self, number: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
        """A step on a batch; seconds by `clock` of each of `PHASES`."""
        times = [clock()]
        loss = self.model(**self.batches[number])["loss"]
        times.append(clock())
        loss.backward()
        times.append(clock())
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(clock())
        return {phase: after - before for phase, before, after in zip(PHASES, times, times[1:], strict=False)}

    def flops(self, number: int) -> tuple[int, dict]:
        """Return the floating-point operations of the forward and backward pass on a batch, and the outputs. No weight changes."""

        def run() -> dict:
            output = self.model(**self.batches[number])
            output["loss"].backward()
            return output

        flops, output = count_flops(run)
        self.optimizer.zero_grad()
        return flops, output

    def operations(self, number: int) -> OperationCounter:
        """Return a count of the operations of the forward and backward pass on a batch, gradients added to those of an earlier one."""
        self.model(**self.batches[number])["loss"].backward()
        with OperationCounter() as counter:
            self.model(**self.batches[number])["loss"].backward()
        self.optimizer.zero_grad()
        return counter


@dataclass(frozen=True)
class Variant:
    """
    A way to train, measured against the reference with the same parts frozen and the same dropout.

    Args:
        name: What it is called in tables.
        models: Which of the models are trained so.
        freeze: Parts to freeze.
        dropout: Dropout probability, on both sides.
        cached: Whether our model reads features of its frozen vision tower, of 16 bits as they are cached, in place of pixels.
        itm_text: The text that our model matches. Where it is masked, losses differ from the reference's.
        itm_negatives: Where our false images come from. Where that is not the batch, losses differ too.
        by_length, captions_per_image: As of `BatchSettings`.
    """

    name: str
    models: tuple[str, ...] = ("small",)
    freeze: tuple[str, ...] = ()
    dropout: float = 0.0
    cached: bool = False
    itm_text: str = "clean"
    itm_negatives: str = "batch"
    by_length: bool = False
    captions_per_image: int = 1

    @property
    def comparable(self) -> bool:
        """Whether our losses are meant to be the reference's."""
        return self.itm_text == "clean" and self.itm_negatives == "batch" and not self.dropout


@torch.no_grad()
def with_features(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with what a model's vision tower makes of the images, of 16 bits as it is cached, in place of pixels."""
    features = model.base_model.vision_features(batch["pixel_values"]).half()
    return {name: value for name, value in batch.items() if name != "pixel_values"} | {"image_features": features}


def largest_difference(
    ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], labels: torch.LongTensor
) -> float:
    """
    Return the largest difference between the losses and logits of both sides. Our vocabulary scores (M, V) are those of the masked
    tokens; the reference has them for all tokens (B, T, V), of which `labels` (B, T) says which are masked.
    """
    theirs = reference["logits"] | {"mlm": reference["logits"]["mlm"][labels != -100]}
    pairs = [(ours["loss"], reference["loss"])]
    pairs += [(ours["losses"][name], loss) for name, loss in reference["losses"].items()]
    pairs += [(ours["logits"][name], values) for name, values in theirs.items()]
    return max((own - other).detach().abs().max().item() for own, other in pairs)
