"""Optimisation of models of several parts: learning rates and weight decay by group, schedule, batch size."""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from ..modeling.fields import Interval, option
from .argument_checks import MANY


#: The option for the end rate of each schedule that has one.
END_RATES = {
    SchedulerType.POLYNOMIAL: "lr_end",
    SchedulerType.COSINE: "min_lr",
    SchedulerType.COSINE_WITH_MIN_LR: "min_lr",
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: "min_lr",
}
#: The schedules without a warm-up, and those without other options.
WITHOUT_WARMUP = (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
WITHOUT_OPTIONS = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)

#: torch's own AdamW, which has its plain Adam beside it.
OF_TORCH = (OptimizerNames.ADAMW_TORCH.value, OptimizerNames.ADAMW_TORCH_FUSED.value)

HEAD, CROSS_MODAL = "head", "cross-modal"
#: Names of the encoders in the log, by the part that has their layers.
TOWERS = {"text": "text encoder", "vision": "vision encoder", "cross_modal": "encoder"}


@dataclass
class OptimizationArguments(TrainingArguments):
    """transformers' training arguments, with learning rates by part, an end rate, and the rows of a step."""

    head_lr_multiplier: float = option(
        1.0, "Learning rate of the head, in multiples of learning_rate; often 5.", within="(0, inf)"
    )
    cross_modal_lr_multiplier: float = option(
        1.0,
        "Learning rate of the modules that join the encoders (projections, type embeddings, cross-modal layers, "
        "poolers), as a multiple of learning_rate. The layers of a one-tower model are an encoder's, and keep learning_rate.",
        within="(0, inf)",
    )
    layer_decay: float = option(
        1.0,
        "Learning rate of an encoder's layer, as a multiple of that of the layer above it. Embeddings come lowest; the top "
        "layer has learning_rate. 0.9 is a usual value; 1 trains all layers alike.",
        within="(0, 1]",
    )
    adam_coupled_decay: bool = option(
        False,
        "Plain Adam rather than AdamW: weight decay is added to the gradient, as an L2 penalty, before Adam divides it. Both are "
        "the same without weight decay. Needs optim adamw_torch or adamw_torch_fused.",
    )
    end_learning_rate: float | None = option(
        None,
        "Last learning rate of a polynomial or cosine schedule; 1e-7 and 0 if not given. Multipliers apply to it.",
        within="[0, inf)",
    )
    polynomial_power: float | None = option(
        None, "Power of the polynomial schedule; 1, a straight line, by default.", within="(0, inf)"
    )
    per_device_train_batch_size: str = option(
        8,
        "Rows in a batch of training, on each device. auto: the most that fit into memory and divide total_batch_size evenly; "
        "a run that goes on keeps the number that was found.",
    )
    total_batch_size: int | None = option(
        None,
        "Rows per step over all processes: sets gradient_accumulation_steps to total_batch_size / "
        "(per_device_train_batch_size * processes). Batches within it are made one by one: negatives come from one batch.",
        within="[1, inf)",
    )
    max_flops: float | None = option(
        None,
        "Train for about this many floating-point operations, forward and backward, over all processes, such as 2e13: they are counted "
        "in a few batches before training, which sets max_steps.",
        within="(0, inf)",
    )

    def __post_init__(self):
        self._read_rows()
        self._check_length()
        end, peak = self.end_learning_rate, self.learning_rate
        if end is not None and end >= peak:
            raise ValueError(f"end_learning_rate: expected less than learning_rate ({peak}), got {end}")
        if self.total_batch_size is not None:
            # Before DeepSpeed's configuration reads it. There is no process group yet; launchers set WORLD_SIZE.
            self._set_accumulation(processes=int(os.environ.get("WORLD_SIZE", 1)))
        super().__post_init__()
        self._check_schedule()
        self._check_engines()

    def _check_length(self) -> None:
        """Raise `ValueError` if more than one option says how long training takes, or one changes the rows of a step on the way."""
        if self.max_flops is None:
            return
        for name, default in (("max_steps", -1), ("num_train_epochs", 3.0)):
            if (value := getattr(self, name)) != default:
                raise ValueError(
                    f"max_flops: {name} {value:g} says how long training takes too; leave out one of them, or take back that of a "
                    f"recipe with {name} {default:g}"
                )
        if self.auto_find_batch_size:
            raise ValueError("max_flops: auto_find_batch_size changes the rows a step; leave out one of them")

    def _read_rows(self) -> None:
        """Make a number of `per_device_train_batch_size`, which comes as text: of `auto`, the most that may be found."""
        asked, processes = self.per_device_train_batch_size, int(os.environ.get("WORLD_SIZE", 1))
        #: Whether the rows of a batch are still to be found.
        self.finds_rows = asked == "auto"
        if self.finds_rows:
            fault = "" if self.total_batch_size else "needs total_batch_size, the rows of a step, which it divides"
            if self.deepspeed or self.fsdp:
                fault = "not with DeepSpeed or FSDP, which share out the memory; give a number"
            if fault:
                raise ValueError(f"per_device_train_batch_size auto: {fault}")
            # Raises, too.
            self.per_device_train_batch_size = accumulation_steps(self.total_batch_size, 1, processes)
            return
        try:
            self.per_device_train_batch_size = int(asked)
        except ValueError:
            raise ValueError(f"per_device_train_batch_size: expected a whole number, or auto, got {asked}") from None
        if self.per_device_train_batch_size not in (bounds := Interval.read(MANY)):
            raise ValueError(f"per_device_train_batch_size: expected {bounds}, got {asked}")

    def set_rows(self, rows: int) -> None:
        """Set the rows of a batch, which divide those of a step evenly."""
        self.per_device_train_batch_size = rows
        self.gradient_accumulation_steps = accumulation_steps(self.total_batch_size, rows, self.world_size)
        self.finds_rows = False

    def _set_accumulation(self, processes: int) -> None:
        if self.auto_find_batch_size:
            raise ValueError("auto_find_batch_size changes the rows a step; leave out this option or total_batch_size")
        steps = accumulation_steps(self.total_batch_size, self.per_device_train_batch_size, processes)
        # A copy of the arguments has both, with the same value.
        if self.gradient_accumulation_steps not in (1, steps):
            given, total = self.gradient_accumulation_steps, self.total_batch_size
            fault = f"{given} is given, but total_batch_size {total} asks for {steps}"
            raise ValueError(f"gradient_accumulation_steps: {fault}; leave out one of them")
        self.gradient_accumulation_steps = steps

    def _check_schedule(self) -> None:
        schedule, options, end = self.lr_scheduler_type, self.lr_scheduler_kwargs, self.end_learning_rate
        if not isinstance(options, dict | None):
            raise ValueError(f'lr_scheduler_kwargs: expected a JSON object such as {{"power": 2}}, got {options}')
        polynomial = schedule is SchedulerType.POLYNOMIAL
        straight = "polynomial, which is a straight line unless polynomial_power is given, or cosine"
        idle = {
            "warmup_steps": (schedule in WITHOUT_WARMUP and self.warmup_steps, "constant_with_warmup"),
            "end_learning_rate": (schedule not in END_RATES and end is not None, straight),
            "polynomial_power": (not polynomial and self.polynomial_power is not None, "polynomial"),
            "lr_scheduler_kwargs": (schedule in WITHOUT_OPTIONS and options, "a schedule that falls"),
        }
        for name, (is_idle, other) in idle.items():
            if is_idle:
                fault = f"without effect on lr_scheduler_type {schedule.value}"
                raise ValueError(f"{name}: {fault}; choose {other}, or leave it out")
        for name, value in ((END_RATES.get(schedule), end), ("power", self.polynomial_power)):
            if value is not None and name in (options or {}):
                same = f"{name} is what end_learning_rate or polynomial_power sets"
                raise ValueError(f"lr_scheduler_kwargs: {same}; leave out one of them")
        try:
            for name, value in (options or {}).items():
                if isinstance(value, (int, float)) and not 0 <= value < math.inf:
                    raise ValueError(f"{name}: expected at least 0, got {value}")
            optimizer = torch.optim.SGD([torch.zeros(1)], lr=self.learning_rate)
            tried = make_schedule(self, optimizer, warmup_steps=1, steps=2)
            if isinstance(tried, LambdaLR):
                for rate_at in tried.lr_lambdas:
                    # In and behind the warm-up.
                    _ = [rate_at(step) for step in range(3)]
        except (ArithmeticError, TypeError, ValueError) as error:
            fault = f"{options or 'nothing'} does not fit lr_scheduler_type {schedule.value} ({error})"
            raise ValueError(f"lr_scheduler_kwargs: {fault}") from error
        if self.max_steps > 0:
            self.check_warmup(self.max_steps)

    @property
    def rows_a_step(self) -> int:
        """The rows of one step, over accumulated batches and all processes."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def _check_engines(self) -> None:
        rows = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        if self.total_batch_size not in (None, rows):
            fault = f"{self.world_size} processes run, but the launcher has not set WORLD_SIZE"
            raise ValueError(f"total_batch_size: {fault}; give gradient_accumulation_steps instead")
        fixing = [name for name in ("total_batch_size", "max_flops") if getattr(self, name) is not None]
        if fixing and self.accelerator_config.split_batches:
            raise ValueError(f"accelerator_config: split_batches changes the rows a step; leave out {fixing[0]}")
        if self.fsdp and self.fsdp_config.get("version") == 1:
            raise ValueError("fsdp_config: version 1 flattens weights, which hides biases and norms; use version 2")
        if any(kind in self.optim for kind in ("lomo", "layerwise")):
            fault = "changes weights while gradients are made, so that a step that is not finite could not be left out"
            raise ValueError(f"optim {self.optim.value}: it {fault}; choose another")
        if self.adam_coupled_decay and self.optim not in OF_TORCH:
            fault = f"without effect on optim {self.optim.value}"
            raise ValueError(f"adam_coupled_decay: {fault}; choose {' or '.join(OF_TORCH)}, or leave it out")
        if self.deepspeed:
            self._check_deepspeed()

    def _check_deepspeed(self) -> None:
        """Raise `ValueError` if the configuration of DeepSpeed and the options contradict each other, or one leaves the other out."""
        configuration, asked = self.hf_deepspeed_config.config, 'write "auto" for what the options say'
        needed = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        if missing := [name for name in needed if name not in configuration]:
            raise ValueError(f"deepspeed: the configuration has no {', '.join(missing)}; {asked}")
        if contradictions := self.hf_deepspeed_config.mismatches:
            told = ", ".join(line.removeprefix("- ds ").replace(" vs hf ", " against ") for line in contradictions)
            raise ValueError(f"deepspeed: the configuration contradicts the options: {told}; {asked}")
        given = [name for name in ("end_learning_rate", "polynomial_power") if getattr(self, name) is not None]
        of_optimizer = [*self.differs, *(["adam_coupled_decay"] if self.adam_coupled_decay else [])]
        for section, names in {"optimizer": of_optimizer, "scheduler": given}.items():
            if section in configuration and names:
                fault = f"without effect if the DeepSpeed configuration has a section {section!r}"
                raise ValueError(f"{', '.join(names)}: {fault}; leave out one of them")

    @property
    def differs(self) -> list[str]:
        """The options that make the learning rates of parts differ."""
        names = ("head_lr_multiplier", "cross_modal_lr_multiplier", "layer_decay")
        return [name for name in names if getattr(self, name) != 1]

    def check_warmup(self, steps: int) -> None:
        """Raise `ValueError` if the warm-up does not end before the last of `steps`; a fraction always does."""
        if self.warmup_steps >= max(steps, 1):
            fault = f"so that a warm-up of {self.warmup_steps:g} never reaches learning_rate"
            raise ValueError(f"warmup_steps: training has {steps} steps, {fault}; give fewer, or a share such as 0.1")


def accumulation_steps(total: int, rows: int, processes: int) -> int:
    """
    Return the number of batches in a step of `total` rows, if each of `processes` takes `rows` rows at once. Raise
    `ValueError`, naming the nearest totals that fit, if it is no whole number.
    """
    batch = rows * processes
    if total % batch:
        lower = total // batch * batch
        near = " or ".join(str(size) for size in (lower, lower + batch) if size > 0)
        fault = f"{total} is no multiple of {batch}, the rows of all {processes} processes at once"
        raise ValueError(
            f"total_batch_size: {fault}; choose {near}, or another per_device_train_batch_size, not {rows}"
        )
    return total // batch


def make_schedule(
    args: OptimizationArguments, optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return transformers' schedule for these arguments. The rates of all groups keep their proportions."""
    schedule, options = args.lr_scheduler_type, dict(args.lr_scheduler_kwargs or {})
    if args.end_learning_rate is not None:
        options[END_RATES[schedule]] = args.end_learning_rate
        if schedule is SchedulerType.COSINE:
            schedule = SchedulerType.COSINE_WITH_MIN_LR
    if args.polynomial_power is not None:
        options["power"] = args.polynomial_power
    return get_scheduler(schedule, optimizer, warmup_steps, steps, options)


