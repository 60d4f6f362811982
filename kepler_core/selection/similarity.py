"""The similarity of machines as selection uses it.

`kepler_profiler.similarity` implements these protocols. The servers and commands pass it in, because
`kepler_core` does not import the profiler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from kepler_core.arrays import FloatArray

Spec = Mapping[str, Any]
"""The attributes of a machine: processor, cores, chips, memory, frequency."""


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
    """Machine specs to compare other machines with (`kepler_profiler.similarity.SpecTable`)."""

    def similarities(self, spec: Spec) -> FloatArray:
        """Return the similarity of each spec in the table to `spec`, shape (specs,)."""

    def likeness(self, spec: Spec, row: int) -> SpecLikeness:
        """Return how similar one spec of the table is to `spec`, by attribute."""


def rounded_down(similarity: float, digits: int) -> float:
    """Round a similarity down for display, so that only equal machines show 1."""
    steps: int = 10**digits
    return math.floor(similarity * steps) / steps
