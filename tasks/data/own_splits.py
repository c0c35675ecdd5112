"""Finds which images, .tar files or tables of a local folder are those of a split."""

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .image_folders import Listing, folders_of_splits, list_files, shown
from .readers import without_split
from .split_names import listed, split_folders, split_of_name, split_of_words
from .tables import TEXT_FILES


logger = logging.getLogger(__name__)

#: The ends of the names of files that `datasets` reads.
DATA = (
    ".parquet",
    ".arrow",
    ".zip",
    ".gz",
    ".tgz",
    ".bz2",
    ".xz",
    ".zst",
    ".7z",
    ".lz4",
    ".py",
    ".h5",
    ".hdf5",
    ".txt",
)

#: What the head of a data set's README.md says if it has rules of its own for splits.
RULES = re.compile(r"^configs:", re.MULTILINE)


def files_of_split(folder: Path, split: str) -> list[Path] | None:
    """
    Return what a local folder has for a split: a folder of images, the .tar files, or a table; `None` if it is of another
    kind, such as of .parquet files, which `datasets` reads.

    A folder for each split (`train`, `val2017`) holds its images or .tar files; .tar files may also be called after splits.
    Otherwise all is training data, whatever it is called. A table `train.csv` is the split that it is called after, and one that is
    alone is training data.

    Raises:
        ValueError: If the folder has nothing for this split, or several things, or files of several kinds.
    """
    readme = folder / "README.md"
    if readme.is_file() and RULES.search(readme.read_text(encoding="utf-8", errors="replace")):
        return None
    files = list_files(folder)
    if tables := tables_of(folder, files, split):
        return [folder / one_of(folder, tables, split)]
    if tars := tars_in(files):
        return [folder / name for name in named_files(folder, tars, split)]
    if tables := lone_tables(files):
        return [folder / one_of(folder, named_files(folder, tables, split), split)]
    if not files.images and (not files.metadata or of_ending(files.others, ".parquet")):
        return None
    return [folder_of(files, split)]


def of_ending(names: Iterable[str], ending: str) -> list[str]:
    """Return the names that end in this, whatever their case."""
    return [name for name in names if name.lower().endswith(ending)]


def is_of(split: str) -> Callable[[str], bool]:
    """Return a function that says whether a name is that of a split: its own, or another word for it."""
    return lambda name: name == split or split_of_name(name) == split


def one_of(folder: Path, names: list[str], split: str) -> str:
    """Return the only one of the names; raise `ValueError` if there are several."""
    if len(names) > 1:
        raise ValueError(f"{folder}: several for the split {split!r}, {listed(names)}; expected one")
    return names[0]


def tables_of(folder: Path, files: Listing, split: str) -> list[str]:
    """Return the tables in the folder itself that are called after the split, such as train.csv; beside images, .parquet files too,
    which name images by their paths."""
    endings = (*TEXT_FILES, ".parquet") if files.images else tuple(TEXT_FILES)
    tables = [Path(name) for name in files.others if "/" not in name and Path(name).suffix.lower() in endings]
    return [table.name for table in tables if is_of(split)(table.stem)]


def lone_tables(files: Listing) -> list[str]:
    """Return the tables of a folder that has no other data: neither images nor what `datasets` has saved or downloaded."""
    tables = [name for name in files.others if Path(name).suffix.lower() in TEXT_FILES]
    tables = [name for name in tables if not Path(name).name.startswith("dataset_")]
    others = [name for name in files.others if Path(name).suffix.lower() in DATA]
    return [] if files.images or files.metadata or others else tables


def tars_in(files: Listing) -> list[str]:
    """Return the .tar files of a folder. Raise `ValueError` if it has images or .parquet files, too; but .parquet files beside
    .tar files of the same names, as img2dataset writes them, do not count."""
    tars = of_ending(files.others, ".tar")
    twins = {f"{name[:-4]}.parquet" for name in tars}
    tables = of_ending(files.others, ".parquet")
    others = {".parquet": [name for name in tables if name not in twins], "image": files.images}
    for kind, names in others.items():
        if tars and names:
            found = f"a folder of {kind} and .tar files ({shown(names)}; {shown(tars)})"
            raise ValueError(f"{files.folder}: {found}, expected one kind of them; name a file")
    if tars and tables:
        logger.info(f"{files.folder}: left out {len(tables)} .parquet files beside .tar files of the same names")
    return tars


def named_files(folder: Path, names: list[str], split: str) -> list[str]:
    """Return the files of a split, in order, by the names of their folders or of the files."""
    folders = split_folders(names)
    if folders:
        own = one_of_split(folder, folders, split)
        return [name for name in names if name.startswith(f"{own}/")]
    splits = {name: split_of_words(Path(name).stem) for name in names}
    if not all(splits.values()):
        if len(found := {own for own in splits.values() if own}) > 1:
            unnamed = [name for name, own in splits.items() if not own]
            raise ValueError(
                f"{folder}: files of several splits ({listed(found)}) and others ({shown(unnamed)}); call each "
                "after its split"
            )
        splits = dict.fromkeys(names, "train")
    if own := [name for name in names if splits[name] == split]:
        return own
    raise missing(folder, split, splits.values())


def folder_of(files: Listing, split: str) -> Path:
    """Return the folder of images of a split: the whole folder if no folder for each split is in it."""
    if folders := folders_of_splits(files):
        return files.folder / one_of_split(files.folder, folders, split)
    if len(folders := split_folders(files.images)) > 1:
        raise ValueError(
            f"{files.folder}: a folder for each split ({listed(folders)}), but one metadata file ({files.metadata[0]}) for "
            "all; put one into each folder, or name the files of splits with --train_file and so on"
        )
    if split != "train":
        raise missing(files.folder, split, ["train"])
    parts = {part for name in files.images for part in name.split("/")[:-1]}
    alike = {part: own for part in parts if (own := split_of_name(part))}
    if not files.metadata and len(set(alike.values())) > 1:
        others = (
            f"others are not ({shown(sorted(parts - alike.keys()))})"
            if parts > alike.keys()
            else "images lie beside them"
        )
        logger.warning(
            f"{files.folder}: all {len(files.images)} images are training data: some folders are called after splits "
            f"({listed(alike)}), but {others}"
        )
    return files.folder


def one_of_split(folder: Path, folders: dict[str, str], split: str) -> str:
    """Return the folder of a split; raise `ValueError` if there is none, or several."""
    own = [name for name in folders if is_of(split)(name.rpartition("/")[2])]
    if not own:
        raise missing(folder, split, folders)
    return one_of(folder, sorted(own), split)


def missing(folder: Path, split: str, found: Iterable[str]) -> ValueError:
    """Return the error of a folder that has other splits alone."""
    return ValueError(
        f"{folder}: no {split}-*.parquet in this folder, and nothing else that is called after the split {split!r}, only "
        f"{listed(found)}{without_split(split)}"
    )