def parameter_groups(model: PreTrainedModel, args: OptimizationArguments) -> list[dict]:
    """
    Return the trainable parameters as groups of a torch optimiser, each with its `lr` and `weight_decay`.

    A parameter of an encoder trains at `learning_rate * layer_decay ** n` with n layers of the encoder above it: the
    top layer at the base rate, as in discriminative finetuning (Howard & Ruder 2018, section 3.2), and the embeddings
    one step below the first layer. The head and the modules that join the encoders train at `learning_rate` times
    their multiplier, as in METER (Dou et al. 2022). Biases, norms and other vectors have no weight decay.

    Raises:
        ValueError: If an option has no effect on this model, or an encoder has no list of layers.
    """
    check_parts(model, args)
    places = parameter_places(model)
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate, decays = learning_rate_of(places[parameter], args), has_weight_decay(name, parameter)
            group = {"params": [], "lr": rate, "weight_decay": args.weight_decay if decays else 0.0}
            groups.setdefault((rate, decays), group)["params"].append(parameter)
    # Trainer logs the rate of the first group.
    return sorted(groups.values(), key=lambda group: group["lr"] != args.learning_rate)


def check_parts(model: PreTrainedModel, args: OptimizationArguments) -> None:
    """Raise `ValueError` if a learning rate is for a part that `model` lacks or that does not train."""
    places = parameter_places(model)
    trained = {places[parameter] for parameter in model.parameters() if parameter.requires_grad}
    labels = {label for label, _ in trained}
    for name, label in (("head_lr_multiplier", HEAD), ("cross_modal_lr_multiplier", CROSS_MODAL)):
        if getattr(args, name) != 1 and label not in labels:
            raise ValueError(f"{name}: without effect, there is no {label} parameter that trains; leave it out")
    if args.layer_decay != 1:
        for part in model.base_model.towers():
            if TOWERS[part] in labels and not model.base_model.layers(part):
                fault = f"the {TOWERS[part]} has no one list of layers"
                raise ValueError(f"layer_decay: {fault}; leave it out, or freeze {part}")
        if not any(above for _, above in trained):
            raise ValueError("layer_decay: without effect, nothing below the top layer trains; leave it out")


