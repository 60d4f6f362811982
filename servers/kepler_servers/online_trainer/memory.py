"""The training memory: instants on the disk, each counted once, bounded, whole after any interruption.

    <folder>/<n>.parquet         what fetch n added
    <folder>/<n>.base.parquet    all that stays of what fetches 1 … n added

    <folder>/<n>.parquet.damaged   could not be read; its time is to be fetched again
    <folder>/<n>.parquet.lost      the same, and that has been done

A file is written under another name, flushed and renamed. How far the data go is in the files themselves,
so rows and cursor change in one step: after a kill, what was not renamed has not happened, and is
fetched again. An instant that is there already is left out, unless it is more complete now.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kepler_core.arrays import IntArray
from kepler_core.atomic_files import flush_folder, whole_file
from kepler_core.errors import KeplerError
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer import instants
from kepler_servers.online_trainer.strata import choose

log = logging.getLogger(__name__)

LAYOUT = 1
SEGMENTS = 32
"""So many small files are joined into one."""
MOST_INSTANTS = 20_000
MOST_BYTES = 256 * 2**20
_SLACK = 1.1
"""The memory may be this much too large until it is cut: cutting rewrites all of it."""
_REACH_STEPS = 2
"""A node's newest instant waits for the next one; so it must be within reach then."""
_KEY = b"kepler"
_KEYS = ["node", "time", "complete"]
"""Columns that tell which instants are there."""
_FILE = re.compile(r"([1-9][0-9]{0,11})(\.base)?\.parquet(\.damaged)?")
_PART = re.compile(rf"\.{_FILE.pattern}\.part")
_DAMAGED, _LOST = ".damaged", ".lost"


class TrainingMemoryError(KeplerError):
    """The training memory cannot be read or written."""


class _Header(msgspec.Struct):
    """What a file says of itself."""

    layout: int
    since: float
    until: float
    """All that the server had up to then is in, Unix seconds."""
    seen: int
    """Instants that were ever added, replacements not counted."""
    step: float | None = None
    """Seconds between a node's samples, as they were fetched; null where there were too few to tell."""


@attrs.frozen
class _File:
    number: int
    base: bool
    path: Path
    header: _Header
    size: int


@attrs.frozen
class Added:
    """What became of a fetch's instants."""

    added: int = 0
    replaced: int = 0
    """There before, and more complete now."""
    known: int = 0
    """There before."""
    unusable: int = 0
    """Without any feature or any power."""
    waiting: int = 0
    """A node's newest: what follows is needed to judge it."""
    fresh: IntArray = attrs.field(factory=lambda: np.empty(0, dtype=np.int64), eq=False, repr=False)
    """The numbers of the added instants in the observations."""


