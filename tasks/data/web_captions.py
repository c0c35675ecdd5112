"""Readers of image-caption pairs from the web: Conceptual Captions (Sharma et al. 2018) and SBU (Ordonez et al. 2011)."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .source import SourceRows, check_share, held_out, require_files


#: Where a file of pairs lies in each layout: lists of [image, caption], and what the publishers offer for download. The latter
#: have one pair a line, in one file of two fields or in two files.
LISTS = {
    "gcc": {"train": "train_annot.json", "validation": "val_annot.json"},
    "sbu": {"train": "annot.json"},
}
PUBLIC = {
    "gcc": {"train": ("Train_GCC-training.tsv",), "validation": ("Validation_GCC-1.1.0-Validation.tsv",)},
    "sbu": {"train": ("SBU_captioned_photo_dataset_captions.txt", "SBU_captioned_photo_dataset_urls.txt")},
}

#: How img2dataset names the image of a line, at its 10,000 images a folder.
IMAGE_NAME = "{shard:05d}/{row:09d}.jpg"
SHARD_ROWS = 10_000


def read_web_captions(
    source: str | os.PathLike,
    name: str,
    layout: str = "list",
    image_name: str = IMAGE_NAME,
    validation_share: float = 0.0,
) -> dict[str, SourceRows]:
    """The rows of Conceptual Captions or SBU by split, in the order of the files.

    A row has the columns of `tasks.pretraining.FEATURES`; its image is given by path and not opened here. A line that is
    not a caption and a URL, a blank caption and an image that an earlier line has are skipped: `SourceRows.skipped` lists
    them, and `write_split` stops where they are too many.

    Args:
        source: the folder that holds the files.
        name: `gcc` or `sbu`.
        layout: `list`: JSON lists of [path of the image under the source folder, caption]. `public`: the published files of
            captions and URLs, lines without quoting, with the images, downloaded beforehand, in the folders train and
            validation. A first line "caption<TAB>url", which img2dataset needs, does not count.
        image_name: with `public`, what the image of a line is called in the folder of its split: a format string of `row`,
            the number of the line from 0 on, `shard`, which is row // 10,000, and `md5`, that of the URL in hexadecimal.
        validation_share: share of the training images that form the validation split (see `held_out`), where the data set
            has none of its own.

    Raises:
        ValueError: if a file is missing, no list of pairs, or has no usable line, if two files have different numbers of
            lines, or if an option is out of range.
    """
    check_share("validation_share", validation_share)
    source = Path(source)
    if layout == "list":
        files = {split: (source / file,) for split, file in LISTS[name].items()}
    elif layout == "public":
        files = {split: tuple(source / file for file in names) for split, names in PUBLIC[name].items()}
    else:
        raise ValueError(f"layout is {layout!r}: expected list or public")
    require_files(*(path for paths in files.values() for path in paths))
    splits = {}
    for split, paths in files.items():
        if layout == "list":
            pairs = _list_pairs(*paths)
        else:
            check_image_name(image_name)
            pairs = _public_pairs(paths, split, image_name)
        splits[split] = _rows(pairs, source, name, " and ".join(map(str, paths)))
    if validation_share and "validation" in splits:
        raise ValueError(f"validation_share: {name} has a validation split of its own; leave it out")
    return _with_held_out(splits, name, validation_share) if validation_share else splits


def check_image_name(image_name: str) -> None:
    """Raises `ValueError` where a format string has other fields than row, shard and md5, or none that tells rows apart."""
    try:
        first, second = (image_name.format(row=row, shard=0, md5=f"{row:032x}") for row in (0, 1))
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"image_name is {image_name!r}: expected a format string of row, shard and md5 ({error!r})"
        ) from error
    if first == second:
        raise ValueError(f"image_name is {image_name!r}, which is the same for all rows: expected row or md5 in it")


def _list_pairs(path: Path) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Where each pair is, its image, its caption, and what is wrong with it."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of [image, caption]")
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise ValueError(f"{where}: expected [image, caption], got {str(entry)[:80]}")
        yield where, entry[0], entry[1].strip(), None


def _public_pairs(
    paths: tuple[Path, ...], split: str, image_name: str
) -> Iterator[tuple[str, str, str | None, str | None]]:
    """The same of published files; the rows are the lines behind the header."""
    row = 0
    for number, line in enumerate(_joined_lines(paths), start=1):
        where = f"{paths[0]}: line {number}"
        try:
            fields = [field.strip() for field in line.decode("utf-8").split("\t")]
        except UnicodeDecodeError as error:
            fields, problem = [], str(error)
        else:
            problem = (
                None
                if len(fields) == 2
                else f"expected a caption and a URL with a tab between, got {len(fields)} fields"
            )
        if number == 1 and fields == ["caption", "url"]:
            continue
        caption, url = fields if problem is None else ("", "")
        md5 = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
        image = image_name.format(row=row, shard=row // SHARD_ROWS, md5=md5)
        row += 1
        yield where, f"{split}/{image}", caption, problem


def _joined_lines(paths: tuple[Path, ...]) -> Iterator[bytes]:
    """Lines of one file, or of several side by side, tabs between."""
    # Only line feeds end a line: captions from the web have all of Unicode's other line ends in them.
    contents = [path.read_bytes().removesuffix(b"\n").split(b"\n") for path in paths]
    counts = [len(lines) for lines in contents]
    if len(set(counts)) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} have {counts} lines: expected the same number in each")
    return (b"\t".join(lines) for lines in zip(*contents, strict=True))


def _rows(pairs: Iterator[tuple], source: Path, name: str, file: str) -> SourceRows:
    entries, skipped, seen = [], [], set()
    for where, image, caption, problem in pairs:
        if problem is None and not caption:
            problem = "the caption is blank"
        if problem is None and image in seen:
            problem = f"an earlier line has the image {image}"
        if problem is None:
            seen.add(image)
            entries.append((image, caption))
        else:
            skipped.append({"where": where, "reason": problem})
    if not entries:
        first = f", the first one: {skipped[0]['reason']}" if skipped else ""
        raise ValueError(f"{file}: no usable pair of image and caption{first}")

    def build(entry: tuple[str, str]) -> dict:
        image, caption = entry
        return {
            "image": {"bytes": None, "path": str(source / image)},
            "image_id": f"{name}-{image}",
            "captions": [caption],
        }

    return SourceRows(entries, build, skipped)


def _with_held_out(splits: dict[str, SourceRows], name: str, share: float) -> dict[str, SourceRows]:
    """The training rows, parted into training and validation."""
    rows = splits["train"]
    chosen = [held_out(f"{name}-{image}", share) for image, _ in rows.entries]
    parts = {
        split: [entry for entry, held in zip(rows.entries, chosen, strict=True) if held == (split == "validation")]
        for split in ("train", "validation")
    }
    return {
        split: SourceRows(entries, rows.build, rows.skipped if split == "train" else ())
        for split, entries in parts.items()
        if entries
    }
