"""What recordings say in our vocabulary: rates by container, watts by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.plugins import registry
from kepler_core.recording.counts import Counts

T = TypeVar("T")


class Once(Generic[T]):
    """Results by arrays: metrics of one exporter mostly have the same samples at the same times, and
    what is worked out for one of them holds for the others."""

    def __init__(self) -> None:
        self._known: list[tuple[tuple[NDArray[Any], ...], T]] = []

    def of(self, arrays: tuple[NDArray[Any], ...], work: Callable[[], T]) -> T:
        """The result for these arrays, worked out if it is not known yet."""
        for known, result in self._known:
            if all(len(a) == len(b) and (a is b or np.array_equal(a, b)) for a, b in zip(known, arrays, strict=True)):
                return result
        self._known.append((arrays, work()))
        return self._known[-1][1]

    @property
    def results(self) -> list[T]:
        return [result for _, result in self._known]


@attrs.frozen(order=True)
class Stream:
    """One node in one recording."""

    recording: str
    node: str


@attrs.frozen(eq=False)
class Observations:
    """Rates and watts of one or several recordings.

    An *instant* is a (stream, timestamp); a *row* a (stream, timestamp, container). Instants are
    sorted by stream and time, rows by instant and container. NaN is "not known".
    """

    streams: tuple[Stream, ...]
    instant_stream: IntArray
    """Index into `streams`, shape (instants,)."""
    instant_time: FloatArray
    """Unix seconds, shape (instants,)."""
    containers: tuple[str, ...]
    """Their ids."""
    container_names: tuple[str, ...]
    """What people call them, in the order of `containers`: namespace/pod/container; their ids where
    they have no names."""
    row_instant: IntArray
    """Index of the row's instant, shape (rows,), ascending."""
    row_container: IntArray
    """Index into `containers`, shape (rows,)."""
    container_features: Mapping[str, FloatArray]
    """Feature -> shape (rows,), per second."""
    node_features: Mapping[str, FloatArray]
    """Feature -> shape (instants,): sums over containers, and the node's own."""
    node_gauges: frozenset[str]
    """Features of the node that are no rates: the same for all of its containers, and no sum."""
    power: Mapping[tuple[str, str], FloatArray]
    """(energy source, component) -> watts, shape (instants,)."""
    step: float
    """Usual seconds between two timestamps."""
    counts: Counts
    schemas: tuple[str, ...]
    digest: str
    remembered: dict[str, Once[Any]] = attrs.field(factory=dict[str, Any], init=False, repr=False)
    """What data sets of the same observations have in common (`kepler_core.frames`)."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Energy source -> the components that there is power of, in the source's order."""
        found: dict[str, list[str]] = {}
        for (source, component), watts in self.power.items():
            if np.isfinite(watts).any():
                found.setdefault(source, []).append(component)
        return {
            source: tuple(c for c in registry.energy_sources.preferred(source).components if c in components)
            for source, components in sorted(found.items())
        }

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are known at one instant at least."""
        return tuple(sorted(f for f, values in self.node_features.items() if np.isfinite(values).any()))
