"""Readers of image-caption pairs from the web: Conceptual Captions (Sharma et al. 2018) and SBU (Ordonez et al. 2011)."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from . import schemas
from .blank_texts import is_blank
from .readers import (
    PublicDataSet,
    SourceRows,
    Unusable,
    absent_splits,
    below,
    held_out_option,
    image_at,
    require_source,
    split_by_id,
    wanted_splits,
)
from .text_files import byte_lines, json_entries


PUBLIC_LAYOUT = """
The images are downloaded beforehand, for instance with img2dataset (--output_format files, 10,000 samples a folder), whose
names are the default of --image_name. Many will be gone: say with --max_bad_fraction how many may be."""

GCC_HELP = f"""Conceptual Captions: train, validation.

Captions: https://ai.google.com/research/ConceptualCaptions/download

Expected layout:
    SOURCE/train_annot.json, val_annot.json    lists of ["images_train/0000/0000000", "caption"]
    SOURCE/images_train/0000/0000000 ...
    SOURCE/images_val/0000/0000000 ...
or, with --layout public:
    SOURCE/Train_GCC-training.tsv, Validation_GCC-1.1.0-Validation.tsv    lines of caption, tab, URL
    SOURCE/train/00000/000000000.jpg ...
    SOURCE/validation/00000/000000000.jpg ...
{PUBLIC_LAYOUT}"""

SBU_HELP = f"""SBU captioned photos: train, and a share of the images as validation.

Captions: https://www.cs.rice.edu/~vo9/sbucaptions/

Expected layout:
    SOURCE/annot.json                          list of ["images_train/0000/0000000", "caption"]
    SOURCE/images_train/0000/0000000 ...
