"""A small recording as JSON, and functions that convert the samples of recordings to lists."""

from __future__ import annotations

import json
import math
from typing import Any

from kepler_core.recording import Recording

Samples = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""The series of a metric. Each series has labels and pairs (timestamp, value)."""

DOCUMENT = {
    "cpu": [
        {"metric": {"id": "a"}, "values": [[1, "10"], [2, "12.5"], [3, "1e3"]]},
        {"metric": {"id": "b"}, "values": [[2, "7"]]},
    ],
    "joules": [{"metric": {}, "values": [[1, "0.001"], [2.5, "-4"]]}],
}
SAMPLES = {
    "cpu": [({"id": "a"}, [(1.0, 10.0), (2.0, 12.5), (3.0, 1000.0)]), ({"id": "b"}, [(2.0, 7.0)])],
    "joules": [({}, [(1.0, 0.001), (2.5, -4.0)])],
}
"""The samples of `DOCUMENT`."""
ENCODED = json.dumps(DOCUMENT).encode()


def samples_of(recording: Recording, name: str) -> Samples:
    """Return the samples of a metric, for each series separately."""
    metric = recording.metrics[name]
    assert len(metric.timestamps) == len(metric.values) == len(metric.series) == metric.n_samples
    return [
        (
            dict(labels),
            list(
                zip(
                    metric.timestamps[metric.series == index].tolist(),
                    metric.values[metric.series == index].tolist(),
                    strict=True,
                )
            ),
        )
        for index, labels in enumerate(metric.labels)
    ]


def all_samples(recording: Recording) -> dict[str, Samples]:
    """Return the samples of all metrics."""
    return {name: samples_of(recording, name) for name in recording.metrics}


def one_series(*pairs: Any) -> bytes:
    """Return a recording of the metric "m". The metric has one series, whose samples are `pairs`."""
    return json.dumps({"m": [{"metric": {}, "values": list(pairs)}]}).encode()


def plain_reading(content: bytes) -> tuple[dict[str, Samples], dict[str, int], dict[str, int]]:
    """Read a recording with a plain loop, so that tests can compare the result with the real reader's result.

    Returns three dicts, by name of the metric: the samples, the number of samples that are not finite, and the number
    of samples with a repeated timestamp.
    """
    samples: dict[str, Samples] = {}
    not_finite: dict[str, int] = {}
    repeated: dict[str, int] = {}
    for name, all_series in json.loads(content).items():
        samples[name], not_finite[name], repeated[name] = [], 0, 0
        for series in all_series:
            value_at: dict[float, float] = {}
            for timestamp, text in series["values"]:
                value = math.nan if text is None else float(text)
                if not math.isfinite(value):
                    not_finite[name] += 1
                elif float(timestamp) in value_at:
                    repeated[name] += 1
                else:
                    value_at[float(timestamp)] = min(max(value, -(2.0**64)), 2.0**64)
            samples[name].append((series["metric"], sorted(value_at.items())))
    return samples, not_finite, repeated
