"""An exporter that replays a recording: what a machine reported then, now, for a Prometheus to scrape.

    python bench/replay.py recording.json.gz --port 9102 [--speed 10] [--loop]

At speed 10 a minute of the recording takes six seconds. Counters go up at the recorded rate per second
of the recording divided by the speed, so that rates (and watts) are those of the recording at any
speed. A series is there from its first sample to its last. `/progress` says where the replay is.
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
from kepler_core.recording.schemas import find_schema


@attrs.frozen
class Series:
    name: str
    labels: str
    times: list[float]
    values: list[float]
    """Of a counter: what went up since the first sample, resets taken out or left in as they are."""


class Replay:
    """A recording, as a function of time."""

    def __init__(self, recording: Recording, speed: float) -> None:
        found = find_schema(recording.metrics)
        if found is None:
            raise SystemExit(f"{recording.name}: no metric that is known")
        schema = found[1]
        self.series: list[Series] = []
        for metric in recording.metrics.values():
            meaning = schema.meaning(metric.name)
            counter = meaning.counter if meaning is not None else metric.name.endswith("_total")
            ends = np.cumsum(metric.lengths)
            for index, labels in enumerate(metric.labels):
                part = slice(int(ends[index] - metric.lengths[index]), int(ends[index]))
                values = metric.values[part] / (speed if counter else 1.0)
                text = ",".join(f"{k}={json.dumps(v)}" for k, v in labels.items() if k != "__name__")
                self.series.append(Series(metric.name, text, metric.timestamps[part].tolist(), values.tolist()))
        self.start = min(s.times[0] for s in self.series if s.times)
        self.end = max(s.times[-1] for s in self.series if s.times)
        steps = [np.median(np.diff(s.times)) for s in self.series[:20] if len(s.times) > 1]
        self.step = float(np.median(steps))
        self.speed = speed

    def lines(self, at: float) -> Iterator[str]:
        """The exposition at a time of the recording."""
        for series in self.series:
            place = bisect.bisect_right(series.times, at)
            if place == 0 or at > series.times[-1] + self.step:
                continue
            value = series.values[place - 1]
            if place < len(series.times):
                # between two samples a counter is in between; after a reset it has begun anew
                before, after = series.times[place - 1], series.times[place]
                following = series.values[place]
                if following >= value and after - before <= 5 * self.step:
                    value += (following - value) * (at - before) / (after - before)
            yield f"{series.name}{{{series.labels}}} {value!r}\n"


def serve(replay: Replay, port: int, loop: bool) -> None:
    begun = time.monotonic()

    def now() -> float:
        passed = (time.monotonic() - begun) * replay.speed
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
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"replaying at http://127.0.0.1:{server.server_port}/metrics", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--loop", action="store_true", help="begin again at the end (counters are reset then)")
    arguments = parser.parse_args()
    serve(Replay(read_recording(arguments.recording), arguments.speed), arguments.port, arguments.loop)


if __name__ == "__main__":
    main()
