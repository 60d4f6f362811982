"""The sample store: a limited number of samples on disk, without duplicates.

Every file is written under a temporary name, flushed and renamed. The header of a file states the time up to which
samples have been fetched. So the samples and this time are stored in one step: if the process is killed before a file
is complete, its samples are fetched again. A fetched sample replaces the stored sample of the same node and time only
if the fetched sample has more values.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kepler_core.arrays import IntArray
from kepler_core.documents import DocumentError
from kepler_core.messages import one_line
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.sample_files import (
    KEY_SCHEMA,
    LAYOUT,
    FileHeader,
    FileName,
    SampleFile,
    SampleStoreError,
    is_partial,
    list_folder,
    mark_all_lost,
    mark_damaged,
    read_header,
    read_keys,
    write_file,
)
from kepler_servers.online_trainer.stratified_sampling import select_samples

log = logging.getLogger(__name__)

MERGE_FILES = 32
"""If the store has at least this number of files, `tidy` merges them into one file."""
MAX_SAMPLES = 20_000
MAX_BYTES = 256 * 2**20
_SLACK = 1.1
"""Samples are thinned out if the store exceeds one of its limits by more than this factor.

Because thinning out rewrites the whole store, it should not be necessary after every fetch.
"""
_REACH_STEPS = 2
"""Minimum of `SampleStore.reach`, as a number of steps between samples.

