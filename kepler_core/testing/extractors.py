"""Checks of extractors."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.dataset import Dataset
from kepler_core.frames import node_dataset
from kepler_core.recording import Observations
from kepler_core.recording.subsets import of_samples
from kepler_core.testing.checks import CheckFunction, Subject, require
from kepler_core.testing.samples import FEATURES, SOURCE, small_observations


def _extract(
    subject: Subject,
    by_container: bool,
    observations: Observations | None = None,
    features: tuple[str, ...] = FEATURES,
    components: tuple[str, ...] | None = None,
) -> Dataset:
    if observations is None:
        observations = small_observations()
    if components is None:
        components = observations.sources[SOURCE]
    result = subject.make().extract(observations, features, SOURCE, components, by_container=by_container)
    require(
        isinstance(result, Dataset), f"extract() returned {type(result).__name__}; return a kepler_core.dataset.Dataset"
    )
    dataset: Dataset = result
    return dataset


def has_a_memory(subject: Subject) -> None:
    """Check that `memory` is a number of timestamps; validation keeps a gap of this length around test data."""
    memory = subject.make().memory
    require(
        isinstance(memory, int) and memory >= 1,
        f"memory is {memory!r}; set it to the number of timestamps that go into a row (1: its own only)",
    )


def memory_is_large_enough(subject: Subject) -> None:
    """Check that no row depends on observations that are more than `memory` timestamps later than the row.

    The check extracts rows twice: from all observations, and from the first half of the observations. The rows of
    the first half must be the same both times, except for the rows at the last `memory` timestamps of this half.
    """
    memory = subject.make().memory
    whole = small_observations(nodes=1)
    cut = len(whole.sample_time) // 2
    first_half = _until(whole, cut)
    for by_container in (False, True):
        from_whole, from_half = (_extract(subject, by_container, part) for part in (whole, first_half))
        end = whole.sample_time[max(cut - memory, 0)]
        rows = from_whole.frame[_time(from_whole) < end]
        expected = from_half.frame[_time(from_half) < end]
        require(
            len(rows) == len(expected) and np.allclose(rows.to_numpy(), expected.to_numpy(), rtol=1e-9),
            f"rows change with values more than {memory} timestamps later; raise memory or use earlier timestamps "
            f"only: otherwise validation would test on training data",
        )


def _time(dataset: Dataset) -> FloatArray:
    seconds: FloatArray = dataset.index.get_level_values("timestamp").to_numpy(dtype=np.float64)
    return seconds


def _until(observations: Observations, end: int) -> Observations:
    """Return the observations of one node at its first `end` timestamps."""
    return of_samples(observations, np.arange(len(observations.sample_time)) < end)


def returns_what_was_requested(subject: Subject) -> None:
    """Check that a data set has the requested rows (nodes or containers), and the requested features in their order.

    It must also have all components of the energy source.
    """
    for by_container in (False, True):
        dataset = _extract(subject, by_container)
        rows = "by container" if by_container else "by node"
        require(dataset.by_container == by_container, f"requested were rows {rows}, but the result has the other kind")
        require(len(dataset.frame), f"no row {rows} from observations that have all features and power")
        require(dataset.features == FEATURES, f"features are {dataset.features}; requested were {FEATURES}")
        require(dataset.source == SOURCE, f"source is {dataset.source!r}, requested was {SOURCE!r}")
        require(dataset.components == small_observations().sources[SOURCE], f"components are {dataset.components}")
        require(
            dataset.output_type == "AbsPower",
            f"output type is {dataset.output_type}; measured power is AbsPower",
        )
        columns = [*dataset.features, *dataset.power_columns]
        require(list(dataset.frame.columns) == columns, f"columns are {list(dataset.frame.columns)}, not {columns}")


def takes_features_in_any_order(subject: Subject) -> None:
    """Check that features are in the requested order, and that the order does not change their values."""
    dataset = _extract(subject, False)
    reversed_dataset = _extract(subject, False, features=FEATURES[::-1])
    require(reversed_dataset.features == FEATURES[::-1], "the features are not in the requested order")
    require(
        np.allclose(dataset.X, reversed_dataset.X[:, ::-1]),
        "a feature has other values when the features are requested in another order",
    )


def returns_finite_numbers(subject: Subject) -> None:
    """Check that all numbers are finite and not negative. An extractor must leave out rows with unknown values."""
    for by_container in (False, True):
        values = _extract(subject, by_container).frame.to_numpy()
        require(
            np.isfinite(values).all(), "a row holds NaN or infinity; leave out rows with an unknown feature or power"
        )
        require((values >= 0).all(), f"a row holds {values.min():.3g}; rates and watts are not negative")


def shares_add_up(subject: Subject) -> None:
    """Check that the power of a node's containers adds up to the node's power."""
    by_node, by_container = _extract(subject, False), _extract(subject, True)
    sums = by_container.node_power()
    common = sums.index.intersection(by_node.frame.index)
    require(len(common), "no timestamp has rows by node and by container")
    difference = np.abs(sums.loc[common].to_numpy() - by_node.frame.loc[common, by_node.power_columns].to_numpy())
    require(
        difference.max() <= 1e-6 * sums.to_numpy().max(),
        f"at some timestamp the containers' power differs by {difference.max():.3g} W from the node's; "
        f"kepler_core.frames.container_dataset shares the node's power",
    )


def keeps_units(subject: Subject) -> None:
    """Check that features are rates per second and power is in watts.

    The average of each column must be between half and twice the average in the observations.
    """
    observations = small_observations()
    dataset = _extract(subject, False)
    power = {component: observations.power[SOURCE, component] for component in dataset.components}
    expected = node_dataset(observations, observations.node_features, power, FEATURES, SOURCE)
    for column in expected.frame.columns:
        mean, expected_mean = dataset.frame[column].mean(), expected.frame[column].mean()
        require(
            0.5 * expected_mean <= mean <= 2 * expected_mean,
            f"{column} is {mean:.4g} on average, but {expected_mean:.4g} in the observations; features are per second, "
            f"power in watts",
        )


def works_without_power(subject: Subject) -> None:
    """Check that `extract` also returns rows if `components` is empty.

    Such rows have features but no power. `kepler-model estimate` needs them.
    """
    for by_container in (False, True):
        dataset = _extract(subject, by_container, components=())
        require(len(dataset.frame), "no row if components is empty, as in `kepler-model estimate`")


def does_not_change_its_data(subject: Subject) -> None:
    """Check that `extract` does not change the observations, because all data sets share them."""
    observations = small_observations()
    arrays = [
        *observations.node_features.values(),
        *observations.container_features.values(),
        *observations.power.values(),
    ]
    copies = [array.copy() for array in arrays]
    for by_container in (False, True):
        _extract(subject, by_container)
    for copy, array in zip(copies, arrays, strict=True):
        require(np.array_equal(copy, array, equal_nan=True), "extract() changed the observations; work on a copy")


def is_deterministic(subject: Subject) -> None:
    """Check that two calls of `extract` with the same observations return equal rows."""
    for by_container in (False, True):
        first, second = (_extract(subject, by_container) for _ in range(2))
        require(first.frame.equals(second.frame), "the same observations gave two different data sets")


def survives_one_timestamp(subject: Subject) -> None:
    """Check that a very short recording gives rows of finite numbers, or no rows."""
    observations = _until(small_observations(nodes=1), 2)
    for by_container in (False, True):
        values = _extract(subject, by_container, observations).frame.to_numpy()
        require(np.isfinite(values).all(), "a very short recording gives NaN or infinity")


CHECKS: tuple[CheckFunction, ...] = (
    has_a_memory,
    memory_is_large_enough,
    returns_what_was_requested,
    takes_features_in_any_order,
    returns_finite_numbers,
    shares_add_up,
    keeps_units,
    works_without_power,
    does_not_change_its_data,
    is_deterministic,
    survives_one_timestamp,
)
