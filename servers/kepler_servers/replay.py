"""Replay a recording: export its series over HTTP, like the recorded exporter, so that Prometheus can scrape them."""

from __future__ import annotations

import bisect
import logging
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.errors import RecordingError
from kepler_core.messages import printable
from kepler_core.recording import Recording
from kepler_core.recording.schemas import find_schemas
from kepler_servers.http.side_port import WsgiApplication, start_side_port

log = logging.getLogger(__name__)

MAX_GAP_STEPS = 5
"""Values are not interpolated between two samples that are more than this number of steps apart."""

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


@attrs.frozen
class Series:
    """One time series of the recording."""

    name: str
    labels: str
    """Labels in the text exposition format, without braces."""
    times: list[float]
    """Times of the samples in Unix seconds, ascending."""
    values: list[float]
    """Values at `times`. If the replay runs at 10 times real time, the values of counters are divided by 10. Counter
    resets stay."""


class Replay:
    """The series of a recording, with interpolated values for any time of the recording."""

    def __init__(self, recording: Recording, speed: float) -> None:
        """Take the series whose names Prometheus accepts. Raises `RecordingError` if no metric schema knows a metric.

        At speed 10, a minute of the recording takes six seconds. The values of counters are divided by the speed, so
        that rates (and watts) are the same as in the recording at any speed.
        """
        uses = find_schemas(recording.metrics)
        if not uses.has_mappings:
            raise RecordingError(f"{recording.name}: no metric schema knows any of its metrics")
        self.series: list[Series] = []
        for metric in recording.metrics.values():
            if _METRIC_NAME.fullmatch(metric.name) is None:
                log.warning("left out %s: Prometheus accepts no such name", printable(metric.name))
                continue
            mappings = uses.mappings(metric.name)
            counter = mappings[0].counter if mappings else metric.name.endswith("_total")
            for index, labels in enumerate(metric.labels):
                part = metric.span(index)
                values = metric.values[part] / (speed if counter else 1.0)
                times = metric.timestamps[part].tolist()
                if times:
                    self.series.append(Series(metric.name, _label_text(labels), times, values.tolist()))
        if not self.series:
            raise RecordingError(f"{recording.name}: no series has a sample")
        self.start = min(series.times[0] for series in self.series)
        self.end = max(series.times[-1] for series in self.series)
        steps = [np.median(np.diff(series.times)) for series in self.series if len(series.times) > 1]
        self.step = float(np.median(steps)) if steps else 0.0
        self.speed = speed

    def lines(self, at: float) -> Iterator[str]:
        """Yield the lines of the text exposition format for a time of the recording, in Unix seconds.

        A series is exported only from the time of its first sample until one step after its last sample.
        """
        for series in self.series:
            following = bisect.bisect_right(series.times, at)
            if following == 0 or at > series.times[-1] + self.step:
                continue
            value = series.values[following - 1]
            if following < len(series.times):
                # interpolate between the two samples, but not across a counter reset or a gap
                start, end = series.times[following - 1], series.times[following]
                next_value = series.values[following]
                if next_value >= value and end - start <= MAX_GAP_STEPS * self.step:
                    value += (next_value - value) * (at - start) / (end - start)
            yield f"{series.name}{{{series.labels}}} {value!r}\n"


def _label_text(labels: Mapping[str, str]) -> str:
    return ",".join(
        f'{name}="{_escaped(value)}"'
        for name, value in labels.items()
        if name != "__name__" and _LABEL_NAME.fullmatch(name) is not None
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def replay_application(replay: Replay, *, loop: bool) -> WsgiApplication:
    """Return an application that serves `/metrics`, `/progress` (the position in the recording) and `/healthz`.

    The replay starts now. With `loop`, it starts again at the end of the recording, as if the exporter restarted.
    """
    started = time.monotonic()

    def now() -> float:
        passed = (time.monotonic() - started) * replay.speed
        length = replay.end - replay.start
        return replay.start + (passed % length if loop and length else min(passed, length))

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, at = environ.get("PATH_INFO", ""), now()
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", _TEXT)])
            return ["".join(replay.lines(at)).encode()]
        body: dict[str, Any]
        status, body = "200 OK", {"status": "ok"}
        if path == "/progress":
            body = {"at": at, "start": replay.start, "end": replay.end, "speed": replay.speed}
        elif path != "/healthz":
            status, body = "404 Not Found", {"error": "no such path; known: /metrics, /progress, /healthz"}
        start_response(status, [("Content-Type", "application/json")])
        return [msgspec.json.encode(body)]

    return application


def serve_replay(replay: Replay, host: str, port: int, *, loop: bool, on_start: Callable[[int], None]) -> None:
    """Serve the series of a replay until the process gets SIGTERM or SIGINT.

    `on_start` is called with the port after the server has started. Only the main thread may call this function. Raises
    `UsageError` if the address cannot be used.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    # The threads of the HTTP server inherit the signal mask, so that only `sigwait` gets the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    on_start(start_side_port(replay_application(replay, loop=loop), host, port))
    signal.sigwait(ends)
