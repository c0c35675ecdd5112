"""What every run script does, from its arguments to a saved model."""

import logging
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from torch.utils.data import IterableDataset

from ..processing.decoding import UnusableRow
from .arguments import RunArguments
from .base import Task
from .data.bad_rows import ADVICE_ON_ROW
from .data.keyed_rows import KeyedRows
from .out_of_memory import is_out_of_memory, told
from .preparation import prepare
from .processes import is_loss_of_another, is_mistake_in_worker, message_of, tell
from .progress import BAR
from .recording import name_of_command
from .report import warnings_of
from .saving import RunStopped
from .signals import GO_ON, Preempted, StopRequests
from .stages import Finished
from .summary import how_to_go_on, summary
from .trainer import RenaissanceTrainer


logger = logging.getLogger(__name__)


def run_task(task_class: type[Task], description: str, argv: list[str] | None = None) -> dict[str, float]:
    """
    Trains, evaluates and predicts, as the command line asks.

    A mistake in the arguments or the data, which is a `ValueError` wherever it is found, ends the process with one line that says what
    to change and the exit code 2. SIGTERM, SIGUSR1 and Ctrl-C end training after its step, with a checkpoint, one line that says how to
    go on, and the exit code 75; a second Ctrl-C ends it at once, with 130.

    Args:
        task_class: The task.
        description: What `--help` says that the script does.
        argv: The command line without the script's name; that of the process by default.

    Returns:
        All metrics of the run.
    """
    trainer = None
    try:
        with ExitStack() as held:
            argv = sys.argv[1:] if argv is None else argv
            requests = held.enter_context(StopRequests())
            trainer, task, data, args = prepare(task_class, description, argv, held, requests)
            with trainer.told_if_it_fails():
                return run(trainer, task, data, args)
    except Finished as finished:
        print(finished)
        return finished.metrics
    except ValueError as error:
        end_with_mistake(error)
    except Preempted as stopped:
        BAR.end()
        if trainer is None or trainer.is_world_process_zero():
            print(f"{stopped} {how_to_go_on(trainer)}", file=sys.stderr)
        traceback.clear_frames(stopped.__traceback__)
        raise SystemExit(GO_ON) from None
    except RunStopped as stopped:
        BAR.end()
        if str(stopped):
            tell(f"{name_of_command(sys.argv)}: error: {stopped}")
        raise SystemExit(stopped.code) from stopped
    except (MemoryError, OSError, RuntimeError) as error:
        if is_mistake_in_worker(error):
            end_with_mistake(error)
        if is_out_of_memory(error):
            BAR.end()
            traceback.clear_frames(error.__traceback__)
            tell(f"{name_of_command(sys.argv)}: error: {told(error, trainer)}")
            raise SystemExit(1) from error
        if not is_loss_of_another(error):
            raise
        BAR.end()
        fault = "another process of the run has ended, of which its own lines or the launcher tell more"
        tell(f"{name_of_command(sys.argv)}: error: {fault}; the same command goes on from where the run stands")
        raise SystemExit(1) from error
    except KeyboardInterrupt as stopped:
        BAR.end()
        if trainer is None or trainer.is_world_process_zero():
            print(f"stopped by Ctrl-C {how_to_go_on(trainer)}", file=sys.stderr)
        # The loaders' workers end with the frames that hold them; later they would complain of a reader that is gone.
        traceback.clear_frames(stopped.__traceback__)
        raise SystemExit(130) from None


def end_with_mistake(error: Exception) -> NoReturn:
    """End the process because of a mistake in the arguments or the data, with one line and the exit code 2. The log has the traceback,
    if it is to have details (`--log_level debug`)."""
    BAR.end()
    logger.debug("where the mistake was found", exc_info=error)
    traceback.clear_frames(error.__traceback__)
    advice = ADVICE_ON_ROW if isinstance(error, UnusableRow) else ""
    tell(f"{name_of_command(sys.argv)}: error: {message_of(error)}{advice}")
    raise SystemExit(2) from error


