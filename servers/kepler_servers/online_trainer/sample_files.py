"""The files of a sample store: their names, their headers, and functions that read and write them.

<folder>/<n>.parquet           the samples that the n-th fetch added
<folder>/<n>.base.parquet      the samples of fetches 1 … n in one file, without samples that were thinned out
<folder>/<n>.parquet.damaged   a file that could not be read; its samples must be fetched again
<folder>/<n>.parquet.lost      a file that could not be read; its samples have been fetched again
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import attrs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kepler_core.atomic_files import flush_folder, make_folders, whole_file
from kepler_core.documents import MAX_NUMBER, DocumentError, Number, decode_json
from kepler_core.errors import KeplerError

LAYOUT = 1
KEY_SCHEMA = pa.schema([("node", pa.string()), ("time", pa.float64()), ("complete", pa.int64())])
"""The columns `node` and `time`, which identify a sample, and `complete`, the number of values that the sample has."""
_HEADER_KEY = b"kepler"
"""Key in the metadata of a Parquet file under which its `FileHeader` is stored."""
_NAME = re.compile(r"([1-9][0-9]{0,11})(\.base)?\.parquet(\.damaged)?")
_PARTIAL_NAME = re.compile(rf"\.{_NAME.pattern}\.part")
_DAMAGED, _LOST = ".damaged", ".lost"


class SampleStoreError(KeplerError):
    """Raised if a sample store cannot be read or written."""


class FileHeader(msgspec.Struct):
    """Header of a sample file, stored in the metadata of the Parquet file."""

    layout: int
    since: Number
    until: Number
    """Time up to which all samples had been fetched when the file was written, Unix seconds."""
    seen: Annotated[int, msgspec.Meta(ge=0, lt=MAX_NUMBER)]
    """Number of samples that the fetches in this file have added to the store.

    The number includes samples that were removed afterwards, but no samples that replaced a stored sample.
    """
    step: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Interval between a node's samples at the time of the fetch, in seconds; null if no node had two samples."""


@attrs.frozen
class FileName:
    """The name of a sample file, divided into its parts."""

    number: int
    is_base: bool
    is_damaged: bool

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """Parse the name of a sample file; return None for any other name."""
        if (match := _NAME.fullmatch(name)) is None:
            return None
        return cls(int(match[1]), bool(match[2]), bool(match[3]))


@attrs.frozen
class SampleFile:
    """A readable file of a sample store, with its header."""

    number: int
    is_base: bool
    path: Path
    header: FileHeader
    size: int
    """Size of the file in bytes."""


def is_partial(name: str) -> bool:
    """Return whether `name` is the name of a temporary file that a killed process has left behind."""
    return _PARTIAL_NAME.fullmatch(name) is not None


def list_folder(folder: Path) -> list[Path]:
    """Return the sorted paths of all files in a folder; an absent folder counts as empty."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def read_keys(path: Path) -> pa.Table:
    """Read a whole sample file, and return the columns that `KEY_SCHEMA` lists.

    Raises `DocumentError` if one of these columns is missing or contains null, or if a time is not finite.
    """
    table = pq.read_table(path)
    if missing := set(KEY_SCHEMA.names) - set(table.column_names):
        raise DocumentError(f"no column {min(missing)}")
    keys = table.select(KEY_SCHEMA.names).cast(KEY_SCHEMA)
    if any(column.null_count for column in keys.columns) or not np.isfinite(keys.column("time").to_numpy()).all():
        raise DocumentError("a sample has no node or no time")
    return keys


def read_header(path: Path) -> FileHeader:
    """Read the header of a sample file. Raises `SampleStoreError` if the layout of the file is unknown."""
    metadata: dict[bytes, bytes] | None = pq.read_schema(path).metadata
    header = decode_json((metadata or {}).get(_HEADER_KEY, b""), FileHeader)
    if header.layout != LAYOUT:
        raise SampleStoreError(f"{path}: layout {header.layout}; this kepler-core reads {LAYOUT}")
    return header


def write_file(folder: Path, number: int, table: pa.Table, header: FileHeader, *, is_base: bool = False) -> SampleFile:
    """Write a table of samples and its header atomically to a new sample file.

    `number` is the <n> in the file's name. The folder is created if it does not exist.
    """
    path = folder / f"{number}{'.base' if is_base else ''}.parquet"
    with_header = table.replace_schema_metadata({_HEADER_KEY: msgspec.json.encode(header)})
    make_folders(folder)
    with whole_file(path) as file:
        pq.write_table(with_header, file, compression="zstd")
    flush_folder(folder)
    return SampleFile(number, is_base, path, header, path.stat().st_size)


def mark_damaged(path: Path) -> None:
    """Add the suffix `.damaged` to the name of a file that cannot be read."""
    path.rename(path.with_name(path.name + _DAMAGED))


def mark_all_lost(folder: Path) -> None:
    """Rename all `.damaged` files to `.lost`, because their time range has been fetched again."""
    for path in sorted(folder.glob(f"*.parquet{_DAMAGED}")):
        path.replace(path.with_name(path.name.removesuffix(_DAMAGED) + _LOST))
