"""Test the gains of nodes: factors by which the power of machines of one type differs from their mean power."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.dataset import NODE_LEVELS, Dataset
from kepler_core.models.loading import load_model
from kepler_core.pipeline.fit import FitJob, all_baselines, fit
from kepler_core.pipeline.honesty import errors_of, seen
from kepler_core.pipeline.node_gains import MIN_NODES, node_gains, with_own_gains
from kepler_core.pipeline.rows import TrainingRows, training_rows
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.pipeline.splits import splits
from kepler_core.pipeline.validation import folds

GAINS = np.array([1.1, 0.95, 0.85, 1.2, 0.9])
PER_CYCLE = np.array([0.5, 1.9, 0.8, 1.5, 1.1])
"""Instructions per cycle of the work on each node. A model can recognise a node by this number, which does not depend
on the node's gain."""
SAMPLES = 150
FEATURES = ("cpu_cycles", "cpu_instructions")


def watts_of_mean_node(cycles: FloatArray) -> FloatArray:
    return 40 + 120 * (cycles / 1e11) ** 0.8


def dataset(gains: FloatArray = GAINS, noise: float = 0.01) -> Dataset:
    """Return data of several nodes with the same range of load. `gains` has the factor of each node's power."""
    rng = np.random.default_rng(0)
    frames = []
    for number, gain in enumerate(gains):
        cycles = rng.uniform(0, 1e11, SAMPLES)
        power = gain * watts_of_mean_node(cycles) * (1 + noise * rng.standard_normal(SAMPLES))
        instructions = cycles * PER_CYCLE[number] * rng.uniform(0.9, 1.1, SAMPLES)
        index = pd.MultiIndex.from_product([["r"], [f"node-{number}"], 1e9 + 3.0 * np.arange(SAMPLES)])
        columns = {"cpu_cycles": cycles, "cpu_instructions": instructions, "package_power": power}
        frames.append(pd.DataFrame(columns, index=index.set_names(NODE_LEVELS)))
    return Dataset(pd.concat(frames), FEATURES, "rapl-sysfs", ("package",), feature_group="made")


def rows_of(data: Dataset) -> TrainingRows:
    return training_rows(data, 10_000, 10_000, 0)


def of_nodes(values: FloatArray, node: IntArray) -> FloatArray:
    """Return for each node the value in its first row."""
    return np.array([values[node == number][0] for number in np.unique(node)])


def test_the_gains_of_nodes_with_the_same_load_are_found() -> None:
    rows = rows_of(dataset())
    gains = of_nodes(node_gains(rows.fit_X, rows.fit_watts["package"], rows.node), rows.node)
    assert gains == pytest.approx(GAINS / GAINS.mean(), rel=0.01)


def test_a_faulty_low_reading_does_not_decide_the_gains() -> None:
    rows = rows_of(dataset())
    watts = rows.fit_watts["package"].copy()
    watts[7] = 12.0  # the nodes draw at least 34 W
    gains = of_nodes(node_gains(rows.fit_X, watts, rows.node), rows.node)
    assert gains == pytest.approx(GAINS / GAINS.mean(), rel=0.01)


def test_two_nodes_show_nothing_about_their_gains() -> None:
    rows = rows_of(dataset(GAINS[: MIN_NODES - 1]))
    watts = rows.fit_watts["package"]
    assert (node_gains(rows.fit_X, watts, rows.node) == 1).all()
    assert (with_own_gains(1.1 * watts, watts, rows.node) == 1.1 * watts).all()


def test_the_power_of_other_work_is_no_gain() -> None:
    """If nodes differ only in load, all gains (factors of their power at equal load) are 1."""
    cycles = np.repeat([1e9, 4e10, 9e10], SAMPLES) * np.random.default_rng(0).uniform(0.98, 1.02, 3 * SAMPLES)
    gains = node_gains(cycles[:, None], watts_of_mean_node(cycles), np.repeat([0, 1, 2], SAMPLES))
    assert gains == pytest.approx(1, abs=0.05)


@given(
    watts=st.lists(st.floats(0, 1e6), min_size=6, max_size=60),
    seed=st.integers(0, 999),
    features=st.integers(1, 3),
    scale=st.sampled_from([0.0, 1.0, 1e12]),
)
def test_gains_are_positive_for_any_data(watts: list[float], seed: int, features: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    gains = node_gains(scale * rng.random((len(watts), features)), np.array(watts), rng.integers(0, 4, len(watts)))
    assert np.isfinite(gains).all()
    assert (gains > 0).all()


def test_a_model_does_not_learn_the_gain_of_a_node_as_if_it_belonged_to_the_work() -> None:
    """A tree ensemble predicts the mean power of all nodes.

    It could tell the nodes apart by their features, and predict each node's own power, which is wrong for new nodes.
    """
    data = dataset()
    rows = rows_of(data)
    held_out = folds(ValidationSpec(), rows.stream, rows.time)
    job = FitJob(
        rows=rows, folds=held_out, splits=splits(ValidationSpec(), held_out, rows, 1, 0), seen=seen(data, rows),
        baselines=all_baselines(rows, held_out), trainer="GradientBoostingRegressorTrainer", args={}, seed=0,
        node_type=0, machine_spec={}, validation={}, lineage={},
    )  # fmt: skip
    result = fit(job)
    assert result.files is not None, result.reason
    predicted = load_model(result.files).predict(rows.node_X, FEATURES)["package"]
    expected = GAINS.mean() * watts_of_mean_node(rows.node_X[:, 0])
    errors = [np.mean(predicted[rows.node == node] / expected[rows.node == node]) - 1 for node in range(len(GAINS))]
    assert np.abs(errors).max() < 0.02
    # The model predicts the mean of the nodes. So the stated error includes the differences between the nodes.
    blocks = result.metadata["honesty"]["splits"]["blocks"]
    assert blocks["mae"] == pytest.approx(np.mean(np.abs(rows.node_watts["package"] - expected)), rel=0.1)


def test_one_node_does_not_decide_which_model_is_better() -> None:
    """Compare the exact model of the mean power with a wrong model that fits one node.

    On the node with the highest error, the exact model must have the lower error.
    """
    data = dataset(noise=0)
    rows = rows_of(data)
    parts = splits(ValidationSpec(), folds(ValidationSpec(), rows.stream, rows.time), rows, 1, 0)["nodes"]
    exact = GAINS.mean() * watts_of_mean_node(rows.node_X[:, 0])
    line = 60 + 110 * rows.node_X[:, 0] / 1e11
    of_highest = 1.1 * line  # a wrong model, but good for the node with the highest power
    good = errors_of(rows, {"package": exact}, parts)
    bad = errors_of(rows, {"package": of_highest}, parts)
    assert good.hardest == pytest.approx(0, abs=1e-6)
    assert bad.hardest > 1
    assert good.mae == pytest.approx(np.mean(np.abs(exact - rows.node_watts["package"])), rel=1e-4)
