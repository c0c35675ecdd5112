"""
The memory that a training step needs, known before the first one: a copy of the model whose tensors have shapes and no values takes a
step, and the bytes that are in use at the same time are counted.
"""

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Iterator, Sequence, Set

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, Trainer

from .argument_checks import checkpoints_activations
from .master_weights import rounded_tensors
from .optimization import OptimizationArguments


#: Side of the square parameter by which the state of an optimizer is measured. bitsandbytes keeps smaller ones in 32 bits.
SIDE = 256


@dataclasses.dataclass(frozen=True)
class Needs:
    """
    The bytes that a training step of one process needs.

    Attributes:
        weights: Those of the model's parameters and buffers, and of float32 copies of them.
        gradients: Those of the gradients.
        exchanged: Those of the buffers in which several processes exchange gradients.
        recorded: Those of the gradients of recorded passes (`cuda_graphs`).
        optimizer: Those of the optimizer's state.
        working: The most that a step without earlier gradients has in use at once: activations, gradients, and temporary values.
        rows: Rows of the batch.
        accumulating: Whether the gradients of earlier batches of the step are kept meanwhile.
    """

    weights: int
    gradients: int
    exchanged: int
    recorded: int
    optimizer: int
    working: int
    rows: int
    accumulating: bool

    @property
    def activations(self) -> int:
        """The bytes that the step needs beside `fixed` ones."""
        return self.working if self.accumulating else max(self.working - self.gradients, 0)

    @property
    def fixed(self) -> int:
        """The bytes that the step needs whatever the batch."""
        return self.weights + self.gradients + self.exchanged + self.recorded + self.optimizer

    @property
    def total(self) -> int:
        """All bytes."""
        return self.fixed + self.activations

    def of_rows(self, rows: int, accumulating: bool) -> "Needs":
        """Return the needs of a batch of another size: activations grow with the rows."""
        working = round(self.working * rows / self.rows)
        return dataclasses.replace(self, working=working, rows=rows, accumulating=accumulating)


class LiveBytes(TorchDispatchMode):
    """
    Counts the bytes of the tensors that operations make in a context, as long as they live.

    Attributes:
        now: Bytes in use.
        peak: The most that were in use at once.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_: weakref.ref) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return output


def step_needs(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    args: OptimizationArguments,
    rows: int,
    freeze: Sequence[str] = (),
    recordings: int = 0,
) -> Needs:
    """
    Return what a step on a batch needs under the arguments of a run, on its device and in its precision. Nothing is computed: neither
    the model nor any random generator changes, and the device is not touched. Any error is that of the model's code, which asks
    for values.

    Args:
        model: The model, which may still be elsewhere than on the device.
        batch: A batch as the collator makes it.
        rows: Its rows.
        freeze: Further parts that are frozen.
        recordings: The number of shapes that the passes are recorded for.
    """
    rounded = rounded_ids(model, args)
    with twin_without_values(model, batch, args, freeze) as (twin, inputs), LiveBytes() as live:
        for value in tree_leaves(inputs):
            if isinstance(value, torch.Tensor):
                live.add(value)
        step_of_twin(twin, inputs, args)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    whole = [*model.parameters(), *model.buffers()]
    masters = sum(nbytes(value) for value in whole if id(value) in rounded)
    # Those of rounded weights are added up in the type of their master copies.
    gradients = (
        sum(value.numel() * max(value.element_size(), 4) for value in trained)
        if rounded
        else sum(map(nbytes, trained))
    )
    return Needs(
        weights=sum(map(nbytes, [*twin.parameters(), *twin.buffers()])) + masters,
        gradients=gradients,
        exchanged=sum(map(nbytes, trained)) if args.world_size > 1 else 0,
        recorded=sum(map(nbytes, trained)) * recordings,
        optimizer=round(gradients * optimizer_share(args)),
        working=live.peak,
        rows=rows,
        accumulating=args.gradient_accumulation_steps > 1,
    )


def rounded_ids(model: PreTrainedModel, args: OptimizationArguments) -> set[int]:
    """Return the `id` of each tensor of a model that is rounded to bfloat16 in training."""
    return {id(value) for value in rounded_tensors(model)} if args.bf16_weights else set()


@contextlib.contextmanager
def twin_without_values(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], args: OptimizationArguments, freeze: Sequence[str] = ()
) -> Iterator[tuple[PreTrainedModel, dict[str, torch.Tensor]]]:
    """
    Return a context with a copy of a model, in training, and of a batch, on the device of the run, whose tensors have shapes and no
    values. Arguments are those of `step_needs`.
    """
    # Compiled code has no place for tensors without values.
    with torch.compiler.set_stance("force_eager"), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        twin = without_values(model, args.device, rounded_ids(model, args)).train()
        inputs = {
            name: mode.from_tensor(value).to(args.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        for part in freeze:
            twin.freeze(part)
        if checkpoints_activations(args):
            settings = dict(args.activation_checkpointing_kwargs or {})
            own = {name: settings.pop(name) for name in ("every_n_layers", "offload") if name in settings}
            twin.activation_checkpointing_enable(settings or None, **own)
        yield twin, inputs


def step_of_twin(twin: PreTrainedModel, inputs: dict[str, torch.Tensor], args: OptimizationArguments) -> None:
    """Take a step, forward and backward, in the precision of a run, with what `twin_without_values` has."""
    with autocast(args):
        loss = twin(**inputs)["loss"]
    loss.backward()


def without_values(model: PreTrainedModel, device: torch.device, rounded: Set[int]) -> PreTrainedModel:
    """
    Return a copy of a model on `device`, in whose place nothing is allocated; a `FakeTensorMode` must be active. Tensors whose `id` is
    in `rounded` are of bfloat16.
    """
    twins: dict[int, torch.Tensor] = {}
    for value in (*model.parameters(), *model.buffers()):
        kind = torch.bfloat16 if id(value) in rounded else value.dtype
        twin = torch.empty_like(value, device=device, dtype=kind, requires_grad=False)
        trains = value.requires_grad
        twins[id(value)] = torch.nn.Parameter(twin, trains) if isinstance(value, torch.nn.Parameter) else twin
    twin = copy.deepcopy(model, twins)
    for module in twin.modules():
        # That of a compiled layer, or of accelerate, which has the values.
        vars(module).pop("forward", None)
    return twin


def autocast(args: OptimizationArguments) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass in the precision of a run."""
    if not (args.bf16 or args.fp16):
        return contextlib.nullcontext()
    return torch.autocast(args.device.type, torch.bfloat16 if args.bf16 else torch.float16)


def optimizer_share(args: OptimizationArguments) -> float:
    """Return the bytes of the optimizer's state for each byte of parameters, as a step on one parameter on the device shows it."""
    parameter = torch.nn.Parameter(torch.zeros(SIDE, SIDE, device=args.device))
    parameter.grad = torch.zeros_like(parameter)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = kind([parameter], **settings)
    optimizer.step()
    states = [value for value in tree_leaves(dict(optimizer.state)) if isinstance(value, torch.Tensor)]
    return sum(nbytes(value) for value in states if value.numel() > 1) / nbytes(parameter)


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()
