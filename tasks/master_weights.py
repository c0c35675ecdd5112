"""Weights in bfloat16 with float32 master copies: the model computes with the first, the optimizer trains the second."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..modeling.contrastive import ContrastiveHead
from ..modeling.layers import ScoreLinear


#: Modules whose own weights stay in float32: a temperature, and running means and variances, which change by little.
SINGLE = (ContrastiveHead, nn.modules.batchnorm._BatchNorm)


class MasterWeights:
    """
    Rounds the weights of a model to bfloat16, in place, and keeps them in float32 as well, as the master copies. A step adds to the
    master copies, for rounded weights would not take in small changes; the weights are the master copies, rounded, at all times.

    Scores are computed in float32, so the last layers of heads keep their weights, as do the modules of `SINGLE`.
    """

    def __init__(self, model: nn.Module):
        self._tensors = rounded_tensors(model)
        self._masters: list[torch.Tensor] = []
        self._rounded: list[torch.Tensor] = []
        self._of: dict[torch.Tensor, nn.Parameter] = {}
        for tensor in self._tensors:
            master = tensor.data.float()
            if isinstance(tensor, nn.Parameter):
                # A leaf of its own, for the optimizer; it shares the memory.
                self._of[tensor] = nn.Parameter(master, requires_grad=tensor.requires_grad)
            tensor.data = master.to(torch.bfloat16)
            self._masters.append(master)
            self._rounded.append(tensor.data)

    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return the parameter that an optimizer is to train in place of `parameter`: its master copy, or itself if it has none."""
        return self._of.get(parameter, parameter)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let each step of `optimizer`, which trains master copies, also set the weights."""
        optimizer.register_step_post_hook(lambda *args: self._round())

    @torch.no_grad()
    def _round(self) -> None:
        """Set the weights that train to their master copies, whose gradients are used up."""
        trained = [(weight, master) for weight, master in self._of.items() if weight.requires_grad]
        torch._foreach_copy_([weight for weight, _ in trained], [master for _, master in trained])
        for _, master in trained:
            master.grad = None

    @torch.no_grad()
    def take_gradients(self) -> None:
        """
        Add the gradients of the weights to those of the master copies, and take them from the weights. So gradients of accumulated
        batches add up in float32, and the next backward pass has nothing to add to.
        """
        found = [(weight, master) for weight, master in self._of.items() if weight.grad is not None]
        if not found:
            return
        new = [torch.empty_like(master) for _, master in found]
        torch._foreach_copy_(new, [weight.grad for weight, _ in found])
        known = [(master.grad, grad) for (_, master), grad in zip(found, new, strict=True) if master.grad is not None]
        if known:
            torch._foreach_add_(*map(list, zip(*known, strict=True)))
        for (weight, master), grad in zip(found, new, strict=True):
            weight.grad = None
            if master.grad is None:
                master.grad = grad

    @torch.no_grad()
    def give_gradients(self) -> None:
        """Move the gradients of the master copies back to the weights, rounded, so that DDP sums them over the processes."""
        found = [(weight, master) for weight, master in self._of.items() if master.grad is not None]
        if not found:
            return
        rounded = [torch.empty_like(weight) for weight, _ in found]
        torch._foreach_copy_(rounded, [master.grad for _, master in found])
        for (weight, master), grad in zip(found, rounded, strict=True):
            weight.grad, master.grad = grad, None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the model have its float32 weights, to be saved or loaded; afterwards it has them rounded again."""
        self._set(self._masters)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._rounded, self._masters)
            self._set(self._rounded)

    def _set(self, values: list[torch.Tensor]) -> None:
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.data = value


def rounded_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a model that `MasterWeights` rounds, each once."""
    found = {}
    for module in model.modules():
        # The vocabulary is scored in half precision in training.
        if isinstance(module, SINGLE) or (isinstance(module, ScoreLinear) and not module.only_in_evaluation):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                found[id(tensor)] = tensor
    return list(found.values())