def parameter_places(model: PreTrainedModel) -> dict[nn.Parameter, tuple[str, int]]:
    """
    Return the place of each parameter: an encoder (a value of `TOWERS`), `CROSS_MODAL` or `HEAD`; and the number of
    layers of the same encoder above it.
    """
    places = dict.fromkeys(model.parameters(), (HEAD, 0))
    places |= dict.fromkeys(model.base_model.parameters(), (CROSS_MODAL, 0))
    for part, modules in model.base_model.towers().items():
        layers = model.base_model.layers(part)
        number = {parameter: k for k, layer in enumerate(layers) for parameter in layer.parameters()}
        # States pass modules in the order of registration: embeddings come before the layers, a final norm after them.
        passed = -1
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            passed = number.get(parameter, passed)
            places[parameter] = TOWERS[part], len(layers) - 1 - passed
    return places


def learning_rate_of(place: tuple[str, int], args: OptimizationArguments) -> float:
    """Return the base learning rate of a parameter at `place`, an entry of `parameter_places`."""
    label, above = place
    multipliers = {HEAD: args.head_lr_multiplier, CROSS_MODAL: args.cross_modal_lr_multiplier}
    return args.learning_rate * multipliers.get(label, 1.0) * args.layer_decay**above


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter has two or more axes and is no bias, such as a table of relative position biases."""
    return len(shape_of(parameter)) > 1 and "bias" not in name


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Return the shape of a parameter, also under ZeRO-3, which empties it and keeps its shape elsewhere."""
    return getattr(parameter, "ds_shape", parameter.shape)


def describe_optimization(model: PreTrainedModel, args: OptimizationArguments) -> str:
    """Return a phrase on the learning rate of each part that trains, on weight decay, and on the rows of a step."""
    rates: dict[str, set[float]] = {}
    decayed = trained = 0
    places = parameter_places(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rates.setdefault(places[parameter][0], set()).add(learning_rate_of(places[parameter], args))
            size = shape_of(parameter).numel()
            trained += size
            decayed += size * has_weight_decay(name, parameter)
    spans = [f"{label} {' to '.join(f'{r:.3g}' for r in sorted({min(r), max(r)}))}" for label, r in rates.items()]
    decay = f"weight decay {args.weight_decay:g} on {decayed / trained:.2%} of what trains"
    return f"learning rates: {', '.join(spans)}; {decay}; {args.rows_a_step} rows a step"
