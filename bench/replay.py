"""Replay a recording: export its series over HTTP, so that a Prometheus server can scrape them.

    python bench/replay.py recording.json.gz --port 9102 [--speed 10] [--loop]

At speed 10, a minute of the recording takes six seconds. The values of counters are divided by the speed, so
that rates (and watts) are the same as in the recording at any speed. A series is exported only from the time of
its first value to the time of its last value. `GET /progress` returns the current position in the recording.
"""

from __future__ import annotations

import argparse
import bisect
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs
import numpy as np

from kepler_core.recording import Recording, read_recording
from kepler_core.recording.schemas import find_schemas

MAX_GAP_STEPS = 5
"""Values are not interpolated between two samples that are more than this number of steps apart."""


@attrs.frozen
class Series:
    """One time series of the recording."""

    name: str
    labels: str
    """Labels in the text exposition format, without braces."""
    times: list[float]
    """Times of the samples in Unix seconds, ascending."""
    values: list[float]
    """Values at `times`. The values of a counter are divided by the speed. Counter resets are kept."""


class Replay:
    """The series of a recording, from which a value can be read for any time of the recording."""

    def __init__(self, recording: Recording, speed: float) -> None:
        uses = find_schemas(recording.metrics)
        if not uses.has_mappings:
            raise SystemExit(f"{recording.name}: no metric schema knows any of its metrics")
        self.series: list[Series] = []
        for metric in recording.metrics.values():
            mappings = uses.mappings(metric.name)
            counter = mappings[0].counter if mappings else metric.name.endswith("_total")
            for index, labels in enumerate(metric.labels):
                part = metric.span(index)
                values = metric.values[part] / (speed if counter else 1.0)
                text = ",".join(f"{k}={json.dumps(v)}" for k, v in labels.items() if k != "__name__")
                self.series.append(Series(metric.name, text, metric.timestamps[part].tolist(), values.tolist()))
        self.start = min(s.times[0] for s in self.series if s.times)
        self.end = max(s.times[-1] for s in self.series if s.times)
        steps = [np.median(np.diff(s.times)) for s in self.series[:20] if len(s.times) > 1]
        self.step = float(np.median(steps))
        self.speed = speed

    def lines(self, at: float) -> Iterator[str]:
        """Yield the lines of the text exposition format for a time of the recording, in Unix seconds."""
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


def serve(replay: Replay, port: int, loop: bool) -> None:
    """Serve the replayed series over HTTP until the process is killed."""
    started = time.monotonic()

    def now() -> float:
        passed = (time.monotonic() - started) * replay.speed
        length = replay.end - replay.start
        return replay.start + (passed % length if loop else min(passed, length))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            at = now()
            if self.path == "/progress":
                body = json.dumps({"at": at, "start": replay.start, "end": replay.end, "speed": replay.speed}).encode()
            else:
                body = "".join(replay.lines(at)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Do nothing, so that requests are not logged."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"replaying at http://127.0.0.1:{server.server_port}/metrics", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--loop", action="store_true", help="at the end of the recording, start again (counters reset)")
    arguments = parser.parse_args()
    serve(Replay(read_recording(arguments.recording), arguments.speed), arguments.port, arguments.loop)


if __name__ == "__main__":
    main()
