"""Leave out the energy of nodes that have a malformed energy counter."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from kepler_core.recording.columns import Metric, Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.schemas import MetricUse, SchemaUse


def without_malformed_energy(recording: Recording, uses: SchemaUse, counts: Counts) -> Recording:
    """Return a recording without the energy that is known only in part, and count the malformed series.

    A component's power is a sum over sockets and modes (idle and dynamic). If the counter of one socket or
    mode is malformed, the sum of the other counters is too low. All samples of the same metric, node and energy
    source are therefore left out.
    """
    for name, number in recording.malformed_series.items():
        counts.count("malformed_series", name, number, recording.malformed_examples.get(name, ""))
    metrics = dict(recording.metrics)
    for name, malformed in recording.malformed_labels.items():
        use = uses.metrics.get(name)
        if name in metrics and use is not None and any(mapping.kind != "feature" for mapping in use.mappings):
            incomplete = {_meter(labels, use) for labels in malformed}
            metrics[name] = _without_meters(metrics[name], incomplete, use)
    return attrs.evolve(recording, metrics=metrics)


def _meter(labels: Mapping[str, str], use: MetricUse) -> tuple[str | None, str | None]:
    """Return the node and the energy source of a series."""
    return labels.get(use.schema.node_label), labels.get(use.schema.source_label)


def _without_meters(metric: Metric, meters: set[tuple[str | None, str | None]], use: MetricUse) -> Metric:
    """Return a metric without the samples of `meters`, which are pairs of node and energy source."""
    complete = np.array([_meter(labels, use) not in meters for labels in metric.labels], dtype=bool)
    kept = complete[metric.series]
    return attrs.evolve(
        metric, timestamps=metric.timestamps[kept], values=metric.values[kept], series=metric.series[kept]
    )
