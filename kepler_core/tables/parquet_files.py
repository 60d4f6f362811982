"""Read tables from Parquet files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import TableError, missing_extra
from kepler_core.messages import reason_of
from kepler_core.tables.raw import (
    MAX_BYTES,
    MAX_ROWS,
    MAX_TEXT_CHARACTERS,
    ChooseKinds,
    Kind,
    RawTable,
    cell_error,
    check_header,
    read_bytes,
    time_of,
)

_MAX_REASON_CHARACTERS = 200


def read_parquet(path: Path, kinds: ChooseKinds) -> RawTable:
    """Read columns of a Parquet file.

    Numbers may be integers, floats or decimals. Times may be numbers (Unix seconds), timestamps (UTC if they have
    no time zone) or text in ISO 8601. Raises `TableError` if the file is no Parquet file, or a column has
    values of another kind than expected. Raises `MissingExtraError` if pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"{path} (Parquet)") or error from error
    content = read_bytes(path)
    document = str(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        header = list(file.schema_arrow.names)
        check_header(header, document)
        wanted = kinds(header)
        for name, kind in wanted.items():
            _check_type(file.schema_arrow.field(name).type, kind, document, name)
        _check_size(file.metadata, wanted, document)
        texts = [name for name, kind in wanted.items() if kind == "text"]
        # read_dictionary stores repeated texts once, so that a small compressed file cannot fill the memory
        table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts).read(columns=list(wanted))
        numbers, words = {}, {}
        for name, kind in wanted.items():
            if kind == "text":
                words[name] = _texts(table.column(name), document, name)
            else:
                numbers[name] = _numbers(table.column(name), document, name)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(
            f"not a Parquet file: {reason_of(error, _MAX_REASON_CHARACTERS)}", document=document
        ) from error
    return RawTable(document, tuple(header), table.num_rows, hashlib.sha256(content).hexdigest(), numbers, words)


def _check_type(of: Any, kind: Kind, document: str, name: str) -> None:
    """Raise `TableError` if a column of the Arrow type `of` cannot hold values of the kind `kind`.

    The types are checked before columns are read, because a column of lists may hold very many values in few rows.
    """
    from pyarrow import types

    value = of.value_type if types.is_dictionary(of) else of
    is_text = types.is_string(value) or types.is_large_string(value)
    if kind == "text":
        fits, expected = is_text or types.is_integer(value) or types.is_null(value), "text"
    else:
        fits = types.is_integer(value) or types.is_floating(value) or types.is_decimal(value)
        expected = "numbers"
        if kind == "time":
            fits, expected = fits or is_text or types.is_timestamp(value), "times"
    if not fits:
        raise TableError(f"the column {name} holds values of type {of}, not {expected}", document=document)


def _check_size(metadata: Any, names: Container[str], document: str) -> None:
    """Raise `TableError` if any part of a file's metadata states too many rows, values or bytes.

    The parts are the metadata of the file, of its row groups, and of the columns in `names`.
    """
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    read = [column for column in columns if column.path_in_schema in names]
    values = Counter[str]()
    for column in read:
        values[column.path_in_schema] += max(column.num_values, 0)
    if max(metadata.num_rows, *values.values(), sum(max(group.num_rows, 0) for group in groups)) > MAX_ROWS:
        raise TableError(f"more than {MAX_ROWS} rows", document=document)
    if max(sum(group.total_byte_size for group in groups), sum(column.total_uncompressed_size for column in read)) > (
        MAX_BYTES
    ):
        raise TableError(f"larger than {MAX_BYTES} bytes when it is unpacked", document=document)


def _numbers(column: Any, document: str, name: str) -> FloatArray:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    of = column.type
    if types.is_integer(of) or types.is_floating(of) or types.is_decimal(of):
        values: FloatArray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
        return values
    if types.is_timestamp(of):
        microseconds = column.cast(pa.timestamp("us", of.tz), safe=False).cast(pa.int64())
        seconds: FloatArray = microseconds.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e6
        return seconds
    return np.array([_time(text, row, document, name) for row, text in enumerate(column.to_pylist())])


def _time(text: str | None, row: int, document: str, name: str) -> float:
    try:
        return time_of(text or "")
    except ValueError as error:
        raise cell_error(document, f"row {row + 1}", name, str(error)) from None


def _texts(column: Any, document: str, name: str) -> list[str]:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    elif types.is_integer(column.type):
        column = column.cast(pa.string())
    if not types.is_dictionary(column.type):
        column = column.cast(pa.string()).combine_chunks().dictionary_encode()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    if not len(column):
        return []
    words = [str(word) for word in column.dictionary.to_pylist()]
    if any(len(word) > MAX_TEXT_CHARACTERS for word in words):
        raise TableError(
            f"the column {name} has a text of more than {MAX_TEXT_CHARACTERS} characters", document=document
        )
    return ["" if index is None else words[index] for index in column.indices.to_pylist()]
