"""CUDA graphs: the passes of a tower, forward and backward, recorded once for each shape of its inputs and replayed in training."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..hub import first_line
from ..modeling.masks import masks_by_shape
from ..processing.processing_renaissance import RenaissanceProcessor
from .argument_checks import checkpoints_activations


logger = logging.getLogger(__name__)

#: The most lengths of texts that are recorded unless the user names them.
MOST_BUCKETS = 16

#: The modes and backends of `torch.compile` whose gain is CUDA graphs.
WITH_CUDA_GRAPHS = ("reduce-overhead", "cudagraphs")

#: Parts whose towers are recorded.
TOWERS = ("text", "vision")


def check_graphs(args: TrainingArguments) -> None:
    """Raise `ValueError` if a run cannot have the CUDA graphs that its arguments ask for."""
    buckets = args.text_buckets
    if not args.cuda_graphs:
        if buckets:
            raise ValueError("text_buckets: without effect without cuda_graphs; leave it out, or add that")
        return
    if args.device.type != "cuda":
        raise ValueError(
            f"cuda_graphs: needs a CUDA GPU, and this run is on the device {args.device.type}; leave it out"
        )
    if not args.do_train:
        raise ValueError("cuda_graphs: without effect without do_train; leave it out")
    if buckets and (min(buckets) < 1 or buckets != sorted(set(buckets))):
        raise ValueError(f"text_buckets: expected rising numbers of tokens, got {' '.join(map(str, buckets))}")
    unfit = {
        "gradient_checkpointing": checkpoints_activations(args),
        "auto_find_batch_size": args.auto_find_batch_size,
        "deepspeed": args.deepspeed,
        "fsdp": args.fsdp,
        f"torch_compile_mode {args.torch_compile_mode}": args.torch_compile_mode in WITH_CUDA_GRAPHS,
        f"torch_compile_backend {args.torch_compile_backend}": args.torch_compile_backend in WITH_CUDA_GRAPHS,
    }
    if both := [name for name, is_asked in unfit.items() if is_asked]:
        raise ValueError(f"cuda_graphs: does not work with {', '.join(both)}; leave out one of them")


def buckets_of(processor: RenaissanceProcessor, named: list[int] | None) -> list[int]:
    """
    Return the lengths that texts are padded to, in tokens: those that are `named`, or the multiples of 8 up to the longest text.

    Raises:
        ValueError: If a text may be longer than the largest of them, or there are too many.
    """
    limit = processor.tokenizer.model_max_length
    if named:
        if named[-1] < limit:
            fault = f"the largest holds {named[-1]} tokens, and texts have up to {limit} (max_length)"
            raise ValueError(f"text_buckets: {fault}; add {limit}, or lower max_length")
        if len(named) > 1 and named[-2] >= limit:
            raise ValueError(f"text_buckets: no text has more than {limit} tokens (max_length); leave out {named[-1]}")
        return named
    if limit > 8 * MOST_BUCKETS:
        fault = f"texts of up to {limit:,} tokens (max_length) have {-(-limit // 8):,} lengths, for each of which a recording takes memory"
        raise ValueError(
            f"cuda_graphs: {fault}; set it to {8 * MOST_BUCKETS} or less, or name lengths by text_buckets"
        )
    return [*range(8, limit, 8), limit]


class RecordedTower:
    """
    The calls of a tower in training. A call whose inputs have a shape that was recorded is replayed, unless the backward pass of the
    last one is still to come, which needs the values that this one would replace. All other calls run as they are, and so do
    calls without gradient.

    Attributes:
        calls: The number of calls with gradient.
        replayed: The number of those that were replayed.
    """

    def __init__(self, tower: nn.Module):
        self.tower = tower
        self.calls = self.replayed = 0
        self.observed: dict[str, Any] | None = None
        self._is_observed = self._is_waiting = False
        self._plain = plain = tower.forward
        self._recordings: dict[tuple, Callable] = {}

        @functools.wraps(plain)
        def forward(**inputs: Any) -> Any:
            return self._run(inputs)

        tower.forward = forward

    def begin_step(self) -> None:
        """Forget backward passes that never came."""
        self._is_waiting = False

    def observe(self, is_observed: bool) -> None:
        """Keep the inputs of the next calls, as `observed`, or no longer."""
        self._is_observed = is_observed

    def _run(self, inputs: dict[str, Any]) -> Any:
        if self._is_observed:
            self.observed = inputs
        if not torch.is_grad_enabled():
            return self._plain(**inputs)
        self.calls += 1
        replay = self._recordings.get(key_of(inputs))
        if replay is None or self._is_waiting:
            return self._plain(**inputs)
        self.replayed += 1
        output = replay(*tensors_of(inputs).values())
        trained = [leaf for leaf in tree_leaves(output) if leaf.requires_grad]
        if not trained:
            # Later steps read it, and the next call writes over it.
            return tree_map_only(torch.Tensor, torch.clone, output)
        self._is_waiting = True
        for leaf in trained:
            leaf.register_hook(self._came_back)
        return output

    def _came_back(self, gradient: torch.Tensor) -> None:
        self._is_waiting = False

    def record(self, lengths: list[int], accumulates: bool, autocast: Callable[[], AbstractContextManager]) -> int:
        """
        Record calls like the one that was observed; return how many.

        Args:
            lengths: The lengths of texts, each of which has a recording.
            accumulates: Whether the gradients of several backward passes are added up.
            autocast: Makes the context of a forward pass, which must keep no casts of weights.
        """
        inputs, pool = self.observed, torch.cuda.graph_pool_handle()
        self.observed = None
        for each in [with_length(inputs, length) for length in lengths] if "input_ids" in inputs else [inputs]:
            tensors = tensors_of(each)
            fixed = {name: each[name] for name in each.keys() - tensors}
            call = TowerCall(self.tower, self._plain, tuple(tensors), fixed, autocast)
            sample = tuple(tensor.clone() for tensor in tensors.values())
            # One pool for all: no two of them are between their passes at the same time.
            replay = torch.cuda.make_graphed_callables(call, sample, allow_unused_input=True, pool=pool)
            self._recordings[key_of(each)] = replay
        if accumulates:
            # Of the first backward pass a parameter takes over the very memory that the next one writes its gradient to.
            for parameter in self.tower.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(torch.clone)
        return len(self._recordings)


class TowerCall(nn.Module):
    """A call of a tower whose inputs are tensors alone, by position; the others are fixed."""

    def __init__(
        self,
        tower: nn.Module,
        plain: Callable,
        names: tuple[str, ...],
        fixed: dict[str, Any],
        autocast: Callable[[], AbstractContextManager],
    ):
        super().__init__()
        # Whose parameters get gradients.
        self.tower = tower
        self._plain, self._names, self._fixed, self._autocast = plain, names, fixed, autocast

    def forward(self, *tensors: torch.Tensor) -> Any:
        # Not around the backward pass, which is never in it.
        with self._autocast(), masks_by_shape():
            return self._plain(**dict(zip(self._names, tensors, strict=True)), **self._fixed)


def tensors_of(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return those inputs that are tensors."""
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def key_of(inputs: dict[str, Any]) -> tuple:
    """Return what two calls have in common that one recording serves: shapes and types of tensors, and all other inputs."""
    return tuple(
        (name, (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value)
        for name, value in sorted(inputs.items())
    )


def with_length(inputs: dict[str, Any], length: int) -> dict[str, Any]:
    """Return the inputs of a text tower with texts (B, T) cut or padded to `length` tokens."""
    width = inputs["input_ids"].shape[1]

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.shape[1] != width:
            return value
        return nn.functional.pad(value, (0, length - width))

    return {name: resized(value) for name, value in inputs.items()}


class ReplayCallback(TrainerCallback):
    """Tells recorded towers when a step begins, and the user, at the end, how many calls were replayed."""

    def __init__(self, towers: dict[str, RecordedTower]):
        self.towers = towers

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        for tower in self.towers.values():
            tower.begin_step()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        shares = (
            f"{each.replayed:,} of {each.calls:,} calls of the {part} tower" for part, each in self.towers.items()
        )
        logger.info(f"CUDA graphs: replayed {', '.join(shares)}")


def record_towers(trainer: Trainer, lengths: list[int]) -> dict[str, RecordedTower]:
    """
    Record the towers of a trainer's model, before it is wrapped for several processes and before loaders begin to read: while
    something is recorded, no other thread may use the GPU. Shapes are those of a batch of the first rows of the training data.

    Args:
        trainer: The trainer of a run with a model on the GPU.
        lengths: The lengths of texts, in tokens.

    Returns:
        The towers that were recorded, by part.

    Raises:
        ValueError: If the model has no tower of its own that the batch runs, the data is a stream, or a tower cannot be recorded.
    """
    model, args = trainer.model, trainer.args
    if isinstance(trainer.train_dataset, IterableDataset):
        raise ValueError("cuda_graphs: a stream has no first rows to record; leave out cuda_graphs or streaming")
    found = {part: RecordedTower(modules[0]) for part, modules in model.base_model.towers().items() if part in TOWERS}
    devices, before = [args.device] if args.device.type == "cuda" else [], torch.cuda.memory_reserved()
    model.train()
    autocast = functools.partial(trainer.accelerator.autocast, AutocastKwargs(cache_enabled=False))
    # A resumed run draws the same dropout as one that never stopped, and running means are those of training alone.
    with torch.random.fork_rng(devices), same_buffers(model):
        with autocast():
            observe_batch(trainer, found)
        found = {part: tower for part, tower in found.items() if tower.observed}
        if not found:
            raise ValueError("cuda_graphs: this model has no tower that runs in a step by itself; leave it out")
        for part, tower in found.items():
            try:
                number = tower.record(lengths, args.gradient_accumulation_steps > 1, autocast)
            # Beside its own errors, torch has AssertionError and AttributeError for outputs and buffers that it does not expect.
            except (RuntimeError, AssertionError, AttributeError) as error:
                kind = type(tower.tower).__name__
                raise ValueError(
                    f"cuda_graphs: the {part} encoder, {kind}, cannot be recorded ({first_line(error)}); leave it out"
                ) from error
            taken = (torch.cuda.memory_reserved() - before) / 1024**3
            logger.info(f"CUDA graphs: {part} tower recorded, shapes: {number}; memory so far: {taken:.2f} GiB")
    trainer.add_callback(ReplayCallback(found))
    return found


@contextlib.contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Give the buffers of a model the values back, in place, that they have before this context."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


@torch.no_grad()
def observe_batch(trainer: Trainer, towers: dict[str, RecordedTower]) -> None:
    """Run the model on a batch of the first rows of the training data, and let the towers keep what they are called with."""
    data, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    batch = trainer.data_collator([data[row % len(data)] for row in range(size)])
    for tower in towers.values():
        tower.observe(True)
    try:
        trainer.model(**trainer._prepare_inputs(batch))
    finally:
        for tower in towers.values():
            tower.observe(False)
