"""What the folder of a run still lacks: training, evaluation, predictions, or nothing."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .arguments import ModelArguments, RunArguments, fixed_by_checkpoint
from .checkpoints import newest_first, newest_whole
from .resuming import changed_options
from .run_state import RunState
from .saving import results_in


logger = logging.getLogger(__name__)

#: What each option asks for, and the fields of the state that say that it is done.
STAGES = {"do_eval": "evaluated", "do_predict": "predicted", "push_to_hub": "pushed"}


class Finished(Exception):
    """
    All that was asked for has been done before.

    Attributes:
        metrics: All metrics of the run.
    """

    def __init__(self, folder: Path, state: RunState):
        self.metrics = results_in(folder)
        super().__init__(
            f"{folder} holds the finished run of {state.step:,} steps. More max_steps, num_train_epochs or max_flops train it on, "
            "--do_train false evaluates it again, and another output_dir begins another run."
        )


def what_is_left(model: ModelArguments, args: RunArguments, recipe: dict[str, Any]) -> ModelArguments:
    """
    Leave of `do_train`, `do_eval`, `do_predict` and `push_to_hub` those that the folder of the run still lacks, and return
    the model to begin with: that of the folder if it is trained, else `model`.

    Args:
        model: The model that the user asks for.
        args: The arguments of the run, which are changed.
        recipe: All options of the run, as run.yaml has them.

    Raises:
        Finished: If nothing is left.
        ValueError: If the folder holds a run with other options, or one that cannot go on, or a model of somebody else; if a model
            is to be evaluated and there is none.
    """
    folder = Path(args.output_dir)
    state, weights = RunState.find(folder), holds_weights(folder)
    if state is not None and state.trained and not weights:
        if not newest_first(folder):
            fault = "holds a finished run whose model is gone, and no checkpoints of it"
            raise ValueError(f"output_dir {folder} {fault}; put its files back, or choose another output_dir")
        logger.warning(
            f"{folder} holds a finished run whose model is gone: it is made again from the newest checkpoint"
        )
        state.trained = False
    # Metrics are added to these, hours later.
    results_in(folder)
    if not args.do_train:
        return model if model.model_name_or_path else model_to_evaluate(model, folder, state)
    if state is None and weights and not newest_first(folder):
        fault = "holds a model that no run has trained there, as it has no run_state.json"
        raise ValueError(f"output_dir {folder} {fault}; name it as model_name_or_path, and choose another output_dir")
    if state is None or not state.trained:
        return model
    changed_options(folder, state.options, state.processes, recipe, args)
    if not state.reaches(recipe):
        if not newest_first(folder):
            fault = f"holds a finished run of {state.step:,} steps, which saved no checkpoints to train on from"
            raise ValueError(f"output_dir {folder} {fault}; choose another, and name this one as model_name_or_path")
        return model
    args.do_train = False
    for option, done in STAGES.items():
        setattr(args, option, getattr(args, option) and not getattr(state, done))
    left = [option for option in STAGES if getattr(args, option)]
    if not left and state.recorded:
        raise Finished(folder, state)
    logger.info(f"{folder} is trained: {', '.join(left) or 'the end of its record'} is left to do")
    return trained(model, folder)


def model_to_evaluate(model: ModelArguments, folder: Path, state: RunState | None) -> ModelArguments:
    """
    Return the model that lies in the folder of a run; of an empty folder `model`, with a warning. Raise `ValueError` if there
    was a training that left none.
    """
    # Without a state it was copied there, or downloaded.
    if holds_weights(folder) if state is None else state.trained:
        return trained(model, folder)
    checkpoint = newest_whole(folder)
    if checkpoint is not None:
        logger.warning(f"training in {folder} has not ended: {checkpoint} is evaluated")
        return trained(model, checkpoint)
    if newest_first(folder) or (state is not None and state.options.get("do_train")):
        fault = f"training in output_dir {folder} left no whole checkpoint, and a new model would have random weights"
        raise ValueError(f"do_train false: {fault}; go on with do_train, or name a model in model_name_or_path")
    logger.warning("do_train false, and no model_name_or_path: a new model with random weights is evaluated")
    return model


def holds_weights(folder: Path) -> bool:
    """Return whether a folder holds the weights of a model, beside those in checkpoints."""
    return any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))


def trained(model: ModelArguments, folder: Path) -> ModelArguments:
    """Return the arguments of a model with another start: what a run has trained."""
    new = fixed_by_checkpoint(model.new_model_options) | {"model_name_or_path", "model_revision"}
    kept = {each.name: getattr(model, each.name) for each in dataclasses.fields(model) if each.name not in new}
    return type(model)(model_name_or_path=str(folder), **kept)
