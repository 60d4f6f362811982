"""Join the results of several queries into one recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kepler_core.prometheus.replies import decode_series


def joined_series(results: Iterable[bytes]) -> bytes:
    """Join query results for consecutive time ranges of one metric into one JSON list of series.

    Each series occurs once in the list, with its samples of all results. The results must be in order of time and must
    have passed `replies.check_matrix`. If the last sample of a series in one result is also its first sample in the
    next result, the sample is kept only once.
    """
    labels: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    parts_of: dict[frozenset[tuple[str, str]], list[bytes]] = {}
    for result in results:
        for series in decode_series(result):
            samples = bytes(series.values).strip()[1:-1].strip()
            if not samples:
                continue
            key = frozenset(series.metric.items())
            labels.setdefault(key, series.metric)
            parts = parts_of.setdefault(key, [])
            if parts and samples.startswith(_last_sample(parts[-1])):
                samples = samples[samples.index(b"]") + 1 :].lstrip(b", \t\r\n")
                if not samples:
                    continue
            parts.append(samples)
    lines = [
        b'{"metric":' + msgspec.json.encode(labels[key]) + b',"values":[' + b",".join(parts) + b"]}"
        for key, parts in parts_of.items()
    ]
    return b"[" + b",\n".join(lines) + b"]"


def _last_sample(samples: bytes) -> bytes:
    return samples[samples.rindex(b"[") :]


def recording_bytes(results: Mapping[str, Iterable[bytes]]) -> bytes:
    """Return a recording in the JSON that `read_recording` reads; `results` maps each metric to its query results."""
    metrics = [msgspec.json.encode(metric) + b":" + joined_series(parts) for metric, parts in results.items()]
    return b"{" + b",\n".join(metrics) + b"}\n"