class TrainingMemory:
    """One folder. Only one process may write to it."""

    def __init__(
        self,
        folder: Path,
        *,
        overlap: float = 120.0,
        most_instants: int = MOST_INSTANTS,
        most_bytes: int = MOST_BYTES,
        only_read: bool = False,
    ) -> None:
        """`overlap`: see `reach`. With `only_read` nothing is changed, not even a damaged file set aside:
        the memory is another process'."""
        self._only_read = only_read
        self.folder = folder
        self.overlap = overlap
        self.most_instants = most_instants
        self.most_bytes = most_bytes
        self._files: list[_File] = []
        self._known: dict[str, dict[float, int]] = {}
        self._lost_from: int | None = None
        """The number of the first file whose time is to be fetched again."""
        self.damaged: list[str] = []
        """Files that could not be read and were set aside."""
        self.refresh()

    # --- reading ---

    def refresh(self) -> None:
        """Read what is in the folder."""
        with self._errors("read"):
            found, lost = [], []
            keys: dict[Path, pa.Table] = {}
            for entry in self._entries():
                if (match := _FILE.fullmatch(entry.name)) is None:
                    continue
                number, base = int(match[1]), bool(match[2])
                if match[3]:
                    lost.append(number)
                    continue
                try:
                    header = _header(entry)
                    keys[entry] = pq.read_table(entry).select(_KEYS)
                    found.append(_File(number, base, entry, header, entry.stat().st_size))
                except FileNotFoundError:
                    pass  # its owner has just joined it with others
                except PermissionError:
                    raise
                except (pa.ArrowException, OSError, msgspec.DecodeError) as error:
                    self._set_aside(entry, error)
                    lost.append(number)
            newest_base = max((file.number for file in found if file.base), default=0)
            # what a base holds already is there twice only if we were killed while removing it
            self._files = sorted(
                (f for f in found if (f.base and f.number == newest_base) or (not f.base and f.number > newest_base)),
                key=lambda file: file.number,
            )
            self._lost_from = min((number for number in lost if number > newest_base), default=None)
            self._known = {}
            for file in self._files:
                self._learn(keys[file.path])
            if not self._only_read:
                self._remove_left_over(newest_base)

    def look_again(self) -> None:
        """After an error: set aside what cannot be read any more, if all is still there. (A disk that is
        away is no reason to forget what is on it.)"""
        if all(file.path.exists() for file in self._files):
            self.refresh()

    def _entries(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def _set_aside(self, path: Path, error: Exception) -> None:
        self.damaged.append(path.name)
        log.error("%s is damaged and left out: %s", path, " ".join(str(error).split())[:200])
        if not self._only_read:
            with contextlib.suppress(OSError):
                path.rename(path.with_name(path.name + _DAMAGED))

    def _remove_left_over(self, newest_base: int) -> None:
        """What we were killed over: files that were being written, and such that a base holds."""
        kept = {file.path for file in self._files}
        for entry in self._entries():
            match = _FILE.fullmatch(entry.name)
            joined = match is not None and int(match[1]) <= newest_base and entry not in kept
            if joined or _PART.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # then the next time
                    entry.unlink()

    def _learn(self, table: pa.Table) -> None:
        times, complete = table.column("time").to_pylist(), table.column("complete").to_pylist()
        for node, time, known in zip(table.column("node").to_pylist(), times, complete, strict=True):
            self._known.setdefault(node, {})[time] = known

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.size for file in self._files)

    @property
    def files(self) -> int:
        return len(self._files)

    @property
    def instants(self) -> int:
        return sum(map(len, self._known.values()))

    @property
    def seen(self) -> int:
        """Instants that were ever added."""
        return sum(file.header.seen for file in self._files)

    @property
    def nodes(self) -> dict[str, int]:
        """Node -> instants."""
        return {node: len(times) for node, times in sorted(self._known.items())}

    def newest(self) -> dict[str, float]:
        """Node -> time of its newest instant."""
        return {node: max(times) for node, times in self._known.items() if times}

    @property
    def step(self) -> float:
        """Seconds between a node's samples, as they are fetched lately (in the memory instants may be
        farther apart: some were thinned out); NaN where that is not known."""
        known = [file.header.step for file in self._files if file.header.step is not None]
        return known[-1] if known else float("nan")

    @property
    def reach(self) -> float:
        """Instants that are so many seconds older than the newest fetch are still taken (samples come
        late), and never thinned out: the overlap, but at least two steps."""
        return max(self.overlap, _REACH_STEPS * self.step) if np.isfinite(self.step) else self.overlap

    def cursor(self, now: float) -> float | None:
        """Up to when all is in; None at the beginning. What claims to be from after `now` was fetched
        while a clock was wrong, and says nothing. What a damaged file held is not in until it was asked
        for again."""
        known = [f for f in self._files if self._lost_from is None or f.number < self._lost_from]
        return max((file.header.until for file in known if file.header.until <= now), default=None)

    @property
    def has_lost(self) -> bool:
        """Whether what a damaged file held is still to be fetched again."""
        return self._lost_from is not None

    def fetched_again(self) -> None:
        """All that the server has since `cursor` was asked for, and what there was of it was added."""
        if self._lost_from is None:
            return
        with self._errors("write"):
            for path in sorted(self.folder.glob(f"*.parquet{_DAMAGED}")):
                path.replace(path.with_name(path.name.removesuffix(_DAMAGED) + _LOST))
        self._lost_from = None

    def table(self) -> pa.Table:
        """All instants, sorted by node and time."""
        with self._errors("read"):
            if not self._files:
                return pa.table({"node": pa.array([], pa.string()), "time": pa.array([], pa.float64())})
            return instants.joined([_read(file.path) for file in self._files])

    # --- writing ---

    def append(self, observations: Observations, *, since: float, until: float, node_type: int = 0) -> Added:
        """Add what is new of a fetch of all samples between two times; on any error nothing is."""
        complete = instants.completeness(observations)
        time = observations.sample_time
        wanted = np.zeros(len(time), dtype=bool)
        cursor = self.cursor(until)
        earliest = -np.inf if cursor is None else cursor - self.reach
        fresh = np.zeros(len(time), dtype=bool)
        n_known = n_replaced = n_waiting = 0
        for code, stream in enumerate(observations.streams):
            mine = np.flatnonzero(observations.sample_stream == code)
            if len(mine):
                n_waiting += 1
                mine = mine[:-1]
            there = self._known.get(stream.node, {})
            for at in mine:
                if complete[at] == 0 or time[at] <= earliest:
                    continue
                before = there.get(float(time[at]))
                fresh[at] = before is None
                wanted[at] = before is None or complete[at] > before
                n_known += before is not None and not wanted[at]
                n_replaced += before is not None and bool(wanted[at])
        chosen = np.flatnonzero(wanted)
        n_added = len(chosen) - n_replaced
        if len(chosen):
            table = instants.to_table(observations, chosen, complete, node_type)
            number = max((file.number for file in self._files), default=0) + 1
            step = float(observations.step) if np.isfinite(observations.step) else None
            self._files.append(self._write(number, False, table, _Header(LAYOUT, since, until, n_added, step)))
            self._learn(table)
        unusable = int(np.count_nonzero(complete == 0))
        return Added(n_added, n_replaced, n_known, unusable, n_waiting, np.flatnonzero(fresh))

    def tidy(self) -> int:
        """Join the files if there are many, and thin out if there is too much; how many instants went."""
        if self.has_lost:
            return 0  # what comes again must find what was there
        too_many = self.instants > _SLACK * self.most_instants or self.size > _SLACK * self.most_bytes
        if not self._files or (len(self._files) < SEGMENTS and not too_many):
            return 0
        table = self.table()
        before = table.num_rows
        if too_many:
            table = self._thinned(table)
        header = _Header(
            LAYOUT,
            min(file.header.since for file in self._files),
            max(file.header.until for file in self._files),
            self.seen,
            self.step if np.isfinite(self.step) else None,
        )
        old = list(self._files)
        base = self._write(old[-1].number, True, table, header)
        self._files = [base]
        for file in old:
            if file.path != base.path:
                with contextlib.suppress(OSError):  # else it is left out, and removed the next time
                    file.path.unlink()
        self._known = {}
        self._learn(table)
        return int(before - table.num_rows)

    def _thinned(self, table: pa.Table) -> pa.Table:
        room = self.most_instants
        if self.size > self.most_bytes:
            room = min(room, int(table.num_rows * self.most_bytes / self.size))
        node, _ = instants.codes(table.column("node"))
        time = instants.floats(table, "time")
        untils = max(file.header.until for file in self._files)
        kept = time > untils - self.reach
        rest = np.flatnonzero(~kept)
        features = {name: values[rest] for name, values in instants.node_features(table).items()}
        chosen = choose(node[rest], time[rest], features, max(room - int(kept.sum()), 0))
        kept[rest[chosen]] = True
        return table.take(pa.array(np.flatnonzero(kept)))

    def _write(self, number: int, base: bool, table: pa.Table, header: _Header) -> _File:
        path = self.folder / f"{number}{'.base' if base else ''}.parquet"
        found = table.replace_schema_metadata({_KEY: msgspec.json.encode(header)})
        with self._errors("write"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                pq.write_table(found, file, compression="zstd")
            flush_folder(self.folder)
            return _File(number, base, path, header, path.stat().st_size)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise TrainingMemoryError(f"cannot {what} the training memory {self.folder}: {why}") from error


def _header(path: Path) -> _Header:
    metadata: dict[bytes, bytes] | None = pq.read_schema(path).metadata
    header = msgspec.json.decode((metadata or {}).get(_KEY, b""), type=_Header)
    if header.layout != LAYOUT:
        raise TrainingMemoryError(f"{path}: layout {header.layout}; this kepler-core reads {LAYOUT}")
    return header


def _read(path: Path) -> Any:
    return pq.read_table(path)
