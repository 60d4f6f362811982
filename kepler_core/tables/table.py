"""Read a table: typed columns with Kepler Core's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from kepler_core.arrays import FloatArray
from kepler_core.errors import TableError, UsageError
from kepler_core.tables.columns import (
    CONTAINER,
    CONTAINER_NAME,
    KEY_COLUMNS,
    NODE,
    POWER_COLUMNS,
    RECORDING,
    TIMESTAMP,
    choose,
)
from kepler_core.tables.csv_files import read_csv
from kepler_core.tables.parquet_files import read_parquet
from kepler_core.tables.raw import Kind, RawTable, check_times

SUFFIXES = (".csv", ".parquet")


@attrs.frozen(eq=False)
class Table:
    """The rows of one file, in the order of the file. A row is a node or a container at one time."""

    name: str
    """Path of the file."""
    digest: str
    """SHA-256 of the file."""
    rows: int
    recording: Sequence[str]
    """Name of each row's recording; the path of the file if it has no column `recording`."""
    node: Sequence[str]
    """Name of each row's node; "" if the file has no column `node`."""
    time: FloatArray | None
    """Unix seconds of each row, shape (rows,); None if the file has no column `timestamp`."""
    container: Sequence[str] | None
    """Id of each row's container; None if the rows stand for whole nodes."""
    container_name: Sequence[str] | None
    """Readable name of each row's container; the id if the file has no column `container_name`."""
    features: Mapping[str, FloatArray]
    """Rates per second or gauge values of each feature, shape (rows,); NaN for an unknown value."""
    power: Mapping[str, FloatArray]
    """Watts of each component, shape (rows,); NaN for an unknown value."""
    columns: Mapping[str, str]
    """For each of Kepler Core's column names, the column's name in the file."""
    dynamic: bool
    """Whether `power` is dynamic power, from which an isolator has already subtracted the background power."""
    unused: tuple[str, ...]
    """Names of the file's columns that are not used."""
    place: Callable[[int], str]
    """Function that returns where a row is in the file, in words for messages. Rows are counted from 0."""


def check_suffix(name: str) -> str:
    """Return the suffix of a table's file name. Raises `UsageError` if it is not the suffix of a table format."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{name}: the name of a table must end in {' or '.join(SUFFIXES)}")
    return suffix


def read_table(name: str, columns: Mapping[str, str], third_party: Sequence[str], *, needs_power: bool = True) -> Table:
    """Read a table from a CSV or Parquet file.

    `columns` maps Kepler Core's names to names in the file (see `parse_columns`). `third_party` names further
    columns to use as features. Without `needs_power`, the table may have features only. Raises `TableError` or
    `UsageError` if the file is not a table with the named columns.
    """
    read = read_csv if check_suffix(name) == ".csv" else read_parquet
    chosen: dict[str, str] = {}
    unused: tuple[str, ...] = ()

    def kinds(header: Sequence[str]) -> Mapping[str, Kind]:
        nonlocal unused
        choice = choose(header, columns, third_party, name, needs_power=needs_power)
        chosen.update(choice.columns)
        unused = choice.unused
        return {column: _kind(own) for own, column in choice.columns.items()}

    raw = read(Path(name), kinds)
    if not raw.rows:
        raise TableError("the table has no rows", document=name)
    return _table(raw, chosen, unused)


def _kind(name: str) -> Kind:
    if name == TIMESTAMP:
        return "time"
    return "text" if name in KEY_COLUMNS else "number"


def _table(raw: RawTable, columns: Mapping[str, str], unused: tuple[str, ...]) -> Table:
    def texts(name: str) -> Sequence[str] | None:
        return raw.texts[columns[name]] if name in columns else None

    time = None
    if TIMESTAMP in columns:
        check_times(raw, columns[TIMESTAMP])
        time = raw.numbers[columns[TIMESTAMP]]
    container = texts(CONTAINER)
    power_columns = [name for name in columns if name in POWER_COLUMNS]
    dynamic = {POWER_COLUMNS[name][1] for name in power_columns}
    if len(dynamic) > 1:
        problem = f"has both measured and dynamic power ({', '.join(power_columns)}); remove one of them"
        raise TableError(problem, document=raw.document)
    if container is None and True in dynamic:
        problem = f"dynamic power ({power_columns[0]}) is the power of containers, but there is no column {CONTAINER}"
        raise TableError(problem, document=raw.document)
    if container is not None and time is None:
        problem = f"rows of containers need a column {TIMESTAMP}, which tells the rows that belong to one sample"
        raise TableError(problem, document=raw.document)
    return Table(
        name=raw.document,
        digest=raw.digest,
        rows=raw.rows,
        recording=texts(RECORDING) or [raw.document] * raw.rows,
        node=texts(NODE) or [""] * raw.rows,
        time=time,
        container=container,
        container_name=texts(CONTAINER_NAME) or container,
        features={
            name: raw.numbers[column]
            for name, column in columns.items()
            if name not in KEY_COLUMNS and name not in POWER_COLUMNS
        },
        power={POWER_COLUMNS[name][0]: raw.numbers[columns[name]] for name in power_columns},
        columns=columns,
        dynamic=True in dynamic,
        unused=unused,
        place=raw.place,
    )
