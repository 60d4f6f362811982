"""Test recordings of many nodes. Prometheus scrapes each node at different times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kepler_core.faults import FAULTS
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording

Document = dict[str, list[dict[str, Any]]]


def at_own_times(document: Document, node: int, lost: float = 0.0) -> Document:
    """Return the recording of a node with times and gaps as in a real Prometheus server.

    The times have an offset that depends on the node and a jitter of milliseconds. A fraction `lost` of the scrapes is
    missing.
    """
    rng = np.random.default_rng(node)
    offset = rng.uniform(0, 3)
    times = sorted({time for series in document.values() for one in series for time, _ in one["values"]})
    scraped = {time: round(time + offset + rng.normal(0, 0.002), 3) for time in times if rng.random() >= lost}
    return {
        metric: [
            {
                "metric": one["metric"] | {"instance": f"10.0.0.{node}:9102"},
                "values": [[scraped[time], value] for time, value in one["values"] if time in scraped],
            }
            for one in series
        ]
        for metric, series in document.items()
    }


def fleet() -> list[Document]:
    """Return recordings: for each fault, a recording of one node; and a recording of six nodes without a fault."""
    documents = []
    for at, fault in enumerate([*FAULTS, *[None] * 6]):
        faults = () if fault is None else (fault,)
        simulation = Simulation(
            containers=2, timestamps=60 + 17 * at, faults=faults, seed=at, node_spread=0.2, severity=at % 3 + 1
        )
        document = recording(simulation)
        documents.append(at_own_times(document, at, [0.0, 0.02][at % 2]) if at % 5 else document)
    for at, document in enumerate(documents):
        for series in document.values():
            for one in series:
                one["metric"]["instance"] = f"10.0.0.{at}:9102"
                if "container_id" in one["metric"]:
                    one["metric"]["container_id"] = f"{at:04x}{one['metric']['container_id'][-20:]}"
    return documents


def merged(documents: list[Document]) -> Document:
    whole: Document = {}
    for document in documents:
        for metric, series in document.items():
            whole.setdefault(metric, []).extend(series)
    return whole


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return fleet()


def test_a_node_of_a_fleet_is_observed_as_if_it_were_alone(documents: list[Document]) -> None:
    whole = observe([read_recording(merged(documents))])
    n_findings = 0
    for document in documents:
        alone = observe([read_recording(document)])
        (node,) = (stream.node for stream in alone.streams)
        number = [stream.node for stream in whole.streams].index(node)
        samples = whole.sample_stream == number
        np.testing.assert_array_equal(whole.sample_time[samples], alone.sample_time, err_msg=node)
        for columns, expected in ((whole.power, alone.power), (whole.node_features, alone.node_features)):
            for key, values in columns.items():
                np.testing.assert_array_equal(
                    values[samples], expected.get(key, np.full(len(alone.sample_time), np.nan)), err_msg=f"{node} {key}"
                )
        n_findings += sum(alone.counts.as_dict().get("power_jumps", {}).values())
    assert n_findings, "the recordings have none of the faults that were simulated"
