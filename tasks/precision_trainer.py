"""The part of the trainer between the gradients and the optimizer: master copies of the weights, norms and clipping."""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from transformers import Trainer

from .master_weights import MasterWeights


class PrecisionTrainer(Trainer):
    """
    `Trainer` that clips gradients without a wait for the device, in a few operations; with `bf16_weights`, the model computes with
    weights in bfloat16, the optimizer trains float32 copies of them, and these are what is saved and loaded.
    """

    def __init__(self, *args, **kwargs):
        #: The float32 copies, with `bf16_weights`.
        self.masters: MasterWeights | None = None
        super().__init__(*args, **kwargs)
        if self.args.bf16_weights:
            self.masters = MasterWeights(self.model.to(self.args.device))

    def trained_weights(self, model: nn.Module) -> list[nn.Parameter]:
        """Return what an optimizer trains: the parameters of `model`, or their master copies."""
        return [self.masters.of(each) if self.masters else each for each in model.parameters()]

    def with_masters(self, groups: list[dict]) -> list[dict]:
        """Return groups of parameters, for an optimizer, with the master copies of those that have one."""
        if self.masters is None:
            return groups
        return [group | {"params": [self.masters.of(each) for each in group["params"]]} for group in groups]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """`Trainer.create_optimizer`, whose steps also set the weights, if these are rounded."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if self.masters is not None and is_new:
            self.masters.attach(optimizer)
        return optimizer

    def training_step(self, model: nn.Module, *args, **kwargs) -> torch.Tensor:
        """
        `Trainer.training_step`; with master copies, gradients add up in float32. DDP sums them over the processes in the backward
        pass of the last batch of a step, to which those of the other batches are added before that.
        """
        if self.masters is None:
            return super().training_step(model, *args, **kwargs)
        if self.args.world_size > 1 and self.accelerator.sync_gradients:
            self.masters.give_gradients()
        loss = super().training_step(model, *args, **kwargs)
        self.masters.take_gradients()
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor | float:
        """`Trainer._clip_grad_norm` for all that torch trains by itself."""
        if self.is_sharded(model):
            return super()._clip_grad_norm(model)
        # Those of a loss that was scaled.
        self.accelerator.unscale_gradients()
        return clip(
            [each.grad for each in self.trained_weights(model) if each.grad is not None], self.args.max_grad_norm
        )

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """`Trainer._get_grad_norm`; nothing is multiplied by 1 if gradients are not clipped."""
        if grad_norm is None and not self.is_sharded(model):
            self.accelerator.unscale_gradients()
            return total_norm([each.grad for each in self.trained_weights(model) if each.grad is not None])
        return super()._get_grad_norm(model, grad_norm)

    def is_sharded(self, model: nn.Module) -> bool:
        """Return whether DeepSpeed or FSDP has the gradients."""
        return self.is_deepspeed_enabled or self.is_fsdp_enabled or self._has_mixed_mesh_grads(model)

    def _save(self, *args, **kwargs) -> None:
        """`Trainer._save`, of float32 weights."""
        with self.whole_weights():
            super()._save(*args, **kwargs)

    def _load_from_checkpoint(self, *args, **kwargs) -> None:
        """`Trainer._load_from_checkpoint`, of float32 weights."""
        with self.whole_weights():
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        """`Trainer._load_best_model`, of float32 weights."""
        with self.whole_weights():
            super()._load_best_model()

    def whole_weights(self) -> AbstractContextManager:
        """Return a context in which the model has its weights in float32."""
        return self.masters.whole() if self.masters else nullcontext()


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the 2-norm () of all values of tensors together, in float32 or better, on their device; 0 if there are none."""
    if not tensors:
        return torch.zeros(())
    dtype = functools.reduce(torch.promote_types, {each.dtype for each in tensors}, torch.float32)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, 2, dtype)))


@torch.no_grad()
def clip(gradients: list[torch.Tensor], limit: float) -> torch.Tensor:
    """Scale gradients so that the norm of all together is at most `limit`; return their norm () before that. Nobody waits for it."""
    norm = total_norm(gradients)
    if gradients:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
