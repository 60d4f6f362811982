"""The files of a sample store: names, headers, reading and writing.

<folder>/<n>.parquet           the samples that fetch n added
<folder>/<n>.base.parquet      the samples that are kept of fetches 1 … n
<folder>/<n>.parquet.damaged   a file that could not be read; its time range must be fetched again
<folder>/<n>.parquet.lost      a damaged file whose time range has been fetched again
"""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from kepler_core.atomic_files import flush_folder, whole_file
from kepler_core.documents import decode_json
from kepler_core.errors import KeplerError

LAYOUT = 1
_HEADER_KEY = b"kepler"
"""The key of the header in a Parquet file's metadata."""
_NAME = re.compile(r"([1-9][0-9]{0,11})(\.base)?\.parquet(\.damaged)?")
_PARTIAL_NAME = re.compile(rf"\.{_NAME.pattern}\.part")
_DAMAGED, _LOST = ".damaged", ".lost"


class SampleStoreError(KeplerError):
    """The sample store cannot be read or written."""


class FileHeader(msgspec.Struct):
    """Metadata of a sample file, stored in the file itself."""

    layout: int
    since: float
    until: float
    """The file is complete up to this time, Unix seconds."""
    seen: int
    """Samples ever added, without replacements."""
    step: float | None = None
    """Seconds between a node's samples as they were fetched; null if there were too few to tell."""


@attrs.frozen
class FileName:
    """A parsed file name."""

    number: int
    is_base: bool
    is_damaged: bool

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """Parse a file name; None if it is not a sample file's name."""
        if (match := _NAME.fullmatch(name)) is None:
            return None
        return cls(int(match[1]), bool(match[2]), bool(match[3]))


@attrs.frozen
class SampleFile:
    """One readable file of a sample store."""

    number: int
    is_base: bool
    path: Path
    header: FileHeader
    size: int
    """Bytes."""


def is_partial(name: str) -> bool:
    """Return whether a file of this name was being written when its process was killed."""
    return _PARTIAL_NAME.fullmatch(name) is not None


def list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder, sorted; an absent folder is empty."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def read_header(path: Path) -> FileHeader:
    """Read a file's header; `SampleStoreError` for an unknown layout."""
    metadata: dict[bytes, bytes] | None = pq.read_schema(path).metadata
    header = decode_json((metadata or {}).get(_HEADER_KEY, b""), FileHeader)
    if header.layout != LAYOUT:
        raise SampleStoreError(f"{path}: layout {header.layout}; this kepler-core reads {LAYOUT}")
    return header


def write_file(folder: Path, number: int, table: pa.Table, header: FileHeader, *, is_base: bool = False) -> SampleFile:
    """Write a table and its header to a new file, atomically; the folder is created if needed."""
    path = folder / f"{number}{'.base' if is_base else ''}.parquet"
    with_header = table.replace_schema_metadata({_HEADER_KEY: msgspec.json.encode(header)})
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        pq.write_table(with_header, file, compression="zstd")
    flush_folder(folder)
    return SampleFile(number, is_base, path, header, path.stat().st_size)


def mark_damaged(path: Path) -> None:
    """Rename a file that cannot be read."""
    path.rename(path.with_name(path.name + _DAMAGED))


def mark_all_lost(folder: Path) -> None:
    """Rename the damaged files, after their time range has been fetched again."""
    for path in sorted(folder.glob(f"*.parquet{_DAMAGED}")):
        path.replace(path.with_name(path.name.removesuffix(_DAMAGED) + _LOST))
