"""Test that the online trainer fetches a fleet in groups of nodes, and stores at most as many samples as it may."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.generated_fleet import ENERGY, START, GeneratedFleet
from support.prometheus_process import Reply, answering

pytest.importorskip("pyarrow")

from kepler_core.pipeline.load import pipeline_from
from kepler_core.prometheus import PrometheusClient, Server
from kepler_core.recording import Observations
from kepler_servers.online_trainer.collecting import SampleCollector
from kepler_servers.online_trainer.fetching import Fetcher
from kepler_servers.online_trainer.sample_store import SampleStore

END = START + 600
NODES = 30


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kepler_core.prometheus.host_groups.FEW_INSTANCES", 10)
    monkeypatch.setattr("kepler_core.prometheus.host_groups.GROUP_BYTES", 15_000)


def fetcher(url: str) -> Fetcher:
    spec = pipeline_from(
        {
            "name": "fleet",
            "energy_sources": ["rapl"],
            "feature_groups": ["BPFOnly"],
            "abs_trainers": ["LinearRegressionTrainer"],
        },
        "test",
    )
    return Fetcher(PrometheusClient(Server(url), patience=0), spec, None, None, ())


def fetch_groups(url: str, since: float = START, until: float = END) -> list[Observations]:
    return list(fetcher(url).fetch_groups(since, until, threading.Event()))


def watts(*groups: Observations) -> dict[tuple[str, float], float]:
    """Return the package power of each sample with power, by node and time."""
    return {
        (group.streams[stream].node, float(time)): float(power)
        for group in groups
        if ("rapl-sysfs", "package") in group.power
        for stream, time, power in zip(
            group.sample_stream, group.sample_time, group.power["rapl-sysfs", "package"], strict=True
        )
        if np.isfinite(power)
    }


@pytest.fixture(scope="module")
def fleet() -> GeneratedFleet:
    return GeneratedFleet(NODES, usage=("kepler_container_bpf_cpu_time_ms_total",))


def test_groups_have_the_same_samples_as_the_whole_fleet(
    fleet: GeneratedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(fleet.reply) as url:
        groups = fetch_groups(url)
        monkeypatch.setattr("kepler_core.prometheus.host_groups.FEW_INSTANCES", NODES)
        (whole,) = fetch_groups(url)
    assert len(groups) > 3
    expected = watts(whole)
    assert len(expected) > NODES * 30
    assert sum(len(group.sample_time) for group in groups) == len(whole.sample_time)
    found = watts(*groups)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-12)


def test_a_fetch_adds_at_most_as_many_samples_as_the_store_may_hold(fleet: GeneratedFleet, tmp_path: Path) -> None:
    """The choice does not depend on the order of the groups, and a repeated fetch adds no sample."""
    with answering(fleet.reply) as url:
        groups = fetch_groups(url)
        later = fetch_groups(url, START + 300, END + 300)
    stored = []
    for name, order in (("a", groups), ("b", groups[::-1])):
        store = SampleStore(tmp_path / name, max_samples=500)
        for repeated in (False, True):
            collector = SampleCollector(store, START, END)
            for group in order:
                collector.add(group)
            result, new = collector.store()
            if repeated:
                assert (result.added, result.replaced) == (0, 0)
                continue
            assert 150 <= result.added <= 500
            assert result.added + result.left_out + result.waiting + result.unusable >= collector.n_fetched
            assert new is not None
            chosen = watts(new)
            assert len(chosen) == result.added
            expected = watts(*groups)
            assert chosen == {key: expected[key] for key in chosen}
        assert len(store.samples_by_node) == NODES
        stored.append(store.table().select(["node", "time"]).to_pylist())
        collector = SampleCollector(store, START + 300, END + 300)
        for group in later:
            collector.add(group)
        result, _ = collector.store()
        assert result.added > 110  # a quarter of 600 new samples
    assert stored[0] == stored[1]


def test_nodes_without_energy_do_not_hide_the_others(fleet: GeneratedFleet) -> None:
    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        status, sent, body = fleet.reply(path, headers)
        if "/query" in path and ENERGY in path:
            answer = json.loads(body)
            result = answer["data"]["result"]
            answer["data"]["result"] = [s for s in result if fleet.node_of(s["metric"]["instance"]) >= first]
            body = json.dumps(answer).encode()
        return status, sent, body

    with answering(reply) as url:
        first = NODES // 2
        nodes = {node for node, _ in watts(*fetch_groups(url))}
        assert nodes == set(fleet.instances[first:])
        first = NODES
        assert not watts(*fetch_groups(url))


def test_usage_and_energy_of_different_hosts_are_observed_together(
    fleet: GeneratedFleet, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if "/label/instance/" in path and ENERGY in path and "bpf" not in path:
            return 200, {}, json.dumps({"status": "success", "data": ["elsewhere:9102"]}).encode()
        return fleet.reply(path, headers)

    with answering(reply) as url:
        assert len(fetch_groups(url)) == 1
    assert "different hosts" in caplog.text
