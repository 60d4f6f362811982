"""The columns of tables: Kepler Core's names for them, and the choice of the columns in a user's table."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from kepler_core.dataset import power_column
from kepler_core.errors import TableError, UsageError, close_matches
from kepler_core.messages import printable, quoted
from kepler_core.vocabulary import COMPONENTS, FEATURES

RECORDING, NODE, TIMESTAMP, CONTAINER, CONTAINER_NAME = KEY_COLUMNS = (
    "recording",
    "node",
    "timestamp",
    "container",
    "container_name",
)
"""The columns that tell which node, time and container a row belongs to. All of them are optional.

`recording` is the name of the recording that the row comes from, `container_name` the readable name of the
container."""

_SHOWN_CHARACTERS = 60
_SIMILAR = 0.85
"""Minimum similarity (see `difflib`) of two names at which one name counts as a misspelling of the other name."""


def dynamic_power_column(component: str) -> str:
    """Return the name of the column with a component's dynamic power in watts: power without background power."""
    return f"{component}_dynamic_power"


def background_power_column(component: str) -> str:
    """Return the name of the column with the watts that an isolator subtracted from the power of a row's node."""
    return f"{component}_background_power"


POWER_COLUMNS: Mapping[str, tuple[str, bool]] = {
    **{power_column(component): (component, False) for component in COMPONENTS},
    **{dynamic_power_column(component): (component, True) for component in COMPONENTS},
}
"""For each name of a power column, the component, and whether the column holds dynamic power."""


def parse_columns(pairs: Sequence[str], third_party: Collection[str]) -> dict[str, str]:
    """Read the values of the option `--column`. Return for each of Kepler Core's names the name in the user's table.

    A value is NAME=COLUMN. NAME is a key column, a feature, a metric of `third_party`, a power column, or a component.
    The name of a component is a short form of its power column. Raises `UsageError` if a value is malformed, or if a
    name or a column occurs twice.
    """
    known = [*KEY_COLUMNS, *FEATURES, *third_party, *COMPONENTS, *POWER_COLUMNS]
    columns: dict[str, str] = {}
    for pair in pairs:
        option = f"--column {printable(pair, _SHOWN_CHARACTERS)}"
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise UsageError(f"{option}: expected NAME=COLUMN, e.g. package_power=watts")
        if name not in known:
            hint = close_matches(name, known)
            own = "name your own features in the pipeline's key third_party"
            raise UsageError(f"{option}: {quoted(name)} is not a column name of Kepler Core; {hint} ({own})")
        name = power_column(name) if name in COMPONENTS else name
        if name in columns:
            raise UsageError(f"{option}: {name} is given twice")
        if column in columns.values():
            raise UsageError(f"{option}: the column {quoted(column)} is given twice")
        columns[name] = column
    return columns


def similar_name(column: str) -> str:
    """Return a hint if a column's name looks like a misspelled column name of Kepler Core, e.g. " (cpu_cycles?)".

    Return "" if there is no similar name, or if the name is correct.
    """
    known = {name.casefold(): name for name in (*KEY_COLUMNS, *FEATURES, *POWER_COLUMNS)}
    matches = difflib.get_close_matches(column.strip().casefold(), known, n=1, cutoff=_SIMILAR)
    return f" ({known[matches[0]]}?)" if matches and known[matches[0]] != column else ""


@attrs.frozen
class Chosen:
    """The columns of a table that are read."""

    columns: Mapping[str, str]
    """For each of Kepler Core's column names, the column's name in the table."""
    unused: tuple[str, ...]
    """Names of the columns that are not read, in order. Columns of background power are not listed."""


def choose(
    header: Sequence[str],
    names: Mapping[str, str],
    third_party: Iterable[str],
    table: str,
    *,
    needs_power: bool = True,
) -> Chosen:
    """Choose the columns to read from a table with the column names `header`.

    `names` is the result of `parse_columns`. A column that is not in `names` is read if it has one of Kepler Core's
    names. Raises `TableError` if the table lacks a column of `names` or `third_party`, or has two columns of the same
    name. With `needs_power`, also raises it if the table has no power.
    """
    if repeated := [name for name, times in Counter(header).items() if times > 1]:
        raise TableError(f"two columns have the name {quoted(repeated[0])}", document=table)
    for name, column in names.items():
        if column not in header:
            hint = close_matches(column, header)
            raise TableError(f"no column {quoted(column)}, which --column names for {name}; {hint}", document=table)
    own = [name for name in (*KEY_COLUMNS, *FEATURES, *POWER_COLUMNS) if name not in names]
    renamed = set(names.values())
    columns = {**names, **{name: name for name in own if name in header and name not in renamed}}
    for name in third_party:
        if name not in columns:
            if name not in header:
                hint = close_matches(name, header)
                raise TableError(f"no column {quoted(name)}, which third_party names; {hint}", document=table)
            columns[name] = name
    if needs_power and not any(name in POWER_COLUMNS for name in columns):
        shown = ", ".join(printable(column, _SHOWN_CHARACTERS) for column in header[:8])
        more = ", …" if len(header) > 8 else ""
        example = power_column(COMPONENTS[0])
        raise TableError(
            f"no column of power, e.g. {example} (watts); give it with --column {example}=COLUMN. "
            f"The table has {shown}{more}",
            document=table,
        )
    # `isolate` writes these columns for the user; training does not read them
    written = {background_power_column(component) for component in COMPONENTS}
    read = set(columns.values()) | written
    return Chosen(columns, tuple(column for column in header if column not in read))
