"""Tests of features that are always 0, because eBPF programs or hardware counters do not work on the machine.

The estimator must then use a model that does not need these features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import kepler
from support.estimator_clients import watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import LinearModel, publish

from kepler_core.vocabulary import COUNTER_FEATURES, WORKLOAD_FEATURES, dead_features

COUNTERS = ("cpu_cycles", "cpu_instructions", "cache_miss")
EBPF = ("bpf_cpu_time_ms", "bpf_page_cache_hit", "bpf_net_rx_irq")
METRICS = [*EBPF, *COUNTERS]
MODEL_OF_COUNTERS = {"package": (30.0, {"cpu_cycles": 0.01})}
MODEL_OF_EBPF = {"package": (31.0, {"bpf_cpu_time_ms": 0.02})}


def stored_models(*groups: str) -> list[LinearModel]:
    models = []
    for output_type in ("AbsPower", "DynPower"):
        if "ebpf" in groups:
            models.append(LinearModel(group="BPFOnly", output_type=output_type, mae=0.5, watts=MODEL_OF_EBPF))
        if "counters" in groups:
            features = tuple(sorted(COUNTERS))
            models.append(
                LinearModel(
                    group="CounterOnly", output_type=output_type, features=features, mae=2.0, watts=MODEL_OF_COUNTERS
                )
            )
    return models


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstimatorProcess]:
    """An estimator with models of eBPF features and of hardware counters. eBPF models have the lower error."""
    folder = tmp_path_factory.mktemp("both")
    publish(folder / "store", *stored_models("ebpf", "counters"))
    with running_estimator(folder / "e.sock", "-s", folder / "store") as process:
        yield process


def ask(estimator: EstimatorProcess, rows: list[list[float]], output_type: str = "AbsPower") -> dict[str, Any]:
    return estimator.ask(watts_request(rows, metrics=METRICS, output_type=output_type))


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_a_model_of_hardware_counters_answers_where_ebpf_measures_nothing(
    both: EstimatorProcess, output_type: str
) -> None:
    reply = ask(both, [[0, 0, 0, 1000, 2000, 10], [0, 0, 0, 2000, 2000, 0]], output_type)
    assert reply["powers"]["package"] == [40.0, 50.0]  # the model with eBPF features would predict 31 W for both rows
    for feature in EBPF:
        assert feature in reply["msg"]
    for feature in COUNTERS:
        assert feature not in reply["msg"]


def test_a_model_of_ebpf_features_answers_where_no_hardware_counter_runs(both: EstimatorProcess) -> None:
    reply = ask(both, [[1000, 5, 2, 0, 0, 0]])
    assert reply["powers"]["package"] == [51.0]
    assert "cpu_cycles, cpu_instructions" in reply["msg"]


@pytest.mark.parametrize(
    "rows",
    [
        [[1000, 5, 2, 1e9, 2e9, 1e6]],
        [[1000, 5, 0, 1e9, 2e9, 0]],  # the features of network packets and of cache misses are 0
        [[1000, 0, 0, 1e9, 2e9, 1e6], [0, 0, 0, 3e9, 1e9, 0]],  # some features are 0 in one row only
    ],
)
def test_live_features_are_used(both: EstimatorProcess, rows: list[list[float]]) -> None:
    reply = ask(both, rows)
    assert reply["powers"]["package"] == [31 + 0.02 * row[0] for row in rows]
    assert reply["msg"] == ""


def test_an_idle_machine_has_no_dead_features(both: EstimatorProcess) -> None:
    reply = ask(both, [[0.0] * 6])
    assert reply["powers"]["package"] == [31.0]
    assert reply["msg"] == ""


def test_dead_features_are_logged_once_and_counted(tmp_path: Path) -> None:
    publish(tmp_path / "store", *stored_models("ebpf", "counters"))
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store") as estimator:
        for cycles in (1e9, 2e9, 3e9):
            ask(estimator, [[0, 0, 0, cycles, 2e9, 1e6]])
        names = ", ".join(dead_features(dict(zip(METRICS, [False] * 3 + [True] * 3, strict=True))))
        assert estimator.status()["dead_features"] == {names: 3}
        shown = kepler("estimator", "status", "--socket", str(estimator.path)).stdout
        assert f"3 requests in which {names} are 0 in all rows" in shown
        log = estimator.log
    assert log.count("0 in all rows") == 1


def test_without_another_model_the_request_fails_and_names_the_dead_features(tmp_path: Path) -> None:
    publish(tmp_path / "store", *stored_models("ebpf"))
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store") as estimator:
        row = [0, 0, 0, 1e9, 2e9, 1e6]
        reply = ask(estimator, [row])
        assert reply["powers"] == {}
        assert "bpf_cpu_time_ms" in reply["msg"]
        assert "0 in all rows" in reply["msg"]
        assert ask(estimator, [row, row], "DynPower")["powers"]["package"] == [0, 0]
        assert ask(estimator, [[1000, 5, 2, 1e9, 2e9, 1e6]])["powers"]["package"] == [51.0]


@given(st.dictionaries(st.sampled_from([*WORKLOAD_FEATURES, "node_info", "other"]), st.booleans()))
def test_dead_features_are_zero_and_their_group_is_decided(moves: dict[str, bool]) -> None:
    dead = dead_features(moves)
    assert not any(moves[feature] for feature in dead)
    decisive = {"bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions"}
    assert not dead or decisive & set(dead)
    if not any(moves.get(feature, False) for feature in (*COUNTER_FEATURES, "bpf_cpu_time_ms")):
        assert dead == ()
