"""
The file of a study: stages, each a command with its options, and axes, along which the options differ.

    output_dir: outputs/objectives
    seeds: [1, 2, 3]
    stages:
      pretraining:
        command: pretrain
        recipe: pretrain_shapes_two_tower
      nlvr2:
        command: nlvr2
        recipe: nlvr2_shapes
        from: pretraining
    axes:
      objectives:
        mlm: {pretraining: {objectives: [mlm]}}
        itm: {pretraining: {objectives: [itm]}}
      nlvr2.learning_rate: [1.0e-4, 1.0e-3]

Values of options stay as they are written, as in a recipe. `{pretraining}` in a value is the folder of that stage's run.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from renaissance_cli.mistakes import nearest
from renaissance_cli.recipe_files import RecipeLoader, shipped
from renaissance_cli.subcommands import SUBCOMMANDS
from renaissance_cli.table import options_of, read_tables, with_shared

from ..tasks.checkpoints import replace_file
from .baselines import BASELINES, Baseline


#: What a file and a stage may have.
OF_STUDY = ("output_dir", "seeds", "stages", "axes")
OF_STAGE = ("command", "recipe", "from", "options", "seeds", "baselines")
#: The copy of its file in the folder of a study, by which the folder is one.
COPY = "study.yaml"
#: Options of a stage along an axis, by stage; `None` if the stage has no run there.
Point = dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Stage:
    """
    A step of a study.

    Attributes:
        name: Its name.
        command: The words of its command behind `renaissance`.
        recipe: Name or file of the recipe that its options come from first.
        options: Options that win over those of the recipe.
        seeds: Whether it has a run for each seed of the study.
        of: The stage whose baseline it is, whose options it has too; `None` if it is none.
        baseline: The kind of baseline.
    """

    name: str
    command: tuple[str, ...]
    recipe: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seeds: bool = True
    of: str | None = None
    baseline: Baseline | None = None

    def with_baseline(self, kind: str) -> "Stage":
        """Return the stage with the runs of one of `BASELINES`, whose options win over those of this one."""
        baseline = BASELINES[kind]
        options: dict[str, Any] = {"remove_input": baseline.removed}
        if not baseline.trains:
            options |= {"do_train": "false", "model_name_or_path": f"{{{self.name}}}"}
        return Stage(f"{self.name}_{kind}", self.command, self.recipe, options, self.seeds, self.name, baseline)


@dataclass(frozen=True)
class Study:
    """
    A study, as its file describes it.

    Attributes:
        path: The file.
        output_dir: The folder of all that it makes.
        stages: Its stages by name; one refers only to those before it.
        axes: What differs, by the name of the axis and the label of the value.
        seeds: The seeds of its runs; none if those of the recipes are taken.
    """

    path: Path
    output_dir: Path
    stages: dict[str, Stage]
    axes: dict[str, dict[str, Point]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    @classmethod
    def read(cls, name: str) -> "Study":
        """
        Read the study in a file, in the folder that a study has written, or of that name among those that ship; raise `ValueError` if it
        is none. The runs of a study in a folder are those of the folder, wherever it lies by now.
        """
        path = study_path(name)
        try:
            study = Reader(path).study()
            return replace(study, output_dir=path.parent) if Path(name).is_dir() else study
        except UnicodeDecodeError as error:
            raise ValueError(f"study {path}: expected a text file of YAML in UTF-8 ({error})") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"study {path}: {' '.join(str(error).split())}") from error
        except OSError as error:
            raise ValueError(f"study {path}: cannot be read ({error.strerror})") from error

    @property
    def name(self) -> str:
        """How pages call it: as its file, or as its folder if that is all there is."""
        return self.path.stem if self.path.name != COPY else self.path.parent.resolve().name

    def keep_copy(self) -> None:
        """Write the file into the folder of the study, so that the folder alone tells which runs it should have."""
        copy, text = self.output_dir / COPY, self.path.read_text(encoding="utf-8")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        # The jobs of an array begin at the same time.
        with FileLock(copy.with_name(f".{COPY}.lock")):
            if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
                replace_file(copy, text)

    def variants(self) -> Iterator[dict[str, str]]:
        """Yield every combination of labels, by axis."""
        for labels in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, labels, strict=True))

    def of_seeds(self, wanted: list[int] | None) -> "Study":
        """Return the study with some of its seeds only; with all if `wanted` is `None`. Raise `ValueError` if it lacks one."""
        if wanted is None:
            return self
        if absent := [seed for seed in wanted if seed not in self.seeds]:
            told = f"expected any of {', '.join(map(str, self.seeds))}" if self.seeds else "it names none"
            raise ValueError(f"seeds: study {self.path} has no seed {absent[0]}; {told}")
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed in wanted))

    def axes_of(self, stage: str) -> list[str]:
        """Return the axes along which the runs of a stage differ by options of its own, or of the stage whose baseline it is."""
        own = {stage, self.stages[stage].of}
        return [axis for axis, points in self.axes.items() if any(own & point.keys() for point in points.values())]


def study_path(name: str) -> Path:
    """Return the file of a study: of a path, of a folder with one, or that ships; raise `ValueError` if there is none."""
    if Path(name).is_file():
        return Path(name)
    if is_study_folder(Path(name)):
        return Path(name) / COPY
    if Path(name).is_dir():
        raise ValueError(f"study {name}: no such file as {COPY} in this folder")
    known = shipped("studies", ".yaml")
    stem = name.removesuffix(".yaml")
    if stem not in known:
        told = f" those that ship are {', '.join(known)}" if known else ""
        raise ValueError(f"study {name}: no such file or folder{nearest(stem, known)}{told}")
    return known[stem]


def is_study_folder(folder: Path) -> bool:
    """Return whether a study has written a folder."""
    return (folder / COPY).is_file()


class Reader:
    """Reads the file of a study. Each mistake is a `ValueError` that names the place in it."""

    def __init__(self, path: Path):
        self.path = path
        self.loader = RecipeLoader(path.read_text(encoding="utf-8"))

    def study(self) -> Study:
        """Return the study."""
        parts = self.mapping(self.loader.get_single_node(), "", OF_STUDY)
        if missing := [name for name in ("output_dir", "stages") if name not in parts]:
            raise self.fault("", f"{' and '.join(missing)} must be given")
        stages: dict[str, Stage] = {}
        named = self.mapping(parts["stages"], "stages")
        for name, node in named.items():
            stages[name] = stage = self.stage(name, node, stages)
            for each in map(stage.with_baseline, self.baselines(stage, node)):
                if each.name in named:
                    raise self.fault(f"stages: {name}", f"baselines: there is a stage {each.name}; call it otherwise")
                stages[each.name] = each
        if not stages:
            raise self.fault("stages", "expected at least one stage")
        axes = {
            name: self.axis(name, node, stages)
            for name, node in (self.mapping(parts["axes"], "axes") if "axes" in parts else {}).items()
        }
        return Study(self.path, self.folder(parts["output_dir"]), stages, axes, self.seeds(parts.get("seeds")))

    def folder(self, node: yaml.Node) -> Path:
        """Return the folder of the study; `~` is the user's home, as in a shell."""
        try:
            return Path(self.word(node, "output_dir")).expanduser()
        except RuntimeError as error:
            raise self.fault("output_dir", f"{error}; write the whole path") from error

    def stage(self, name: str, node: yaml.Node, before: dict[str, Stage]) -> Stage:
        """Return the stage that a part of the file describes; it may refer to those `before` it."""
        place = f"stages: {name}"
        if not name.replace("_", "").replace("-", "").isalnum():
            raise self.fault(place, "expected a name of letters, digits, - and _")
        parts = self.mapping(node, place, OF_STAGE)
        if "command" not in parts:
            raise self.fault(place, "command must be given, such as `command: pretrain`")
        command = tuple(self.word(parts["command"], f"{place}: command").split())
        if not command or command[0] not in SUBCOMMANDS:
            given = command[0] if command else ""
            raise self.fault(f"{place}: command", f"no command {given}{nearest(given, SUBCOMMANDS)}".rstrip("; "))
        options = self.loader.options(self.of_mapping(parts["options"], place)) if "options" in parts else {}
        if "from" in parts:
            start = self.word(parts["from"], f"{place}: from")
            if start not in before:
                raise self.fault(f"{place}: from", f"no stage {start} before this one{nearest(start, before)}")
            options["model_name_or_path"] = f"{{{start}}}"
        is_task = SUBCOMMANDS[command[0]].is_task
        recipe = self.word(parts["recipe"], f"{place}: recipe") if "recipe" in parts else None
        if recipe is not None and not is_task:
            raise self.fault(f"{place}: recipe", f"`renaissance {command[0]}` takes none")
        seeds = self.truth(parts["seeds"], f"{place}: seeds") if "seeds" in parts else is_task
        return Stage(name, command, recipe, options, seeds)

    def baselines(self, stage: Stage, node: yaml.MappingNode) -> list[str]:
        """Return the names of the baselines that the part of the file about a stage asks for."""
        place = f"stages: {stage.name}: baselines"
        found = next((value for key, value in node.value if key.value == "baselines"), None)
        names = [] if found is None else self.loader.value_of(found)
        if not isinstance(names, list) or len(set(names)) < len(names):
            raise self.fault(place, f"expected a list of some of {', '.join(BASELINES)}, each once")
        if unknown := [str(name) for name in names if name not in BASELINES]:
            told = f"no baseline {unknown[0]}{nearest(unknown[0], BASELINES)}"
            raise self.fault(place, f"{told} expected any of {', '.join(BASELINES)}")
        tables, command = read_tables(), stage.command[0]
        options = options_of(with_shared(tables["subcommands"][command], tables["shared"]))
        if names and not any(option["name"] == "remove_input" for option in options):
            raise self.fault(place, f"`renaissance {command}` has no two kinds of input (remove_input); leave it out")
        return names

    def axis(self, name: str, node: yaml.Node, stages: dict[str, Stage]) -> dict[str, Point]:
        """Return the values of an axis by label: `stage.option` with a list of values, or labels with options by stage."""
        place = f"axes: {name}"
        if isinstance(node, yaml.SequenceNode):
            stage, _, option = name.partition(".")
            if stage not in stages or not option:
                told = (
                    f"no stage {stage}{nearest(stage, stages)}"
                    if option
                    else "a list of values needs the name of an option"
                )
                raise self.fault(
                    place, f"{told} expected `stage.option: [value, ...]`, or labels with options by stage"
                )
            values = [self.loader.value_of(each) for each in node.value]
            points: dict[str, Point] = {label_of(value): {stage: {option: value}} for value in values}
            if len(points) < len(values):
                raise self.fault(place, "a value is there twice; leave out one")
        else:
            points = {
                label: self.point(f"{place}: {label}", each, stages)
                for label, each in self.mapping(node, place).items()
            }
        if not points:
            raise self.fault(place, "expected at least one value")
        return points

    def point(self, place: str, node: yaml.Node, stages: dict[str, Stage]) -> Point:
        """Return the options by stage of one value of an axis."""
        parts = self.mapping(node, place, tuple(stages), "stage")
        return {
            stage: None
            if self.loader.value_of(each) is None
            else self.loader.options(self.of_mapping(each, f"{place}: {stage}"))
            for stage, each in parts.items()
        }

    def seeds(self, node: yaml.Node | None) -> tuple[int, ...]:
        """Return the seeds of a study."""
        if node is None:
            return ()
        given = self.loader.value_of(node)
        given = given if isinstance(given, list) else [given]
        if not all(isinstance(each, str) and each.isdecimal() for each in given) or not given:
            raise self.fault("seeds", f"expected whole numbers, got {given}")
        seeds = tuple(map(int, given))
        if len(set(seeds)) < len(seeds):
            raise self.fault("seeds", "one is there twice; leave it out")
        return seeds

    def mapping(
        self, node: yaml.Node, place: str, known: tuple[str, ...] = (), what: str = "entry"
    ) -> dict[str, yaml.Node]:
        """Return the parts of a mapping by name, with what `<<` refers to; only those that are `known`, if any are."""
        self.loader.construct_mapping(self.of_mapping(node, place), deep=True)
        parts = {key.value: value for key, value in node.value}
        if known and (unknown := [name for name in parts if name not in known]):
            told = f"no {what} {unknown[0]}{nearest(unknown[0], known)} expected any of {', '.join(known)}"
            raise self.fault(place, told)
        return parts

    def of_mapping(self, node: yaml.Node, place: str) -> yaml.MappingNode:
        """Return a node if it is a mapping."""
        if not isinstance(node, yaml.MappingNode):
            raise self.fault(place, "expected a line `name: value` for each entry")
        return node

    def word(self, node: yaml.Node, place: str) -> str:
        """Return a value that is one text."""
        value = self.loader.value_of(node)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(place, f"expected a text, got {value}")
        return value

    def truth(self, node: yaml.Node, place: str) -> bool:
        """Return a value that is true or false."""
        value = self.loader.value_of(node)
        if value not in ("true", "false"):
            raise self.fault(place, f"expected true or false, got {value}")
        return value == "true"

    def fault(self, place: str, message: str) -> ValueError:
        """Return the error of a place in the file."""
        return ValueError(f"study {self.path}: {place}{': ' * bool(place)}{message}")


def label_of(value: Any) -> str:
    """Return how a value of an option is called in names and tables."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
