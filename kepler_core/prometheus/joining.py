"""Answers put together: a recording in the shape that `read_recording` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: msgspec.Raw = msgspec.Raw(b"[]")


_decode_results = msgspec.json.Decoder(list[_Series])


def joined_series(results: Iterable[bytes]) -> bytes:
    """Results of one metric in order of time, as one list: each series once, its samples one after the
    other. A sample that ends one result and begins the next is there once."""
    labels: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    parts: dict[frozenset[tuple[str, str]], list[bytes]] = {}
    for result in results:
        for series in _decode_results.decode(result):
            inner = bytes(series.values).strip()[1:-1].strip()
            if not inner:
                continue
            key = frozenset(series.metric.items())
            labels.setdefault(key, series.metric)
            known = parts.setdefault(key, [])
            if known and inner.startswith(known[-1][known[-1].rindex(b"[") :]):
                inner = inner[inner.index(b"]") + 1 :].lstrip(b", ")
                if not inner:
                    continue
            known.append(inner)
    lines = [
        b'{"metric":' + msgspec.json.encode(labels[key]) + b',"values":[' + b",".join(found) + b"]}"
        for key, found in parts.items()
    ]
    return b"[" + b",\n".join(lines) + b"]"


def recording_bytes(results: Mapping[str, Iterable[bytes]]) -> bytes:
    """A recording from the results of each metric."""
    metrics = [msgspec.json.encode(metric) + b":" + joined_series(found) for metric, found in results.items()]
    return b"{" + b",\n".join(metrics) + b"}\n"
