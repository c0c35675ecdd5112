"""A training step of any side, phase by phase."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from renaissance.processing.objectives import ObjectiveData
from renaissance.tasks.cuda_graphs import RecordedModel
from renaissance.tasks.master_weights import MasterWeights
from renaissance.tasks.precision_trainer import clip

from .device import Place
from .measure import OperationCounter, count_flops
from .models import STAND_INS, objectives_of


PHASES = ("forward", "backward", "clipping", "optimizer")


class Trainee:
    """
    A model with the batches that it trains on. It trains as Trainer does by default: gradients are clipped to a norm of 1, and the
    optimizer is AdamW in its fused form.

    Args:
        model: A model that returns a loss; it is moved to the device.
        batches: What it is called with.
        place: The device and the precision; the CPU and float32 by default.
    """

    def __init__(self, model: nn.Module, batches: list[dict[str, torch.Tensor]], place: Place | None = None):
        self.place = place or Place()
        self.model = model.to(self.place.device)
        self.batches = [self.place.moved(batch) for batch in batches]
        self.masters = MasterWeights(self.model) if self.place.precision == "bf16_weights" else None
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trained = [self.masters.of(p) if self.masters else p for p in trained]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)
        if self.masters:
            self.masters.attach(self.optimizer)
        #: Bytes that recordings keep, the most that their making took.
        self.recorded_bytes = 0

    def record(self) -> int:
        """Record the passes on each batch, as `--cuda_graphs` does it; return the number of recordings."""
        recorded = RecordedModel(self.model, functools.partial(self.place.autocast, keeps_casts=False))

        def record_all() -> None:
            for batch in self.batches:
                recorded.record(batch)

        self.recorded_bytes = self.place.rise(record_all)
        return recorded.shapes

    def output(self, number: int) -> dict:
        """Return what the model makes of a batch."""
        with self.place.autocast():
            return self.model(**self.batches[number % len(self.batches)])

    def run(self, number: int, mark: Callable[[], object] = lambda: None) -> None:
        """Do a step on a batch; `mark` is called before the first and after each of `PHASES`."""
        mark()
        loss = self.output(number)["loss"]
        mark()
        self.backward(loss)
        mark()
        self.clip()
        mark()
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark()

    def backward(self, loss: torch.Tensor) -> None:
        """Do the backward pass."""
        loss.backward()
        if self.masters:
            self.masters.take_gradients()

    def clip(self) -> None:
        """Clip the gradients as our Trainer does it."""
        clip([p.grad for p in self.trained if p.grad is not None], 1.0)

    def step(self, number: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
        """Do a step on a batch; return the seconds by `clock` of each of `PHASES`."""
        times = []
        self.run(number, lambda: times.append(clock()))
        return {phase: after - before for phase, before, after in zip(PHASES, times, times[1:], strict=False)}

    def seconds(self, number: int, clock: Callable[[], float]) -> float:
        """Do a step on a batch; return its seconds by `clock`, which is asked before and after it."""
        start = clock()
        self.run(number)
        return clock() - start

    def first_pass(self) -> float:
        """Do a forward and a backward pass; return their wall seconds. No weight changes."""
        start = self.place.wall()
        self.backward(self.output(0)["loss"])
        seconds = self.place.wall() - start
        self.optimizer.zero_grad()
        return seconds

    def peak(self, number: int) -> int:
        """Return the largest number of bytes of weights, optimizer states and what else is alive in a step on a batch."""
        rise = self.place.rise(lambda: self.run(number))
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        held = [*self.model.parameters(), *self.model.buffers(), *self.trained]
        held += [value for value in states if isinstance(value, torch.Tensor)]
        # Master copies train in place of weights; other weights train themselves.
        return (
            self.recorded_bytes
            + rise
            + sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in held}.values())
        )

    def flops(self, number: int) -> tuple[int, dict]:
        """Return the floating-point operations of the forward and backward pass on a batch, and the outputs. No weight changes."""

        def run() -> dict:
            output = self.output(number)
            self.backward(output["loss"])
            return output

        flops, output = count_flops(run)
        self.optimizer.zero_grad()
        return flops, output

    def operations(self, number: int) -> tuple[int, int]:
        """
        Return how many operations the forward and backward pass on a batch have, gradients added to those of an earlier one, and
        how many synchronisations these and the clipping and the optimizer's step after them.
        """
        self.backward(self.output(number)["loss"])
        with OperationCounter() as counter:
            self.backward(self.output(number)["loss"])
        with OperationCounter() as after:
            self.clip()
            self.optimizer.step()
        self.optimizer.zero_grad()
        return counter.operations, counter.synchronisations + after.synchronisations


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

    def objectives(self, model: str) -> tuple[ObjectiveData, ...]:
        """Return the data halves of the objectives of a model that is trained so."""
        return objectives_of(model, self.itm_text, self.itm_negatives)

    def is_of(self, model: str) -> bool:
        """Return whether a model, or the one that it stands in for, is trained so."""
        return model in self.models or model in (STAND_INS[name] for name in self.models)

    @property
    def comparable(self) -> bool:
        """Whether our losses are meant to be the reference's."""
        return self.itm_text == "clean" and self.itm_negatives == "batch" and not self.dropout


def compile_reference(model: nn.Module, backend: str) -> None:
    """Compile the repeated layers of the reference in place. All of its texts are of one length."""
    for layers in model.modules():
        for layer in layers if isinstance(layers, nn.ModuleList) else ():
            layer.forward = torch.compile(layer.forward, backend=backend)


@torch.no_grad()
def with_features(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with what a model's vision tower makes of the images, of 16 bits as it is cached, in place of pixels."""
    features = model.base_model.vision_features(batch["pixel_values"]).half()
    return {name: value for name, value in batch.items() if name != "pixel_values"} | {"image_features": features}


def largest_difference(
    ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], labels: torch.LongTensor | None = None
) -> float:
    """
    Return the largest difference between the losses and logits of both sides. Our vocabulary scores (M, V) are those of the masked
    tokens; the reference has them for all tokens (B, T, V), of which `labels` (B, T), if there is that objective, says which are masked.
    """
    theirs = dict(reference["logits"])
    if labels is not None:
        theirs["mlm"] = theirs["mlm"][labels != -100]
    pairs = [(ours["loss"], reference["loss"])]
    pairs += [(ours["losses"][name], loss) for name, loss in reference["losses"].items()]
    pairs += [(ours["logits"][name], values) for name, values in theirs.items()]
    return max((own - other).detach().abs().max().item() for own, other in pairs)