or, with --layout public:
    SOURCE/SBU_captioned_photo_dataset_captions.txt, SBU_captioned_photo_dataset_urls.txt
    SOURCE/train/00000/000000000.jpg ...
{PUBLIC_LAYOUT}"""

#: The files of pairs in each layout: JSON lists of [image, caption], and the publishers' own files, which have one pair a line,
#: in one file of two fields or in two files.
FILES = {
    "list": {
        "gcc": {"train": ["train_annot.json"], "validation": ["val_annot.json"]},
        "sbu": {"train": ["annot.json"]},
    },
    "public": {
        "gcc": {"train": ["Train_GCC-training.tsv"], "validation": ["Validation_GCC-1.1.0-Validation.tsv"]},
        "sbu": {"train": ["SBU_captioned_photo_dataset_captions.txt", "SBU_captioned_photo_dataset_urls.txt"]},
    },
}

#: How img2dataset names the image of a line, at its 10,000 images a folder.
IMAGE_NAME = "{shard:05d}/{row:09d}.jpg"
SHARD_ROWS = 10_000

OPTIONS = {
    "layout": {
        "choices": ("list", "public"),
        "default": "list",
        "help": "lists of image files and captions, or the published captions and URLs (default: %(default)s)",
    },
    "image_name": {
        "default": IMAGE_NAME,
        "help": "public layout: name of a line's image in the folder of its split, of {row}, the number of the line from 0 on, "
        "{shard}, row // 10,000, and {md5}, of the URL (default: %(default)s)",
    },
}


def read_web_captions(
    source: str | os.PathLike,
    name: str,
    splits: Iterable[str] | None = None,
    layout: str = "list",
    image_name: str = IMAGE_NAME,
    validation_share: float = 0.0,
) -> dict[str, SourceRows]:
    """
    Return the rows of Conceptual Captions or SBU. A line that is not a caption and a URL, a blank caption and an image that an
    earlier line has are left out and counted.

    Args:
        source: Folder of the files.
        name: `gcc` or `sbu`.
        splits: The splits that are wanted; `None`: all that there are.
        layout: `list` or `public`, see `FILES`. A first line "caption<TAB>url", for img2dataset, does not count.
        image_name: With `public`, the name of a line's image in the folder of its split, see `OPTIONS`.
        validation_share: Share of the training images that form the validation split (see `split_by_id`), for SBU.

    Raises:
        ValueError: As `PublicDataSet` says; if two files have different numbers of lines, or an option is out of range.
    """
    split_of = split_by_id(validation_share)
    check_image_name(image_name)
    source, published = Path(source), FILES[layout][name]
    is_divided = "validation" not in published
    available = ("train", "validation") if not is_divided or validation_share or splits else ("train",)
    wanted = wanted_splits(splits, available)
    files = {split: [source / file for file in published.get(split, published["train"])] for split in wanted}
    require_source(files)
    rows = {split: SourceRows([], lambda entry: _build(entry, source, name)) for split in wanted}
    for split in ["train"] if is_divided else wanted:
        paths = [source / file for file in published[split]]
        pairs = _list_pairs(*paths) if layout == "list" else _public_pairs(paths, split, image_name)
        assign = (lambda image: split_of(f"{name}-{image}")) if is_divided else (lambda _, split=split: split)
        _read_pairs(pairs, source, rows, assign)
    absent = {split: str(files[split][0]) for split in absent_splits(rows, source)}
    if splits is None and is_divided and "validation" in absent:
        # A small share of few images may be none.
        del absent["validation"], rows["validation"]
    require_source(files, absent=absent)
    return rows


def check_image_name(image_name: str) -> None:
    """Raise `ValueError` if a format string has other fields than row, shard and md5, or does not tell rows apart."""
    try:
        first, second = (image_name.format(row=row, shard=0, md5=f"{row:032x}") for row in (0, 1))
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"image_name is {image_name!r}: expected a format string of row, shard and md5 ({error!r})"
        ) from error
    if first == second:
        raise ValueError(f"image_name is {image_name!r}, which is the same for all rows: expected row or md5 in it")


def _list_pairs(path: Path) -> Iterator[tuple[str, str, str, Unusable | None]]:
    """Yield the place of each pair, its image and its caption, and, if it is unusable, why."""
    for where, entry in json_entries(path, "[image, caption]"):
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
            yield where, entry[0], entry[1].strip(), None
        else:
            yield where, "", "", Unusable("not [image, caption]", f"is not [image, caption]: {str(entry)[:80]}")


def _public_pairs(paths: list[Path], split: str, image_name: str) -> Iterator[tuple[str, str, str, Unusable | None]]:
    """Yield the same of published files; with two, their lines belong together. A blank line of one file is no row, as
    for img2dataset; of two, it is a blank caption or URL, unless it is behind the last line of both."""
    contents = [list(enumerate(byte_lines(path), start=1)) for path in paths]
    if len(contents) == 1:
        contents = [[(number, line) for number, line in contents[0] if line.strip(b" ")]]
    last = max(number for lines in contents for number, line in lines if line.strip() or number == 1)
    contents = [[entry for entry in lines if entry[0] <= last] for lines in contents]
    if len(set(counts := list(map(len, contents)))) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} have {counts} lines: expected the same number in each")
    header = [lines[0][1].strip() for lines in contents] in ([b"caption\turl"], [b"caption", b"url"])
    for row, numbered in enumerate(itertools.islice(zip(*contents, strict=True), header, None)):
        caption, url, problem = _fields(b"\t".join(line for _, line in numbered))
        md5 = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
        image = image_name.format(row=row, shard=row // SHARD_ROWS, md5=md5)
        yield f"{paths[0]}: line {numbered[0][0]}", f"{split}/{image}", caption, problem


def _fields(line: bytes) -> tuple[str, str, Unusable | None]:
    """Return the caption and the URL of a line, and, if it has others than these, why."""
    try:
        fields = [field.strip() for field in line.decode("utf-8").split("\t")]
    except UnicodeDecodeError as error:
        return "", "", Unusable("not UTF-8", f"is not UTF-8 ({error.reason} 0x{line[error.start]:02x})")
    if len(fields) != 2:
        found = f"got {len(fields)} fields"
        return "", "", Unusable("not a caption and a URL", f"is not a caption and a URL with a tab between: {found}")
    return fields[0], fields[1], None


def _read_pairs(
    pairs: Iterator[tuple], source: Path, rows: dict[str, SourceRows], split_of: Callable[[str], str]
) -> None:
    """Add the usable pairs to the rows of their splits, of those that are in `rows`. A pair without an image counts with
    the first of these."""
    seen = set()
    for where, image, caption, problem in pairs:
        split = split_of(image) if image else next(iter(rows))
        if split not in rows:
            continue
        with rows[split].left_out.entry(where, "a pair"):
            if problem:
                raise problem
            below(source, image)
            if is_blank(caption):
                raise Unusable("blank caption", "has a blank caption")
            if image in seen:
                raise Unusable("repeated image", f"has the image {image}, which an earlier line has")
            seen.add(image)
            rows[split].entries.append((image, caption))


def _build(entry: tuple[str, str], source: Path, name: str) -> dict:
    image, caption = entry
    return {"image": image_at(source / image), "image_id": f"{name}-{image}", "captions": [caption]}


DATA_SETS = {
    "gcc": PublicDataSet(
        GCC_HELP, schemas.CAPTIONS, partial(read_web_captions, name="gcc"), OPTIONS, ("train", "validation")
    ),
    "sbu": PublicDataSet(
        SBU_HELP,
        schemas.CAPTIONS,
        partial(read_web_captions, name="sbu"),
        OPTIONS | held_out_option(0.01),
        ("train", "validation"),
    ),
}
