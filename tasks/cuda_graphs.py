"""CUDA graphs: the passes of a model, forward and backward, recorded once for each shape of its inputs and replayed in training."""

import contextlib
import functools
import gc
import itertools
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import ModelOutput

from ..hub import first_line
from ..processing.processing_renaissance import RenaissanceProcessor
from .argument_checks import checkpoints_activations
from .machine import UnfitMachine


logger = logging.getLogger(__name__)

#: The most lengths of texts that are recorded unless the user names them.
MOST_BUCKETS = 16

#: Passes before one is recorded, in which libraries choose their kernels and layers are compiled.
WARM_UPS = 3

#: The modes and backends of `torch.compile` whose gain is CUDA graphs.
WITH_CUDA_GRAPHS = ("reduce-overhead", "cudagraphs")


def check_graphs(args: TrainingArguments) -> None:
    """Raise `ValueError` if a run cannot have the CUDA graphs that its arguments ask for."""
    buckets = args.text_buckets
    if not args.cuda_graphs:
        if buckets:
            raise ValueError("text_buckets: without effect without cuda_graphs; leave it out, or add that")
        return
    if not args.do_train:
        raise ValueError("cuda_graphs: without effect without do_train; leave it out")
    if buckets and (min(buckets) < 1 or buckets != sorted(set(buckets))):
        raise ValueError(f"text_buckets: expected rising numbers of tokens, got {' '.join(map(str, buckets))}")
    unfit = {
        "gradient_checkpointing": checkpoints_activations(args),
        # The first adds its noise by a hook that comes after recording, the second computes the loss outside of the model.
        "neftune_noise_alpha": args.neftune_noise_alpha is not None,
        "label_smoothing_factor": args.label_smoothing_factor,
        "auto_find_batch_size": args.auto_find_batch_size,
        "deepspeed": args.deepspeed,
        "fsdp": args.fsdp,
        f"torch_compile_mode {args.torch_compile_mode}": args.torch_compile_mode in WITH_CUDA_GRAPHS,
        f"torch_compile_backend {args.torch_compile_backend}": args.torch_compile_backend in WITH_CUDA_GRAPHS,
    }
    if both := [name for name, is_asked in unfit.items() if is_asked]:
        raise ValueError(f"cuda_graphs: does not work with {', '.join(both)}; leave out one of them")
    if args.device.type != "cuda":
        raise UnfitMachine(
            f"cuda_graphs: needs a CUDA GPU, and this run is on the device {args.device.type}; leave it out"
        )


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


class RecordedModel:
    """
    The calls of a model in training. A call whose inputs have shapes that were recorded is replayed, and so is its backward pass: of
    all outputs it returns the losses alone. A call runs as it is if the backward pass of the last one is still to come, which
    needs the values that this one would replace. So do calls of other shapes, and all calls in evaluation or without gradient.

    Args:
        model: A model that returns a `loss`, and its parts as `losses` if it has several.
        autocast: Makes the context of a forward pass, which must keep no casts of weights.
        copies_gradients: Whether gradients are added to those of earlier passes, and so need memory of their own.

    Attributes:
        calls: The number of calls in training.
        replayed: The number of those that were replayed.
    """

    def __init__(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        copies_gradients: bool = False,
    ):
        self.model = model
        self.calls = self.replayed = 0
        self._autocast, self._copies_gradients = autocast, copies_gradients
        self._is_waiting = False
        self._plain = plain = model.forward
        self._recordings: dict[Hashable, Recording] = {}
        # One pool for all: no two of them are between their passes at the same time.
        self._pool = torch.cuda.graph_pool_handle()

        @functools.wraps(plain)
        def forward(*args: Any, **inputs: Any) -> Any:
            return plain(*args, **inputs) if args else self._run(inputs)

        model.forward = forward

    def record(self, inputs: dict[str, Any]) -> None:
        """Record calls with inputs of the shapes of these, if there is no recording of them yet."""
        key = key_of(inputs)
        if key not in self._recordings:
            call = functools.partial(self._call, tree_map_only(torch.Tensor, torch.clone, inputs))
            self._recordings[key] = Recording(call, self.model, self._pool, self._copies_gradients)
            # What autograd has kept of the passes would have later ones add gradients on the stream of recordings.
            gc.collect()

    def _call(self, inputs: dict[str, Any]) -> ModelOutput:
        # Not around the backward pass, which is never in it.
        with self._autocast():
            return self._plain(**inputs)

    @property
    def shapes(self) -> int:
        """The number of recordings."""
        return len(self._recordings)

    def begin_step(self) -> None:
        """Forget backward passes that never came."""
        self._is_waiting = False

    def forget(self) -> None:
        """Give the memory of all recordings back. From then on all calls run as they are."""
        self._recordings.clear()

    def _run(self, inputs: dict[str, Any]) -> Any:
        if not self.model.training or not torch.is_grad_enabled():
            return self._plain(**inputs)
        self.calls += 1
        recording = self._recordings.get(key_of(inputs))
        if recording is None or self._is_waiting:
            return self._plain(**inputs)
        self.replayed += 1
        self._is_waiting = True
        output = recording(inputs)
        output["loss"].register_hook(self._came_back)
        return output

    def _came_back(self, gradient: torch.Tensor) -> None:
        self._is_waiting = False


