"""Names of folders and files that stand for the splits of a data set, as other programs write them."""

import re
from collections.abc import Iterable, Sequence


#: The words for each split.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}

#: The split that each word stands for.
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}

#: A word, perhaps with a year or a number: COCO's folders are called train2017.
NAME = re.compile(r"([a-z]+)[-_ .]?\d*")


def split_of_name(name: str) -> str | None:
    """Return the split that a folder or a file without its ending is called after as a whole; `None` if after none."""
    found = NAME.fullmatch(name.lower())
    return SPLIT_OF.get(found[1]) if found else None


def split_of_words(stem: str) -> str | None:
    """Return the split that one of the words in a file's name stands for, as in cc3-train-00000; `None` if none does."""
    return next((SPLIT_OF[word] for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLIT_OF), None)


def split_folders(names: Sequence[str]) -> dict[str, str]:
    """
    Return the split of each folder if folders part files into splits, else nothing. `names` are the paths of the files. Folders
    are those at the first level that has several, and all of them are called after splits; a single one may be, too.
    """
    parents = [name.split("/")[:-1] for name in names]
    depth, shallowest = 0, min(map(len, parents), default=0)
    while depth < shallowest:
        own = {parts[depth] for parts in parents}
        splits = {"/".join(parts[: depth + 1]): split_of_name(parts[depth]) for parts in parents}
        if all(splits.values()):
            return splits
        if len(own) > 1:
            return {}
        depth += 1
    return {}


def listed(names: Iterable[str]) -> str:
    """Return names of folders, files or splits for a message, each once."""
    return ", ".join(sorted(set(names)))
