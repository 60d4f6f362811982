"""Makes recordings of exporters with known rates and watts, and checks the observations in these recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.dataset import Dataset
from kepler_core.plugins import registry
from kepler_core.recording import Observations, observe, read_recording

Document = dict[str, list[dict[str, Any]]]
"""A recording as decoded JSON: an object with a list of series for each metric name."""

START = 1_700_000_000
TIMES = START + 3.0 * np.arange(40)
"""Times of the samples, in Unix seconds."""
FEATURES = {"bpf_cpu_time_ms": 1.0, "cpu_instructions": 1e6, "cache_miss": 1e3}
"""Rate per second of each feature in a container whose load is 1."""
WATTS = {
    ("package", "0", "idle"): 20.0,
    ("package", "0", "dynamic"): 7.0,
    ("package", "1", "idle"): 18.0,
    ("package", "1", "dynamic"): 5.0,
    ("dram", "0", "dynamic"): 4.0,
    ("dram", "1", "dynamic"): 3.0,
    ("platform", "", "idle"): 90.0,
    ("platform", "", "dynamic"): 30.0,
}
"""Watts of a machine whose load is 1. A key is (component, number of the processor package, mode)."""
CONTAINERS = {"a" * 64: 1.0, "b" * 64: 3.0, "system_processes": 0.5}
"""Load of each container, by the container's name."""
NODE_A = {"a" * 64: 1.0, "system": 0.5}
NODE_B = {"b" * 64: 2.0, "system": 0.7}
"""Loads of the containers of two nodes, by the container's name. Both nodes have a container "system"."""
DRAM_IS_DYNAMIC_ONLY = {"dynamic_only": {"rapl-sysfs dram": 2}}
"""Findings in the recording of one `machine`: two series of dynamic energy have no series of idle energy.

They are the DRAM series of the two processor packages.
"""


def variation(times: FloatArray) -> FloatArray:
    """Return the factor by which all rates and watts are multiplied at each time.

    The factor changes over time, so that a test notices a value at a wrong time.
    """
    return 1.0 + 0.1 * (np.round((times - START) / 3) % 7)


def counter(rate: float, times: FloatArray, start: float = 1000.0) -> FloatArray:
    """Return the values of a counter at `times`.

    In the interval before each time, the counter grows by `rate` per second, multiplied by `variation` at this time.
    """
    return start + np.concatenate([[0.0], np.cumsum(rate * variation(times)[1:] * np.diff(times))])


def series_of(labels: Mapping[str, str], times: FloatArray, values: FloatArray) -> dict[str, Any]:
    """Return a series of a recording, in the JSON format of Prometheus."""
    return {
        "metric": dict(labels),
        "values": [[t, repr(v)] for t, v in zip(times.tolist(), values.tolist(), strict=True)],
    }


def machine(
    instance: str = "node-a",
    *,
    times: FloatArray = TIMES,
    containers: Mapping[str, float] = CONTAINERS,
    load: float = 1.0,
    start: float = 1000.0,
    **labels: str,
) -> Document:
    """Return the recording of an exporter on one machine. `labels` are added to the labels of all series."""
    exporter = {"instance": instance, "job": "kepler", "pod": "kepler-1", **labels}
    document: Document = {}
    for feature, unit in FEATURES.items():
        document[f"kepler_container_{feature}_total"] = [
            series_of(
                {**exporter, "container_id": name, "pod_name": f"pod-{name[:3]}"},
                times,
                counter(unit * load * share, times, start),
            )
            for name, share in containers.items()
        ]
    for (component, package, mode), watts in WATTS.items():
        source = {"source": "acpi" if component == "platform" else "rapl-sysfs", "mode": mode}
        document.setdefault(f"kepler_node_{component}_joules_total", []).append(
            series_of(
                {**exporter, **source, **({"package": package} if package else {})},
                times,
                counter(watts * load, times, start),
            )
        )
    return document


def merged(*documents: Document) -> Document:
    """Return the recording that Prometheus would return if it scraped the exporters of all `documents`."""
    metrics = dict.fromkeys(metric for document in documents for metric in document)
    return {metric: [series for document in documents for series in document.get(metric, [])] for metric in metrics}


def later(document: Document, seconds: int = 86400) -> Document:
    """Move all samples of a recording to a later time, by default by a day."""
    for all_series in document.values():
        for series in all_series:
            series["values"] = [[time + seconds, value] for time, value in series["values"]]
    return document


def observed(document: Document, **arguments: Any) -> Observations:
    """Return the observations in a recording."""
    return observe([read_recording(document, name="test")], **arguments)


def rates_by_container(observations: Observations, feature: str) -> dict[tuple[str, float, str], float]:
    """Return all known rates of a feature. A key is (node, time, container)."""
    sample = observations.row_sample
    nodes = [observations.streams[code].node for code in observations.sample_stream[sample]]
    times = observations.sample_time[sample].tolist()
    names = [observations.containers[code] for code in observations.row_container]
    rates = observations.container_features[feature].tolist()
    keys = list(zip(nodes, times, names, strict=True))
    assert len(set(keys)) == len(keys)
    return {key: rate for key, rate in zip(keys, rates, strict=True) if np.isfinite(rate)}


def assert_same(observations: Observations, expected: Observations) -> None:
    """Assert that two observations have exactly the same rates and watts."""
    assert observations.streams == expected.streams
    assert observations.containers == expected.containers
    for name in ("sample_stream", "sample_time", "row_sample", "row_container"):
        np.testing.assert_array_equal(getattr(observations, name), getattr(expected, name))
    for name in ("container_features", "node_features", "power"):
        columns, expected_columns = getattr(observations, name), getattr(expected, name)
        assert columns.keys() == expected_columns.keys()
        for key in expected_columns:
            np.testing.assert_array_equal(columns[key], expected_columns[key], err_msg=str(key))


def extracted(
    observations: Observations, features: Sequence[str], source: str, *, by_container: bool, window: int | None = None
) -> Dataset:
    """Return the data set of the default extractor, or of the smoothing extractor if `window` is not None."""
    extractor = registry.extractors.create(
        "default" if window is None else "smooth", {"window": window} if window else {}
    )
    components = observations.sources[source]
    return extractor.extract(observations, features, source, components, by_container=by_container)