class Recording:
    """
    The forward and the backward pass of a model, for inputs of fixed shapes.

    Args:
        call: Calls the model, with inputs that are its only argument.
        model: The model, whose weights that train get gradients.
        pool: The memory of recordings that are never between their passes at the same time.
        copies_gradients: As in `RecordedModel`.

    Raises:
        ValueError: If the model returns no loss.
    """

    def __init__(self, call: functools.partial, model: nn.Module, pool: Any, copies_gradients: bool):
        self._call, self._copies_gradients = call, copies_gradients
        self._inputs = tensors_in(call.args)
        self._trained = [each for each in model.parameters() if each.requires_grad]
        self._gradient = torch.ones((), device=self._trained[0].device)
        #: What the last forward pass returned.
        self._output: ModelOutput | None = None
        forward, backward = capture((self._pass, self._pass_back), pool)
        (self._replay, self._losses), (self._replay_back, found) = forward, backward
        self._type, self._parts = type(self._output), tuple(self._output.get("losses") or ())
        self._output = None
        #: The weights that the loss depends on, and the memory of their gradients.
        self._weights = [weight for weight, each in zip(self._trained, found, strict=True) if each is not None]
        self._gradients = [each for each in found if each is not None]

    def _pass(self) -> list[torch.Tensor]:
        """Do a forward pass; return the loss () and its parts."""
        # Before what it replaces is there, for the memory.
        self._output = None
        with torch.enable_grad():
            self._output = output = self._call()
        if not isinstance(output, ModelOutput) or output.get("loss") is None:
            raise ValueError("cuda_graphs: expected a model that returns a loss; leave it out")
        return [each.detach() for each in (output["loss"], *(output.get("losses") or {}).values())]

    def _pass_back(self) -> list[torch.Tensor | None]:
        """Do the backward pass of the last forward pass; return the gradients of the weights."""
        loss = self._output["loss"]
        found = torch.autograd.grad(loss, self._trained, self._gradient.to(loss.dtype), allow_unused=True)
        # Weights that are added up have one gradient, which would be scaled once for each of them.
        places, apart = {self._gradient.data_ptr()}, []
        for each in found:
            place = None if each is None else each.untyped_storage().data_ptr()
            apart.append(each.clone() if place in places else each)
            places |= set() if place is None else {place}
        return apart

    def __call__(self, inputs: dict[str, Any]) -> ModelOutput:
        """Return the losses () for inputs of the recorded shapes."""
        loss, *parts = Replay.apply(self, inputs, *self._weights)
        losses = {"losses": dict(zip(self._parts, parts, strict=True))} if parts else {}
        return self._type(loss=loss, **losses)

    def replay(self, inputs: dict[str, Any]) -> list[torch.Tensor]:
        """Replay the forward pass; return the loss () and its parts."""
        torch._foreach_copy_(self._inputs, tensors_in(inputs))
        self._replay()
        # The next replay writes over them.
        return [each.clone() for each in self._losses]

    def replay_back(self, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Replay the backward pass, from the gradient () of the loss; return the gradients of the weights."""
        self._gradient.copy_(gradient)
        self._replay_back()
        if self._copies_gradients:
            return list(torch._foreach_mul(self._gradients, 1))
        # New tensors of the same memory, which weights take over in place of copies.
        return [each.detach() for each in self._gradients]


class Replay(torch.autograd.Function):
    """A recorded call, for autograd."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, inputs: dict[str, Any], *weights: nn.Parameter) -> tuple:
        ctx.recording = recording
        losses = recording.replay(inputs)
        ctx.mark_non_differentiable(*losses[1:])
        return tuple(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, *others: torch.Tensor) -> tuple:
        return (None, None, *ctx.recording.replay_back(gradient))


@functools.cache
def recording_stream() -> torch.cuda.Stream:
    """Return the stream that everything is recorded on."""
    return torch.cuda.Stream()


def capture(passes: Sequence[Callable[[], Any]], pool: Any) -> list[tuple[Callable[[], None], Any]]:
    """
    Record passes, each of which may read what those before it have made.

    Args:
        passes: Functions that compute on the GPU.
        pool: The memory that the recordings have in common with others.

    Returns:
        Of each a function that replays it, and what it returned: tensors that each replay writes over.
    """
    # Recordings that share memory are made on one stream.
    stream = recording_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for each in (*passes,) * WARM_UPS:
            each()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = []
    for each in passes:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            made = each()
        recorded.append((graph.replay, made))
    return recorded


def tensors_in(values: Any) -> list[torch.Tensor]:
    """Return the tensors in inputs of a model, those in dictionaries of them too."""
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def key_of(inputs: dict[str, Any]) -> Hashable:
    """Return what two calls have in common that one recording serves: shapes and types of tensors, and all other inputs."""
    leaves, form = tree_flatten(inputs)
    return form, tuple((each.shape, each.dtype) if isinstance(each, torch.Tensor) else each for each in leaves)


class ReplayCallback(TrainerCallback):
    """Tells a recorded model when a step begins, and the user, at the end, how many calls were replayed."""

    def __init__(self, recorded: RecordedModel):
        self.recorded = recorded

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.recorded.begin_step()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        logger.info(f"CUDA graphs: replayed {self.recorded.replayed:,} of {self.recorded.calls:,} calls of the model")
        self.recorded.forget()


def record_model(trainer: Trainer, lengths: list[int]) -> RecordedModel:
    """
    Record a trainer's model, before it is wrapped for several processes and before loaders begin to read: while something is
    recorded, no other thread may use the GPU. Shapes are those of a batch of the training data at each length of its texts.

    Args:
        trainer: The trainer of a run with a model on the GPU.
        lengths: The lengths of texts, in tokens.

    Raises:
        ValueError: If the data is a stream, or the model cannot be recorded.
    """
    model, args = trainer.model, trainer.args
    if isinstance(trainer.train_dataset, IterableDataset):
        raise ValueError("cuda_graphs: a stream has no first rows to record; leave out cuda_graphs or streaming")
    devices, before = [args.device] if args.device.type == "cuda" else [], torch.cuda.memory_reserved()
    model.train()
    autocast = functools.partial(trainer.accelerator.autocast, AutocastKwargs(cache_enabled=False))
    recorded = RecordedModel(model, autocast, copies_gradients=args.gradient_accumulation_steps > 1)
    # A resumed run draws the same dropout as one that never stopped, and running means are those of training alone.
    with torch.random.fork_rng(devices), same_buffers(model):
        try:
            for inputs in batches_of(trainer, lengths):
                recorded.record(inputs)
        except torch.OutOfMemoryError as error:
            advice = "name fewer lengths by text_buckets, or leave it out"
            raise torch.OutOfMemoryError(f"cuda_graphs: {first_line(error)}; {advice}") from error
        # Beside its own errors, torch has AssertionError and AttributeError for outputs and buffers that it does not expect.
        except (RuntimeError, AssertionError, AttributeError) as error:
            kind = type(model).__name__
            raise ValueError(f"cuda_graphs: {kind} cannot be recorded ({first_line(error)}); leave it out") from error
    taken = (torch.cuda.memory_reserved() - before) / 1024**3
    logger.info(f"CUDA graphs: {type(model).__name__} recorded, shapes: {recorded.shapes}; memory: {taken:.2f} GiB")
    trainer.add_callback(ReplayCallback(recorded))
    return recorded


@contextlib.contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Give the buffers of a model the values back, in place, that they have before this context."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def batches_of(trainer: Trainer, lengths: list[int]) -> Iterator[dict[str, Any]]:
    """Yield what a trainer's model is called with: a batch of its training data, with texts cut or padded to each of `lengths`."""
    data, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    order = trainer.train_sampler or np.random.default_rng(trainer.args.seed).permutation(len(data)).tolist()
    rows = [data[row] for row in itertools.islice(itertools.cycle(order), size)]
    for length in lengths:
        with texts_of(trainer.processing_class, length):
            batch = trainer.data_collator(rows)
        counts = trainer.items_in([batch], trainer.args.device) if trainer.model_accepts_loss_kwargs else None
        yield {**trainer._prepare_inputs(batch), **({} if counts is None else {"num_items_in_batch": counts})}


@contextlib.contextmanager
def texts_of(processor: RenaissanceProcessor, length: int) -> Iterator[None]:
    """Let a processor cut or pad all texts to `length` tokens."""
    tokenizer, buckets = processor.tokenizer, processor.text_buckets
    limit, is_told = tokenizer.model_max_length, processor.truncation_reported
    processor.text_buckets, tokenizer.model_max_length, processor.truncation_reported = [length], length, True
    try:
        yield
    finally:
        processor.text_buckets, tokenizer.model_max_length, processor.truncation_reported = buckets, limit, is_told
