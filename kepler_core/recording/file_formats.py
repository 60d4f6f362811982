"""Find the series in each JSON format in which Prometheus' samples are saved.

- A recording: `{metric: [series, …], …}`.
- Answers of Prometheus' HTTP API to range queries: `{"status": "success", "data": {"result": [series, …]}}`.
- Lists of series, as `promtool query range -o json` and the Python package prometheus_api_client write them.
- Lines as VictoriaMetrics' `/api/v1/export` writes them: `{"metric": {…}, "values": […], "timestamps": […]}`.

A file may consist of several answers, lists or series, one in each line. A series that is malformed is
left out and counted. A file in which every series is malformed is rejected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import attrs
import msgspec

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import RecordingError
from kepler_core.messages import printable, single_line
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS, NAMELESS

SHAPE = '{"metric_name": [{"metric": {"label": "value"}, "values": [[unix_seconds, "number"], ...]}]}'

_Json = bytes | memoryview | msgspec.Raw

_FIRST = re.compile(rb"[ \t\r\n]*(.?)", re.DOTALL)
"""Matches the first character that is not blank."""
_NAME_LABEL = "__name__"
_REASON_CHARACTERS = 300
_ONE_VALUE = "one value only, the result of an instant query; a recording needs the result of a range query"


class Series(msgspec.Struct):
    """One series: its labels, and its samples as JSON."""

    metric: dict[str, str]
    values: msgspec.Raw
    """`[[unix_seconds, "number"], …]`; only the numbers if `timestamps` is not empty."""
    timestamps: msgspec.Raw = msgspec.Raw(b"")
    """The times of VictoriaMetrics' export in Unix milliseconds, as JSON; empty in all other formats."""


class _OneValue(msgspec.Struct):
    value: msgspec.Raw


class _Histograms(msgspec.Struct):
    histograms: msgspec.Raw


class _Data(msgspec.Struct):
    resultType: str = "matrix"
    result: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    status: str = "success"
    data: msgspec.Raw = msgspec.Raw(b"null")
    errorType: str = ""
    error: str = ""
    warnings: list[str] | None = None
    isPartial: bool | None = None


_recording = msgspec.json.Decoder(dict[str, list[Series]])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_series = msgspec.json.Decoder(Series)


@attrs.define
class Malformed:
    """The series of a document that were left out because they are malformed."""

    counts: Counter[str] = attrs.field(factory=Counter)
    """Number of malformed series, by metric name."""
    examples: dict[str, str] = attrs.field(factory=dict)
    """Place and problem of the first malformed series, by metric name."""
    labels: dict[str, list[Mapping[str, str]]] = attrs.field(factory=dict)
    """By metric name: the labels of each series whose labels are valid, but whose samples are malformed."""

    def add(self, metric: str, place: str, problem: str, labels: Mapping[str, str] | None = None) -> None:
        """Count a malformed series."""
        self.counts[metric] += 1
        self.examples.setdefault(metric, f"{place}: {problem}" if place else problem)
        if labels is not None:
            self.labels.setdefault(metric, []).append(labels)


@attrs.define
class Document:
    """The series of a document by metric name."""

    series: dict[str, list[Series]] = attrs.field(factory=dict)
    malformed: Malformed = attrs.field(factory=Malformed)
    in_parts: bool = False
    """Whether the samples of one series may be spread over several `Series` objects."""


def parse_document(raw: bytes | msgspec.Raw, name: str) -> Document:
    """Return the series of a JSON document. The samples are not decoded.

    Raises `RecordingError` if the document has none of the known formats, or if every series is malformed.
    `name` is the document's name in messages.
    """
    try:
        document = _recording_or_other(raw, name)
    except DocumentError as error:
        raise RecordingError(f"not JSON: {error}", document=name) from error
    if document.malformed.counts and not any(document.series.values()):
        raise nothing_usable(document.malformed, name)
    return document


def _recording_or_other(raw: bytes | msgspec.Raw, name: str) -> Document:
    try:
        return Document(decode_json(raw, _recording))  # the most frequent format, and the fastest to decode
    except DocumentError as error:
        problem = error
    if problem.kind == "schema":
        try:
            reader = _Reader(name)
            reader.read(raw)
            return reader.document
        except DocumentError as error:
            problem = error
    if problem.kind != "syntax":
        raise problem
    reader = _Reader(name)
    reader.read_lines(bytes(raw), problem)
    return reader.document


def nothing_usable(malformed: Malformed, name: str) -> RecordingError:
    """Return the error of a document in which every series is malformed."""
    metric, example = next(iter(malformed.examples.items()))
    number = malformed.counts.total()
    several = f"{number} malformed series, e.g. " if number > 1 else ""
    shown = "" if metric == NAMELESS else f"{shown_metric(metric)}: "
    return RecordingError(f"JSON, but not a recording: {several}{shown}{example}; expected {SHAPE}", document=name)


def shown_metric(metric: str) -> str:
    """Return a metric's name for use in a message."""
    return printable(metric, METRIC_NAME_CHARACTERS)


