"""The options of the user's own data, the same for every task: files, columns, images on the web, rows held out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..modeling.fields import check_bounds, option
from .data.bad_rows import MOST, MOST_OF_STREAM, BadRows
from .data.downloading import Downloading
from .data.image_checks import ImageCheck
from .option_fields import Option, build_from, given, options_of, with_options


#: The options of own files, by split. A task may have more test splits; of own data there is one.
FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}

#: What to do with bad rows.
ON_BAD_ROW = ("error", "skip")

#: What the columns of tasks hold, unless a task says more about one.
COLUMNS = {
    "id": "ids, one for each row",
    "image": "images",
    "images": "lists of two images; or two columns, the left image first",
    "text": "texts",
    "text_pair": "second texts",
    "label": "labels, by name or number",
    "captions": "captions: a string or a list of strings for each row",
    "image_id": "ids of images; without it, rows with the same file or the same bytes are the same image",
}


def with_columns(columns: Iterable[str], **texts: str) -> Callable[[type], type]:
    """
    Return a decorator that adds the options `<column>_column` to the arguments of a task, for the columns of its
    schema. `texts` say what the columns hold that are not in `COLUMNS`, or hold something else here.
    """
    texts = COLUMNS | texts
    options = [
        Option(f"{name}_column", list[str] if name == "images" else str, f"Name of the column of {texts[name]}.", name)
        for name in columns
    ]
    return with_options(options)


@with_options(options_of(Downloading, "download_"))
@dataclass
class OwnDataArguments:
    """Where the user's own data is, and what may be wrong with it."""

    train_file: str | None = option(
        None,
        "Your own training data: a .csv, .tsv, .json, .jsonl, .parquet or .tar file with one example per row, or a folder "
        "of images, .parquet or .tar files. The options --*_column name the columns.",
    )
    validation_file: str | None = option(None, "The same for evaluation.")
    test_file: str | None = option(None, "The same for prediction; it needs no labels.")
    held_out: float | None = option(
        None,
        "Images of the training data to keep for evaluation, if there is no validation data: a share such as 0.1, or a "
        "number from 1 on. They are the same in every run, and all rows of an image are kept. Rows without images are "
        "kept by their text.",
    )
    image_folder: str | None = option(
        None, "Folder that paths in an image column of your own file start from. Without it, the folder of the file."
    )
    on_bad_row: str | None = option(
        None,
        "What to do with a row of training data that cannot be used, such as one with a broken image. error: stop, and name "
        "it. skip: leave it out or, if it is found in training, train on another row in its place; bad_rows.jsonl in "
        "output_dir lists all. In evaluation and prediction it is an error.",
        "error; skip with streaming or max_bad_fraction",
        choices=ON_BAD_ROW,
    )
    max_bad_fraction: float | None = option(
        None,
        "Largest share of the rows of a training data set that may be skipped; above it, the run stops.",
        f"{MOST} with on_bad_row skip, {MOST_OF_STREAM} of a stream, 0.01 of GLUE's TSV files",
        within="[0, 1)",
    )
    check_images: bool = option(
        True,
        "Look at all images before training starts: decode those of your own files and folders, and read the headers of "
        "those of prepared folders and Hub data sets (of training data unless on_bad_row is skip). Set it to false if the "
        "images are far away.",
    )
    download_images: bool = option(False, "Download images whose paths are URLs (http, https) before training starts.")

    def __post_init__(self):
        check_bounds(self)
        share = self.held_out
        if share is not None and not (0 < share < 1 or (share >= 1 and float(share).is_integer())):
            raise ValueError(f"held_out: expected a share below 1, or a whole number from 1 on, got {self.held_out:g}")
        if self.held_out and self.validation_file:
            raise ValueError("held_out: without effect if validation_file is given; leave out one of them")
        if self.on_bad_row not in (None, *ON_BAD_ROW):
            raise ValueError(f"on_bad_row: expected {' or '.join(ON_BAD_ROW)}, got {self.on_bad_row!r}")
        if self.on_bad_row == "error" and self.max_bad_fraction:
            raise ValueError("max_bad_fraction: without effect if on_bad_row is error; leave out one of them")
        idle = given(self, [each.name for each in options_of(Downloading, "download_")])
        if idle and not self.download_images:
            raise ValueError(
                f"{', '.join(idle)}: without effect without download_images; leave it out, or set that too"
            )
        # One for the whole run: an image that failed for one split is not asked for again for another.
        self._downloading = build_from(Downloading, self, "download_") if self.download_images else None

    def bad_rows(self, report: Path | None = None) -> BadRows:
        """Return what becomes of bad rows of training data; `report` is the file that lists them."""
        streamed = getattr(self, "streaming", False)
        usual = "skip" if streamed or self.max_bad_fraction else "error"
        most = MOST_OF_STREAM if streamed else MOST
        most = most if self.max_bad_fraction is None else self.max_bad_fraction
        return BadRows((self.on_bad_row or usual) == "skip", most, report)

    def image_check(self, split: str, decoded_before: bool, cached: bool) -> ImageCheck:
        """
        Return how far to look at the images of a split before training.

        Args:
            decoded_before: Whether they are those of a prepared folder, or of a data set on the Hub.
            cached: Whether features will be made of all of them.
        """
        skips = split == "train" and self.bad_rows().skip
        if cached and skips:
            # A bad image must be known when features are made.
            return ImageCheck.WHOLE
        # Rows that are held out for evaluation are read with those of training.
        if not self.check_images or (skips and decoded_before and not self.held_out):
            return ImageCheck.NONE
        return ImageCheck.HEADERS if decoded_before else ImageCheck.WHOLE

    def files(self) -> list[str]:
        """Return the options of own files that are given."""
        return [name for name in FILES.values() if getattr(self, name)]

    def folder(self, source: str) -> str | None:
        """Return where paths of images in a file or folder of the user start from; `None` for data on the Hub."""
        path = Path(source)
        return self.image_folder or (source if path.is_dir() else str(path.parent) if path.is_file() else None)

    def missing_files(self, splits: Iterable[str]) -> list[str]:
        """Return phrases about the files and folders for some splits that the user names and that are not there."""
        splits = {"train" if split == "validation" and self.held_out else split for split in splits}
        named = {option: getattr(self, option) for split, option in FILES.items() if split in splits}
        missing = [
            f"{name}: no such file or folder {path}"
            for name, path in named.items()
            if path and not Path(path).exists()
        ]
        if self.image_folder and not Path(self.image_folder).is_dir():
            missing.append(f"image_folder: no such folder {self.image_folder}")
        return missing

    def downloading(self) -> Downloading | None:
        """Return what fetches images; `None` if the user did not ask for it."""
        return self._downloading
