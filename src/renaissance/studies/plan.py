"""The runs of a study: which there are, what each starts from, and the command that makes it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from renaissance_cli.dispatch import descend
from renaissance_cli.mistakes import nearest, refuse_unknown
from renaissance_cli.recipe_files import CommandLine, read_recipe, recipe_path
from renaissance_cli.subcommands import SUBCOMMANDS
from renaissance_cli.table import flags_of, options_of, parser_of, read_tables, with_shared

from ..modeling.architectures import ARCHITECTURES
from ..modeling.modeling_renaissance import expand_parts
from ..tasks.arguments import fixed_by_checkpoint, new_model_options
from .baselines import Baseline
from .spec import Stage, Study


#: A value that is the folder of another stage's run, or lies in it.
REFERENCE = re.compile(r"\{([\w-]+)\}")
#: Options with names in braces of their own.
OWN_BRACES = ("image_name",)
#: Options whose values have no order.
UNORDERED = ("freeze", "objectives")
#: Letters that a run's name may have.
UNUSUAL = re.compile(r"[^A-Za-z0-9.+=-]+")
#: Digits of a digest that tell the runs of a study apart.
DIGITS = 10


@dataclass
class Run:
    """
    A run of a study. Several variants share it if its options, and those of the runs before it, are theirs.

    Attributes:
        stage: Its stage.
        key: A digest of its options and of the runs that it starts from.
        deed: The same of runs that do the same, though their options are written in another way.
        name: A name that tells where on the axes it is, which ends in the key.
        words: The words of its command behind `renaissance`, but for the folder that it writes.
        options: All its options, those of the recipe included, as their types are.
        before: The runs whose folders its options name.
        seed: Its seed; `None` if it has none of its own.
        folder: The folder that it writes.
        output: The option that names this folder.
        variants: The labels, by axis, of the variants that have it.
    """

    stage: Stage
    key: str
    deed: str
    name: str
    words: list[str]
    options: dict[str, Any]
    before: list["Run"]
    seed: int | None
    folder: Path
    output: str
    variants: list[dict[str, str]] = field(default_factory=list)

    @property
    def argv(self) -> list[str]:
        """The words of its command behind `renaissance`."""
        return [*self.words, f"--{self.output}", str(self.folder)]

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.stage.name} {self.name.rpartition('-')[0]}".strip()

    def ancestors(self) -> Iterator["Run"]:
        """Yield the runs that it needs, the first ones first."""
        for run in self.before:
            yield from run.ancestors()
            yield run


def runs_of(study: Study) -> list[Run]:
    """
    Return the runs of a study, those first that others start from. Nothing is read but recipes.

    Raises:
        ValueError: If an option is unknown to its command or has a wrong value, a value of an axis changes nothing, two variants are
            the same runs or have the same name, or no variant has a run.
    """
    refuse_same_titles(study)
    found: dict[str, Run] = {}
    seen: dict[tuple[str, ...], dict[str, str]] = {}
    for labels in study.variants():
        deeds = []
        for seed in study.seeds or (None,):
            made: dict[str, Run] = {}
            for stage in study.stages.values():
                run = run_of(study, stage, labels, seed, made)
                if run is not None:
                    made[stage.name] = run = found.setdefault(run.key, run)
                    if labels not in run.variants:
                        run.variants.append(labels)
                    deeds.append(run.deed)
        if (other := seen.setdefault(tuple(deeds), labels)) is not labels:
            raise ValueError(
                f"study {study.path}: the variants {title_of(other)} and {title_of(labels)} are the same runs; leave out one"
            )
    if not found:
        raise ValueError(
            f"study {study.path}: axes: no variant has a run, for all their stages are null; leave a stage in"
        )
    return list(found.values())


def title_of(labels: dict[str, str]) -> str:
    """Return how a variant is called."""
    return ", ".join(labels.values())


def row_title(variant: str, baseline: Baseline | None) -> str:
    """Return how a table calls a variant, or a baseline of it."""
    return variant if baseline is None else f"{variant} ({baseline.title})"


def refuse_same_titles(study: Study) -> None:
    """Raise `ValueError` if two variants, or baselines of variants, would be one row of a table."""
    kinds = list({stage.baseline: None for stage in study.stages.values()})
    known: dict[str, dict[str, str]] = {}
    for labels in study.variants():
        for kind in kinds:
            title = row_title(title_of(labels) or "all", kind)
            if (other := known.setdefault(title, labels)) is not labels:
                told = " and ".join(
                    " with ".join(f"{axis}: {label}" for axis, label in each.items()) for each in (other, labels)
                )
                raise ValueError(f"study {study.path}: axes: {told} would both be called {title!r}; rename a label")


def run_of(study: Study, stage: Stage, labels: dict[str, str], seed: int | None, made: dict[str, Run]) -> Run | None:
    """Return the run of a stage for a variant and a seed; `None` if the variant has none there. `made` are its runs before that."""
    asked = options_at(study, stage, labels)
    if asked is None:
        return None
    recipe, options = asked
    if stage.seeds and seed is not None:
        options["seed"] = str(seed)
    named = [name for name in dict.fromkeys(REFERENCE.findall(json.dumps(options))) if name in study.stages]
    place = f"study {study.path}: stages: {stage.name}" + (f" ({title_of(labels)})" if labels else "")
    texts = json.dumps({name: value for name, value in options.items() if name not in OWN_BRACES})
    if unknown := [name for name in REFERENCE.findall(texts) if name not in study.stages]:
        told = f"no stage {unknown[0]}{nearest(unknown[0], study.stages)} expected any of {', '.join(study.stages)}"
        raise ValueError(f"{place}: {{{unknown[0]}}}: {told}")
    if any(name not in made for name in named):
        absent = next(name for name in named if name not in made)
        if list(study.stages).index(absent) >= list(study.stages).index(stage.name):
            raise ValueError(f"study {study.path}: stages: {stage.name}: {absent} comes after it; move it up")
        return None
    before = [made[name] for name in named]
    try:
        typed, output = parsed(stage.command, recipe, options)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if stage.of and not made[stage.of].options.get("do_train"):
        raise ValueError(f"{place}: {stage.of} trains nothing (do_train), and has no baselines; leave them out")
    if stage.of and typed.get("push_to_hub"):
        raise ValueError(f"{place}: push_to_hub would push models that lack an input; leave it or the baselines out")
    key = key_of(stage.command, replaced(typed, {run.stage.name: run.key for run in before}))
    deed = key_of(stage.command, replaced(normalised(typed), {run.stage.name: run.deed for run in before}))
    name = name_of(study, stage, labels, seed, before, key)
    folder = folder_of(study.output_dir / stage.name, name)
    places = {run.stage.name: str(run.folder) for run in before}
    words = [*stage.command, *([recipe] if recipe else []), *CommandLine([], replaced(options, places)).words]
    return Run(stage, key, deed, name, words, replaced(typed, places), before, seed, folder, output)


def options_at(study: Study, stage: Stage, labels: dict[str, str]) -> tuple[str | None, dict[str, Any]] | None:
    """Return the recipe of a stage and its options for a variant, as they are written; `None` if the variant has no run there."""
    recipe, options = stage.recipe, dict(stage.options)
    if stage.of is not None:
        asked = options_at(study, study.stages[stage.of], labels)
        if asked is None:
            return None
        recipe, inherited = asked
        # Those of a new model mean nothing to the stage's own one, which is evaluated.
        fixed = set() if stage.baseline.trains else fixed_by_checkpoint(new_model_options())
        options = {name: value for name, value in inherited.items() if name not in fixed} | options
    for axis, label in labels.items():
        point = study.axes[axis][label].get(stage.name, {})
        if point is None:
            return None
        point = dict(point)
        recipe = point.pop("recipe", recipe)
        options |= point
    return recipe, options


def parsed(command: tuple[str, ...], recipe: str | None, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """
    Return the options of a run as their types are, and the name of the option that says where it writes. Raise `ValueError` if one is
    unknown or has a wrong value.
    """
    tables = read_tables()
    table, rest = with_shared(tables["subcommands"][command[0]], tables["shared"]), list(command[1:])
    prog = f"renaissance {command[0]}"
    while "subcommands" in table:
        if not rest:
            raise ValueError(
                f"command: expected one of {', '.join(f'{prog} {each}' for each in table['subcommands'])}"
            )
        table, prog, rest = descend(table, prog, rest)
    line = CommandLine([], options, None)
    if recipe:
        path = recipe_path(recipe)
        CommandLine([], read_recipe(path), path).check(options_of(table))
        line = CommandLine(line.words, read_recipe(path), path)
    known = {option["name"] for option in options_of(table)}
    output = next((name for name in ("output_dir", "output") if name in known), None)
    if output is None:
        raise ValueError(f"`{prog}` writes no folder, and is no stage")
    if output in options:
        raise ValueError(f"{output}: the study chooses it; leave it out")
    if secret := {"token", "hub_token"} & options.keys():
        raise ValueError(f"{min(secret)}: commands are written to files; set HF_TOKEN in the environment")
    # What the command requires is given later.
    parser = parser_of(table, prog)
    for action in parser._actions:
        action.required = action.required and action.dest != output
    namespace, unknown = parser.parse_known_args([*rest, *line.words])
    refuse_unknown(unknown, flags_of(table))
    typed = {name: value for name, value in vars(namespace).items() if name != output}
    return typed, output


def replaced(value: Any, by_stage: dict[str, str]) -> Any:
    """Return a value in which each reference to a stage is replaced."""
    if isinstance(value, dict):
        return {name: replaced(each, by_stage) for name, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, by_stage) for each in value]
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: by_stage.get(match[1], match[0]), value)
    return value


def normalised(options: dict[str, Any]) -> dict[str, Any]:
    """
    Return options in which what means the same is written alike. Keys are of the options as they are: with others, runs that are done
    would not be found.
    """
    found = dict(options)
    architecture = ARCHITECTURES.get(str(options.get("architecture")))
    if architecture and not options.get("model_name_or_path"):
        found["objectives"] = options.get("objectives") or list(architecture.config_class.default_objectives)
    if isinstance(options.get("freeze"), list):
        found["freeze"] = expand_parts(tuple(options["freeze"]))
    return found | {name: sorted(set(found[name])) for name in UNORDERED if isinstance(found.get(name), list)}


def key_of(command: tuple[str, ...], options: dict[str, Any]) -> str:
    """Return a digest of a command and its options."""
    content = json.dumps([command, options], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGITS]


def name_of(study: Study, stage: Stage, labels: dict[str, str], seed: int | None, before: list[Run], key: str) -> str:
    """Return the name of a run: the labels of the axes that it or a run before it depends on, the seed and the key."""
    stages = [stage.name, *(run.stage.name for each in before for run in (*each.ancestors(), each))]
    axes = [axis for axis in study.axes if any(axis in study.axes_of(each) for each in stages)]
    parts = [UNUSUAL.sub("_", labels[axis])[:40] for axis in axes]
    if stage.seeds and seed is not None:
        parts.append(f"seed{seed}")
    return "-".join([*parts, key])


def folder_of(parent: Path, name: str) -> Path:
    """Return the folder of a run: one with its key that is there, whatever its labels were called then, or a new one."""
    key = name.rpartition("-")[2]
    there = [path for path in sorted(parent.glob(f"*{key}")) if path.is_dir()]
    return there[0] if there else parent / name


def is_task(run: Run) -> bool:
    """Return whether a run trains, evaluates and predicts."""
    return SUBCOMMANDS[run.stage.command[0]].is_task