class _Reader:
    """Collects the series of one document. Its methods raise `DocumentError` for text that is not JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.document = Document()

    def read_lines(self, content: bytes, error: DocumentError) -> None:
        """Read a document with one JSON value in each line.

        `error` tells why the whole document is not a single JSON value.
        """
        first = True
        for number, line in _lines(content):
            try:
                if first and _kind(line) not in ("object", "list"):
                    raise error
                self.read(line)
            except DocumentError as problem:
                if first:
                    raise error from None  # even the first line is not JSON, so the document is damaged
                raise RecordingError(f"line {number} is not JSON: {problem}", document=self.name) from problem
            first = False
        if first:
            raise error

    def read(self, raw: _Json) -> None:
        """Read one JSON value: a recording, an answer, a list or a series."""
        kind = _kind(raw)
        if kind == "list":
            if not self._list(raw):
                raise RecordingError(f"JSON, but not a recording: an empty list; expected {SHAPE}", document=self.name)
        elif kind == "object":
            members = decode_json(raw, _object)
            if _is_answer(members):
                self._answer(raw)
            elif _is_series(members):
                self._named_by_label(raw, "")
            else:
                self._recording(members)
        else:
            decode_json(raw, msgspec.Raw)  # raises for invalid JSON
            raise RecordingError(f"JSON, but not a recording: {kind}; expected {SHAPE}", document=self.name)

    def _recording(self, members: Mapping[str, msgspec.Raw]) -> None:
        for metric, part in members.items():
            kind = _kind(part)
            if kind == "list":
                into = self.document.series.setdefault(metric, [])
                for index, item in enumerate(decode_json(part, _list)):
                    if (series := self._series(item, metric, f"[{index}]")) is not None:
                        into.append(series)
            elif kind == "object" and _is_answer(decode_json(part, _object)):
                self._answer(part)
            else:
                self.document.malformed.add(metric, "", f"{kind} instead of a list of series")

    def _answer(self, raw: _Json) -> None:
        try:
            answer = decode_json(raw, _Answer)
            if answer.status == "success":
                data = decode_json(answer.data, _Data)
        except DocumentError as error:
            if error.kind != "schema":
                raise
            problem = f"a malformed answer of Prometheus' HTTP API: {error}; expected {SHAPE}"
            raise RecordingError(f"JSON, but not a recording: {problem}", document=self.name) from error
        if answer.status != "success":
            reason = ": ".join(part for part in (answer.errorType, answer.error) if part) or answer.status
            raise RecordingError(
                f"the server answered with an error: {single_line(reason, _REASON_CHARACTERS)}; "
                "query the samples again",
                document=self.name,
            )
        if answer.warnings or answer.isPartial:
            reason = single_line(answer.warnings[0] if answer.warnings else "isPartial is true", _REASON_CHARACTERS)
            raise RecordingError(
                f"the server's answer is incomplete: {reason}; series may be missing, so query the samples again",
                document=self.name,
            )
        if data.resultType != "matrix":
            kind = single_line(data.resultType, 20)
            raise RecordingError(f"a result of the type {kind}: {_ONE_VALUE}", document=self.name)
        kind = _kind(data.result)
        if kind == "list":
            self._list(data.result)
        elif kind != "null":  # servers in Go may write null for an empty list
            raise RecordingError(f"an answer whose result is {kind}; expected {SHAPE}", document=self.name)

    def _list(self, raw: _Json) -> int:
        """Read a list of series or of answers; return the number of its items."""
        items = decode_json(raw, _list)
        for index, item in enumerate(items):
            if _kind(item) == "object" and _is_answer(decode_json(item, _object)):
                self._answer(item)
            else:
                self._named_by_label(item, f"series {index}")
        return len(items)

    def _named_by_label(self, raw: _Json, place: str) -> None:
        """Read a series that has the metric's name in its label `__name__`."""
        self.document.in_parts = True
        series = self._series(raw, NAMELESS, place)
        if series is None:
            return
        metric = series.metric.get(_NAME_LABEL, "")
        if metric:
            self.document.series.setdefault(metric, []).append(series)
        else:
            problem = f"no label {_NAME_LABEL}, as in the result of a function such as rate(); query the metric itself"
            self.document.malformed.add(NAMELESS, place, problem)

    def _series(self, raw: _Json, metric: str, place: str) -> Series | None:
        """Return a series. If it is malformed, count it and return None."""
        try:
            return decode_json(raw, _series)
        except DocumentError as error:
            if error.kind == "syntax":
                raise
            problem = f"{error.problem} at `{error.key}`" if error.key else error.problem
        if _has(raw, _OneValue):
            problem = _ONE_VALUE
        elif _has(raw, _Histograms):
            problem = "native histograms instead of values"
        self.document.malformed.add(metric, place, problem)
        return None


def _is_answer(members: Mapping[str, msgspec.Raw]) -> bool:
    """Return whether an object is an answer of Prometheus' HTTP API.

    Such an answer has a text as its `status`, or an object as its `data`. In a recording, all values are lists.
    """
    status, data = members.get("status"), members.get("data")
    return (status is not None and _kind(status) == "text") or (data is not None and _kind(data) == "object")


def _is_series(members: Mapping[str, msgspec.Raw]) -> bool:
    return "metric" in members and _kind(members["metric"]) == "object"


def _has(raw: _Json, kind: type[msgspec.Struct]) -> bool:
    try:
        decode_json(raw, kind)
    except DocumentError:
        return False
    return True


def _lines(content: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the text of each line that is not blank, without copying the text."""
    view = memoryview(content)
    start, number = 0, 1
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if _first(view[start:end]):
            yield number, view[start:end]
        start, number = end + 1, number + 1


def _kind(raw: _Json) -> str:
    """Return the kind of a JSON value, found from the first character of the value."""
    first = _first(memoryview(raw))
    kinds = {b"{": "object", b"[": "list", b'"': "text", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
    return kinds.get(first, "a number")


def _first(text: memoryview) -> bytes:
    match = _FIRST.match(text)
    return b"" if match is None else match[1]
