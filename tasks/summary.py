"""The summary at the end of a run: the training, its results, where the files are, and the next command."""

import os
import shlex
import sys
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainingArguments

from .base import Task
from .checkpoints import newest_whole
from .machine import peak_gpu_memory, peak_memory
from .precision import NAMES
from .report import COLUMNS, aligned, is_result, result_table
from .trainer import RenaissanceTrainer


#: The script that a pretrained model is finetuned with first, and its recipe, and the same as words of the command.
FINETUNING = ("run_nlvr2.py", "recipes/nlvr2.yaml"), ("nlvr2", "nlvr2")


def summary(
    trainer: RenaissanceTrainer,
    task: Task,
    metrics: dict[str, float],
    checkpoint: str,
    predictions: list[Path],
    options: Path,
    seconds: float,
) -> str:
    """
    Return what the main process prints at the end of a run, in lines.

    Args:
        trainer: The trainer of the run.
        task: Its task.
        metrics: All metrics of the run.
        checkpoint: A phrase on the step that the model is of.
        predictions: The files with predictions.
        options: The file with the options of the run.
        seconds: How long all parts of the run took, in seconds.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    model = f"{type(trainer.model).__name__}, {trainer.model.num_parameters() / 1e6:.2f}M parameters"
    facts = {}
    if args.do_train:
        facts["trained"] = f"{model}; {training_facts(trainer, metrics)}"
        facts["the model is"] = checkpoint
    else:
        facts["evaluated" if args.do_eval else "predicted with"] = (
            f"{model}; {trainer.model.name_or_path or 'new, random weights'}"
        )
    facts["time"] = tqdm.format_interval(seconds) + (
        f", of which training {tqdm.format_interval(metrics['train_runtime'])}" if args.do_train else ""
    )
    facts["memory"] = memory_facts(args)
    if args.do_train:
        facts |= {"saved in": str(folder), "card": str(folder / "README.md")}
    if predictions:
        facts["predictions"] = ", ".join(map(str, predictions))
    facts |= {"options": str(options), "next": next_command(trainer, task)}
    lines = aligned([(f"{name}:", fact) for name, fact in facts.items()])
    shown = {
        name: its for name, its in metrics.items() if name.startswith(("eval_", "test_")) and is_result(name, its)
    }
    table = ["", *aligned([COLUMNS, *result_table(shown)]), ""] if shown else []
    first = 2 if args.do_train else 1
    return "\n".join(["", *lines[:first], *table, *lines[first:]])


def training_facts(trainer: RenaissanceTrainer, metrics: dict[str, float]) -> str:
    """Return a phrase on what a training took in."""
    args, state = trainer.args, trainer.state
    rows = f"{metrics['train_rows']:,} rows, " if "train_rows" in metrics else ""
    steps = f"{state.global_step:,} steps of {args.rows_a_step:,}, {state.epoch:.3g} epochs"
    return f"{rows}{steps}, mean loss {metrics['train_loss']:.4g}, {NAMES[args.precision]}"


def memory_facts(args: TrainingArguments) -> str:
    """Return a phrase on the most memory that this process has taken, and its tensors on a GPU."""
    peak, on_gpu = peak_memory(), peak_gpu_memory(args)
    facts = [] if peak is None else [f"at most {peak / 1e9:.2f} GB"]
    facts += [] if on_gpu is None else [f"at most {on_gpu / 1e9:.2f} GB on the GPU"]
    return ", and ".join(facts) or "not known on this system"


def next_command(trainer: RenaissanceTrainer, task: Task) -> str:
    """Return the command that follows a run: evaluate its model, finetune it, or predict files of one's own with it."""
    args = trainer.args
    model = args.output_dir if args.do_train else trainer.model.name_or_path or "CHECKPOINT"
    checkpoint, output = ["--model_name_or_path", model], lambda name: ["--output_dir", f"{args.output_dir}-{name}"]
    if args.do_train and not args.do_eval:
        return shlex.join(evaluation_command(args.output_dir))
    if task.kind == "ForPreTraining":
        return shlex.join([*finetuning_command(), *checkpoint, *output("nlvr2")])
    return shlex.join([*this_command(), *checkpoint, "--do_predict", "--test_file", "FILE", *output("predictions")])


def evaluation_command(folder: str) -> list[str]:
    """Return the command that evaluates the model of a training in `folder` on the same data."""
    repeated = [str(Path(folder) / "run.yaml"), "--model_name_or_path", folder, "--output_dir", f"{folder}-evaluation"]
    return [*this_command(), *repeated, "--do_train", "false", "--do_eval", "true"]


def this_command() -> list[str]:
    """Return how this script was started, or the command `renaissance` and its subcommand, without options."""
    script = Path(sys.argv[0])
    return ["python", sys.argv[0]] if script.name.startswith("run_") else ["renaissance", *sys.argv[1:2]]


def finetuning_command() -> list[str]:
    """Return how to finetune, in the way this script was started."""
    own = this_command()
    if own[0] == "renaissance":
        return ["renaissance", *FINETUNING[1]]
    return ["python", *(os.path.join(os.path.dirname(own[1]), file) for file in FINETUNING[0])]


def how_to_go_on(trainer: RenaissanceTrainer | None) -> str:
    """Return a phrase, after "stopped by Ctrl-C", on what a run has saved and how to go on; `None`: it was being prepared."""
    if trainer is None:
        return "before the run began: nothing of it is saved; the same command starts it again"
    args, state = trainer.args, trainer.state
    if not args.do_train:
        return "in evaluation: nothing of it is saved; the same command does it again"
    if trainer.run_state.trained:
        return f"after training: the model is saved in {args.output_dir}; the same command evaluates it"
    place = f"at step {state.global_step:,} of {state.max_steps:,}"
    if checkpoint := newest_whole(Path(args.output_dir)):
        return f"{place}: {checkpoint} is saved; the same command goes on from there"
    return f"{place}: nothing is saved; the same command starts from the beginning (--save_steps saves checkpoints on the way)"
