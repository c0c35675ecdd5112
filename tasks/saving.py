"""The part of the trainer that saves: a checkpoint has its name only when it is whole and on the disk."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from . import checkpoints
from .arguments import OPTIONS_FILE
from .finite import fault_in_files
from .folder_files import read_mapping
from .precision_trainer import PrecisionTrainer
from .resuming import best_beside, engine_of
from .run_record import finite
from .run_state import RunState


#: Errors of writing whose cause is outside the program.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


#: The metrics of all parts of a run, in its folder.
ALL_RESULTS = "all_results.json"


class RunStopped(Exception):
    """
    A run ends before its end, for a reason outside the program, and the user is told in one line. Of several processes that end
    for the same reason one has the line, and the others nothing.

    Attributes:
        code: The exit code of the process.
    """

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class SavingTrainer(PrecisionTrainer):
    """
    `Trainer` whose checkpoints are written aside and renamed when they are whole, so that none is ever found half. None has
    values that are not finite. Older ones than `save_total_limit` allows are deleted when a later step has shown that the loss with
    the weights of the newest is finite.
    """

    #: How far the run has come; the runner sets it.
    run_state: RunState | None = None
    #: Where a checkpoint is written at the moment.
    _staging: Path | None = None
    #: The checkpoint that was saved last, or that the run was resumed from; it is whole.
    last_checkpoint: Path | None = None
    #: The step of a checkpoint beside which older ones are still kept.
    _unproven: int | None = None

    def _get_output_dir(self, trial) -> str:
        """`Trainer._get_output_dir`; while a checkpoint is written, the folder for that."""
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model, trial) -> None:
        """`Trainer._save_checkpoint`, in a folder of its own, which is renamed when all of it is on the disk."""
        output = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = output / checkpoints.STAGING / name
        self.on_main_process(checkpoints.clear_staging, output)
        with self.told_if_it_fails(output / name):
            self._staging = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.refuse_not_finite(staged, output / name)
            self.on_main_process(self.commit_checkpoint, staged, output / name)
        self._unproven = self.state.global_step

    def refuse_not_finite(self, staged: Path, place: Path) -> None:
        """Raise `RunStopped` on all processes if what the main process has written in a folder has values that are not finite."""
        fault = broadcast_object_list([fault_in_files(staged) if self.args.should_save else None])[0]
        if fault:
            output = Path(self.args.output_dir)
            self.on_main_process(checkpoints.clear_staging, output)
            raise RunStopped(f"{place} is not saved: {fault}. {self.what_is_saved()}" if self.args.should_save else "")

    def commit_checkpoint(self, staged: Path, final: Path) -> None:
        """Finish a checkpoint that all processes have written, and give it its name."""
        best = final.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if self.state.best_global_step and (best.is_dir() or best == final):
            # Trainer looked for it where this one was written.
            self.state.best_model_checkpoint = str(best)
        self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
        if (recipe := final.parent / OPTIONS_FILE).is_file():
            shutil.copy(recipe, staged)
        checkpoints.commit(
            staged,
            final,
            step=self.state.global_step,
            engine=engine_of(self.args),
            processes=self.args.world_size,
            scaled=getattr(self.accelerator, "scaler", None) is not None,
            weights_only=self.args.save_only_model,
        )
        self.last_checkpoint = final

    def delete_older(self, newest: Path) -> None:
        """Delete the checkpoints that `save_total_limit` leaves no room for beside the newest and the best one."""
        best = self.state.best_model_checkpoint
        checkpoints.delete_older(newest, self.args.save_total_limit, best and Path(best))

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume_from_checkpoint: str | None, trial
    ) -> tuple[int, int]:
        """
        `Trainer._init_training_state`, which finds the best checkpoint also if the folder of the run has moved, and trains no
        further if the checkpoint is of the last step.
        """
        begun = super()._init_training_state(max_steps, steps_per_epoch, epochs, resume_from_checkpoint, trial)
        if not resume_from_checkpoint:
            return begun
        self.last_checkpoint = Path(resume_from_checkpoint)
        if (best := best_beside(self.last_checkpoint)) is not None and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self.state.global_step < max_steps:
            return begun
        if self.args.should_save and self.last_checkpoint.parent.resolve() == Path(self.args.output_dir).resolve():
            # The run may have ended before it did.
            self.delete_older(self.last_checkpoint)
        # Trainer looks at the number of steps only after a step.
        return epochs, 0

    def _load_best_model(self) -> None:
        """`Trainer._load_best_model`; raises `RunStopped` if the files of the best checkpoint are not as they were saved."""
        best = Path(self.state.best_model_checkpoint)
        if fault := checkpoints.fault_of(best):
            raise RunStopped(
                f"load_best_model_at_end: {best} is the best checkpoint, and is not whole: {fault}. To take the weights of the "
                "last step, repeat the command with --load_best_model_at_end false"
            )
        super()._load_best_model()

    def _finalize_training(self, *args, **kwargs) -> TrainOutput:
        """`Trainer._finalize_training`, which leaves the last checkpoint beside the best one: a longer training goes on from there."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def rotate(self) -> None:
        """Delete the checkpoints beyond `save_total_limit`."""
        if self.args.should_save and self._unproven is not None:
            self.delete_older(self.last_checkpoint)
        self._unproven = None

    def rotate_if_proven(self, step: int) -> None:
        """Delete the checkpoints beyond `save_total_limit` if the last one was saved before a step whose loss was finite."""
        if self._unproven is not None and self._unproven < step:
            self.rotate()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """`Trainer._save`; a model that is saved in the folder of the run replaces the one there file by file, each whole."""
        output = Path(output_dir or self.args.output_dir)
        if output != Path(self.args.output_dir) or not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        staged = output / checkpoints.STAGING / "model"
        # A save that was cut off may have left files there. A process that comes later must not take away what this one writes.
        if self.args.should_save:
            checkpoints.clear_staging(output)
        with self.told_if_it_fails(output):
            super()._save(str(staged), state_dict)
            if fault := fault_in_files(staged):
                checkpoints.clear_staging(output)
                raise RunStopped(f"the model is not saved in {output}: {fault}. {self.what_is_saved()}")
            checkpoints.move_files(staged, output)

    def save_state(self) -> None:
        """`Trainer.save_state`, whose file is replaced as a whole."""
        if self.args.should_save:
            with self.files_replaced() as staged:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))

    @contextmanager
    def files_replaced(self) -> Iterator[Path]:
        """Yield a folder; the files that the block writes there are moved into the folder of the run, when they are on the disk."""
        output = Path(self.args.output_dir)
        staged = output / checkpoints.STAGING / "files"
        with self.told_if_it_fails(output):
            checkpoints.clear_staging(output)
            staged.mkdir(parents=True)
            yield staged
            checkpoints.move_files(staged, output)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """`Trainer.save_metrics` in the order of the metrics, so that each is beside its baseline; files are replaced as a whole."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        write_json(folder / f"{split}_results.json", metrics)
        if combined:
            kept = {name: value for name, value in results_in(folder).items() if name not in metrics}
            write_json(folder / ALL_RESULTS, kept | metrics)

    def on_main_process(self, function, *args) -> None:
        """Call a function on the main process when all others have come here, and let them wait until it is done."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            function(*args)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def told_if_it_fails(self, place: Path | None = None) -> Iterator[None]:
        """
        Raise `RunStopped` in one line if the block cannot write to `place`; without one, to a file in the folder of the run that
        the error names.
        """
        output = Path(self.args.output_dir)
        try:
            yield
        except Exception as error:
            if (fault := fault_of_disk(error, output, place)) is None:
                raise
            if self.args.should_save:
                checkpoints.clear_staging(output)
            raise RunStopped(f"{fault}. {self.what_is_saved()}") from error

    def what_is_saved(self) -> str:
        """Return a sentence, without its full stop, on where the same command goes on."""
        if self.run_state is not None and self.run_state.trained:
            return f"The trained model is whole in {self.args.output_dir}, and the same command does the rest"
        if self.last_checkpoint is not None:
            return f"{self.last_checkpoint} is whole, and the same command goes on from there"
        return "No checkpoint is saved yet; the same command starts from the beginning"


