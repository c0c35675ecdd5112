"""The floating-point operations of training, which transformers guesses from the number of tokens: not for images, nor frozen parts."""

import functools
import json
import logging
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel

from ..hub import first_line
from .argument_checks import checkpoints_activations
from .bad_steps import WatchingTrainer
from .memory_needs import step_of_twin, twin_without_values
from .optimization import OptimizationArguments


logger = logging.getLogger(__name__)

#: The entry of a checkpoint's trainer_state.json, among the states of callbacks, that has what was counted.
FLOPS_STATE = "FlopsOfARow"


def cpu_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    """Return the operations of the CPU's attention, forward."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def cpu_attention_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> int:
    """Return the operations of the CPU's attention, backward."""
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


#: How many operations each of torch's functions takes: those that torch knows, and the attention of CPUs, which it leaves out.
FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: cpu_attention_backward,
}


class FlopCount(TorchDispatchMode):
    """
    Counts the operations in a context: those of matrix products, convolutions and attention, a product and a sum as two. The
    `FlopCounterMode` of torch, which tells modules apart, takes three times as long.

    Attributes:
        total: Operations so far.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def count_without_values(model: PreTrainedModel, batch: dict[str, Any], args: OptimizationArguments) -> int:
    """Return the operations of a step on a batch, forward and backward, of which nothing is computed. Any error is that of the model's
    code, which asks for values."""
    with twin_without_values(model, batch, args) as (twin, inputs), FlopCount() as count:
        step_of_twin(twin, inputs, args)
    return count.total


class CountingTrainer(WatchingTrainer):
    """
    `Trainer` whose `total_flos` are those of its steps, forward and backward, as far as parts train. They are counted in the first
    batch of each kind, by its inputs, unless they are known before (`max_flops`), and taken to be the same for each row of the others;
    again when a run is resumed that computes otherwise.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        #: The operations of a row; they are not counted in the first batch if they are known before.
        self.flops_a_row: float | None = None
        #: What was counted, by kind of batch, and the kind and the rows of the batch at hand.
        self._counted: dict[str, float] = {}
        self._kind, self._rows = "", 0

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs) -> torch.Tensor:
        ids = self._ids[len(self._batch_losses)]
        self._rows = self.args.train_batch_size if ids is None else len(ids)
        self._kind = self.kind_of(inputs)
        if self.flops_a_row is not None or self._kind in self._counted:
            return super().training_step(model, inputs, *args, **kwargs)
        if self.args.torch_compile or self.args.cuda_graphs:
            # Compiled and recorded operations go past a count, and without them the step would be rounded otherwise.
            flops = self.flops_without_values(inputs)
            loss = super().training_step(model, inputs, *args, **kwargs)
        else:
            with FlopCount() as count:
                loss = super().training_step(model, inputs, *args, **kwargs)
            flops = count.total
        self._counted[self._kind] = flops / self._rows
        return loss

    def flops_without_values(self, inputs: dict[str, Any]) -> int:
        """Return the operations of a step on a batch, of which nothing is computed; 0, and a line in the log, if they cannot be found."""
        try:
            return count_without_values(self.model, inputs, self.args)
        # Whatever the code of an encoder raises that asks for values.
        except Exception as error:
            logger.info(f"the operations of a step are not known ({first_line(error)})")
            return 0

    def kind_of(self, inputs: dict[str, Any]) -> str:
        """Return what the operations of a row depend on, but for the length of its text, as JSON: inputs and trained parts."""
        sizes = [[name, *getattr(value, "shape", ())[2:]] for name, value in sorted(inputs.items())]
        return json.dumps([sizes, *self._of_model])

    @functools.cached_property
    def _of_model(self) -> tuple[int, bool]:
        """What the operations of a row depend on, of the model."""
        return self.model.num_parameters(only_trainable=True), checkpoints_activations(self.args)

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """`Trainer._init_training_state`, which also reads what a run that is resumed has counted."""
        begun = super()._init_training_state(*args, **kwargs)
        self._counted = self.state.stateful_callbacks.get(FLOPS_STATE, {}).get("attributes", {})
        return begun

    def _save_checkpoint(self, *args, **kwargs) -> None:
        """`Trainer._save_checkpoint`, which also saves what was counted, so that a resumed run goes on with that."""
        self.state.stateful_callbacks[FLOPS_STATE] = {"args": {}, "attributes": self._counted}
        super()._save_checkpoint(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Return the operations of the batch that was trained on last."""
        a_row = self._counted[self._kind] if self.flops_a_row is None else self.flops_a_row
        return a_row * self._rows
