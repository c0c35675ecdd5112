"""What is wrong with the runs of a study, as their commands themselves would say before they read data."""

import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from renaissance_cli.recipe_files import CommandLine, read_recipe, recipe_path, shipped
from renaissance_cli.subcommands import SUBCOMMANDS

from ..modeling.architectures import ARCHITECTURES, Architecture
from ..tasks.ablation import objective_of
from ..tasks.arguments import ModelArguments, argument_classes, fixed_by_checkpoint, new_model_options
from ..tasks.machine import UnfitMachine
from ..tasks.models import require_head, require_trained_head
from ..tasks.parsing import fill_arguments
from ..tasks.pretraining_arguments import PretrainingArguments
from .notes import is_done
from .plan import Run, is_task
from .spec import Study


logger = logging.getLogger(__name__)

#: Options that name what a run reads, with the part of the run that reads it if not all do.
READ = {"dataset": None, "train_datasets": "do_train", "eval_datasets": "do_eval", "train_file": "do_train"}
READ |= {"validation_file": "do_eval", "test_file": "do_predict", "model_name_or_path": None, "model": None}
READ |= dict.fromkeys(("tokenizer", "encoder", "text_encoder", "vision_encoder"))
#: The folders in which recipes that ship have what they read.
OF_RECIPES = ("data/", "demo/", "outputs/")


@dataclass(frozen=True)
class Made:
    """
    What is known of the model that a run will have made.

    Attributes:
        architecture: Its architecture.
        kind: The end of its class name, such as `"ForPreTraining"`.
        objectives: Its objectives of pretraining.
    """

    architecture: Architecture
    kind: str
    objectives: tuple[str, ...]


def check_runs(study: Study, runs: list[Run], run_here: bool = True) -> None:
    """
    Raise `ValueError` if options of a run do not go together, one has no effect, or the model that it starts from cannot do its task. Of
    runs that differ in their seed, one is looked at. If they are not `run_here`, but perhaps on a machine that has what this one
    lacks, the log says what that is.
    """
    looked_at: dict[tuple[str, str], Run] = {}
    for run in filter(is_task, runs):
        looked_at.setdefault((run.stage.name, str(run.variants)), run)
    made: dict[Path, Made] = {}
    for run in looked_at.values():
        try:
            model = model_of(run, made)
        except UnfitMachine as error:
            if run_here:
                raise ValueError(f"study {study.path}: {run.title}: {error}") from error
            logger.warning(f"{run.title}: not for this machine ({error})")
        except ValueError as error:
            raise ValueError(f"study {study.path}: {run.title}: {error}") from error
        else:
            if model is not None:
                made[run.folder] = model


def check_places(study: Study, runs: list[Run], run_here: bool = True) -> None:
    """
    Raise `ValueError` if a run that is not done reads a folder or file which is not there, and which no run makes. Names that the Hub might
    have are not looked at. If the runs are not `run_here`, the log says it.
    """
    missing: dict[str, str] = {}
    for run in runs:
        for option, name in read_by(run) if not is_done(run) else ():
            if not (Path(name).exists() or any(Path(name).is_relative_to(each.folder) for each in run.ancestors())):
                told = "; ~ is not expanded in options" if name.startswith("~") else ""
                fault = f"{run.title}: {option}: no such file or folder {name}, and no stage before it makes it{told}"
                missing.setdefault(name, fault)
    for fault in missing.values():
        if run_here:
            raise ValueError(f"study {study.path}: {fault}")
        logger.warning(f"{fault} (looked for on this machine)")


def read_by(run: Run) -> Iterator[tuple[str, str]]:
    """Yield what a run reads and no name on the Hub can be, by option: absolute paths, and those of recipes that ship."""
    words = run.words[len(run.stage.command) :]
    shipped_one = bool(words) and words[0] in shipped("recipes", ".yaml")
    recipe = read_recipe(recipe_path(words[0])) if shipped_one else {}
    # A recipe's options of a new model are left out if there is a checkpoint.
    left_out = fixed_by_checkpoint(new_model_options()) if run.options.get("model_name_or_path") else ()
    for option, part in READ.items():
        value = run.options.get(option)
        if option in left_out or (part and not run.options.get(part)):
            continue
        for name in value if isinstance(value, list) else [value] if value else []:
            of_recipe = value == recipe.get(option) and name.startswith(OF_RECIPES)
            if of_recipe or name.startswith("~") or Path(name).is_absolute():
                yield option, name


def model_of(run: Run, made: dict[Path, Made]) -> Made | None:
    """
    Return what is known of the model that a run will have made; `None` of one that starts from a checkpoint which the study does not make.

    Args:
        run: The run.
        made: What is known of the models of runs before it, by their folders.

    Raises:
        ValueError: If its options do not go together, or its model cannot do its task.
    """
    module, _, name = SUBCOMMANDS[run.stage.command[0]].target.partition(":")
    task = getattr(importlib.import_module(module), name)
    (model, data, *_, args), _ = fill_arguments(argument_classes(task), CommandLine.read(run.argv[1:]), "")
    start = origin_of(model, made)
    if model.model_name_or_path and start is None:
        return None
    architecture = start.architecture if start else ARCHITECTURES[model.architecture]
    objectives = tuple(
        model.objectives or (start.objectives if start else architecture.config_class.default_objectives)
    )
    architecture.config_class.refuse_objectives(objectives)
    kind = task.kind_for(data)
    named = f"model_name_or_path: {model.model_name_or_path} will be of the" if start else "the"
    require_head(kind, architecture, f"{named} architecture {architecture.name}")
    if start and not args.do_train:
        saved = architecture.models[start.kind].__name__
        require_trained_head(kind, saved, architecture.config_class.fuses, model.model_name_or_path)
    if isinstance(data, PretrainingArguments):
        data.objective_data(objectives)
        if data.ablation:
            objective_of(data.ablation, objectives)
    return Made(architecture, kind, objectives)


def origin_of(model: ModelArguments, made: dict[Path, Any]) -> Made | None:
    """Return what is known of the model that a run starts from, if a run of the study makes it."""
    place = Path(model.model_name_or_path or "")
    return next((found for folder in (place, place.parent) if (found := made.get(folder))), None)
