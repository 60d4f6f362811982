"""Convert shares of a node's CPUs to CPU time, using the number of CPUs from another metric."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric, keep_series

MILLISECONDS_PER_SECOND = 1000.0


def with_cpu_shares(mapped: Sequence[MappedMetric], nodes: Codes, counts: Counts) -> list[MappedMetric]:
    """Convert shares of CPUs to CPU time, and leave out metrics of the kind "cpus" (numbers of CPUs).

    Shares on nodes whose number of CPUs is not known are left out and counted.
    """
    n_cpus = _numbers_of_cpus(mapped, len(nodes))
    converted = []
    for item in mapped:
        if item.mapping.kind == "cpus":
            continue
        if item.mapping.share_of == "cpus":
            factor = n_cpus[item.node] * MILLISECONDS_PER_SECOND
            n_unknown = int(np.count_nonzero((factor == 0) & (item.metric.lengths > 0)))
            counts.count("unknown_shares", item.metric.name, n_unknown)
            values = item.metric.values * factor[item.metric.series]
            values.setflags(write=False)
            item = keep_series(attrs.evolve(item, metric=attrs.evolve(item.metric, values=values)), factor > 0)
        converted.append(item)
    return converted


def _numbers_of_cpus(mapped: Sequence[MappedMetric], n_nodes: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the number of logical CPUs of each node, shape (nodes,); 0 if it is not known.

    If several metrics have the number, the largest number is used: a metric may lack some CPUs, but never has too many.
    """
    numbers = np.zeros(n_nodes)
    for item in mapped:
        if item.mapping.kind == "cpus":
            used = item.metric.lengths > 0
            units = np.unique(np.column_stack([item.node[used], item.unit[used]]), axis=0)
            if len(units):
                numbers = np.maximum(numbers, np.bincount(units[:, 0], minlength=n_nodes))
    return numbers
