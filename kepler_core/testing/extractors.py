"""Checks of extractors."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Extractor
from kepler_core.dataset import Dataset
from kepler_core.frames import node_dataset
from kepler_core.recording import Observations
from kepler_core.testing.checks import Subject, check_of, require
from kepler_core.testing.samples import FEATURES, SOURCE, small_observations


def _extract(
    subject: Subject,
    by_container: bool,
    observations: Observations | None = None,
    features: tuple[str, ...] = FEATURES,
    components: tuple[str, ...] | None = None,
) -> Dataset:
    found = small_observations() if observations is None else observations
    wanted = found.sources[SOURCE] if components is None else components
    made = subject.make().extract(found, features, SOURCE, wanted, by_container=by_container)
    require(
        isinstance(made, Dataset), f"extract() returned {type(made).__name__}; return a kepler_core.dataset.Dataset"
    )
    dataset: Dataset = made
    return dataset


@check_of(Extractor)
def says_how_far_back_it_looks(subject: Subject) -> None:
    """Validation keeps a gap of so many timestamps."""
    memory = subject.make().memory
    require(
        isinstance(memory, int) and memory >= 1,
        f"memory is {memory!r}; set it to the number of timestamps that go into a row (1: its own only)",
    )


@check_of(Extractor)
def memory_is_true(subject: Subject) -> None:
    """A row does not know of what is further away than `memory` timestamps."""
    reach = subject.make().memory
    whole = small_observations(nodes=1)
    cut = len(whole.sample_time) // 2
    early = _until(whole, cut)
    for by_container in (False, True):
        full, part = _extract(subject, by_container, whole), _extract(subject, by_container, early)
        before = whole.sample_time[max(cut - reach, 0)]
        old = full.frame[_time(full) < before]
        same = part.frame[_time(part) < before]
        require(
            len(old) == len(same) and np.allclose(old.to_numpy(), same.to_numpy(), rtol=1e-9),
            f"rows change with what is recorded more than {reach} timestamps later; raise memory or look back only: "
            f"validation would test on what was trained on",
        )


def _time(dataset: Dataset) -> FloatArray:
    found: FloatArray = dataset.index.get_level_values("timestamp").to_numpy(dtype=np.float64)
    return found


def _until(observations: Observations, cut: int) -> Observations:
    """The first instants of observations of one node."""
    import attrs

    rows = observations.row_sample < cut
    return attrs.evolve(
        observations,
        sample_stream=observations.sample_stream[:cut],
        sample_time=observations.sample_time[:cut],
        row_sample=observations.row_sample[rows],
        row_container=observations.row_container[rows],
        container_features={name: values[rows] for name, values in observations.container_features.items()},
        node_features={name: values[:cut] for name, values in observations.node_features.items()},
        power={key: values[:cut] for key, values in observations.power.items()},
    )


@check_of(Extractor)
def gives_what_was_asked_for(subject: Subject) -> None:
    """By node or by container, features and components in their order."""
    for by_container in (False, True):
        found = _extract(subject, by_container)
        where = "by container" if by_container else "by node"
        require(found.by_container == by_container, f"asked for rows {where}, it gave the other kind")
        require(len(found.frame), f"no row, asked {where} of observations that have all features and power")
        require(found.features == FEATURES, f"features are {found.features}; asked for {FEATURES}, in this order")
        require(found.source == SOURCE, f"source is {found.source!r}, asked for {SOURCE!r}")
        require(found.components == small_observations().sources[SOURCE], f"components are {found.components}")
        require(
            found.output_type == "AbsPower", f"output type is {found.output_type}; power that was measured is AbsPower"
        )
        columns = [*found.features, *found.power_columns]
        require(list(found.frame.columns) == columns, f"columns are {list(found.frame.columns)}, not {columns}")


@check_of(Extractor)
def takes_features_in_any_order(subject: Subject) -> None:
    """The order of the features is the user's."""
    straight = _extract(subject, False)
    turned = _extract(subject, False, features=FEATURES[::-1])
    require(turned.features == FEATURES[::-1], "the features are not in the order that was asked for")
    require(
        np.allclose(straight.X, turned.X[:, ::-1]), "a feature has other values when it is asked for in another order"
    )


@check_of(Extractor)
def gives_finite_numbers(subject: Subject) -> None:
    """Rows with something unknown are left out."""
    for by_container in (False, True):
        values = _extract(subject, by_container).frame.to_numpy()
        require(
            np.isfinite(values).all(), "a row holds NaN or infinity; leave out rows with an unknown feature or power"
        )
        require((values >= 0).all(), f"a row holds {values.min():.3g}; rates and watts are not negative")


@check_of(Extractor)
def shares_add_up(subject: Subject) -> None:
    """The containers' power is the node's."""
    by_node, by_container = _extract(subject, False), _extract(subject, True)
    sums = by_container.node_power()
    both = sums.index.intersection(by_node.frame.index)
    require(len(both), "no timestamp has rows by node and by container")
    off = np.abs(sums.loc[both].to_numpy() - by_node.frame.loc[both, by_node.power_columns].to_numpy())
    require(
        off.max() <= 1e-6 * sums.to_numpy().max(),
        f"at some timestamp the containers' power is {off.max():.3g} W from the node's; "
        f"kepler_core.frames.container_dataset shares it out",
    )


@check_of(Extractor)
def keeps_units(subject: Subject) -> None:
    """Rates per second and watts: over all, what was observed."""
    observations = small_observations()
    found = _extract(subject, False)
    power = {component: observations.power[SOURCE, component] for component in found.components}
    plain = node_dataset(observations, observations.node_features, power, FEATURES, SOURCE)
    for column in plain.frame.columns:
        ours, seen = found.frame[column].mean(), plain.frame[column].mean()
        require(
            0.5 * seen <= ours <= 2 * seen,
            f"{column} is {ours:.4g} on average, observed was {seen:.4g}; features are per second, power in watts",
        )


@check_of(Extractor)
def works_without_power(subject: Subject) -> None:
    """`estimate` asks for features alone."""
    for by_container in (False, True):
        found = _extract(subject, by_container, components=())
        require(len(found.frame), "no row when no component is asked for; `kepler-model estimate` does that")


@check_of(Extractor)
def leaves_its_data_alone(subject: Subject) -> None:
    """Observations are shared by all data sets."""
    observations = small_observations()
    arrays = [
        *observations.node_features.values(),
        *observations.container_features.values(),
        *observations.power.values(),
    ]
    before = [array.copy() for array in arrays]
    for by_container in (False, True):
        _extract(subject, by_container)
    for old, new in zip(before, arrays, strict=True):
        require(np.array_equal(old, new, equal_nan=True), "extract() changed the observations; work on a copy")


@check_of(Extractor)
def is_deterministic(subject: Subject) -> None:
    """The same observations give the same rows."""
    for by_container in (False, True):
        first, second = (_extract(subject, by_container) for _ in range(2))
        require(first.frame.equals(second.frame), "twice the same observations gave two data sets")


@check_of(Extractor)
def survives_one_timestamp(subject: Subject) -> None:
    """One timestamp gives its row, or none."""
    one = _until(small_observations(nodes=1), 2)
    for by_container in (False, True):
        values = _extract(subject, by_container, one).frame.to_numpy()
        require(np.isfinite(values).all(), "a very short recording gives NaN or infinity")
