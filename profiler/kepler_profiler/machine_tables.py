"""Read tables of measured machines: own measurements, or SPECpower_ssj2008 results as SPEC's website exports them.

Two forms of CSV files are read:

- One row for each machine and load, with the columns `load_pct` (0 = idle … 100), `power_w` (AC watts), `machine_id`
  and the machine's facts: `processor` or `cpu_name`, `tdp_w` (of one chip), `chips`, `cores`, `threads` (of the
  whole machine), `memory_gb`, `hw_year`, `vendor` (of the machine), and any of `EXTRA_FACTS`.
- SPEC's export: one row per machine; columns "Processor", "# Cores", "# Chips", "# Threads Per Core", "Memory (GB)",
  and "Average watts @ 100% of target load" … "Average watts @ active idle".

Facts that a file lacks come from the table of processors. A machine with impossible values is left out, with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import KeplerError, TableError
from kepler_core.messages import printable
from kepler_core.tables.csv_files import read_csv
from kepler_core.tables.raw import Kind, RawTable
from kepler_profiler.machine_description import MachineDescription
from kepler_profiler.processors import Processor, lookup

EXTRA_FACTS = ("frequency_mhz", "dimm_count", "l3_mb", "psu_count", "psu_rating_w", "disk_count")
"""Further facts about a machine that tree ensembles use if the table has them."""

_NUMBERS = ("load_pct", "power_w", "tdp_w", "chips", "cores", "threads", "memory_gb", "hw_year", *EXTRA_FACTS)
_TEXTS = ("machine_id", "processor", "cpu_name", "vendor", "config_group", "cpu_model", "form_factor", "architecture")
_NEEDED = ("load_pct", "power_w")
_HIGHEST_WATTS = 200_000.0
_FIRST_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_SPEC_WATTS = re.compile(r"average watts @ (?:([0-9]{1,3})% of target load|active idle)", re.IGNORECASE)
_FIRST_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SHOWN_CHARACTERS = 60
_SHOWN_MACHINES = 5


@attrs.frozen(eq=False)
class MeasuredMachine:
    """A machine with its measured power."""

    name: str
    description: MachineDescription
    loads: FloatArray
    """Loads from 0 (idle) to 1 in ascending order, shape (loads,)."""
    watts: FloatArray
    """AC power at each load in watts, shape (loads,)."""
    facts: Mapping[str, float]
    """The values of the known facts among `EXTRA_FACTS`, by name."""
    words: Mapping[str, str]
    """Facts about the machine that are words, if the table has them: vendor, form_factor, architecture …"""


@attrs.frozen(eq=False)
class MachineTable:
    """The machines in a table, and the reasons why other machines were left out."""

    machines: tuple[MeasuredMachine, ...]
    left_out: tuple[str, ...]
    """One line for each machine that was left out."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user: how many machines were left out, and the reasons for the first few of these machines."""
        if not self.left_out:
            return ()
        more = len(self.left_out) - _SHOWN_MACHINES
        shown = (*self.left_out[:_SHOWN_MACHINES], *([f"and {more} more"] if more > 0 else []))
        return (f"{len(self.left_out)} machines are left out:", *(f"  {line}" for line in shown))


def read_machines(path: str | Path) -> MachineTable:
    """Read a table of measured machines. Raises `TableError` if the file has neither of the two forms."""
    is_spec = False

    def kinds(header: Sequence[str]) -> Mapping[str, Kind]:
        nonlocal is_spec
        names = [name.strip() for name in header]
        is_spec = any(_SPEC_WATTS.fullmatch(name) for name in names)
        if is_spec:
            return dict.fromkeys(header, "text")
        if missing := [name for name in _NEEDED if name not in header]:
            problem = f"no column {missing[0]!r}; a table of machines has load_pct, power_w and facts about the machine"
            raise TableError(f"{problem}, or is an export of SPECpower_ssj2008 results", document=str(path))
        numbers: dict[str, Kind] = {name: "number" for name in _NUMBERS if name in header}
        return {**numbers, **{name: "text" for name in _TEXTS if name in header}}

    raw = read_csv(Path(path), kinds)
    rows = _of_spec(raw) if is_spec else _of_tidy(raw)
    machines: list[MeasuredMachine] = []
    left_out: list[str] = []
    for name, make in rows:
        try:
            machines.append(make())
        except (KeplerError, ValueError) as error:
            left_out.append(f"{printable(name, _SHOWN_CHARACTERS)}: {error}")
    if not machines:
        reason = left_out[0] if left_out else "the table has no rows"
        raise TableError(f"no machine can be used: {reason}", document=str(path))
    return MachineTable(tuple(machines), tuple(left_out))


_Rows = Iterator[tuple[str, Callable[[], MeasuredMachine]]]


def _of_tidy(raw: RawTable) -> _Rows:
    """Yield the name of each machine, and a function that returns the machine. The table has one row per load."""
    names = raw.texts.get("machine_id") or raw.texts.get("processor") or raw.texts.get("cpu_name") or [""] * raw.rows
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    for name, own in rows.items():
        yield name, lambda name=name, own=own: _tidy_machine(raw, name, own)  # type: ignore[misc]


