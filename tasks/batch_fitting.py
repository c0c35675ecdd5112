"""Whether a training step fits into memory, told before the first one, and the largest batch that does."""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import IterableDataset, Sampler
from transformers import PreTrainedModel

from ..hub import first_line
from ..processing.processing_renaissance import RenaissanceProcessor
from . import machine
from .argument_checks import checkpoints_activations
from .arguments import RunArguments
from .base import Task
from .data.batches import ComposedSampler
from .data.mixing import span_of, spans_of
from .memory_needs import Needs, nbytes, step_needs


logger = logging.getLogger(__name__)

#: The option for the rows of a batch.
ROWS = "per_device_train_batch_size"
#: Rows of a batch that is tried without values; what a larger one needs grows with its rows.
MOST_ROWS = 32
#: Rows whose texts are looked at for a long one.
MOST_TEXTS = 1000
#: What is kept free beside what a step is found to need, as a share of that: allocators round up, and leave gaps.
MARGIN = 0.15
#: On a CPU nothing is told if this number of bytes for each parameter and row is less than half of what there is: few models need as
#: much, and trying a step takes a second or two.
BYTES_A_PARAMETER_AND_ROW = 64


@dataclass
class StepTrial:
    """
    Tries steps of a run, without values, for the memory that they need.

    Attributes:
        model: The model.
        task: The task.
        data: Its training data.
        collator: Makes a batch of rows.
        processor: Its processor.
        sampler: The order of the rows; random if `None`.
    """

    model: PreTrainedModel
    task: Task
    data: Any
    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    processor: RenaissanceProcessor
    sampler: Sampler | None = None

    def needs(self, args: RunArguments, freeze: tuple[str, ...] = ()) -> Needs | None:
        """Return what a step under `args` needs, with further parts frozen; `None`, and a line in the log, if that cannot be found."""
        rows = args.per_device_train_batch_size
        tried = min(rows, MOST_ROWS)
        try:
            recordings = len(self.processor.text_buckets) if args.cuda_graphs else 0
            found = [step_needs(self.model, each, args, tried, freeze, recordings) for each in self.batches(tried)]
        # Whatever the code of an encoder raises that asks for values, or a row that cannot be read, of which training will tell.
        except Exception as error:
            logger.info(f"memory: what a step needs is not known before the first one ({first_line(error)})")
            return None
        needs = [each.of_rows(rows, args.gradient_accumulation_steps > 1) for each in found]
        return max(needs, key=lambda each: each.total)

    def batches(self, rows: int) -> list[dict[str, torch.Tensor]]:
        """Return a batch of `rows` rows of the training data, with one of its longest texts; or, if steps are of one data set each, a batch
        of each."""
        if self.is_stream:
            return [self.collator(list(self.stream_rows(rows)))]
        chosen = [self.numbers(rows)]
        if isinstance(self.sampler, ComposedSampler) and self.sampler.batches == "homogeneous":
            spans = spans_of(self.data.data)
            chosen = [np.linspace(start, end - 1, rows).astype(int).tolist() for start, end in spans]
        return [self.collator([self.data[number] for number in numbers]) for numbers in chosen]

    def drawn(self, batches: int, args: RunArguments) -> list[list[int]]:
        """Return the numbers of the rows of up to `batches` batches, spread over an epoch as training draws it."""
        size, rows = len(self.data), args.per_device_train_batch_size
        if self.sampler is not None:
            order = np.fromiter(self.sampler, int, size)
        elif args.train_sampling_strategy == "sequential":
            order = np.arange(size)
        else:
            order = np.random.default_rng(args.sampling_seed).permutation(size)
        whole = max(size // rows, 1)
        starts = rows * np.linspace(0, whole - 1, min(batches, whole)).astype(int)
        return [order[start : start + rows].tolist() for start in starts]

    @property
    def is_stream(self) -> bool:
        """Whether the training data is a stream, which is not read before training."""
        return isinstance(self.data, IterableDataset)

    def stream_rows(self, rows: int) -> Iterator[dict]:
        """Yield rows like those of a stream, with texts that are as long as the model reads."""
        tokenizer = self.processor.tokenizer
        text = " ".join([tokenizer.unk_token or "a"] * tokenizer.model_max_length)
        for number in range(rows):
            keys = {"image_id": str(number), "sample_id": number, "epoch": 0, "training": True}
            yield {"image": Image.new("RGB", (64, 64)), "text": text} | keys

    def numbers(self, rows: int) -> list[int]:
        """Return the numbers of rows that make up a batch of the run, with the one of the longest texts."""
        spread = np.linspace(0, len(self.data) - 1, min(len(self.data), MOST_TEXTS)).astype(int)
        # A mixed batch has its data sets one after the other: all of it is looked at, for each to have its share.
        mixed = isinstance(self.sampler, ComposedSampler) and self.sampler.batches == "mixed"
        first = min(self.sampler.rows if mixed else rows, len(self.data))
        order = spread if self.sampler is None else np.fromiter(self.sampler, int, first)
        # Evenly spread, for rows of one image may follow each other.
        chosen = order[np.arange(rows) * len(order) // rows % len(order)].tolist()
        columns = self.task.texts(self.data.data, spread)
        if columns:
            lengths = [sum(map(len, texts)) for texts in zip(*columns, strict=True)]
            longest = int(spread[np.argmax(lengths)])
            # Instead of a row of the same data set, whose rows have what it has.
            start, end = span_of(self.data.data, longest)
            alike = [place for place, number in enumerate(chosen) if start <= number < end]
            chosen[alike[-1] if alike else -1] = longest
        return chosen


def tell_needs(trial: StepTrial, args: RunArguments) -> None:
    """
    Log what a training step will need of memory, and what there is; warn if that is too little. On a CPU, tell nothing if there is
    plenty. The model is not yet compiled.

    Raises:
        ValueError: If there is too little even for weights, gradients and the optimizer's state.
    """
    there = memory_there(trial.model, args)
    if there is None or is_sharded(args) or has_plenty(trial.model, args, there):
        return
    needs = trial.needs(args)
    if needs is None:
        return
    told = f"{described(needs)}; there are {amount(there)}{place(args)}"
    # What is on a CPU may be swapped out, if slowly.
    swap = machine.free_swap() if args.device.type == "cpu" else 0
    if needs.fixed > there + swap:
        fault = f"without any batch {amount(needs.fixed)} of {amount(there)}{place(args)}"
        raise ValueError(
            f"out of memory before the first step: the model needs {fault}. {in_words(remedies(trial, args))}"
        )
    if with_margin(needs.total) > there:
        logger.warning(f"memory may not suffice: {told}. {in_words(remedies(trial, args))}")
    else:
        logger.info(f"memory: {told}")


def has_plenty(model: PreTrainedModel, args: RunArguments, there: int) -> bool:
    """Return whether a run on a CPU is so small that its memory is no matter."""
    parameters = model.num_parameters()
    rough = parameters * BYTES_A_PARAMETER_AND_ROW * (args.per_device_train_batch_size + 1)
    return args.device.type == "cpu" and rough < there / 2


def is_sharded(args: RunArguments) -> bool:
    """Return whether processes share out weights, gradients or the optimizer's state, of which nothing is known here."""
    return args.deepspeed_plugin is not None or bool(args.fsdp)


def memory_there(model: PreTrainedModel, args: RunArguments) -> int | None:
    """Return the bytes that there are for a step: what is left, and what the model takes already; `None` if that is not known."""
    left = machine.memory_left(args)
    if left is None or model.device.type != args.device.type:
        return left
    return left + sum(map(nbytes, [*model.parameters(), *model.buffers()]))


def keep_rows(args: RunArguments, recipe: dict[str, Any], saved: dict[str, Any], processes: int) -> None:
    """
    If the rows of a batch are to be found, take those that an earlier part of the run has found, if it had as many rows a step and
    as many processes.

    Args:
        recipe: All options of the run, which also gets the number.
        saved: The options of the earlier part.
        processes: Its number of processes.
    """
    same = (saved.get("total_batch_size"), processes) == (args.total_batch_size, args.world_size)
    if args.finds_rows and same and isinstance(saved.get(ROWS), int):
        args.set_rows(saved[ROWS])
        recipe[ROWS] = saved[ROWS]


def settle_rows(trial: StepTrial, args: RunArguments) -> None:
    """
    Set the rows of a batch to the most that fit into the memory of every process, and divide the rows of a step (`total_batch_size`)
    evenly, with as many accumulated batches as that takes.

    Raises:
        ValueError: If not even the smallest batch that the task allows fits, or what a step needs is not known.
    """
    name = f"{ROWS} auto"
    there, needs = memory_there(trial.model, args), trial.needs(args)
    if there is None or needs is None:
        raise ValueError(f"{name}: the memory that there is, or that a step needs, is not known here; give a number")
    sizes = allowed_sizes(trial, args)
    fitting = [rows for rows in sizes if with_margin(needs.of_rows(rows, rows < sizes[0]).total) <= there]
    # What fits on all processes.
    common = min(gather_object([max(fitting, default=0)]))
    if not common:
        least = needs.of_rows(sizes[-1], len(sizes) > 1)
        fault = f"even a batch of {sizes[-1]} needs {amount(least.total)}, and there are {amount(there)}{place(args)}"
        args.set_rows(sizes[-1])
        raise ValueError(f"{name}: {fault}. {in_words(remedies(trial, args))}")
    args.set_rows(common)
    logger.info(f"{name}: batches of {common} rows, {args.gradient_accumulation_steps} a step on each process")


def allowed_sizes(trial: StepTrial, args: RunArguments) -> list[int]:
    """Return the sizes of batches that divide the rows of a step evenly and that the task allows, the largest first."""
    share, sizes = args.total_batch_size // args.world_size, []
    for rows in (rows for rows in range(share, 0, -1) if share % rows == 0):
        with_rows = copy.copy(args)
        with_rows.set_rows(rows)
        try:
            trial.task.check(with_rows, trial.model.config, trial.processor)
        except ValueError:
            continue
        sizes.append(rows)
    return sizes


@dataclass(frozen=True)
class Remedy:
    """Options that let a step need less memory, and how many bytes less; `None` if that is not known."""

    words: str
    saves: int | None


def remedies(trial: StepTrial, args: RunArguments) -> list[Remedy]:
    """Return what would make a training step need less memory, the most effective first, by trying it without values."""
    now, found = trial.needs(args), []

    def add(words: str, changed: RunArguments = args, freeze: tuple[str, ...] = ()) -> None:
        needs = trial.needs(changed, freeze) if now else None
        saves = now.total - needs.total if now and needs else None
        if saves is None or saves > 0:
            found.append(Remedy(words, saves))

    if (rows := args.per_device_train_batch_size) > 1:
        half = copy.copy(args)
        half.per_device_train_batch_size = rows // 2
        half.gradient_accumulation_steps = 2 * args.gradient_accumulation_steps
        more = "" if args.total_batch_size else f" --gradient_accumulation_steps {half.gradient_accumulation_steps}"
        add(f"--per_device_train_batch_size {rows // 2}{more}", half)
    if not checkpoints_activations(args) and trial.model.supports_gradient_checkpointing:
        checkpointed = copy.copy(args)
        checkpointed.activation_checkpointing = True
        add("--activation_checkpointing true", checkpointed)
    if args.precision == "float32" and args.device.type != "cpu":
        rounded = copy.copy(args)
        rounded.bf16 = True
        add("--bf16 true", rounded)
    if args.cuda_graphs:
        unrecorded = copy.copy(args)
        unrecorded.cuda_graphs = False
        add("leaving out --cuda_graphs", unrecorded)
    frozen = trial.model.config.frozen
    for part in trial.model.base_model.towers():
        if part in ("text", "vision") and part not in frozen:
            add(f"--freeze {' '.join([*frozen, part])}", freeze=(part,))
    return sorted(found, key=lambda remedy: -(remedy.saves or 0))


def in_words(found: list[Remedy]) -> str:
    """Return a sentence, without its full stop, on options that save memory."""
    told = [each.words + (f" saves {amount(each.saves)}" if each.saves else "") for each in found]
    return f"What helps: {', '.join(told)}" if told else "What helps: a smaller model, or a machine with more memory"


def described(needs: Needs) -> str:
    """Return a phrase on what a step needs."""
    parts = {
        "weights": needs.weights,
        "gradients": needs.gradients + needs.exchanged + needs.recorded,
        "optimizer": needs.optimizer,
    }
    parts |= {"activations": needs.activations}
    told = ", ".join(f"{name} {amount(size)}" for name, size in parts.items())
    return f"a batch of {needs.rows} rows needs about {amount(needs.total)} ({told})"


def with_margin(size: int) -> float:
    """Return bytes with what is kept free beside them."""
    return size * (1 + MARGIN)


def amount(size: int) -> str:
    """Return bytes in a unit that suits their number."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def place(args: RunArguments) -> str:
    """Return the words, after an amount of memory, for where it is."""
    return "" if args.device.type == "cpu" else f" on {args.device}"