A fetch does not add the newest sample of a node. The next fetch adds this sample, so the time range of the next fetch
must include it.
"""
_ERROR_CHARACTERS = 200


@attrs.frozen
class AppendResult:
    """Counts how many samples of a fetch the sample store has added, replaced or ignored."""

    added: int = 0
    replaced: int = 0
    """Number of samples that replaced a stored sample, because they have more values."""
    known: int = 0
    """Number of samples that were ignored, because the store already had them."""
    unusable: int = 0
    """Number of samples that were ignored, because they have no features or no power."""
    waiting: int = 0
    """Number of samples that were not stored yet: the newest sample of each node.

    The next fetch stores them, because a sample can be checked only when the node's following sample is known.
    """
    fresh: IntArray = attrs.field(factory=lambda: np.empty(0, dtype=np.int64), eq=False, repr=False)
    """Indices of the added samples in the fetched observations. Samples that replaced a stored sample are left out."""
    left_out: int = 0
    """Number of new samples that were not stored, because the fetch had more samples than the store may hold."""


@attrs.frozen
class NewSamples:
    """The samples of observations that the store does not have, or has with fewer values."""

    chosen: IntArray
    """Indices of the samples to store."""
    fresh: IntArray
    """Indices of those samples that do not replace a stored sample."""
    complete: IntArray
    """Result of `sample_table.completeness` for the observations."""
    known: int
    unusable: int
    waiting: int


class SampleStore:
    """A store of samples in one folder. Only one process at a time may write to it."""

    def __init__(
        self,
        folder: Path,
        *,
        overlap: float = 120.0,
        max_samples: int = MAX_SAMPLES,
        max_bytes: int = MAX_BYTES,
        read_only: bool = False,
    ) -> None:
        """Open the store, and read the keys (node and time) of all samples.

        `overlap` is a number of seconds (see `reach`). Use `read_only` if the folder belongs to another process: then
        no file is changed, and damaged files are not renamed.
        """
        self._read_only = read_only
        self.folder = folder
        self.overlap = overlap
        self.max_samples = max_samples
        self.max_bytes = max_bytes
        self._files: list[SampleFile] = []
        self._completeness: dict[str, dict[float, int]] = {}
        """Number of known values of each sample in the store. The keys are nodes, the inner keys are times."""
        self._first_lost: int | None = None
        """Number of the oldest damaged file whose time range must be fetched again; None if there is no such file."""
        self.damaged: list[str] = []
        """Names of the files that could not be read."""
        self.refresh()

    # --- opening ---

    def refresh(self) -> None:
        """Read the folder again, e.g. because another process has changed its files."""
        with self._translated_errors("read"):
            files, keys, lost = self._scan()
            newest_base = max((file.number for file in files if file.is_base), default=0)
            # Ignore files whose samples are also in the newest merged file. Such files exist if a process was killed
            # after it had merged them and before it removed them.
            self._files = sorted(
                (f for f in files if f.number > newest_base or (f.is_base and f.number == newest_base)),
                key=lambda file: file.number,
            )
            self._first_lost = min((number for number in lost if number > newest_base), default=None)
            self._completeness = {}
            for file in self._files:
                self._index(keys[file.path])
            if not self._read_only:
                self._remove_leftovers(newest_base)

    def _scan(self) -> tuple[list[SampleFile], dict[Path, pa.Table], list[int]]:
        """Return the readable files, their columns node and time by path, and the <n> in the names of damaged files."""
        files: list[SampleFile] = []
        keys: dict[Path, pa.Table] = {}
        lost: list[int] = []
        for path in list_folder(self.folder):
            if (name := FileName.parse(path.name)) is None:
                continue
            if name.is_damaged:
                lost.append(name.number)
                continue
            try:
                header = read_header(path)
                keys[path] = read_keys(path)
                files.append(SampleFile(name.number, name.is_base, path, header, path.stat().st_size))
            except FileNotFoundError:
                pass  # the process that writes to the store has just merged and removed this file
            except PermissionError:
                raise
            except (pa.ArrowException, OSError, DocumentError) as error:
                self._set_aside(path, error)
                lost.append(name.number)
        return files, keys, lost

    def recheck(self) -> None:
        """Find files that became unreadable after the store was opened, and mark them as damaged.

        If any file is absent, the method does nothing: perhaps the disk is only unmounted for a while, and the samples
        in the file must not be forgotten.
        """
        if all(file.path.exists() for file in self._files):
            self.refresh()

    def _set_aside(self, path: Path, error: Exception) -> None:
        self.damaged.append(path.name)
        log.error("the sample file %s is damaged and is ignored: %s", path, one_line(error, _ERROR_CHARACTERS))
        if not self._read_only:
            with contextlib.suppress(OSError):
                mark_damaged(path)

    def _remove_leftovers(self, newest_base: int) -> None:
        """Remove files that a killed process has left behind.

        These are partly written files, and files that were already merged.
        """
        in_use = {file.path for file in self._files}
        for path in list_folder(self.folder):
            name = FileName.parse(path.name)
            is_merged = name is not None and name.number <= newest_base and path not in in_use
            if is_merged or is_partial(path.name):
                with contextlib.suppress(OSError):  # if this fails, the next `refresh` tries again
                    path.unlink()

    def _index(self, table: pa.Table) -> None:
        nodes, times, completeness = (table.column(name).to_pylist() for name in KEY_SCHEMA.names)
        for node, time, complete in zip(nodes, times, completeness, strict=True):
            self._completeness.setdefault(node, {})[time] = complete

    # --- reading ---

    @property
    def size(self) -> int:
        """Size of all files on disk, in bytes."""
        return sum(file.size for file in self._files)

    @property
    def file_count(self) -> int:
        """Number of files that contain the samples."""
        return len(self._files)

    @property
    def sample_count(self) -> int:
        """Number of samples in the store."""
        return sum(map(len, self._completeness.values()))

    @property
    def seen(self) -> int:
        """Number of all samples that were ever added, including samples that were thinned out later."""
        return sum(file.header.seen for file in self._files)

    @property
    def samples_by_node(self) -> dict[str, int]:
        """Number of samples of each node in the store."""
        return {node: len(times) for node, times in sorted(self._completeness.items())}

    def newest(self) -> dict[str, float]:
        """Return the time of each node's newest sample, in Unix seconds."""
        return {node: max(times) for node, times in self._completeness.items() if times}

    @property
    def step(self) -> float:
        """Seconds between two samples of a node when they were fetched; NaN if no fetch had two samples of a node.

        The value is from the latest fetch with two samples of a node. The stored samples may be farther apart,
        because some samples were thinned out.
        """
        steps = [file.header.step for file in self._files if file.header.step is not None]
        return steps[-1] if steps else float("nan")

    @property
    def reach(self) -> float:
        """Length in seconds of the time range before the latest fetch for which later fetches still add samples.

        The length is the larger of `overlap` and two steps (see `step`). Samples in this time range are not thinned
        out.
        """
        return max(self.overlap, _REACH_STEPS * self.step) if np.isfinite(self.step) else self.overlap

    def cursor(self, now: float) -> float | None:
        """Return the time up to which samples have been fetched (Unix seconds); None if no file states the time.

        The time is read from the files' headers. Files with a time after `now` are ignored, because they were written
        while a clock was wrong. If a file is damaged, this file and all later files are also ignored, until their time
        range has been fetched again.
        """
        files = [f for f in self._files if self._first_lost is None or f.number < self._first_lost]
        return max((file.header.until for file in files if file.header.until <= now), default=None)

    @property
    def has_lost(self) -> bool:
        """Whether there is a damaged file whose time range must be fetched again."""
        return self._first_lost is not None

    def clear_lost(self) -> None:
        """Record that the time ranges of all damaged files have been fetched again and appended."""
        if self._first_lost is None:
            return
        with self._translated_errors("write"):
            mark_all_lost(self.folder)
        self._first_lost = None

    def table(self) -> pa.Table:
        """Return a table of all samples in the store, sorted by node and time."""
        with self._translated_errors("read"):
            if not self._files:
                return pa.table({"node": pa.array([], pa.string()), "time": pa.array([], pa.float64())})
            return sample_table.concatenate([pq.read_table(file.path) for file in self._files])

    # --- writing ---

    def find_new(self, observations: Observations, until: float) -> NewSamples:
        """Return which samples of a fetch up to `until` (Unix seconds) are new."""
        complete = sample_table.completeness(observations)
        time = observations.sample_time
        cursor = self.cursor(until)
        earliest = -np.inf if cursor is None else cursor - self.reach
        is_fresh = np.zeros(len(time), dtype=bool)
        is_replacement = np.zeros(len(time), dtype=bool)
        known = waiting = 0
        for code, stream in enumerate(observations.streams):
            samples = np.flatnonzero(observations.sample_stream == code)
            if len(samples):
                waiting += 1
                samples = samples[:-1]
            stored = self._completeness.get(stream.node, {})
            for sample in samples:
                if complete[sample] == 0 or time[sample] <= earliest:
                    continue
                before = stored.get(float(time[sample]))
                if before is None:
                    is_fresh[sample] = True
                elif complete[sample] > before:
                    is_replacement[sample] = True
                else:
                    known += 1
        chosen = np.flatnonzero(is_fresh | is_replacement)
        unusable = int(np.count_nonzero(complete == 0))
        return NewSamples(chosen, np.flatnonzero(is_fresh), complete, known, unusable, waiting)

    def append(self, table: pa.Table, fresh: int, *, since: float, until: float, step: float) -> None:
        """Add samples of a fetch from `since` to `until` (Unix seconds), of which `fresh` replace no stored sample.

        If an error occurs, no sample is added.
        `step` is the number of seconds between two samples of a node; NaN if no node had two samples.
        """
        number = max((file.number for file in self._files), default=0) + 1
        header = FileHeader(LAYOUT, since, until, fresh, step if np.isfinite(step) else None)
        self._files.append(self._write(number, table, header))
        self._index(table)

    def tidy(self) -> int:
        """Merge the files if there are many, and thin out the samples if there are too many.

        Returns the number of samples that were removed. While the time range of a damaged file still has to be fetched
        again, nothing is changed. Otherwise, this fetch would add removed samples again.
        """
        if self.has_lost:
            return 0
        too_many = self.sample_count > _SLACK * self.max_samples or self.size > _SLACK * self.max_bytes
        if not self._files or (len(self._files) < MERGE_FILES and not too_many):
            return 0
        table = self.table()
        rows_before = table.num_rows
        if too_many:
            table = self._thinned(table)
        header = FileHeader(
            LAYOUT,
            min(file.header.since for file in self._files),
            max(file.header.until for file in self._files),
            self.seen,
            self.step if np.isfinite(self.step) else None,
        )
        merged = list(self._files)
        base = self._write(merged[-1].number, table, header, is_base=True)
        self._files = [base]
        for file in merged:
            if file.path != base.path:
                with contextlib.suppress(OSError):  # if this fails, `refresh` ignores the file and tries again
                    file.path.unlink()
        self._completeness = {}
        self._index(table)
        return int(rows_before - table.num_rows)

    def _thinned(self, table: pa.Table) -> pa.Table:
        capacity = self.max_samples
        if self.size > self.max_bytes:
            capacity = min(capacity, int(table.num_rows * self.max_bytes / self.size))
        node, _ = sample_table.encode_texts(table.column("node"))
        time = sample_table.float_column(table, "time")
        until = max(file.header.until for file in self._files)
        keep = time > until - self.reach
        older = np.flatnonzero(~keep)
        features = {name: values[older] for name, values in sample_table.node_features(table).items()}
        selected = select_samples(node[older], time[older], features, max(capacity - int(keep.sum()), 0))
        keep[older[selected]] = True
        return table.take(pa.array(np.flatnonzero(keep)))

    def _write(self, number: int, table: pa.Table, header: FileHeader, *, is_base: bool = False) -> SampleFile:
        with self._translated_errors("write"):
            return write_file(self.folder, number, table, header, is_base=is_base)

    @contextlib.contextmanager
    def _translated_errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or one_line(error, _ERROR_CHARACTERS)
            raise SampleStoreError(f"cannot {verb} the sample store {self.folder}: {reason}") from error
