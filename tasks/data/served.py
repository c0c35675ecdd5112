"""Which objectives of pretraining the rows of a data set serve, by the columns that it has."""

from collections.abc import Iterable, Mapping, Sequence

from datasets import Dataset

from ...processing.objectives import ObjectiveData
from .columns import has_column, parts_of
from .schemas import image_columns


#: What rows have, in words.
WORDS = {
    "text": "a text",
    "image": "an image",
    "answers": "answers",
    "boxes": "boxes",
    "label": "the number of a box",
    "class_name": "a class",
}


def columns_of_rows(data: Dataset, columns: Mapping[str, str]) -> dict[str, str]:
    """
    Return what the rows of a data set have, of `text`, `image`, `answers`, `boxes`, `label` and `class_name`, each with the task's name
    of the column that it comes from.

    Captions are texts of images. The column `text` is, beside an image, that of a question with `answers` or of an expression for one of
    `boxes`, and without images a document. `label` is a class of an image without a text.

    Args:
        data: A table with the user's names of columns.
        columns: The user's name of each column of the task.
    """
    had = {name for name, own in columns.items() if all(has_column(data, part) for part in parts_of(own))}
    if "image" not in had:
        # Without this, pairs whose images have another name would be read as documents.
        paired = had & {"answers", "boxes"} or any(image_columns(data.features))
        return {"text": "text"} if "text" in had and not paired else {}
    more = [*({"answers"} & had), *(("boxes", "label") if {"boxes", "label"} <= had else ())]
    text = "text" if more and "text" in had else "captions"
    if text in had:
        return {"image": "image", "text": text} | {name: name for name in more}
    return {"image": "image"} | ({"class_name": "label"} if "label" in had and "text" not in had else {})


def columns_in(data: Dataset) -> list[str]:
    """Return what the rows of a table have, of the keys of `WORDS`; its columns have the task's names."""
    names = {"text" if name == "captions" else name for name in data.column_names}
    return [name for name in WORDS if name in names]


def served(columns: Iterable[str], objectives: Sequence[ObjectiveData]) -> list[ObjectiveData]:
    """Return the objectives that rows with these columns serve."""
    columns = set(columns)
    return [objective for objective in objectives if columns.issuperset(objective.columns)]


def words_of(columns: Iterable[str]) -> str:
    """Return a phrase on what rows with these columns have."""
    words = [WORDS.get(name, name) for name in columns]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def needs_of(objectives: Iterable[ObjectiveData]) -> str:
    """Return a phrase on what rows the objectives need."""
    return ", ".join(f"{each.name} needs {words_of(each.columns)}" for each in objectives)


def parse_served(entries: Sequence[str], number: int, objectives: Sequence[str]) -> list[tuple[str, ...]]:
    """
    Return the names of the objectives that each data set is to serve, of entries such as `"mlm+itm"`.

    Args:
        entries: The option `train_objectives`.
        number: The number of data sets.
        objectives: The names of the objectives of the run.

    Raises:
        ValueError: If there is not one entry a data set, or one names something else than objectives of the run, each once.
    """
    if len(entries) != number:
        raise ValueError(f"train_objectives: expected {number} entries, one a data set, got {len(entries)}")
    parsed = [tuple(name.strip() for name in entry.split("+")) for entry in entries]
    for entry, names in zip(entries, parsed, strict=True):
        if unknown := [name for name in names if name not in objectives]:
            own = ", ".join(objectives)
            raise ValueError(
                f"train_objectives: {entry!r}: expected objectives of the run ({own}) with + between them, got {unknown[0]!r}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"train_objectives: {entry!r}: expected each objective once")
    if idle := [name for name in objectives if name not in {name for names in parsed for name in names}]:
        raise ValueError(
            f"train_objectives: no data set serves the objective {', '.join(idle)}; name it, or leave it out of objectives"
        )
    return parsed
