"""Checks of isolators."""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import KeplerError
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require
from kepler_core.testing.samples import small_context, small_dataset

_TOLERANCE = 1e-6
"""Allowed difference between measured power and the sum of its two parts, as a fraction of the largest power."""


def _context(subject: Subject) -> IsolationContext:
    context: IsolationContext | None = subject.extras.get("context")
    return small_context() if context is None else context


def _isolate(subject: Subject, measured: Dataset) -> Dataset:
    result = subject.make().isolate(measured, _context(subject))
    require(
        isinstance(result, Dataset), f"isolate() returned {type(result).__name__}; return dataset.isolated(background)"
    )
    isolated: Dataset = result
    return isolated


def returns_dynamic_power(subject: Subject) -> None:
    """Check that the result is a DynPower data set by container, with the input's features, components and source."""
    measured = small_dataset(by_container=True)
    isolated = _isolate(subject, measured)
    require(
        isolated.output_type == "DynPower",
        f"the result is a data set of {isolated.output_type}; return dataset.isolated(background), which sets DynPower",
    )
    require(isolated.by_container, "the result has no rows by container; keep the rows of the input")
    require(len(isolated.frame), "no row is left of a data set that has dynamic power")
    require(
        (isolated.features, isolated.components, isolated.source)
        == (measured.features, measured.components, measured.source),
        "features, components and source of the result are not those of the input",
    )


def is_never_negative(subject: Subject) -> None:
    """Check that dynamic power and background power are finite and at least 0 W."""
    isolated = _isolate(subject, small_dataset(by_container=True))
    watts = isolated.frame[isolated.power_columns].to_numpy()
    require(np.isfinite(watts).all(), "dynamic power is NaN or infinite in some rows")
    require(
        (watts >= 0).all(), f"dynamic power is {watts.min():.3g} W somewhere; take away no more than the measured power"
    )
    assert isolated.background is not None
    background = isolated.background.to_numpy()
    require(
        np.isfinite(background).all() and (background >= 0).all(), "the background power is negative or NaN somewhere"
    )


def loses_no_power(subject: Subject) -> None:
    """Check that dynamic power and background power add up to the measured power."""
    measured = small_dataset(by_container=True)
    isolated = _isolate(subject, measured)
    require(
        isolated.background is not None,
        "the result's background is not set, so the power that was taken away is unknown; "
        "return dataset.isolated(background)",
    )
    assert isolated.background is not None
    dynamic = isolated.node_power()
    expected = measured.node_power().loc[dynamic.index, isolated.power_columns].to_numpy()
    total = dynamic.to_numpy() + isolated.background.loc[dynamic.index, isolated.power_columns].to_numpy()
    difference = float(np.max(np.abs(total - expected)))
    require(
        difference <= _TOLERANCE * expected.max(),
        f"dynamic + background differs by up to {difference:.3g} W from the measured power",
    )


def can_be_undone(subject: Subject) -> None:
    """Check that `reconstruct` computes the measured power again from the result of `isolate`."""
    measured = small_dataset(by_container=True)
    reconstructed = subject.make().reconstruct(_isolate(subject, measured))
    require(
        reconstructed.output_type == "AbsPower",
        f"reconstruct() returned a data set of {reconstructed.output_type}, not AbsPower",
    )
    power = reconstructed.node_power()
    difference = float(np.max(np.abs(power.to_numpy() - measured.node_power().loc[power.index].to_numpy())))
    require(
        difference <= _TOLERANCE * float(power.to_numpy().max()),
        f"reconstruct() differs by up to {difference:.3g} W from the measured power",
    )


def keeps_features(subject: Subject) -> None:
    """Check that `isolate` changes power only: features keep their values."""
    measured = small_dataset(by_container=True)
    isolated = _isolate(subject, measured)
    columns = list(measured.features)
    require(
        isolated.frame[columns].equals(measured.frame.loc[isolated.frame.index, columns]),
        "features of the rows have changed; an isolator changes power only",
    )


def does_not_change_its_data(subject: Subject) -> None:
    """Check that `isolate` does not change its input, which other parts of the program also use."""
    measured = small_dataset(by_container=True)
    before = measured.frame.copy(deep=True)
    _isolate(subject, measured)
    require(before.equals(measured.frame), "isolate() changed its input; work on a copy")


def is_deterministic(subject: Subject) -> None:
    """Check that two calls of `isolate` with the same data set return equal results."""
    first, second = (_isolate(subject, small_dataset(by_container=True)) for _ in range(2))
    require(first.frame.equals(second.frame), "the same data set gave two different results; use a fixed seed")


def survives_power_that_never_changes(subject: Subject) -> None:
    """Check that `isolate` returns finite numbers or raises `KeplerError` if a component has constant power.

    The check tests a constant power of 0 W and of 50 W.
    """
    for watts in (0.0, 50.0):
        measured = small_dataset(by_container=True)
        frame = measured.frame.copy()
        column = measured.power_columns[0]
        rows_at_timestamp = np.bincount(measured.sample)[measured.sample]
        frame[column] = watts / rows_at_timestamp
        try:
            isolated = _isolate(subject, _with_frame(measured, frame))
        except KeplerError as error:
            require(str(error).strip(), f"for constant power it raises {type(error).__name__} without a message")
            continue
        require(np.isfinite(isolated.frame[column].to_numpy()).all(), f"a constant {watts:g} W gives NaN or infinity")


def survives_one_timestamp(subject: Subject) -> None:
    """Check that `isolate` returns finite numbers or raises `KeplerError` or `ValueError` for a single timestamp."""
    measured = small_dataset(by_container=True)
    first_timestamp = _with_frame(measured, measured.frame[measured.sample == 0])
    try:
        isolated = _isolate(subject, first_timestamp)
    except (KeplerError, ValueError) as error:
        require(str(error).strip(), f"for one timestamp it raises {type(error).__name__} without a message")
        return
    except CheckError:
        raise
    require(np.isfinite(isolated.frame[isolated.power_columns].to_numpy()).all(), "one timestamp gives NaN or infinity")


def _with_frame(dataset: Dataset, frame: pd.DataFrame) -> Dataset:
    return attrs.evolve(dataset, frame=frame)


CHECKS: tuple[CheckFunction, ...] = (
    returns_dynamic_power,
    is_never_negative,
    loses_no_power,
    can_be_undone,
    keeps_features,
    does_not_change_its_data,
    is_deterministic,
    survives_power_that_never_changes,
    survives_one_timestamp,
)
