"""Reads the user's own .tar files in WebDataset's layout as a table: a sample is a row, whatever its members are."""

import functools
import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import pyarrow as pa
from datasets import Dataset, Features, Image, Value

from ...processing.decoding import image_endings
from .columns import column_of, replace_column
from .faults import Faults
from .tables import json_column
from .web_samples import DAMAGE, CutOff, KeptTarInfo, content_of, ending_of, files_in, reason_of, text_of


#: Rows that are written to the cache of `datasets` at a time: images are large.
WRITTEN = 50


@dataclass
class Sample:
    """A sample of a .tar file: its name, and where the contents of its members are, by ending: offset and length in bytes.
    If the file is damaged behind it, it has no members and a `fault`."""

    file: str
    key: str
    members: dict[str, tuple[int, int]]
    fault: str | None = None

    def __str__(self) -> str:
        return f"{self.key} of {os.path.basename(self.file)}" if self.key else self.file


def read_own_tars(files: Sequence[str], faults: Faults) -> Dataset:
    """
    Return the samples of .tar files as a table with undecoded images. Columns are the endings of members, and `__key__`, the
    names of samples. Only columns that the task uses have values; one of images stands for other formats too. Texts are
    decoded and stripped; `.json` members are parsed. `datasets` keeps a copy of the images in its cache.

    Members of one name are one sample, even if others lie between them. Add to `faults` the samples with text that is not
    UTF-8 or JSON, and a row for each file that is damaged. Raise `ValueError` if there is no sample.
    """
    samples = [sample for file in files for sample in samples_in(file)]
    if all(sample.fault for sample in samples):
        reason = f"damaged: {samples[0].fault}" if samples else "nothing in it"
        raise ValueError(f"{files[0]}: no samples in WebDataset's layout ({reason})")
    endings = list(dict.fromkeys(ending for sample in samples for ending in sample.members))
    chosen = {column: members_of(column, samples) for column in wanted_columns(endings, faults)}
    chosen = {column: own for column, own in chosen.items() if any(own)}
    data = copied(samples, chosen, files)
    for column in chosen:
        if not is_image(column):
            data = with_texts(data, column, faults)
    faults.name_of_row = lambda row: in_words(samples[row], chosen, row)
    for row, sample in enumerate(samples):
        if sample.fault:
            faults.add_unreadable("damaged file", row, f"the file is damaged: {sample.fault}")
    for ending in endings:
        if ending not in data.column_names:
            data = data.add_column(ending, pa.nulls(len(data)))
    return data


def samples_in(file: str) -> list[Sample]:
    """Return the samples of a .tar file in the order of their first members; if the file is damaged, the last one says so.
    A second member of the same name begins another sample."""
    samples, latest, last = [], {}, None
    try:
        with tarfile.open(file, "r:*", tarinfo=KeptTarInfo) as archive:
            for key, ending, member in files_in(archive):
                last = latest.get(key)
                if last is None or ending in last.members:
                    last = latest[key] = Sample(file, key, {})
                    samples.append(last)
                last.members[ending] = member.offset_data, member.size
    except DAMAGE as error:
        # The last member may be incomplete, unless the file ends between two.
        if last and not isinstance(error, CutOff):
            samples.remove(last)
        samples.append(Sample(file, "", {}, reason_of(error)))
    return samples


def is_image(column: str) -> bool:
    """Return whether the members of a column are images."""
    return column.lower().rpartition(".")[2] in image_endings()


def wanted_columns(endings: Sequence[str], faults: Faults) -> list[str]:
    """Return the columns of members that the task uses, as the user calls them: all if it does not say."""
    if faults.wanted is None:
        return list(endings)
    # A field of a .json member.
    fields = [name.partition(".")[0] for name in faults.wanted if name.lower() not in endings and not is_image(name)]
    return [name for name in dict.fromkeys([*faults.wanted, *fields]) if name != "__key__"]


def members_of(column: str, samples: Sequence[Sample]) -> list[str | None]:
    """Return the ending of the column's member in each sample. An image in another format stands for it, unless a sample has
    both, such as a photo and a mask."""
    name, of_images = column.lower(), is_image(column)
    beside = {ending for sample in samples if name in sample.members for ending in sample.members}
    return [
        ending_of(name, [own for own in sample.members if own == name or own not in beside], of_images)
        for sample in samples
    ]


def copied(samples: list[Sample], chosen: dict[str, list[str | None]], files: Sequence[str]) -> Dataset:
    """Return a table of the contents of the chosen members: undecoded images, and bytes. It is made once, until a file changes."""
    states = [(os.path.abspath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    # The number changes with what this function writes.
    state = json.dumps([1, states, {column: hash_of(own) for column, own in chosen.items()}])
    features = {column: Image(decode=False) if is_image(column) else Value("binary") for column in chosen}
    return Dataset.from_generator(
        functools.partial(contents, samples, chosen),
        features=Features({"__key__": Value("string"), **features}),
        fingerprint=hashlib.sha256(state.encode()).hexdigest()[:32],
        writer_batch_size=WRITTEN,
    )


def hash_of(endings: Sequence[str | None]) -> str:
    """Return a digest of the endings of a column."""
    return hashlib.sha256(json.dumps(endings).encode()).hexdigest()


def contents(samples: list[Sample], chosen: dict[str, list[str | None]]) -> Iterator[dict]:
    """Yield the contents of the chosen members of each sample; `None` for those that it lacks."""
    for file, group in itertools.groupby(enumerate(samples), key=lambda pair: pair[1].file):
        own = list(group)
        # A damaged file may have none that can be opened.
        with tarfile.open(file, "r:*") if own[0][1].members else nullcontext() as archive:
            for row, sample in own:
                values = {"__key__": sample.key or None}
                for column, endings in chosen.items():
                    values[column] = None
                    if ending := endings[row]:
                        content = content_of(archive, *sample.members[ending])
                        path = f"{sample.key}.{ending}"
                        values[column] = {"bytes": content, "path": path} if is_image(column) else content
                yield values


def with_texts(data: Dataset, column: str, faults: Faults) -> Dataset:
    """Return the data with texts, or the values of JSON, for the bytes in a column; add the rows to `faults` that are neither."""
    is_json, values = column.lower().rpartition(".")[2] == "json", []
    for row, content in enumerate(column_of(data, column).to_pylist()):
        try:
            text = None if content is None else text_of(content)
            values.append(json.loads(text) if is_json and text is not None else text)
        except (json.JSONDecodeError, RecursionError) as error:
            faults.add_unreadable("json", row, f"member {column} is not JSON ({error})")
            values.append(None)
        except ValueError as error:
            faults.add_unreadable("encoding", row, f"member {column} is {error}")
            values.append(None)
    made = json_column(values, column, faults) if is_json else pa.array(values, pa.string())
    return data.remove_columns(column) if made is None else replace_column(data, column, made)


def in_words(sample: Sample, chosen: dict[str, list[str | None]], row: int) -> str:
    """Return the name of a sample for messages, and its members if it lacks one that the task uses."""
    if sample.fault or all(endings[row] for endings in chosen.values()):
        return str(sample)
    return f"{sample}, which has only {', '.join(sample.members)}"
