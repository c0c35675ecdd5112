"""The part of the trainer that saves: a checkpoint has its name only when it is whole and on the disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..hub import first_line
from . import checkpoints
from .arguments import OPTIONS_FILE
from .finite import fault_in_files
from .resuming import engine_of


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


class SavingTrainer(Trainer):
    """
    `Trainer` whose checkpoints are written aside and renamed when they are whole, so that none is ever found half. None has
    values that are not finite. Older ones than `save_total_limit` allows are deleted when a later step has shown that the loss with
    the weights of the newest is finite.
    """

    #: Where a checkpoint is written at the moment.
    _staging: Path | None = None
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
            raise RunStopped(
                f"{place} is not saved: {fault}. {what_is_whole(output)}" if self.args.should_save else ""
            )

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

    def rotate(self) -> None:
        """Delete the checkpoints beyond `save_total_limit`."""
        if self.args.should_save and self._unproven is not None:
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self._unproven = None

    def rotate_if_proven(self, step: int) -> None:
        """Delete the checkpoints beyond `save_total_limit` if the last one was saved before a step whose loss was finite."""
        if self._unproven is not None and self._unproven < step:
            self.rotate()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """`Trainer._save`; a model that is saved in the folder of the run replaces the one there file by file, each whole."""
        output = Path(output_dir or self.args.output_dir)
        if output != Path(self.args.output_dir):
            super()._save(output_dir, state_dict)
            return
        staged = output / checkpoints.STAGING / "model"
        with self.told_if_it_fails(output):
            super()._save(str(staged), state_dict)
            if self.args.should_save:
                if fault := fault_in_files(staged):
                    checkpoints.clear_staging(output)
                    raise RunStopped(f"the model is not saved in {output}: {fault}. {what_is_whole(output)}")
                checkpoints.move_files(staged, output)

    def on_main_process(self, function, *args) -> None:
        """Call a function on the main process when all others have come here, and let them wait until it is done."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            function(*args)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def told_if_it_fails(self, place: Path) -> Iterator[None]:
        """Raise `RunStopped` in one line if the block cannot write to `place`."""
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            if not is_of_the_disk(error):
                raise
            output = Path(self.args.output_dir)
            shutil.rmtree(output / checkpoints.STAGING, ignore_errors=True)
            free = shutil.disk_usage(output).free / 1e6
            why = getattr(error, "strerror", None) or first_line(error).rstrip(".")
            fault = f"{place} could not be saved: {why}; {free:,.0f} MB are free there"
            raise RunStopped(f"{fault}. {what_is_whole(output)}") from error


def what_is_whole(output_dir: Path) -> str:
    """Return a phrase on what a run that ends now can go on from."""
    whole = checkpoints.newest_whole(output_dir)
    return f"{whole} is whole, and the same command goes on from there" if whole else "no checkpoint is whole"


def is_of_the_disk(error: Exception) -> bool:
    """Return whether an error says that a file could not be written, of which torch tells by a `RuntimeError`."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EACCES)
    told = str(error)
    return os.strerror(errno.ENOSPC) in told or "PytorchStreamWriter" in told or "unexpected pos" in told
