"""Readers of image-caption pairs from the web: Conceptual Captions (Sharma et al. 2018) and SBU (Ordonez et al. 2011)."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import schemas
from .readers import PublicDataSet, SourceRows, held_out_option, image_at, json_entries, require_files, split_by_id


PUBLIC_LAYOUT = """
The images are downloaded beforehand, for instance with img2dataset (--output_format files, 10,000 samples a folder), whose
names are the default of --image_name. Many will be gone: say with --max_broken how many may be."""

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
    layout: str = "list",
    image_name: str = IMAGE_NAME,
    validation_share: float = 0.0,
) -> dict[str, SourceRows]:
    """
    Return the rows of Conceptual Captions or SBU. A line that is not a caption and a URL, a blank caption and an image that an
    earlier line has are skipped: `SourceRows.skipped` lists them, and `write_split` stops if they are too many.

    Args:
        source: Folder of the files.
        name: `gcc` or `sbu`.
        layout: `list` or `public`, see `FILES`. A first line "caption<TAB>url", for img2dataset, does not count.
        image_name: With `public`, the name of a line's image in the folder of its split, see `OPTIONS`.
        validation_share: Share of the training images that form the validation split (see `split_by_id`), for SBU.

    Raises:
        ValueError: As `PublicDataSet` says; if two files have different numbers of lines, or an option is out of range.
    """
    split_of = split_by_id(validation_share)
    check_image_name(image_name)
    source = Path(source)
    files = {split: [source / file for file in names] for split, names in FILES[layout][name].items()}
    require_files(*(path for paths in files.values() for path in paths))
    splits = {}
    for split, paths in files.items():
        pairs = _list_pairs(*paths) if layout == "list" else _public_pairs(paths, split, image_name)
        splits[split] = _rows(pairs, source, name, " and ".join(map(str, paths)))
    if not validation_share:
        return splits
    rows, parts = splits["train"], {"train": [], "validation": []}
    for image, caption in rows.entries:
        parts[split_of(f"{name}-{image}")].append((image, caption))
    skipped = {"train": rows.skipped, "validation": ()}
    return {split: SourceRows(part, rows.build, skipped[split]) for split, part in parts.items() if part}


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


def _list_pairs(path: Path) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield the place of each pair, its image and its caption, and, if it is unusable, the reason."""
    for where, entry in json_entries(path, "[image, caption]"):
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise ValueError(f"{where}: expected [image, caption], got {str(entry)[:80]}")
        yield where, entry[0], entry[1].strip(), None


def _public_pairs(paths: list[Path], split: str, image_name: str) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield the same of published files; with two, their lines belong together."""
    # Only line feeds end a line: captions from the web have all of Unicode's other line ends in them.
    contents = [path.read_bytes().removesuffix(b"\n").split(b"\n") for path in paths]
    if len(set(counts := list(map(len, contents)))) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} have {counts} lines: expected the same number in each")
    header = [lines[0].strip() for lines in contents] in ([b"caption\turl"], [b"caption", b"url"])
    for row, line in enumerate(itertools.islice(map(b"\t".join, zip(*contents, strict=True)), header, None)):
        caption = url = ""
        problem = None
        try:
            fields = [field.strip() for field in line.decode("utf-8").split("\t")]
            if len(fields) != 2:
                raise ValueError(f"expected a caption and a URL with a tab between, got {len(fields)} fields")
            caption, url = fields
        except ValueError as error:
            problem = str(error)
        md5 = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
        image = image_name.format(row=row, shard=row // SHARD_ROWS, md5=md5)
        yield f"{paths[0]}: line {row + header + 1}", f"{split}/{image}", caption, problem


def _rows(pairs: Iterator[tuple], source: Path, name: str, file: str) -> SourceRows:
    """Return the rows of usable pairs, with the others as `skipped`; raise `ValueError` if there is no usable one."""
    entries, skipped = {}, []
    for where, image, caption, problem in pairs:
        if reason := (
            problem
            or (not caption and "the caption is blank")
            or (image in entries and f"an earlier line has the image {image}")
        ):
            skipped.append({"where": where, "reason": reason})
        else:
            entries[image] = caption
    if not entries:
        first = f", the first one: {skipped[0]['reason']}" if skipped else ""
        raise ValueError(f"{file}: no usable pair of image and caption{first}")

    def build(entry: tuple[str, str]) -> dict:
        image, caption = entry
        return {"image": image_at(source / image), "image_id": f"{name}-{image}", "captions": [caption]}

    return SourceRows(list(entries.items()), build, skipped)


DATA_SETS = {
    "gcc": PublicDataSet(GCC_HELP, schemas.CAPTIONS, partial(read_web_captions, name="gcc"), OPTIONS),
    "sbu": PublicDataSet(
        SBU_HELP, schemas.CAPTIONS, partial(read_web_captions, name="sbu"), OPTIONS | held_out_option(0.01)
    ),
}