def run(trainer: RenaissanceTrainer, task: Task, data: dict, args: RunArguments) -> dict[str, float]:
    """Train, evaluate and predict with a trainer that is ready; return all metrics."""
    metrics, predictions, recorder, state = {}, [], trainer.recorder, trainer.run_state
    if args.do_train:
        state.note(args, trained=False, evaluated=False, predicted=False, pushed=False, recorded=False)
    if recorder:
        trainer.write_card = recorder.write
        recorder.begin()
    if args.do_train:
        metrics |= train(trainer, data["train"], args)
    if args.do_eval:
        evaluation = trainer.evaluate()
        report(trainer, "eval", evaluation)
        metrics |= evaluation
        splits = [split for split in task.eval_splits if split in data]
        for split in splits if recorder else ():
            recorder.add_metrics(evaluation, "eval" if len(splits) == 1 else f"eval_{split}", split)
        state.note(args, evaluated=True)
    if args.do_predict:
        for split in task.test_splits:
            found, file = predict(trainer, task, data[split], split)
            metrics |= found
            predictions += [file] if file else []
        state.note(args, predicted=True)
    if recorder:
        recorder.finish()
    state.note(args, recorded=True)
    if recorder:
        start = trainer.model.name_or_path or ""
        print(summary(recorder.record, args, predictions, trainer.options_file, start), flush=True)
    if args.push_to_hub:
        push(trainer)
        state.note(args, pushed=True)
    return metrics


def train(trainer: RenaissanceTrainer, data: KeyedRows | IterableDataset, args: RunArguments) -> dict[str, float]:
    """
    Train, and save the model; return the metrics of training. Raise `Preempted` if the run was asked to stop, when a
    checkpoint or the model is saved.
    """
    if args.resume_from_checkpoint:
        logger.info(f"Resuming from {args.resume_from_checkpoint}")
    with trainer.stop_requests.deferred():
        metrics = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
        if trainer.state.global_step < trainer.state.max_steps:
            trainer.stop_requests.check()
        if not isinstance(data, IterableDataset):
            metrics["train_rows"] = len(data)
        logger.info(f"The model is {chosen_checkpoint(trainer)}")
        trainer.save_model()
        trainer.save_state()
        report(trainer, "train", metrics)
        if trainer.recorder:
            trainer.recorder.end_training(trainer.state, chosen_checkpoint(trainer))
            trainer.recorder.add_metrics(metrics, "train", "train")
        # Last: a run that goes on from here does not make the record of its training again.
        trainer.run_state.note(args, trained=True, step=trainer.state.global_step)
    trainer.stop_requests.check()
    return metrics


def push(trainer: RenaissanceTrainer) -> None:
    """Push the finished run, and say where; if that fails, say in one line where the model is, and exit with code 1."""
    try:
        pushed = trainer.push_to_hub()
        if pushed is not None:
            print(f"pushed to: {pushed.repo_url}", flush=True)
    except ValueError as error:
        left = f"The model is in {trainer.args.output_dir}, whole; the same command pushes it again"
        print(f"{name_of_command(sys.argv)}: error: {error}. {left}", file=sys.stderr)
        raise SystemExit(1) from error


def chosen_checkpoint(trainer: RenaissanceTrainer) -> str:
    """A phrase on the step that the trained model is of, and why."""
    state, args = trainer.state, trainer.args
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return f"that of the last step, {state.global_step}"
    order = "highest" if args.greater_is_better else "lowest"
    step = Path(state.best_model_checkpoint).name.rpartition("-")[2]
    return f"that of step {step} of {state.global_step}, with the {order} {args.metric_for_best_model}, {state.best_metric:.4f}"


def predict(
    trainer: RenaissanceTrainer, task: Task, data: KeyedRows, split: str
) -> tuple[dict[str, float], Path | None]:
    """Predict a split; return its metrics, if it has labels, and the file with its predictions, if this process wrote one."""
    prefix = "test" if len(task.test_splits) == 1 else f"test_{split}"
    prediction = trainer.predict(data, metric_key_prefix=prefix)
    report(trainer, prefix, prediction.metrics)
    if trainer.recorder:
        trainer.recorder.add_metrics(prediction.metrics, prefix, split)
    file = None
    if trainer.is_world_process_zero():
        name = "predictions" if len(task.test_splits) == 1 else f"predictions_{split}"
        with trainer.files_replaced() as staged:
            written = task.write_predictions(prediction.predictions, data.data, staged / name)
        file = written and Path(trainer.args.output_dir) / written.name
    return prediction.metrics, file


def report(trainer: RenaissanceTrainer, name: str, metrics: dict[str, float]) -> None:
    """Save the metrics of a part of a run, and warn of those that say nothing for the model."""
    trainer.save_metrics(name, metrics)
    same = {prefix: answer for prefix, answer in trainer.same_answers.items() if prefix.startswith(name)}
    if trainer.is_world_process_zero():
        for line in warnings_of(metrics, same):
            logger.warning(line)
