"""The summary at the end of a run: the training, its results, where the files are, and the next command."""

import os
import shlex
import sys
from pathlib import Path

from tqdm.auto import tqdm

from ..modeling.architectures import ARCHITECTURES
from .arguments import RunArguments
from .data.bad_rows import REPORT
from .precision import NAMES
from .report import aligned, result_table
from .run_record import FILE_NAME, RunRecord
from .trainer import RenaissanceTrainer


#: The script that a pretrained model is finetuned with first, and its recipe, and the same as words of the command.
FINETUNING = ("run_nlvr2.py", "recipes/nlvr2.yaml"), ("nlvr2", "nlvr2")
#: The same for models that fuse no text with an image.
WITHOUT_FUSING = (
    ("run_retrieval.py", "recipes/retrieval_coco_dual_encoder.yaml"),
    ("retrieval", "retrieval_coco_dual_encoder"),
)


def summary(record: RunRecord, args: RunArguments, predictions: list[Path], options: Path, start: str) -> str:
    """
    Return what the main process prints at the end of a run, in lines.

    Args:
        record: The record of the run.
        args: Its arguments.
        predictions: The files with predictions.
        options: The file with the options of the run.
        start: The checkpoint that it started from; empty if there was none.
    """
    folder, facts = Path(args.output_dir), {}
    model = f"{record.model_class}, {record.parameters / 1e6:.2f}M parameters"
    if args.do_train:
        facts["trained"] = f"{model}; {training_facts(record)}"
        facts["the model is"] = record.checkpoint
    else:
        source = f"{start or 'new, random weights'}, {NAMES[args.precision]}"
        said = "evaluated" if args.do_eval else "predicted with" if args.do_predict else "model"
        facts[said] = f"{model}; {source}"
    if removed := record.options.get("remove_input"):
        facts["removed"] = f"the {removed} of all rows"
    first = len(facts)
    facts["time"] = tqdm.format_interval(record.duration_seconds) + (
        f", of which training {tqdm.format_interval(record.train_seconds)}" if args.do_train else ""
    )
    facts["memory"] = memory_facts(record)
    train = record.of_split("train")
    if args.do_train and train and train.bad_rows:
        facts["bad rows"] = f"{train.bad_rows:,} were skipped; {folder / REPORT} lists them"
    if args.do_train:
        facts |= {"saved in": str(folder), "card": str(folder / "README.md")}
    if predictions:
        facts["predictions"] = ", ".join(map(str, predictions))
    facts |= {"record": str(folder / FILE_NAME), "options": str(options)}
    facts["next"] = next_command(record, args, start)
    lines = aligned([(f"{name}:", fact) for name, fact in facts.items()])
    # A record may have metrics of earlier runs in the folder.
    parts = tuple(part for part, wanted in (("eval_", args.do_eval), ("test_", args.do_predict)) if wanted)
    shown = [each for each in record.metrics if parts and each.name.startswith(parts)]
    table = ["", *aligned(result_table(shown)), ""] if shown else []
    return "\n".join(["", *lines[:first], *table, *lines[first:]])


def training_facts(record: RunRecord) -> str:
    """Return a phrase on what a training took in."""
    train = record.of_split("train")
    rows = f"{train.rows:,} rows, " if train and train.rows is not None else ""
    steps = f"{record.steps:,} steps of {record.batch_size:,}, {record.epochs:.3g} epochs"
    losses = [f", mean loss {each.value:.4g}" for each in record.metrics if each.name == "train_loss"]
    skipped = f", {record.skipped_steps:,} of them not applied (not finite)" if record.skipped_steps else ""
    return f"{rows}{steps}{skipped}{''.join(losses)}, {NAMES[record.precision]}"


def memory_facts(record: RunRecord) -> str:
    """Return a phrase on the most memory that the main process has taken, and its tensors on a GPU."""
    peaks = {"": record.peak_memory_bytes, " on the GPU": record.peak_gpu_memory_bytes}
    facts = [f"at most {peak / 1e9:.2f} GB{place}" for place, peak in peaks.items() if peak is not None]
    return ", and ".join(facts) or "not known on this system"


def next_command(record: RunRecord, args: RunArguments, start: str) -> str:
    """Return the command that follows a run: evaluate its model, finetune it, or predict files of one's own with it."""
    checkpoint = ["--model_name_or_path", args.output_dir if args.do_train else start or "CHECKPOINT"]
    if args.do_train and not args.do_eval:
        return shlex.join(evaluation_command(args.output_dir))
    if record.model_class.endswith("ForPreTraining"):
        known = {each.config_class.model_type: each.config_class for each in ARCHITECTURES.values()}
        fuses = getattr(known.get(record.model_type), "fuses", True)
        command, task = finetuning_command(fuses), (FINETUNING if fuses else WITHOUT_FUSING)[1][0]
        return shlex.join([*command, *checkpoint, "--output_dir", f"{args.output_dir}-{task}"])
    predicted = ["--do_predict", "--test_file", "FILE", "--output_dir", f"{args.output_dir}-predictions"]
    return shlex.join([*this_command(), *checkpoint, *predicted])


def evaluation_command(folder: str) -> list[str]:
    """Return the command that evaluates the model of a training in `folder` on the same data."""
    repeated = [str(Path(folder) / "run.yaml"), "--model_name_or_path", folder, "--output_dir", f"{folder}-evaluation"]
    return [*this_command(), *repeated, "--do_train", "false", "--do_eval", "true"]


def this_command() -> list[str]:
    """Return how this script was started, or the command `renaissance` and its subcommand, without options."""
    script = Path(sys.argv[0])
    return ["python", sys.argv[0]] if script.name.startswith("run_") else ["renaissance", *sys.argv[1:2]]


def finetuning_command(fuses: bool = True) -> list[str]:
    """Return how to finetune a model that fuses texts with images, or does not, in the way this script was started."""
    own, (files, words) = this_command(), FINETUNING if fuses else WITHOUT_FUSING
    if own[0] == "renaissance":
        return ["renaissance", *words]
    return ["python", *(os.path.join(os.path.dirname(own[1]), file) for file in files)]


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
    if checkpoint := trainer.last_checkpoint:
        return f"{place}: {checkpoint} is saved; the same command goes on from there"
    return f"{place}: nothing is saved; the same command starts from the beginning (--save_steps saves checkpoints on the way)"
