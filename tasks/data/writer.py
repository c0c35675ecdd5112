"""Writes a prepared data set: Parquet shards with encoded images, which `datasets.load_dataset` reads as they are."""

import functools
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List
from datasets import Image as ImageFeature
from PIL import Image, ImageOps
from tqdm.auto import tqdm


REPORT_FILE = "report.json"
#: Small, because who wants one row reads a whole row group.
ROW_GROUP_ROWS = 100
SHARD_BYTES = 500_000_000
JPEG_QUALITY = 95
NUM_THREADS = 8


@dataclass
class SplitSummary:
    """What became of a split's rows: written and left out; sentences (the captions, or one a row), bytes on disk, and
    the broken images as {"file", "reason"} entries."""

    split: str
    rows: int = 0
    rows_left_out: int = 0
    sentences: int = 0
    bytes: int = 0
    broken: list[dict[str, str]] = field(default_factory=list)


def check_output(folder: str | os.PathLike, splits: Iterable[str], overwrite: bool = False) -> None:
    """Refuse a folder that already holds one of the splits, before any work is done.

    Raises:
        ValueError: if it does, and `overwrite` is not set.
    """
    for split in splits:
        if not overwrite and _find_shards(Path(folder), split):
            raise ValueError(
                f"{folder} already holds a prepared split {split!r}: choose another output folder, "
                "or pass --overwrite to replace it"
            )


def write_split(
    rows: Iterable[dict],
    features: Features,
    folder: str | os.PathLike,
    split: str,
    num_rows: int,
    shorter_side: int | None = None,
    max_broken: float = 0.01,
    overwrite: bool = False,
) -> SplitSummary:
    """Write one split as `<split>-00000-of-0000N.parquet`, rows in the order given.

    Images are stored as encoded bytes, bit for bit those of the source unless shrunk. A row with a missing or
    undecodable image is left out and its image listed in the folder's report.json. The shards get their names when all
    are complete; until then they lie in a hidden folder, which `load_dataset` passes over.

    Args:
        rows: dictionaries with the columns of `features`; an image is {"bytes": ..., "path": ...}, read from the path
            where the bytes are None.
        features: the schema; `Image` and `List(Image)` columns hold images.
        folder: the data set's folder, created if needed.
        split: train, validation or test.
        num_rows: how many rows there are.
        shorter_side: images whose shorter side has more pixels are shrunk to it and stored as JPEG; None: never.
        max_broken: the share of rows, from 0 to 1, that may be left out.
        overwrite: replace the split if the folder already holds it.

    Raises:
        ValueError: if the folder holds the split and `overwrite` is not set, if more than `max_broken` of the rows are
            broken (the report lists the images found until then), if no row is left, if a row has other columns than
            `features`, or if an argument is out of range.
    """
    if not 0 <= max_broken <= 1:
        raise ValueError(f"max_broken is {max_broken}: expected a share from 0 to 1")
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter_side is {shorter_side}: expected at least 1 pixel")
    folder = Path(folder)
    check_output(folder, [split], overwrite)
    summary = SplitSummary(split)
    unfinished = folder / f".unfinished-{split}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        progress = tqdm(rows, total=num_rows, desc=split, unit="row", disable=None)
        with _ShardWriter(unfinished, features.arrow_schema) as shards:
            for chunk in _prepare(progress, features, shorter_side, summary):
                _check_broken(summary, max_broken, num_rows, folder)
                shards.write(chunk)
        if not summary.rows:
            raise ValueError(f"split {split!r} has no rows with readable images: nothing to write to {folder}")
        summary.bytes = _publish(unfinished, folder, split)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _write_report(folder, summary)
    return summary


class _ShardWriter:
    """Writes chunks of rows as row groups, and starts another file when one has grown to `SHARD_BYTES`."""

    def __init__(self, folder: Path, schema: pa.Schema):
        self.folder, self.schema = folder, schema
        self.num_shards = 0
        self.writer: pq.ParquetWriter | None = None
        self.shard_bytes = 0

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, *exception) -> None:
        self._close()

    def write(self, rows: list[dict]) -> None:
        if not rows:
            return
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.folder / f"{self.num_shards:05d}", self.schema)
            self.num_shards += 1
        table = pa.Table.from_pylist(rows, schema=self.schema)
        self.writer.write_table(table)
        self.shard_bytes += table.nbytes
        if self.shard_bytes >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.shard_bytes = None, 0


