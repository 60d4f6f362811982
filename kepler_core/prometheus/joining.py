"""Join the answers of several queries to one recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kepler_core.documents import decode_json


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: msgspec.Raw = msgspec.Raw(b"[]")


_decode_results = msgspec.json.Decoder(list[_Series])


def joined_series(results: Iterable[bytes]) -> bytes:
    """Return the series of several results of one metric as one JSON list, each series once.

    The results must be in order of time. A sample that ends one result and begins the next is kept once.
    """
    labels: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    parts_of: dict[frozenset[tuple[str, str]], list[bytes]] = {}
    for result in results:
        for series in decode_json(result, _decode_results):
            samples = bytes(series.values).strip()[1:-1].strip()
            if not samples:
                continue
            key = frozenset(series.metric.items())
            labels.setdefault(key, series.metric)
            parts = parts_of.setdefault(key, [])
            if parts and samples.startswith(_last_sample(parts[-1])):
                samples = samples[samples.index(b"]") + 1 :].lstrip(b", ")
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
    """Return a recording, as `read_recording` takes it, from the results by metric."""
    metrics = [msgspec.json.encode(metric) + b":" + joined_series(parts) for metric, parts in results.items()]
    return b"{" + b",\n".join(metrics) + b"}\n"
