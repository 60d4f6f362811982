"""Protocols for the similarity of machines, by which selection chooses node types.

`kepler_profiler.similarity` implements these protocols. Servers and commands pass the implementation to
`Catalogue`, because `kepler_core` does not import `kepler_profiler`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from kepler_core.arrays import FloatArray

Spec = Mapping[str, Any]
"""The attributes of a machine: processor, cores, chips, memory (GiB), frequency (MHz)."""


class SpecLikeness(Protocol):
    """How similar two machines are (`kepler_profiler.similarity.Likeness`)."""

    @property
    def similarity(self) -> float: ...
    @property
    def looseness(self) -> float: ...
    @property
    def uncertainty(self) -> float: ...
    @property
    def attributes(self) -> Mapping[str, float | None]: ...


class SpecTable(Protocol):
    """A table of machines' specs, with which another spec is compared (`kepler_profiler.similarity.SpecTable`)."""

    def similarities(self, spec: Spec) -> FloatArray:
        """Return the similarity of each spec in the table to `spec`, shape (specs,)."""

    def likeness(self, spec: Spec, row: int) -> SpecLikeness:
        """Return how similar the spec in one row of the table is to `spec`, in total and for each attribute."""


def rounded_down(similarity: float, digits: int) -> float:
    """Round a similarity down for display, so that only equal machines have the similarity 1."""
    steps: int = 10**digits
    return math.floor(similarity * steps) / steps
