"""Reads the user's own .parquet files, as any program writes them."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, load_dataset

from .faults import Faults


def read_parquet(what: str, files: Sequence[str], faults: Faults) -> Dataset:
    """
    Return the rows of .parquet files; `what` is their name in messages. Columns of types that `datasets` does not know come as
    their plain counterparts (`plain`), or are left out and told to `faults`, which says so if the task needs them.

    Raises:
        ValueError: If a file cannot be read, the files have different columns, or no column can be read.
    """
    try:
        schema = pq.read_schema(files[0])
        features = known_columns(schema, faults)
        if features.keys() == set(schema.names) and all(plain(field.type) == field.type for field in schema):
            return load_dataset("parquet", split="train", data_files=list(files))
        table = pq.read_table(list(files), columns=list(features))
        table = pa.table(
            {name: cast(table[name], field.type) for name, field in zip(features, features.arrow_schema, strict=True)}
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{what} cannot be read ({str(cause).splitlines()[0]})") from error
    if not features:
        raise ValueError(f"{what}: {'; '.join(faults.unreadable_columns.values())}")
    return Dataset(table.replace_schema_metadata(features.arrow_schema.metadata))


def cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column with its values as this type."""
    # Not `cast`, which makes invalid lists of views.
    return values if values.type == kind else pa.chunked_array([pa.array(values.to_pylist(), kind)])


def known_columns(schema: pa.Schema, faults: Faults) -> Features:
    """Return the columns of a file and their types, without those of types that have no plain counterpart, which are told to
    `faults`."""
    known = {}
    for field in schema:
        one = pa.schema([field.with_type(plain(field.type))], schema.metadata)
        try:
            known |= Features.from_arrow_schema(one)
        except ValueError:
            expected = "expected texts, numbers, bytes, or lists or records of them"
            fault = f"column {field.name!r} has the type {field.type}, which is not read; {expected}"
            faults.unreadable_columns[field.name] = fault
    return Features(known)


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type with plain lists for views of lists, inside of others too."""
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_list(kind) and plain(kind.value_type) != kind.value_type:
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain(field.type)) for field in kind])
    return kind
