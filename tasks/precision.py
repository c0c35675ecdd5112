"""The precision that a run computes in: what the user says, else what the device is made for."""

import json
import os
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available


#: The precisions that are options, and their names in words.
NAMES = {"bf16": "bfloat16", "fp16": "float16", "float32": "float32"}


def choose_precision(args: TrainingArguments) -> str:
    """
    Set `bf16` and `fp16` of training arguments, unless the user has given one of them. Return who chose, for the log.

    What `accelerate launch --mixed_precision` or a DeepSpeed configuration asks for is the user's word too.

    Raises:
        ValueError: If the machine cannot compute in the precision that the user gives.
    """
    given = args.bf16 is not None or args.fp16 is not None
    args.bf16, args.fp16, reason = bool(args.bf16), bool(args.fp16), "as asked for"
    if not given:
        chosen, reason = asked_elsewhere(args) or of_machine(args.use_cpu)
        args.bf16, args.fp16 = chosen == "bf16", chosen == "fp16"
    if args.bf16 and args.fp16:
        raise ValueError("bf16, fp16: a run has one precision; leave out one of them")
    if args.fp16 and on_cpu(args.use_cpu):
        raise ValueError("fp16: needs a GPU, and this run is on a CPU; leave it out, or give --bf16")
    return reason


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
    """Return the precision that suits the machine, and why. Emulated bfloat16, as on GPUs before Ampere, is slow."""
    if on_cpu(use_cpu):
        return "float32", "on a CPU"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        # Under `torchrun` each process asks about the first device, so that all agree.
        if torch.cuda.is_bf16_supported(including_emulation=False):
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