def _tidy_machine(raw: RawTable, name: str, rows: list[int]) -> MeasuredMachine:
    numbers = {column: values[rows] for column, values in raw.numbers.items()}
    words = {column: values[rows[0]] for column, values in raw.texts.items() if values[rows[0]]}
    for column, values in numbers.items():
        if column not in _NEEDED and len(np.unique(values[np.isfinite(values)])) > 1:
            raise ValueError(f"the rows of the machine have several values of {column}")
    facts = {column: float(values[0]) for column, values in numbers.items() if np.isfinite(values[0])}
    processor_name = words.get("processor") or words.get("cpu_name") or ""
    order = np.argsort(numbers["load_pct"], kind="stable")
    return _machine(name, processor_name, facts, words, numbers["load_pct"][order] / 100, numbers["power_w"][order])


def _of_spec(raw: RawTable) -> _Rows:
    """Yield the name of each machine in SPEC's export, and a function that returns the machine."""
    columns = {name.strip().casefold(): values for name, values in raw.texts.items()}
    for row in range(raw.rows):
        cells = {name: values[row].strip() for name, values in columns.items()}
        system = f"{cells.get('hardware vendor', '')} {cells.get('system', '')}".strip()
        yield f"{system} ({raw.place(row)})", lambda cells=cells, row=row: _spec_machine(raw, cells, row)  # type: ignore[misc]


def _spec_machine(raw: RawTable, cells: Mapping[str, str], row: int) -> MeasuredMachine:
    watts = {
        float(level[1] or 0) / 100: _number(cells[name]) for name in cells if (level := _SPEC_WATTS.fullmatch(name))
    }
    if cells.get("result") in ("0", "0.0", "NC"):
        raise ValueError("SPEC marks the result as not compliant")
    facts = {
        "chips": _number(cells.get("# chips", "")),
        "cores": _number(cells.get("# cores", "")),
        "memory_gb": _number(cells.get("memory (gb)", "")),
        "frequency_mhz": _number(cells.get("processor mhz", "")),
    }
    facts["threads"] = facts["cores"] * (_number(cells.get("# threads per core", "")) or 1)
    available = cells.get("hw avail") or cells.get("hardware availability") or cells.get("hardware avail") or ""
    if year := _FIRST_YEAR.search(available):
        facts["hw_year"] = float(year[0])
    known = {name: value for name, value in facts.items() if math.isfinite(value)}
    loads = np.array(sorted(watts))
    words = {"vendor": cells.get("hardware vendor", ""), "processor": cells.get("processor", "")}
    words = {name: word for name, word in words.items() if word}
    return _machine(
        f"{cells.get('system', '')} {raw.place(row)}", cells.get("processor", ""), known, words, loads,
        np.array([watts[load] for load in loads]),
    )  # fmt: skip


def _number(text: str) -> float:
    """Return the first number in a cell, e.g. 16 for "16 (2 x 8)"; NaN if there is none."""
    number = _FIRST_NUMBER.search(text.replace(",", ""))
    return float(number[0]) if number else math.nan


def _machine(
    name: str,
    processor_name: str,
    facts: Mapping[str, float],
    words: Mapping[str, str],
    loads: FloatArray,
    watts: FloatArray,
) -> MeasuredMachine:
    _check_curve(loads, watts)
    processor = lookup(processor_name) if processor_name else None
    description = MachineDescription(
        threads=_count(facts, "threads") or _of(processor, "threads", facts),
        cores=_count(facts, "cores") or _of(processor, "cores", facts) or None,
        chips=_count(facts, "chips"),
        tdp_watts=facts.get("tdp_w") or (None if processor is None else processor.tdp_watts),
        memory_gib=facts.get("memory_gb"),
        year=_count(facts, "hw_year") or (None if processor is None else processor.year),
        vendor=_processor_vendor(processor, processor_name),
        client=processor is not None and processor.client,
    )
    extra = {fact: facts[fact] for fact in EXTRA_FACTS if fact in facts}
    return MeasuredMachine(name, description, loads, watts, extra, words)


def _check_curve(loads: FloatArray, watts: FloatArray) -> None:
    if not np.all(np.isfinite(loads)) or loads.min() < 0 or loads.max() > 1:
        raise ValueError("a load is not between 0 and 100 %")
    if not np.all(np.isfinite(watts)) or watts.min() <= 0 or watts.max() > _HIGHEST_WATTS:
        raise ValueError(f"power is missing, or not between 0 and {_HIGHEST_WATTS:g} W")
    if watts[np.argmax(loads)] < 0.8 * watts[np.argmin(loads)]:
        raise ValueError("the highest load draws less power than the lowest load")


def _count(facts: Mapping[str, float], name: str) -> int | None:
    return round(facts[name]) if facts.get(name) else None


def _of(processor: Processor | None, name: str, facts: Mapping[str, float]) -> int:
    """Return the number of cores or threads of all chips, from the row of the processor table.

    Return 0 if the number of cores is not known. Raises `ValueError` if the number of threads is not known.
    """
    number = getattr(processor, name, None)
    if number is None:
        if name == "cores":
            return 0
        raise ValueError("the number of threads is missing, and the processor is not in the table of processors")
    return int(number) * (_count(facts, "chips") or 1)


def _processor_vendor(processor: Processor | None, name: str) -> str | None:
    if processor is not None:
        return processor.vendor
    words = name.casefold().replace("(r)", " ").split()
    for vendor, marks in {"intel": ("intel", "xeon", "pentium"), "amd": ("amd", "opteron", "epyc")}.items():
        if any(mark in words for mark in marks):
            return vendor
    return None
