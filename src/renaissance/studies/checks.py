"""What is wrong with the runs of a study, as their commands themselves would say before they read data."""

import importlib
import logging

from renaissance_cli.recipe_files import CommandLine
from renaissance_cli.subcommands import SUBCOMMANDS

from ..modeling.objectives import DEFAULT_OBJECTIVES
from ..tasks.arguments import argument_classes
from ..tasks.machine import UnfitMachine
from ..tasks.parsing import fill_arguments
from ..tasks.pretraining import PretrainingArguments
from .plan import Run, is_task
from .spec import Study


logger = logging.getLogger(__name__)


def check_runs(study: Study, runs: list[Run], run_here: bool = True) -> None:
    """
    Raise `ValueError` if options of a run do not go together, or one has no effect. Of runs that differ in their seed, one is looked at.
    If they are not `run_here`, but perhaps on a machine that has what this one lacks, the log says what that is.
    """
    looked_at: dict[tuple[str, str], Run] = {}
    for run in filter(is_task, runs):
        looked_at.setdefault((run.stage.name, str(run.variants)), run)
    for run in looked_at.values():
        module, _, name = SUBCOMMANDS[run.stage.command[0]].target.partition(":")
        task = getattr(importlib.import_module(module), name)
        try:
            (model, data, *_), _ = fill_arguments(argument_classes(task), CommandLine.read(run.argv[1:]), "")
            if isinstance(data, PretrainingArguments) and not model.model_name_or_path:
                # Of a checkpoint, its configuration has them.
                data.objective_data(model.objectives or DEFAULT_OBJECTIVES)
        except UnfitMachine as error:
            if run_here:
                raise ValueError(f"study {study.path}: {run.title}: {error}") from error
            logger.warning(f"{run.title}: not for this machine ({error})")
        except ValueError as error:
            raise ValueError(f"study {study.path}: {run.title}: {error}") from error
