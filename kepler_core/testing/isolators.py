"""Checks of isolators."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset
from kepler_core.errors import KeplerError
from kepler_core.testing.checks import CheckError, Subject, check_of, require
from kepler_core.testing.samples import small_context, small_dataset


def _context(subject: Subject) -> IsolationContext:
    given: IsolationContext | None = subject.given.get("context")
    return small_context() if given is None else given


def _isolated(subject: Subject, measured: Dataset) -> Dataset:
    found = subject.make().isolate(measured, _context(subject))
    require(
        isinstance(found, Dataset), f"isolate() returned {type(found).__name__}; return dataset.isolated(background)"
    )
    isolated: Dataset = found
    return isolated


@check_of(Isolator)
def gives_dynamic_power(subject: Subject) -> None:
    """An AbsPower data set in, a DynPower data set of the same kind out."""
    measured = small_dataset(by_container=True)
    found = _isolated(subject, measured)
    require(
        found.output_type == "DynPower",
        f"the result is a data set of {found.output_type}; return dataset.isolated(background), which says DynPower",
    )
    require(found.by_container, "the result has no rows by container; keep the rows that came in")
    require(len(found.frame), "no row is left of a data set that has dynamic power")
    require(
        (found.features, found.components, found.source) == (measured.features, measured.components, measured.source),
        "features, components and source of the result are not those that came in",
    )


@check_of(Isolator)
def is_never_negative(subject: Subject) -> None:
    """Dynamic power is at least 0 W, and a number."""
    found = _isolated(subject, small_dataset(by_container=True))
    watts = found.frame[found.power_columns].to_numpy()
    require(np.isfinite(watts).all(), "dynamic power is NaN or infinite in some rows")
    require((watts >= 0).all(), f"dynamic power is {watts.min():.3g} W somewhere; take away no more than there is")
    assert found.background is not None
    taken = found.background.to_numpy()
    require(np.isfinite(taken).all() and (taken >= 0).all(), "what was taken away is negative or NaN somewhere")


@check_of(Isolator)
def loses_no_power(subject: Subject) -> None:
    """Dynamic and background power add up to what was measured."""
    measured = small_dataset(by_container=True)
    found = _isolated(subject, measured)
    require(
        found.background is not None,
        "the result's background is not set, so nobody knows what was taken away; return dataset.isolated(background)",
    )
    assert found.background is not None
    dynamic = found.node_power()
    whole = measured.node_power().loc[dynamic.index, found.power_columns].to_numpy()
    again = dynamic.to_numpy() + found.background.loc[dynamic.index, found.power_columns].to_numpy()
    off = float(np.max(np.abs(again - whole)))
    require(off <= 1e-6 * whole.max(), f"dynamic + background is up to {off:.3g} W from what was measured")


@check_of(Isolator)
def can_be_undone(subject: Subject) -> None:
    """`reconstruct` gives the measured power back."""
    measured = small_dataset(by_container=True)
    found = _isolated(subject, measured)
    again = subject.make().reconstruct(found)
    require(again.output_type == "AbsPower", f"reconstruct() gave a data set of {again.output_type}, not AbsPower")
    power = again.node_power()
    off = float(np.max(np.abs(power.to_numpy() - measured.node_power().loc[power.index].to_numpy())))
    require(off <= 1e-6 * float(power.to_numpy().max()), f"reconstruct() is up to {off:.3g} W from what was measured")


@check_of(Isolator)
def keeps_features(subject: Subject) -> None:
    """Only power is taken away."""
    measured = small_dataset(by_container=True)
    found = _isolated(subject, measured)
    columns = list(measured.features)
    require(
        found.frame[columns].equals(measured.frame.loc[found.frame.index, columns]),
        "features of the rows have changed; an isolator changes power only",
    )


@check_of(Isolator)
def leaves_its_data_alone(subject: Subject) -> None:
    """The data set that came in is used by others, too."""
    measured = small_dataset(by_container=True)
    before = measured.frame.copy(deep=True)
    _isolated(subject, measured)
    require(before.equals(measured.frame), "isolate() changed the data set that it was given; work on a copy")


@check_of(Isolator)
def is_deterministic(subject: Subject) -> None:
    """The same data give the same result."""
    first, second = (_isolated(subject, small_dataset(by_container=True)) for _ in range(2))
    require(first.frame.equals(second.frame), "twice the same data set gave two results; use a fixed seed")


@check_of(Isolator)
def survives_power_that_never_changes(subject: Subject) -> None:
    """A component can be constant, or 0 W: it isolates, or says in words that it cannot."""
    for watts in (0.0, 50.0):
        measured = small_dataset(by_container=True)
        frame = measured.frame.copy()
        column = measured.power_columns[0]
        rows = np.bincount(measured.sample)[measured.sample]
        frame[column] = watts / rows
        try:
            found = _isolated(subject, _with_frame(measured, frame))
        except KeplerError as error:
            require(str(error).strip(), f"for constant power it raises {type(error).__name__} without a word")
            continue
        require(np.isfinite(found.frame[column].to_numpy()).all(), f"a constant {watts:g} W gives NaN or infinity")


@check_of(Isolator)
def survives_one_timestamp(subject: Subject) -> None:
    """With one timestamp it isolates, or says in words that it cannot."""
    measured = small_dataset(by_container=True)
    one = _with_frame(measured, measured.frame[measured.sample == 0])
    try:
        found = _isolated(subject, one)
    except (KeplerError, ValueError) as error:
        require(str(error).strip(), f"for one timestamp it raises {type(error).__name__} without a word")
        return
    except CheckError:
        raise
    require(np.isfinite(found.frame[found.power_columns].to_numpy()).all(), "one timestamp gives NaN or infinity")


def _with_frame(dataset: Dataset, frame: pd.DataFrame) -> Dataset:
    import attrs

    return attrs.evolve(dataset, frame=frame)