def results_in(folder: Path) -> dict[str, float]:
    """Return all metrics of the run in a folder; raise `ValueError` if their file is broken."""
    path = folder / ALL_RESULTS
    try:
        return read_mapping(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"{path}: not the metrics of a run ({error}); delete it, and --do_eval makes them anew"
        ) from error


@contextmanager
def told_of_disk(output: Path) -> Iterator[None]:
    """Raise `RunStopped` in one line if the block cannot write to a file in the folder of a run that the error names."""
    try:
        yield
    except OSError as error:
        if (fault := fault_of_disk(error, output)) is None:
            raise
        raise RunStopped(fault) from error


def fault_of_disk(error: Exception, output: Path, place: Path | None = None) -> str | None:
    """
    Return in words that `place`, or else the file in the folder of a run that an error names, could not be written; `None` if the
    error says something else. Errors of tokenizers are of no class of their own.
    """
    place = place or named_file(error, output)
    if place is None or isinstance(error, RunStopped) or not is_of_the_disk(error):
        return None
    free = shutil.disk_usage(output).free / 1e6
    return f"{place} could not be saved: {reason_of(error)}; {free:,.0f} MB are free there"


def reason_of(error: Exception) -> str:
    """Return in words why a file could not be written, which torch wraps in words of its own, or does not know."""
    told = [error.strerror or str(error)] if isinstance(error, OSError) else []
    told += [os.strerror(number) for number in OF_THE_DISK if os.strerror(number) in str(error)]
    return told[0] if told else "a write failed, as on a full disk"


def named_file(error: Exception, folder: Path) -> Path | None:
    """Return the file in a folder of which an error tells; `None` if it tells of none there."""
    path = Path(os.path.abspath(name)) if isinstance(name := getattr(error, "filename", None), str) else None
    return path if path is not None and path.is_relative_to(os.path.abspath(folder)) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as JSON, an entry a line, in its order; the file is replaced as a whole. Numbers that are not finite become null."""
    checkpoints.replace_file(path, json.dumps(finite(content), indent=4, allow_nan=False) + "\n")


def is_of_the_disk(error: Exception) -> bool:
    """Return whether an error says that a file could not be written, of which torch and the Rust libraries tell in words alone."""
    if isinstance(error, OSError):
        return error.errno in OF_THE_DISK
    told = str(error)
    marks = ("PytorchStreamWriter", "inline_container.cc", "iostream error", *map(os.strerror, OF_THE_DISK))
    return any(mark in told for mark in marks)
