"""The precision that a run computes in: what the user says, else what the device is made for."""

import json
import os
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from .machine import UnfitMachine


#: The precisions of a run, and their names in words.
NAMES = {"bf16": "bfloat16", "bf16_weights": "bfloat16 weights", "fp16": "float16", "float32": "float32"}

#: The options that choose one.
OPTIONS = ("bf16", "bf16_weights", "fp16")

#: Parts of the names of optimizers that look at the model itself, or swap weights behind its back, so that they cannot train copies.
NEED_THE_MODEL = ("apollo", "galore", "layerwise", "lomo", "schedule_free")


def choose_precision(args: TrainingArguments) -> str:
    """
    Set `OPTIONS` of training arguments to true or false, unless the user has chosen one. Return who chose, for the log.

    What `accelerate launch --mixed_precision` or a DeepSpeed configuration asks for is the user's word too. If nobody says anything,
    weights are in bfloat16 on a GPU that has it, which is fastest, or else the computation is (autocast).

    Raises:
        ValueError: If the run or its machine cannot compute in the precision that the user gives.
    """
    asked = [name for name in OPTIONS if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"{', '.join(asked)}: a run has one precision; leave out all but one of them")
    if asked:
        check_asked(asked[0], args)
    # `--bf16 false` and `--fp16 false` mean float32, `--bf16_weights false` that weights are not rounded.
    chosen, reason = asked[0] if asked else "float32", "as asked for"
    if not asked and args.bf16 is None and args.fp16 is None:
        elsewhere = asked_elsewhere(args)
        chosen, reason = elsewhere or of_machine(args.use_cpu)
        if chosen == "bf16" and not elsewhere and args.bf16_weights is None and not lacks_masters(args):
            chosen = "bf16_weights"
    for name in OPTIONS:
        setattr(args, name, name == chosen)
    return reason


def check_asked(name: str, args: TrainingArguments) -> None:
    """Raise `ValueError` if a run cannot compute in the precision that the option `name` asks for."""
    if name == "fp16":
        if on_cpu(args.use_cpu):
            raise UnfitMachine("fp16: needs a GPU, and this run is on a CPU; leave it out, or give --bf16")
        return
    if name == "bf16_weights" and (fault := lacks_masters(args)):
        raise ValueError(f"bf16_weights: {fault}; give --bf16 instead")
    if not on_cpu(args.use_cpu) and torch.cuda.is_available() and not has_bf16():
        fault = f"{torch.cuda.get_device_name()} has no bfloat16"
        raise UnfitMachine(f"{name}: {fault}; leave it out for float16, or give --bf16 false for float32")


def lacks_masters(args: TrainingArguments) -> str | None:
    """Return why a run cannot have weights in bfloat16 with float32 copies in the optimizer; `None` if it can."""
    if args.deepspeed:
        return "DeepSpeed keeps its own float32 copies"
    if args.fsdp:
        return "FSDP rounds the weights that it shards itself"
    # The name of the option, or the value that transformers has made of it.
    optimizer = str(getattr(args.optim, "value", args.optim))
    if any(word in optimizer for word in NEED_THE_MODEL):
        return f"optim {optimizer} does not train float32 copies"
    return None


def has_bf16() -> bool:
    """Return whether a CUDA GPU has bfloat16; one that emulates it, as those before Ampere do, is slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def asked_elsewhere(args: TrainingArguments) -> tuple[str, str] | None:
    """Return the precision that the launcher or DeepSpeed's configuration sets, and which of them does, if one does."""
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launcher in ("bf16", "fp16"):
        return launcher, "as accelerate's launcher asks for"
    sections = deepspeed_sections(args.deepspeed)
    enabled = {
        name: sections[name].get("enabled") for name in ("bf16", "fp16") if isinstance(sections.get(name), dict)
    }
    for name, value in enabled.items():
        if value is True:
            return name, "as the DeepSpeed configuration says"
    if enabled.get(of_machine(args.use_cpu)[0]) is False:
        return "float32", "as the DeepSpeed configuration says"
    return None


def deepspeed_sections(config: dict | str | None) -> dict:
    """Return DeepSpeed's configuration, a dictionary, JSON or a file; an empty one if there is none that can be read."""
    try:
        if isinstance(config, str):
            config = json.loads(
                config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
            )
    except (OSError, ValueError):
        # DeepSpeed says what is wrong with it.
        return {}
    return config if isinstance(config, dict) else {}


def of_machine(use_cpu: bool) -> tuple[str, str]:
    """Return the precision that suits the machine, and why."""
    if on_cpu(use_cpu):
        return "float32", "on a CPU"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        # Under `torchrun` each process asks about the first device, so that all agree.
        if has_bf16():
            return "bf16", f"which {name} has"
        return "fp16", f"for {name} has no bfloat16"
    device = torch.accelerator.current_accelerator().type
    # Part of Apple's GPUs emulate bfloat16, and none says so.
    if device != "mps" and is_torch_bf16_gpu_available():
        return "bf16", f"which {device} has"
    return "float32", f"on {device}"


def on_cpu(use_cpu: bool) -> bool:
    """Return whether a run is on a CPU, by choice or for lack of an accelerator."""
    return use_cpu or not (torch.cuda.is_available() or torch.accelerator.is_available())
