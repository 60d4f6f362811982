"""Storage of a server's answers on disk while a recording is fetched, to resume after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.atomic_files import whole_file
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import UsageError
from kepler_core.gzip_files import compressed_by_name
from kepler_core.parquet import RecordingWriter, is_parquet
from kepler_core.prometheus.instances import Shard
from kepler_core.prometheus.joining import joined_series
from kepler_core.prometheus.queries import Query
from kepler_core.prometheus.replies import decode_series
from kepler_core.prometheus.selections import Selection
from kepler_core.recording.samples import decode_samples

_PLAN = "plan.json"
_LAYOUT = 2
"""Version of the file layout in the spool's folder."""


class _PlannedQuery(msgspec.Struct):
    metric: str
    matchers: list[str]
    node_label: str
    start: int
    end: int
    step: int | None
    shard: int | None
    """Index of the query's instances in `_Plan.shards`; null for all instances."""


class _Plan(msgspec.Struct):
    layout: int
    asked: dict[str, Any]
    shards: list[list[str]]
    queries: list[_PlannedQuery]


class Spool:
    """The folder `FILE.part` beside the recording FILE, with the planned queries and a file for each answer."""

    def __init__(self, target: str) -> None:
        """Create a spool for the recording to be written to `target`. Nothing is written to disk yet."""
        self.target = Path(target)
        self.folder = self.target.with_name(self.target.name + ".part")

    def resume(self, arguments: dict[str, Any]) -> list[Query] | None:
        """Return the planned queries of an interrupted command with the same arguments; None if no plan is on disk."""
        try:
            plan = decode_json((self.folder / _PLAN).read_bytes(), _Plan)
        except (OSError, DocumentError):
            return None
        if plan.layout != _LAYOUT or plan.asked != arguments:
            return None
        shards = [tuple(shard) for shard in plan.shards]
        try:
            return [
                Query(
                    Selection(q.metric, tuple(q.matchers), q.node_label),
                    q.start,
                    q.end,
                    q.step,
                    None if q.shard is None else shards[q.shard],
                )
                for q in plan.queries
            ]
        except IndexError:
            return None

    def begin(self, arguments: dict[str, Any], queries: Sequence[Query]) -> None:
        """Remove the plan and the answers of an earlier command, and write the planned queries."""
        number = {shard: at for at, shard in enumerate(dict.fromkeys(q.instances for q in queries if q.instances))}
        planned = [
            _PlannedQuery(
                q.metric,
                list(q.selection.matchers),
                q.selection.node_label,
                q.start,
                q.end,
                q.step,
                None if q.instances is None else number[q.instances],
            )
            for q in queries
        ]
        with self._errors():
            if self.folder.exists():
                if not (self.folder / _PLAN).exists() and any(self.folder.iterdir()):
                    raise UsageError(f"{self.folder} is in the way: kepler-model query did not create this folder")
                shutil.rmtree(self.folder)
            self.folder.mkdir()
            _write(
                self.folder / _PLAN,
                msgspec.json.encode(_Plan(_LAYOUT, arguments, [list(shard) for shard in number], planned)),
            )

    def has(self, index: int) -> bool:
        """Return whether the answer to the planned query with this index is on disk."""
        return (self.folder / f"{index}.json").exists()

    def keep(self, index: int, results: Sequence[bytes]) -> None:
        """Write the answer to the planned query with this index to disk."""
        with self._errors():
            _write(self.folder / f"{index}.json", b"[" + b",".join(results) + b"]")

    def finish(self, queries: Sequence[Query]) -> None:
        """Join all answers into the recording, write it, and remove the spool's folder.

        A recording in JSON is written atomically. If a recording in Parquet exists already, the samples are added to
        it. For Parquet, only one answer is in memory at a time. If an interrupted call is repeated, the files that it
        has already written are replaced.
        """
        groups = _groups(queries)
        if is_parquet(self.target):
            self._add_to_parquet(groups)
            return
        with self._errors():
            with whole_file(self.target) as raw, compressed_by_name(raw, self.target.name) as file:
                separator = b"{\n"
                for metric, of_metric in groups.items():
                    separator_of_series = separator + msgspec.json.encode(metric) + b":["
                    for indices in of_metric:
                        series = joined_series(self._results(indices))[1:-1]
                        if series:
                            file.write(separator_of_series + series)
                            separator_of_series = b",\n"
                    if separator_of_series == b",\n":
                        file.write(b"]")
                        separator = b",\n"
                file.write(b"{}\n" if separator == b"{\n" else b"\n}\n")
            shutil.rmtree(self.folder)

    def _add_to_parquet(self, groups: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Add all answers to the recording in Parquet. `groups` is the result of `_groups`."""
        with self._errors():
            plan = hashlib.sha256((self.folder / _PLAN).read_bytes()).hexdigest()
            with RecordingWriter(self.target, f"query-{plan[:12]}") as writer:
                for metric, of_metric in groups.items():
                    for indices in of_metric:
                        for result in self._results(indices):
                            for series in decode_series(result):
                                samples = decode_samples(series.values)
                                writer.write(metric, series.metric, samples[0::2], samples[1::2])
                        writer.end_series()
            shutil.rmtree(self.folder)

    def _results(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the results of the queries with these indices, one file after another."""
        for index in indices:
            path = self.folder / f"{index}.json"
            try:
                yield from map(bytes, decode_json(path.read_bytes(), list[msgspec.Raw]))
            except DocumentError as error:
                problem = f"{path} is damaged; remove {self.folder} and run the command again: {error}"
                raise UsageError(problem) from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise `UsageError` instead of each `OSError` that the `with` statement's body raises."""
        try:
            yield
        except OSError as error:
            raise UsageError(f"cannot write {error.filename or self.target}: {error.strerror or error}") from error


def _groups(queries: Sequence[Query]) -> dict[str, list[list[int]]]:
    """Return metric -> groups of queries for the same instances, as indices in order of time.

    Different groups have different series.
    """
    groups: dict[tuple[str, Shard | None], list[int]] = {}
    for index, query in enumerate(queries):
        groups.setdefault((query.metric, query.instances), []).append(index)
    by_metric: dict[str, list[list[int]]] = {}
    for (metric, _), indices in groups.items():
        by_metric.setdefault(metric, []).append(sorted(indices, key=lambda index: queries[index].start))
    return by_metric


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
