"""Answers on the disk while a recording is being fetched, so that an interrupted one is resumed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.atomic_files import whole_file
from kepler_core.errors import UsageError
from kepler_core.gzip_files import compressed_by_name
from kepler_core.prometheus.joining import joined_series
from kepler_core.prometheus.queries import Query
from kepler_core.prometheus.selections import Selection

_PLAN = "plan.json"
_LAYOUT = 1


class _PlannedQuery(msgspec.Struct):
    metric: str
    matchers: list[str]
    start: int
    end: int
    step: int | None


class _Plan(msgspec.Struct):
    layout: int
    asked: dict[str, Any]
    queries: list[_PlannedQuery]


class Spool:
    """A folder beside the recording, `FILE.part`: the plan, and one file per query that is answered."""

    def __init__(self, target: str) -> None:
        self.target = Path(target)
        self.folder = self.target.with_name(self.target.name + ".part")

    def resume(self, asked: dict[str, Any]) -> list[Query] | None:
        """The queries of an earlier run that was asked for the same; None if there is none."""
        try:
            plan = msgspec.json.decode((self.folder / _PLAN).read_bytes(), type=_Plan)
        except (OSError, msgspec.DecodeError):
            return None
        if plan.layout != _LAYOUT or plan.asked != asked:
            return None
        return [Query(Selection(q.metric, tuple(q.matchers)), q.start, q.end, q.step) for q in plan.queries]

    def begin(self, asked: dict[str, Any], queries: Sequence[Query]) -> None:
        """A new plan; what an earlier run of another plan left is removed."""
        planned = [_PlannedQuery(q.metric, list(q.selection.matchers), q.start, q.end, q.step) for q in queries]
        with self._errors():
            if self.folder.exists():
                if not (self.folder / _PLAN).exists() and any(self.folder.iterdir()):
                    raise UsageError(f"{self.folder} is in the way: it was not made by kepler-model query")
                shutil.rmtree(self.folder)
            self.folder.mkdir()
            _write(self.folder / _PLAN, msgspec.json.encode(_Plan(_LAYOUT, asked, planned)))

    def has(self, index: int) -> bool:
        """Whether a query of the plan is answered."""
        return (self.folder / f"{index}.json").exists()

    def keep(self, index: int, results: Sequence[bytes]) -> None:
        """A query's answer."""
        with self._errors():
            _write(self.folder / f"{index}.json", b"[" + b",".join(results) + b"]")

    def finish(self, queries: Sequence[Query]) -> None:
        """Put all answers together and write the recording: there as a whole or not at all."""
        by_metric: dict[str, list[int]] = {}
        for index, query in enumerate(queries):
            by_metric.setdefault(query.metric, []).append(index)
        part = self.folder / "recording"
        with self._errors():
            with part.open("wb") as raw:
                with compressed_by_name(raw, self.target.name) as file:
                    begun = False
                    for metric, indices in by_metric.items():
                        ordered = sorted(indices, key=lambda index: queries[index].start)
                        series = joined_series(result for index in ordered for result in self._results(index))
                        if series == b"[]":
                            continue
                        file.write((b",\n" if begun else b"{\n") + msgspec.json.encode(metric) + b":" + series)
                        begun = True
                    file.write(b"\n}\n" if begun else b"{}\n")
                raw.flush()
                os.fsync(raw.fileno())
            os.replace(part, self.target)
            shutil.rmtree(self.folder)

    def _results(self, index: int) -> list[bytes]:
        content = (self.folder / f"{index}.json").read_bytes()
        return [bytes(raw) for raw in msgspec.json.decode(content, type=list[msgspec.Raw])]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"cannot write {error.filename or self.target}: {error.strerror or error}") from error


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
