"""Test the estimated gains of nodes, and the test for outliers among the nodes of one type.

The gain of a node is the factor between its power and the mean power of its node type at the same load.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kepler_core.cli.inputs import read_machine_specs
from kepler_core.errors import UsageError
from kepler_core.machine import MachineSpec
from kepler_core.pipeline.machine_groups import machine_groups, most_cores
from kepler_core.pipeline.node_comparison import (
    FALSE_ALARMS,
    MIN_NODES,
    MIN_SAMPLES,
    compare_nodes,
    gains_of,
    outlier_test,
)
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import Simulation, node_factors, recording

BIG = MachineSpec(processor="intel_xeon_gold_6130", cores=32)
SMALL = MachineSpec(processor="intel_xeon_gold_6130", cores=16)


def fleet(gains: np.ndarray, samples: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, watts and node numbers. `gains` has the factor of each node's power. The load changes slowly."""
    rng = np.random.default_rng(seed)
    nodes = len(gains)
    u = np.repeat(rng.uniform(0, 1, (nodes, samples // 8 + 1)), 8, axis=1)[:, :samples].reshape(-1)
    node = np.repeat(np.arange(nodes), samples)
    watts = gains[node] * (60 + 140 * u**0.8) * (1 + 0.015 * rng.standard_normal(len(node)))
    return (u * 32_000)[:, None], watts, node


def observed(**parameters: object) -> Observations:
    simulation = Simulation(containers=3, accelerator=False, **parameters)  # type: ignore[arg-type]
    return observe([read_recording(recording(simulation), name="fleet")])


def test_gains_are_those_of_the_machines_at_different_loads() -> None:
    true = 1 + 0.04 * np.random.default_rng(1).standard_normal(30)
    gains, errors = gains_of(*fleet(true), nodes=30)
    difference = np.exp(gains) - true / np.median(true)
    assert np.abs(difference).max() < 0.02
    # the stated standard errors agree with the real errors within a factor of 2.5
    assert 0.4 < np.sqrt(np.mean((difference / errors) ** 2)) < 2.5


def test_a_few_nodes_that_draw_more_than_their_twins_are_outliers() -> None:
    true = 1 + 0.02 * np.random.default_rng(2).standard_normal(100)
    true[[3, 40, 77]] = 1.15
    gains, errors = gains_of(*fleet(true), nodes=100)
    spread, spread_error, q = outlier_test(gains, errors)
    assert set(np.flatnonzero(q <= FALSE_ALARMS)) == {3, 40, 77}
    assert spread is not None
    assert spread_error is not None
    assert abs(spread - 0.02) < 3 * spread_error


@pytest.mark.parametrize("nodes", [MIN_NODES, 8, 20, 100, 400])
def test_false_alarms_are_as_rare_as_promised(nodes: int) -> None:
    rng = np.random.default_rng(nodes)
    repetitions = 1000
    errors = np.full(nodes, 0.002)
    alarms = sum(
        bool((outlier_test(0.02 * rng.standard_normal(nodes), errors)[2] <= FALSE_ALARMS).any())
        for _ in range(repetitions)
    )
    # the tolerance is three standard deviations of a binomial distribution
    most = FALSE_ALARMS + 3 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / repetitions)
    assert alarms / repetitions <= most


def test_faulty_readings_do_not_change_the_gains() -> None:
    X, watts, node = fleet(np.ones(8))
    clean, _ = gains_of(X, watts, node, nodes=8)
    faulty = watts.copy()
    faulty[[5, 100, 333]] = 3.0
    gains, _ = gains_of(X, faulty, node, nodes=8)
    assert np.abs(gains - clean).max() < 0.01


def test_a_node_with_three_samples_has_no_gain() -> None:
    X, watts, node = fleet(np.ones(7))
    rows = np.flatnonzero((node != 6) | (np.arange(len(node)) >= len(node) - 3))
    gains, errors = gains_of(X[rows], watts[rows], node[rows], nodes=7)
    assert np.isnan(gains[6])
    assert np.isnan(errors[6])
    assert np.isfinite(gains[:6]).all()


@pytest.mark.parametrize("nodes", [1, MIN_NODES - 1])
def test_few_nodes_are_not_tested(nodes: int) -> None:
    gains, errors = gains_of(*fleet(np.linspace(1, 2, nodes)), nodes=nodes)
    spread, spread_error, q = outlier_test(gains, errors)
    assert (spread, spread_error) == (None, None)
    assert np.isnan(q).all()


def test_nodes_without_any_gain_are_no_error() -> None:
    X, watts, node = fleet(np.ones(3), samples=MIN_SAMPLES - 1)
    gains, errors = gains_of(X, watts, node, nodes=3)
    assert np.isnan(gains).all()
    assert np.isnan(errors).all()
    assert outlier_test(gains, errors)[0] is None


def test_equal_nodes_have_no_spread() -> None:
    spread, _, q = outlier_test(np.zeros(6), np.zeros(6))
    assert spread == 0
    assert (q == 1).all()


def test_a_simulated_fleet_has_the_gains_of_the_simulation() -> None:
    simulation = {"nodes": 8, "timestamps": 80, "node_spread": 0.05, "seed": 3}
    observations = observed(**simulation)
    true = node_factors(Simulation(**simulation))  # type: ignore[arg-type]
    (platform,) = (table for table in compare_nodes(observations) if table.component == "platform")
    gains = {node.node: node.gain for node in platform.nodes}
    measured = np.array([gains[f"node-{number}"] for number in range(8)])
    assert np.abs(measured - true / np.median(true)).max() < 0.025
    assert platform.spread is not None


def test_nodes_with_equal_machines_are_one_group() -> None:
    observations = observed(nodes=3, timestamps=10)
    specs = {"node-0": SMALL, "node-1:9102": BIG, "node-2": BIG}
    big, small = machine_groups(observations, specs)
    assert [stream.node for stream in big.observations.streams] == ["node-1", "node-2"]
    assert [stream.node for stream in small.observations.streams] == ["node-0"]
    assert small.machine is not None
    assert small.machine.spec == SMALL
    of_two = observations.sample_stream > 0
    assert len(big.observations.sample_time) == of_two.sum()
    for name, values in observations.node_features.items():
        np.testing.assert_array_equal(big.observations.node_features[name], values[of_two])
    ids = {big.observations.containers[at] for at in big.observations.row_container}
    assert ids == set(big.observations.containers)
    assert all(name.startswith(("node-1", "node-2")) for name in ids)
    sums = np.bincount(
        big.observations.row_sample,
        big.observations.container_features["cpu_cycles"],
        minlength=len(big.observations.sample_time),
    )
    known = np.isfinite(sums) & np.isfinite(big.observations.node_features["cpu_cycles"])
    assert known.any()
    np.testing.assert_allclose(sums[known], big.observations.node_features["cpu_cycles"][known])


def test_nodes_without_a_description_are_named() -> None:
    with pytest.raises(UsageError, match="no description of 2 of the recordings' nodes: 'node-0', 'node-2'"):
        machine_groups(observed(nodes=3, timestamps=5), {"node-1": BIG})


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("[]", "not a JSON object"),
        ("{}", "no machine is described"),
        ('{"a": {"coers": 3}}', "unknown key"),
        ('{"a": 3}', "a machine's description is an object"),
        ('{"0": {"attrs": {"cores": 3}, "members": "a"}}', "members are not a list"),
        ('{"0": {"attrs": {}, "members": ["a"]}, "1": {"attrs": {}, "members": ["a"]}}', "in two node types"),
    ],
)
def test_unusable_descriptions_are_refused(document: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "specs.json").write_text(document)
    with pytest.raises(UsageError, match=problem):
        read_machine_specs(tmp_path / "specs.json")


def test_descriptions_can_be_an_index_of_node_types(tmp_path: Path) -> None:
    index = {"0": {"attrs": {"cores": 32}, "members": ["a", "b"]}, "1": {"attrs": {"cores": 16}, "members": ["c"]}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    specs = read_machine_specs(tmp_path / "index.json")
    assert {node: spec.cores for node, spec in specs.items()} == {"a": 32, "b": 32, "c": 16}
    assert most_cores(specs) == 32
    assert most_cores({**specs, "d": MachineSpec()}) is None