def _prepare(
    rows: Iterable[dict], features: Features, shorter_side: int | None, summary: SplitSummary
) -> Iterator[list[dict]]:
    """Chunks of rows with their images read and checked; counts rows, sentences and broken images in the summary."""
    prepare_row = functools.partial(_prepare_row, features=features, shorter_side=shorter_side)
    rows = iter(rows)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while chunk := list(itertools.islice(rows, ROW_GROUP_ROWS)):
            kept = []
            for row, broken in pool.map(prepare_row, chunk):
                if broken:
                    summary.broken += broken
                    summary.rows_left_out += 1
                else:
                    kept.append(row)
            summary.rows += len(kept)
            summary.sentences += sum(len(row.get("captions", [None])) for row in kept)
            yield kept


def _prepare_row(row: dict, features: Features, shorter_side: int | None) -> tuple[dict, list[dict[str, str]]]:
    """The row with the bytes of its images, and its broken images."""
    if row.keys() != features.keys():
        raise ValueError(f"a row has the columns {', '.join(row)}: expected {', '.join(features)}")
    row, broken = dict(row), []
    for column, feature in features.items():
        is_list = isinstance(feature, List) and isinstance(feature.feature, ImageFeature)
        if not is_list and not isinstance(feature, ImageFeature):
            continue
        prepared = []
        for image in row[column] if is_list else [row[column]]:
            try:
                prepared.append(_prepare_image(image, shorter_side))
            # Pillow raises errors of many types on damaged files, SyntaxError and struct.error among them.
            except Exception as error:
                broken.append({"file": str(image["path"]), "reason": f"{type(error).__name__}: {error}"})
        row[column] = prepared if is_list else next(iter(prepared), None)
    return row, broken


def _prepare_image(image: dict, shorter_side: int | None) -> dict:
    """The image's bytes, decoded once to be sure of them, and its bare file name; shrunk if it is too large."""
    data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    name = image["path"] and Path(image["path"]).name
    with Image.open(io.BytesIO(data)) as opened:
        if shorter_side is None or min(opened.size) <= shorter_side:
            # A JPEG is decoded at an eighth of its size: all of its data is read all the same, in a fraction of the time.
            opened.draft(None, (1, 1))
            opened.load()
            return {"bytes": data, "path": name}
        # Only the pixels are stored, so the orientation that the camera noted has to be applied to them.
        pixels = ImageOps.exif_transpose(opened).convert("RGB")
    scale = shorter_side / min(pixels.size)
    buffer = io.BytesIO()
    pixels.resize([round(side * scale) for side in pixels.size], Image.Resampling.BICUBIC).save(
        buffer, format="JPEG", quality=JPEG_QUALITY
    )
    return {"bytes": buffer.getvalue(), "path": name and f"{Path(name).stem}.jpg"}


def _check_broken(summary: SplitSummary, max_broken: float, num_rows: int, folder: Path) -> None:
    if summary.rows_left_out <= max_broken * num_rows:
        return
    _write_report(folder, summary)
    first = summary.broken[0]
    raise ValueError(
        f"split {summary.split!r}: more than {max_broken:.2%} of {num_rows} rows have a missing or broken image, the "
        f"first {first['file']} ({first['reason']}). {folder / REPORT_FILE} lists those found so far; complete the "
        "source folder, or allow more with --max_broken"
    )


def _find_shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*-of-*.parquet"))


def _publish(unfinished: Path, folder: Path, split: str) -> int:
    """Give the finished shards their names, in place of the split's earlier ones. Returns their bytes."""
    for shard in _find_shards(folder, split):
        shard.unlink()
    shards = sorted(unfinished.iterdir())
    for index, shard in enumerate(shards):
        os.replace(shard, folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet")
    return sum(shard.stat().st_size for shard in _find_shards(folder, split))


def _write_report(folder: Path, summary: SplitSummary) -> None:
    path = folder / REPORT_FILE
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    report[summary.split] = {
        # A refused split was not written, however many of its rows had been read.
        "rows": summary.rows if summary.bytes else 0,
        "rows_left_out": summary.rows_left_out,
        "broken": summary.broken,
    }
    temporary = folder / f".{REPORT_FILE}"
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
