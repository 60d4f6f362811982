"""Leave out gauges that were recorded only to describe machines, e.g. the memory of a node once per hour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.arrays import IntArray
from kepler_core.recording.metric_mapping import MappedMetric, keep_series
from kepler_core.recording.schemas import machine_mappings_of

_LONG_INTERVAL_SECONDS = 1800.0
"""A series with a longer interval between its samples is no feature: `query --machines` fetches a sample per hour."""
_FEW_SAMPLES = 4
"""Such a series is left out only if another series of the node has at least this multiple of its samples."""


def without_machine_samples(mapped: Sequence[MappedMetric]) -> list[MappedMetric]:
    """Return the metrics without the series of gauges that have only samples about the machine.

    As features, they would reduce the samples of their nodes to one per hour. A recording of less than an hour has two
    samples of such a gauge.
    """
    names = {
        item.mapping.name for item in mapped if _is_gauge(item) and machine_mappings_of(item.schema, item.metric.name)
    }
    if not names:
        return list(mapped)
    longest: IntArray = np.zeros(1 + max((int(item.node.max(initial=0)) for item in mapped), default=0), dtype=np.int64)
    for item in mapped:
        np.maximum.at(longest, item.node, item.metric.lengths)
    kept = []
    for item in mapped:
        if _is_gauge(item) and item.mapping.name in names:
            lengths = item.metric.lengths
            few = _FEW_SAMPLES * lengths <= longest[item.node]
            if few.any():
                spans = np.zeros(len(lengths))
                for at, first, last in item.metric.time_spans():
                    spans[at] = last - first
                seldom = (lengths <= 2) | (spans >= _LONG_INTERVAL_SECONDS * (lengths - 1))
                item = keep_series(item, ~(seldom & few))
        kept.append(item)
    return kept


def _is_gauge(item: MappedMetric) -> bool:
    return item.mapping.kind == "feature" and not item.mapping.counter and not item.third_party
