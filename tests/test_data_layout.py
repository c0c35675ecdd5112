"""How tasks/data is laid out: it imports nothing from above, and a public data set is one file and one line."""

import ast
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from renaissance.tasks import data
from renaissance.tasks.data import catalogue
from renaissance.tasks.data.catalogue import CATALOGUE, READERS


FOLDER = Path(data.__file__).parent
READING = [
    name
    for name in (module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    if hasattr(import_module(f"{data.__name__}.{name}"), "DATA_SETS") and name != "shapes"
]


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    package = [*data.__name__.split("."), *path.relative_to(FOLDER).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            found |= {f"{module}.{name.name}" for name in node.names}
    return found


def test_nothing_is_imported_from_tasks_above():
    imports = {path: imports_of(path) for path in FOLDER.rglob("*.py")}
    assert f"{data.__name__}.schemas" in imports[FOLDER / "nlvr2.py"]
    assert "renaissance.processing.decoding.named" in imports[FOLDER / "captioned.py"]
    for path, found in imports.items():
        tasks = {name for name in found if name.startswith("renaissance.tasks")}
        assert all(name.startswith(f"{data.__name__}.") for name in tasks), path


def test_every_reader_is_a_line_of_the_catalogue():
    assert sorted(READERS) == READING
    for reader in READERS:
        assert Path(catalogue.__file__).read_text(encoding="utf-8").count(reader) == 1
    assert len(CATALOGUE) == sum(len(import_module(f"{data.__name__}.{reader}").DATA_SETS) for reader in READERS)


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_has_its_help_and_options_in_its_file(reader):
    path = FOLDER / f"{reader}.py"
    strings = [
        node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    ]
    assert any("Expected layout" in text and "SOURCE/" in text for text in strings if isinstance(text, str))
    for name, data_set in import_module(f"{data.__name__}.{reader}").DATA_SETS.items():
        assert CATALOGUE[name] is data_set and "SOURCE/" in data_set.help
        parameters = inspect.signature(data_set.read).parameters
        assert set(data_set.options) <= set(parameters) - {"source", "name", "task_name"}
        # `prepare_data.py` passes all of them.
        assert all(settings["help"] for settings in data_set.options.values())
