"""Read recordings as decoded JSON, and cut them by time or by node."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Document = dict[str, list[dict[str, Any]]]
"""A recording as decoded JSON: the series of each metric."""


def read_document(path: Path) -> Document:
    """Return a recording as decoded JSON."""
    content = path.read_bytes()
    document: Document = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    return document


def times_of(document: Document) -> list[float]:
    """Return all timestamps of a recording, ascending."""
    return sorted({float(time) for series in document.values() for one in series for time, _ in one["values"]})


def part(document: Document, keeps: Callable[[float], bool]) -> Document:
    """Copy some samples of a recording. `keeps` gets the time of a sample, and returns whether to copy the sample."""
    result = {}
    for metric, series in document.items():
        kept = [{**one, "values": [value for value in one["values"] if keeps(float(value[0]))]} for one in series]
        if any(one["values"] for one in kept):
            result[metric] = [one for one in kept if one["values"]]
    return result


def of_instances(document: Document, keeps: Callable[[str], bool]) -> Document:
    """Copy some series of a recording. `keeps` gets the label `instance`, and returns whether to copy the series."""
    return {
        metric: kept
        for metric, series in document.items()
        if (kept := [one for one in series if keeps(one["metric"]["instance"])])
    }
